//! A queue whose driver gives empty buffers, turned into a source of many flows; and the two loops that are the floor
//! under everything: what receiving and sending cost, and what it costs to write two MAC addresses as well.

use std::sync::Arc;

use drover::dpdk::{PortQueue, cycles};
use drover::packet::{BURST, Burst, Queue, ethernet};
use parking_lot::Mutex;

use crate::bench::each_frame;
use crate::measure::CHUNK;
use crate::traffic::{Sequence, Template};

pub enum Order {
    /// One after the other, and after the last of so many the first again.
    InTurn {
        next: u32,
        flows: u32,
    },
    Mixed(Sequence),
}

/// What comes next, and how many cycles went into making it.
pub struct Script {
    pub template: Template,
    pub order: Order,
    spent: u64,
}

/// Writes the frames that have been received. The time that takes is counted apart.
pub struct Source<Q> {
    queue: Q,
    script: Arc<Mutex<Script>>,
}

/// The other end: changes what comes, and asks what it cost.
#[derive(Clone)]
pub struct Control(Arc<Mutex<Script>>);

impl<Q> Source<Q> {
    pub fn new(queue: Q, template: Template, order: Order) -> (Source<Q>, Control) {
        let script = Arc::new(Mutex::new(Script { template, order, spent: 0 }));
        (Source { queue, script: script.clone() }, Control(script))
    }
}

impl Control {
    pub fn play(&self, template: Template, order: Order) {
        let mut script = self.0.lock();
        script.template = template;
        script.order = order;
    }

    /// Cycles spent on making frames since the last time.
    pub fn take_spent(&self) -> u64 {
        std::mem::take(&mut self.0.lock().spent)
    }

    /// Cycles that `work` takes, without what went into making frames.
    pub fn timed(&self, work: impl FnOnce()) -> u64 {
        self.take_spent();
        let all = crate::measure::timed(work);
        all.saturating_sub(self.take_spent())
    }
}

impl<Q: Queue> Queue for Source<Q> {
    type Frame = Q::Frame;

    fn receive(&mut self, into: &mut Burst<Q::Frame>) {
        self.queue.receive(into);
        let start = cycles::now();
        let script = &mut *self.script.lock();
        each_frame(into, |bytes| {
            let flow = match &mut script.order {
                Order::Mixed(sequence) => sequence.draw(),
                Order::InTurn { next, flows } => {
                    let flow = *next;
                    *next = (flow + 1) % *flows;
                    flow
                }
            };
            script.template.write(flow, bytes);
        });
        script.spent += cycles::now() - start;
    }

    fn send(&mut self, from: &mut Burst<Q::Frame>) {
        self.queue.send(from);
    }
}

/// Receives and sends a chunk, nothing else.
pub fn io_only<Q: Queue>(queue: &mut Q) {
    for _ in 0..CHUNK / BURST {
        let mut frames = Burst::new();
        queue.receive(&mut frames);
        queue.send(&mut frames);
    }
}

/// The least that any forwarder does.
pub fn mac_write<Q: Queue>(queue: &mut Q) {
    const ADDRESSES: [u8; 12] = [2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 0x10];
    for _ in 0..CHUNK / BURST {
        let mut frames = Burst::new();
        queue.receive(&mut frames);
        each_frame(&mut frames, |bytes| ethernet::set_addresses(bytes, &ADDRESSES));
        queue.send(&mut frames);
    }
}

/// As `net_null` is told to be: frames of 64 bytes, of which it writes none.
pub const NET_NULL: &str = "size=60,copy=0";

pub type NullSource = Source<PortQueue>;
