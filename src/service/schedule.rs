//! Choosing a real for a new connection. One state a service and worker, no sharing.
//!
//! The choices are the kernel's, for the same history on one core: IPVS walks its reals newest first, and its weighted
//! round robin starts at the level that adding the reals one by one leaves it at.

use super::snapshot::Reals;
use super::{Real, RealId, Service};
use crate::config::Scheduler;

/// Where a scheduler stands in its walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    RoundRobin(Walk),
    WeightedRoundRobin(WeightedWalk),
}

/// The place of the last choice, counted newest first; none before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    last: Option<usize>,
}

/// The kernel's interleaved weighted round robin: each pass serves the reals whose weight reaches the level, and each
/// pass's level is one step lower, from the greatest weight down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightedWalk {
    walk: Walk,
    level: u32,
    top: u32,
    step: u32,
}

impl Schedule {
    /// A worker's start: worker 0 where the kernel would, worker i as if i connections had gone before, so that the
    /// first connections of several workers do not all go to one real.
    pub fn start(service: &Service, reals: &[Real], worker: usize) -> Schedule {
        let own = Reals { ids: &service.reals, all: reals };
        let mut schedule = match service.scheduler {
            Scheduler::RoundRobin => Schedule::RoundRobin(Walk::default()),
            _ => Schedule::WeightedRoundRobin(WeightedWalk::start(own)),
        };
        for _ in 0..worker {
            schedule.next(own, |real| real.weight > 0);
        }
        schedule
    }

    /// The real for the next new connection: one that has a weight and answers.
    pub fn choose(&mut self, service: &Service, reals: &[Real]) -> Option<RealId> {
        let own = Reals { ids: &service.reals, all: reals };
        let chosen = self.next(own, |real| real.weight > 0 && real.answers)?;
        service.reals.get(chosen).copied()
    }

    fn next(&mut self, reals: Reals, usable: impl Fn(&Real) -> bool) -> Option<usize> {
        match self {
            Schedule::RoundRobin(walk) => walk.next(reals, &usable),
            Schedule::WeightedRoundRobin(weighted) => weighted.next(reals, &usable),
        }
    }
}

impl Walk {
    /// The next place that will do before the end of the list; it becomes the last.
    fn rest(&mut self, reals: Reals, will_do: impl Fn(&Real) -> bool) -> Option<usize> {
        let from = self.last.map_or(0, |last| last + 1);
        let found = (from..reals.len()).find(|place| will_do(reals.at(*place)))?;
        self.last = Some(found);
        Some(found)
    }

    fn next(&mut self, reals: Reals, usable: &impl Fn(&Real) -> bool) -> Option<usize> {
        self.rest(reals, usable).or_else(|| {
            let from_the_top = Walk::default().rest(reals, usable)?;
            self.last = Some(from_the_top);
            self.last
        })
    }
}

impl WeightedWalk {
    /// As if the reals had been added one by one, oldest first.
    fn start(reals: Reals) -> WeightedWalk {
        let mut level = 0;
        let (mut top, mut step) = (0, 1);
        for added in (0..reals.len()).rev() {
            let added = Reals { ids: &reals.ids[added..], ..reals };
            step = common_divisor(added);
            let greatest = added.iter().map(|real| u32::from(real.weight)).max().unwrap_or(0);
            top = greatest.saturating_sub(step - 1);
            if level > top || level == 0 {
                level = top;
            } else if step > 1 {
                level = level / step * step + 1;
            }
        }
        WeightedWalk { walk: Walk::default(), level, top, step }
    }

    fn next(&mut self, reals: Reals, usable: &impl Fn(&Real) -> bool) -> Option<usize> {
        let greatest = reals.iter().filter(|real| usable(real)).map(|real| u32::from(real.weight)).max()?;
        // At most: the rest of this pass, the passes that nobody reaches (skipped in one step), one more, and, after
        // the lowest level, the same again from the top.
        for _ in 0..4 {
            let level = self.level;
            let found = self.walk.rest(reals, |real| usable(real) && u32::from(real.weight) >= level);
            if found.is_some() {
                return found;
            }
            self.walk.last = None;
            self.level = self.lower(greatest);
        }
        None
    }

    /// The next level that a usable real reaches; from the top again below the lowest.
    fn lower(&self, greatest: u32) -> u32 {
        let next = match self.level.saturating_sub(self.step) {
            0 => self.top,
            next => next,
        };
        next - next.saturating_sub(greatest).next_multiple_of(self.step)
    }
}

/// Of all weights but zero; 1 when there is none.
fn common_divisor(reals: Reals) -> u32 {
    let divisor = reals.iter().map(|real| u32::from(real.weight)).fold(0, |mut a, mut b| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    });
    divisor.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::snapshot::tests::{reals_with_weights, service_with};
    use proptest::prelude::*;

    fn run(scheduler: Scheduler, weights: &[u16], worker: usize, count: usize) -> String {
        let reals = reals_with_weights(weights);
        let service = service_with(scheduler, reals.len());
        let mut schedule = Schedule::start(&service, &reals, worker);
        let names =
            (0..count).map(|_| schedule.choose(&service, &reals).map_or("-".into(), |id| (id.0 + 1).to_string()));
        names.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_kernel_s_recorded_runs() {
        use Scheduler::{RoundRobin as Rr, WeightedRoundRobin as Wrr};
        assert_eq!(run(Rr, &[1, 1, 1], 0, 7), "3 2 1 3 2 1 3");
        assert_eq!(run(Wrr, &[3, 2, 1], 0, 14), "3 2 1 1 2 1 3 2 1 1 2 1 3 2");
        assert_eq!(run(Wrr, &[4, 2], 0, 8), "2 1 1 2 1 1 2 1");
        assert_eq!(run(Wrr, &[100, 50, 25], 0, 14), "3 2 1 1 1 2 1 3 2 1 1 1 2 1");
        assert_eq!(run(Wrr, &[1, 1, 1], 0, 4), "3 2 1 3");
    }

    #[test]
    fn each_worker_starts_elsewhere() {
        assert_eq!(run(Scheduler::RoundRobin, &[1, 1, 1], 1, 3), "2 1 3");
        assert_eq!(run(Scheduler::RoundRobin, &[1, 1, 1], 2, 3), "1 3 2");
    }

    #[test]
    fn weight_zero_and_the_unresolved_get_nothing() {
        assert_eq!(run(Scheduler::RoundRobin, &[1, 0, 1], 0, 4), "3 1 3 1");
        assert_eq!(run(Scheduler::WeightedRoundRobin, &[0, 0], 0, 2), "- -");
        assert_eq!(run(Scheduler::WeightedRoundRobin, &[], 0, 1), "-");
        let mut reals = reals_with_weights(&[65535, 1]);
        reals[0].answers = false;
        let service = service_with(Scheduler::WeightedRoundRobin, 2);
        let mut schedule = Schedule::start(&service, &reals, 0);
        for _ in 0..3 {
            assert_eq!(schedule.choose(&service, &reals), Some(RealId(1)));
        }
        reals[1].answers = false;
        assert_eq!(schedule.choose(&service, &reals), None);
    }

    proptest! {
        /// Over a whole round each real is chosen in exact proportion to its weight, whichever of them answer.
        #[test]
        fn proportions_are_exact(weights in proptest::collection::vec(0u16..40, 1..8), silent in proptest::collection::vec(any::<bool>(), 8)) {
            let mut reals = reals_with_weights(&weights);
            for (real, silent) in reals.iter_mut().zip(&silent) {
                real.answers = !silent;
            }
            let service = service_with(Scheduler::WeightedRoundRobin, reals.len());
            let mut schedule = Schedule::start(&service, &reals, 0);
            let share = |real: &Real| if real.answers { u32::from(real.weight) / common_divisor(Reals { ids: &service.reals, all: &reals }) } else { 0 };
            let round: u32 = reals.iter().map(share).sum();
            let mut counts = vec![0; reals.len()];
            for _ in 0..2 * round {
                counts[schedule.choose(&service, &reals).expect("somebody has a share").index()] += 1;
            }
            for (real, count) in reals.iter().zip(counts) {
                prop_assert_eq!(count, 2 * share(real));
            }
        }
    }
}
