//! What lblc and lblcr remember of an address: a map of bounded size, all of it allocated at the start.

use std::net::IpAddr;

use crate::clock::TICKS_PER_SECOND;
use crate::service::maglev::{address_bits, mix};

/// A cache has room for so many addresses at most. The kernel begins to clear its own when it has more.
pub const MOST_ADDRESSES: usize = 16_384;
/// Who is not used for so long is forgotten,
pub(super) const DAY: u32 = 24 * 60 * 60 * TICKS_PER_SECOND;
/// at the next of the kernel's rounds, every half hour from the service's beginning.
const ROUND: u32 = 30 * 60 * TICKS_PER_SECOND;
/// Of so many the one that was not used for longest gives way.
const LOOKED_AT: usize = 16;

#[derive(Clone, Copy, Debug)]
struct Entry<V> {
    address: IpAddr,
    used: u32,
    value: V,
}

/// Open addressing; at most half of the places are taken.
#[derive(Clone, Debug)]
pub(super) struct Cache<V> {
    places: Box<[Option<Entry<V>>]>,
    taken: usize,
    most: usize,
    began: u32,
    seed: u64,
    /// Where the search for who gives way goes on.
    hand: usize,
}

impl<V: Copy> Cache<V> {
    pub fn new(addresses: usize, seed: u64, tick: u32) -> Cache<V> {
        let most = addresses.clamp(1, MOST_ADDRESSES);
        let places = vec![None; (most * 2).next_power_of_two()].into();
        Cache { places, taken: 0, most, began: tick, seed, hand: 0 }
    }

    #[cfg(test)]
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.places.iter().flatten().map(|entry| &entry.value)
    }

    pub fn most(&self) -> usize {
        self.most
    }

    /// What is remembered, and now was used.
    pub fn touch(&mut self, address: IpAddr, tick: u32) -> Option<&mut V> {
        let place = self.probe(address);
        let began = self.began;
        let entry = self.places[place].as_mut().filter(|entry| !is_over(began, entry.used, tick))?;
        entry.used = tick;
        Some(&mut entry.value)
    }

    /// Remembers. What it replaces, or what gave way to it, comes back.
    pub fn put(&mut self, address: IpAddr, tick: u32, value: V) -> Option<V> {
        let entry = Entry { address, used: tick, value };
        let place = self.probe(address);
        if let Some(old) = self.places[place].replace(entry) {
            return Some(old.value);
        }
        self.taken += 1;
        if self.taken <= self.most { None } else { self.make_way(address, tick) }
    }

    /// The place of the address, or the free one where it belongs.
    fn probe(&self, address: IpAddr) -> usize {
        let mut place = self.home(address);
        while self.places[place].is_some_and(|entry| entry.address != address) {
            place = self.after(place);
        }
        place
    }

    fn home(&self, address: IpAddr) -> usize {
        mix(address_bits(address) ^ self.seed) as usize & (self.places.len() - 1)
    }

    fn after(&self, place: usize) -> usize {
        (place + 1) & (self.places.len() - 1)
    }

    /// Somebody goes, but not the newcomer.
    fn make_way(&mut self, newcomer: IpAddr, tick: u32) -> Option<V> {
        let mut oldest: Option<(usize, u32)> = None;
        let mut looked_at = 0;
        for _ in 0..self.places.len() {
            self.hand = self.after(self.hand);
            let Some(entry) = self.places[self.hand].filter(|entry| entry.address != newcomer) else { continue };
            let idle = tick.wrapping_sub(entry.used);
            if oldest.is_none_or(|(_, longest)| idle > longest) {
                oldest = Some((self.hand, idle));
            }
            looked_at += 1;
            if looked_at == LOOKED_AT {
                break;
            }
        }
        oldest.and_then(|(place, _)| self.remove(place))
    }

    /// Those behind it that could not have their own place move up.
    fn remove(&mut self, place: usize) -> Option<V> {
        let gone = self.places[place].take()?;
        self.taken -= 1;
        let (mut free, mut next) = (place, self.after(place));
        while let Some(entry) = self.places[next] {
            let mask = self.places.len() - 1;
            let from_home = next.wrapping_sub(self.home(entry.address)) & mask;
            if from_home >= next.wrapping_sub(free) & mask {
                self.places.swap(free, next);
                free = next;
            }
            next = self.after(next);
        }
        Some(gone.value)
    }
}

/// A round came by when it had not been used for a day.
fn is_over(began: u32, used: u32, tick: u32) -> bool {
    let last_round = tick.wrapping_sub(began) / ROUND * ROUND;
    u64::from(last_round) >= u64::from(used.wrapping_sub(began)) + u64::from(DAY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::net::Ipv4Addr;

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x0a09_0100 + number).into()
    }

    proptest! {
        #[test]
        fn does_what_a_map_does_and_forgets_only_when_full(
            most in 1usize..40, steps in proptest::collection::vec((0u32..60, any::<bool>()), 1..400)
        ) {
            let mut cache = Cache::new(most, 7, 0);
            let mut map: HashMap<u32, usize> = HashMap::new();
            for (tick, (number, puts)) in steps.into_iter().enumerate() {
                if puts {
                    let was = map.insert(number, tick);
                    let gone = cache.put(address(number), tick as u32, tick);
                    match (was, map.len() > most) {
                        (Some(was), _) => prop_assert_eq!(gone, Some(was)),
                        (None, false) => prop_assert_eq!(gone, None),
                        (None, true) => {
                            let who = map.iter().find(|(_, value)| Some(**value) == gone).map(|(who, _)| *who);
                            prop_assert!(who.is_some_and(|who| who != number || most == 0));
                            map.remove(&who.unwrap());
                        }
                    }
                } else {
                    prop_assert_eq!(cache.touch(address(number), tick as u32).copied(), map.get(&number).copied());
                }
                prop_assert_eq!(cache.taken, map.len());
            }
        }
    }

    #[test]
    fn who_was_used_last_stays() {
        let mut cache = Cache::new(LOOKED_AT, 7, 0);
        for number in 0..LOOKED_AT as u32 {
            cache.put(address(number), number, number);
        }
        cache.touch(address(0), 100);
        assert_eq!(cache.put(address(99), 101, 99), Some(1), "the one that was idle longest");
        assert_eq!(cache.touch(address(0), 102).copied(), Some(0));
    }

    #[test]
    fn a_day_ends_at_the_next_round() {
        let second = TICKS_PER_SECOND;
        let mut cache = Cache::new(4, 7, 1000);
        cache.put(address(1), 1000 + second, 1);
        assert_eq!(cache.clone().touch(address(1), 1000 + DAY + second), Some(&mut 1), "no round since its day ended");
        assert_eq!(cache.clone().touch(address(1), 1000 + DAY + ROUND - 1), Some(&mut 1));
        assert_eq!(cache.touch(address(1), 1000 + DAY + ROUND), None);
    }
}
