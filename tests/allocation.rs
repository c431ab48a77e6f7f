//! After the start, the packet path allocates nothing: every capacity is taken when the worker is made.

mod common;

use std::time::Duration;

use common::*;
use drover::config::{HashFlags, Scheduler};
use drover::service::{Load, Member, Opening, RealId, Roster, Schedule, Start};
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

/// Whatever the scheduler: with more addresses than lblc and lblcr have room for, loads that change, and edits.
#[test]
fn choosing_allocates_nothing() {
    let members = |shift: u16| -> Box<[Member]> {
        let member = |number: u16| Member {
            id: RealId(number),
            holder: 0,
            ready: number % 7 != 6,
            weight: number % 5,
            last_weight: number % 5,
            address: real_address(number as u8).into(),
            port: 80,
        };
        (shift..shift + 20).rev().map(member).collect()
    };
    let flags = HashFlags { port: true, fallback: true };
    let with_flags = [Scheduler::SourceHash(flags), Scheduler::KernelMaglev(flags)];
    for scheduler in Scheduler::ALL.into_iter().chain(with_flags) {
        let rosters = [0, 3].map(|shift| Roster::build(scheduler, members(shift), shift.into(), 0));
        let start = Start { worker: 1, addresses: 64, seed: 3, tick: 0 };
        let mut schedule = Schedule::start(scheduler, &rosters[0], start);
        let before = count();
        let mut chosen = 0;
        for number in 0..4000u32 {
            let address = |bits: u32| std::net::Ipv4Addr::from_bits(bits).into();
            let opening =
                Opening { client: address(number), client_port: number as u16, address: address(number % 500) };
            let load = |id: RealId| Load { active: (u32::from(id.0) + number / 100) % 4, ..Load::default() };
            let roster = &rosters[number as usize / 1000 % 2];
            chosen += usize::from(schedule.choose(roster, &opening, load, number * 1000).is_some());
        }
        assert_eq!(count() - before, 0, "{scheduler:?}");
        assert!(chosen > 1000, "{scheduler:?} chose {chosen} times");
    }
}

#[test]
fn the_counter_counts() {
    let before = count();
    drop(std::hint::black_box(vec![1u8; 100]));
    assert!(count() > before);
}
