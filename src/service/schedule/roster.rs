//! Who may be chosen. A roster is part of the snapshot: built when it changes, shared by the workers.

use std::net::IpAddr;
use std::sync::Arc;

use super::hash::{destination_table, source_table};
use super::{Load, Opening, Scene, kernel_maglev};
use crate::config::Scheduler;
use crate::service::RealId;
use crate::service::maglev::{Maglev, client_hash, name_of};

/// What a scheduler may know of a real.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The same as long as the real is known, even if it goes and comes back.
    pub id: RealId,
    /// Tells it from others that had its id before.
    pub holder: u8,
    /// It answers. Nothing is sent to those that do not, whatever the kernel would do.
    pub ready: bool,
    pub weight: u16,
    /// The last weight it had that was not zero, since it was added; zero: it was added with none. The kernel's mh
    /// leaves a drained real its places.
    pub last_weight: u16,
    pub address: IpAddr,
    /// Zero in a service by mark.
    pub port: u16,
}

/// A service's reals, newest first, and what its scheduler looks up in.
#[derive(Debug, Default)]
pub struct Roster {
    members: Box<[Member]>,
    /// How many edits of the list there were, also such as changed nothing: the kernel's wrr starts over at each.
    edits: u32,
    table: Table,
    /// Who gets what has no flow and can have none; empty where the scheduler's own table is one for that.
    stateless: Arc<Maglev>,
}

#[derive(Debug, Default)]
pub(super) enum Table {
    #[default]
    None,
    /// Places in the list.
    Places(Box<[u16]>),
    Maglev(Maglev),
}

impl Roster {
    /// `members` newest first; `seed` is that of the group of directors, for our own Maglev.
    pub fn build(scheduler: Scheduler, members: Box<[Member]>, edits: u32, seed: u64) -> Roster {
        let stateless = match scheduler {
            Scheduler::Maglev => Arc::default(),
            _ => Arc::new(Maglev::build(&entries(&members))),
        };
        Roster::with(scheduler, members, edits, seed, stateless)
    }

    /// The same with a table for what has no state that others may have too: its numbers are places among the members.
    pub fn with(scheduler: Scheduler, members: Box<[Member]>, edits: u32, seed: u64, stateless: Arc<Maglev>) -> Roster {
        let table = match scheduler {
            Scheduler::Maglev => Table::Maglev(Maglev::large(seed, &entries(&members))),
            Scheduler::SourceHash(_) => Table::Places(source_table(&members)),
            Scheduler::DestinationHash => Table::Places(destination_table(&members)),
            Scheduler::KernelMaglev(_) => Table::Places(kernel_maglev::table(&members)),
            _ => Table::None,
        };
        Roster { members, edits, table, stateless }
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The table that services with the same reals have in common.
    pub fn stateless(&self) -> &Arc<Maglev> {
        &self.stateless
    }

    pub fn edits(&self) -> u32 {
        self.edits
    }

    /// The real in this place of the table, if the table has any.
    pub(super) fn in_place(&self, place: usize) -> Option<&Member> {
        match &self.table {
            Table::Places(places) => self.members.get(usize::from(*places.get(place)?)),
            _ => None,
        }
    }

    /// By our own Maglev.
    pub(super) fn by_hash(&self, hash: u64) -> Option<&Member> {
        match &self.table {
            Table::Maglev(maglev) => self.members.get(usize::from(maglev.choose(hash)?)),
            _ => None,
        }
    }

    /// Who gets a connection that nothing is known of: by the client's address and port alone, the same on every
    /// director. A service that schedules by Maglev gives it to whom it would have given it.
    pub fn without_state(&self, scheduler: Scheduler, opening: &Opening) -> Option<RealId> {
        let hash = client_hash(opening.client, opening.client_port);
        let own = match scheduler {
            Scheduler::KernelMaglev(flags) => {
                let scene = Scene { roster: self, loads: |_| Load::default() };
                kernel_maglev::choose(&scene, flags, opening).map(|member| member.id)
            }
            Scheduler::Maglev => self.by_hash(hash).map(|member| member.id),
            _ => None,
        };
        own.or_else(|| Some(self.members.get(usize::from(self.stateless.choose(hash)?))?.id))
    }
}

/// Each one's place in the list, name and weight. Who does not answer has no part: its flows spread over the others.
fn entries(members: &[Member]) -> Vec<(u16, u64, u16)> {
    let entry = |(place, member): (u16, &Member)| {
        (place, name_of(member.address, member.port), if member.ready { member.weight } else { 0 })
    };
    (0..).zip(members).map(entry).collect()
}
