//! Jitter, so that a thousand neighbours are not asked in one breath. Seeded, so that a test can repeat it.

use std::time::Duration;

/// SplitMix64: one addition and a mix.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// At least nothing, less than `limit`.
    pub fn below(&mut self, limit: Duration) -> Duration {
        let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(((u128::from(self.next()) * u128::from(limit)) >> 64) as u64)
    }

    /// `middle` ± a fifth.
    pub fn around(&mut self, middle: Duration) -> Duration {
        middle * 4 / 5 + self.below(middle * 2 / 5)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_in_its_bounds_and_uses_them() {
        let mut random = Random::new(3);
        let drawn: Vec<Duration> = (0..1000).map(|_| random.around(Duration::from_secs(10))).collect();
        let (least, most) = (drawn.iter().min().unwrap(), drawn.iter().max().unwrap());
        assert!(*least >= Duration::from_secs(8) && *least < Duration::from_millis(8_100), "{least:?}");
        assert!(*most < Duration::from_secs(12) && *most > Duration::from_millis(11_900), "{most:?}");
    }
}
