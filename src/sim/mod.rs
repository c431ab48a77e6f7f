//! The twin of `crate::dpdk` in plain memory: frames and queues for tests of everything above the driver.

pub mod frames;

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::packet::{Burst, Frame, Queue};

/// A frame in memory of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimFrame(pub Vec<u8>);

impl Frame for SimFrame {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    fn wire_len(&self) -> usize {
        self.0.len()
    }

    fn copy_to(&self, into: &mut [u8]) -> usize {
        let length = self.0.len().min(into.len());
        into[..length].copy_from_slice(&self.0[..length]);
        length
    }
}

#[derive(Debug, Default)]
struct Wire {
    arriving: VecDeque<SimFrame>,
    sent: Vec<SimFrame>,
    room: usize,
}

/// The two ends of a port's queue: the worker's, and the test's.
#[derive(Clone, Debug)]
pub struct SimQueue(Arc<Mutex<Wire>>);

impl SimQueue {
    /// A queue that takes `room` frames for sending before it is full.
    pub fn with_room(room: usize) -> SimQueue {
        SimQueue(Arc::new(Mutex::new(Wire { room, sent: Vec::with_capacity(room), ..Wire::default() })))
    }

    pub fn arrive(&self, frame: Vec<u8>) {
        self.0.lock().arriving.push_back(SimFrame(frame));
    }

    /// What has been sent since the last call; makes room again.
    pub fn sent(&self) -> Vec<Vec<u8>> {
        self.0.lock().sent.drain(..).map(|frame| frame.0).collect()
    }
}

impl Queue for SimQueue {
    type Frame = SimFrame;

    fn receive(&mut self, into: &mut Burst<SimFrame>) {
        let mut wire = self.0.lock();
        let count = into.remaining_capacity().min(wire.arriving.len());
        into.extend(wire.arriving.drain(..count));
    }

    fn send(&mut self, from: &mut Burst<SimFrame>) {
        let mut wire = self.0.lock();
        let count = from.len().min(wire.room - wire.sent.len());
        wire.sent.extend(from.drain(..count));
    }
}
