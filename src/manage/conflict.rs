//! Somebody else claims an address of ours. The list is as long as it was made: who is forgotten is the one that has
//! been quiet the longest.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::limit::{Limit, Rate};
use crate::clock::Now;
use crate::packet::Mac;

/// The most claimants that are remembered.
pub const REMEMBERED: usize = 64;
/// A claimant that has been quiet for so long is no warning any more.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// One claimant is reported no more often than this.
pub const REPORT_EVERY: Duration = Duration::from_secs(60);
/// All of them together: a liar with many MACs does not fill the log.
const REPORTS: Rate = Rate { per_second: 1, burst: 8 };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub port: usize,
    pub address: Ipv4Addr,
    /// Who claims it.
    pub mac: Mac,
    pub since: Now,
    pub last: Now,
    pub claims: u64,
}

pub struct Conflicts {
    list: Vec<(Conflict, Option<Now>)>,
    reports: Limit,
}

impl Default for Conflicts {
    fn default() -> Conflicts {
        Conflicts { list: Vec::with_capacity(REMEMBERED), reports: Limit::new(REPORTS) }
    }
}

impl Conflicts {
    /// Those that are still going on.
    pub fn iter(&self, now: Now) -> impl Iterator<Item = &Conflict> {
        self.list.iter().map(|(conflict, _)| conflict).filter(move |conflict| !is_over(conflict, now))
    }

    /// Claims of other addresses are nobody's concern any more.
    pub fn retain(&mut self, ours: impl Fn(Ipv4Addr) -> bool) {
        self.list.retain(|(conflict, _)| ours(conflict.address));
    }

    /// Notes a claim; gives it back when it is time to report it.
    pub fn claim(&mut self, now: Now, port: usize, address: Ipv4Addr, mac: Mac) -> Option<Conflict> {
        let index = self.entry(now, port, address, mac);
        let (conflict, reported) = &mut self.list[index];
        conflict.last = now;
        conflict.claims += 1;
        if reported.is_some_and(|at| now.since(at) < REPORT_EVERY) || !self.reports.take(now) {
            return None;
        }
        *reported = Some(now);
        Some(*conflict)
    }

    fn entry(&mut self, now: Now, port: usize, address: Ipv4Addr, mac: Mac) -> usize {
        let fresh = (Conflict { port, address, mac, since: now, last: now, claims: 0 }, None);
        let same = |known: &Conflict| (known.port, known.address, known.mac) == (port, address, mac);
        if let Some(index) = self.list.iter().position(|(known, _)| same(known)) {
            if is_over(&self.list[index].0, now) {
                self.list[index] = fresh;
            }
            return index;
        }
        if self.list.len() < REMEMBERED {
            self.list.push(fresh);
            return self.list.len() - 1;
        }
        let quietest = (0..self.list.len()).min_by_key(|index| self.list[*index].0.last).unwrap_or(0);
        self.list[quietest] = fresh;
        quietest
    }
}

fn is_over(conflict: &Conflict, now: Now) -> bool {
    now.since(conflict.last) >= FORGOTTEN_AFTER
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);
    const LIAR: Mac = Mac([2, 0, 0, 0, 0, 0x66]);

    #[test]
    fn one_claimant_is_reported_once_a_minute_with_the_time_since() {
        let mut conflicts = Conflicts::default();
        let first = conflicts.claim(Now::from_secs(1), 0, VIP, LIAR).unwrap();
        assert_eq!((first.since, first.claims), (Now::from_secs(1), 1));
        for second in 2..61 {
            assert_eq!(conflicts.claim(Now::from_secs(second), 0, VIP, LIAR), None);
        }
        let again = conflicts.claim(Now::from_secs(61), 0, VIP, LIAR).unwrap();
        assert_eq!((again.since, again.last, again.claims), (Now::from_secs(1), Now::from_secs(61), 61));
        assert_eq!(conflicts.iter(Now::from_secs(62)).count(), 1);
        assert_eq!(conflicts.iter(Now::from_secs(661)).count(), 0, "over");
        let anew = conflicts.claim(Now::from_secs(700), 0, VIP, LIAR).unwrap();
        assert_eq!((anew.since, anew.claims), (Now::from_secs(700), 1));
    }

    #[test]
    fn a_liar_with_many_macs_grows_neither_the_list_nor_the_log() {
        let mut conflicts = Conflicts::default();
        let room = conflicts.list.capacity();
        let claims = (0..100_000u32).filter(|number| {
            let [a, b, c, d] = number.to_be_bytes();
            conflicts.claim(Now::from_secs(5), 0, VIP, Mac([2, 0, a, b, c, d])).is_some()
        });
        assert_eq!(claims.count(), 8);
        assert_eq!((conflicts.list.len(), conflicts.list.capacity()), (REMEMBERED, room));
        let newest = Mac([2, 0, 0, 1, 0x86, 0x9f]);
        assert!(conflicts.iter(Now::from_secs(5)).any(|conflict| conflict.mac == newest));
    }
}
