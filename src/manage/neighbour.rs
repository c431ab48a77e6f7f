//! Who is at which MAC: only for the addresses that we send to (reals and gateways), known before the first packet
//! needs it. Only the configuration says who is in the cache, and only an answer to a question of ours changes it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::random::Random;
use crate::clock::Now;
use crate::control::wire::RealState;
use crate::packet::Mac;

/// Between two questions while an answer is due.
pub const ASK_EVERY: Duration = Duration::from_secs(1);
/// So many unanswered questions make a neighbour unreachable.
pub const UNANSWERED: u8 = 3;
/// Between two questions to one that does not answer, and between two checks of one that did: ± a fifth.
pub const RETRY_EVERY: Duration = Duration::from_secs(5);
pub const REFRESH_EVERY: Duration = Duration::from_secs(30);
/// An answer later than this was not given to our question.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighbourState {
    Resolving,
    Resolved,
    Unreachable,
    /// The MAC was given by hand.
    Fixed,
}

impl NeighbourState {
    /// Whether new connections may be sent there.
    pub fn usable(self) -> bool {
        matches!(self, NeighbourState::Resolved | NeighbourState::Fixed)
    }
}

impl From<NeighbourState> for RealState {
    fn from(state: NeighbourState) -> RealState {
        match state {
            NeighbourState::Resolving => RealState::Resolving,
            NeighbourState::Resolved => RealState::Resolved,
            NeighbourState::Unreachable => RealState::Unreachable,
            NeighbourState::Fixed => RealState::Fixed,
        }
    }
}

/// An address to keep known, and its MAC when that was given by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub port: usize,
    pub address: Ipv4Addr,
    pub mac: Option<Mac>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    pub port: usize,
    pub address: Ipv4Addr,
    pub state: NeighbourState,
    /// The last one known, also while unreachable: established connections go on being sent there.
    pub mac: Option<Mac>,
    /// When it came into this state, or to this MAC.
    pub since: Now,
}

/// What the clock asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask for the address: everybody, or only the station that had it last.
    Ask { port: usize, address: Ipv4Addr, station: Option<Mac> },
    /// It fell silent.
    Changed(Neighbour),
}

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nothing that we asked for.
    Unasked,
    /// An answer to our question, with a MAC that no single station can have.
    Refused(Neighbour),
    Confirmed,
    Changed(Neighbour),
}

#[derive(Clone, Copy)]
struct Entry {
    neighbour: Neighbour,
    question: Option<Question>,
    unanswered: u8,
    next: Now,
}

/// A question that may still be answered.
#[derive(Clone, Copy)]
struct Question {
    at: Now,
    station: Option<Mac>,
}

pub struct Neighbours {
    /// By port and address, and never any others.
    entries: Vec<Entry>,
    due: BTreeSet<(Now, usize)>,
    random: Random,
}

impl Neighbours {
    /// An address that is wanted twice is kept once, and asked for if any of the two has no MAC given by hand.
    pub fn new(wanted: impl IntoIterator<Item = Wanted>, now: Now, random: Random) -> Neighbours {
        let mut neighbours = Neighbours { entries: Vec::new(), due: BTreeSet::new(), random };
        neighbours.want(wanted, now);
        neighbours
    }

    /// From now on these are wanted, and no others: who stays keeps what is known of it, who is new is asked for now.
    pub fn want(&mut self, wanted: impl IntoIterator<Item = Wanted>, now: Now) {
        let mut wanted: Vec<Wanted> = wanted.into_iter().collect();
        wanted.sort_by_key(|want| (want.port, want.address, want.mac));
        wanted.dedup_by_key(|want| (want.port, want.address));
        let entry = |want: &Wanted| match self.find(want.port, want.address).map(|index| self.entries[index]) {
            Some(known) if known.is_as(want) => known,
            known => Entry::new(want, known.and_then(|known| known.neighbour.mac), now),
        };
        self.entries = wanted.iter().map(entry).collect();
        let entries = self.entries.iter().enumerate();
        self.due = entries.filter(|(_, entry)| entry.asks()).map(|(index, entry)| (entry.next, index)).collect();
    }

    pub fn iter(&self) -> impl Iterator<Item = &Neighbour> {
        self.entries.iter().map(|entry| &entry.neighbour)
    }

    pub fn get(&self, port: usize, address: Ipv4Addr) -> Option<&Neighbour> {
        self.find(port, address).map(|index| &self.entries[index].neighbour)
    }

    /// When [`Neighbours::step`] next has something to do.
    pub fn next_deadline(&self) -> Option<Now> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The next thing that is due, one at a time. Ports without a link are left alone.
    pub fn step(&mut self, now: Now, links: &[bool]) -> Option<Step> {
        loop {
            let (_, index) = *self.due.first().filter(|(at, _)| *at <= now)?;
            if !links.get(self.entries[index].neighbour.port).copied().unwrap_or(false) {
                self.entries[index].forget_question();
                self.schedule(index, now + ASK_EVERY);
                continue;
            }
            return Some(self.ask_or_give_up(index, now));
        }
    }

    /// A station says that it has `address`, in an answer addressed to us.
    pub fn answer(&mut self, now: Now, port: usize, address: Ipv4Addr, mac: Mac, ours: &[Mac]) -> Claim {
        let Some(index) = self.find(port, address) else { return Claim::Unasked };
        let entry = &mut self.entries[index];
        if !entry.expects(now, mac) {
            return Claim::Unasked;
        }
        if !mac.is_unicast() || ours.contains(&mac) {
            return Claim::Refused(entry.neighbour);
        }
        let changed = entry.learn(now, mac);
        let neighbour = entry.neighbour;
        let refresh = now + self.random.around(REFRESH_EVERY);
        self.schedule(index, refresh);
        if changed { Claim::Changed(neighbour) } else { Claim::Confirmed }
    }

    /// A station says something that we did not ask for. It teaches nothing, but if it contradicts what we know, we ask
    /// again, the known station first: a real that moved is found at once, and a liar gains nothing.
    pub fn hint(&mut self, now: Now, port: usize, address: Ipv4Addr, mac: Mac) {
        let Some(index) = self.find(port, address) else { return };
        let entry = &self.entries[index];
        let known = entry.neighbour.state == NeighbourState::Resolved && entry.neighbour.mac == Some(mac);
        let asked_lately = entry.question.is_some_and(|question| now.since(question.at) < ASK_EVERY);
        if entry.asks() && !known && !asked_lately {
            self.schedule(index, now);
        }
    }

    /// The port has its link again: ask anew, spread over a second.
    pub fn link_up(&mut self, now: Now, port: usize) {
        for index in 0..self.entries.len() {
            let entry = &mut self.entries[index];
            if entry.neighbour.port != port || !entry.asks() {
                continue;
            }
            entry.forget_question();
            let spread = match entry.neighbour.state {
                NeighbourState::Resolving => Duration::ZERO,
                _ => self.random.below(ASK_EVERY),
            };
            self.schedule(index, now + spread);
        }
    }

    fn ask_or_give_up(&mut self, index: usize, now: Now) -> Step {
        let retry = self.random.around(RETRY_EVERY);
        let entry = &mut self.entries[index];
        let silent = entry.neighbour.state == NeighbourState::Unreachable;
        if !silent && entry.unanswered >= UNANSWERED {
            entry.fall_silent(now);
            let neighbour = entry.neighbour;
            self.schedule(index, now + retry);
            return Step::Changed(neighbour);
        }
        let question = entry.ask(now);
        let Neighbour { port, address, .. } = entry.neighbour;
        self.schedule(index, now + if silent { retry } else { ASK_EVERY });
        Step::Ask { port, address, station: question.station }
    }

    fn schedule(&mut self, index: usize, at: Now) {
        let entry = &mut self.entries[index];
        self.due.remove(&(entry.next, index));
        entry.next = at;
        self.due.insert((at, index));
    }

    fn find(&self, port: usize, address: Ipv4Addr) -> Option<usize> {
        let key = |entry: &Entry| (entry.neighbour.port, entry.neighbour.address);
        self.entries.binary_search_by_key(&(port, address), key).ok()
    }
}

impl Entry {
    /// `last`: where it was last; nothing new goes there before it has answered.
    fn new(want: &Wanted, last: Option<Mac>, now: Now) -> Entry {
        let state = if want.mac.is_some() { NeighbourState::Fixed } else { NeighbourState::Resolving };
        let neighbour = Neighbour { port: want.port, address: want.address, state, mac: want.mac.or(last), since: now };
        Entry { neighbour, question: None, unanswered: 0, next: now }
    }

    /// Whether it is kept as wanted: with this MAC given by hand, or asked for.
    fn is_as(&self, want: &Wanted) -> bool {
        if want.mac.is_some() { !self.asks() && self.neighbour.mac == want.mac } else { self.asks() }
    }

    fn asks(&self) -> bool {
        self.neighbour.state != NeighbourState::Fixed
    }

    fn ask(&mut self, now: Now) -> Question {
        let first_of_a_refresh = self.neighbour.state == NeighbourState::Resolved && self.unanswered == 0;
        let station = self.neighbour.mac.filter(|_| first_of_a_refresh);
        let question = Question { at: now, station };
        self.question = Some(question);
        if self.neighbour.state != NeighbourState::Unreachable {
            self.unanswered += 1;
        }
        question
    }

    /// Whether this can be the answer to our question. One that only the known station heard, only that one answers.
    fn expects(&self, now: Now, mac: Mac) -> bool {
        self.question.is_some_and(|question| {
            now.since(question.at) <= ANSWER_WITHIN && question.station.is_none_or(|station| station == mac)
        })
    }

    /// Says whether that changed anything.
    fn learn(&mut self, now: Now, mac: Mac) -> bool {
        let neighbour = &mut self.neighbour;
        let changed = neighbour.state != NeighbourState::Resolved || neighbour.mac != Some(mac);
        if changed {
            neighbour.state = NeighbourState::Resolved;
            neighbour.mac = Some(mac);
            neighbour.since = now;
        }
        self.forget_question();
        changed
    }

    /// The last question stays open: its answer may be on the way.
    fn fall_silent(&mut self, now: Now) {
        self.neighbour.state = NeighbourState::Unreachable;
        self.neighbour.since = now;
        self.unanswered = 0;
    }

    fn forget_question(&mut self) {
        self.question = None;
        self.unanswered = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REAL: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 11);
    const MAC: Mac = Mac([2, 0, 0, 0, 0, 0x11]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 0x66]);
    const OURS: Mac = Mac([2, 0, 0, 0, 0, 0x10]);
    const UP: &[bool] = &[true];

    fn one() -> Neighbours {
        Neighbours::new([Wanted { port: 0, address: REAL, mac: None }], Now(0), Random::new(7))
    }

    fn ask(station: Option<Mac>) -> Option<Step> {
        Some(Step::Ask { port: 0, address: REAL, station })
    }

    fn state(cache: &Neighbours) -> (NeighbourState, Option<Mac>) {
        let real = cache.get(0, REAL).unwrap();
        (real.state, real.mac)
    }

    /// Asked and answered at `now`.
    fn resolved(now: Now) -> Neighbours {
        let mut cache = one();
        assert_eq!(cache.step(now, UP), ask(None));
        assert!(matches!(cache.answer(now, 0, REAL, MAC, &[OURS]), Claim::Changed(_)));
        cache
    }

    #[test]
    fn asks_at_once_then_every_second_then_calls_it_unreachable() {
        let mut cache = one();
        for second in 0..3 {
            assert_eq!(cache.step(Now::from_secs(second), UP), ask(None));
            assert_eq!(cache.step(Now::from_secs(second), UP), None);
            assert_eq!(cache.next_deadline(), Some(Now::from_secs(second + 1)));
            assert_eq!(state(&cache), (NeighbourState::Resolving, None));
        }
        let Some(Step::Changed(changed)) = cache.step(Now::from_secs(3), UP) else { panic!("still hoping") };
        assert_eq!((changed.state, changed.mac, changed.since), (NeighbourState::Unreachable, None, Now::from_secs(3)));
        for _ in 0..20 {
            let last = cache.next_deadline().unwrap();
            assert_eq!(cache.step(last, UP), ask(None));
            let pause = cache.next_deadline().unwrap().since(last);
            assert!((Duration::from_secs(4)..=Duration::from_secs(6)).contains(&pause), "{pause:?}");
        }
        let at = cache.next_deadline().unwrap();
        assert_eq!(cache.step(at, UP), ask(None));
        assert!(matches!(cache.answer(at, 0, REAL, MAC, &[OURS]), Claim::Changed(_)));
        assert_eq!(state(&cache), (NeighbourState::Resolved, Some(MAC)));
    }

    #[test]
    fn an_answer_just_after_giving_up_still_counts() {
        let mut cache = one();
        (0..=3).for_each(|second| assert!(cache.step(Now::from_secs(second), UP).is_some()));
        assert_eq!(state(&cache).0, NeighbourState::Unreachable);
        assert!(matches!(cache.answer(Now::from_millis(3_100), 0, REAL, MAC, &[OURS]), Claim::Changed(_)));
    }

    #[test]
    fn a_refresh_asks_the_known_station_first_and_keeps_its_mac_when_it_is_silent() {
        let mut cache = resolved(Now(0));
        let mut now = cache.next_deadline().unwrap();
        assert!((Now::from_secs(24)..=Now::from_secs(36)).contains(&now), "{now:?}");
        for station in [Some(MAC), None, None] {
            assert_eq!(cache.step(now, UP), ask(station));
            assert_eq!(state(&cache), (NeighbourState::Resolved, Some(MAC)));
            now = now + ASK_EVERY;
        }
        assert!(matches!(cache.step(now, UP), Some(Step::Changed(_))));
        assert_eq!(state(&cache), (NeighbourState::Unreachable, Some(MAC)));
    }

    #[test]
    fn only_an_answer_to_our_question_teaches() {
        let mut cache = one();
        assert_eq!(cache.answer(Now(0), 0, REAL, OTHER, &[OURS]), Claim::Unasked, "not yet asked");
        cache.step(Now(0), UP);
        assert_eq!(cache.answer(Now(0), 0, Ipv4Addr::new(10, 9, 0, 77), OTHER, &[OURS]), Claim::Unasked);
        assert_eq!(cache.answer(Now(0), 1, REAL, OTHER, &[OURS]), Claim::Unasked, "another port");
        assert!(matches!(cache.answer(Now(0), 0, REAL, MAC, &[OURS]), Claim::Changed(_)));
        assert_eq!(cache.answer(Now(0), 0, REAL, OTHER, &[OURS]), Claim::Unasked, "answered already");

        let refresh = cache.next_deadline().unwrap();
        cache.step(refresh, UP);
        assert_eq!(cache.answer(refresh, 0, REAL, OTHER, &[OURS]), Claim::Unasked, "only the known one was asked");
        assert_eq!(cache.answer(refresh, 0, REAL, MAC, &[OURS]), Claim::Confirmed);
        assert_eq!(state(&cache), (NeighbourState::Resolved, Some(MAC)));
    }

    #[test]
    fn a_late_answer_is_no_answer() {
        let mut cache = resolved(Now(0));
        (0..4).for_each(|_| assert!(cache.step(cache.next_deadline().unwrap(), UP).is_some()));
        let unreachable = cache.get(0, REAL).unwrap().since;
        assert_eq!(cache.answer(unreachable + Duration::from_millis(2_001), 0, REAL, OTHER, &[]), Claim::Unasked);
        assert_eq!(state(&cache), (NeighbourState::Unreachable, Some(MAC)));
    }

    #[test]
    fn macs_that_no_other_station_can_have_are_refused() {
        let mut cache = one();
        cache.step(Now(0), UP);
        for mac in [Mac::ZERO, Mac::BROADCAST, Mac([1, 0, 0x5e, 0, 0, 1]), OURS] {
            assert!(matches!(cache.answer(Now(0), 0, REAL, mac, &[OURS]), Claim::Refused(_)), "{mac}");
            assert_eq!(state(&cache), (NeighbourState::Resolving, None));
        }
    }

    #[test]
    fn a_real_with_a_new_card_is_found_by_broadcast() {
        let mut cache = resolved(Now(0));
        let refresh = cache.next_deadline().unwrap();
        assert_eq!(cache.step(refresh, UP), ask(Some(MAC)));
        let second = refresh + ASK_EVERY;
        assert_eq!(cache.step(second, UP), ask(None));
        let Claim::Changed(changed) = cache.answer(second, 0, REAL, OTHER, &[OURS]) else { panic!("not learnt") };
        assert_eq!((changed.state, changed.mac, changed.since), (NeighbourState::Resolved, Some(OTHER), second));
    }

    #[test]
    fn an_unasked_claim_only_makes_us_ask_the_known_station_now() {
        let mut cache = resolved(Now(0));
        let now = Now::from_secs(2);
        cache.hint(now, 0, REAL, MAC);
        assert_eq!(cache.step(now, UP), None, "it says what we know");
        cache.hint(now, 0, REAL, OTHER);
        assert_eq!(state(&cache), (NeighbourState::Resolved, Some(MAC)));
        assert_eq!(cache.step(now, UP), ask(Some(MAC)));
        cache.hint(now, 0, REAL, OTHER);
        assert_eq!(cache.step(now, UP), None, "claims do not make us ask faster");
    }

    #[test]
    fn claims_about_a_silent_one_ask_at_most_once_a_second() {
        let mut cache = one();
        (0..=3).for_each(|second| assert!(cache.step(Now::from_secs(second), UP).is_some()));
        let asked = (0..1000).filter(|millis| {
            let now = Now::from_millis(3_000 + millis);
            cache.hint(now, 0, REAL, OTHER);
            cache.step(now, UP).is_some()
        });
        assert_eq!(asked.count(), 1);
    }

    #[test]
    fn a_mac_given_by_hand_is_never_asked_for_nor_changed() {
        let fixed = Wanted { port: 0, address: REAL, mac: Some(MAC) };
        let mut cache = Neighbours::new([fixed], Now(0), Random::new(7));
        assert_eq!(cache.next_deadline(), None);
        cache.link_up(Now(0), 0);
        cache.hint(Now(0), 0, REAL, OTHER);
        assert_eq!(cache.step(Now::from_secs(100), UP), None);
        assert_eq!(cache.answer(Now(0), 0, REAL, OTHER, &[OURS]), Claim::Unasked);
        assert_eq!(state(&cache), (NeighbourState::Fixed, Some(MAC)));
    }

    #[test]
    fn an_address_wanted_twice_is_kept_once_and_asked_for() {
        let want = |mac| Wanted { port: 0, address: REAL, mac };
        let cache = Neighbours::new([want(Some(MAC)), want(None), want(Some(OTHER))], Now(0), Random::new(7));
        assert_eq!(cache.iter().count(), 1);
        assert_eq!(state(&cache), (NeighbourState::Resolving, None));
    }

    #[test]
    fn without_a_link_nothing_is_asked_and_nothing_is_given_up() {
        let mut cache = resolved(Now(0));
        for second in 0..200 {
            assert_eq!(cache.step(Now::from_secs(second), &[false]), None);
        }
        assert_eq!(state(&cache), (NeighbourState::Resolved, Some(MAC)));
        cache.link_up(Now::from_secs(200), 0);
        assert_eq!(cache.step(Now::from_secs(201), UP), ask(Some(MAC)));
        assert_eq!(cache.step(Now::from_secs(300), &[]), None, "a port nobody told us about has no link");
    }

    #[test]
    fn who_stays_wanted_keeps_what_is_known_and_who_is_new_is_asked_for_at_once() {
        let mut cache = resolved(Now(0));
        let want = |last, mac| Wanted { port: 0, address: Ipv4Addr::new(10, 9, 0, last), mac };
        let (before, now) = (cache.next_deadline(), Now::from_secs(5));
        cache.want([want(11, None), want(12, None), want(9, Some(OTHER))], now);
        assert_eq!(state(&cache), (NeighbourState::Resolved, Some(MAC)));
        let new = Step::Ask { port: 0, address: Ipv4Addr::new(10, 9, 0, 12), station: None };
        assert_eq!([cache.step(now, UP), cache.step(now, UP)], [Some(new), None]);
        cache.want([want(11, None)], now);
        assert_eq!((cache.iter().count(), cache.next_deadline()), (1, before));
        assert_eq!(cache.answer(now, 0, Ipv4Addr::new(10, 9, 0, 12), OTHER, &[OURS]), Claim::Unasked, "it has gone");
        cache.want([want(11, Some(OTHER))], now);
        assert_eq!((state(&cache), cache.next_deadline()), ((NeighbourState::Fixed, Some(OTHER)), None));
        cache.want([want(11, None)], now);
        assert_eq!(state(&cache), (NeighbourState::Resolving, Some(OTHER)), "asked, and sent to where it was last");
        assert_eq!(cache.step(now, UP), ask(None));
    }

    proptest! {
        #[test]
        fn claims_never_grow_the_cache(
            claims in proptest::collection::vec((0usize..3, any::<u32>(), any::<[u8; 6]>(), 0u64..100_000), 0..300)
        ) {
            let wanted = (0..20).map(|last| Wanted { port: 0, address: Ipv4Addr::new(10, 9, 0, last), mac: None });
            let mut cache = Neighbours::new(wanted, Now(0), Random::new(1));
            let room = cache.entries.capacity();
            for (port, address, mac, millis) in claims {
                let address = Ipv4Addr::from(0x0a09_0000 | address & 0x3f);
                while cache.step(Now::from_millis(millis), &[true, true]).is_some() {}
                cache.answer(Now::from_millis(millis), port, address, Mac(mac), &[OURS]);
                cache.hint(Now::from_millis(millis), port, address, Mac(mac));
                prop_assert_eq!((cache.entries.len(), cache.entries.capacity(), cache.due.len()), (20, room, 20));
            }
        }
    }
}
