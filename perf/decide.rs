//! `decide`: the whole decision on frames in memory, everything on: states, expiry with its sweep, statistics.

use std::hint::black_box;
use std::sync::Arc;

use drover::counters::Ledger;
use drover::director::Director;
use drover::packet::{BURST, Burst};
use drover::service::Snapshot;

use crate::bench::{self, Bench, Outcome, SWEEP, VirtualClock, forwarded};
use crate::measure::{CHUNK, Contender, interleave, timed};
use crate::source::{NET_NULL, Order, Source, mac_write};
use crate::traffic::{ACK, FRAME, Mix, SYN, Sequence, Template, View};

/// A frame at the start of a cache line, as drivers deliver it.
#[repr(C, align(128))]
#[derive(Clone)]
struct Place([u8; FRAME]);

/// A director, and the memory that its frames are in.
pub struct Stage {
    pub director: Director,
    pub ledger: Arc<Ledger>,
    pub snapshot: Snapshot,
    pub clock: VirtualClock,
    places: Vec<Place>,
}

impl Stage {
    pub fn new(bench: &Bench, flows: u32, half_open: usize, other_services: usize) -> std::io::Result<Stage> {
        let snapshot = bench::snapshot(other_services);
        let (director, ledger) = bench::director(&snapshot, bench.table(flows)?, half_open);
        let clock = VirtualClock::new(bench.hertz);
        Ok(Stage { director, ledger, snapshot, clock, places: vec![Place([0; FRAME]); CHUNK] })
    }

    /// Writes the frames of a chunk, or of less.
    pub fn prepare(&mut self, template: &Template, mut flow: impl FnMut() -> u32) {
        for place in &mut self.places {
            template.write(flow(), &mut place.0);
        }
    }

    /// Decides the first `count` of them in bursts, and says how many were forwarded.
    pub fn decide(&mut self, count: usize) -> usize {
        (0..count).step_by(BURST).map(|first| self.burst(first, BURST.min(count - first), true)).sum()
    }

    /// One burst, with or without the sweep that comes after it.
    #[inline(always)]
    pub fn burst(&mut self, first: usize, count: usize, sweep: bool) -> usize {
        let now = self.clock.now();
        let places = &mut self.places[first..first + count];
        let mut frames: Burst<View<'_>> = places.iter_mut().map(|place| View(&mut place.0)).collect();
        let verdicts = self.director.decide(now, &self.snapshot.stations[0], &self.snapshot, &mut frames);
        if sweep {
            self.director.sweep(now, SWEEP);
        }
        forwarded(black_box(&verdicts))
    }

    /// The frames as they are now.
    pub fn frames(&self) -> impl Iterator<Item = &[u8; FRAME]> {
        self.places.iter().map(|place| &place.0)
    }

    /// One packet of each flow, not timed.
    pub fn send_each(&mut self, template: &Template, flows: u32) {
        for first in (0..flows).step_by(CHUNK) {
            let count = CHUNK.min((flows - first) as usize);
            let mut flow = first..;
            self.prepare(template, || flow.next().unwrap_or(first));
            assert_eq!(self.decide(count), count, "every flow finds its place");
        }
    }

    /// All flows, established.
    pub fn establish(&mut self, flows: u32) {
        self.send_each(&Template::tcp(SYN), flows);
        self.send_each(&Template::tcp(ACK), flows);
        assert_eq!(self.director.flows().len(), flows as usize);
    }

    /// The timed part of a chunk of packets of established flows.
    pub fn chunk(&mut self, template: &Template, sequence: &mut Sequence) -> u64 {
        self.prepare(template, || sequence.draw());
        let mut sent = 0;
        let cycles = timed(|| sent = self.decide(CHUNK));
        assert_eq!(sent, CHUNK, "packets of established flows are forwarded");
        self.clock.pass(cycles);
        cycles
    }
}

pub fn run(bench: &mut Bench) -> Outcome {
    let (_port, mut queues) = bench.port("net_null_decide", NET_NULL, 1)?;
    let queue = queues.pop().ok_or("net_null has a queue")?;
    let order = Order::Mixed(Sequence::new(Mix::Uniform, 1 << 20, 5));
    let (mut floor, control) = Source::new(queue, Template::tcp(ACK), order);
    for size in bench.scale.sizes() {
        one_size(bench, size.name, size.flows, 0, &mut || control.timed(|| mac_write(&mut floor)))?;
    }
    let most = bench.scale.pick(100, 9_998, 9_998);
    let size = bench.scale.sizes()[bench.scale.pick(0, 1, 1)];
    let name = format!("{}/10000-services", size.name);
    one_size(bench, &name, size.flows, most, &mut || control.timed(|| mac_write(&mut floor)))?;
    Ok(())
}

fn one_size(
    bench: &mut Bench,
    name: &str,
    flows: u32,
    other_services: usize,
    floor: &mut dyn FnMut() -> u64,
) -> Outcome {
    let mut stage = Stage::new(bench, flows, usize::MAX, other_services)?;
    stage.establish(flows);
    let pages = stage.director.flows().backing().to_string();
    let template = Template::tcp(ACK);
    for mix in Mix::ALL {
        let mut sequence = Sequence::new(mix, flows, 7);
        let mut contenders = [Contender::new(&mut *floor), Contender::new(|| stage.chunk(&template, &mut sequence))];
        let measured = interleave(bench.hertz, bench.scale.effort(), &mut contenders);
        let [floor, decide] = &measured.samples[..] else { unreachable!("two contenders") };
        let case = format!("dr4/{name}{}", mix.suffix());
        let mut section = bench.report.section("decide", &pages);
        let probe = measured.probe;
        section.ratio(&case, "cycles_p10", decide.p10(), ("mac_write/net_null", floor.p10()), probe);
        section.ratio(&case, "cycles_p50", decide.p50(), ("mac_write/net_null", floor.p50()), probe);
    }
    Ok(())
}
