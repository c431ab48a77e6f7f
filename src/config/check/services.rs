//! The rules of `[[service]]` and `[[service.real]]`. A service by itself is checked by `check_one`, whoever wants it:
//! the file or an edit; what several services have to do with each other is the file's here, and `edit.rs`'s there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::ports::{Ports as Stations, network, no_host_of};
use super::words::{parse_place, parse_real_address};
use super::{Seen, choice, no_host, number, place, station};
use crate::config::error::Mistakes;
use crate::config::raw::{RawPersistence, RawReal, RawService, Text, shown};
use crate::config::{
    Forwarding, Limits, MatchRule, NoScheduler, OnMiss, OnRemoved, Persistence, Ports, Protocol, RealConfig, Scheduler,
    ServiceConfig, Settings, Takes,
};
use crate::packet::Ipv4Net;

/// ipvsadm's, 31 days.
const LONGEST_PERSISTENCE: i64 = 2_678_400;
/// A kernel's counts are signed.
const MOST_CONNECTIONS: i64 = i32::MAX as i64;
/// The shortest prefix of virtual addresses.
const WIDEST: u8 = 8;

pub(super) fn check(
    raw: &[RawService],
    rules: &[MatchRule],
    ports: &Stations,
    mistakes: &mut Mistakes,
) -> Vec<Arc<ServiceConfig>> {
    if too_many(raw, mistakes) {
        return Vec::new();
    }
    let mut services = Vec::with_capacity(raw.len());
    let mut claims = Claims::default();
    for (index, raw) in raw.iter().enumerate() {
        let path = format!("service[{index}]");
        let Some(service) = check_one(&path, raw, ports, mistakes) else { continue };
        let (at, key) = (takes_place(raw), format!("{path}.{}", takes_key(raw)));
        if let Some(clash) = claims.claim(service.takes, at) {
            let line = mistakes.line(clash.at);
            mistakes.add(at, key, clash.message(service.takes, &format!("line {line}")));
        }
        services.push(Arc::new(service));
    }
    let virtual_addresses = VirtualAddresses::of(&services, rules);
    for (service, raw) in raw.iter().enumerate() {
        for (index, real) in raw.reals.iter().enumerate() {
            let path = format!("service[{service}].real[{index}]");
            real_is_not_virtual(&path, real, |address| virtual_addresses.holder(address), mistakes);
        }
    }
    services
}

fn too_many(raw: &[RawService], mistakes: &mut Mistakes) -> bool {
    const MOST: usize = Limits::MOST;
    let reals: usize = raw.iter().map(|service| service.reals.len()).sum();
    if let Some(first_too_many) = raw.get(MOST) {
        let message = format!("{} services are not allowed: at most {MOST}", raw.len());
        mistakes.add(first_too_many.at, "service", message);
    }
    if reals > MOST {
        let first_too_many = raw.iter().flat_map(|service| &service.reals).nth(MOST);
        let message = format!("{reals} reals in all services together are not allowed: at most {MOST}");
        mistakes.add(first_too_many.map_or(0, |real| real.at), "service.real", message);
    }
    raw.len() > MOST || reals > MOST
}

/// A service by itself; `path` is what messages call it.
pub(in crate::config) fn check_one(
    path: &str,
    raw: &RawService,
    ports: &Stations,
    mistakes: &mut Mistakes,
) -> Option<ServiceConfig> {
    let takes = takes(path, raw, ports, mistakes);
    let scheduler = scheduler(path, raw, mistakes);
    let persistence = persistence(path, raw, mistakes);
    let key = |name: &str| format!("{path}.{name}");
    let removed = [("reschedule", OnRemoved::Reschedule), ("reset", OnRemoved::Reset), ("drop", OnRemoved::Drop)];
    let miss = [("hash", OnMiss::Hash), ("reset", OnMiss::Reset), ("drop", OnMiss::Drop)];
    let settings = Settings {
        persistence,
        one_packet: raw.one_packet.as_ref().is_some_and(|switch| *switch.get_ref()),
        expire_quiescent: raw.expire_quiescent.as_ref().is_some_and(|switch| *switch.get_ref()),
        on_removed: choice(&raw.on_removed, &key("on_removed"), &removed, OnRemoved::default(), mistakes),
        on_miss: choice(&raw.on_miss, &key("on_miss"), &miss, OnMiss::of(scheduler), mistakes),
    };
    let forward = [("dr", Forwarding::DirectRouting)];
    let forwarding = choice(&raw.forward, &key("forward"), &forward, Forwarding::DirectRouting, mistakes);
    // The port decides what the reals' addresses may be; without one they are not looked at.
    let takes = takes?;
    what_goes_together(path, raw, takes, &settings, mistakes);
    let mut seen = Seen::default();
    let mut reals = Vec::with_capacity(raw.reals.len());
    for (index, raw) in raw.reals.iter().enumerate() {
        let path = format!("{path}.real[{index}]");
        let Some(real) = check_real(&path, raw, takes, forwarding, ports, mistakes) else { continue };
        seen.add(real.address, real.address, place(&raw.address), &format!("{path}.address"), mistakes);
        reals.push(real);
    }
    Some(ServiceConfig { takes, scheduler, settings, reals })
}

fn what_goes_together(path: &str, raw: &RawService, takes: Takes, settings: &Settings, mistakes: &mut Mistakes) {
    if takes.is_any_port() && settings.persistence.is_none() && raw.persistent.is_none() {
        let message = format!(
            "{} is not allowed: port 0 is any port, and then a client's connections have to stay together: \
             persistent = {}, or a service by mark",
            takes.place(),
            Persistence::SECONDS
        );
        mistakes.add(takes_place(raw), format!("{path}.{}", takes_key(raw)), message);
    }
    if settings.expire_quiescent && settings.persistence.is_none() && raw.persistent.is_none() {
        let at = raw.expire_quiescent.as_ref().map_or(raw.at, |switch| switch.span().start);
        let message = "true is not allowed: only beside persistent, whose clients otherwise stay with their server";
        mistakes.add(at, format!("{path}.expire_quiescent"), message);
    }
    if settings.one_packet && matches!(takes, Takes::Address { protocol: Protocol::Tcp, .. }) {
        let at = raw.one_packet.as_ref().map_or(raw.at, |switch| switch.span().start);
        let message = "true is not allowed: only for udp and mark; a TCP connection is more than one packet";
        mistakes.add(at, format!("{path}.one_packet"), message);
    }
}

fn takes_key(raw: &RawService) -> &'static str {
    match raw {
        RawService { tcp: Some(_), .. } => "tcp",
        RawService { udp: Some(_), .. } => "udp",
        _ => "mark",
    }
}

fn takes_place(raw: &RawService) -> usize {
    let text = raw.tcp.as_ref().or(raw.udp.as_ref()).map(|text| text.span().start);
    text.or(raw.mark.as_ref().map(|mark| mark.span().start)).unwrap_or(raw.at)
}

const ADDRESS: &str = "a virtual address with its port, such as \"10.9.0.100:80\"";

/// What the service is for.
pub(in crate::config) fn takes(
    path: &str,
    raw: &RawService,
    ports: &Stations,
    mistakes: &mut Mistakes,
) -> Option<Takes> {
    let given = [
        ("tcp", raw.tcp.as_ref().map(|text| text.span().start)),
        ("udp", raw.udp.as_ref().map(|text| text.span().start)),
        ("mark", raw.mark.as_ref().map(|mark| mark.span().start)),
    ];
    let mut given = given.into_iter().filter_map(|(key, at)| Some((key, at?)));
    let Some((first, _)) = given.next() else {
        mistakes.add(raw.at, path, format!("no address: tcp or udp, {ADDRESS}, or mark"));
        return None;
    };
    if let Some((other, at)) = given.next() {
        mistakes.add(at, format!("{path}.{other}"), format!("not allowed beside {first}: exactly one of them"));
        return None;
    }
    let key = format!("{path}.{first}");
    match first {
        "tcp" => virtual_address(Protocol::Tcp, &raw.tcp, &key, ports, mistakes),
        "udp" => virtual_address(Protocol::Udp, &raw.udp, &key, ports, mistakes),
        _ => Some(Takes::Mark(number(&raw.mark, &key, 1..=u32::MAX.into(), 1, mistakes) as u32)),
    }
}

fn virtual_address(
    protocol: Protocol,
    text: &Text,
    key: &str,
    ports: &Stations,
    mistakes: &mut Mistakes,
) -> Option<Takes> {
    let written = text.as_ref()?.get_ref();
    let (net, its_ports) = match parse_place(written) {
        Ok(found) => found,
        Err(reason) => {
            let reason = reason.unwrap_or_else(|| ADDRESS.into());
            mistakes.add(place(text), key, format!("{} is not allowed: {reason}", shown(written)));
            return None;
        }
    };
    let takes = Takes::network(protocol, net, its_ports);
    if let Some(fault) = net_fault(net, ports) {
        mistakes.add(place(text), key, format!("{written} is not allowed: {fault}"));
    }
    Some(takes)
}

fn net_fault(net: Ipv4Net, ports: &Stations) -> Option<String> {
    if net.prefix < WIDEST {
        return Some(format!("a network of virtual addresses has a prefix length of {WIDEST} to 32"));
    }
    if net.network() != net.address {
        return Some(format!("a network is written with its first address, {}", network(net)));
    }
    virtual_fault(net, ports)
}

/// Why these cannot be virtual addresses.
pub(super) fn virtual_fault(net: Ipv4Net, ports: &Stations) -> Option<String> {
    if let Some(what) = no_host(net.address) {
        return Some(format!("an address that one host can have, not {what}"));
    }
    let own = if net.prefix == 32 { "an address of its own" } else { "addresses of their own" };
    ports.all.iter().find_map(|port| {
        if net.contains(port.address.address) {
            let one = if net.prefix == 32 { "this one".into() } else { port.address.address.to_string() };
            Some(format!("{own}, and port \"{}\" has {one} for itself", port.name))
        } else if port.gateway.is_some_and(|gateway| net.contains(gateway)) {
            let one = port.gateway.filter(|_| net.prefix < 32).map_or("this".into(), |gateway| gateway.to_string());
            Some(format!("{own}, and {one} is the gateway of port \"{}\"", port.name))
        } else {
            no_host_of(port.address, net.address)
                .filter(|_| net.prefix == 32)
                .map(|what| format!("an address that one host can have, not {what}"))
        }
    })
}

fn scheduler(path: &str, raw: &RawService, mistakes: &mut Mistakes) -> Scheduler {
    let name = raw.scheduler.as_ref().map_or(ServiceConfig::SCHEDULER.name(), |name| name.get_ref());
    let flags = raw.flags.as_ref().map_or("", |flags| flags.get_ref());
    let flags = flags.split(',').map(str::trim).filter(|flag| !flag.is_empty());
    Scheduler::parse(name, flags).unwrap_or_else(|reason| {
        let (key, text) = match reason {
            NoScheduler::Name(_) => ("scheduler", &raw.scheduler),
            NoScheduler::Flag { .. } | NoScheduler::FlagTwice(_) => ("flags", &raw.flags),
        };
        mistakes.add(place(text), format!("{path}.{key}"), reason.to_string());
        ServiceConfig::SCHEDULER
    })
}

fn persistence(path: &str, raw: &RawService, mistakes: &mut Mistakes) -> Option<Persistence> {
    let seconds = match raw.persistent.as_ref().map(|given| (*given.get_ref(), given.span())) {
        None | Some((RawPersistence::Switch(false), _)) => None,
        Some((RawPersistence::Switch(true), _)) => Some(Persistence::SECONDS),
        Some((RawPersistence::Seconds(seconds), span)) => {
            let given = Some(toml::Spanned::new(span, seconds));
            let key = format!("{path}.persistent");
            Some(number(&given, &key, 1..=LONGEST_PERSISTENCE, Persistence::SECONDS.into(), mistakes) as u32)
        }
    };
    let prefix = netmask(path, raw, seconds.is_some(), mistakes);
    seconds.map(|seconds| Persistence { seconds, prefix })
}

fn netmask(path: &str, raw: &RawService, persistent: bool, mistakes: &mut Mistakes) -> u8 {
    const WHOLE: u8 = 32;
    let Some(written) = &raw.netmask else { return WHOLE };
    let text = written.get_ref();
    let mask = text.parse::<Ipv4Addr>().map(u32::from).ok();
    let prefix = mask.filter(|mask| *mask != 0 && mask.leading_ones() + mask.trailing_zeros() == u32::BITS);
    let fault = match prefix {
        None => "a mask such as \"255.255.255.0\": ones, and then zeros",
        Some(_) if !persistent => "only beside persistent, whose clients it puts together",
        Some(mask) => return mask.leading_ones() as u8,
    };
    mistakes.add(written.span().start, format!("{path}.netmask"), format!("{} is not allowed: {fault}", shown(text)));
    WHOLE
}

/// A real by itself, of a service that takes this.
pub(in crate::config) fn check_real(
    path: &str,
    raw: &RawReal,
    takes: Takes,
    forwarding: Forwarding,
    ports: &Stations,
    mistakes: &mut Mistakes,
) -> Option<RealConfig> {
    let key = |name: &str| format!("{path}.{name}");
    let weight = number(&raw.weight, &key("weight"), 0..=65_535, 1, mistakes) as u16;
    let upper = number(&raw.upper, &key("upper"), 0..=MOST_CONNECTIONS, 0, mistakes) as u32;
    let lower = number(&raw.lower, &key("lower"), 0..=MOST_CONNECTIONS, 0, mistakes) as u32;
    if lower > upper {
        let at = raw.lower.as_ref().map_or(raw.at, |lower| lower.span().start);
        let message = match upper {
            0 => format!("{lower} is not allowed: only beside upper, which says where new connections end"),
            _ => format!("{lower} is not allowed: at most upper, {upper}; new connections begin again below lower"),
        };
        mistakes.add(at, key("lower"), message);
    }
    let mac = real_mac(raw, &key("mac"), ports, mistakes);
    let address = real_address(raw, &key("address"), takes.port(), mistakes)?;
    if let Some(fault) = real_fault(address, ports) {
        mistakes.add(place(&raw.address), key("address"), format!("{address} is not allowed: {fault}"));
    }
    Some(RealConfig { address, port: takes.port(), weight, upper, lower, forwarding, mac })
}

pub(in crate::config) fn real_address(
    raw: &RawReal,
    key: &str,
    service_port: u16,
    mistakes: &mut Mistakes,
) -> Option<Ipv4Addr> {
    const ALLOWED: &str = "a server's address such as \"10.9.0.11\"";
    let Some(written) = &raw.address else {
        mistakes.add(raw.at, key, format!("missing: {ALLOWED}"));
        return None;
    };
    let text = written.get_ref();
    let Some((address, port)) = parse_real_address(text) else {
        mistakes.add(written.span().start, key, format!("{} is not allowed: {ALLOWED}", shown(text)));
        return None;
    };
    if port.is_some_and(|port| port != service_port) {
        let port = match service_port {
            0 => "no port: the service takes several".into(),
            port => format!("port {port}, as the service has it"),
        };
        let message = format!(
            "{} is not allowed: {port}; direct routing leaves packets as they are and cannot map ports",
            shown(text)
        );
        mistakes.add(written.span().start, key, message);
    }
    Some(address)
}

fn real_mac(raw: &RawReal, key: &str, ports: &Stations, mistakes: &mut Mistakes) -> Option<crate::packet::Mac> {
    let mac = station(&raw.mac, key, mistakes)?;
    if let Some(port) = ports.all.iter().find(|port| port.mac == Some(mac)) {
        let message = format!("{mac} is not allowed: the server's own, and port \"{}\" has this one", port.name);
        mistakes.add(place(&raw.mac), key, message);
    }
    Some(mac)
}

fn real_fault(address: Ipv4Addr, ports: &Stations) -> Option<String> {
    if let Some(what) = no_host(address) {
        return Some(format!("an address that one host can have, not {what}"));
    }
    let Some(port) = ports.all.iter().find(|port| port.address.contains(address)) else {
        let networks: Vec<_> =
            ports.all.iter().map(|port| format!("{} (port \"{}\")", network(port.address), port.name)).collect();
        let fault = "direct routing reaches only servers in a port's own network";
        return ports.complete.then(|| format!("an address in {}; {fault}", networks.join(" or ")));
    };
    if port.address.address == address {
        return Some(format!("a server's own address, and port \"{}\" has this one", port.name));
    }
    no_host_of(port.address, address).map(|what| format!("an address that one host can have, not {what}"))
}

/// A real server with the virtual address for its own would be sent its own packets for ever.
pub(in crate::config) fn real_is_not_virtual(
    path: &str,
    raw: &RawReal,
    is_virtual: impl Fn(Ipv4Addr) -> Option<Holder>,
    mistakes: &mut Mistakes,
) {
    let Some(text) = &raw.address else { return };
    let address = parse_real_address(text.get_ref()).map(|(address, _)| address);
    if let Some((address, holder)) = address.and_then(|address| Some((address, is_virtual(address)?))) {
        let message = format!("{address} is not allowed: a server's own address, and {holder}");
        mistakes.add(text.span().start, format!("{path}.address"), message);
    }
}

/// By what an address is virtual.
#[derive(Clone, Copy)]
pub(in crate::config) enum Holder {
    Service(Takes),
    /// With its mark.
    Rule(u32),
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Holder::Service(takes) => write!(f, "{takes} is a service"),
            Holder::Rule(mark) => write!(f, "a match rule for mark {mark} has it as its destination"),
        }
    }
}

/// All virtual addresses, and by what they are.
pub(in crate::config) fn virtual_networks(
    services: &[Arc<ServiceConfig>],
    rules: &[MatchRule],
) -> impl Iterator<Item = (Ipv4Net, Holder)> {
    let rules = rules.iter().filter(|rule| rule.destination.prefix == 32);
    let of_services =
        services.iter().filter_map(|service| Some((service.takes.net()?, Holder::Service(service.takes))));
    of_services.chain(rules.map(|rule| (rule.destination, Holder::Rule(rule.mark))))
}

/// The same, to look up many.
#[derive(Default)]
struct VirtualAddresses {
    nets: HashMap<Ipv4Net, Holder>,
    prefixes: HashSet<u8>,
}

impl VirtualAddresses {
    fn of(services: &[Arc<ServiceConfig>], rules: &[MatchRule]) -> VirtualAddresses {
        let mut all = VirtualAddresses::default();
        for (net, holder) in virtual_networks(services, rules) {
            all.prefixes.insert(net.prefix);
            all.nets.entry(net).or_insert(holder);
        }
        all
    }

    fn holder(&self, address: Ipv4Addr) -> Option<Holder> {
        let in_network = |prefix: &u8| self.nets.get(&network(Ipv4Net { address, prefix: *prefix })).copied();
        self.prefixes.iter().find_map(in_network)
    }
}

/// Who has claimed what, to find two services that are for the same packets and equally exact about them.
#[derive(Default)]
struct Claims {
    whole: HashMap<Takes, usize>,
    /// Ranges of ports that do not overlap, by their first port.
    ranges: HashMap<(Protocol, IpAddr, u8), Ranges>,
}

type Ranges = BTreeMap<u16, (Takes, usize)>;

struct Clash {
    with: Takes,
    at: usize,
}

impl Claims {
    fn claim(&mut self, takes: Takes, at: usize) -> Option<Clash> {
        if let Some(at) = self.whole.get(&takes) {
            return Some(Clash { with: takes, at: *at });
        }
        self.whole.insert(takes, at);
        let Takes::Address { protocol, address, prefix, ports } = takes else { return None };
        if ports.is_any() || ports.single().is_some() {
            return None;
        }
        let ranges = self.ranges.entry((protocol, address, prefix)).or_default();
        let before = ranges.range(..=ports.last).next_back();
        let clash = before.filter(|(_, (other, _))| clashes(takes, *other));
        let clash = clash.map(|(_, (with, at))| Clash { with: *with, at: *at });
        if clash.is_none() {
            ranges.insert(ports.first, (takes, at));
        }
        clash
    }
}

impl Clash {
    fn message(&self, takes: Takes, whence: &str) -> String {
        clash_message(takes, self.with, whence)
    }
}

/// Whether some packet is for both, and neither is more exact: the longer prefix is, and then one port, then several.
pub(in crate::config) fn clashes(one: Takes, two: Takes) -> bool {
    let several = |ports: Ports| !ports.is_any() && ports.single().is_none();
    match (one, two) {
        (
            Takes::Address { protocol, address, prefix, ports },
            Takes::Address { protocol: its_protocol, address: its_address, prefix: its_prefix, ports: its_ports },
        ) if (protocol, address, prefix) == (its_protocol, its_address, its_prefix) => {
            ports == its_ports || several(ports) && several(its_ports) && ports.overlaps(its_ports)
        }
        _ => one == two,
    }
}

/// `whence`: where the other one is.
pub(in crate::config) fn clash_message(takes: Takes, with: Takes, whence: &str) -> String {
    if takes == with {
        format!("{takes} is not allowed twice: {whence} has it already")
    } else {
        format!("{takes} is not allowed: {whence} has {with}, and ports in both would be for either; ranges apart")
    }
}
