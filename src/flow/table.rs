//! The flow table: one cache line decides a flow.
//!
//! A bucket is a line of four exact 64-bit keys and four values. A key lives in one of two buckets; when both are full
//! of living flows, a few entries are moved to their other bucket, copied before they are cleared. Nothing is ever
//! full of the dead: what has run out is taken for free by lookups and inserts, and a bounded sweep clears it.
//! Everything is allocated at the start.

use std::io;
use std::net::Ipv4Addr;

use super::state::{FlowState, timeout_ticks};
use crate::service::{RealId, ServiceId};
use crate::sys::memory::{Backing, Line, Region};
use crate::sys::prefetch;

const SLOTS: usize = 4;
/// Slots that are planned for each flow: tables are built for this load at most.
const LOAD_PERCENT: usize = 75;
/// How many moves an insert may chain.
const MOVES: usize = 3;
const EMPTY: u64 = 0;

/// Client address, client port and service: exactly a flow, in 64 bits, never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey(u64);

impl FlowKey {
    pub const fn new(client: Ipv4Addr, port: u16, service: ServiceId) -> FlowKey {
        FlowKey((client.to_bits() as u64) << 32 | (port as u64) << 16 | service.number() as u64)
    }

    pub fn client(self) -> (Ipv4Addr, u16) {
        (Ipv4Addr::from_bits((self.0 >> 32) as u32), (self.0 >> 16) as u16)
    }

    pub fn service(self) -> Option<ServiceId> {
        ServiceId::from_number(self.0 as u16)
    }
}

/// What a flow is pinned to: its entry's other half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    pub real: RealId,
    pub state: FlowState,
    /// The coarse time of the last packet.
    pub seen: u32,
}

impl Pin {
    const fn pack(self) -> u64 {
        self.real.0 as u64 | (self.state as u64) << 16 | (self.seen as u64) << 32
    }

    fn unpack(value: u64) -> Pin {
        Pin {
            real: RealId(value as u16),
            state: FlowState::from_number((value >> 16) as u8),
            seen: (value >> 32) as u32,
        }
    }

    /// Ticks that it has left at `tick`; zero: it has run out.
    pub const fn left(self, tick: u32) -> u32 {
        timeout_ticks(self.state).saturating_sub(tick.wrapping_sub(self.seen))
    }
}

/// A key's hash: both of its buckets.
#[derive(Clone, Copy, Debug)]
pub struct Hash(u64);

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    bucket: usize,
    index: usize,
}

/// Both buckets of the key are full of living flows, and so is all that could be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFull;

pub struct FlowTable {
    buckets: Region,
    mask: usize,
    secret: [u64; 2],
    flows: usize,
    swept: usize,
}

impl FlowTable {
    /// A table with room for `flows`, all of it allocated and touched.
    pub fn new(flows: usize, hugepages: bool, secret: [u64; 2]) -> io::Result<FlowTable> {
        let buckets = buckets_for(flows);
        let region = Region::allocate(buckets, hugepages)?;
        Ok(FlowTable { buckets: region, mask: buckets - 1, secret, flows: 0, swept: 0 })
    }

    pub fn len(&self) -> usize {
        self.flows
    }

    pub fn is_empty(&self) -> bool {
        self.flows == 0
    }

    pub fn slots(&self) -> usize {
        self.buckets.len() * SLOTS
    }

    pub fn buckets(&self) -> usize {
        self.buckets.len()
    }

    pub fn backing(&self) -> Backing {
        self.buckets.backing()
    }

    /// Two keyed multiply-folds: who does not know the secret cannot aim at a bucket, and clients in a row (one round
    /// leaves them in a lattice) spread out.
    pub fn hash(&self, key: FlowKey) -> Hash {
        let once = fold(key.0 ^ self.secret[0], self.secret[1] | 1);
        Hash(fold(once ^ self.secret[1], 0x9fb2_1c65_1e98_df25))
    }

    pub fn prefetch(&self, hash: Hash) {
        prefetch::line(&self.buckets[self.first(hash)]);
    }

    fn first(&self, hash: Hash) -> usize {
        hash.0 as usize & self.mask
    }

    /// Never the first, so that each key has two.
    fn second(&self, hash: Hash) -> usize {
        let first = self.first(hash);
        let second = (hash.0 >> 32) as usize & self.mask;
        if second == first { first ^ 1 } else { second }
    }

    /// The entry of `key`, if it has one that has not run out.
    pub fn find(&self, key: FlowKey, hash: Hash, tick: u32) -> Option<(Slot, Pin)> {
        let slot = self.position(self.first(hash), key).or_else(|| self.position(self.second(hash), key))?;
        let pin = self.pin(slot);
        (pin.left(tick) > 0).then_some((slot, pin))
    }

    fn position(&self, bucket: usize, key: FlowKey) -> Option<Slot> {
        let line = &self.buckets[bucket].0;
        (0..SLOTS).find(|index| line[*index] == key.0).map(|index| Slot { bucket, index })
    }

    pub fn pin(&self, slot: Slot) -> Pin {
        Pin::unpack(self.buckets[slot.bucket].0[SLOTS + slot.index])
    }

    pub fn update(&mut self, slot: Slot, pin: Pin) {
        self.buckets[slot.bucket].0[SLOTS + slot.index] = pin.pack();
    }

    /// Enters a flow that `find` did not find. What had run out and lies in its way is handed to `expired` and gone.
    pub fn insert(
        &mut self,
        key: FlowKey,
        hash: Hash,
        pin: Pin,
        mut expired: impl FnMut(FlowKey, Pin),
    ) -> Result<Slot, TableFull> {
        let tick = pin.seen;
        let buckets = [self.first(hash), self.second(hash)];
        // An entry of this very key that ran out must not stay beside the new one.
        for bucket in buckets {
            if let Some(slot) = self.position(bucket, key) {
                self.clear(slot, &mut expired);
            }
        }
        let free = buckets
            .into_iter()
            .find_map(|bucket| self.free_slot(bucket, tick, &mut expired))
            .or_else(|| buckets.into_iter().find_map(|bucket| self.make_room(bucket, tick, MOVES, &mut expired)))
            .ok_or(TableFull)?;
        self.buckets[free.bucket].0[SLOTS + free.index] = pin.pack();
        self.buckets[free.bucket].0[free.index] = key.0;
        self.flows += 1;
        Ok(free)
    }

    /// A free slot of the bucket: an empty one, or one whose flow has run out.
    fn free_slot(&mut self, bucket: usize, tick: u32, expired: &mut impl FnMut(FlowKey, Pin)) -> Option<Slot> {
        let slots = (0..SLOTS).map(|index| Slot { bucket, index });
        if let Some(slot) = slots.clone().find(|slot| self.buckets[bucket].0[slot.index] == EMPTY) {
            return Some(slot);
        }
        let slot = slots.into_iter().find(|slot| self.pin(*slot).left(tick) == 0)?;
        self.clear(slot, expired);
        Some(slot)
    }

    /// Frees a slot of the bucket by moving its entry to the other bucket of that entry, `moves` deep at most.
    fn make_room(
        &mut self,
        bucket: usize,
        tick: u32,
        moves: usize,
        expired: &mut impl FnMut(FlowKey, Pin),
    ) -> Option<Slot> {
        for deep in 0..moves {
            for index in 0..SLOTS {
                let from = Slot { bucket, index };
                let other = self.other_bucket(from);
                let to = match deep {
                    0 => self.free_slot(other, tick, expired),
                    _ => self.make_room(other, tick, deep, expired),
                };
                // A deeper move may have come through this very bucket.
                if let Some(to) = to.filter(|to| to.bucket != bucket) {
                    self.move_entry(from, to);
                    return Some(from);
                }
                if to.is_some() {
                    return to;
                }
            }
        }
        None
    }

    fn other_bucket(&self, slot: Slot) -> usize {
        let hash = self.hash(FlowKey(self.buckets[slot.bucket].0[slot.index]));
        let first = self.first(hash);
        if first == slot.bucket { self.second(hash) } else { first }
    }

    /// Copies before it clears: whoever finds the table cut off in the middle finds the entry at least once.
    fn move_entry(&mut self, from: Slot, to: Slot) {
        let line = self.buckets[from.bucket].0;
        let target = &mut self.buckets[to.bucket].0;
        target[SLOTS + to.index] = line[SLOTS + from.index];
        target[to.index] = line[from.index];
        self.buckets[from.bucket].0[from.index] = EMPTY;
    }

    fn clear(&mut self, slot: Slot, gone: &mut impl FnMut(FlowKey, Pin)) {
        let line = &mut self.buckets[slot.bucket].0;
        let key = FlowKey(std::mem::replace(&mut line[slot.index], EMPTY));
        let pin = Pin::unpack(line[SLOTS + slot.index]);
        self.flows -= 1;
        gone(key, pin);
    }

    /// Clears what has run out in the next `count` buckets, round and round.
    pub fn sweep(&mut self, tick: u32, count: usize, mut expired: impl FnMut(FlowKey, Pin)) {
        for _ in 0..count.min(self.buckets.len()) {
            let bucket = self.swept;
            self.swept = (self.swept + 1) & self.mask;
            for index in 0..SLOTS {
                let slot = Slot { bucket, index };
                if self.buckets[bucket].0[index] != EMPTY && self.pin(slot).left(tick) == 0 {
                    self.clear(slot, &mut expired);
                }
            }
        }
    }

    /// The living flows of one bucket; none past the last bucket.
    pub fn bucket(&self, bucket: usize, tick: u32) -> impl Iterator<Item = (FlowKey, Pin)> {
        let line = self.buckets.get(bucket).map_or([EMPTY; 8], |line| line.0);
        (0..SLOTS)
            .filter(move |index| line[*index] != EMPTY)
            .map(move |index| (FlowKey(line[index]), Pin::unpack(line[SLOTS + index])))
            .filter(move |(_, pin)| pin.left(tick) > 0)
    }
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// A power of two of buckets in which `flows` make the planned load.
pub fn buckets_for(flows: usize) -> usize {
    (flows.max(1) * 100).div_ceil(LOAD_PERCENT * SLOTS).next_power_of_two().max(2)
}

/// What a table for so many flows takes.
pub fn bytes_for(flows: usize) -> usize {
    buckets_for(flows) * size_of::<Line>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn table(flows: usize) -> FlowTable {
        FlowTable::new(flows, false, [0x2b7e_1516_28ae_d2a6, 0xabf7_1588_09cf_4f3c]).unwrap()
    }

    fn key(client: u32, port: u16) -> FlowKey {
        FlowKey::new(Ipv4Addr::from(client), port, ServiceId::from_number(1).unwrap())
    }

    fn pin(real: u16, seen: u32) -> Pin {
        Pin { real: RealId(real), state: FlowState::Close, seen }
    }

    /// CLOSE lives ten seconds.
    const LIFE: u32 = timeout_ticks(FlowState::Close);

    #[derive(Clone, Debug)]
    enum Step {
        Packet { client: u32, real: u16 },
        Pass(u32),
        Sweep(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0u32..40, any::<u16>()).prop_map(|(client, real)| Step::Packet { client, real }),
            1 => (1u32..LIFE + 2).prop_map(Step::Pass),
            1 => (0usize..20).prop_map(Step::Sweep),
        ]
    }

    proptest! {
        /// Against a map of the living: the same flows, the same pins, and every flow that ends is reported once.
        #[test]
        fn does_what_a_map_does(steps in proptest::collection::vec(step(), 1..400)) {
            let mut table = table(20);
            let mut model: HashMap<FlowKey, Pin> = HashMap::new();
            let mut tick = 1_000;
            for step in steps {
                let mut ended = Vec::new();
                match step {
                    Step::Pass(ticks) => tick += ticks,
                    Step::Sweep(count) => table.sweep(tick, count, |key, pin| ended.push((key, pin))),
                    Step::Packet { client, real } => {
                        let key = key(client, 7);
                        let hash = table.hash(key);
                        let living = model.get(&key).copied().filter(|pin| pin.left(tick) > 0);
                        prop_assert_eq!(table.find(key, hash, tick).map(|found| found.1), living);
                        if let Some((slot, _)) = table.find(key, hash, tick) {
                            table.update(slot, pin(real, tick));
                            model.insert(key, pin(real, tick));
                        } else if table.insert(key, hash, pin(real, tick), |key, pin| ended.push((key, pin))).is_ok() {
                            if let Some(old) = ended.iter().position(|(other, _)| *other == key) {
                                let (_, old) = ended.remove(old);
                                prop_assert_eq!(model.remove(&key), Some(old));
                            }
                            model.insert(key, pin(real, tick));
                        } else {
                            let living = model.values().filter(|pin| pin.left(tick) > 0).count();
                            prop_assert!(living > table.slots() / 2, "full at {} of {}", living, table.slots());
                        }
                    }
                }
                for (key, pin) in ended {
                    prop_assert_eq!(pin.left(tick), 0);
                    prop_assert_eq!(model.remove(&key), Some(pin));
                }
                prop_assert_eq!(table.len(), model.len());
            }
            let listed: HashMap<_, _> = (0..table.buckets()).flat_map(|bucket| table.bucket(bucket, tick)).collect();
            model.retain(|_, pin| pin.left(tick) > 0);
            prop_assert_eq!(listed, model);
        }
    }

    #[test]
    fn holds_what_it_was_built_for_and_more() {
        let mut table = table(100_000);
        let mut entered = 0usize;
        for client in 0u32.. {
            let key = key(client.wrapping_mul(2_654_435_761), 80);
            let hash = table.hash(key);
            match table.insert(key, hash, pin(1, 5), |_, _| panic!("nothing has run out")) {
                Ok(slot) => assert_eq!(table.find(key, hash, 5), Some((slot, pin(1, 5)))),
                Err(TableFull) => break,
            }
            entered += 1;
        }
        assert!(entered * 100 > table.slots() * 85, "{entered} of {}", table.slots());
        assert_eq!(table.len(), entered);
        let again = (0..entered as u32).filter(|client| {
            let key = key(client.wrapping_mul(2_654_435_761), 80);
            table.find(key, table.hash(key), 5).is_some()
        });
        assert_eq!(again.count(), entered, "moving lost somebody");
    }

    #[test]
    fn a_full_table_of_the_dead_takes_the_living() {
        let mut table = table(1_000);
        let mut client = 0;
        while let key = key(client, 1)
            && table.insert(key, table.hash(key), pin(1, 0), |_, _| ()).is_ok()
        {
            client += 1;
        }
        let full = table.len();
        let mut ended = 0;
        let again = full * 9 / 10;
        for client in 0..again as u32 {
            let key = key(client, 2);
            table.insert(key, table.hash(key), pin(2, LIFE), |_, _| ended += 1).expect("only the dead are here");
        }
        assert_eq!(table.len(), full + again - ended);
        table.sweep(LIFE, table.buckets(), |_, pin| {
            assert_eq!(pin.real, RealId(1));
            ended += 1;
        });
        assert_eq!((ended, table.len()), (full, again));
    }

    #[test]
    fn memory_is_what_is_said() {
        assert_eq!(bytes_for(3), 128);
        assert_eq!(bytes_for(786_432), 262_144 * 64);
        assert_eq!(table(1_000_000).slots(), 2_097_152);
    }

    #[test]
    fn keys_are_exact() {
        let service = ServiceId::from_number(7).unwrap();
        let key = FlowKey::new(Ipv4Addr::new(10, 1, 2, 3), 54321, service);
        assert_eq!((key.client(), key.service()), ((Ipv4Addr::new(10, 1, 2, 3), 54321), Some(service)));
    }
}
