//! What a worker counts. One writer each (the worker), any number of readers, no read-modify-write on the path:
//! a burst is added up in plain integers and stored once.
//!
//! Invariant: received = forwarded + to_manage + to_host + Σ dropped, and originated = originated_sent +
//! originated_dropped. Each term is counted where it happens; none is computed from the others.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::verdict::DropReason;

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Only the owner calls this: a load and a store, not an atomic addition.
    pub fn add(&self, by: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(by), Relaxed);
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
    pub dropped: [Counter; DropReason::COUNT],
    /// Frames that the management core or the host gave this worker to send.
    pub originated: Counter,
    pub originated_sent: Counter,
    pub originated_dropped: Counter,
    /// Connections that were entered into the table, that ran out, and that are in it.
    pub flows_created: Counter,
    pub flows_expired: Counter,
    pub flows: Counter,
    /// Turns of the loop, and those that ended in waiting for the port.
    pub turns: Counter,
    pub waits: Counter,
}

/// What a worker counts for one service, or for one real.
#[derive(Debug, Default)]
pub struct Traffic {
    pub connections: Counter,
    pub packets: Counter,
    pub bytes: Counter,
    /// Now in the table, by LVS's words: established or opening, and all else.
    pub active: Counter,
    pub inactive: Counter,
}
