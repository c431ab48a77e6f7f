//! The steps of a scenario, and their text: edits are `ipvsadm`'s own words, so that a line can be tried by hand.

use std::collections::HashSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use super::packet::{Kind, Packet};

/// How far time is set forward by a pause, in seconds. Between pauses it stands still. The kernel's timers may be late by
/// an eighth, and a template outlives its last connection by up to a minute: no timeout that a scenario uses ends so late
/// that another pause is needed than if it were on time.
pub const PAUSE: u64 = 220;
/// Timeouts that keep to this rule.
pub const TIMEOUTS: [u32; 7] = [30, 60, 100, 120, 300, 360, 900];
/// And those of connections, which a template may outlive.
pub const TIMEOUTS_OF_CONNECTIONS: [u32; 6] = [30, 60, 100, 120, 300, 900];

pub const SCHEDULERS: [&str; 13] =
    ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh"];

/// The director's wire is the same in all scenarios: these addresses are its own, beside 10.9.0.10.
pub const VIPS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 9, 0, 100), Ipv4Addr::new(10, 9, 0, 101)];
/// All of 10.9.1.0/24 is the director's too, and what is for it has this mark.
pub const MARK_OF_NETWORK: u32 = 7;
/// What is for this port or one of the nine after it of the second VIP, by TCP or UDP, has this mark.
pub const MARKED_PORT: u16 = 8000;
pub const MARK_OF_PORTS: u32 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    Tcp(Ipv4Addr, u16),
    Udp(Ipv4Addr, u16),
    Mark(u32),
}

#[derive(Clone, Debug, PartialEq)]
pub struct ServiceSpec {
    pub key: Key,
    pub scheduler: String,
    /// `sh-port,sh-fallback`, or nothing.
    pub flags: String,
    pub persistent: Option<u32>,
    /// Prefix length; 32 unless said.
    pub mask: u8,
    pub one_packet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RealSpec {
    /// Its address is 10.9.0.10 plus this.
    pub number: u8,
    pub weight: u32,
    pub upper: u32,
    pub lower: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    AddService(ServiceSpec),
    ChangeService(ServiceSpec),
    DeleteService(Key),
    AddReal(Key, RealSpec),
    ChangeReal(Key, RealSpec),
    DeleteReal(Key, u8),
    /// TCP, TCP after FIN, UDP; zero leaves it.
    Timeouts(u32, u32, u32),
    Sysctl(Sysctl, bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sysctl {
    ExpireNodestConn,
    ExpireQuiescentTemplate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    Services,
    Connections,
    Stats,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Packet(Packet),
    Edit(Edit),
    /// The way to a real carries packets of so many bytes at most.
    Mtu(u8, u16),
    List(Listing),
    /// To the next multiple of `PAUSE`.
    Pause,
}

impl Key {
    pub fn port(self) -> u16 {
        match self {
            Key::Tcp(_, port) | Key::Udp(_, port) => port,
            Key::Mark(_) => 0,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Key::Tcp(address, port) => write!(to, "-t {address}:{port}"),
            Key::Udp(address, port) => write!(to, "-u {address}:{port}"),
            Key::Mark(mark) => write!(to, "-f {mark}"),
        }
    }
}

impl fmt::Display for ServiceSpec {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        write!(to, "{} -s {}", self.key, self.scheduler)?;
        if !self.flags.is_empty() {
            write!(to, " -b {}", self.flags)?;
        }
        if let Some(seconds) = self.persistent {
            write!(to, " -p {seconds} -M {}", Ipv4Addr::from_bits(mask_bits(self.mask)))?;
        }
        to.write_str(if self.one_packet { " -o" } else { "" })
    }
}

pub fn mask_bits(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

pub fn real_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 9, 0, 10 + number)
}

struct RealOf(Key, RealSpec);

impl fmt::Display for RealOf {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        let RealOf(key, RealSpec { number, weight, upper, lower }) = *self;
        write!(to, "{key} -r {}:{} -g -w {weight}", real_address(number), key.port())?;
        if upper > 0 || lower > 0 { write!(to, " -x {upper} -y {lower}") } else { Ok(()) }
    }
}

impl fmt::Display for Edit {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Edit::AddService(service) => write!(to, "-A {service}"),
            Edit::ChangeService(service) => write!(to, "-E {service}"),
            Edit::DeleteService(key) => write!(to, "-D {key}"),
            Edit::AddReal(key, real) => write!(to, "-a {}", RealOf(*key, *real)),
            Edit::ChangeReal(key, real) => write!(to, "-e {}", RealOf(*key, *real)),
            Edit::DeleteReal(key, number) => write!(to, "-d {key} -r {}:{}", real_address(*number), key.port()),
            Edit::Timeouts(tcp, fin, udp) => write!(to, "--set {tcp} {fin} {udp}"),
            Edit::Sysctl(which, on) => write!(to, "sysctl {} {}", which.name(), u8::from(*on)),
        }
    }
}

impl Sysctl {
    pub fn name(self) -> &'static str {
        match self {
            Sysctl::ExpireNodestConn => "expire_nodest_conn",
            Sysctl::ExpireQuiescentTemplate => "expire_quiescent_template",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Step::Packet(packet) => packet.fmt(to),
            Step::Edit(edit) => edit.fmt(to),
            Step::Mtu(real, mtu) => write!(to, "mtu {real} {mtu}"),
            Step::List(Listing::Services) => to.write_str("list services"),
            Step::List(Listing::Connections) => to.write_str("list connections"),
            Step::List(Listing::Stats) => to.write_str("list stats"),
            Step::Pause => to.write_str("pause"),
        }
    }
}

impl FromStr for Step {
    type Err = String;

    fn from_str(line: &str) -> Result<Step, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let step = match *words.first().ok_or("an empty line")? {
            "pause" => Some(Step::Pause),
            "mtu" => mtu(&words),
            "list" => match words.get(1).copied() {
                Some("services") => Some(Step::List(Listing::Services)),
                Some("connections") => Some(Step::List(Listing::Connections)),
                Some("stats") => Some(Step::List(Listing::Stats)),
                _ => None,
            },
            "sysctl" => [Sysctl::ExpireNodestConn, Sysctl::ExpireQuiescentTemplate]
                .into_iter()
                .find(|which| words.get(1) == Some(&which.name()))
                .map(|which| Step::Edit(Edit::Sysctl(which, words.get(2) == Some(&"1")))),
            word if word.starts_with('-') => edit(&words).map(Step::Edit),
            _ => line.parse().ok().map(Step::Packet),
        };
        step.ok_or_else(|| format!("no step: {line}"))
    }
}

fn mtu(words: &[&str]) -> Option<Step> {
    Some(Step::Mtu(words.get(1)?.parse().ok()?, words.get(2)?.parse().ok()?))
}

fn edit(words: &[&str]) -> Option<Edit> {
    let after = |option: &str| {
        let at = words.iter().position(|word| *word == option)?;
        words.get(at + 1).copied()
    };
    if words[0] == "--set" {
        let seconds = |at: usize| words.get(at)?.parse().ok();
        return Some(Edit::Timeouts(seconds(1)?, seconds(2)?, seconds(3)?));
    }
    let place = |text: &str| {
        let (address, port) = text.split_once(':')?;
        Some((address.parse::<Ipv4Addr>().ok()?, port.parse::<u16>().ok()?))
    };
    let key = if let Some(text) = after("-t") {
        place(text).map(|(address, port)| Key::Tcp(address, port))?
    } else if let Some(text) = after("-u") {
        place(text).map(|(address, port)| Key::Udp(address, port))?
    } else {
        Key::Mark(after("-f")?.parse().ok()?)
    };
    let number = |option: &str| after(option).map_or(Some(0), |text| text.parse::<u32>().ok());
    let real = || {
        let (address, _) = place(after("-r")?)?;
        let number_of_real = address.octets()[3].checked_sub(10)?;
        Some(RealSpec { number: number_of_real, weight: number("-w")?, upper: number("-x")?, lower: number("-y")? })
    };
    let service = || {
        let mask = after("-M").map_or(Some(32), |mask| Some(mask.parse::<Ipv4Addr>().ok()?.to_bits().count_ones()))?;
        Some(ServiceSpec {
            key,
            scheduler: after("-s")?.to_owned(),
            flags: after("-b").unwrap_or_default().to_owned(),
            persistent: after("-p").and_then(|seconds| seconds.parse().ok()),
            mask: mask as u8,
            one_packet: words.contains(&"-o"),
        })
    };
    match words[0] {
        "-A" => Some(Edit::AddService(service()?)),
        "-E" => Some(Edit::ChangeService(service()?)),
        "-D" => Some(Edit::DeleteService(key)),
        "-a" => Some(Edit::AddReal(key, real()?)),
        "-e" => Some(Edit::ChangeReal(key, real()?)),
        "-d" => Some(Edit::DeleteReal(key, real()?.number)),
        _ => None,
    }
}

/// What a subject has to know for a step. A subject that does not yet is not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Capability {
    /// Changes after the first packet.
    Edits,
    /// A SYN of a conversation that has begun before.
    Reuse,
    /// A packet whose time to live is used up, of a conversation that goes on after it.
    UsedUp,
    /// Other schedulers than rr and wrr.
    Schedulers,
    Persistence,
    OnePacket,
    Thresholds,
    AnyPort,
    Marks,
    Timeouts,
    Sysctls,
    Listings,
    /// An echo request, answered.
    Echo,
    /// An ICMP error about a flow, sent on to its real.
    ErrorsIn,
    /// RST to what has no connection.
    Resets,
    /// ICMP errors of the director's own.
    ErrorsOut,
}

impl Capability {
    pub const ALL: [Capability; 16] = {
        use Capability::*;
        [
            Edits,
            Reuse,
            UsedUp,
            Schedulers,
            Persistence,
            OnePacket,
            Thresholds,
            AnyPort,
            Marks,
            Timeouts,
            Sysctls,
            Listings,
            Echo,
            ErrorsIn,
            Resets,
            ErrorsOut,
        ]
    };
}

/// What the steps need. `Resets` and `ErrorsOut` are no step's need but an answer's: see `compare::lowered`.
pub fn needs(steps: &[Step]) -> Vec<Capability> {
    let first_packet = steps.iter().position(|step| !matches!(step, Step::Edit(_))).unwrap_or(steps.len());
    let mut needs: Vec<Capability> = steps.iter().flat_map(needs_of).collect();
    if steps[first_packet..].iter().any(|step| matches!(step, Step::Edit(_))) {
        needs.push(Capability::Edits);
    }
    let mut begun = HashSet::new();
    let again = |step: &Step| {
        let Step::Packet(packet) = step else { return false };
        let Kind::Tcp(flags) = packet.kind else { return false };
        flags & 2 != 0 && !begun.insert((packet.source, packet.destination))
    };
    needs.extend(steps.iter().any(again).then_some(Capability::Reuse));
    needs.extend(is_used_up_and_goes_on(steps).then_some(Capability::UsedUp));
    needs.sort();
    needs.dedup();
    needs
}

fn is_used_up_and_goes_on(steps: &[Step]) -> bool {
    let packets: Vec<&Packet> =
        steps.iter().filter_map(|step| if let Step::Packet(packet) = step { Some(packet) } else { None }).collect();
    let of_one = |one: &Packet, other: &Packet| (one.source, one.destination) == (other.source, other.destination);
    packets
        .iter()
        .filter(|packet| packet.ttl == 1 && packet.need().is_none())
        .any(|packet| packets.iter().filter(|other| of_one(packet, other)).count() > 1)
}

fn needs_of(step: &Step) -> Vec<Capability> {
    let of_key = |key: &Key| match key {
        Key::Mark(_) => Some(Capability::Marks),
        Key::Tcp(_, 0) | Key::Udp(_, 0) => Some(Capability::AnyPort),
        _ => None,
    };
    match step {
        Step::Packet(packet) => packet.need().into_iter().collect(),
        Step::List(_) => vec![Capability::Listings],
        Step::Pause | Step::Mtu(..) => Vec::new(),
        Step::Edit(Edit::AddService(service) | Edit::ChangeService(service)) => {
            let schedulers = !matches!(&*service.scheduler, "rr" | "wrr");
            let others = [
                schedulers.then_some(Capability::Schedulers),
                service.persistent.map(|_| Capability::Persistence),
                service.one_packet.then_some(Capability::OnePacket),
                of_key(&service.key),
            ];
            others.into_iter().flatten().collect()
        }
        Step::Edit(Edit::AddReal(_, real) | Edit::ChangeReal(_, real)) => {
            (real.upper > 0).then_some(Capability::Thresholds).into_iter().collect()
        }
        Step::Edit(Edit::DeleteService(_) | Edit::DeleteReal(..)) => Vec::new(),
        Step::Edit(Edit::Timeouts(..)) => vec![Capability::Timeouts],
        Step::Edit(Edit::Sysctl(..)) => vec![Capability::Sysctls],
    }
}

/// Which steps may end a connection at once: another packet of a conversation whose real may be gone, a SYN of one that has
/// begun before; and the removal of a real, if that ends its connections.
pub fn what_ends_connections(steps: &[Step]) -> Vec<bool> {
    let (mut begun, mut expires) = (HashSet::new(), false);
    let ends = |step: &Step| match step {
        Step::Edit(Edit::Sysctl(Sysctl::ExpireNodestConn, on)) => {
            expires |= on;
            false
        }
        Step::Edit(Edit::DeleteReal(..) | Edit::DeleteService(_)) => expires,
        Step::Packet(packet) => {
            let known = !begun.insert((packet.source, packet.destination));
            known && (expires || matches!(packet.kind, Kind::Tcp(flags) if flags & 2 != 0))
        }
        _ => false,
    };
    steps.iter().map(ends).collect()
}
