//! Which service a packet is for, where one look at address, port and protocol does not tell: marks, ranges of ports,
//! networks of virtual addresses, any port.
//!
//! What no rule can touch is not here but in the hot table (`lookup.rs`): a service found there is the answer, and a
//! packet pays for all of this only when it is not found there.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::snapshot::ServiceId;
use crate::config::{MatchRule, Ports, Takes};
use crate::packet::Mac;

/// All that a rule may ask of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// The destination's.
    pub port: u16,
    pub protocol: u8,
    /// The director's port that it came in by.
    pub ingress: u8,
    pub source_mac: Mac,
}

/// The service of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub service: ServiceId,
    /// It takes several addresses, ports or protocols: its flows differ by them, and are in the wide table (where those
    /// of IPv6 are in any case).
    pub wide: bool,
}

/// Services come from the configuration and not from whoever sends packets: their hash needs no secret.
#[derive(Clone, Copy, Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

type Map<K, V> = HashMap<K, V, BuildHasherDefault<Mixer>>;

#[derive(Debug, Default)]
pub struct Rules {
    /// In the order in which they are tried; those whose mark no service has are left out.
    marks: Box<[(MatchRule, ServiceId)]>,
    /// Networks of one prefix length each, the longest first.
    v4: Vec<Level>,
    v6: Vec<Level>,
    /// The single addresses that are virtual because a rule has them as its destination.
    destinations: HashSet<IpAddr>,
}

#[derive(Debug)]
struct Level {
    prefix: u8,
    /// By the network's first address and the protocol.
    places: Map<(u128, u8), Places>,
    networks: HashSet<u128>,
}

/// The services of one network and protocol, by port.
#[derive(Debug, Default)]
struct Places {
    /// In the order of the ports, none twice.
    single: Vec<(u16, Found)>,
    /// In the order of their first ports, none overlapping.
    ranges: Vec<(Ports, Found)>,
    any: Option<Found>,
}

impl Places {
    fn find(&self, port: u16) -> Option<Found> {
        let single = self.single.binary_search_by_key(&port, |(port, _)| *port);
        let single = single.ok().and_then(|place| self.single.get(place)).map(|(_, found)| *found);
        let range = || {
            let behind = self.ranges.partition_point(|(ports, _)| ports.first <= port);
            let (ports, found) = self.ranges.get(behind.checked_sub(1)?)?;
            ports.contains(port).then_some(*found)
        };
        single.or_else(range).or(self.any)
    }
}

impl Rules {
    /// Divides the services: those that no rule can touch are left for the hot table, and returned.
    /// `apart` says which of them have to be here all the same.
    pub fn build(
        services: &[(Takes, ServiceId)],
        rules: &[MatchRule],
        apart: impl Fn(ServiceId) -> bool,
    ) -> (Rules, Vec<(IpAddr, u16, u8, ServiceId)>) {
        let marked: HashMap<u32, ServiceId> = services
            .iter()
            .filter_map(|(takes, id)| match takes {
                Takes::Mark(mark) => Some((*mark, *id)),
                Takes::Address { .. } => None,
            })
            .collect();
        let live = rules.iter().filter_map(|rule| Some((rule.clone(), *marked.get(&rule.mark)?)));
        let marks: Box<[_]> = live.collect();
        let mut hot = Vec::new();
        let mut cold = Vec::new();
        for (takes, id) in services {
            match takes.as_exact() {
                Some((protocol, address, port))
                    if !apart(*id) && !marks.iter().any(|(rule, _)| touches(rule, *takes)) =>
                {
                    hot.push((address, port, protocol.number(), *id));
                }
                exact => cold.push((*takes, Found { service: *id, wide: exact.is_none() })),
            }
        }
        let single = marks.iter().filter(|(rule, _)| rule.destination.prefix == 32);
        let destinations = single.map(|(rule, _)| rule.destination.address.into()).collect();
        let of_family = |v4: bool| {
            levels(
                cold.iter()
                    .filter(|(takes, _)| matches!(takes, Takes::Address { address, .. } if address.is_ipv4() == v4)),
            )
        };
        let (v4, v6) = (of_family(true), of_family(false));
        (Rules { marks, v4, v6, destinations }, hot)
    }

    /// Nothing is here: what the hot table does not know, nobody does.
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty() && self.v4.is_empty() && self.v6.is_empty()
    }

    /// The kernel's order: by mark; then the address with the port, with a range, with any port. Of networks, the one
    /// with the longest prefix that takes the packet.
    pub fn find(&self, asked: &Asked) -> Option<Found> {
        let marked = self.marks.iter().find(|(rule, _)| matches(rule, asked));
        if let Some((_, service)) = marked {
            return Some(Found { service: *service, wide: true });
        }
        let (levels, bits) = self.levels(asked.destination);
        levels.iter().find_map(|level| {
            let network = bits & mask(level.prefix);
            level.places.get(&(network, asked.protocol)).and_then(|places| places.find(asked.port))
        })
    }

    pub fn is_virtual(&self, address: IpAddr) -> bool {
        let (levels, bits) = self.levels(address);
        let in_network = |level: &Level| level.networks.contains(&(bits & mask(level.prefix)));
        levels.iter().any(in_network) || self.destinations.contains(&address)
    }

    fn levels(&self, address: IpAddr) -> (&[Level], u128) {
        let levels = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        (levels, bits(address))
    }
}

/// An address from its first bit on.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(Ipv4Addr::to_bits(address)) << 96,
        IpAddr::V6(address) => Ipv6Addr::to_bits(address),
    }
}

const fn mask(prefix: u8) -> u128 {
    match u128::MAX.checked_shl(128 - prefix as u32) {
        Some(mask) => mask,
        None => 0,
    }
}

fn levels<'a>(services: impl Iterator<Item = &'a (Takes, Found)>) -> Vec<Level> {
    let mut levels: Vec<Level> = Vec::new();
    for (takes, found) in services {
        let Takes::Address { protocol, address, prefix, ports } = *takes else { continue };
        let at = levels.iter().position(|level| level.prefix == prefix).unwrap_or_else(|| {
            levels.push(Level { prefix, places: Map::default(), networks: HashSet::new() });
            levels.len() - 1
        });
        let network = bits(address) & mask(prefix);
        levels[at].networks.insert(network);
        let places = levels[at].places.entry((network, protocol.number())).or_default();
        match ports.single() {
            _ if ports.is_any() => places.any = Some(*found),
            Some(port) => places.single.push((port, *found)),
            None => places.ranges.push((ports, *found)),
        }
    }
    levels.sort_by_key(|level| std::cmp::Reverse(level.prefix));
    for places in levels.iter_mut().flat_map(|level| level.places.values_mut()) {
        places.single.sort_by_key(|(port, _)| *port);
        places.ranges.sort_by_key(|(ports, _)| ports.first);
    }
    levels
}

fn matches(rule: &MatchRule, asked: &Asked) -> bool {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (asked.source, asked.destination) else { return false };
    rule.destination.contains(destination)
        && rule.ports.contains(asked.port)
        && rule.source.contains(source)
        && rule.protocol.is_none_or(|protocol| protocol.number() == asked.protocol)
        && rule.ingress.is_none_or(|port| port == usize::from(asked.ingress))
        && rule.source_mac.is_none_or(|wanted| wanted.takes(asked.source_mac))
}

/// Whether a packet for this one address and port can match the rule.
fn touches(rule: &MatchRule, takes: Takes) -> bool {
    match takes {
        Takes::Address { protocol, address: IpAddr::V4(address), ports, .. } => {
            rule.destination.contains(address)
                && rule.ports.overlaps(ports)
                && rule.protocol.is_none_or(|wanted| wanted == protocol)
        }
        _ => false,
    }
}
