//! What a worker counts. One writer each (the worker), any number of readers, no read-modify-write on the path:
//! a burst is added up in plain integers and stored once.
//!
//! Invariant: received + handed_in = forwarded + to_manage + to_host + handed_out + Σ dropped, and originated =
//! originated_sent + originated_dropped. Each term is counted where it happens; none is computed from the others. Over
//! all workers, Σ handed_out − Σ handed_in is what waits between them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam::utils::CachePadded;

use crate::flow::Pin;
use crate::service::{RealId, ServiceId};
use crate::verdict::DropReason;

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Only the owner calls this: a load and a store, not an atomic addition.
    #[inline]
    pub fn add(&self, by: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(by), Relaxed);
    }

    /// For what is a state rather than a count.
    pub fn set(&self, to: u64) {
        self.0.store(to, Relaxed);
    }

    pub fn sub(&self, by: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(by), Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Everything one worker counts about frames.
#[derive(Debug, Default)]
pub struct WorkerCounters {
    pub received: Counter,
    pub received_bytes: Counter,
    pub forwarded: Counter,
    pub forwarded_bytes: Counter,
    pub to_manage: Counter,
    pub to_host: Counter,
    /// Frames of flows that another worker owns, given to it, and such that others gave to this worker.
    pub handed_out: Counter,
    pub handed_in: Counter,
    pub dropped: [Counter; DropReason::COUNT],
    /// Frames that the management core or the host gave this worker to send.
    pub originated: Counter,
    pub originated_sent: Counter,
    pub originated_dropped: Counter,
    /// Connections that were entered into the table, that ran out, and that are in it.
    pub flows_created: Counter,
    pub flows_expired: Counter,
    pub flows: Counter,
    /// Of the forwarded: those that have no entry in the table, because it or the half-open ones are at their limit.
    pub stateless: Counter,
    /// Clients of persistent services that there was no room to remember.
    pub templates_refused: Counter,
    /// Turns of the loop, and those that ended in waiting for the port.
    pub turns: Counter,
    pub waits: Counter,
}

/// What a worker counts for one service, or for one real.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Traffic {
    pub connections: Counter,
    pub packets: Counter,
    pub bytes: Counter,
    /// Now in the table, by LVS's words: established or opening, and all else.
    pub active: Counter,
    pub inactive: Counter,
    /// The director's ICMP errors about connections: the kernel's OutPkts and OutBytes, which in direct routing count
    /// nothing else. Counted when a worker decides; a limit may hold some back.
    pub answers: Counter,
    pub answer_bytes: Counter,
}

/// One cache line each.
const _: () = assert!(size_of::<Traffic>() == 64);

/// All that one worker counts. Its own memory, read by whoever asks.
#[derive(Debug)]
pub struct Ledger {
    pub frames: CachePadded<WorkerCounters>,
    /// By the service's and the real's index.
    pub services: Box<[Traffic]>,
    pub reals: Box<[Traffic]>,
    /// The epoch of the snapshot since which the worker has gone through its whole flow table.
    pub swept: Counter,
}

impl Ledger {
    /// Lines for all numbers that there can be.
    pub fn new(services: usize, reals: usize) -> Ledger {
        let lines = |count| (0..count).map(|_| Traffic::default()).collect();
        Ledger {
            frames: CachePadded::default(),
            services: lines(services),
            reals: lines(reals),
            swept: Counter::default(),
        }
    }

    /// Forgets what was counted under numbers that are about to mean something else. Only for numbers that nobody has:
    /// the worker counts nothing under them until it has taken up the snapshot that gives them away, so there is still
    /// one writer.
    pub fn clear(&self, services: &[ServiceId], reals: &[RealId]) {
        let services = services.iter().filter_map(|id| self.services.get(id.index()));
        let reals = reals.iter().filter_map(|id| self.reals.get(id.index()));
        services.chain(reals).for_each(Traffic::clear);
    }

    /// Counts what passes anew for those that came again; their connections stay counted. Here too nothing was counted
    /// since they went.
    pub fn restart(&self, services: &[ServiceId], reals: &[RealId]) {
        let services = services.iter().filter_map(|id| self.services.get(id.index()));
        let reals = reals.iter().filter_map(|id| self.reals.get(id.index()));
        services.chain(reals).for_each(Traffic::restart);
    }

    /// Several packets of a service.
    #[inline]
    pub fn count_run(&self, service: usize, packets: u64, bytes: u64) {
        if let Some(traffic) = self.services.get(service) {
            traffic.packets.add(packets);
            traffic.bytes.add(bytes);
        }
    }

    /// An ICMP error of so many bytes about a connection of a real.
    pub fn count_answer(&self, service: Option<ServiceId>, real: RealId, bytes: u16) {
        let service = service.and_then(|service| self.services.get(service.index()));
        for traffic in [service, self.reals.get(real.index())].into_iter().flatten() {
            traffic.answers.add(1);
            traffic.answer_bytes.add(bytes.into());
        }
    }

    pub fn flow_began(&self, service: Option<ServiceId>, pin: Pin) {
        self.frames.flows_created.add(1);
        self.frames.flows.add(1);
        for traffic in self.traffic(service, pin) {
            traffic.connections.add(1);
            traffic.standing(pin).add(1);
        }
    }

    /// A connection that was over as soon as it had begun.
    pub fn flow_passed(&self, service: ServiceId, real: RealId) {
        let lines = [self.services.get(service.index()), self.reals.get(real.index())];
        lines.into_iter().flatten().for_each(|traffic| traffic.connections.add(1));
    }

    /// A connection is in the table no longer.
    pub fn flow_left(&self) {
        self.frames.flows_expired.add(1);
        self.frames.flows.sub(1);
    }

    /// It was counted as its real's until then.
    pub fn flow_ended(&self, service: Option<ServiceId>, pin: Pin) {
        for traffic in self.traffic(service, pin) {
            traffic.standing(pin).sub(1);
        }
    }

    /// None of a real's connections is counted as its any more, nor as its service's.
    pub fn connections_ended(&self, service: Option<ServiceId>, real: RealId) {
        let Some(line) = self.reals.get(real.index()) else { return };
        let (active, inactive) = (line.active.get(), line.inactive.get());
        let service = service.and_then(|service| self.services.get(service.index()));
        for traffic in service.into_iter().chain([line]) {
            traffic.active.sub(active);
            traffic.inactive.sub(inactive);
        }
    }

    /// From active to inactive, or back.
    pub fn flow_changed(&self, service: Option<ServiceId>, old: Pin, new: Pin) {
        for traffic in self.traffic(service, new) {
            traffic.standing(old).sub(1);
            traffic.standing(new).add(1);
        }
    }

    fn traffic(&self, service: Option<ServiceId>, pin: Pin) -> impl Iterator<Item = &Traffic> {
        let service = service.and_then(|service| self.services.get(service.index()));
        [service, self.reals.get(pin.real().index())].into_iter().flatten()
    }
}

impl Traffic {
    /// One packet.
    #[inline(always)]
    pub fn count_packet(&self, bytes: u16) {
        self.packets.add(1);
        self.bytes.add(bytes.into());
    }

    fn clear(&self) {
        let Traffic { active, inactive, .. } = self;
        [active, inactive].into_iter().for_each(|counter| counter.set(0));
        self.restart();
    }

    fn restart(&self) {
        let Traffic { connections, packets, bytes, active: _, inactive: _, answers, answer_bytes } = self;
        [connections, packets, bytes, answers, answer_bytes].into_iter().for_each(|counter| counter.set(0));
    }

    fn standing(&self, pin: Pin) -> &Counter {
        if pin.state().is_active() { &self.active } else { &self.inactive }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(traffic: &Traffic) -> [u64; 7] {
        let Traffic { connections, packets, bytes, active, inactive, answers, answer_bytes } = traffic;
        [connections, packets, bytes, active, inactive, answers, answer_bytes].map(Counter::get)
    }

    fn counted() -> Traffic {
        let traffic = Traffic::default();
        let Traffic { connections, packets, bytes, active, inactive, answers, answer_bytes } = &traffic;
        for counter in [connections, packets, bytes, active, inactive, answers, answer_bytes] {
            counter.add(7);
        }
        traffic
    }

    #[test]
    fn who_comes_again_keeps_connections_only_and_who_is_new_keeps_nothing() {
        let ledger = Ledger { reals: [counted(), counted(), counted()].into(), ..Ledger::new(0, 0) };
        ledger.restart(&[], &[RealId(0)]);
        ledger.clear(&[], &[RealId(1)]);
        let [again, new, other] = [0, 1, 2].map(|real| numbers(&ledger.reals[real]));
        assert_eq!((again, new, other), ([0, 0, 0, 7, 7, 0, 0], [0; 7], [7; 7]));
    }
}
