//! A token bucket: so many at once, so many a second.

use crate::clock::Now;

const NANOS: u64 = 1_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub per_second: u32,
    pub burst: u32,
}

/// Holds its credit in nanoseconds, so that nothing is lost to rounding however often it is asked.
#[derive(Clone, Debug)]
pub struct Limit {
    cost: u64,
    full: u64,
    credit: u64,
    last: Now,
}

impl Limit {
    pub fn new(rate: Rate) -> Limit {
        let cost = NANOS / u64::from(rate.per_second.max(1));
        let full = cost * u64::from(rate.burst.max(1));
        Limit { cost, full, credit: full, last: Now(0) }
    }

    /// Takes one, when there is one to take.
    pub fn take(&mut self, now: Now) -> bool {
        let gone = u64::try_from(now.since(self.last).as_nanos()).unwrap_or(u64::MAX);
        self.credit = self.credit.saturating_add(gone).min(self.full);
        self.last = self.last.max(now);
        if self.credit < self.cost {
            return false;
        }
        self.credit -= self.cost;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_burst_at_once_and_then_the_rate() {
        let mut limit = Limit::new(Rate { per_second: 100, burst: 10 });
        let start = Now::from_secs(5);
        assert_eq!((0..1000).filter(|_| limit.take(start)).count(), 10);
        let asked_every_millisecond = (1..=1000).filter(|millis| limit.take(Now(start.0 + millis * 1_000_000)));
        assert_eq!(asked_every_millisecond.count(), 100);
        assert_eq!((0..1000).filter(|_| limit.take(Now::from_secs(3600))).count(), 10, "never saves up more");
    }

    #[test]
    fn a_clock_that_stands_or_steps_back_gives_nothing() {
        let mut limit = Limit::new(Rate { per_second: 1, burst: 1 });
        assert!(limit.take(Now::from_secs(10)));
        assert!(!limit.take(Now::from_secs(10)));
        assert!(!limit.take(Now::from_secs(3)));
        assert!(!limit.take(Now::from_millis(10_900)));
        assert!(limit.take(Now::from_secs(11)));
    }
}
