//! Gratuitous ARP: a round over all the addresses of a port when its link comes up, again one and two seconds later
//! (a bridge may take that long to open its port), and every minute, so that no switch forgets a port that mostly
//! receives. An address that comes later has its own three announcements at once.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::clock::Now;

/// Between the rounds at link-up, and how many follow the first.
const SOON: Duration = Duration::from_secs(1);
const SOON_ROUNDS: u8 = 2;
pub const EVERY: Duration = Duration::from_secs(60);

/// The announcements of one port.
#[derive(Debug)]
pub struct Announcer {
    addresses: Vec<Ipv4Addr>,
    link: bool,
    /// When the round that is going on, or the next one, began or begins.
    round: Now,
    /// The next address to announce in it.
    cursor: usize,
    soon: u8,
    /// New addresses that are due apart from the rounds: when, and how often after that.
    fresh: BTreeSet<(Now, Ipv4Addr, u8)>,
}

impl Announcer {
    pub fn new(addresses: Vec<Ipv4Addr>) -> Announcer {
        Announcer { addresses, link: false, round: Now(0), cursor: 0, soon: 0, fresh: BTreeSet::new() }
    }

    /// Other addresses from now on. Those that are new are announced now; the round goes on with the others.
    pub fn readdress(&mut self, now: Now, addresses: &[Ipv4Addr]) {
        let before: BTreeSet<Ipv4Addr> = self.addresses.iter().copied().collect();
        let after: BTreeSet<Ipv4Addr> = addresses.iter().copied().collect();
        let announced = self.addresses.iter().take(self.cursor).filter(|address| after.contains(address)).count();
        self.fresh.retain(|(_, address, _)| after.contains(address));
        if self.link {
            self.fresh.extend(after.difference(&before).map(|address| (now, *address, SOON_ROUNDS)));
        }
        let new = addresses.iter().filter(|address| !before.contains(address));
        let stay = self.addresses.iter().filter(|address| after.contains(address));
        self.addresses = stay.chain(new).copied().collect();
        self.cursor = announced;
        if self.cursor > 0 && self.cursor == self.addresses.len() {
            self.end_round(now);
        }
    }

    /// Takes notice of the link; says whether it has just come up.
    pub fn link(&mut self, now: Now, up: bool) -> bool {
        let came_up = up && !self.link;
        self.link = up;
        if came_up {
            self.fresh.clear();
            (self.round, self.cursor, self.soon) = (now, 0, SOON_ROUNDS);
        }
        came_up
    }

    /// The next address that is due.
    pub fn step(&mut self, now: Now) -> Option<Ipv4Addr> {
        if !self.link {
            return None;
        }
        if let Some(&(due, address, more)) = self.fresh.first().filter(|(due, ..)| *due <= now) {
            self.fresh.pop_first();
            if more > 0 {
                self.fresh.insert((due.max(now) + SOON, address, more - 1));
            }
            return Some(address);
        }
        if now < self.round {
            return None;
        }
        let address = *self.addresses.get(self.cursor)?;
        self.cursor += 1;
        if self.cursor == self.addresses.len() {
            self.end_round(now);
        }
        Some(address)
    }

    pub fn next_deadline(&self) -> Option<Now> {
        let round = (!self.addresses.is_empty()).then_some(self.round);
        let fresh = self.fresh.first().map(|(due, ..)| *due);
        round.into_iter().chain(fresh).min().filter(|_| self.link)
    }

    fn end_round(&mut self, now: Now) {
        let pause = if self.soon > 0 { SOON } else { EVERY };
        self.soon = self.soon.saturating_sub(1);
        self.round = (self.round + pause).max(now);
        self.cursor = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 9, 0, 10), Ipv4Addr::new(10, 9, 0, 100)];

    fn round(announcer: &mut Announcer, now: Now) -> Vec<Ipv4Addr> {
        std::iter::from_fn(|| announcer.step(now)).take(100).collect()
    }

    #[test]
    fn announces_all_at_link_up_twice_more_and_every_minute() {
        let mut announcer = Announcer::new(ADDRESSES.to_vec());
        assert_eq!(announcer.next_deadline(), None);
        assert!(round(&mut announcer, Now(0)).is_empty(), "no link yet");
        assert!(announcer.link(Now::from_secs(5), true));
        for second in [5, 6, 7, 67, 127] {
            assert_eq!(announcer.next_deadline(), Some(Now::from_secs(second)));
            assert!(round(&mut announcer, Now(Now::from_secs(second).0 - 1)).is_empty());
            assert_eq!(round(&mut announcer, Now::from_secs(second)), ADDRESSES);
        }
    }

    #[test]
    fn a_new_address_is_announced_at_once_and_who_has_gone_no_more() {
        let mut announcer = Announcer::new(ADDRESSES.to_vec());
        announcer.link(Now(0), true);
        for second in [0, 1, 2] {
            assert_eq!(round(&mut announcer, Now::from_secs(second)), ADDRESSES);
        }
        let new = Ipv4Addr::new(10, 9, 0, 101);
        announcer.readdress(Now::from_secs(10), &[ADDRESSES[0], new]);
        for second in [10, 11, 12] {
            assert_eq!(announcer.next_deadline(), Some(Now::from_secs(second)));
            assert_eq!(round(&mut announcer, Now::from_secs(second)), [new]);
        }
        assert_eq!(announcer.next_deadline(), Some(Now::from_secs(62)), "the round is where it was");
        assert_eq!(round(&mut announcer, Now::from_secs(62)), [ADDRESSES[0], new]);
        announcer.readdress(Now::from_secs(63), &[new]);
        assert_eq!(round(&mut announcer, Now::from_secs(122)), [new]);
    }

    #[test]
    fn addresses_that_come_and_go_within_a_round_leave_it_whole() {
        let address = |last| Ipv4Addr::new(10, 9, 0, last);
        let mut announcer = Announcer::new((1..=6).map(address).collect());
        announcer.link(Now(0), true);
        assert_eq!([announcer.step(Now(0)), announcer.step(Now(0))], [Some(address(1)), Some(address(2))]);
        announcer.readdress(Now(0), &[2, 4, 5, 6, 7].map(address));
        assert_eq!(round(&mut announcer, Now(0)), [7, 4, 5, 6, 7].map(address));
        announcer.step(Now::from_secs(1));
        announcer.readdress(Now::from_secs(1), &[]);
        assert_eq!((announcer.step(Now::from_secs(500)), announcer.next_deadline()), (None, None));
        announcer.readdress(Now::from_secs(600), &[address(9)]);
        assert_eq!(announcer.step(Now::from_secs(600)), Some(address(9)));
    }

    #[test]
    fn a_link_that_comes_back_begins_anew() {
        let mut announcer = Announcer::new(ADDRESSES.to_vec());
        announcer.link(Now(0), true);
        for second in [0, 1, 2] {
            assert_eq!(round(&mut announcer, Now::from_secs(second)), ADDRESSES);
        }
        assert!(!announcer.link(Now::from_secs(3), true), "it stayed up");
        assert!(!announcer.link(Now::from_secs(3), false));
        assert!(round(&mut announcer, Now::from_secs(100)).is_empty());
        assert!(announcer.link(Now::from_secs(101), true));
        assert_eq!(round(&mut announcer, Now::from_secs(101)), ADDRESSES);
        assert_eq!(announcer.next_deadline(), Some(Now::from_secs(102)));
    }

    #[test]
    fn rounds_that_were_slept_through_are_not_made_up_for() {
        let mut announcer = Announcer::new(ADDRESSES.to_vec());
        announcer.link(Now(0), true);
        let mut announced = 0;
        while announcer.step(Now::from_secs(10_000)).is_some() {
            announced += 1;
            assert!(announced < 100);
        }
        assert!(announcer.next_deadline().unwrap() > Now::from_secs(10_000));
    }
}
