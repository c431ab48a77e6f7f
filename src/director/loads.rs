//! What the reals have to do, as schedulers are told: exact for this worker, at most ten milliseconds old for the others.

use std::sync::Arc;
use std::time::Duration;

use super::burst::Scene;
use crate::clock::Now;
use crate::counters::{Ledger, Traffic};
use crate::service::{Load, RealId, Roster, ServiceId, Snapshot};

const OLDEST: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Default)]
struct Counts {
    active: u32,
    inactive: u32,
}

/// Whether a real is at its limit.
#[derive(Clone, Copy, Default)]
struct Overload {
    /// It reached its upper limit and has not come below the lower one since.
    reached: bool,
    /// Of its number, whose it is, and for which service.
    generation: u8,
    service: Option<ServiceId>,
    /// The upper limit that it had last.
    upper: u32,
}

pub struct Loads {
    /// The other workers'.
    peers: Vec<Arc<Ledger>>,
    /// What they said of each real, by its number, and when it was asked, by the service's.
    others: Box<[Counts]>,
    asked: Box<[Option<Now>]>,
    overloads: Box<[Overload]>,
}

impl Loads {
    /// For as many services and reals as `own`, this worker's ledger, has lines for.
    pub fn new(own: &Ledger) -> Loads {
        Loads {
            peers: Vec::new(),
            others: vec![Counts::default(); own.reals.len()].into(),
            asked: vec![None; own.services.len()].into(),
            overloads: vec![Overload::default(); own.reals.len()].into(),
        }
    }

    pub fn set_peers(&mut self, peers: Vec<Arc<Ledger>>) {
        self.peers = peers;
    }

    /// Follows the edits of limits: whose upper one is raised or taken away has not reached it, whatever else changed.
    /// Whose number has another generation has no connections.
    pub fn adopt(&mut self, snapshot: &Snapshot, own: &Ledger) {
        for ((overload, real), id) in self.overloads.iter_mut().zip(&snapshot.reals).zip((0..).map(RealId)) {
            let is_same = overload.generation == real.generation;
            if !is_same {
                own.connections_ended(overload.service, id);
            }
            let raised = real.upper == 0 || real.upper > overload.upper;
            let reached = overload.reached && is_same && !raised;
            *overload = Overload { reached, generation: real.generation, service: real.service, upper: real.upper };
        }
    }

    /// Asks the other workers, if that was too long ago. What began or ended there is seen only now.
    pub fn refresh(&mut self, service: ServiceId, roster: &Roster, scene: Scene<'_>) {
        let Some(asked) = self.asked.get_mut(service.index()) else { return };
        if self.peers.is_empty() || asked.is_some_and(|asked| scene.now.since(asked) < OLDEST) {
            return;
        }
        *asked = Some(scene.now);
        for member in roster.members() {
            let lines = self.peers.iter().filter_map(|peer| peer.reals.get(member.id.index()));
            if let Some(others) = self.others.get_mut(member.id.index()) {
                *others = lines.map(counts_of).fold(Counts::default(), |one, two| Counts {
                    active: one.active.wrapping_add(two.active),
                    inactive: one.inactive.wrapping_add(two.inactive),
                });
            }
            self.ended(scene.ledger, scene.snapshot, member.id);
            self.began(scene.ledger, scene.snapshot, member.id);
        }
    }

    pub fn of(&self, own: &Ledger, id: RealId) -> Load {
        let Counts { active, inactive } = self.counts(own, id);
        let overloaded = self.overloads.get(id.index()).is_some_and(|overload| overload.reached);
        Load { active, inactive, overloaded }
    }

    /// A connection of the real has begun: it may have reached its limit.
    pub fn began(&mut self, own: &Ledger, snapshot: &Snapshot, id: RealId) {
        self.rose(self.counts(own, id).total(), snapshot, id);
    }

    /// A connection that is counted nowhere has begun and ended.
    pub fn passed(&mut self, own: &Ledger, snapshot: &Snapshot, id: RealId) {
        self.rose(self.counts(own, id).total().saturating_add(1), snapshot, id);
        self.ended(own, snapshot, id);
    }

    fn rose(&mut self, total: u32, snapshot: &Snapshot, id: RealId) {
        let upper = snapshot.real(id).upper;
        if let Some(overload) = self.overloads.get_mut(id.index()) {
            overload.reached |= upper > 0 && total >= upper;
        }
    }

    /// One has ended: it may take new ones again, below the lower limit, or below three quarters of the upper one where
    /// there is no lower.
    pub fn ended(&mut self, own: &Ledger, snapshot: &Snapshot, id: RealId) {
        let (total, real) = (self.counts(own, id).total(), snapshot.real(id));
        let below = match real.lower {
            0 => real.upper == 0 || u64::from(total) * 4 < u64::from(real.upper) * 3,
            lower => total < lower,
        };
        if let Some(overload) = self.overloads.get_mut(id.index()) {
            overload.reached &= !below;
        }
    }

    /// All workers' together. One may be negative where a connection began on one worker and was counted out by another.
    fn counts(&self, own: &Ledger, id: RealId) -> Counts {
        let own = own.reals.get(id.index()).map(counts_of).unwrap_or_default();
        if self.peers.is_empty() {
            return own;
        }
        let others = self.others.get(id.index()).copied().unwrap_or_default();
        let sum = |one: u32, two: u32| u32::try_from(one.wrapping_add(two) as i32).unwrap_or(0);
        Counts { active: sum(own.active, others.active), inactive: sum(own.inactive, others.inactive) }
    }
}

impl Counts {
    fn total(self) -> u32 {
        self.active.saturating_add(self.inactive)
    }
}

fn counts_of(traffic: &Traffic) -> Counts {
    Counts { active: traffic.active.get() as u32, inactive: traffic.inactive.get() as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    use crate::config::{Protocol, Scheduler, Settings, Takes};
    use crate::packet::Mac;
    use crate::service::{Reach, RealPlan, ServicePlan, Station};

    const REAL: RealId = RealId(0);

    /// One real of one service, and who counts its connections.
    struct Rig {
        loads: Loads,
        own: Ledger,
        snapshot: Snapshot,
    }

    impl Rig {
        fn new(upper: u32, lower: u32) -> Rig {
            let network = "10.9.0.10/24".parse().unwrap();
            let station = Station { mac: Mac([2, 0, 0, 0, 0, 1]), network, vlan: None, mtu: 1500 };
            let address = Ipv4Addr::new(10, 9, 0, 11).into();
            let reach = Reach::At(Mac([2, 0, 0, 0, 0, 2]));
            let real = RealPlan { address, port: 80, weight: 1, upper, lower, egress: 0, reach };
            let takes = Takes::exact(Protocol::Tcp, Ipv4Addr::new(10, 9, 0, 100), 80);
            let scheduler = Scheduler::LeastConnection;
            let plan = ServicePlan { takes, scheduler, settings: Settings::default(), reals: vec![real] };
            let snapshot = Snapshot::lay_out(1, vec![station], &[plan]);
            let own = Ledger::new(snapshot.services.len(), snapshot.reals.len());
            let mut loads = Loads::new(&own);
            loads.adopt(&snapshot, &own);
            Rig { loads, own, snapshot }
        }

        fn is_overloaded(&self) -> bool {
            self.loads.of(&self.own, REAL).overloaded
        }

        /// One more connection, and whether that was the last.
        fn begin(&mut self) -> bool {
            self.own.reals[0].active.add(1);
            self.loads.began(&self.own, &self.snapshot, REAL);
            self.is_overloaded()
        }

        /// One fewer.
        fn end(&mut self) -> bool {
            self.own.reals[0].active.sub(1);
            self.loads.ended(&self.own, &self.snapshot, REAL);
            self.is_overloaded()
        }

        fn edit(&mut self, upper: u32, lower: u32) -> bool {
            (self.snapshot.reals[0].upper, self.snapshot.reals[0].lower) = (upper, lower);
            self.loads.adopt(&self.snapshot, &self.own);
            self.is_overloaded()
        }

        fn refresh(&mut self, now: Now) -> Load {
            let service = self.snapshot.services[0].clone().unwrap();
            let (snapshot, ledger) = (&self.snapshot, &self.own);
            let scene = Scene { now, tick: now.tick(), snapshot, ledger, traffic: &ledger.reals, longest: &1500 };
            self.loads.refresh(service.id, &service.roster, scene);
            self.loads.of(&self.own, REAL)
        }
    }

    #[test]
    fn a_limit_is_reached_from_below_and_left_from_above() {
        let mut rig = Rig::new(4, 2);
        assert_eq!([rig.begin(), rig.begin(), rig.begin(), rig.begin()], [false, false, false, true]);
        assert_eq!([rig.end(), rig.end(), rig.end()], [true, true, false], "below the lower limit");
        assert_eq!([rig.begin(), rig.begin(), rig.begin()], [false, false, true]);
        let mut rig = Rig::new(2, 1);
        rig.own.reals[0].inactive.add(1);
        assert_eq!([rig.begin(), rig.end()], [true, true], "inactive ones count as well");
        let mut rig = Rig::new(0, 0);
        assert!((0..100).all(|_| !rig.begin()), "no limit");
    }

    #[test]
    fn without_a_lower_limit_it_is_left_below_three_quarters_of_the_upper() {
        for (upper, left) in [(1, 0), (2, 1), (4, 2), (5, 3), (8, 5), (100, 74)] {
            let mut rig = Rig::new(upper, 0);
            (0..upper).for_each(|_| _ = rig.begin());
            let mut total = upper;
            while rig.is_overloaded() {
                rig.end();
                total -= 1;
            }
            assert_eq!(total, left, "of {upper}");
        }
    }

    #[test]
    fn an_edit_takes_the_flag_from_whose_upper_limit_it_raises_and_gives_it_to_nobody() {
        for ((upper, lower), stays) in
            [((2, 1), true), ((2, 0), true), ((2, 2), true), ((1, 1), true), ((3, 1), false), ((0, 0), false)]
        {
            let mut rig = Rig::new(2, 1);
            (0..2).for_each(|_| _ = rig.begin());
            assert_eq!(rig.edit(upper, lower), stays, "{upper} {lower}");
        }
        let mut rig = Rig::new(3, 1);
        assert!(!rig.begin() && !rig.edit(3, 1) && !rig.begin() && !rig.edit(2, 1), "the next that begins gives it");
        assert!(rig.begin());
        let mut rig = Rig::new(0, 0);
        (0..3).for_each(|_| _ = rig.begin());
        assert!(!rig.edit(2, 1), "it has more already, but none has begun since");
        assert!(rig.begin());
        assert!(!rig.edit(5, 1) && rig.begin(), "five");
        assert!(rig.edit(4, 1), "raised before, lowered now");
        rig.snapshot.reals[0].generation += 1;
        assert!(!rig.edit(4, 1), "its connections were ended, or the number is another real's");
        assert_eq!(rig.loads.of(&rig.own, REAL).active, 0);
    }

    /// A datagram that is scheduled by itself is a connection while it passes, and none after.
    #[test]
    fn what_passes_can_reach_a_limit_and_leaves_it_at_once() {
        for (standing, upper, lower, stays) in
            [(0, 1, 0, false), (0, 2, 0, false), (1, 2, 2, false), (1, 2, 1, true), (1, 3, 1, false), (3, 4, 0, true)]
        {
            let mut rig = Rig::new(upper, lower);
            assert!((0..standing).all(|_| !rig.begin()));
            rig.loads.passed(&rig.own, &rig.snapshot, REAL);
            assert_eq!(rig.is_overloaded(), stays, "{standing} stand, {upper} {lower}");
        }
        let mut rig = Rig::new(2, 2);
        (0..2).for_each(|_| _ = rig.begin());
        rig.own.reals[0].active.sub(1);
        assert!(rig.is_overloaded(), "nobody was told");
        rig.loads.passed(&rig.own, &rig.snapshot, REAL);
        assert!(!rig.is_overloaded(), "its end is an end");
    }

    #[test]
    fn the_others_loads_are_ten_milliseconds_old_at_most() {
        let mut rig = Rig::new(0, 0);
        let peers = [(); 2].map(|_| Arc::new(Ledger::new(1, 1)));
        rig.loads.set_peers(peers.to_vec());
        let at = |micros: u64| Now::from_secs(1) + Duration::from_micros(micros);
        let line = |peer: usize| &peers[peer].reals[0];
        line(0).active.set(3);
        line(1).active.set(4);
        line(1).inactive.set(5);
        rig.begin();
        assert_eq!(rig.refresh(at(0)), Load { active: 8, inactive: 5, overloaded: false });
        line(0).active.set(30);
        rig.begin();
        assert_eq!(rig.refresh(at(9_999)).active, 9, "its own at once, theirs are as they were");
        assert_eq!(rig.refresh(at(10_000)).active, 36);
        assert_eq!(rig.refresh(at(15_000)).active, 36);
        line(0).active.set(0);
        assert_eq!(rig.refresh(at(19_999)).active, 36, "ten milliseconds from the last question on");
        assert_eq!(rig.refresh(at(20_000)).active, 6);
        // Some that began elsewhere were counted out here.
        rig.own.reals[0].active.sub(5);
        assert_eq!(rig.refresh(at(20_000)).active, 1);
        rig.own.reals[0].active.sub(5);
        assert_eq!(rig.refresh(at(20_000)).active, 0, "not four thousand millions");
    }

    #[test]
    fn what_began_and_ended_elsewhere_reaches_and_leaves_limits() {
        let mut rig = Rig::new(4, 2);
        let peer = Arc::new(Ledger::new(1, 1));
        rig.loads.set_peers(vec![peer.clone()]);
        let mut overloaded = |seconds, theirs| {
            peer.reals[0].active.set(theirs);
            rig.refresh(Now::from_secs(seconds)).overloaded
        };
        let said: Vec<bool> = [3, 4, 2, 1, 3].into_iter().zip(1..).map(|(theirs, at)| overloaded(at, theirs)).collect();
        assert_eq!(said, [false, true, true, false, false]);
        assert!(rig.begin(), "theirs and its own together");
    }
}
