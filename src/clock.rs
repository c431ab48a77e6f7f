//! Time is an argument: whoever owns a loop reads the clock once a turn and hands it down.

use std::ops::Add;
use std::time::Duration;

/// Coarse ticks a second: what the flow table stores in 32 bits (17 years of them).
pub const TICKS_PER_SECOND: u32 = 8;

/// A point on the machine's monotonic clock, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Now(pub u64);

impl Now {
    pub const fn from_secs(seconds: u64) -> Now {
        Now(seconds * 1_000_000_000)
    }

    pub const fn from_millis(millis: u64) -> Now {
        Now(millis * 1_000_000)
    }

    /// Time gone since `earlier`, zero when `earlier` lies ahead.
    pub const fn since(self, earlier: Now) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    pub const fn tick(self) -> u32 {
        (self.0 / (1_000_000_000 / TICKS_PER_SECOND as u64)) as u32
    }
}

impl Add<Duration> for Now {
    type Output = Now;
    fn add(self, by: Duration) -> Now {
        Now(self.0.saturating_add(by.as_nanos() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_eighths_of_a_second() {
        assert_eq!(Now::from_secs(2).tick(), 16);
        assert_eq!(Now::from_millis(124).tick(), 0);
        assert_eq!(Now::from_millis(125).tick(), 1);
        assert_eq!(Now::from_secs(1).since(Now::from_secs(3)), Duration::ZERO);
    }
}
