//! `connect`: connections from their first packet to their end, by the real worker over net_null: SYN, ACK, data, FIN,
//! and the sweep that clears them when their time is over. Time goes by so fast that as many end as begin.

use std::time::Duration;

use crate::bench::{BURSTS, Bench, Engine, Outcome, VirtualClock, snapshot};
use crate::measure::{CHUNK, Contender, interleave};
use crate::source::{NET_NULL, Order, Source};
use crate::traffic::{ACK, FIN_ACK, SYN, Template};

/// A connection's four packets.
const LIFE: [u8; 4] = [SYN, ACK, ACK, FIN_ACK];
/// How long a connection stays after its FIN: FIN_WAIT.
const LINGERS: Duration = Duration::from_secs(120);

fn from(next: u32) -> Order {
    Order::InTurn { next, flows: u32::MAX }
}

pub fn run(bench: &mut Bench) -> Outcome {
    let slots: usize = bench.scale.pick(1 << 16, 1 << 20, 1 << 20);
    let room = slots / 4 * 3;
    // So long a chunk of connections takes that half of the table is in use.
    let chunks_alive = room / 2 / CHUNK;
    let step = LINGERS / chunks_alive as u32 / (LIFE.len() * BURSTS) as u32;
    let (_port, mut queues) = bench.port("net_null_connect", NET_NULL, 1)?;
    let queue = queues.pop().ok_or("net_null has a queue")?;
    let (queue, control) = Source::new(queue, Template::tcp(SYN), from(0));
    let mut engine = Engine::new(queue, bench.tables(room as u32)?, snapshot(0))?;
    let pages = engine.backing.to_string();
    let mut clock = VirtualClock::new(bench.hertz);
    let mut next = 0u32;
    let mut connections = || {
        let cycles = LIFE.into_iter().map(|flags| {
            control.play(Template::tcp(flags), from(next));
            control.timed(|| {
                engine.chunk_at(|| {
                    clock.pass_seconds(step.as_secs_f64());
                    clock.now()
                });
            })
        });
        let cycles = cycles.sum();
        next += CHUNK as u32;
        cycles
    };
    // Twice a life: from here on as many end as begin.
    (0..2 * chunks_alive).for_each(|_| _ = connections());
    let measured = interleave(bench.hertz, bench.scale.effort(), &mut [Contender::new(&mut connections)]);
    let counters = &engine.ledger.frames;
    let (begun, ended) = (counters.flows_created.get(), counters.flows_expired.get());
    let alive = begun - ended;
    assert!(alive as usize > room / 3 && (alive as usize) < room, "{alive} connections at a time");
    let samples = &measured.samples[0];
    let mut section = bench.report.section("connect", pages);
    let per_second = |cycles: f64| bench.hertz as f64 / cycles;
    section.row("dr4/life", "connections_per_second", per_second(samples.p50()), measured.probe);
    section.row("dr4/life", "cycles_p10", samples.p10(), measured.probe);
    section.row("dr4/life", "cycles_p50", samples.p50(), measured.probe);
    section.row("dr4/life", "connections_alive", alive as f64, measured.probe);
    Ok(())
}
