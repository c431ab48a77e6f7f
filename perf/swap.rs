//! `swap`: a thousand new snapshots a second under load, beside none: throughput, the tail of burst times, and that no
//! packet is lost.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use drover::service::Snapshot;
use drover::sys::epoch::{self, Publisher};

use crate::bench::{self, BURSTS, Bench, Engine, Outcome};
use crate::measure::{Samples, repeat};
use crate::source::{Control, NET_NULL, NullSource};

const PERIOD: Duration = Duration::from_millis(1);
/// Services in each snapshot beside the two of the benchmark.
const OTHERS: usize = 98;

pub fn run(bench: &mut Bench) -> Outcome {
    let size = bench.scale.sizes()[bench.scale.pick(0, 1, 1)];
    let (_port, mut queues) = bench.port("net_null_swap", NET_NULL, 1)?;
    let queue = queues.pop().ok_or("net_null has a queue")?;
    let (mut engine, control) = crate::forward::established(bench, queue, size.flows)?;
    let pages = engine.backing.to_string();
    // The engine keeps its reader; of the publisher it only needed the first value.
    let (idle, _) = epoch::publish(bench::snapshot(0), 0);
    let publisher = std::mem::replace(&mut engine.publisher, idle);
    let (swapping, done, swaps) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    let turns = bench.scale.pick(2, 20, 60);
    let time = bench.scale.pick(Duration::from_millis(3), Duration::from_millis(50), Duration::from_millis(100));
    let core = bench.other_core();
    let mut swapped_for = Duration::ZERO;
    let measured = thread::scope(|scope| {
        scope.spawn(|| publish(publisher, core, &swapping, &done, &swaps));
        let measured = repeat(bench.hertz, || {
            swaps.store(0, Relaxed);
            swapped_for = Duration::ZERO;
            let mut bursts = [Vec::new(), Vec::new()];
            for turn in 0..turns {
                let on = turn % 2 == 1;
                swapping.store(on, Relaxed);
                let took = load(&mut engine, &control, time, &mut bursts[usize::from(on)]);
                swapped_for += if on { took } else { Duration::ZERO };
            }
            swapping.store(false, Relaxed);
            bursts.into_iter().map(Samples::new).collect()
        });
        done.store(true, Relaxed);
        measured
    });
    let rate = swaps.load(Relaxed) as f64 / swapped_for.as_secs_f64();
    let [without, with] = &measured.samples[..] else { unreachable!("two kinds") };
    let mut section = bench.report.section("swap", pages);
    let probe = measured.probe;
    let per_second = |samples: &Samples| bench.hertz as f64 * 32.0 / samples.p50();
    let (ours, theirs) = (per_second(with), per_second(without));
    section.ratio("1000/s", "packets_per_second", ours, ("no_swaps", theirs), probe);
    for (metric, share) in [("burst_cycles_p50", 0.5), ("burst_cycles_p99", 0.99), ("burst_cycles_p999", 0.999)] {
        let (with, without) = (with.percentile(share), without.percentile(share));
        section.ratio("1000/s", metric, with, ("no_swaps", without), probe);
    }
    section.row("1000/s", "swaps_per_second", rate, probe);
    section.row("1000/s", "lost", engine.lost() as f64, probe);
    Ok(())
}

/// Bursts for so long, each with its cycles.
fn load(engine: &mut Engine<NullSource>, control: &Control, time: Duration, bursts: &mut Vec<f64>) -> Duration {
    let start = Instant::now();
    while start.elapsed() < time {
        for _ in 0..BURSTS {
            let cycles = control.timed(|| _ = engine.worker.turn(drover::daemon::clock()));
            bursts.push(cycles as f64);
        }
    }
    start.elapsed()
}

fn publish(
    mut publisher: Publisher<Snapshot>,
    core: usize,
    swapping: &AtomicBool,
    done: &AtomicBool,
    swaps: &AtomicU64,
) {
    core_affinity::set_for_current(core_affinity::CoreId { id: core });
    let config = bench::config(OTHERS);
    let mut due = Instant::now();
    let mut epoch = 2;
    while !done.load(Relaxed) {
        due += PERIOD;
        // A fresh one each time, as management makes them.
        if swapping.load(Relaxed) {
            publisher.replace(bench::lay_out(epoch, &config));
            epoch += 1;
            swaps.fetch_add(1, Relaxed);
        }
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}
