//! Room for one more: a slot that is free, or that is made free by moving living entries to their other bucket.

use super::{EMPTY, Key, Pin, SLOTS, Slot, Table, key_in};
use crate::sys::prefetch;
use crate::sys::probe::VALUES;

/// How many moves an insert may chain.
const MOVES: usize = 3;

impl<const QUADS: usize, K: Key<QUADS>> Table<K, QUADS> {
    #[inline(always)]
    pub(super) fn empty_slot(&self, place: usize) -> Option<Slot> {
        let keys = &self.buckets[place].0[0];
        let empty = |entry: usize| u32::from(keys[entry] == EMPTY) << entry;
        let empty = empty(0) | empty(1) | empty(2) | empty(3);
        (empty != 0).then(|| Slot::new(place, empty.trailing_zeros() as usize))
    }

    /// A slot of a full bucket whose flow has run out.
    #[inline(always)]
    pub(super) fn dead_slot(&mut self, place: usize, tick: u32, expired: &mut impl FnMut(K, Pin)) -> Option<Slot> {
        let values = &self.buckets[place].0[VALUES];
        let entry = (0..SLOTS).find(|entry| !Pin(values[*entry]).lives(tick))?;
        self.clear(Slot::new(place, entry), expired);
        Some(Slot::new(place, entry))
    }

    fn free_slot(&mut self, place: usize, tick: u32, expired: &mut impl FnMut(K, Pin)) -> Option<Slot> {
        self.empty_slot(place).or_else(|| self.dead_slot(place, tick, expired))
    }

    /// Frees a slot of one of the buckets by moving entries to their other buckets, up to `MOVES` in a chain, or gives
    /// one of the stash. A table that is nearly full moves one at most: what a flood asks of it must stay cheap.
    #[cold]
    pub(super) fn make_room(
        &mut self,
        buckets: [usize; 2],
        tick: u32,
        expired: &mut impl FnMut(K, Pin),
    ) -> Option<Slot> {
        let others = buckets.map(|place| self.other_buckets(place));
        let moves = if self.flows > self.crowded { 1 } else { MOVES };
        for moves in 1..=moves {
            for (side, entry) in (0..SLOTS).flat_map(|entry| [(0, entry), (1, entry)]) {
                if let Some(to) = self.free_by_moves(others[side][entry], moves - 1, tick, expired) {
                    return Some(self.move_entry(Slot::new(buckets[side], entry), to));
                }
            }
        }
        (self.stash..self.buckets.len()).find_map(|place| self.free_slot(place, tick, expired))
    }

    /// A slot of this bucket, after so many moves. The buckets that are passed on the way here have no free slot (or a
    /// shorter chain would have ended there), so no chain comes back to one.
    fn free_by_moves(
        &mut self,
        place: usize,
        moves: usize,
        tick: u32,
        expired: &mut impl FnMut(K, Pin),
    ) -> Option<Slot> {
        if moves == 0 {
            return self.free_slot(place, tick, expired);
        }
        let others = self.other_buckets(place);
        (0..SLOTS).find_map(|entry| {
            let to = self.free_by_moves(others[entry], moves - 1, tick, expired)?;
            Some(self.move_entry(Slot::new(place, entry), to))
        })
    }

    /// Where the entries of a full bucket could go, asked for.
    fn other_buckets(&self, place: usize) -> [usize; SLOTS] {
        std::array::from_fn(|entry| {
            let hash = self.hash(key_in(&self.buckets[place], entry));
            let first = self.first(hash);
            let other = if first == place { self.second(hash) } else { first };
            prefetch::bucket(&self.buckets[other]);
            other
        })
    }

    /// Copies before it clears: whoever finds the table cut off in the middle finds the entry at least once. Gives back
    /// the slot that is free now.
    fn move_entry(&mut self, from: Slot, to: Slot) -> Slot {
        let bucket = &self.buckets[from.bucket()];
        let (key, value) = (key_in(bucket, from.entry()), bucket.0[VALUES][from.entry()]);
        self.enter(to, key, value);
        self.leave(from);
        from
    }

    /// Takes the entries of a bucket of the stash to buckets of their own, as far as there is room by now.
    #[cold]
    pub(super) fn settle(&mut self, place: usize, tick: u32, expired: &mut impl FnMut(K, Pin)) {
        for entry in 0..SLOTS {
            if self.buckets[place].0[0][entry] == EMPTY {
                continue;
            }
            let hash = self.hash(key_in(&self.buckets[place], entry));
            let home = [self.first(hash), self.second(hash)];
            if let Some(to) = home.into_iter().find_map(|place| self.free_slot(place, tick, expired)) {
                self.move_entry(Slot::new(place, entry), to);
            }
        }
    }
}
