//! Maglev's lookup table: a hash chooses a real, evenly by weight, and few choices change when a real goes or comes.
//! For the scheduler of that name, and where there is no state to go by.

use std::net::IpAddr;

/// Primes, so that every step visits every place.
const SIZES: [usize; 5] = [251, 1021, 4093, 16_381, LARGE];
const LARGE: usize = 65_537;
/// Places for each real, at least.
const PLACES_EACH: usize = 16;

#[derive(Debug, Default)]
pub struct Maglev(Box<[u16]>);

impl Maglev {
    /// As small as will do, for services that seldom need one. `reals` are numbers with what tells each real apart for
    /// all directors (its address and port) and its weight; those of weight zero get no place.
    pub fn build(reals: &[(u16, u64, u16)]) -> Maglev {
        let wanted = reals.iter().filter(|(_, _, weight)| *weight > 0).count() * PLACES_EACH;
        Maglev::fill(SIZES.into_iter().find(|size| *size >= wanted).unwrap_or(LARGE), 0, reals)
    }

    /// 65,537 places: evener, and fewer choices change. The same table for the same `seed`, which a group of directors
    /// shares.
    pub fn large(seed: u64, reals: &[(u16, u64, u16)]) -> Maglev {
        Maglev::fill(LARGE, seed, reals)
    }

    fn fill(size: usize, seed: u64, reals: &[(u16, u64, u16)]) -> Maglev {
        let mut reals: Vec<_> = reals.iter().filter(|(_, _, weight)| *weight > 0).collect();
        // Who was added first must not matter.
        reals.sort_unstable_by_key(|(_, name, _)| *name);
        let Some(greatest) = reals.iter().map(|(_, _, weight)| *weight).max() else { return Maglev::default() };
        let mut places: Vec<Option<u16>> = vec![None; size];
        let mut walks: Vec<_> =
            reals.iter().map(|(number, name, weight)| Walk::new(*number, name ^ mix(seed), *weight, size)).collect();
        let mut left = size;
        while left > 0 {
            for walk in &mut walks {
                // Who weighs half takes a place every other round.
                walk.credit += u32::from(walk.weight);
                if walk.credit < u32::from(greatest) || left == 0 {
                    continue;
                }
                walk.credit -= u32::from(greatest);
                while places[walk.at].is_some() {
                    walk.at = (walk.at + walk.step) % size;
                }
                places[walk.at] = Some(walk.number);
                left -= 1;
            }
        }
        Maglev(places.into_iter().flatten().collect())
    }

    /// None: there is nobody to choose.
    #[inline]
    pub fn choose(&self, hash: u64) -> Option<u16> {
        let place = ((u128::from(hash) * self.0.len() as u128) >> 64) as usize;
        self.0.get(place).copied()
    }
}

/// A real's own order of all places.
struct Walk {
    number: u16,
    weight: u16,
    credit: u32,
    at: usize,
    step: usize,
}

impl Walk {
    fn new(number: u16, name: u64, weight: u16, size: usize) -> Walk {
        let at = mix(name ^ 0x9e37_79b9_7f4a_7c15) as usize % size;
        let step = mix(name ^ 0xd1b5_4a32_d192_ed03) as usize % (size - 1) + 1;
        Walk { number, weight, credit: 0, at, step }
    }
}

/// What tells a real apart on every director.
pub fn name_of(address: IpAddr, port: u16) -> u64 {
    mix(address_bits(address)) ^ u64::from(port)
}

/// A client's place among all, the same on every director.
pub fn client_hash(address: IpAddr, port: u16) -> u64 {
    match address {
        IpAddr::V4(address) => mix(u64::from(address.to_bits()) << 16 | u64::from(port)),
        IpAddr::V6(_) => mix(name_of(address, port)),
    }
}

pub fn address_bits(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => mix((address.to_bits() >> 64) as u64) ^ address.to_bits() as u64,
    }
}

/// Every bit of the input moves every bit of the output; the same on every director.
pub fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    bits = (bits ^ (bits >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    bits ^ (bits >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(maglev: &Maglev, reals: usize) -> Vec<usize> {
        let mut shares = vec![0; reals];
        maglev.0.iter().for_each(|number| shares[usize::from(*number)] += 1);
        shares
    }

    #[test]
    fn places_go_by_weight() {
        let maglev = Maglev::build(&[(0, 11, 3), (1, 12, 2), (2, 13, 1), (3, 14, 0)]);
        let shares = shares(&maglev, 4);
        assert_eq!(shares.iter().sum::<usize>(), 251);
        for (share, expected) in shares.iter().zip([251.0 / 2.0, 251.0 / 3.0, 251.0 / 6.0, 0.0]) {
            assert!((*share as f64 - expected).abs() <= 1.5, "{shares:?}");
        }
        assert_eq!(Maglev::build(&[(0, 1, 0)]).choose(7), None);
    }

    /// The share of the flows that were on reals that stay and yet move, when the first of `reals` leave.
    fn moved(reals: u16, leave: usize, seed: u64, build: impl Fn(u64, &[(u16, u64, u16)]) -> Maglev) -> f64 {
        let reals: Vec<_> = (0..reals)
            .map(|number| (number, name_of([10, 9, (number >> 8) as u8, number as u8].into(), 80), 1))
            .collect();
        let (all, without) = (build(seed, &reals), build(seed, &reals[leave..]));
        let clients = (0..200_000u32)
            .map(|number| client_hash([10, 1, (number >> 8) as u8, number as u8].into(), 1024 + (number >> 16) as u16));
        let (mut stayed, mut moved) = (0, 0);
        for hash in clients {
            let (before, after) = (all.choose(hash).unwrap(), without.choose(hash).unwrap());
            if usize::from(before) >= leave {
                stayed += 1;
                moved += usize::from(before != after);
            }
        }
        moved as f64 / f64::from(stayed)
    }

    /// Whoever was on a real that leaves must move; this is about all others.
    #[test]
    fn few_choices_change_when_reals_go() {
        for (reals, leave, most) in [(32, 1, 0.015), (100, 10, 0.05)] {
            let worst = (0..4).map(|seed| moved(reals, leave, seed, Maglev::large)).fold(0.0, f64::max);
            let small = moved(reals, leave, 0, |_, reals| Maglev::build(reals));
            println!(
                "{leave} of {reals} leave: {:.2} % of the others' flows move ({:.2} % by the small table)",
                worst * 100.0,
                small * 100.0
            );
            assert!(worst < most, "{leave} of {reals}: {worst}");
            assert!(small < 0.10, "{leave} of {reals}, small: {small}");
        }
    }

    #[test]
    fn the_large_table_is_even_to_one_place_in_a_hundred() {
        for reals in [3u16, 32, 100] {
            let entries: Vec<_> =
                (0..reals).map(|number| (number, name_of([10, 9, 0, number as u8].into(), 80), 1)).collect();
            let shares = shares(&Maglev::large(9, &entries), reals.into());
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            assert!(most - least <= 1, "{reals} reals: {least} to {most}");
        }
        let weighted = shares(&Maglev::large(9, &[(0, 11, 65_535), (1, 12, 1), (2, 13, 32_768)]), 3);
        assert!(weighted[1] <= 1 && weighted[0].abs_diff(2 * weighted[2]) <= 4, "{weighted:?}");
    }

    #[test]
    fn a_group_agrees_and_another_group_does_not() {
        let reals: Vec<_> = (0..8).map(|number| (number, u64::from(number), 1)).collect();
        assert_eq!(Maglev::large(1, &reals).0, Maglev::large(1, &reals).0);
        assert_ne!(Maglev::large(1, &reals).0, Maglev::large(2, &reals).0);
        let otherwise: Vec<_> = reals.iter().copied().rev().collect();
        assert_eq!(Maglev::large(1, &reals).0, Maglev::large(1, &otherwise).0, "in whatever order they were added");
    }
}
