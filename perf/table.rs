//! `table`: the flow table alone, beside DPDK's `rte_hash` with the same keys, on the same pages, at the same load.

use std::hint::black_box;
use std::net::Ipv4Addr;

use arrayvec::ArrayVec;
use drover::dpdk::HashTable;
use drover::flow::table::Hint;
use drover::flow::{FlowKey, FlowState, FlowTable, Hash, Pin, WideTable, timeout_ticks};
use drover::packet::BURST;
use drover::service::{RealId, ServiceId};
use drover::sys::probe::{Lanes, Work};

use crate::bench::{Bench, Outcome, Size};
use crate::measure::{CHUNK, Contender, Measured, Samples, interleave, repeat, timed};
use crate::traffic::{Mix, Sequence, client};

/// The time at which all is entered.
const TICK: u32 = 8_000;

/// Both kinds of key of a flow: ours, and the same 64 bits for `rte_hash`.
#[derive(Clone, Copy)]
struct Key {
    ours: FlowKey,
    theirs: u64,
}

fn key(flow: u32) -> Key {
    let service = ServiceId::from_number(1).expect("one is a number");
    let (address, port) = client(flow);
    let ours = FlowKey::new(Ipv4Addr::from_bits(address), port, service);
    Key { ours, theirs: u64::from(address) << 32 | u64::from(port) << 16 | 1 }
}

const fn pin(state: FlowState) -> Pin {
    Pin::new(RealId(3), state, TICK + timeout_ticks(state))
}

/// Two tables with the same flows in them.
struct Pair {
    ours: FlowTable,
    theirs: HashTable,
    flows: u32,
    ours_keys: Vec<FlowKey>,
    theirs_keys: Vec<u64>,
}

/// How the director looks for the flows of a burst, compiled for the CPU's way of comparing keys.
struct Finding<'p> {
    table: &'p FlowTable,
    keys: &'p [FlowKey],
}

impl Work for Finding<'_> {
    type Answer = usize;

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> usize {
        let mut found = 0;
        for keys in self.keys.chunks(BURST) {
            let mut wanted = ArrayVec::<(FlowKey, Hash), BURST>::new();
            for key in keys {
                let hash = self.table.hash(*key);
                self.table.prefetch(hash);
                wanted.push((*key, hash));
            }
            let mut hints = [Hint::default(); BURST];
            self.table.seek_burst(lanes, &wanted, &mut hints);
            for (&(key, hash), hint) in wanted.iter().zip(hints) {
                let entry = self.table.find_at(lanes, hint, key, TICK);
                found += usize::from(black_box(entry.or_else(|| self.table.find(key, hash, TICK))).is_some());
            }
        }
        found
    }
}

impl Pair {
    fn new(bench: &Bench, size: Size) -> Result<Pair, Box<dyn std::error::Error>> {
        let slots = size.flows / 3 * 4;
        let mut pair = Pair {
            ours: bench.table(size.flows)?,
            theirs: HashTable::create(&bench.eal, &format!("bench-{}", size.name), slots)?,
            flows: size.flows,
            ours_keys: Vec::with_capacity(CHUNK),
            theirs_keys: Vec::with_capacity(CHUNK),
        };
        for flow in 0..size.flows {
            let key = key(flow);
            enter(&mut pair.ours, key.ours, FlowState::Established)?;
            assert!(pair.theirs.add(key.theirs), "rte_hash takes three quarters of its entries");
        }
        Ok(pair)
    }

    /// The keys of a chunk, not timed.
    fn prepare(&mut self, mut flow: impl FnMut() -> u32) {
        self.ours_keys.clear();
        self.theirs_keys.clear();
        for _ in 0..CHUNK {
            let key = key(flow());
            self.ours_keys.push(key.ours);
            self.theirs_keys.push(key.theirs);
        }
    }

    fn ours_finds(&self) -> (u64, usize) {
        let mut found = 0;
        let cycles = timed(|| found = self.ours.probe().run(Finding { table: &self.ours, keys: &self.ours_keys }));
        (cycles, found)
    }

    fn theirs_finds(&self) -> (u64, usize) {
        let mut found = 0;
        let cycles = timed(|| {
            for keys in self.theirs_keys.chunks(BURST) {
                let mut places = [0; BURST];
                self.theirs.find(keys, &mut places);
                found += black_box(&places)[..keys.len()].iter().filter(|place| **place >= 0).count();
            }
        });
        (cycles, found)
    }

    /// A chunk of new flows that soon run out, entered as the director does it: looked up first, in bursts.
    fn ours_enters(&mut self) -> u64 {
        let cycles = timed(|| {
            for keys in self.ours_keys.chunks(BURST) {
                for key in keys {
                    self.ours.prefetch_both(self.ours.hash(*key));
                }
                for key in keys {
                    let hash = self.ours.hash(*key);
                    let entered = self.ours.insert(*key, hash, pin(FlowState::None), TICK, |_, _| ());
                    assert!(entered.is_ok(), "there is room at this load");
                }
            }
        });
        // Not timed: they run out, the others do not.
        self.ours.sweep(TICK + timeout_ticks(FlowState::None), self.ours.buckets(), |_| true, |_, _| ());
        assert_eq!(self.ours.len(), self.flows as usize);
        cycles
    }

    fn theirs_enters(&mut self) -> u64 {
        let mut entered = 0;
        let cycles = timed(|| {
            for key in &self.theirs_keys {
                entered += usize::from(self.theirs.add(*key));
            }
        });
        for key in &self.theirs_keys {
            self.theirs.remove(*key);
        }
        // What it refuses, it refuses quickly; that is no insertion.
        cycles * CHUNK as u64 / entered.max(1) as u64
    }
}

fn enter(table: &mut FlowTable, key: FlowKey, state: FlowState) -> Result<(), &'static str> {
    let hash = table.hash(key);
    table.insert(key, hash, pin(state), TICK, |_, _| ()).map(|_| ()).map_err(|_| "the table is full")
}

pub fn run(bench: &mut Bench) -> Outcome {
    for size in bench.scale.sizes() {
        let mut pair = Pair::new(bench, *size)?;
        for mix in Mix::ALL {
            look_up(bench, *size, &mut pair, mix, 0, "hit");
        }
        look_up(bench, *size, &mut pair, Mix::Uniform, size.flows, "miss");
        // A chunk must be little beside the table, or it would not be this load.
        if size.flows as usize > 16 * CHUNK {
            insert(bench, *size, &mut pair);
        }
        memory(bench, *size, &pair);
        expire(bench, *size, pair);
    }
    Ok(())
}

/// `offset`: above the flows that are in the tables there are only strangers.
fn look_up(bench: &mut Bench, size: Size, pair: &mut Pair, mix: Mix, offset: u32, metric: &str) {
    let expected = if offset == 0 { CHUNK } else { 0 };
    let pages = pair.ours.backing().to_string();
    let pair = std::cell::RefCell::new(pair);
    let mut sequences = [Sequence::new(mix, size.flows, 11), Sequence::new(mix, size.flows, 11)];
    let [first, second] = &mut sequences;
    let mut contenders = [
        Contender::new(|| {
            let mut pair = pair.borrow_mut();
            pair.prepare(|| first.draw() + offset);
            let (cycles, found) = pair.ours_finds();
            assert_eq!(found, expected);
            cycles
        }),
        Contender::new(|| {
            let mut pair = pair.borrow_mut();
            pair.prepare(|| second.draw() + offset);
            let (cycles, found) = pair.theirs_finds();
            assert_eq!(found, expected);
            cycles
        }),
    ];
    let measured = interleave(bench.hertz, bench.scale.effort(), &mut contenders);
    write(bench, &format!("{}{}", size.name, mix.suffix()), metric, &pages, &measured);
}

fn write(bench: &mut Bench, case: &str, metric: &str, pages: &str, measured: &Measured) {
    let [ours, theirs] = &measured.samples[..] else { unreachable!("two contenders") };
    let mut section = bench.report.section("table", pages);
    let probe = measured.probe;
    let against = format!("rte_hash/{case}");
    section.ratio(case, &format!("{metric}_cycles_p10"), ours.p10(), (&against, theirs.p10()), probe);
    section.ratio(case, &format!("{metric}_cycles_p50"), ours.p50(), (&against, theirs.p50()), probe);
    section.row(&against, &format!("{metric}_cycles_p10"), theirs.p10(), probe);
}

fn insert(bench: &mut Bench, size: Size, pair: &mut Pair) {
    let pages = pair.ours.backing().to_string();
    let pair = std::cell::RefCell::new(pair);
    let next = std::cell::Cell::new(size.flows);
    let fresh = || {
        next.set(next.get() + 1);
        next.get()
    };
    let mut contenders = [
        Contender::new(|| {
            pair.borrow_mut().prepare(fresh);
            pair.borrow_mut().ours_enters()
        }),
        Contender::new(|| {
            pair.borrow_mut().prepare(fresh);
            pair.borrow_mut().theirs_enters()
        }),
    ];
    let mut effort = bench.scale.effort();
    // The whole table is swept between two chunks.
    effort.turns = effort.turns.min(20);
    effort.chunks = effort.chunks.min(bench.scale.pick(1, 2, 4));
    let measured = interleave(bench.hertz, effort, &mut contenders);
    write(bench, size.name, "insert", &pages, &measured);
}

fn memory(bench: &mut Bench, size: Size, pair: &Pair) {
    let bytes = FlowTable::bytes_for(size.flows as usize) as f64 / f64::from(size.flows);
    let now = crate::measure::probe(bench.hertz);
    let probe = crate::measure::Probe { before: now, after: now };
    let pages = pair.ours.backing().to_string();
    let wide = WideTable::bytes_for(size.flows as usize) as f64 / f64::from(size.flows);
    let mut section = bench.report.section("table", pages);
    section.row(size.name, "bytes_per_connection", bytes, probe);
    section.row(&format!("{}/ipv6", size.name), "bytes_per_connection", wide, probe);
}

/// All flows have run out; what does it cost to clear them?
fn expire(bench: &mut Bench, size: Size, pair: Pair) {
    let Pair { mut ours, theirs, flows, .. } = pair;
    drop(theirs);
    let late = TICK + timeout_ticks(FlowState::Established);
    let buckets_a_chunk = CHUNK / 3;
    let pages = ours.backing().to_string();
    let measured = repeat(bench.hertz, || {
        for flow in 0..if ours.is_empty() { flows } else { 0 } {
            enter(&mut ours, key(flow).ours, FlowState::Established).expect("it held them before");
        }
        let mut values = Vec::new();
        while !ours.is_empty() {
            let mut ended = 0u64;
            let cycles =
                timed(|| ours.sweep(late, buckets_a_chunk, |_| true, |_, pin| ended += u64::from(pin.real().0 == 3)));
            if ended > 0 {
                values.push(cycles as f64 / ended as f64);
            }
        }
        vec![Samples::new(values)]
    });
    let mut section = bench.report.section("table", pages);
    section.row(size.name, "expire_cycles_p10", measured.samples[0].p10(), measured.probe);
    section.row(size.name, "expire_cycles_p50", measured.samples[0].p50(), measured.probe);
}
