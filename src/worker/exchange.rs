//! What passes between a worker and the management core: bounded queues, and a bell for whoever sleeps.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::Duration;

use crossbeam::channel::Sender;
use crossbeam::queue::ArrayQueue;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use crate::flow::{ClientKey, FlowKey, Pin, Template, WideKey};
use crate::service::{RealId, ServiceId};
use crate::verdict::Answer;

/// Wakes a sleeping thread: a descriptor that it polls beside its others.
pub struct Bell {
    descriptor: OwnedFd,
    /// Its owner sleeps, or is about to.
    asleep: AtomicBool,
}

impl Bell {
    pub fn new() -> std::io::Result<Bell> {
        let descriptor = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Bell { descriptor, asleep: AtomicBool::new(false) })
    }

    pub fn ring(&self) {
        // It fails only when it has been rung 2^64 times, and then it is ringing.
        let _ = rustix::io::write(&self.descriptor, &1u64.to_ne_bytes());
    }

    /// Rings only for who sleeps by [`Bell::sleep`]: nearly free while everybody is busy.
    pub fn wake(&self) {
        // Either we see that it sleeps, or it sees what we have left for it before it does: both sides write first, and
        // then, behind a fence, look at what the other has written.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) {
            self.ring();
        }
    }

    /// Waits on the descriptors, this bell's among them, unless there is work by now.
    pub fn sleep(&self, descriptors: &mut Vec<PollFd<'_>>, at_most: Duration, work: impl FnOnce() -> bool) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if !work() {
            wait(descriptors, at_most);
        }
        self.asleep.store(false, Ordering::Relaxed);
        self.silence();
    }

    pub fn silence(&self) {
        let _ = rustix::io::read(&self.descriptor, &mut [0; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Waits until one of the descriptors can be read, or a signal comes, or the time is over. A descriptor whose device is
/// gone is waited for no more: it would always be ready.
pub fn wait(descriptors: &mut Vec<PollFd<'_>>, at_most: Duration) {
    let timeout = Timespec { tv_sec: at_most.as_secs() as i64, tv_nsec: at_most.subsec_nanos().into() };
    match poll(descriptors, Some(&timeout)) {
        Ok(0) | Err(Errno::INTR) => (),
        Ok(_) => descriptors.retain(|descriptor| !is_lost(descriptor)),
        // Nothing else can happen to descriptors that are ours; if it did, do not spin.
        Err(_) => std::thread::sleep(Duration::from_millis(1)),
    }
}

/// A packet socket whose interface went down says so until it is asked, and then works again; a TAP that was deleted
/// stays what it is.
fn is_lost(descriptor: &PollFd<'_>) -> bool {
    let events = descriptor.revents();
    let failed = events.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL);
    failed && !events.contains(PollFlags::IN) && rustix::net::sockopt::socket_error(descriptor).is_err()
}

pub fn readable(descriptor: BorrowedFd<'_>) -> PollFd<'_> {
    PollFd::from_borrowed_fd(descriptor, PollFlags::IN)
}

/// A frame, and the port that it came in by or is to go out by.
pub struct Handed<F> {
    pub port: u8,
    pub frame: F,
}

/// A frame that goes nowhere, and what its sender is told.
pub struct Refused<F> {
    pub handed: Handed<F>,
    pub answer: Answer,
}

/// From all workers to the management core.
pub struct Outbox<F> {
    /// ARP, and ICMP to virtual addresses. Each has a queue of its own, so that a flood of one does not starve the
    /// others: above all not this one, by which the reals' MACs come.
    pub manage: ArrayQueue<Handed<F>>,
    /// Packets that are refused with an answer: a client can make as many as it likes.
    pub refused: ArrayQueue<Refused<F>>,
    /// For the host's kernel.
    pub host: ArrayQueue<Handed<F>>,
    pub bell: Bell,
}

impl<F> Outbox<F> {
    pub fn new(capacity: usize) -> std::io::Result<Outbox<F>> {
        let (manage, refused, host) = (ArrayQueue::new(capacity), ArrayQueue::new(capacity), ArrayQueue::new(capacity));
        Ok(Outbox { manage, refused, host, bell: Bell::new()? })
    }
}

/// From the management core to one worker.
pub struct Inbox<F> {
    /// Frames to be sent: answers, announcements, and what the host sends.
    pub send: ArrayQueue<Handed<F>>,
    pub questions: ArrayQueue<Question>,
    pub bell: Bell,
}

impl<F> Inbox<F> {
    pub fn new(capacity: usize) -> std::io::Result<Inbox<F>> {
        Ok(Inbox { send: ArrayQueue::new(capacity), questions: ArrayQueue::new(16), bell: Bell::new()? })
    }
}

/// Asks a worker for a part of its flow table: only its owner may read it.
pub struct Question {
    pub from_bucket: usize,
    /// Filled up to its capacity, which the asker has reserved.
    pub page: Vec<Entry>,
    pub answer: Sender<Page>,
}

/// A flow, whatever table it is in.
pub struct Entry {
    pub client: (IpAddr, u16),
    pub service: Option<ServiceId>,
    /// Where the client wanted to go, as far as the service alone does not say it: address, protocol, port; zero: by
    /// the service.
    pub destination: (Option<Ipv4Addr>, u8, u16),
    pub real: RealId,
    /// Of the real's number.
    pub generation: u8,
    pub state: &'static str,
    pub ticks_left: u32,
}

impl Entry {
    pub fn narrow(key: FlowKey, pin: Pin, tick: u32) -> Entry {
        let (client, port) = key.client();
        Entry::flow((client.into(), port), key.service(), (None, 0, 0), pin, tick)
    }

    pub fn wide(key: WideKey, pin: Pin, tick: u32) -> Entry {
        Entry::flow(key.client(), key.service(), key.destination(), pin, tick)
    }

    fn flow(
        client: (IpAddr, u16),
        service: Option<ServiceId>,
        destination: (Option<Ipv4Addr>, u8, u16),
        pin: Pin,
        tick: u32,
    ) -> Entry {
        let (real, generation, state) = (pin.real(), pin.generation(), pin.state().name());
        Entry { client, service, destination, real, generation, state, ticks_left: pin.left(tick) }
    }

    /// As the kernel lists what it remembers of a persistent service's client: port 0, and whether one of its
    /// connections was established.
    pub fn template(template: &Template, tick: u32) -> Entry {
        Entry {
            client: (template.key.client(), 0),
            service: Some(template.key.service),
            destination: (None, 0, 0),
            real: template.pinned.real,
            generation: template.pinned.generation,
            state: if template.assured { "ASSURED" } else { "NONE" },
            ticks_left: template.left(tick),
        }
    }
}

pub struct Page {
    pub entries: Vec<Entry>,
    /// Where to go on; none: that was the last bucket.
    pub next: Option<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;
    use std::thread;
    use std::time::Instant;

    /// One side sleeps whenever there is nothing to do, the other gives it something at every moment around that; a
    /// wake-up that is lost would cost a minute.
    #[test]
    fn no_wake_up_is_lost() {
        const ROUNDS: u64 = 200_000;
        const LOST: Duration = Duration::from_secs(60);
        let (bell, given, taken) = (Bell::new().unwrap(), AtomicU64::new(0), AtomicU64::new(0));
        let started = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut awaited = vec![readable(bell.as_fd())];
                for round in 1..=ROUNDS {
                    while given.load(Ordering::Acquire) < round {
                        bell.sleep(&mut awaited, LOST, || given.load(Ordering::Acquire) >= round);
                    }
                    taken.store(round, Ordering::Release);
                }
            });
            for round in 1..=ROUNDS {
                while taken.load(Ordering::Acquire) < round - 1 {
                    std::hint::spin_loop();
                }
                (0..round % 64).for_each(|_| std::hint::spin_loop());
                given.store(round, Ordering::Release);
                bell.wake();
            }
        });
        assert!(started.elapsed() < LOST, "a wake-up was lost");
    }

    #[test]
    fn what_always_fails_is_waited_for_no_more() {
        let bell = Bell::new().unwrap();
        let (pipe, _) = rustix::pipe::pipe().unwrap();
        let mut awaited = vec![readable(bell.as_fd()), readable(pipe.as_fd())];
        wait(&mut awaited, Duration::from_secs(10));
        assert_eq!(awaited.len(), 1, "a pipe that nobody writes to any more");
        bell.ring();
        wait(&mut awaited, Duration::from_secs(10));
        assert_eq!((awaited.len(), awaited[0].revents()), (1, PollFlags::IN));
    }
}
