//! The flow table: one cache line decides a flow.
//!
//! A bucket is a line of four exact 64-bit keys and four values. A key lives in one of two buckets; when both are full
//! of living flows, a few entries are moved to their other bucket (`room.rs`), and when that does not help either, it
//! goes to the stash: a few buckets behind the others, which nobody looks at while they are empty. Nothing is ever full
//! of the dead: what has run out is taken for free by lookups and inserts, and a bounded sweep clears it. Everything is
//! allocated at the start. Nothing that lives is ever evicted.
//!
//! Keys that 64 bits cannot hold have a table of the same kind with buckets of two lines.

mod key;
mod room;

use std::io;

use super::state::{Event, FlowState};
use crate::service::RealId;
use crate::sys::memory::{Backing, Bucket, Region};
use crate::sys::prefetch;
use crate::sys::probe::{self, Lanes, Probe, VALUES};

pub use key::{ClientKey, FlowKey, Hash, Key, WideKey};

const SLOTS: usize = 4;
/// Of the four slots of a bucket, those that are planned to be used: tables are built for three quarters of load.
const PLANNED: usize = 3;
/// Where what finds no room in its buckets waits.
const STASH_BUCKETS: usize = 16;
/// The first word of no key.
const EMPTY: u64 = 0;

/// What a flow is pinned to, its entry's other half: the real, the generation of its number, the state, whether a
/// template chose it, and the coarse time when it runs out. One word, read and written whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin(u64);

const STATE: u32 = 16;
const MASK: u32 = 20;
const MASKS: u64 = 0xf;
const GENERATION: u32 = 24;

impl Pin {
    #[inline(always)]
    pub const fn new(real: RealId, state: FlowState, ends: u32) -> Pin {
        Pin(real.0 as u64 | (state as u64) << STATE | (ends as u64) << 32)
    }

    /// The same, for the holder of the real's number that has this generation.
    pub const fn of_generation(self, generation: u8) -> Pin {
        Pin(self.0 & !(0xff << GENERATION) | (generation as u64) << GENERATION)
    }

    /// The same, of a client that has a persistence template: by which of its service's masks, of fifteen.
    pub const fn persistent(self, mask: u8) -> Pin {
        Pin(self.0 & !(MASKS << MASK) | (mask as u64 % MASKS + 1) << MASK)
    }

    /// The same in another state and with another end.
    #[inline(always)]
    pub const fn moved_to(self, state: FlowState, ends: u32) -> Pin {
        Pin(self.0 & 0xfff0_ffff | (state as u64) << STATE | (ends as u64) << 32)
    }

    #[inline(always)]
    pub const fn generation(self) -> u8 {
        (self.0 >> GENERATION) as u8
    }

    pub const fn is_persistent(self) -> bool {
        self.0 >> MASK & MASKS != 0
    }

    /// By which of its service's masks its template knows the client; none: it has no template.
    pub const fn mask(self) -> Option<u8> {
        match self.0 >> MASK & MASKS {
            0 => None,
            mask => Some(mask as u8 - 1),
        }
    }

    #[inline(always)]
    pub const fn real(self) -> RealId {
        RealId(self.0 as u16)
    }

    #[inline(always)]
    pub const fn state(self) -> FlowState {
        FlowState::from_number((self.0 >> 16) as u8)
    }

    /// Where an event leads from its state.
    #[inline(always)]
    pub const fn state_on(self, event: Event) -> FlowState {
        FlowState::after((self.0 >> 16) as u8, event)
    }

    /// The coarse time at which it runs out.
    #[inline(always)]
    const fn ends(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Whether the two have everything but the time in common.
    #[inline(always)]
    pub const fn differs_in_time_alone(self, other: Pin) -> bool {
        self.0 as u32 == other.0 as u32
    }

    /// Whether it has any time left. Half of all the ticks there are lie ahead, half of them behind.
    #[inline(always)]
    pub const fn lives(self, tick: u32) -> bool {
        self.ends().wrapping_sub(tick) as i32 > 0
    }

    /// When it ended, at `tick` at the latest.
    pub const fn ended_by(self, tick: u32) -> u32 {
        if self.lives(tick) { tick } else { self.ends() }
    }

    /// Ticks that it has left at `tick`; zero: it has run out.
    pub const fn left(self, tick: u32) -> u32 {
        if self.lives(tick) { self.ends().wrapping_sub(tick) } else { 0 }
    }
}

/// Where an entry is, until something is entered or swept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(u32);

impl Slot {
    const fn new(bucket: usize, entry: usize) -> Slot {
        Slot((bucket * SLOTS + entry) as u32)
    }

    const fn bucket(self) -> usize {
        self.0 as usize / SLOTS
    }

    const fn entry(self) -> usize {
        self.0 as usize % SLOTS
    }
}

/// In which of its buckets a key is, as a first look had it. It may be wrong by the time it is used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hint(u32);

/// Both buckets of the key are full of living flows, and so are all that could be moved to, and the stash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFull;

pub struct Table<K: Key<QUADS>, const QUADS: usize> {
    /// Those that hashes choose, and the stash behind them.
    buckets: Region<QUADS>,
    stash: usize,
    /// Entries in the stash.
    stashed: usize,
    secret: [u64; 2],
    probe: Probe,
    flows: usize,
    /// More flows than that, and an insert does not try as hard: a flood at a full table must stay cheap.
    crowded: usize,
    swept: usize,
    /// How often the sweep has come round.
    rounds: u64,
    keys: std::marker::PhantomData<K>,
}

/// For IPv4: a bucket is one line.
pub type FlowTable = Table<FlowKey, 2>;
/// For IPv6, and for services that take several addresses or ports: a bucket is two lines.
pub type WideTable = Table<WideKey, 4>;

impl<K: Key<QUADS>, const QUADS: usize> Table<K, QUADS> {
    /// A table with room for `flows`, all of it allocated and touched.
    pub fn new(flows: usize, hugepages: bool, secret: [u64; 2]) -> io::Result<Self> {
        Self::on_node(flows, hugepages, None, secret)
    }

    /// The same on a memory node of choice.
    pub fn on_node(flows: usize, hugepages: bool, node: Option<u32>, secret: [u64; 2]) -> io::Result<Self> {
        let chosen = chosen_for(flows);
        let refused = |error: io::Error| {
            let (each, mb) = (size_of::<Bucket<QUADS>>(), Self::bytes_for(flows).div_ceil(1 << 20));
            let what = format!(
                "{flows} connections take {mb} MB ({flows} / {PLANNED} + {STASH_BUCKETS} buckets of {each} bytes): \
                 {error}"
            );
            io::Error::new(error.kind(), what)
        };
        // A slot has a number of 32 bits.
        let stash = u32::try_from(chosen).ok().filter(|chosen| chosen.checked_mul(SLOTS as u32 + 1).is_some());
        let stash = stash.ok_or_else(|| refused(io::ErrorKind::OutOfMemory.into()))?;
        let buckets = Region::allocate(stash, STASH_BUCKETS, hugepages, node).map_err(refused)?;
        let (stashed, flows, swept, rounds) = (0, 0, 0, 0);
        let crowded = chosen * SLOTS / 10 * 9;
        let (probe, keys) = (Probe::best(), std::marker::PhantomData);
        Ok(Table { buckets, stash: chosen, stashed, secret, probe, flows, crowded, swept, rounds, keys })
    }

    /// What a table for so many flows takes: 21.3 bytes each, 42.7 in a wide one, and the stash.
    pub const fn bytes_for(flows: usize) -> usize {
        (chosen_for(flows) + STASH_BUCKETS) * size_of::<Bucket<QUADS>>()
    }

    /// The best way to compare keys on this CPU, or the one that was set.
    pub fn probe(&self) -> Probe {
        self.probe
    }

    /// Compares keys in this way from now on.
    pub fn set_probe(&mut self, probe: Probe) {
        self.probe = probe;
    }

    /// How keys are compared on this CPU.
    pub fn probe_name(&self) -> &'static str {
        self.probe.name()
    }

    pub fn len(&self) -> usize {
        self.flows
    }

    pub fn is_empty(&self) -> bool {
        self.flows == 0
    }

    /// Those in the stash among them.
    pub fn stashed(&self) -> usize {
        self.stashed
    }

    /// How many entries hashes can choose; the stash comes on top.
    pub fn slots(&self) -> usize {
        self.stash * SLOTS
    }

    /// How often the sweep has gone through the whole table.
    pub fn rounds(&self) -> u64 {
        self.rounds
    }

    /// Drawn from the table's secret, of which it tells nothing: for other things that nobody outside may guess.
    pub fn seed(&self) -> u64 {
        self.hash(K::from_words([u64::MAX; QUADS])).both()
    }

    /// Removes an entry that `find` found.
    pub fn remove(&mut self, slot: Slot) {
        self.leave(slot);
        self.flows -= 1;
    }

    pub fn buckets(&self) -> usize {
        self.buckets.len()
    }

    pub fn backing(&self) -> Backing {
        self.buckets.backing()
    }

    /// The memory node it is on.
    pub fn node(&self) -> Option<u32> {
        self.buckets.node()
    }

    /// Two keyed multiply-folds (three for a wide key): who does not know the secret cannot aim at a bucket.
    #[inline(always)]
    pub fn hash(&self, key: K) -> Hash {
        key.hash(self.secret)
    }

    /// Asks for the lines of the bucket in which the key most likely is.
    #[inline(always)]
    pub fn prefetch(&self, hash: Hash) {
        prefetch::bucket(self.buckets.choose(hash.first()));
    }

    /// Asks for both buckets: for a key that is most likely new.
    #[inline(always)]
    pub fn prefetch_both(&self, hash: Hash) {
        prefetch::bucket(self.buckets.choose(hash.first()));
        prefetch::bucket(self.buckets.choose(hash.second()));
    }

    /// Looks for each key in its first bucket, whose lines should have arrived by now, and asks for the second one's
    /// where it is not there, so that no `find_at` after it waits for memory. As many as both slices have.
    #[inline(always)]
    pub fn seek_burst<L: Lanes>(&self, lanes: L, wanted: &[(K, Hash)], hints: &mut [Hint]) {
        for ((key, hash), hint) in wanted.iter().zip(hints) {
            let found = lanes.matches(self.buckets.choose(hash.first()), &key.words());
            let half = hash.half(found == 0);
            prefetch::bucket(self.buckets.choose(half));
            *hint = Hint(self.buckets.place(half) as u32);
        }
    }

    /// What `find` says, if the hint is still true; none: ask `find`.
    #[inline(always)]
    pub fn find_at<L: Lanes>(&self, lanes: L, hint: Hint, key: K, tick: u32) -> Option<(Slot, Pin)> {
        let place = hint.0 as usize;
        let bucket = self.buckets.get(place)?;
        let found = lanes.matches(bucket, &key.words());
        if found == 0 {
            return None;
        }
        let entry = found.trailing_zeros() as usize % SLOTS;
        let pin = Pin(bucket.0[VALUES][entry]);
        pin.lives(tick).then_some((Slot::new(place, entry), pin))
    }

    /// The entry of `key`, if it has one that has not run out.
    #[inline(never)]
    pub fn find(&self, key: K, hash: Hash, tick: u32) -> Option<(Slot, Pin)> {
        let slot = self.locate(key, hash)?;
        let pin = self.pin(slot);
        pin.lives(tick).then_some((slot, pin))
    }

    #[inline(always)]
    fn first(&self, hash: Hash) -> usize {
        self.buckets.place(hash.first())
    }

    /// Once in as many times as there are buckets it is the first again.
    #[inline(always)]
    fn second(&self, hash: Hash) -> usize {
        self.buckets.place(hash.second())
    }

    /// Where the key's entry is, be it living or dead.
    #[inline(always)]
    fn locate(&self, key: K, hash: Hash) -> Option<Slot> {
        let words = key.words();
        let found = probe::matches(self.buckets.choose(hash.first()), &words);
        if found != 0 {
            return Some(Slot::new(self.first(hash), found.trailing_zeros() as usize));
        }
        let found = probe::matches(self.buckets.choose(hash.second()), &words);
        if found != 0 {
            return Some(Slot::new(self.second(hash), found.trailing_zeros() as usize));
        }
        if self.stashed == 0 { None } else { self.locate_in_stash(&words) }
    }

    #[cold]
    fn locate_in_stash(&self, words: &[u64; QUADS]) -> Option<Slot> {
        self.buckets.iter().enumerate().skip(self.stash).find_map(|(place, bucket)| {
            let found = probe::matches(bucket, words);
            (found != 0).then(|| Slot::new(place, found.trailing_zeros() as usize))
        })
    }

    #[inline(always)]
    pub fn pin(&self, slot: Slot) -> Pin {
        Pin(self.buckets[slot.bucket()].0[VALUES][slot.entry()])
    }

    #[inline(always)]
    pub fn update(&mut self, slot: Slot, pin: Pin) {
        self.buckets[slot.bucket()].0[VALUES][slot.entry()] = pin.0;
    }

    /// Enters a flow that `find` did not find. What had run out and lies in its way is handed to `expired` and gone.
    pub fn insert(
        &mut self,
        key: K,
        hash: Hash,
        pin: Pin,
        tick: u32,
        mut expired: impl FnMut(K, Pin),
    ) -> Result<Slot, TableFull> {
        // An entry of this very key that ran out must not stay beside the new one.
        if let Some(old) = self.locate(key, hash) {
            self.clear(old, &mut expired);
        }
        let buckets = [self.first(hash), self.second(hash)];
        let free = buckets.into_iter().find_map(|place| self.empty_slot(place));
        let free = free.or_else(|| buckets.into_iter().find_map(|place| self.dead_slot(place, tick, &mut expired)));
        let free = match free {
            Some(free) => free,
            None => self.make_room(buckets, tick, &mut expired).ok_or(TableFull)?,
        };
        self.enter(free, key, pin.0);
        self.flows += 1;
        Ok(free)
    }

    fn enter(&mut self, slot: Slot, key: K, value: u64) {
        let bucket = &mut self.buckets[slot.bucket()];
        let words = key.words();
        bucket.0[VALUES][slot.entry()] = value;
        // The first word is what makes it an entry: it comes last.
        for quad in (0..QUADS).rev().filter(|quad| *quad != VALUES) {
            bucket.0[quad][slot.entry()] = words[quad];
        }
        self.stashed += usize::from(slot.bucket() >= self.stash);
    }

    fn leave(&mut self, slot: Slot) {
        self.buckets[slot.bucket()].0[0][slot.entry()] = EMPTY;
        self.stashed -= usize::from(slot.bucket() >= self.stash);
    }

    fn clear(&mut self, slot: Slot, gone: &mut impl FnMut(K, Pin)) {
        let (key, pin) = (key_in(&self.buckets[slot.bucket()], slot.entry()), self.pin(slot));
        self.leave(slot);
        self.flows -= 1;
        gone(key, pin);
    }

    /// Clears what has run out, and what `stays` says no to, in the next `count` buckets, round and round.
    pub fn sweep(&mut self, tick: u32, count: usize, stays: impl Fn(Pin) -> bool, mut expired: impl FnMut(K, Pin)) {
        for _ in 0..count.min(self.buckets.len()) {
            let place = self.swept;
            self.swept = if place + 1 == self.buckets.len() { 0 } else { place + 1 };
            self.rounds += u64::from(self.swept == 0);
            let bucket = &mut self.buckets[place];
            let before = self.flows;
            for entry in 0..SLOTS {
                let pin = Pin(bucket.0[VALUES][entry]);
                if bucket.0[0][entry] != EMPTY && !(pin.lives(tick) && stays(pin)) {
                    let key = key_in(bucket, entry);
                    bucket.0[0][entry] = EMPTY;
                    self.flows -= 1;
                    expired(key, pin);
                }
            }
            if place >= self.stash {
                self.stashed -= before - self.flows;
                self.settle(place, tick, &mut expired);
            }
        }
    }

    /// The living flows of one bucket; none past the last bucket.
    pub fn bucket(&self, bucket: usize, tick: u32) -> impl Iterator<Item = (K, Pin)> {
        let bucket = self.buckets.get(bucket).copied().unwrap_or(Bucket::EMPTY);
        (0..SLOTS)
            .filter(move |entry| bucket.0[0][*entry] != EMPTY)
            .map(move |entry| (key_in(&bucket, entry), Pin(bucket.0[VALUES][entry])))
            .filter(move |(_, pin)| pin.lives(tick))
    }
}

#[inline(always)]
fn key_in<K: Key<QUADS>, const QUADS: usize>(bucket: &Bucket<QUADS>, entry: usize) -> K {
    K::from_words(bucket.0.map(|quad| quad[entry]))
}

/// So many buckets that `flows` make the planned load.
const fn chosen_for(flows: usize) -> usize {
    let buckets = flows.div_ceil(PLANNED);
    if buckets < 2 { 2 } else { buckets }
}

/// What a table for so many IPv4 flows takes.
pub const fn bytes_for(flows: usize) -> usize {
    FlowTable::bytes_for(flows)
}

#[cfg(test)]
mod tests;
