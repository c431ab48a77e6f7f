//! What one core owns, and its loop: take a burst, decide, hand on, and look after the table in between.

pub mod exchange;
pub mod handover;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrayvec::ArrayVec;

use crate::clock::Now;
use crate::config::Idle;
use crate::counters::{Counter, Ledger};
use crate::director::{Director, Sharing};
use crate::packet::port::MAX_PORTS;
use crate::packet::{Burst, Frame, Queue};
use crate::service::Snapshot;
use crate::sys::epoch::Reader;
use crate::verdict::{DropReason, Verdict};
use exchange::{Entry, Handed, Inbox, Outbox, Page, Question, Refused};
use handover::Links;

/// How long a worker spins before it lets go of the core.
const SPIN: Duration = Duration::from_micros(50);
/// How long it sleeps at most: the table wants its sweep.
const DOZE: Duration = Duration::from_millis(100);
/// Buckets that one turn of the loop sweeps or lists at most: a few microseconds.
const BUCKETS_A_TURN: usize = 64;
const BUCKETS_A_PAGE: usize = 512;

/// One port as a worker sees it: its own queue, and what is to leave by it after this burst.
struct Side<Q: Queue> {
    queue: Q,
    leaving: Burst<Q::Frame>,
}

pub struct Worker<Q: Queue> {
    sides: ArrayVec<Side<Q>, MAX_PORTS>,
    director: Director,
    snapshot: Reader<Snapshot>,
    ledger: Arc<Ledger>,
    inbox: Arc<Inbox<Q::Frame>>,
    outbox: Arc<Outbox<Q::Frame>>,
    /// The ways to and from the other workers.
    links: Links<Q::Frame>,
    /// Something went to the management core in this turn.
    ring: bool,
    round: Round,
}

/// The sweep of all tables that is going on.
#[derive(Default)]
struct Round {
    /// How often each table had been gone through when it began.
    begun: [u64; 2],
    /// Of the snapshot that was held then.
    epoch: u64,
}

impl<Q: Queue> Worker<Q> {
    /// `queues` holds one queue of each port, in the ports' order; at most `MAX_PORTS`.
    pub fn new(
        queues: Vec<Q>,
        director: Director,
        snapshot: Reader<Snapshot>,
        ledger: Arc<Ledger>,
        inbox: Arc<Inbox<Q::Frame>>,
        outbox: Arc<Outbox<Q::Frame>>,
    ) -> Worker<Q> {
        let sides = queues.into_iter().map(|queue| Side { queue, leaving: Burst::new() }).collect();
        Worker {
            sides,
            director,
            snapshot,
            ledger,
            inbox,
            outbox,
            links: Links::none(),
            ring: false,
            round: Round::default(),
        }
    }

    /// From now on, flows that other workers own go to them, and theirs come from wherever they arrived.
    pub fn share(&mut self, sharing: Sharing, links: Links<Q::Frame>) {
        self.director.share(sharing);
        self.links = links;
    }

    /// One turn of the loop; says whether there was anything to do.
    pub fn turn(&mut self, now: Now) -> bool {
        let mut busy = false;
        for port in 0..self.sides.len() {
            busy |= self.serve(now, port);
        }
        for other in 0..self.links.len() {
            busy |= self.take_over(now, other);
        }
        busy |= self.send_originated();
        busy |= self.answer(now);
        let limit = if busy { BUCKETS_A_TURN } else { usize::MAX };
        self.director.sweep(now, self.snapshot.read(), limit);
        self.note_round();
        if std::mem::take(&mut self.ring) {
            self.outbox.bell.ring();
        }
        self.ledger.frames.turns.add(1);
        busy
    }

    /// Tells when every table was gone through from its first bucket to its last since a snapshot was held. A table is
    /// somewhere in its round when the other one ends, so that takes the rest of that round and another.
    fn note_round(&mut self) {
        let rounds = [self.director.flows().rounds(), self.director.wide_flows().rounds()];
        if rounds.iter().zip(self.round.begun).all(|(now, begun)| *now >= begun + 2) {
            self.ledger.swept.set(self.round.epoch);
            self.round = Round { begun: rounds, epoch: self.snapshot.read().epoch };
        }
    }

    /// One burst of one port, to its end.
    fn serve(&mut self, now: Now, port: usize) -> bool {
        let mut frames = Burst::new();
        self.sides[port].queue.receive(&mut frames);
        if frames.is_empty() {
            // An idle worker keeps no old snapshot either.
            self.snapshot.read();
            return false;
        }
        let bytes = weigh(&frames);
        self.ledger.frames.received.add(frames.len() as u64);
        self.ledger.frames.received_bytes.add(bytes);
        self.decide(now, port as u8, &mut frames, bytes);
        true
    }

    /// One burst of frames that another worker received and whose flows are ours.
    fn take_over(&mut self, now: Now, other: usize) -> bool {
        let mut frames = Burst::new();
        let Some(port) = self.links.take(other, &mut frames) else { return false };
        self.ledger.frames.handed_in.add(frames.len() as u64);
        let bytes = weigh(&frames);
        self.decide(now, port, &mut frames, bytes);
        true
    }

    /// What becomes of frames that came in by `port`, so many bytes, to the end.
    fn decide(&mut self, now: Now, port: u8, frames: &mut Burst<Q::Frame>, bytes: u64) {
        let snapshot = self.snapshot.read();
        let verdicts = self.director.decide(now, &snapshot.stations[usize::from(port)], snapshot, frames);
        let verdicts = &verdicts[..frames.len()];
        if let [Verdict::Forward { port: egress }, ..] = verdicts[..]
            && verdicts.iter().all(|verdict| *verdict == verdicts[0])
        {
            // Nearly always: the burst leaves as it came.
            return send_forwarded(&self.ledger, &mut self.sides[usize::from(egress)].queue, frames, bytes);
        }
        for (frame, verdict) in frames.drain(..).zip(verdicts) {
            self.dispatch(port, frame, *verdict);
        }
        self.flush();
        if let Some((handed, lost)) = self.links.send(port) {
            let counters = &self.ledger.frames;
            counters.handed_out.add(handed as u64);
            counters.dropped[DropReason::HandoverQueueFull as usize].add(lost as u64);
        }
    }

    fn dispatch(&mut self, port: u8, frame: Q::Frame, verdict: Verdict) {
        let counters = &self.ledger.frames;
        let handed = Handed { port, frame };
        let (queued, taken, full) = match verdict {
            // As many frames as came in at most, so there is room.
            Verdict::Forward { port } => return self.sides[usize::from(port)].leaving.push(handed.frame),
            Verdict::Drop(reason) => return counters.dropped[reason as usize].add(1),
            Verdict::Hand { worker } => return self.links.stage(worker, handed.frame),
            Verdict::Manage => {
                (self.outbox.manage.push(handed).is_ok(), &counters.to_manage, DropReason::ManageQueueFull)
            }
            Verdict::Answer(answer) => {
                let queued = self.outbox.refused.push(Refused { handed, answer }).is_ok();
                (queued, &counters.to_manage, DropReason::AnswerQueueFull)
            }
            Verdict::Host => (self.outbox.host.push(handed).is_ok(), &counters.to_host, DropReason::HostQueueFull),
        };
        if queued {
            taken.add(1);
            self.ring = true;
        } else {
            counters.dropped[full as usize].add(1);
        }
    }

    /// Sends what the burst left behind.
    fn flush(&mut self) {
        for side in &mut self.sides {
            if !side.leaving.is_empty() {
                let bytes = weigh(&side.leaving);
                send_forwarded(&self.ledger, &mut side.queue, &mut side.leaving, bytes);
            }
        }
    }

    /// Sends what the management core and the host have to say, a burst at most.
    fn send_originated(&mut self) -> bool {
        if self.inbox.send.is_empty() {
            return false;
        }
        let counters = &self.ledger.frames;
        for _ in 0..Burst::<Q::Frame>::new().capacity() {
            let Some(handed) = self.inbox.send.pop() else { break };
            counters.originated.add(1);
            match self.sides.get_mut(usize::from(handed.port)) {
                Some(side) => side.leaving.push(handed.frame),
                None => counters.originated_dropped.add(1),
            }
        }
        for side in &mut self.sides {
            send(&mut side.queue, &mut side.leaving, &counters.originated_sent, &counters.originated_dropped);
        }
        true
    }

    /// Answers one question about the table, in a page that the asker brought.
    fn answer(&mut self, now: Now) -> bool {
        if self.inbox.questions.is_empty() {
            return false;
        }
        let Some(Question { from_bucket, mut page, answer }) = self.inbox.questions.pop() else { return false };
        let (director, tick) = (&self.director, now.tick());
        let (narrow, wide, templates) = (director.flows(), director.wide_flows(), director.templates());
        // Counted on from the one to the next: buckets, the wide table's, templates.
        let (first_wide, first_template) = (narrow.buckets(), narrow.buckets() + wide.buckets());
        let places = first_template + templates.room();
        let mut place = from_bucket;
        let end = places.min(from_bucket.saturating_add(BUCKETS_A_PAGE));
        while place < end && page.capacity() - page.len() >= 4 {
            if place < first_wide {
                page.extend(narrow.bucket(place, tick).map(|(key, pin)| Entry::narrow(key, pin, tick)));
            } else if place < first_template {
                page.extend(wide.bucket(place - first_wide, tick).map(|(key, pin)| Entry::wide(key, pin, tick)));
            } else {
                page.extend(templates.at(place - first_template).map(|template| Entry::template(template, tick)));
            }
            place += 1;
        }
        let next = (place < places).then_some(place);
        // Nobody waits for it any more when this fails.
        let _ = answer.try_send(Page { entries: page, next });
        true
    }
}

/// Sends forwarded frames, so many bytes; what the port does not take is dropped by name.
fn send_forwarded<Q: Queue>(ledger: &Ledger, queue: &mut Q, frames: &mut Burst<Q::Frame>, bytes: u64) {
    let counters = &ledger.frames;
    let full = &counters.dropped[DropReason::TxQueueFull as usize];
    let unsent = send(queue, frames, &counters.forwarded, full);
    counters.forwarded_bytes.add(bytes - unsent);
}

/// Sends all of these, and says how many bytes were not. A port that is full gets a second chance.
fn send<Q: Queue>(queue: &mut Q, frames: &mut Burst<Q::Frame>, sent: &Counter, refused: &Counter) -> u64 {
    let count = frames.len();
    queue.send(frames);
    if frames.is_empty() {
        sent.add(count as u64);
        return 0;
    }
    queue.send(frames);
    let (left, unsent) = (frames.len(), weigh(frames));
    frames.clear();
    sent.add((count - left) as u64);
    refused.add(left as u64);
    unsent
}

fn weigh<F: Frame>(frames: &Burst<F>) -> u64 {
    frames.iter().map(|frame| frame.wire_len() as u64).sum()
}

/// Runs a worker until `stop`. `descriptors` are the ports' own, readable when a frame has come.
pub fn run<Q: Queue>(
    mut worker: Worker<Q>,
    idle: Idle,
    descriptors: &[BorrowedFd<'_>],
    clock: impl Fn() -> Now,
    stop: &AtomicBool,
) {
    let inbox = worker.inbox.clone();
    let bell = std::iter::once(inbox.bell.as_fd());
    let mut awaited: Vec<_> = bell.chain(descriptors.iter().copied()).map(exchange::readable).collect();
    let mut last_busy = clock();
    while !stop.load(Ordering::Relaxed) {
        let now = clock();
        if worker.turn(now) {
            last_busy = now;
        } else if idle == Idle::Wait && now.since(last_busy) > SPIN {
            worker.ledger.frames.waits.add(1);
            inbox.bell.sleep(&mut awaited, DOZE, || worker.links.waiting());
            last_busy = clock();
        } else {
            std::hint::spin_loop();
        }
    }
}
