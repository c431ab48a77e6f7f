//! One immutable value behind one pointer: a publisher that replaces it, readers that never wait.
//!
//! A reader that asks for the value again has, by asking, let go of what it had before (the borrow checker sees to it),
//! and says which epoch it holds now. The publisher frees an old value once every reader holds a newer one. No lock,
//! no reference count and no read-modify-write on the reader's side: one load and one store.

use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crossbeam::utils::CachePadded;
use parking_lot::Mutex;

struct Versioned<T> {
    epoch: u64,
    value: T,
}

struct Shared<T> {
    current: CachePadded<AtomicPtr<Versioned<T>>>,
    /// One a reader: the epoch of what it holds.
    held: Box<[CachePadded<AtomicU64>]>,
    /// Replaced, and perhaps still held by a reader.
    retired: Mutex<Vec<Retired<T>>>,
}

struct Retired<T>(Box<Versioned<T>>);

/// The epoch that a reader holds when it is gone.
const GONE: u64 = u64::MAX;

// SAFETY: the pointer is only ever to a Box<Versioned<T>>; values are read from several threads (Sync) and freed by
// whichever drops last (Send).
unsafe impl<T: Send + Sync> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: nobody shares it any more, so the current value is ours; it came from Box::into_raw.
        drop(unsafe { Box::from_raw(*self.current.get_mut()) });
    }
}

/// The one who replaces the value.
pub struct Publisher<T> {
    shared: Arc<Shared<T>>,
    epoch: u64,
}

/// One who reads it, on a thread of its own.
pub struct Reader<T> {
    shared: Arc<Shared<T>>,
    index: usize,
}

/// Starts with `value` as epoch 1, and with so many readers.
pub fn publish<T: Send + Sync>(value: T, readers: usize) -> (Publisher<T>, Vec<Reader<T>>) {
    let first = Box::new(Versioned { epoch: 1, value });
    let shared = Arc::new(Shared {
        current: CachePadded::new(AtomicPtr::new(Box::into_raw(first))),
        held: (0..readers).map(|_| CachePadded::new(AtomicU64::new(1))).collect(),
        retired: Mutex::new(Vec::new()),
    });
    let readers = (0..readers).map(|index| Reader { shared: shared.clone(), index }).collect();
    (Publisher { shared, epoch: 1 }, readers)
}

impl<T: Send + Sync> Publisher<T> {
    /// Puts a new value in place and frees the old ones that no reader holds. Never waits.
    pub fn replace(&mut self, value: T) -> u64 {
        self.epoch += 1;
        let new = Box::into_raw(Box::new(Versioned { epoch: self.epoch, value }));
        let old = self.shared.current.swap(new, Ordering::AcqRel);
        // SAFETY: `old` came from Box::into_raw and is now reachable only by readers that have not asked again; it is
        // kept in `retired`, untouched, until all of them have.
        let old = unsafe { Box::from_raw(old) };
        self.shared.retired.lock().push(Retired(old));
        self.collect();
        self.epoch
    }

    /// Frees what no reader holds; returns how many are still held.
    pub fn collect(&mut self) -> usize {
        let oldest = self.held().min().unwrap_or(GONE);
        let mut retired = self.shared.retired.lock();
        retired.retain(|old| old.0.epoch >= oldest);
        retired.len()
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The epoch that each reader holds.
    pub fn held(&self) -> impl Iterator<Item = u64> {
        self.shared.held.iter().map(|held| held.load(Ordering::Acquire))
    }
}

impl<T: Send + Sync> Reader<T> {
    /// The value in force. Asking again ends the borrow of the one before: that is what makes it free.
    pub fn read(&mut self) -> &T {
        let current = self.shared.current.load(Ordering::Acquire);
        // SAFETY: a value is freed only when every reader's `held` is past its epoch. Ours is at most the epoch of
        // what we held before, which is not newer than `current`, until the store below; and from then on it is
        // `current`'s own, until the next call, which needs `&mut self` and so finds this borrow ended.
        let versioned = unsafe { &*current };
        self.shared.held[self.index].store(versioned.epoch, Ordering::Release);
        &versioned.value
    }
}

impl<T> Drop for Reader<T> {
    fn drop(&mut self) {
        self.shared.held[self.index].store(GONE, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    /// Counts the living, and is recognisably dead afterwards.
    struct Canary(u64, Arc<AtomicUsize>);

    impl Canary {
        fn new(epoch: u64, living: &Arc<AtomicUsize>) -> Canary {
            living.fetch_add(1, Ordering::SeqCst);
            Canary(epoch, living.clone())
        }
    }

    impl Drop for Canary {
        fn drop(&mut self) {
            self.0 = 0xdead;
            self.1.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn an_old_value_lives_until_every_reader_has_moved_on() {
        let living = Arc::new(AtomicUsize::new(0));
        let count = || living.load(Ordering::SeqCst);
        let (mut publisher, mut readers) = publish(Canary::new(1, &living), 2);
        assert_eq!(readers[0].read().0, 1);
        assert_eq!(readers[1].read().0, 1);
        assert_eq!(publisher.replace(Canary::new(2, &living)), 2);
        assert_eq!(count(), 2);
        assert_eq!(readers[0].read().0, 2);
        assert_eq!((publisher.collect(), count()), (1, 2), "the other reader still has it");
        assert_eq!(readers[1].read().0, 2);
        assert_eq!((publisher.collect(), count()), (0, 1));
        drop(readers);
        publisher.replace(Canary::new(3, &living));
        assert_eq!(count(), 1);
        drop(publisher);
        assert_eq!(count(), 0);
    }

    #[test]
    fn readers_under_ten_thousand_swaps_never_see_the_dead_or_the_past() {
        let living = Arc::new(AtomicUsize::new(0));
        let (mut publisher, readers) = publish(Canary::new(1, &living), 3);
        thread::scope(|scope| {
            for mut reader in readers {
                scope.spawn(move || {
                    let mut last = 0;
                    while last < 10_000 {
                        let seen = reader.read().0;
                        assert!(seen >= last && seen != 0xdead, "{seen} after {last}");
                        last = seen;
                    }
                });
            }
            for epoch in 2..=10_000 {
                publisher.replace(Canary::new(epoch, &living));
            }
        });
        publisher.collect();
        assert_eq!(living.load(Ordering::SeqCst), 1);
    }
}
