//! Frames that came to another worker than the one that owns their flow go over a ring of their own: one for each
//! ordered pair of workers, with one who writes and one who reads.

use std::sync::Arc;

use rtrb::{Consumer, Producer, RingBuffer};

use super::exchange::{Handed, Inbox};
use crate::packet::{BURST, Burst};

/// Frames that may wait for one worker in all its rings together, unless that is less than a burst in each.
const WAITING: usize = 2048;

/// How many frames the ring between two of so many workers holds.
pub fn ring_capacity(workers: usize) -> usize {
    (WAITING / workers.saturating_sub(1).max(1)).clamp(BURST, WAITING / 2)
}

/// The most frames that can wait in all rings of so many workers.
pub fn most_waiting(workers: usize) -> usize {
    workers * workers.saturating_sub(1) * ring_capacity(workers)
}

/// The two rings between this worker and another one.
struct Link<F> {
    to: Producer<Handed<F>>,
    from: Consumer<Handed<F>>,
    /// What this burst leaves for it. A burst is decided at a time, so there is room.
    leaving: Burst<F>,
    inbox: Arc<Inbox<F>>,
}

/// A worker's ways to and from all others, by their numbers; its own place is empty.
pub struct Links<F> {
    links: Vec<Option<Link<F>>>,
    /// Frames of this burst that were staged; those for nobody count too, so that they are told as lost.
    staged: usize,
}

/// Links every worker with every other one. The inboxes are the workers', in the order of their numbers.
pub fn mesh<F>(inboxes: &[Arc<Inbox<F>>]) -> Vec<Links<F>> {
    let capacity = ring_capacity(inboxes.len());
    let rings = || inboxes.iter().map(|_| RingBuffer::new(capacity)).unzip();
    // From each worker (outer) to each other one (inner); those from a worker to itself are thrown away.
    let (to, mut from): (Vec<Vec<_>>, Vec<Vec<_>>) = inboxes.iter().map(|_| rings()).unzip();
    let all = to.into_iter().enumerate().map(|(own, to)| {
        // What is left in `from` of each worker begins with its ring to `own`.
        let from: Vec<_> = from.iter_mut().map(|rings: &mut Vec<Consumer<_>>| rings.remove(0)).collect();
        let link = |(other, (to, from))| {
            let inbox: &Arc<Inbox<F>> = &inboxes[other];
            (other != own).then(|| Link { to, from, leaving: Burst::new(), inbox: inbox.clone() })
        };
        Links { links: to.into_iter().zip(from).enumerate().map(link).collect(), staged: 0 }
    });
    all.collect()
}

impl<F> Links<F> {
    /// For a worker to whom the NIC brings every flow that is its own.
    pub fn none() -> Links<F> {
        Links { links: Vec::new(), staged: 0 }
    }

    /// So many others may have something for us, each by its number.
    pub fn len(&self) -> usize {
        self.links.len()
    }

    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// Keeps a frame for `worker` until [`Links::send`].
    pub fn stage(&mut self, worker: u8, frame: F) {
        self.staged += 1;
        if let Some(Some(link)) = self.links.get_mut(usize::from(worker)) {
            // What does not fit is freed, and told as lost.
            let _ = link.leaving.try_push(frame);
        }
    }

    /// Hands over what is staged, all of which came in by `port`, and wakes who sleeps. Answers how many frames went,
    /// and how many found their ring full and are gone; none: nothing was staged.
    pub fn send(&mut self, port: u8) -> Option<(usize, usize)> {
        let staged = std::mem::take(&mut self.staged);
        if staged == 0 {
            return None;
        }
        let mut handed = 0;
        for link in self.links.iter_mut().flatten().filter(|link| !link.leaving.is_empty()) {
            let room = link.leaving.len().min(link.to.slots());
            let leaving = link.leaving.drain(..room).map(|frame| Handed { port, frame });
            let went = link.to.write_chunk_uninit(room).map_or(0, |chunk| chunk.fill_from_iter(leaving));
            link.leaving.clear();
            if went > 0 {
                link.inbox.bell.wake();
            }
            handed += went;
        }
        Some((handed, staged - handed))
    }

    /// Takes what `worker` has handed to us, a burst at most and of one port only, and says which port.
    pub fn take(&mut self, worker: usize, into: &mut Burst<F>) -> Option<u8> {
        let from = &mut self.links.get_mut(worker)?.as_mut()?.from;
        let port = from.peek().ok()?.port;
        let waiting = from.slots().min(into.remaining_capacity());
        let chunk = from.read_chunk(waiting).ok()?;
        let (first, second) = chunk.as_slices();
        let same = first.iter().chain(second).take_while(|handed| handed.port == port).count();
        into.extend(chunk.into_iter().take(same).map(|handed| handed.frame));
        Some(port)
    }

    /// Whether anybody has handed something to us.
    pub fn waiting(&self) -> bool {
        self.links.iter().flatten().any(|link| !link.from.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inboxes(count: usize) -> Vec<Arc<Inbox<u32>>> {
        (0..count).map(|_| Arc::new(Inbox::new(1).unwrap())).collect()
    }

    /// What `to` finds of `from`.
    fn taken(links: &mut [Links<u32>], to: usize, from: usize) -> Vec<(u8, Vec<u32>)> {
        let mut all = Vec::new();
        loop {
            let mut frames = Burst::new();
            match links[to].take(from, &mut frames) {
                Some(port) => all.push((port, frames.to_vec())),
                None => return all,
            }
        }
    }

    #[test]
    fn what_is_handed_to_a_worker_arrives_there_and_nowhere_else() {
        let mut links = mesh(&inboxes(5));
        for (from, to) in (0..5).flat_map(|from| (0..5).map(move |to| (from, to))) {
            links[from as usize].stage(to as u8, from * 10 + to);
        }
        assert!(links.iter().all(|each| !each.waiting()), "staged is not sent");
        for (from, each) in links.iter_mut().enumerate() {
            assert_eq!(each.send(from as u8), Some((4, 1)), "there is no way to oneself");
            assert_eq!(each.send(from as u8), None);
        }
        for (from, to) in (0..5).flat_map(|from| (0..5).map(move |to| (from, to))) {
            let expected = if from == to { Vec::new() } else { vec![(from as u8, vec![(from * 10 + to) as u32])] };
            assert_eq!(taken(&mut links, to, from), expected);
        }
        assert!(links.iter().all(|each| !each.waiting()));
        links[0].stage(5, 7);
        assert_eq!(links[0].send(0), Some((0, 1)), "nor to somebody who is not there");
    }

    #[test]
    fn a_full_ring_keeps_what_it_has_and_the_order_and_the_rest_is_counted() {
        let mut links = mesh(&inboxes(64));
        let capacity = ring_capacity(64);
        assert_eq!(capacity, 32);
        for frame in 0..20 {
            links[3].stage(9, frame);
        }
        assert_eq!(links[3].send(0), Some((20, 0)));
        for frame in 20..50 {
            links[3].stage(9, frame);
        }
        assert_eq!(links[3].send(1), Some((12, 18)));
        assert!(links[9].waiting());
        assert_eq!(taken(&mut links, 9, 3), [(0, (0..20).collect()), (1, (20..32).collect())]);
    }

    #[test]
    fn rings_are_bounded_however_many_workers_there_are() {
        assert_eq!((most_waiting(1), most_waiting(2)), (0, 2048));
        for workers in 2..=127 {
            assert!(ring_capacity(workers) >= BURST);
            assert!(most_waiting(workers) <= workers * WAITING.max((workers - 1) * BURST), "{workers}");
        }
    }
}
