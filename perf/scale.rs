//! `scale`: one worker, and two at the same time on two cores, over queues of one port.

use std::sync::Barrier;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use drover::dpdk::{PortQueue, Registered};

use crate::bench::{Bench, Outcome};
use crate::forward::established;
use crate::measure::{CHUNK, Samples, repeat};
use crate::source::NET_NULL;

/// A worker on a core of its own, at our command.
struct Remote {
    run: Sender<Option<Duration>>,
    /// Cycles a packet, of each chunk that it ran.
    values: Receiver<Vec<f64>>,
}

pub fn run(bench: &mut Bench) -> Outcome {
    let [first, second, ..] = bench.cores[..] else {
        bench.report.note("scale: two workers need two cores, and this process has one");
        return Ok(());
    };
    let size = bench.scale.sizes()[bench.scale.pick(0, 1, 1)];
    let (_port, queues) = bench.port("net_null_scale", NET_NULL, 2)?;
    let turns = bench.scale.pick(2, 10, 40);
    let time = bench.scale.pick(Duration::from_millis(2), Duration::from_millis(50), Duration::from_millis(100));
    let pages = bench.table(size.flows)?.backing().to_string();
    let (bench_ref, ready) = (&*bench, &Barrier::new(3));
    let measured = thread::scope(|scope| {
        let remotes: Vec<Remote> = queues
            .into_iter()
            .zip([first, second])
            .map(|(queue, core)| {
                let (run, orders) = channel();
                let (answer, values) = channel();
                scope.spawn(move || worker(bench_ref, queue, core, size.flows, ready, &orders, &answer));
                Remote { run, values }
            })
            .collect();
        ready.wait();
        let measured = repeat(bench_ref.hertz, || take_turns(&remotes, turns, time));
        remotes.iter().for_each(|remote| _ = remote.run.send(None));
        measured
    });
    let per_second = |cycles: f64| bench.hertz as f64 / cycles;
    let [alone, together] = &measured.samples[..] else { unreachable!("alone and together") };
    let (one, two) = (per_second(alone.p50()), 2.0 * per_second(together.p50()));
    let (one_best, two_best) = (per_second(alone.p10()), 2.0 * per_second(together.p10()));
    let mut section = bench.report.section("scale", pages);
    section.row("1-worker", "packets_per_second", one, measured.probe);
    section.ratio("2-workers", "packets_per_second", two, ("1-worker", one), measured.probe);
    section.row("1-worker", "packets_per_second_p10", one_best, measured.probe);
    section.ratio("2-workers", "packets_per_second_p10", two_best, ("1-worker", one_best), measured.probe);
    Ok(())
}

fn worker(
    bench: &Bench,
    queue: PortQueue,
    core: usize,
    flows: u32,
    ready: &Barrier,
    orders: &Receiver<Option<Duration>>,
    answer: &Sender<Vec<f64>>,
) {
    core_affinity::set_for_current(core_affinity::CoreId { id: core });
    let _registered = Registered::new(&bench.eal).expect("DPDK takes two more threads");
    let (mut engine, control) = established(bench, queue, flows).expect("memory for a table");
    ready.wait();
    while let Ok(Some(time)) = orders.recv() {
        let start = Instant::now();
        let mut values = Vec::new();
        while start.elapsed() < time {
            values.push(control.timed(|| engine.chunk()) as f64 / CHUNK as f64);
        }
        // The first finds cold caches.
        let _ = answer.send(values.split_off(1.min(values.len() - 1)));
    }
}

/// The first alone, the second alone, both; again and again.
fn take_turns(remotes: &[Remote], turns: usize, time: Duration) -> Vec<Samples> {
    let (mut alone, mut together) = (Vec::new(), Vec::new());
    for _ in 0..turns {
        for remote in remotes {
            let _ = remote.run.send(Some(time));
            alone.extend(remote.values.recv().unwrap_or_default());
        }
        remotes.iter().for_each(|remote| _ = remote.run.send(Some(time)));
        together.extend(remotes.iter().flat_map(|remote| remote.values.recv().unwrap_or_default()));
    }
    vec![Samples::new(alone), Samples::new(together)]
}
