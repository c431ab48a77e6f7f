//! After the start, the packet path allocates nothing: every capacity is taken when the worker is made.

mod common;

use std::time::Duration;

use common::*;
use drover::sim::frames::FrameBuilder;
use drover::sys::allocations::{CountingAllocator, count};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// New connections, known ones, all that is dropped, a full table, expiry: no allocation.
#[test]
fn the_path_allocates_nothing() {
    let mut bench = Bench::new(snapshot(), 500, 100_000, 100_000);
    let frames = |port: u16| {
        let builders = [
            tcp(port, SYN),
            tcp(port, ACK),
            tcp(port + 10_000, ACK),
            tcp(port, FIN | ACK),
            udp(port),
            FrameBuilder { ttl: 1, ..tcp(port, SYN) },
            FrameBuilder { fragment: 0x2000, ..tcp(port, SYN) },
            FrameBuilder { destination: (VIP, 99), ..tcp(port, SYN) },
            FrameBuilder { destination: (real_address(9), 22), ..tcp(port, SYN) },
        ];
        builders.map(|builder| builder.build())
    };
    let mut on_the_path = 0;
    for second in 0..20 {
        for port in 1..=200 {
            frames(second * 200 + port).into_iter().for_each(|frame| bench.wire.arrive(frame));
            let before = count();
            bench.turn();
            on_the_path += count() - before;
        }
        bench.now = bench.now + Duration::from_secs(20);
        // What was sent and consumed is the test's to free, and to make room for.
        bench.wire.sent();
        while bench.outbox.host.pop().is_some() {}
    }
    let counters = &bench.ledger.frames;
    assert!(counters.stateless.get() > 0 && counters.flows_expired.get() > 0, "the table was full, and flows ran out");
    bench.assert_adds_up();
    assert_eq!(on_the_path, 0, "allocations in {} turns", counters.turns.get());
}

#[test]
fn the_counter_counts() {
    let before = count();
    drop(std::hint::black_box(vec![1u8; 100]));
    assert!(count() > before);
}
