//! What one burst leaves from one pass of the decision to the next.

use crate::clock::Now;
use crate::counters::{Ledger, Traffic};
use crate::flow::{ClientKey, Event, Hash, Table};
use crate::forward::dr;
use crate::packet::{BURST, answer};
use crate::service::{Real, RealId, Service, ServiceId, Snapshot};
use crate::verdict::{Answer, Verdict};

/// What a packet told about itself, besides its flow, and its place in the burst.
#[derive(Clone, Copy)]
pub struct Note {
    pub packet: dr::Packet,
    pub event: Event,
    pub place: u8,
    /// Who takes such packets now, where the flow's key does not say so.
    pub service: Option<ServiceId>,
}

/// Room for the candidates of one burst, kept so that nobody has to clear it: what the table is asked for, and, in the
/// same order, what else is known of them and their places in the burst.
pub struct Room<K> {
    wanted: [(K, Hash); BURST],
    notes: [Note; BURST],
}

/// A good packet for a service, where it is in the room.
pub struct Candidate<'r, K> {
    pub wanted: &'r (K, Hash),
    pub note: &'r Note,
}

impl<K: Copy> Candidate<'_, K> {
    /// Who takes such packets now; none: nobody any more.
    pub fn service<'s, const Q: usize>(&self, snapshot: &'s Snapshot) -> Option<&'s Service>
    where
        K: ClientKey<Q>,
    {
        snapshot.service(self.key().service().or(self.note.service)?)
    }

    #[inline(always)]
    pub fn key(&self) -> K {
        self.wanted.0
    }

    #[inline(always)]
    pub fn hash(&self) -> Hash {
        self.wanted.1
    }
}

/// The candidates of one burst.
pub struct Candidates<'r, K> {
    room: &'r mut Room<K>,
    count: usize,
}

impl<K: Copy> Room<K> {
    /// What is in it means nothing yet.
    pub fn new<const Q: usize>(flows: &Table<K, Q>) -> Box<Room<K>>
    where
        K: ClientKey<Q>,
    {
        let key = K::from_words([0; Q]);
        let note = Note { packet: dr::Packet::new(0, 0, 0, false), event: Event::Blank, place: 0, service: None };
        Box::new(Room { wanted: [(key, flows.hash(key)); BURST], notes: [note; BURST] })
    }

    #[inline(always)]
    pub fn empty(&mut self) -> Candidates<'_, K> {
        Candidates { room: self, count: 0 }
    }
}

impl<K> Candidates<'_, K> {
    /// There are no more than frames in a burst.
    #[inline(always)]
    pub fn push(&mut self, key: K, hash: Hash, note: Note) {
        self.room.wanted[self.count % BURST] = (key, hash);
        self.room.notes[self.count % BURST] = note;
        self.count += 1;
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    #[inline(always)]
    pub fn wanted(&self) -> &[(K, Hash)] {
        &self.room.wanted[..self.count.min(BURST)]
    }

    #[inline(always)]
    pub fn notes(&self) -> &[Note] {
        &self.room.notes[..self.count.min(BURST)]
    }
}

/// Packets of one service in a row, counted together.
#[derive(Default)]
pub struct Run {
    service: usize,
    packets: u64,
    bytes: u64,
}

impl Run {
    #[inline(always)]
    fn count(&mut self, ledger: &Ledger, service: usize, bytes: u16) {
        if self.service != service {
            self.end(ledger);
            *self = Run { service, ..Run::default() };
        }
        self.packets += 1;
        self.bytes += u64::from(bytes);
    }

    #[inline(always)]
    pub fn end(&self, ledger: &Ledger) {
        ledger.count_run(self.service, self.packets, self.bytes);
    }
}

/// One burst's circumstances.
#[derive(Clone, Copy)]
pub struct Scene<'s> {
    pub now: Now,
    pub tick: u32,
    pub snapshot: &'s Snapshot,
    pub ledger: &'s Ledger,
    /// The ledger's lines of the reals.
    pub traffic: &'s [Traffic],
    /// The MTU of the port that the frames came in by.
    pub longest: &'s u16,
}

impl Scene<'_> {
    /// Counts a packet to a real of a service.
    #[inline(always)]
    pub fn count(&self, run: &mut Run, real: RealId, service: Option<ServiceId>, packet: dr::Packet) {
        if let Some(traffic) = self.traffic.get(real.index()) {
            traffic.count_packet(packet.total_len());
        }
        run.count(self.ledger, service.map_or(usize::MAX, ServiceId::index), packet.total_len());
    }

    /// The same for one that comes alone.
    pub fn count_one(&self, real: RealId, service: Option<ServiceId>, packet: dr::Packet) {
        let mut run = Run::default();
        self.count(&mut run, real, service, packet);
        run.end(self.ledger);
    }

    /// Counts the ICMP error, if it is one, that tells the sender what became of a packet of a connection of this real.
    pub fn count_told(&self, verdict: Verdict, id: RealId, real: &Real, packet: dr::Packet) {
        let is_error = matches!(verdict, Verdict::Answer(answer) if answer != Answer::Reset);
        if is_error && !real.removed {
            self.ledger.count_answer(real.service, id, answer::error_length(packet.total_len()));
        }
    }
}
