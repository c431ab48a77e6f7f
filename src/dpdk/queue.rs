//! One receive and one transmit queue of a port, for one worker.

use std::cell::Cell;
use std::marker::PhantomData;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;

use dpdk_sys::rte_mbuf;

use super::mbuf::Mbuf;
use super::port::Opened;
use super::tap::Trigger;
use crate::packet::{Burst, Queue};

/// How often a tap's trigger is pulled before the frame waits for the next turn: another thread's pull can undo one.
const PULLS: usize = 2;

pub struct PortQueue {
    port: u16,
    queue: u16,
    trigger: Option<Trigger>,
    descriptors: Vec<RawFd>,
    /// Keeps the port open.
    _opened: Arc<Opened>,
    /// Not `Sync`: a queue has one user at a time.
    _alone: PhantomData<Cell<()>>,
}

impl PortQueue {
    /// `queue` has been set up and belongs to nobody else.
    pub(super) fn new(opened: &Arc<Opened>, queue: u16, descriptors: Vec<RawFd>) -> PortQueue {
        let trigger = match descriptors[..] {
            [descriptor] => Trigger::take_over(descriptor),
            _ => None,
        };
        let port = opened.number();
        PortQueue { port, queue, trigger, descriptors, _opened: opened.clone(), _alone: PhantomData }
    }

    /// Which of the port's queues this is, from 0.
    pub fn index(&self) -> u16 {
        self.queue
    }

    /// What to `poll` for reading when there is nothing to do; open as long as the queue is. Empty: this kind of port
    /// cannot be waited for, receive again and again. Being woken does not promise a frame, and `poll` may be
    /// interrupted (EINTR): receive either way.
    pub fn wait_descriptors(&self) -> &[RawFd] {
        &self.descriptors
    }

    /// The same, for calls that want to know that they are open.
    pub fn borrow_descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        // SAFETY: the driver closes them with the port, which stays open as long as the queue.
        self.descriptors.iter().map(|descriptor| unsafe { BorrowedFd::borrow_raw(*descriptor) })
    }

    fn take(&mut self, into: &mut Burst<Mbuf>) -> usize {
        let held = into.len();
        let room = into.remaining_capacity() as u16;
        // SAFETY: `Mbuf` is a transparent pointer to rte_mbuf; `room` of them fit behind the `held` ones. The driver
        // gives us the frames it writes there.
        unsafe {
            let start = into.as_mut_ptr().add(held).cast::<*mut rte_mbuf>();
            let count = usize::from(dpdk_sys::rte_eth_rx_burst(self.port, self.queue, start, room));
            into.set_len(held + count);
            count
        }
    }

    fn pull_and_take(&mut self, into: &mut Burst<Mbuf>) {
        for _ in 0..PULLS {
            if !self.trigger.as_ref().is_some_and(Trigger::pull) || self.take(into) > 0 {
                return;
            }
        }
    }
}

impl Queue for PortQueue {
    type Frame = Mbuf;

    fn receive(&mut self, into: &mut Burst<Mbuf>) {
        if into.is_full() {
            return;
        }
        if self.take(into) == 0 && self.trigger.is_some() {
            self.pull_and_take(into);
        }
    }

    fn send(&mut self, from: &mut Burst<Mbuf>) {
        if from.is_empty() {
            return;
        }
        let held = from.len();
        // SAFETY: `Mbuf` is a transparent pointer to rte_mbuf. The first `count` are the driver's now: the rest moves
        // over them, and nothing of them is dropped here.
        unsafe {
            let start = from.as_mut_ptr();
            let count = dpdk_sys::rte_eth_tx_burst(self.port, self.queue, start.cast(), held as u16);
            let count = usize::from(count).min(held);
            from.set_len(0);
            std::ptr::copy(start.add(count), start, held - count);
            from.set_len(held - count);
        }
    }
}
