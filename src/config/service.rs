//! Services, reals and match rules, as a checked configuration has them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use super::Scheduler;
use crate::packet::{Ipv4Net, Mac};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub const fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        }
    }
}

/// One port, several in a row, or all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ports {
    pub first: u16,
    pub last: u16,
}

impl Ports {
    /// What LVS calls port 0.
    pub const ANY: Ports = Ports { first: 0, last: u16::MAX };

    pub const fn one(port: u16) -> Ports {
        Ports { first: port, last: port }
    }

    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    pub const fn is_any(self) -> bool {
        self.first == 0 && self.last == u16::MAX
    }

    /// The port, if it is a single one.
    pub const fn single(self) -> Option<u16> {
        if self.first == self.last { Some(self.first) } else { None }
    }

    pub const fn overlaps(self, other: Ports) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    pub const fn covers(self, other: Ports) -> bool {
        self.first <= other.first && other.last <= self.last
    }
}

/// `80`, `8000-8099`, and `0` for any.
impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.single() {
            _ if self.is_any() => write!(f, "0"),
            Some(port) => write!(f, "{port}"),
            None => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// The packets that a service is for; no two services have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Takes {
    /// Those to an address, or a network of addresses, at one port, several or all.
    Address { protocol: Protocol, address: IpAddr, prefix: u8, ports: Ports },
    /// Those that a match rule gives this mark.
    Mark(u32),
}

impl Takes {
    /// One address, one port: what most services are.
    pub fn exact(protocol: Protocol, address: impl Into<IpAddr>, port: u16) -> Takes {
        Takes::one_address(protocol, address, Ports::one(port))
    }

    pub fn one_address(protocol: Protocol, address: impl Into<IpAddr>, ports: Ports) -> Takes {
        let address = address.into();
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        Takes::Address { protocol, address, prefix, ports }
    }

    pub fn network(protocol: Protocol, net: Ipv4Net, ports: Ports) -> Takes {
        Takes::Address { protocol, address: net.network().into(), prefix: net.prefix, ports }
    }

    /// Its one address and one port; none for a service that takes several of either.
    pub fn as_exact(self) -> Option<(Protocol, IpAddr, u16)> {
        match self {
            Takes::Address { protocol, address, prefix, ports } => {
                let whole = if address.is_ipv4() { 32 } else { 128 };
                ports.single().filter(|_| prefix == whole).map(|port| (protocol, address, port))
            }
            Takes::Mark(_) => None,
        }
    }

    pub fn is_any_port(self) -> bool {
        matches!(self, Takes::Address { ports, .. } if ports.is_any())
    }

    /// The one port, or 0 when there are several: what its reals have in direct routing, as LVS lists them.
    pub fn port(self) -> u16 {
        match self {
            Takes::Address { ports, .. } => ports.single().unwrap_or(0),
            Takes::Mark(_) => 0,
        }
    }

    /// Its address, or the first of several; for a mark, which is no address, the unspecified one.
    pub fn address(self) -> IpAddr {
        match self {
            Takes::Address { address, .. } => address,
            Takes::Mark(_) => Ipv4Addr::UNSPECIFIED.into(),
        }
    }

    /// Its IPv4 address or addresses.
    pub fn net(self) -> Option<Ipv4Net> {
        match self {
            Takes::Address { address: IpAddr::V4(address), prefix, .. } => Some(Ipv4Net { address, prefix }),
            _ => None,
        }
    }

    /// As listings have it: `TCP`, `UDP`, `FWM`.
    pub const fn kind(self) -> &'static str {
        match self {
            Takes::Address { protocol, .. } => protocol.name(),
            Takes::Mark(_) => "FWM",
        }
    }

    /// The rest of it: `10.9.0.100:80`, `192.0.2.0/28:8000-8099`, `7`.
    pub fn place(self) -> String {
        match self {
            Takes::Mark(mark) => mark.to_string(),
            Takes::Address { address, prefix, ports, .. } => match address {
                IpAddr::V4(address) if prefix == 32 => format!("{address}:{ports}"),
                IpAddr::V4(address) => format!("{address}/{prefix}:{ports}"),
                IpAddr::V6(address) if prefix == 128 => format!("[{address}]:{ports}"),
                IpAddr::V6(address) => format!("[{address}]/{prefix}:{ports}"),
            },
        }
    }
}

/// `TCP 10.9.0.100:80`, `FWM 7`.
impl fmt::Display for Takes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.place())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    DirectRouting,
}

impl Forwarding {
    /// As `ipvsadm` prints it.
    pub const fn name(self) -> &'static str {
        match self {
            Forwarding::DirectRouting => "Route",
        }
    }
}

/// Clients stay with their real for a while after their last connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Persistence {
    pub seconds: u32,
    /// Of a client's address, the bits that count: clients in one such network are one client.
    pub prefix: u8,
}

impl Persistence {
    /// ipvsadm's, when only `-p` is said.
    pub const SECONDS: u32 = 360;

    /// None: each client by itself.
    pub fn mask(&self) -> Option<Ipv4Addr> {
        let net = Ipv4Net { address: Ipv4Addr::UNSPECIFIED, prefix: self.prefix };
        (self.prefix < 32).then(|| net.mask().into())
    }
}

/// What becomes of a connection whose real was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRemoved {
    /// It gets another real.
    #[default]
    Reschedule,
    /// The client is told.
    Reset,
    /// Silence, as the kernel's.
    Drop,
}

impl OnRemoved {
    pub const fn name(self) -> &'static str {
        match self {
            OnRemoved::Reschedule => "reschedule",
            OnRemoved::Reset => "reset",
            OnRemoved::Drop => "drop",
        }
    }
}

/// What becomes of a TCP packet in the middle of a connection that nobody knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnMiss {
    /// It goes where a hash of the client leads, as on every other director of the group.
    Hash,
    /// The client is told, as the kernel does.
    #[default]
    Reset,
    Drop,
}

impl OnMiss {
    pub const fn name(self) -> &'static str {
        match self {
            OnMiss::Hash => "hash",
            OnMiss::Reset => "reset",
            OnMiss::Drop => "drop",
        }
    }

    /// What a service has that says nothing of it.
    pub const fn of(scheduler: Scheduler) -> OnMiss {
        match scheduler {
            Scheduler::KernelMaglev(_) | Scheduler::Maglev => OnMiss::Hash,
            _ => OnMiss::Reset,
        }
    }
}

/// How a service treats its connections, beside choosing a real for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    pub persistence: Option<Persistence>,
    /// Each datagram is scheduled by itself.
    pub one_packet: bool,
    /// A client of a persistent service leaves a real whose weight became zero, as the kernel's
    /// `expire_quiescent_template` has it.
    pub expire_quiescent: bool,
    pub on_removed: OnRemoved,
    pub on_miss: OnMiss,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ServiceConfig {
    pub takes: Takes,
    pub scheduler: Scheduler,
    pub settings: Settings,
    /// In the order in which they were added.
    pub reals: Vec<RealConfig>,
}

impl ServiceConfig {
    /// ipvsadm's, when none is said.
    pub const SCHEDULER: Scheduler = Scheduler::WeightedLeastConnection;

    /// With everything else as it is by default.
    pub fn new(takes: Takes, scheduler: Scheduler, reals: Vec<RealConfig>) -> ServiceConfig {
        let settings = Settings { on_miss: OnMiss::of(scheduler), ..Settings::default() };
        ServiceConfig { takes, scheduler, settings, reals }
    }

    /// What listings print after the scheduler's name, as ipvsadm does: `(sh-port) persistent 300 ops`.
    pub fn flags(&self) -> String {
        let mut words = Vec::new();
        let flags: Vec<_> = self.scheduler.flags().collect();
        if !flags.is_empty() {
            words.push(format!("({})", flags.join(",")));
        }
        if let Some(persistence) = self.settings.persistence {
            words.push(format!("persistent {}", persistence.seconds));
            words.extend(persistence.mask().map(|mask| format!("mask {mask}")));
        }
        if self.settings.one_packet {
            words.push("ops".into());
        }
        words.join(" ")
    }

    /// What it does with clients of a drained real, with connections that lost theirs, and with packets of none, where
    /// that is not the default.
    pub fn manners(&self) -> String {
        let Settings { expire_quiescent, on_removed, on_miss, .. } = self.settings;
        let quiescent = expire_quiescent.then(|| "expire_quiescent".to_owned());
        let removed = (on_removed != OnRemoved::default()).then(|| format!("on_removed {}", on_removed.name()));
        let miss = (on_miss != OnMiss::of(self.scheduler)).then(|| format!("on_miss {}", on_miss.name()));
        quiescent.into_iter().chain(removed).chain(miss).collect::<Vec<_>>().join(" ")
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct RealConfig {
    pub address: Ipv4Addr,
    /// Direct routing cannot map ports: always the service's, 0 when that has several.
    pub port: u16,
    pub weight: u16,
    /// New connections end at so many, and begin again below so many; 0: never.
    pub upper: u32,
    pub lower: u32,
    pub forwarding: Forwarding,
    /// Given by hand: never asked for by ARP.
    pub mac: Option<Mac>,
}

/// Gives a mark to the packets that it matches; of several rules the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatchRule {
    pub mark: u32,
    pub source: Ipv4Net,
    pub destination: Ipv4Net,
    /// The packet's destination.
    pub ports: Ports,
    /// None: TCP and UDP.
    pub protocol: Option<Protocol>,
    /// The port that the packet came in by, by its place in the configuration.
    pub ingress: Option<usize>,
    pub source_mac: Option<MacMatch>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacMatch {
    Is(Mac),
    IsNot(Mac),
}

impl MacMatch {
    pub fn takes(self, mac: Mac) -> bool {
        match self {
            MacMatch::Is(wanted) => mac == wanted,
            MacMatch::IsNot(unwanted) => mac != unwanted,
        }
    }
}

impl MatchRule {
    /// Everything that is TCP or UDP.
    pub fn any(mark: u32) -> MatchRule {
        let everywhere = Ipv4Net { address: Ipv4Addr::UNSPECIFIED, prefix: 0 };
        MatchRule {
            mark,
            source: everywhere,
            destination: everywhere,
            ports: Ports::ANY,
            protocol: None,
            ingress: None,
            source_mac: None,
        }
    }

    /// Whether some packet can match both.
    pub fn overlaps(&self, other: &MatchRule) -> bool {
        let macs = match (self.source_mac, other.source_mac) {
            (Some(MacMatch::Is(one)), Some(two)) | (Some(two), Some(MacMatch::Is(one))) => two.takes(one),
            _ => true,
        };
        self.source.overlaps(other.source)
            && self.destination.overlaps(other.destination)
            && self.ports.overlaps(other.ports)
            && meet(self.protocol, other.protocol)
            && meet(self.ingress, other.ingress)
            && macs
    }

    /// Whether every packet that matches `other` matches this too.
    pub fn covers(&self, other: &MatchRule) -> bool {
        let macs = match (self.source_mac, other.source_mac) {
            (None, _) => true,
            (Some(mine), Some(MacMatch::Is(mac))) => mine.takes(mac),
            (mine, theirs) => mine == theirs,
        };
        self.source.covers(other.source)
            && self.destination.covers(other.destination)
            && self.ports.covers(other.ports)
            && (self.protocol.is_none() || self.protocol == other.protocol)
            && (self.ingress.is_none() || self.ingress == other.ingress)
            && macs
    }
}

fn meet<T: PartialEq>(one: Option<T>, two: Option<T>) -> bool {
    one.is_none() || two.is_none() || one == two
}

/// Seconds, as `ipvsadm --set` sets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Of an established connection.
    pub tcp: u32,
    /// After the client's FIN.
    pub tcp_fin: u32,
    pub udp: u32,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts { tcp: 900, tcp_fin: 120, udp: 300 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_overlap_and_cover_as_their_packets_do() {
        let mac = |last| Mac([2, 0, 0, 0, 0, last]);
        let any = MatchRule::any(1);
        let web = MatchRule { ports: Ports::one(80), protocol: Some(Protocol::Tcp), ..any.clone() };
        let dns = MatchRule { ports: Ports::one(53), protocol: Some(Protocol::Udp), ..any.clone() };
        assert!(any.covers(&web) && !web.covers(&any) && web.overlaps(&any) && !web.overlaps(&dns));
        let from = |which| MatchRule { source_mac: Some(which), ..any.clone() };
        let (one, two) = (from(MacMatch::Is(mac(1))), from(MacMatch::Is(mac(2))));
        let not_one = from(MacMatch::IsNot(mac(1)));
        assert!(!one.overlaps(&two) && !one.overlaps(&not_one) && not_one.overlaps(&two));
        assert!(not_one.covers(&two) && !not_one.covers(&one) && !two.covers(&not_one));
        let near = MatchRule { source: "10.1.0.0/16".parse().unwrap(), ..any.clone() };
        let nearer = MatchRule { source: "10.1.2.0/24".parse().unwrap(), ..any };
        assert!(near.covers(&nearer) && !nearer.covers(&near) && nearer.overlaps(&near));
    }
}
