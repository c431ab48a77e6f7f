//! (virtual address, port, protocol) → service, and: is this a virtual address? Open addressing in two flat arrays that
//! stay in the first caches; built once for a snapshot.

use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::ServiceId;

/// Something to look up by.
trait Key: Copy + Eq + Hash {
    fn bits(&self) -> u64;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place<A> {
    address: A,
    port: u16,
    protocol: u8,
}

impl Key for Ipv4Addr {
    #[inline(always)]
    fn bits(&self) -> u64 {
        self.to_bits().into()
    }
}

impl Key for Ipv6Addr {
    #[inline(always)]
    fn bits(&self) -> u64 {
        let bits = self.to_bits();
        (bits >> 64) as u64 ^ (bits as u64).rotate_left(23)
    }
}

impl<A: Key> Key for Place<A> {
    #[inline(always)]
    fn bits(&self) -> u64 {
        self.address.bits() << 24 ^ u64::from(self.port) << 8 ^ u64::from(self.protocol)
    }
}

/// Open addressing; at most half of the places are taken, so that a miss ends soon.
#[derive(Clone, Debug)]
struct Table<K, V> {
    places: Arc<[Option<(K, V)>]>,
    /// The places' number less one: a mask.
    last: usize,
}

impl<K: Key, V: Copy> Table<K, V> {
    /// The first of several entries with the same key stays.
    fn build(entries: impl Iterator<Item = (K, V)>) -> Table<K, V> {
        let entries: Vec<_> = entries.collect();
        let mut places: Vec<Option<(K, V)>> = vec![None; (entries.len() * 2).next_power_of_two().max(8)];
        let last = places.len() - 1;
        for (key, value) in entries {
            let at = probe(&places, last, &key);
            places[at].get_or_insert((key, value));
        }
        Table { places: places.into(), last }
    }

    #[inline(always)]
    fn find(&self, key: &K) -> Option<V> {
        self.places[probe(&self.places, self.last, key)].map(|(_, value)| value)
    }
}

/// Where the key is, or else the free place where it would be.
#[inline(always)]
fn probe<K: Key, V>(places: &[Option<(K, V)>], last: usize, key: &K) -> usize {
    let mut at = (key.bits().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & last;
    while places[at].as_ref().is_some_and(|(found, _)| found != key) {
        at = (at + 1) & last;
    }
    at
}

/// An IPv4 place as one word; never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct PlaceV4(u64);

impl PlaceV4 {
    #[inline(always)]
    const fn new(address: Ipv4Addr, port: u16, protocol: u8) -> PlaceV4 {
        PlaceV4((address.to_bits() as u64) << 24 | (port as u64) << 8 | protocol as u64)
    }
}

impl Key for PlaceV4 {
    #[inline(always)]
    fn bits(&self) -> u64 {
        self.0
    }
}

/// Cheap to clone: a snapshot with the same services has the same tables.
#[derive(Clone, Debug)]
pub struct ServiceLookup {
    v4: Table<PlaceV4, ServiceId>,
    v6: Table<Place<Ipv6Addr>, ServiceId>,
    addresses_v4: Table<Ipv4Addr, ()>,
    addresses_v6: Table<Ipv6Addr, ()>,
}

impl ServiceLookup {
    /// The caller has seen that no two services have the same address, port and protocol.
    pub fn build(services: impl Iterator<Item = (IpAddr, u16, u8, ServiceId)> + Clone) -> ServiceLookup {
        let v4 = services.clone().filter_map(|(address, port, protocol, id)| match address {
            IpAddr::V4(address) => Some((PlaceV4::new(address, port, protocol), id)),
            IpAddr::V6(_) => None,
        });
        let v6 = services.filter_map(|(address, port, protocol, id)| match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some((Place { address, port, protocol }, id)),
        });
        ServiceLookup {
            addresses_v4: Table::build(v4.clone().map(|(place, _)| (Ipv4Addr::from_bits((place.0 >> 24) as u32), ()))),
            addresses_v6: Table::build(v6.clone().map(|(place, _)| (place.address, ()))),
            v4: Table::build(v4),
            v6: Table::build(v6),
        }
    }

    #[inline(always)]
    pub fn find_v4(&self, address: Ipv4Addr, port: u16, protocol: u8) -> Option<ServiceId> {
        self.v4.find(&PlaceV4::new(address, port, protocol))
    }

    #[inline(always)]
    pub fn find_v6(&self, address: Ipv6Addr, port: u16, protocol: u8) -> Option<ServiceId> {
        self.v6.find(&Place { address, port, protocol })
    }

    pub fn find(&self, address: IpAddr, port: u16, protocol: u8) -> Option<ServiceId> {
        match address {
            IpAddr::V4(address) => self.find_v4(address, port, protocol),
            IpAddr::V6(address) => self.find_v6(address, port, protocol),
        }
    }

    /// Whether some service has this address.
    pub fn is_virtual(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.addresses_v4.find(&address).is_some(),
            IpAddr::V6(address) => self.addresses_v6.find(&address).is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{HashMap, HashSet};

    proptest! {
        #[test]
        fn finds_what_a_map_finds(
            services in proptest::collection::hash_map((0u32..64, 0u16..4, prop_oneof![Just(6u8), Just(17u8)]), any::<()>(), 0..200),
            asked in proptest::collection::vec((0u32..80, 0u16..5, prop_oneof![Just(6u8), Just(17u8)]), 100),
        ) {
            let model: HashMap<_, _> = services.into_keys().zip((1u16..).map(ServiceId::from_number)).collect();
            let addresses: HashSet<u32> = model.keys().map(|key| key.0).collect();
            let services = model.iter().map(|((address, port, protocol), id)| {
                let (v4, v6) = (Ipv4Addr::from(*address), Ipv6Addr::from(u128::from(*address) << 64 | 1));
                let address = if address % 2 == 0 { IpAddr::V4(v4) } else { IpAddr::V6(v6) };
                (address, *port, *protocol, id.unwrap())
            });
            let lookup = ServiceLookup::build(services);
            for (address, port, protocol) in model.keys().copied().chain(asked) {
                let expected = model.get(&(address, port, protocol)).copied().flatten();
                let (v4, v6) = (Ipv4Addr::from(address), Ipv6Addr::from(u128::from(address) << 64 | 1));
                let (is_v4, is_v6) = (address % 2 == 0, address % 2 == 1);
                prop_assert_eq!(lookup.find_v4(v4, port, protocol), expected.filter(|_| is_v4));
                prop_assert_eq!(lookup.find_v6(v6, port, protocol), expected.filter(|_| is_v6));
                let known = addresses.contains(&address);
                prop_assert_eq!(lookup.is_virtual(v4.into()), known && is_v4);
                prop_assert_eq!(lookup.is_virtual(v6.into()), known && is_v6);
            }
        }
    }
}
