//! `decide`: the whole decision on frames in memory, everything on: states, expiry with its sweep, statistics.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drover::counters::Ledger;
use drover::director::{Director, Tables};
use drover::packet::{BURST, Burst};
use drover::service::Snapshot;

use crate::bench::{self, Bench, Outcome, SWEEP, Size, VirtualClock, forwarded};
use crate::measure::{CHUNK, Contender, Samples, interleave, timed};
use crate::source::{NET_NULL, Order, Source, mac_write};
use crate::traffic::{ACK, FRAME, Mix, SYN, Sequence, Template, View};

const PROFILED: Duration = Duration::from_secs(6);

/// A frame at the start of a cache line, as drivers deliver it.
#[repr(C, align(128))]
#[derive(Clone)]
struct Place([u8; 128]);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    fn template(self, flags: u8) -> Template {
        match self {
            Family::V4 => Template::tcp(flags),
            Family::V6 => Template::tcp_v6(flags),
        }
    }

    /// What cases begin with.
    fn name(self) -> &'static str {
        match self {
            Family::V4 => "dr4",
            Family::V6 => "dr6",
        }
    }
}

/// A director, and the memory that its frames are in.
pub struct Stage {
    pub director: Director,
    pub ledger: Arc<Ledger>,
    pub snapshot: Snapshot,
    pub clock: VirtualClock,
    pub pages: String,
    /// Of the frames that are there now.
    length: usize,
    places: Vec<Place>,
}

impl Stage {
    pub fn new(bench: &Bench, snapshot: Snapshot, tables: Tables, half_open: usize) -> std::io::Result<Stage> {
        let larger =
            if tables.wide.slots() > tables.narrow.slots() { tables.wide.backing() } else { tables.narrow.backing() };
        let (director, ledger) = bench::director(&snapshot, tables, half_open);
        let (clock, places) = (VirtualClock::new(bench.hertz), vec![Place([0; 128]); CHUNK]);
        Ok(Stage { director, ledger, snapshot, clock, pages: larger.to_string(), length: FRAME, places })
    }

    /// With all its flows established.
    pub fn established(bench: &Bench, family: Family, flows: u32, other_services: usize) -> std::io::Result<Stage> {
        let mut stage = match family {
            Family::V4 => Stage::new(bench, bench::snapshot(other_services), bench.tables(flows)?, usize::MAX),
            Family::V6 => Stage::new(bench, bench::snapshot_v6(), bench.tables_v6(flows)?, usize::MAX),
        }?;
        stage.send_each(&family.template(SYN), flows);
        stage.send_each(&family.template(ACK), flows);
        assert_eq!(stage.ledger.frames.flows.get(), u64::from(flows));
        Ok(stage)
    }

    /// Writes the frames of a chunk, or of less.
    pub fn prepare(&mut self, template: &Template, mut flow: impl FnMut() -> u32) {
        self.length = template.length();
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
        let (length, places) = (self.length, &mut self.places[first..first + count]);
        let mut frames: Burst<View<'_>> = places.iter_mut().map(|place| View(&mut place.0[..length])).collect();
        let verdicts = self.director.decide(now, &self.snapshot.stations[0], &self.snapshot, &mut frames);
        if sweep {
            self.director.sweep(now, &self.snapshot, SWEEP);
        }
        forwarded(black_box(&verdicts))
    }

    /// So much time goes by, and what has run out is cleared; not timed.
    pub fn forget(&mut self, time: Duration) {
        self.clock.pass_seconds(time.as_secs_f64());
        self.director.sweep(self.clock.now(), &self.snapshot, usize::MAX);
    }

    /// The frames as they are now.
    pub fn frames(&self) -> impl Iterator<Item = &[u8]> {
        self.places.iter().map(|place| &place.0[..self.length])
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
    let mut floor = || control.timed(|| mac_write(&mut floor));
    for size in bench.scale.sizes() {
        for family in [Family::V4, Family::V6] {
            one_size(bench, family, size.name, size.flows, 0, &mut floor)?;
        }
    }
    let most = bench.scale.pick(100, 9_998, 9_998);
    let size = bench.scale.sizes()[bench.scale.pick(0, 1, 1)];
    one_size(bench, Family::V4, &format!("{}/10000-services", size.name), size.flows, most, &mut floor)?;
    all_services(bench, size, most as u32, &mut floor)?;
    both_families(bench, size)
}

/// The flows are spread over all services, and so over all 64,000 reals.
fn all_services(bench: &mut Bench, size: Size, services: u32, floor: &mut dyn FnMut() -> u64) -> Outcome {
    let mut stage = Stage::new(bench, bench::snapshot(services as usize), bench.tables(size.flows)?, usize::MAX)?;
    let [syn, ack] = [SYN, ACK].map(|flags| Template::tcp_to_many(flags, services));
    stage.send_each(&syn, size.flows);
    stage.send_each(&ack, size.flows);
    let mut sequence = Sequence::new(Mix::Uniform, size.flows, 7);
    let mut contenders = [Contender::new(&mut *floor), Contender::new(|| stage.chunk(&ack, &mut sequence))];
    let measured = interleave(bench.hertz, bench.scale.effort(), &mut contenders);
    drop(contenders);
    let [floor, decide] = &measured.samples[..] else { unreachable!("two contenders") };
    let (case, reals) = (format!("dr4/{}/all-of-10000-services", size.name), stage.snapshot.reals.len());
    let mut section = bench.report.section("decide", &stage.pages);
    section.ratio(&case, "cycles_p10", decide.p10(), ("mac_write/net_null", floor.p10()), measured.probe);
    section.row(&case, "reals", reals as f64, measured.probe);
    Ok(())
}

fn one_size(
    bench: &mut Bench,
    family: Family,
    name: &str,
    flows: u32,
    other_services: usize,
    floor: &mut dyn FnMut() -> u64,
) -> Outcome {
    let mut stage = Stage::established(bench, family, flows, other_services)?;
    let pages = stage.pages.clone();
    let template = family.template(ACK);
    for mix in Mix::ALL {
        let mut sequence = Sequence::new(mix, flows, 7);
        let mut contenders = [Contender::new(&mut *floor), Contender::new(|| stage.chunk(&template, &mut sequence))];
        let measured = interleave(bench.hertz, bench.scale.effort(), &mut contenders);
        let [floor, decide] = &measured.samples[..] else { unreachable!("two contenders") };
        let case = format!("{}/{name}{}", family.name(), mix.suffix());
        let mut section = bench.report.section("decide", &pages);
        let probe = measured.probe;
        section.ratio(&case, "cycles_p10", decide.p10(), ("mac_write/net_null", floor.p10()), probe);
        section.ratio(&case, "cycles_p50", decide.p50(), ("mac_write/net_null", floor.p50()), probe);
    }
    Ok(())
}

/// The one beside the other.
fn both_families(bench: &mut Bench, size: Size) -> Outcome {
    let mut four = Stage::established(bench, Family::V4, size.flows, 0)?;
    let mut six = Stage::established(bench, Family::V6, size.flows, 0)?;
    let pages = six.pages.clone();
    let (template_four, template_six) = (Family::V4.template(ACK), Family::V6.template(ACK));
    let [mut first, mut second] = [7, 7].map(|seed| Sequence::new(Mix::Uniform, size.flows, seed));
    let mut contenders = [
        Contender::new(|| four.chunk(&template_four, &mut first)),
        Contender::new(|| six.chunk(&template_six, &mut second)),
    ];
    let measured = interleave(bench.hertz, bench.scale.effort(), &mut contenders);
    let [four, six] = &measured.samples[..] else { unreachable!("two contenders") };
    let mut section = bench.report.section("decide", pages);
    let (case, against) = (format!("dr6/{}/beside-dr4", size.name), format!("dr4/{}", size.name));
    section.ratio(&case, "cycles_p10", six.p10(), (&against, four.p10()), measured.probe);
    Ok(())
}

/// Nothing but packets of established flows for a few seconds: what a profiler wants to see.
pub fn for_a_profile(bench: &Bench) -> Outcome {
    let size = bench.scale.sizes()[bench.scale.pick(0, 0, 1)];
    let mut stage = Stage::established(bench, Family::V4, size.flows, 0)?;
    let template = Template::tcp(ACK);
    let mut sequence = Sequence::new(Mix::Uniform, size.flows, 7);
    let start = Instant::now();
    let mut cycles = Vec::new();
    while start.elapsed() < bench.scale.pick(Duration::ZERO, PROFILED, PROFILED) || cycles.is_empty() {
        cycles.push(stage.chunk(&template, &mut sequence) as f64 / CHUNK as f64);
    }
    println!("decide, dr4/{}, {}: {:.1} cycles a packet", size.name, stage.pages, Samples::new(cycles).p50());
    Ok(())
}
