//! The table against a map with expiry, for both kinds of keys, and at the ends of its room.

mod attack;

use std::collections::HashMap;
use std::fmt::Debug;
use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestCaseResult};

use super::*;
use crate::flow::timeout_ticks;
use crate::service::ServiceId;
use crate::sys::probe::Work;

const SECRET: [u64; 2] = [0x2b7e_1516_28ae_d2a6, 0xabf7_1588_09cf_4f3c];
/// CLOSE lives ten seconds.
const LIFE: u32 = timeout_ticks(FlowState::Close);

fn table(flows: usize) -> FlowTable {
    FlowTable::new(flows, false, SECRET).unwrap()
}

fn service() -> ServiceId {
    ServiceId::from_number(1).unwrap()
}

fn key(client: u32, port: u16) -> FlowKey {
    FlowKey::new(Ipv4Addr::from(client), port, service())
}

/// Keys that differ in one word of three only, each third of them in another one.
fn wide_key(client: u32) -> WideKey {
    let address = Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(client));
    match client % 3 {
        0 => WideKey::ipv6(address, 7, service()),
        1 => WideKey::ipv6(Ipv6Addr::from_bits(u128::from(client) << 64), 7, service()),
        _ => WideKey::ipv6(Ipv6Addr::LOCALHOST, 7, service()).to(6, client as u16),
    }
}

/// Of a flow that had its last packet then.
fn pin(real: u16, seen: u32) -> Pin {
    Pin::new(RealId(real), FlowState::Close, seen + LIFE)
}

struct Seek<'t, K: Key<Q>, const Q: usize>(&'t Table<K, Q>, &'t [(K, Hash)], &'t mut [Hint]);

impl<K: Key<Q>, const Q: usize> Work for Seek<'_, K, Q> {
    type Answer = ();
    fn run<L: Lanes>(self, lanes: L) {
        self.0.seek_burst(lanes, self.1, self.2);
    }
}

struct FindAt<'t, K: Key<Q>, const Q: usize>(&'t Table<K, Q>, Hint, (K, Hash), u32);

impl<K: Key<Q>, const Q: usize> Work for FindAt<'_, K, Q> {
    type Answer = Option<(Slot, Pin)>;
    fn run<L: Lanes>(self, lanes: L) -> Option<(Slot, Pin)> {
        let FindAt(table, hint, (key, hash), tick) = self;
        let found = table.find_at(lanes, hint, key, tick);
        if let Some(found) = found {
            assert_eq!(table.find(key, hash, tick), Some(found));
        }
        found.or_else(|| table.find(key, hash, tick))
    }
}

#[derive(Clone, Debug)]
enum Step {
    Packet {
        client: u32,
        real: u16,
        hinted: bool,
    },
    /// A hint from here is used by the next packet that wants one: it may have become wrong by then.
    Seek(u32),
    Pass(u32),
    Sweep(usize),
}

fn step(clients: u32) -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..clients, any::<u16>(), any::<bool>())
            .prop_map(|(client, real, hinted)| Step::Packet { client, real, hinted }),
        2 => (0..clients).prop_map(Step::Seek),
        1 => (1u32..LIFE + 2).prop_map(Step::Pass),
        1 => (0usize..30).prop_map(Step::Sweep),
    ]
}

/// The table, and what it should hold: the living, and the dead that it has not reported yet.
struct Twins<K: Key<QUADS>, const QUADS: usize> {
    table: Table<K, QUADS>,
    model: HashMap<K, Pin>,
    tick: u32,
    hint: Hint,
    /// How many of the living it had when it first refused one.
    full_at: usize,
    most_stashed: usize,
}

impl<K: Key<QUADS> + std::hash::Hash + Debug, const QUADS: usize> Twins<K, QUADS> {
    fn new(flows: usize) -> Self {
        let table = Table::new(flows, false, SECRET).unwrap();
        let (model, hint) = (HashMap::new(), Hint::default());
        Twins { table, model, tick: 1_000, hint, full_at: usize::MAX, most_stashed: 0 }
    }

    fn living(&self) -> usize {
        self.model.values().filter(|pin| pin.left(self.tick) > 0).count()
    }

    fn take(&mut self, step: Step, key_of: fn(u32) -> K) -> TestCaseResult {
        let mut ended = Vec::new();
        match step {
            Step::Pass(ticks) => self.tick += ticks,
            Step::Sweep(count) => self.table.sweep(self.tick, count, |_| true, |key, pin| ended.push((key, pin))),
            Step::Seek(client) => {
                let wanted = (key_of(client), self.table.hash(key_of(client)));
                self.table.probe().run(Seek(&self.table, &[wanted], std::slice::from_mut(&mut self.hint)));
            }
            Step::Packet { client, real, hinted } => self.packet(key_of(client), real, hinted, &mut ended)?,
        }
        for (key, pin) in ended {
            prop_assert_eq!(pin.left(self.tick), 0, "a living flow was evicted");
            prop_assert_eq!(self.model.remove(&key), Some(pin));
        }
        prop_assert_eq!(self.table.len(), self.model.len());
        self.most_stashed = self.most_stashed.max(self.table.stashed());
        Ok(())
    }

    fn packet(&mut self, key: K, real: u16, hinted: bool, ended: &mut Vec<(K, Pin)>) -> TestCaseResult {
        let (hash, tick) = (self.table.hash(key), self.tick);
        let living = self.model.get(&key).copied().filter(|pin| pin.left(tick) > 0);
        let found = match hinted {
            true => self.table.probe().run(FindAt(&self.table, self.hint, (key, hash), tick)),
            false => self.table.find(key, hash, tick),
        };
        prop_assert_eq!(found.map(|found| found.1), living);
        let pin = pin(real, tick);
        if let Some((slot, _)) = found {
            self.table.update(slot, pin);
            self.model.insert(key, pin);
        } else if self.table.insert(key, hash, pin, tick, |key, pin| ended.push((key, pin))).is_ok() {
            if let Some(old) = ended.iter().position(|(other, _)| *other == key) {
                let (_, old) = ended.remove(old);
                prop_assert_eq!(self.model.remove(&key), Some(old));
            }
            self.model.insert(key, pin);
        } else {
            let living = self.living();
            prop_assert!(living * 100 > self.table.slots() * 85, "full at {} of {}", living, self.table.slots());
            self.full_at = self.full_at.min(living);
        }
        Ok(())
    }

    fn agree_at_the_end(mut self) -> TestCaseResult {
        let listed = (0..self.table.buckets()).flat_map(|bucket| self.table.bucket(bucket, self.tick));
        let listed: HashMap<_, _> = listed.collect();
        self.model.retain(|_, pin| pin.left(self.tick) > 0);
        prop_assert_eq!(listed, self.model);
        Ok(())
    }
}

proptest! {
    /// Against a map of the living: the same flows, the same pins, and every flow that ends is reported once.
    #[test]
    fn does_what_a_map_does(steps in prop::collection::vec(step(140), 1..600)) {
        let mut twins = Twins::<FlowKey, 2>::new(20);
        steps.into_iter().try_for_each(|step| twins.take(step, |client| key(client, 7)))?;
        twins.agree_at_the_end()?;
    }

    #[test]
    fn does_so_with_wide_keys(steps in prop::collection::vec(step(140), 1..600)) {
        let mut twins = Twins::<WideKey, 4>::new(20);
        steps.into_iter().try_for_each(|step| twins.take(step, wide_key))?;
        twins.agree_at_the_end()?;
    }
}

/// The models above do come where it is narrow: the stash is used, is full, and drains.
#[test]
fn the_stash_fills_and_drains() -> Result<(), TestCaseError> {
    let mut twins = Twins::<FlowKey, 2>::new(20);
    for client in 0..140 {
        twins.take(Step::Packet { client, real: 1, hinted: false }, |client| key(client, 7))?;
    }
    assert_eq!((twins.table.len(), twins.table.stashed()), (28 + 64, 64));
    assert_eq!((twins.full_at, twins.most_stashed), (28 + 64, 64));
    // Half of the others end: those of the stash go home, and are found there.
    twins.tick += LIFE / 2;
    let kept: Vec<_> = twins.model.keys().copied().filter(|key| key.client().0.to_bits() % 2 == 0).collect();
    for key in &kept {
        twins.take(Step::Packet { client: key.client().0.to_bits(), real: 2, hinted: false }, key_of)?;
    }
    twins.tick += LIFE / 2;
    twins.take(Step::Sweep(usize::MAX), key_of)?;
    assert_eq!((twins.table.len(), twins.living()), (kept.len(), kept.len()));
    assert!(twins.table.stashed() < kept.len() && twins.table.stashed() <= kept.len().saturating_sub(20));
    for key in kept {
        assert_eq!(
            twins.table.find(key, twins.table.hash(key), twins.tick).map(|found| found.1.real()),
            Some(RealId(2))
        );
    }
    twins.agree_at_the_end()
}

fn key_of(client: u32) -> FlowKey {
    key(client, 7)
}

/// Enters new flows until one is refused, and says how many there were room for.
fn fill<K: Key<QUADS>, const QUADS: usize>(table: &mut Table<K, QUADS>, key_of: impl Fn(u32) -> K) -> usize {
    for client in 0u32.. {
        let key = key_of(client.wrapping_mul(2_654_435_761));
        if table.insert(key, table.hash(key), pin(1, 5), 5, |_, _| panic!("nothing has run out")).is_err() {
            break;
        }
    }
    table.len()
}

#[test]
fn nothing_is_refused_below_85_percent() {
    for seed in 0..30u64 {
        let secret = SECRET.map(|word| word.wrapping_mul(2 * seed + 1).rotate_left(seed as u32));
        for flows in [1_024, 20_000] {
            let mut table = FlowTable::new(flows, false, secret).unwrap();
            let entered = fill(&mut table, |client| key(client, 80));
            assert!(entered * 100 > table.slots() * 85, "{entered} of {}, seed {seed}", table.slots());
        }
        let mut table = WideTable::new(2_000, false, secret).unwrap();
        let entered = fill(&mut table, |client| WideKey::ipv6(Ipv6Addr::from(u128::from(client)), 1, service()));
        assert!(entered * 100 > table.slots() * 85, "{entered} of {}, seed {seed}, wide", table.slots());
    }
}

#[test]
fn moving_and_stashing_lose_nobody() {
    let mut table = table(30_000);
    let entered = fill(&mut table, |client| key(client, 80));
    assert!(table.stashed() > 0);
    let clients = (0..entered as u32).map(|client| client.wrapping_mul(2_654_435_761));
    let again = clients.filter(|client| table.find(key(*client, 80), table.hash(key(*client, 80)), 5).is_some());
    assert_eq!(again.count(), entered);
    let listed = (0..table.buckets()).flat_map(|bucket| table.bucket(bucket, 5));
    assert_eq!(listed.map(|(key, _)| key).collect::<std::collections::HashSet<_>>().len(), entered);
}

#[test]
fn a_full_table_of_the_dead_takes_the_living() {
    let mut table = table(1_000);
    let mut client = 0;
    while let key = key(client, 1)
        && table.insert(key, table.hash(key), pin(1, 0), 0, |_, _| ()).is_ok()
    {
        client += 1;
    }
    let full = table.len();
    let mut ended = 0;
    let again = full * 9 / 10;
    for client in 0..again as u32 {
        let key = key(client, 2);
        table.insert(key, table.hash(key), pin(2, LIFE), LIFE, |_, _| ended += 1).expect("only the dead are here");
    }
    assert_eq!(table.len(), full + again - ended);
    table.sweep(
        LIFE,
        table.buckets(),
        |_| true,
        |_, pin| {
            assert_eq!(pin.real(), RealId(1));
            ended += 1;
        },
    );
    assert_eq!((ended, table.len()), (full, again));
}

/// Ten times the table's room of new flows beside established ones: none of those is lost, nor moved to another real.
#[test]
fn a_flood_evicts_nobody() {
    let mut table = table(10_000);
    let established = 1_000u32;
    for client in 0..established {
        let pin = Pin::new(RealId(client as u16), FlowState::Established, timeout_ticks(FlowState::Established));
        table.insert(key(client, 1), table.hash(key(client, 1)), pin, 0, |_, _| ()).expect("the table is empty");
    }
    let mut refused = 0;
    for client in 0..100_000 {
        let (key, tick) = (key(client, 2), client / 1_000);
        let expired = |key: FlowKey, _| assert_eq!(key.client().1, 2, "an established flow was evicted");
        refused += u32::from(table.insert(key, table.hash(key), pin(1, tick), tick, expired).is_err());
    }
    assert!(refused > 0, "it was no flood");
    for client in 0..established {
        let found = table.find(key(client, 1), table.hash(key(client, 1)), 100).map(|found| found.1.real());
        assert_eq!(found, Some(RealId(client as u16)));
    }
}

#[test]
fn a_burst_finds_what_one_by_one_finds() {
    for probe in Probe::all() {
        let mut table = table(3_000);
        table.set_probe(probe);
        assert_eq!(table.probe_name(), probe.name());
        let entered = fill(&mut table, |client| key(client, 80)) as u32;
        let wanted: Vec<_> = (0..entered + 500).map(|client| key(client.wrapping_mul(2_654_435_761), 80)).collect();
        let wanted: Vec<_> = wanted.into_iter().map(|key| (key, table.hash(key))).collect();
        let (mut first, mut right) = (0, 0);
        for burst in wanted.chunks(150) {
            let mut hints = [Hint::default(); 150];
            probe.run(Seek(&table, burst, &mut hints));
            for ((key, hash), hint) in burst.iter().zip(hints) {
                let found = table.find(*key, *hash, 5);
                assert_eq!(probe.run(FindAt(&table, hint, (*key, *hash), 5)), found);
                let place = found.map(|(slot, _)| slot.bucket());
                right += usize::from(place == Some(hint.0 as usize));
                first += usize::from(place == Some(table.first(*hash)));
            }
        }
        // All but those of the stash.
        assert_eq!(right, table.len() - table.stashed());
        assert!(first > right / 2 && first < right, "{first} of {right}: most are in their first bucket");
    }
}

#[test]
fn memory_is_what_is_said() {
    assert_eq!((bytes_for(3), bytes_for(300)), (18 * 64, 116 * 64));
    assert_eq!(table(1_000_000).slots(), 1_333_336);
    for flows in [100_000, 1_000_000, 10_000_000, 50_000_001] {
        assert!(bytes_for(flows) < flows * 22 && WideTable::bytes_for(flows) < flows * 43);
    }
}

#[test]
fn what_does_not_fit_is_refused_with_the_arithmetic() {
    let error = FlowTable::new(3 << 40, false, SECRET).map(|_| ()).unwrap_err().to_string();
    let arithmetic = "3298534883328 connections take 67108865 MB (3298534883328 / 3 + 16 buckets of 64 bytes): ";
    assert!(error.starts_with(arithmetic), "{error}");
}
