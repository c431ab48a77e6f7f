//! (virtual address, port, protocol) → service, and: is this a virtual address? Open addressing in two flat arrays that
//! stay in the first caches; built once for a snapshot.

use std::net::Ipv4Addr;

use super::ServiceId;

/// Entries are at most half of the places, so that a miss ends soon.
fn places_for(entries: usize) -> usize {
    (entries * 2).next_power_of_two().max(8)
}

fn spread(key: u64) -> usize {
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize
}

#[derive(Debug)]
pub struct ServiceLookup {
    places: Box<[(u64, Option<ServiceId>)]>,
    addresses: Box<[Option<Ipv4Addr>]>,
}

const fn service_key(address: Ipv4Addr, port: u16, protocol: u8) -> u64 {
    (address.to_bits() as u64) << 32 | (port as u64) << 16 | protocol as u64
}

impl ServiceLookup {
    /// The caller has seen that no two services have the same address, port and protocol.
    pub fn build(services: impl Iterator<Item = (Ipv4Addr, u16, u8, ServiceId)> + Clone) -> ServiceLookup {
        let count = services.clone().count();
        let mut places = vec![(0, None); places_for(count)].into_boxed_slice();
        let mut addresses = vec![None; places_for(count)].into_boxed_slice();
        let mask = places.len() - 1;
        for (address, port, protocol, id) in services {
            let key = service_key(address, port, protocol);
            let mut at = spread(key) & mask;
            while places[at].1.is_some() {
                at = (at + 1) & mask;
            }
            places[at] = (key, Some(id));

            let mut at = spread(address.to_bits().into()) & mask;
            while addresses[at].is_some_and(|other| other != address) {
                at = (at + 1) & mask;
            }
            addresses[at] = Some(address);
        }
        ServiceLookup { places, addresses }
    }

    pub fn find(&self, address: Ipv4Addr, port: u16, protocol: u8) -> Option<ServiceId> {
        let key = service_key(address, port, protocol);
        let mask = self.places.len() - 1;
        let mut at = spread(key) & mask;
        loop {
            match self.places[at] {
                (found, Some(id)) if found == key => return Some(id),
                (_, None) => return None,
                _ => at = (at + 1) & mask,
            }
        }
    }

    /// Whether some service has this address.
    pub fn is_virtual(&self, address: Ipv4Addr) -> bool {
        let mask = self.addresses.len() - 1;
        let mut at = spread(address.to_bits().into()) & mask;
        loop {
            match self.addresses[at] {
                Some(found) if found == address => return true,
                None => return false,
                _ => at = (at + 1) & mask,
            }
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
            let lookup = ServiceLookup::build(model.iter().map(|((a, p, proto), id)| (Ipv4Addr::from(*a), *p, *proto, id.unwrap())));
            for (address, port, protocol) in model.keys().copied().chain(asked) {
                let expected = model.get(&(address, port, protocol)).copied().flatten();
                prop_assert_eq!(lookup.find(address.into(), port, protocol), expected);
                prop_assert_eq!(lookup.is_virtual(address.into()), addresses.contains(&address));
            }
        }
    }
}
