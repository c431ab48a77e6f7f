//! Maglev's lookup table: a hash chooses a real, evenly by weight, and few choices change when a real goes or comes.
//! Used where there is no state to go by.

/// Primes, so that every step visits every place.
const SIZES: [usize; 5] = [251, 1021, 4093, 16_381, 65_537];
/// Places for each real, at least.
const PLACES_EACH: usize = 16;

#[derive(Debug, Default)]
pub struct Maglev(Box<[u16]>);

impl Maglev {
    /// `reals` are numbers with what tells each real apart for all directors (its address and port) and its weight;
    /// those of weight zero get no place.
    pub fn build(reals: &[(u16, u64, u16)]) -> Maglev {
        let reals: Vec<_> = reals.iter().filter(|(_, _, weight)| *weight > 0).collect();
        let Some(greatest) = reals.iter().map(|(_, _, weight)| *weight).max() else { return Maglev::default() };
        let wanted = reals.len() * PLACES_EACH;
        let size = SIZES.into_iter().find(|size| *size >= wanted).unwrap_or(SIZES[SIZES.len() - 1]);
        let mut places: Vec<Option<u16>> = vec![None; size];
        let mut walks: Vec<_> =
            reals.iter().map(|(number, name, weight)| Walk::new(*number, *name, *weight, size)).collect();
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

    #[test]
    fn few_choices_change_when_one_of_thirty_two_goes() {
        let reals: Vec<_> = (0..32).map(|number| (number, u64::from(number) * 7 + 1, 1)).collect();
        let all = Maglev::build(&reals);
        let without = Maglev::build(&reals[1..]);
        let hashes = (0..100_000u64).map(mix);
        let moved =
            hashes.filter(|hash| all.choose(*hash) != Some(0) && all.choose(*hash) != without.choose(*hash)).count();
        assert!(moved < 6_000, "{moved} of 100,000 flows of others moved");
    }
}
