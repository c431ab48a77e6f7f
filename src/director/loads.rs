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
