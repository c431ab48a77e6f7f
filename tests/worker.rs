//! The worker's loop on queues in memory: what comes in goes out, is consumed, or is dropped by name.

mod common;

use common::*;
use crossbeam::channel::bounded;
use drover::packet::Mac;
use drover::service::{Composer, Reach};
use drover::sim::SimFrame;
use drover::sim::frames::FrameBuilder;
use drover::verdict::DropReason;
use drover::worker::exchange::{Handed, Question};

fn dropped(bench: &Bench, reason: DropReason) -> u64 {
    bench.ledger.frames.dropped[reason as usize].get()
}

#[test]
fn every_frame_is_accounted_for() {
    let mut bench = Bench::new(snapshot(), 1000, 1000, 4);
    let mut arp = tcp(1, SYN).build();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    for port in 1..=100 {
        bench.wire.arrive(tcp(port, SYN).build());
        bench.wire.arrive(udp(port).build());
        bench.wire.arrive(tcp(port + 1000, ACK).build());
        bench.wire.arrive(arp.clone());
        bench.wire.arrive(FrameBuilder { destination: (real_address(9), 22), ..tcp(port, SYN) }.build());
        bench.wire.arrive(vec![0; usize::from(port)]);
    }
    bench.turn();
    bench.assert_adds_up();
    let frames = &bench.ledger.frames;
    assert_eq!((frames.received.get(), frames.forwarded.get()), (600, 200));
    assert_eq!(bench.wire.sent().len(), 200);
    // ACKs of no connection, and ARP: neither takes the other's place.
    assert_eq!((dropped(&bench, DropReason::AnswerQueueFull), dropped(&bench, DropReason::ManageQueueFull)), (96, 96));
    assert_eq!(frames.to_manage.get(), 8);
    assert_eq!((frames.to_host.get(), dropped(&bench, DropReason::HostQueueFull)), (4, 96));
    assert_eq!((bench.outbox.manage.len(), bench.outbox.refused.len(), bench.outbox.host.len()), (4, 4, 4));
    assert_eq!(frames.forwarded_bytes.get(), 100 * (54 + 42));
}

#[test]
fn a_full_port_drops_by_name() {
    let mut bench = Bench::new(snapshot(), 1000, 10, 4);
    for port in 1..=16 {
        bench.wire.arrive(tcp(port, SYN).build());
    }
    bench.turn();
    assert_eq!((bench.wire.sent().len(), dropped(&bench, DropReason::TxQueueFull)), (10, 6));
    assert_eq!(bench.ledger.frames.forwarded_bytes.get(), 540);
    bench.assert_adds_up();
}

#[test]
fn what_management_gives_is_sent() {
    let mut bench = Bench::new(snapshot(), 1000, 40, 4);
    for number in 0..50u8 {
        let port = if number == 49 { 3 } else { 0 };
        bench.inbox.send.push(Handed { port, frame: SimFrame(vec![number; 60]) }).map_err(|_| ()).unwrap();
    }
    bench.turn();
    let sent = bench.wire.sent();
    assert_eq!((sent.len(), sent[39][0]), (40, 39));
    let frames = &bench.ledger.frames;
    assert_eq!((frames.originated.get(), frames.originated_sent.get(), frames.originated_dropped.get()), (50, 40, 10));
    assert_eq!(frames.received.get(), 0);
    bench.assert_adds_up();
}

#[test]
fn a_new_snapshot_is_in_force_at_the_next_burst_and_the_old_one_freed() {
    let mut bench = Bench::new(snapshot_of(&config(), |_| Reach::Unknown), 1000, 40, 4);
    assert!(bench.pass(tcp(1, SYN).build()).is_empty());
    bench.publisher.replace(snapshot());
    assert_eq!(bench.pass(tcp(1, SYN).build())[0][..6], real_mac(3).0);
    assert_eq!(bench.publisher.collect(), 0);
    let moved = snapshot_of(&config(), |number| Reach::At(Mac([2, 0, 0, 0, 2, number])));
    bench.publisher.replace(moved);
    assert_eq!(bench.pass(tcp(1, ACK).build())[0][..6], [2, 0, 0, 0, 2, 3], "the flow follows its real's MAC");
    assert_eq!(bench.publisher.collect(), 0);
    bench.assert_adds_up();
}

#[test]
fn lists_its_flows_page_by_page() {
    let mut bench = Bench::new(snapshot(), 5000, 5000, 4);
    for port in 1..=3000 {
        bench.wire.arrive(tcp(port, SYN).build());
    }
    bench.turn();
    let mut ports = Vec::new();
    let mut from = Some(0);
    while let Some(from_bucket) = from {
        let (answer, page) = bounded(1);
        let question = Question { from_bucket, page: Vec::with_capacity(100), answer };
        bench.inbox.questions.push(question).map_err(|_| ()).unwrap();
        bench.turn();
        let page = page.try_recv().expect("answered within a turn");
        assert!(page.entries.len() <= 100);
        ports.extend(page.entries.iter().map(|entry| entry.client.1));
        from = page.next;
    }
    ports.sort_unstable();
    assert_eq!(ports, (1..=3000).collect::<Vec<_>>());
}

/// Numbers are given to others by it: it must never be said too early.
#[test]
fn tells_when_all_its_tables_were_gone_through_since_it_held_a_snapshot() {
    let mut bench = Bench::new(snapshot(), 3000, 40, 4);
    let swept = |bench: &Bench| bench.ledger.swept.get();
    let seconds = |bench: &mut Bench, count: u64| {
        for _ in 0..count * 10 {
            bench.now = bench.now + std::time::Duration::from_millis(100);
            bench.worker.turn(bench.now);
        }
    };
    seconds(&mut bench, 60);
    assert_eq!(swept(&bench), 1);
    bench
        .publisher
        .replace(Composer::new(config().limits, Vec::new()).compose(2, &config(), &|_, _| Reach::Unknown).snapshot);
    bench.worker.turn(bench.now);
    seconds(&mut bench, 9);
    assert_eq!(swept(&bench), 1, "no table can have been gone through in nine seconds");
    seconds(&mut bench, 60);
    assert_eq!(swept(&bench), 2);
}
