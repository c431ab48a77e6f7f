//! What the reals have to do, as schedulers are told: exact for this worker, at most ten milliseconds old for the others.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Now;
use crate::counters::{Ledger, Traffic};
use crate::service::{Load, Real, RealId, Roster, ServiceId, Snapshot};

const OLDEST: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Default)]
struct Counts {
    active: u32,
    inactive: u32,
}

/// Whether a real reached its upper limit, which limit that was, and of which generation its number.
#[derive(Clone, Copy, Default)]
struct Overload {
    reached: bool,
    generation: u8,
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

    /// Asks the other workers, if that was too long ago.
    pub fn refresh(&mut self, service: ServiceId, roster: &Roster, now: Now) {
        let Some(asked) = self.asked.get_mut(service.index()) else { return };
        if self.peers.is_empty() || asked.is_some_and(|asked| now.since(asked) < OLDEST) {
            return;
        }
        *asked = Some(now);
        for member in roster.members() {
            let lines = self.peers.iter().filter_map(|peer| peer.reals.get(member.id.index()));
            if let Some(others) = self.others.get_mut(member.id.index()) {
                *others = lines.map(counts_of).fold(Counts::default(), |one, two| Counts {
                    active: one.active.wrapping_add(two.active),
                    inactive: one.inactive.wrapping_add(two.inactive),
                });
            }
        }
    }

    pub fn of(&self, own: &Ledger, snapshot: &Snapshot, id: RealId) -> Load {
        let counts = self.counts(own, id);
        let overload = self.overloads.get(id.index()).copied().unwrap_or_default();
        let overloaded = overload.lasts(snapshot.real(id), counts);
        Load { active: counts.active, inactive: counts.inactive, overloaded }
    }

    /// All workers' together. One may be negative where a connection began on one worker and was counted out by another.
    fn counts(&self, own: &Ledger, id: RealId) -> Counts {
        let own = own.reals.get(id.index()).map(counts_of).unwrap_or_default();
        let others = self.others.get(id.index()).copied().unwrap_or_default();
        let sum = |one: u32, two: u32| u32::try_from(one.wrapping_add(two) as i32).unwrap_or(0);
        Counts { active: sum(own.active, others.active), inactive: sum(own.inactive, others.inactive) }
    }

    /// A connection of the real has begun or ended.
    pub fn note(&mut self, own: &Ledger, snapshot: &Snapshot, id: RealId) {
        let (counts, real) = (self.counts(own, id), snapshot.real(id));
        if let Some(overload) = self.overloads.get_mut(id.index()) {
            let reached = overload.lasts(real, counts) || (real.upper > 0 && counts.total() >= real.upper);
            *overload = Overload { reached, generation: real.generation, upper: real.upper };
        }
    }
}

impl Counts {
    fn total(self) -> u32 {
        self.active.saturating_add(self.inactive)
    }
}

impl Overload {
    /// It ends below the lower limit, or below three quarters of the upper one where there is no lower; and when the
    /// upper one is raised or taken away.
    fn lasts(self, real: &Real, counts: Counts) -> bool {
        let raised = real.upper == 0 || real.upper > self.upper;
        let below = match real.lower {
            0 => u64::from(counts.total()) * 4 < u64::from(real.upper) * 3,
            lower => counts.total() < lower,
        };
        self.reached && self.generation == real.generation && !raised && !below
    }
}

fn counts_of(traffic: &Traffic) -> Counts {
    Counts { active: traffic.active.get() as u32, inactive: traffic.inactive.get() as u32 }
}
