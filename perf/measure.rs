//! How everything here is measured; perf/README.md says why.
//!
//! Contenders take turns, a few chunks each, many times over. A chunk is 4096 operations and gives one value, cycles an
//! operation; of many chunks the 10th and the 50th percentile count. A spin loop of known length, timed before and
//! after, tells whether the machine itself was slower meanwhile; if the two disagree, all of it is done again.

use std::hint::black_box;

use drover::dpdk::cycles;

pub const CHUNK: usize = 4096;
/// Probes before and after that differ by more are a reason to measure again.
const AGREEMENT: f64 = 0.05;
const ATTEMPTS: usize = 3;
const SPINS: u64 = 20_000;

/// One thing that is measured: does a chunk of operations and says how many cycles the timed part of it took.
pub struct Contender<'a> {
    chunk: Box<dyn FnMut() -> u64 + 'a>,
}

impl<'a> Contender<'a> {
    pub fn new(chunk: impl FnMut() -> u64 + 'a) -> Contender<'a> {
        Contender { chunk: Box::new(chunk) }
    }
}

/// How often: so many turns each, so many chunks a turn.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    pub turns: usize,
    pub chunks: usize,
}

/// What one contender took, cycles an operation, ascending.
#[derive(Clone, Debug)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn new(mut values: Vec<f64>) -> Samples {
        assert!(!values.is_empty(), "nothing was measured");
        values.sort_by(f64::total_cmp);
        Samples(values)
    }

    /// The value that `share` of all do not exceed.
    pub fn percentile(&self, share: f64) -> f64 {
        let place = (self.0.len() as f64 * share).ceil() as usize;
        self.0[place.clamp(1, self.0.len()) - 1]
    }

    pub fn p10(&self) -> f64 {
        self.percentile(0.10)
    }

    pub fn p50(&self) -> f64 {
        self.percentile(0.50)
    }
}

/// The spin loop's speed around a measurement, in thousands of rounds a millisecond.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    pub before: f64,
    pub after: f64,
}

impl Probe {
    pub fn agrees(self) -> bool {
        self.apart() <= AGREEMENT
    }

    fn apart(self) -> f64 {
        (self.before - self.after).abs() / self.before.max(self.after)
    }

    pub fn speed(self) -> f64 {
        self.before.min(self.after)
    }
}

/// One per measurement: the contenders' samples in their order, all taken between the same two probes.
pub struct Measured {
    pub samples: Vec<Samples>,
    pub probe: Probe,
}

/// The speed of a loop that nothing but the core's own clock can slow down.
pub fn probe(hertz: u64) -> f64 {
    let spin = || {
        let start = cycles::now();
        let mut value = black_box(1u64);
        for _ in 0..SPINS {
            value = value.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(7);
        }
        black_box(value);
        cycles::now() - start
    };
    let best = (0..16).map(|_| spin()).min().unwrap_or(u64::MAX).max(1);
    SPINS as f64 / best as f64 * hertz as f64 / 1e6
}

/// Lets the contenders take turns until the probes around agree, a few times at most; the calmest attempt counts.
pub fn interleave(hertz: u64, effort: Effort, contenders: &mut [Contender]) -> Measured {
    repeat(hertz, || turns(effort, contenders))
}

/// The same for any measurement that brings its own order.
pub fn repeat(hertz: u64, mut measure: impl FnMut() -> Vec<Samples>) -> Measured {
    let mut calmest: Option<Measured> = None;
    for _ in 0..ATTEMPTS {
        let before = probe(hertz);
        let samples = measure();
        let measured = Measured { samples, probe: Probe { before, after: probe(hertz) } };
        let calmer = calmest.as_ref().is_none_or(|other| measured.probe.apart() < other.probe.apart());
        if calmer {
            calmest = Some(measured);
        }
        if calmest.as_ref().is_some_and(|measured| measured.probe.agrees()) {
            break;
        }
    }
    calmest.expect("at least one attempt is made")
}

fn turns(effort: Effort, contenders: &mut [Contender]) -> Vec<Samples> {
    let mut values: Vec<Vec<f64>> = vec![Vec::with_capacity(effort.turns * effort.chunks); contenders.len()];
    for _ in 0..effort.turns {
        for (contender, values) in contenders.iter_mut().zip(&mut values) {
            // The first finds the caches as the contender before left them.
            (contender.chunk)();
            values.extend((0..effort.chunks).map(|_| (contender.chunk)() as f64 / CHUNK as f64));
        }
    }
    values.into_iter().map(Samples::new).collect()
}

/// Cycles that `work` takes.
#[inline(always)]
pub fn timed(work: impl FnOnce()) -> u64 {
    let start = cycles::now();
    work();
    cycles::now() - start
}
