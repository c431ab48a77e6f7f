//! Choosing a real for a new connection. Who may be chosen is a [`Roster`], which belongs to the snapshot; where a
//! scheduler stands is a [`Schedule`], one a service and worker, shared with nobody.
//!
//! The choices are the kernel's for the same history on one core. It walks its reals newest first, and the first of
//! several equally good ones wins. Two things are not the kernel's: a real that does not answer is passed over as one
//! that is overloaded, and `maglev`, which the kernel does not have.

mod cache;
mod hash;
mod kernel_maglev;
mod least;
mod locality;
mod roster;
mod twos;
mod walk;

use std::net::IpAddr;

use crate::config::Scheduler;
use crate::service::{RealId, maglev};
use locality::{Locality, Replicated};
use twos::Draw;
use walk::{Walk, WeightedWalk};

pub use cache::MOST_ADDRESSES;
pub use roster::{Member, Roster};

/// What a real has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    pub active: u32,
    pub inactive: u32,
    /// It reached its upper limit, and has not fallen below its lower one since.
    pub overloaded: bool,
}

/// The connection that wants a real.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    pub client: IpAddr,
    pub client_port: u16,
    /// The virtual address that it asked for.
    pub address: IpAddr,
}

/// Where a scheduler stands.
#[derive(Clone, Debug)]
pub struct Schedule {
    scheduler: Scheduler,
    /// The roster's edits that were followed.
    edits: u32,
    standing: Standing,
}

#[derive(Clone, Debug)]
enum Standing {
    /// The roster and the loads say it all.
    None,
    Walk(Walk),
    Weighted(WeightedWalk),
    Locality(Box<Locality>),
    Replicated(Box<Replicated>),
    Draw(Draw),
}

/// Where and when a schedule starts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Start {
    /// Worker 0 starts where the kernel would, worker i as if i connections had gone before, so that the first
    /// connections of several workers do not all go to one real.
    pub worker: usize,
    /// How many virtual addresses the service takes: lblc and lblcr have room for so many, at most
    /// [`MOST_ADDRESSES`].
    pub addresses: usize,
    /// For what is drawn by lot.
    pub seed: u64,
    pub tick: u32,
}

/// One choice's circumstances.
struct Scene<'r, L> {
    roster: &'r Roster,
    loads: L,
}

impl<L: Fn(RealId) -> Load> Scene<'_, L> {
    fn load(&self, member: &Member) -> Load {
        (self.loads)(member.id)
    }

    fn is_usable(&self, member: &Member) -> bool {
        member.weight > 0 && member.ready && !self.load(member).overloaded
    }

    /// Only an answer is missing: the kernel would choose it.
    fn is_waiting(&self, member: &Member) -> bool {
        member.weight > 0 && !member.ready && !self.load(member).overloaded
    }

    /// The usable ones with their loads, which are asked for once: of many reals that is all the cost of a choice.
    fn loaded(&self) -> impl Iterator<Item = (&Member, Load)> {
        let members = self.roster.members().iter().filter(|member| member.weight > 0 && member.ready);
        members.map(|member| (member, self.load(member))).filter(|(_, load)| !load.overloaded)
    }

    fn usable(&self) -> impl Iterator<Item = &Member> {
        self.roster.members().iter().filter(|member| self.is_usable(member))
    }
}

impl Schedule {
    /// For a service that begins: as if its reals had been added one by one.
    pub fn start(scheduler: Scheduler, roster: &Roster, start: Start) -> Schedule {
        Schedule::begin(scheduler, roster, start, WeightedWalk::grown)
    }

    /// The service has this scheduler from now on. One that has it already goes on as it was, but for its flags.
    pub fn switch(&mut self, scheduler: Scheduler, roster: &Roster, start: Start) {
        if scheduler.name() == self.scheduler.name() {
            self.scheduler = scheduler;
        } else {
            *self = Schedule::begin(scheduler, roster, start, WeightedWalk::over);
        }
    }

    fn begin(
        scheduler: Scheduler,
        roster: &Roster,
        start: Start,
        weighted: impl Fn(&[Member]) -> WeightedWalk,
    ) -> Schedule {
        let standing = match scheduler {
            Scheduler::RoundRobin => Standing::Walk(Walk::default()),
            Scheduler::WeightedRoundRobin => Standing::Weighted(weighted(roster.members())),
            Scheduler::LocalityLeastConnection => {
                Standing::Locality(Box::new(Locality::new(start.addresses, start.seed, start.tick)))
            }
            Scheduler::LocalityReplicated => Standing::Replicated(Box::new(Replicated::new(
                start.addresses,
                roster.members().len(),
                start.seed,
                start.tick,
            ))),
            Scheduler::TwoChoices => Standing::Draw(Draw::new(start.seed, start.worker)),
            _ => Standing::None,
        };
        let mut schedule = Schedule { scheduler, edits: roster.edits(), standing };
        schedule.walk_ahead(roster.members(), start.worker);
        schedule
    }

    /// Only what walks can be ahead: for all others the loads are those of all workers.
    fn walk_ahead(&mut self, members: &[Member], connections: usize) {
        for _ in 0..connections {
            match &mut self.standing {
                Standing::Walk(walk) => _ = walk.next(members, |member| member.weight > 0),
                Standing::Weighted(walk) => _ = walk.next(members, |member| member.weight > 0, |_| false),
                _ => return,
            }
        }
    }

    /// The roster's edits that were followed.
    pub fn edits(&self) -> u32 {
        self.edits
    }

    /// The list was edited. To be told at each edit is to do as the kernel does; told once after several, a run goes on
    /// from a place near by. `choose` sees to it when nobody else did.
    pub fn changed(&mut self, roster: &Roster) {
        if std::mem::replace(&mut self.edits, roster.edits()) == roster.edits() {
            return;
        }
        match &mut self.standing {
            Standing::Walk(walk) => walk.changed(roster.members()),
            Standing::Weighted(walk) => walk.changed(roster.members()),
            _ => (),
        }
    }

    /// The real for a new connection. Allocates nothing.
    pub fn choose(
        &mut self,
        roster: &Roster,
        opening: &Opening,
        loads: impl Fn(RealId) -> Load,
        tick: u32,
    ) -> Option<RealId> {
        self.changed(roster);
        let scene = Scene { roster, loads };
        let members = roster.members();
        let chosen = match &mut self.standing {
            Standing::Walk(walk) => walk.next(members, |member| scene.is_usable(member)),
            Standing::Weighted(walk) => {
                walk.next(members, |member| scene.is_usable(member), |member| scene.is_waiting(member))
            }
            Standing::Locality(locality) => locality.choose(&scene, opening.address, tick),
            Standing::Replicated(replicated) => replicated.choose(&scene, opening.address, tick),
            Standing::Draw(draw) => draw.choose(&scene),
            Standing::None => by_rule(self.scheduler, &scene, opening),
        };
        chosen.map(|member| member.id)
    }
}

/// What needs no memory of earlier choices.
fn by_rule<'r, L: Fn(RealId) -> Load>(
    scheduler: Scheduler,
    scene: &'r Scene<'_, L>,
    opening: &Opening,
) -> Option<&'r Member> {
    match scheduler {
        Scheduler::LeastConnection => least::connections(scene),
        Scheduler::WeightedLeastConnection => least::weighted(scene),
        Scheduler::ShortestDelay => least::delay(scene),
        Scheduler::NeverQueue => least::never_queue(scene),
        Scheduler::FailOver => least::fail_over(scene),
        Scheduler::Overflow => least::overflow(scene),
        Scheduler::SourceHash(flags) => hash::by_source(scene, flags, opening),
        Scheduler::DestinationHash => hash::by_destination(scene, opening.address),
        Scheduler::KernelMaglev(flags) => kernel_maglev::choose(scene, flags, opening),
        Scheduler::Maglev => {
            let hash = maglev::client_hash(opening.client, opening.client_port);
            scene.roster.by_hash(hash).filter(|member| scene.is_usable(member))
        }
        // These have a standing.
        Scheduler::RoundRobin
        | Scheduler::WeightedRoundRobin
        | Scheduler::LocalityLeastConnection
        | Scheduler::LocalityReplicated
        | Scheduler::TwoChoices => None,
    }
}

#[cfg(test)]
mod tests;
