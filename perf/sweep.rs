//! `sweep`: how long bursts take at worst, with the sweep between them and without.

use crate::bench::{BURSTS, Bench, Outcome};
use crate::decide::{Family, Stage};
use crate::measure::{Samples, repeat, timed};
use crate::traffic::{ACK, Mix, Sequence, Template};
use drover::packet::BURST;

pub fn run(bench: &mut Bench) -> Outcome {
    let sizes = bench.scale.sizes();
    for size in &sizes[bench.scale.pick(0, 1, 1)..bench.scale.pick(1, 2, 3)] {
        let mut stage = Stage::established(bench, Family::V4, size.flows, 0)?;
        let pages = stage.director.flows().backing().to_string();
        let mut sequence = Sequence::new(Mix::Uniform, size.flows, 13);
        let turns = bench.scale.pick(2, 300, 1_500);
        let measured = repeat(bench.hertz, || {
            let mut bursts = [Vec::new(), Vec::new()];
            for turn in 0..turns {
                let sweeps = turn % 2 == 1;
                chunk(&mut stage, &mut sequence, sweeps, &mut bursts[usize::from(sweeps)]);
            }
            bursts.into_iter().map(Samples::new).collect()
        });
        let [without, with] = &measured.samples[..] else { unreachable!("two kinds") };
        let mut section = bench.report.section("sweep", pages);
        for (metric, share) in [("burst_cycles_p50", 0.5), ("burst_cycles_p99", 0.99), ("burst_cycles_p999", 0.999)] {
            let (with, without) = (with.percentile(share), without.percentile(share));
            section.ratio(size.name, metric, with, ("no_sweep", without), measured.probe);
        }
    }
    Ok(())
}

/// Times of single bursts, cycles a burst.
fn chunk(stage: &mut Stage, sequence: &mut Sequence, sweeps: bool, bursts: &mut Vec<f64>) {
    stage.prepare(&Template::tcp(ACK), || sequence.draw());
    for burst in 0..BURSTS {
        let mut sent = 0;
        let cycles = timed(|| sent = stage.burst(burst * BURST, BURST, sweeps));
        assert_eq!(sent, BURST);
        stage.clock.pass(cycles);
        bursts.push(cycles as f64);
    }
}
