//! Real mbufs, in this process, without huge pages or a NIC, as any user.
//!
//! EAL starts once in a process: the harness starts it, runs one test after the other, and ends it. Each test adds the
//! virtual devices it needs, and ends with as many buffers in use as it began with. What needs the kernel (a TAP,
//! packet sockets) runs in a user and network namespace, in processes of its own.

mod common;

use std::collections::HashSet;
use std::error::Error;
use std::io::Write;
use std::net::UdpSocket;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use drover::clock::Now;
use drover::director::Sharing;
use drover::dpdk::{Eal, EalOptions, Mbuf, Mempool, Port, PortOptions, PortQueue, Registered, Spread};
use drover::flow::Owners;
use drover::packet::{BURST, Burst, Frame, Mac, Queue};
use drover::sys::epoch;
use drover::verdict::DropReason;
use drover::worker::Worker;
use drover::worker::exchange::{Handed, Inbox, Outbox};
use drover::worker::handover;
use libtest_mimic::{Arguments, Failed, Trial};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

type Outcome = Result<(), Box<dyn Error>>;
type Test = fn(&Bench) -> Outcome;

/// Names the part that this process plays inside the namespace.
const INSIDE: &str = "DROVER_TEST_INSIDE";
/// More than two queues keep ready for receiving.
const BUFFERS: u32 = 4095;
const ROOM: u16 = 2048;
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    if let Ok(part) = std::env::var(INSIDE) {
        return inside(&part);
    }
    let mut arguments = Arguments::from_args();
    // On the main thread, one by one: EAL binds the thread that starts it to a core.
    arguments.test_threads = Some(1);
    let in_process: [(&str, Test); 14] = [
        ("a_dropped_mbuf_is_free_again", a_dropped_mbuf_is_free_again),
        ("an_empty_pool_gives_nothing", an_empty_pool_gives_nothing),
        ("frames_arrive_as_they_were_sent", frames_arrive_as_they_were_sent),
        ("what_the_port_did_not_take_comes_back", what_the_port_did_not_take_comes_back),
        ("a_full_burst_receives_nothing", a_full_burst_receives_nothing),
        ("vlan_tags_go_in_and_out", vlan_tags_go_in_and_out),
        ("room_is_never_exceeded", room_is_never_exceeded),
        ("received_frames_are_freed_and_counted", received_frames_are_freed_and_counted),
        ("ports_refuse_what_they_cannot_do", ports_refuse_what_they_cannot_do),
        ("a_spread_is_set_and_read_back", a_spread_is_set_and_read_back),
        ("queues_outlive_the_port", queues_outlive_the_port),
        ("other_threads_take_and_give_back", other_threads_take_and_give_back),
        ("a_worker_accounts_for_every_mbuf", a_worker_accounts_for_every_mbuf),
        ("what_waits_between_workers_is_freed_with_them", what_waits_between_workers_is_freed_with_them),
    ];
    let mut trials: Vec<Trial> = in_process.into_iter().map(|(name, test)| with_bench(name, test)).collect();
    for part in PARTS {
        trials.push(Trial::test(part.name, || in_namespaces(part).map_err(failed)));
    }
    trials.push(Trial::test("buffers_may_outlive_everything", || alone("outlive").map_err(failed)));
    let conclusion = libtest_mimic::run(&arguments, trials);
    // Statics are not dropped.
    if let Some(bench) = BENCH.get() {
        let _ = std::fs::remove_dir_all(&bench.directory);
    }
    conclusion.exit_code()
}

fn failed(error: Box<dyn Error>) -> Failed {
    Failed::from(error.to_string())
}

// ---- The bench: one environment for the tests in this process ----

struct Bench {
    eal: Eal,
    pool: Mempool,
    directory: std::path::PathBuf,
}

static BENCH: OnceLock<Bench> = OnceLock::new();

fn start(memory_mb: u32, vdevs: &[&str]) -> Result<(Eal, std::path::PathBuf), Box<dyn Error>> {
    let directory = tempfile::Builder::new().prefix("drover-test-").tempdir()?.keep();
    let options = EalOptions {
        management_core: core_affinity::get_core_ids().and_then(|ids| Some(ids.first()?.id)).unwrap_or(0),
        memory_mb,
        vdevs: vdevs.iter().map(|vdev| vdev.to_string()).collect(),
        runtime_dir: directory.clone(),
        file_prefix: format!("drover-test-{}", std::process::id()),
        ..EalOptions::default()
    };
    Ok((Eal::start(&options)?, directory))
}

fn bench() -> &'static Bench {
    BENCH.get_or_init(|| {
        let (eal, directory) = start(64, &[]).expect("EAL starts without huge pages");
        let pool = Mempool::create(&eal, "test", BUFFERS, None).expect("memory for the pool");
        Bench { eal, pool, directory }
    })
}

fn with_bench(name: &str, test: Test) -> Trial {
    Trial::test(name, move || {
        let bench = bench();
        let before = bench.pool.in_use();
        test(bench).map_err(failed)?;
        let after = bench.pool.in_use();
        if before == after { Ok(()) } else { Err(format!("{before} buffers in use before, {after} after").into()) }
    })
}

impl Bench {
    /// Runs with a port over a virtual device that goes afterwards.
    fn with_port(
        &self,
        device: &str,
        arguments: &str,
        options: &PortOptions,
        test: impl FnOnce(&Port, Vec<PortQueue>) -> Outcome,
    ) -> Outcome {
        self.eal.add_vdev(device, arguments)?;
        let (port, queues) = Port::open(&self.eal, device, options, &self.pool)?;
        let outcome = test(&port, queues);
        drop(port);
        self.eal.remove_vdev(device)?;
        outcome
    }

    fn frame(&self, bytes: &[u8]) -> Result<Mbuf, Box<dyn Error>> {
        self.pool.from_bytes(bytes).ok_or_else(|| "the pool is empty".into())
    }
}

/// A frame that no other number has.
fn numbered(number: usize) -> Vec<u8> {
    let length = 60 + number * 37 % 1454;
    (0..length).map(|at| (at * 7 + number * 13) as u8).collect()
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(what().into()) }
}

fn equal<T: PartialEq + std::fmt::Debug>(found: T, expected: T) -> Outcome {
    ensure(found == expected, || format!("found {found:?}, expected {expected:?}"))
}

// ---- Tests in this process ----

fn a_dropped_mbuf_is_free_again(bench: &Bench) -> Outcome {
    let before = bench.pool.in_use();
    let one = bench.frame(b"one")?;
    let two = bench.frame(b"two")?;
    equal(bench.pool.in_use(), before + 2)?;
    equal(bench.pool.available() + bench.pool.in_use(), BUFFERS)?;
    drop(one);
    equal(bench.pool.in_use(), before + 1)?;
    let burst: Burst<Mbuf> = [two].into_iter().collect();
    drop(burst);
    equal(bench.pool.in_use(), before)
}

fn an_empty_pool_gives_nothing(bench: &Bench) -> Outcome {
    let small = Mempool::create(&bench.eal, "small", 15, None)?;
    let held: Vec<Mbuf> = std::iter::from_fn(|| small.alloc()).collect();
    equal(held.len(), 15)?;
    ensure(small.from_bytes(b"x").is_none(), || "a frame from an empty pool".into())?;
    drop(held);
    ensure(small.alloc().is_some(), || "buffers did not come back".into())?;
    drop(small);
    // Freed: the name is free again, and every time.
    for _ in 0..3 {
        Mempool::create(&bench.eal, "small", 15, None)?;
    }
    Ok(())
}

/// net_ring gives back on a queue what was sent on it.
fn frames_arrive_as_they_were_sent(bench: &Bench) -> Outcome {
    bench.with_port("net_ring0", "", &PortOptions::default(), |port, mut queues| {
        let queue = &mut queues[0];
        ensure(queue.wait_descriptors().is_empty(), || "net_ring has no descriptor".into())?;
        ensure(port.link().up, || "the link is down".into())?;
        for round in 0..4 {
            let sent: Vec<Vec<u8>> = (0..BURST).map(|number| numbered(round * BURST + number)).collect();
            let mut burst = Burst::new();
            for bytes in &sent {
                burst.push(bench.frame(bytes)?);
            }
            queue.send(&mut burst);
            equal(burst.len(), 0)?;
            queue.receive(&mut burst);
            let received: Vec<Vec<u8>> = burst.iter().map(|mbuf| mbuf.bytes().to_vec()).collect();
            equal(received, sent)?;
            for mbuf in &burst {
                let mut copy = [0; 2048];
                let length = mbuf.copy_to(&mut copy);
                equal(&copy[..length], mbuf.bytes())?;
                equal(length, mbuf.wire_len())?;
            }
        }
        let stats = port.stats();
        equal((stats.received, stats.sent), (4 * BURST as u64, 4 * BURST as u64))
    })
}

fn what_the_port_did_not_take_comes_back(bench: &Bench) -> Outcome {
    bench.with_port("net_ring1", "", &PortOptions::default(), |_, mut queues| {
        let queue = &mut queues[0];
        // The ring's size is the driver's own: fill it until it refuses a part of a burst.
        let mut taken = 0;
        let tail = loop {
            let mut burst = Burst::new();
            while !burst.is_full() {
                burst.push(bench.frame(&numbered(taken + burst.len()))?);
            }
            queue.send(&mut burst);
            taken += BURST - burst.len();
            if !burst.is_empty() {
                break burst;
            }
        };
        equal(tail.len(), BURST - taken % BURST)?;
        for (place, mbuf) in tail.iter().enumerate() {
            equal(mbuf.bytes(), &numbered(taken + place)[..])?;
        }
        let mut received = 0;
        loop {
            let mut burst = Burst::new();
            queue.receive(&mut burst);
            if burst.is_empty() {
                break;
            }
            for mbuf in burst {
                equal(mbuf.bytes(), &numbered(received)[..])?;
                received += 1;
            }
        }
        equal(received, taken)
    })
}

fn a_full_burst_receives_nothing(bench: &Bench) -> Outcome {
    bench.with_port("net_null1", "", &PortOptions::default(), |_, mut queues| {
        let mut burst = Burst::new();
        for number in 0..BURST - 3 {
            burst.push(bench.frame(&numbered(number))?);
        }
        queues[0].receive(&mut burst);
        equal(burst.len(), BURST)?;
        for (number, mbuf) in burst.iter().take(BURST - 3).enumerate() {
            equal(mbuf.bytes(), &numbered(number)[..])?;
        }
        let in_use = bench.pool.in_use();
        queues[0].receive(&mut burst);
        equal((burst.len(), bench.pool.in_use()), (BURST, in_use))
    })
}

fn vlan_tags_go_in_and_out(bench: &Bench) -> Outcome {
    let plain = numbered(3);
    let mut mbuf = bench.frame(&plain)?;
    ensure(mbuf.insert_vlan_tag(0x6123), || "no room for a tag".into())?;
    let tagged = [&plain[..12], &[0x81, 0x00, 0x61, 0x23], &plain[12..]].concat();
    equal(mbuf.bytes(), &tagged[..])?;
    equal(mbuf.wire_len(), tagged.len())?;
    equal(mbuf.remove_vlan_tag(), Some(0x6123))?;
    equal(mbuf.bytes(), &plain[..])?;
    equal(mbuf.remove_vlan_tag(), None)?;
    let mut short = bench.frame(&[0x81; 13])?;
    equal(short.remove_vlan_tag(), None)?;
    let mut shorter = bench.frame(&[1; 11])?;
    ensure(!shorter.insert_vlan_tag(1), || "a tag into 11 bytes".into())?;
    equal(shorter.bytes(), &[1; 11][..])
}

fn room_is_never_exceeded(bench: &Bench) -> Outcome {
    let room = usize::from(bench.pool.room());
    ensure(bench.pool.from_bytes(&vec![1; room + 1]).is_none(), || "more than there is room for".into())?;
    let mut mbuf = bench.frame(&vec![7; room])?;
    ensure(!mbuf.append(&[1]), || "one more than fits".into())?;
    let front = mbuf.headroom();
    ensure(!mbuf.prepend(front + 1) && mbuf.prepend(front), || "the headroom is not what it says".into())?;
    equal((mbuf.bytes().len(), mbuf.wire_len(), mbuf.headroom()), (room + front, room + front, 0))?;
    ensure(!mbuf.trim_front(room + front + 1), || "more off than there is".into())?;
    ensure(mbuf.trim_front(front), || "the front does not come off".into())?;
    equal((mbuf.bytes().len(), mbuf.wire_len(), mbuf.headroom()), (room, room, front))?;
    ensure(mbuf.bytes().iter().all(|byte| *byte == 7), || "other bytes than before".into())?;
    mbuf.truncate(room + 1);
    equal(mbuf.bytes().len(), room)?;
    mbuf.truncate(60);
    equal((mbuf.bytes().len(), mbuf.wire_len()), (60, 60))?;
    let mut little = [0; 7];
    equal((mbuf.copy_to(&mut little), little), (7, [7; 7]))?;
    ensure(mbuf.trim_front(60) && mbuf.bytes().is_empty(), || "not empty".into())
}

fn received_frames_are_freed_and_counted(bench: &Bench) -> Outcome {
    bench.with_port("net_null0", "size=64", &PortOptions::default(), |port, mut queues| {
        let before = bench.pool.in_use();
        for _ in 0..1000 {
            let mut burst = Burst::new();
            queues[0].receive(&mut burst);
            equal(burst.len(), BURST)?;
            queues[0].send(&mut burst);
            equal(burst.len(), 0)?;
        }
        equal(bench.pool.in_use(), before)?;
        let stats = port.stats();
        equal((stats.received, stats.sent), (1000 * BURST as u64, 1000 * BURST as u64))?;
        equal(port.driver(), "net_null")
    })
}

fn ports_refuse_what_they_cannot_do(bench: &Bench) -> Outcome {
    let no_such = Port::open(&bench.eal, "net_ring9", &PortOptions::default(), &bench.pool);
    let unknown = bench.eal.add_vdev("net_nothing0", "").err().map(|error| error.to_string()).unwrap_or_default();
    ensure(unknown.contains("DPDK says"), || format!("a driver that does not exist: {unknown:?}"))?;
    ensure(no_such.is_err_and(|error| error.number() == libc::ENODEV), || "a port that does not exist".into())?;
    ensure(bench.eal.add_vdev("net_null2\0", "").is_err(), || "a name with NUL".into())?;
    // Neither MAC nor MTU nor modes can be set on net_ring: the port works without.
    let options = PortOptions {
        mac: Some(Mac([2, 0, 0, 0, 0, 9])),
        promiscuous: true,
        all_multicast: true,
        ..PortOptions::default()
    };
    bench.with_port("net_ring2", "", &options, |port, queues| {
        let max = Port::info_of(&bench.eal, "net_ring2")?.max_queues;
        equal((queues.len(), port.max_queues()), (1, max))?;
        equal(bench.eal.remove_vdev("net_ring2").map_err(|error| error.number()), Err(libc::EBUSY))?;
        let again = Port::open(&bench.eal, "net_ring2", &PortOptions::default(), &bench.pool);
        ensure(again.is_err_and(|error| error.number() == libc::EBUSY), || "the same port twice".into())
    })?;
    bench.eal.add_vdev("net_null3", "")?;
    let many = PortOptions { queues: u16::MAX, ..PortOptions::default() };
    ensure(Port::open(&bench.eal, "net_null3", &many, &bench.pool).is_err(), || "more queues than there are".into())?;
    let jumbo = PortOptions { mtu: 9000, ..PortOptions::default() };
    ensure(Port::open(&bench.eal, "net_null3", &jumbo, &bench.pool).is_err(), || "buffers are too small".into())?;
    let small = Mempool::create(&bench.eal, "small", 1023, None)?;
    let hungry = Port::open(&bench.eal, "net_null3", &PortOptions::default(), &small);
    ensure(hungry.is_err(), || "no buffers left for frames".into())?;
    Ok(bench.eal.remove_vdev("net_null3")?)
}

/// net_null keeps an RSS key and a table as a NIC does; net_ring does not.
fn a_spread_is_set_and_read_back(bench: &Bench) -> Outcome {
    let queues = |queues| PortOptions { queues, rx_descriptors: 64, tx_descriptors: 64, ..PortOptions::default() };
    bench.with_port("net_null4", "", &queues(1), |port, _| equal(port.spread(), &Spread::OneQueue))?;
    bench.with_port("net_null5", "", &queues(3), |port, _| {
        let Spread::Verified(rss) = port.spread() else { return Err(format!("{:?}", port.spread()).into()) };
        equal((&rss.key[..4], rss.key.len()), (&[0x6d, 0x5a, 0x56, 0xda][..], 40))?;
        ensure(rss.functions != 0, || "nothing is hashed".into())?;
        ensure(rss.table.len() >= 64 && rss.table[..4] == [0, 1, 2, 0], || format!("{:?}", rss.table))
    })?;
    let unasked = PortOptions { rss: false, ..queues(2) };
    let unknown = |port: &Port| if let Spread::Unknown(why) = port.spread() { why.clone() } else { String::new() };
    bench.with_port("net_null6", "", &unasked, |port, _| equal(unknown(port), "it was not asked to spread".into()))?;
    bench.with_port("net_ring8", "", &queues(2), |port, _| equal(unknown(port), "it has no hash for IPv4".into()))
}

fn queues_outlive_the_port(bench: &Bench) -> Outcome {
    bench.eal.add_vdev("net_ring4", "")?;
    let (port, mut queues) = Port::open(&bench.eal, "net_ring4", &PortOptions::default(), &bench.pool)?;
    drop(port);
    let mut burst: Burst<Mbuf> = [bench.frame(b"after the port")?].into_iter().collect();
    queues[0].send(&mut burst);
    queues[0].receive(&mut burst);
    equal(burst[0].bytes(), &b"after the port"[..])?;
    equal(bench.eal.remove_vdev("net_ring4").map_err(|error| error.number()), Err(libc::EBUSY))?;
    drop((queues, burst));
    Ok(bench.eal.remove_vdev("net_ring4")?)
}

/// The real worker on a port that hears what it sends: each frame comes in for the director, and once more for the
/// real, whose MAC is not ours.
fn a_worker_accounts_for_every_mbuf(bench: &Bench) -> Outcome {
    const FLOWS: u16 = 200;
    let options = PortOptions { rx_descriptors: 256, tx_descriptors: 256, ..PortOptions::default() };
    bench.with_port("net_ring7", "", &options, |port, queues| {
        let snapshot = common::snapshot();
        let (director, ledger) = common::director(&snapshot, 1000);
        let (_publisher, mut readers) = epoch::publish(snapshot, 1);
        let (inbox, outbox) = (Arc::new(Inbox::new(1024)?), Arc::new(Outbox::new(8)?));
        let reader = readers.pop().ok_or("a reader")?;
        let mut worker = Worker::new(queues, director, reader, ledger.clone(), inbox.clone(), outbox.clone());
        let mut now = Now::from_secs(1);
        for number in 1..=FLOWS {
            let frames = [common::tcp(number, common::SYN).build(), common::tcp(number, common::ACK).build()];
            for bytes in frames.iter().chain([&numbered(number.into())]) {
                let handed = Handed { port: 0, frame: bench.frame(bytes)? };
                inbox.send.push(handed).map_err(|_| "the inbox is full")?;
            }
            while worker.turn(now) {
                now = now + Duration::from_micros(10);
            }
        }
        let frames = &ledger.frames;
        let dropped = |reason: DropReason| frames.dropped[reason as usize].get();
        let flows = u64::from(FLOWS);
        equal((frames.received.get(), frames.forwarded.get()), (5 * flows, 2 * flows))?;
        equal((frames.originated.get(), frames.originated_sent.get()), (3 * flows, 3 * flows))?;
        let all: u64 = DropReason::ALL.iter().map(|reason| dropped(*reason)).sum();
        equal(frames.received.get(), frames.forwarded.get() + frames.to_manage.get() + frames.to_host.get() + all)?;
        ensure(dropped(DropReason::NotOurMac) >= 2 * flows, || "what was forwarded came back".into())?;
        equal(frames.flows.get(), flows)?;
        let stats = port.stats();
        equal((stats.received, stats.sent), (frames.received.get(), 5 * flows))?;
        drop(worker);
        while outbox.host.pop().is_some() || outbox.manage.pop().is_some() {}
        Ok(())
    })
}

/// Two workers on the queues of one port. One of them is handed frames and never turns: they stay in its ring.
fn what_waits_between_workers_is_freed_with_them(bench: &Bench) -> Outcome {
    let options = PortOptions { queues: 2, rx_descriptors: 256, tx_descriptors: 256, ..PortOptions::default() };
    bench.with_port("net_ring9", "", &options, |_, mut queues| {
        let inboxes = [Arc::new(Inbox::new(4)?), Arc::new(Inbox::new(4)?)];
        let outbox = Arc::new(Outbox::new(8)?);
        let (_publisher, readers) = epoch::publish(common::snapshot(), 2);
        let mut feed: Burst<Mbuf> = Burst::new();
        for number in 1..=BURST as u16 {
            feed.push(bench.frame(&common::tcp(number, common::SYN).build())?);
        }
        queues[0].send(&mut feed);
        let mut workers = Vec::new();
        let parts = queues.into_iter().zip(readers).zip(handover::mesh(&inboxes));
        for (id, ((queue, reader), links)) in parts.enumerate() {
            let (director, ledger) = common::director(&common::snapshot(), 1000);
            let inbox = inboxes[id].clone();
            let mut worker = Worker::new(vec![queue], director, reader, ledger.clone(), inbox, outbox.clone());
            worker.share(Sharing { owners: Owners::new(id as u8, 2, [3, 4]), all: true, nic: None }, links);
            workers.push((worker, ledger));
        }
        // What it forwards comes back to it by the ring, and is not for its MAC.
        while workers[0].0.turn(Now::from_secs(1)) {}
        let frames = &workers[0].1.frames;
        let handed = frames.handed_out.get();
        ensure(handed > 0 && handed < BURST as u64, || format!("{handed} of {BURST} handed over"))?;
        equal(frames.forwarded.get(), BURST as u64 - handed)?;
        equal(workers[1].1.frames.handed_in.get(), 0)
    })
}

fn other_threads_take_and_give_back(bench: &Bench) -> Outcome {
    let before = bench.pool.in_use();
    let mbufs = std::thread::scope(|scope| {
        let taker = scope.spawn(|| {
            let registered = Registered::new(&bench.eal).map_err(|error| error.to_string())?;
            let mbufs: Vec<Mbuf> = (0..100).filter_map(|number| bench.pool.from_bytes(&numbered(number))).collect();
            drop(registered);
            Ok::<_, String>(mbufs)
        });
        taker.join().map_err(|_| "the thread panicked".to_string())?
    })?;
    equal(bench.pool.in_use(), before + 100)?;
    for (number, mbuf) in mbufs.iter().enumerate() {
        equal(mbuf.bytes(), &numbered(number)[..])?;
    }
    drop(mbufs);
    equal(bench.pool.in_use(), before)
}

// ---- Processes of their own ----

struct Part {
    name: &'static str,
    /// Makes the interfaces, before EAL starts.
    prepare: &'static [&'static str],
    /// The first one is the port.
    vdevs: &'static [&'static str],
    options: PortOptions,
    /// What a buffer holds.
    room: u16,
    run: fn(&Bench, &Port, Vec<PortQueue>) -> Outcome,
}

static PARTS: &[Part] = &[
    Part {
        name: "a_tap_wakes_its_waiter",
        prepare: &[],
        vdevs: &["net_tap0,iface=wake0"],
        options: ONE_QUEUE,
        room: ROOM,
        run: a_tap_wakes_its_waiter,
    },
    Part {
        name: "a_tap_with_two_queues_wakes_each",
        prepare: &[],
        vdevs: &["net_tap0,iface=wake0"],
        options: TWO_QUEUES,
        room: ROOM,
        run: two_queues_wake_each,
    },
    Part {
        name: "a_packet_socket_wakes_its_waiter",
        prepare: VETH,
        vdevs: &["net_af_packet0,iface=wake0"],
        options: ONE_QUEUE,
        room: ROOM,
        run: a_packet_socket_wakes_its_waiter,
    },
    Part {
        name: "packet_sockets_wake_only_their_queue",
        prepare: VETH,
        vdevs: &["net_af_packet0,iface=wake0,qpairs=2"],
        options: TWO_QUEUES,
        room: ROOM,
        run: two_queues_wake_each,
    },
    Part {
        name: "long_frames_come_and_go_in_segments",
        prepare: &[],
        vdevs: &["net_tap0,iface=wake0"],
        options: ONE_QUEUE,
        room: 512,
        run: long_frames_come_and_go_in_segments,
    },
    Part {
        name: "vlan_tags_survive_packet_sockets",
        prepare: VETH,
        vdevs: &["net_af_packet0,iface=wake0", "net_af_packet1,iface=far0"],
        options: ONE_QUEUE,
        room: ROOM,
        run: vlan_tags_survive_packet_sockets,
    },
];

const ONE_QUEUE: PortOptions = PortOptions {
    queues: 1,
    rx_descriptors: 1024,
    tx_descriptors: 1024,
    mtu: 1500,
    mac: None,
    rss: true,
    promiscuous: false,
    all_multicast: false,
};
const TWO_QUEUES: PortOptions = PortOptions { queues: 2, ..ONE_QUEUE };

const VETH: &[&str] = &["link add wake0 type veth peer name far0", "link set wake0 up", "link set far0 up"];

/// The same test program again, as root of namespaces of its own; leaves nothing behind.
fn in_namespaces(part: &Part) -> Outcome {
    let mut command = Command::new("unshare");
    command.args(["-Urn", "--kill-child"]).arg(std::env::current_exe()?);
    again(command, part.name)
}

fn alone(part: &str) -> Outcome {
    again(Command::new(std::env::current_exe()?), part)
}

fn again(mut command: Command, part: &str) -> Outcome {
    let output = command.env(INSIDE, part).stdin(Stdio::null()).output()?;
    ensure(output.status.success(), || format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)))
}

fn inside(name: &str) -> ExitCode {
    let outcome = match PARTS.iter().find(|part| part.name == name) {
        Some(part) => play(part),
        None => buffers_may_outlive_everything(),
    };
    if let Err(error) = &outcome {
        let _ = writeln!(std::io::stderr(), "{error}");
    }
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn play(part: &Part) -> Outcome {
    for line in part.prepare {
        ip(line)?;
    }
    let (eal, directory) = start(64, part.vdevs)?;
    let pool = Mempool::with_room(&eal, "test", BUFFERS, part.room, None)?;
    let bench = Bench { eal, pool, directory };
    let before = bench.pool.in_use();
    let device = part.vdevs[0].split(',').next().unwrap_or_default();
    let (port, queues) = Port::open(&bench.eal, device, &part.options, &bench.pool)?;
    let outcome = (part.run)(&bench, &port, queues);
    drop(port);
    let after = bench.pool.in_use();
    std::fs::remove_dir_all(&bench.directory)?;
    outcome?;
    equal(after, before)
}

fn ip(line: &str) -> Outcome {
    let status = Command::new("ip").args(line.split_whitespace()).status()?;
    ensure(status.success(), || format!("ip {line}: {status}"))
}

/// Waits until the queue has something, as an idle worker does; answers how often it was woken.
fn wait_and_receive(queue: &mut PortQueue, into: &mut Burst<Mbuf>) -> Result<usize, Box<dyn Error>> {
    let deadline = Instant::now() + PATIENCE;
    let mut woken = 0;
    loop {
        queue.receive(into);
        if !into.is_empty() {
            return Ok(woken);
        }
        wait(queue, deadline.saturating_duration_since(Instant::now()))?;
        woken += 1;
        ensure(Instant::now() < deadline, || format!("woken {woken} times, and nothing came"))?;
    }
}

/// Whether there is something to receive, after waiting at most so long.
fn wait(queue: &PortQueue, at_most: Duration) -> Result<bool, Box<dyn Error>> {
    let borrowed: Vec<BorrowedFd> = queue.borrow_descriptors().collect();
    ensure(!borrowed.is_empty(), || "nothing to wait for".into())?;
    let mut entries: Vec<PollFd> = borrowed.iter().map(|it| PollFd::new(it, PollFlags::IN)).collect();
    let limit = Timespec { tv_sec: at_most.as_secs() as i64, tv_nsec: at_most.subsec_nanos().into() };
    Ok(poll(&mut entries, Some(&limit))? > 0)
}

/// Receives on another thread than the one that opened the port, and lets no signal disturb either.
fn a_tap_wakes_its_waiter(_: &Bench, port: &Port, queues: Vec<PortQueue>) -> Outcome {
    equal(port.kernel_interface(), Some("wake0"))?;
    // As if a frame had arrived before the port was ours: the driver waits for the next signal from now on. It takes
    // the first realtime signal that the C library leaves to programs, plus one.
    let signal = Command::new("kill").args(["-35", &std::process::id().to_string()]).status()?;
    ensure(signal.success(), || "kill does not work".into())?;
    wakes(queues, "wake0")
}

fn a_packet_socket_wakes_its_waiter(_: &Bench, port: &Port, queues: Vec<PortQueue>) -> Outcome {
    equal(port.kernel_interface(), Some("wake0"))?;
    wakes(queues, "far0")
}

const FRAMES: usize = 2000;

/// One frame at a time, each with its own wake-up: the next is sent when the last has arrived. Neither thread accepts
/// that a signal interrupts it.
fn wakes(mut queues: Vec<PortQueue>, from: &str) -> Outcome {
    let mut queue = queues.remove(0);
    let sender = sender(from)?;
    drain(&mut queue);
    let (told, tell) = rustix::pipe::pipe()?;
    std::thread::scope(|scope| {
        let receiver = scope.spawn(move || receive_numbered(&mut queue, tell).map_err(|error| error.to_string()));
        for number in 0..FRAMES {
            sender.send_to(&(number as u32).to_be_bytes(), ("10.77.0.2", 7777))?;
            poll(&mut [PollFd::new(&told, PollFlags::IN)], None)?;
            if rustix::io::read(&told, &mut [0])? == 0 {
                break;
            }
        }
        receiver.join().map_err(|_| "the receiver panicked")??;
        Ok(())
    })
}

/// Writes a byte to `tell` for each frame.
fn receive_numbered(queue: &mut PortQueue, tell: OwnedFd) -> Outcome {
    let mut expected = 0;
    let mut woken = 0;
    while expected < FRAMES {
        let mut burst = Burst::new();
        woken += wait_and_receive(queue, &mut burst)?;
        for number in burst.iter().filter_map(payload) {
            equal(number, expected)?;
            expected += 1;
            rustix::io::write(&tell, &[1])?;
        }
    }
    // About one wait a frame; a queue that is woken and does not find the frame would show here.
    ensure(woken <= 4 * FRAMES, || format!("woken {woken} times for {FRAMES} frames"))
}

/// The number in one of our datagrams.
fn payload(mbuf: &Mbuf) -> Option<usize> {
    let bytes = mbuf.bytes();
    let ours = bytes.get(12..14)? == [8, 0] && bytes.get(23)? == &17 && bytes.get(36..38)? == 7777u16.to_be_bytes();
    ours.then(|| bytes.get(42..46)?.try_into().ok().map(u32::from_be_bytes))?.map(|number| number as usize)
}

fn drain(queue: &mut PortQueue) {
    let mut burst: Burst<Mbuf> = Burst::new();
    loop {
        queue.receive(&mut burst);
        if burst.is_empty() {
            return;
        }
        burst.clear();
    }
}

/// Sends over the kernel's interface to a station that the port plays, without asking for its MAC.
fn sender(interface: &str) -> Result<UdpSocket, Box<dyn Error>> {
    ip(&format!("address add 10.77.0.1/24 dev {interface}"))?;
    ip(&format!("link set {interface} up"))?;
    ip(&format!("neighbour add 10.77.0.2 lladdr 02:00:00:00:00:02 dev {interface}"))?;
    Ok(UdpSocket::bind("10.77.0.1:0")?)
}

/// Many flows, which the kernel spreads over two queues: each queue is woken for its own and by its own descriptor.
fn two_queues_wake_each(_: &Bench, port: &Port, mut queues: Vec<PortQueue>) -> Outcome {
    let descriptors: HashSet<RawFd> = queues.iter().flat_map(|queue| queue.wait_descriptors().to_vec()).collect();
    equal((queues.len(), descriptors.len()), (2, 2))?;
    ensure(matches!(port.spread(), Spread::Unknown(_)), || format!("{:?}", port.spread()))?;
    let tap = port.driver() == "net_tap";
    let _first = sender(if tap { "wake0" } else { "far0" })?;
    queues.iter_mut().for_each(drain);
    let mut served = [0; 2];
    for number in 0..64u32 {
        UdpSocket::bind("10.77.0.1:0")?.send_to(&number.to_be_bytes(), ("10.77.0.2", 7777))?;
        let queue = arrived(&mut queues, number as usize)?;
        served[queue] += 1;
    }
    ensure(served.iter().all(|count| *count > 0), || format!("the queues got {served:?}"))
}

/// Which queue the frame came to; the other one must not be woken for it.
fn arrived(queues: &mut [PortQueue], number: usize) -> Result<usize, Box<dyn Error>> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        for (index, queue) in queues.iter_mut().enumerate() {
            if !wait(queue, Duration::from_millis(1))? {
                continue;
            }
            let mut burst = Burst::new();
            queue.receive(&mut burst);
            ensure(!burst.is_empty(), || format!("queue {index} was woken for nothing"))?;
            if burst.iter().any(|mbuf| payload(mbuf) == Some(number)) {
                return Ok(index);
            }
        }
    }
    Err(format!("frame {number} did not arrive").into())
}

/// A kernel socket sends more than one buffer holds: the frame comes in several, and goes back so.
fn long_frames_come_and_go_in_segments(_: &Bench, port: &Port, mut queues: Vec<PortQueue>) -> Outcome {
    equal(port.mtu(), 1500)?;
    let queue = &mut queues[0];
    let socket = sender("wake0")?;
    drain(queue);
    let words: Vec<u8> = (0..1400u32).map(|at| (at % 251) as u8).collect();
    socket.send_to(&words, ("10.77.0.2", 7777))?;
    let mut burst = Burst::new();
    while !burst.iter().any(|mbuf: &Mbuf| mbuf.wire_len() == 42 + words.len()) {
        burst.clear();
        wait_and_receive(queue, &mut burst)?;
    }
    burst.retain(|mbuf| mbuf.wire_len() == 42 + words.len());
    ensure(burst[0].segments() > 1, || "the frame came in one piece".into())?;
    let mut copy = vec![0; 2048];
    equal(burst[0].copy_to(&mut copy), 42 + words.len())?;
    equal(&copy[42..42 + words.len()], &words[..])?;
    equal(burst[0].copy_to(&mut copy[..700]), 700)?;
    // Chains keep their length, and what would have to move over a border is refused.
    ensure(!burst[0].append(&[1]), || "appended to a chain".into())?;
    answer(&mut burst[0]);
    queue.send(&mut burst);
    equal(burst.len(), 0)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let length = socket.recv(&mut copy)?;
    equal(&copy[..length], &words[..])
}

/// Turns a datagram around: addresses and ports change places, which leaves both checksums right.
fn answer(mbuf: &mut Mbuf) {
    let bytes = mbuf.bytes_mut();
    let mut swap = |first: usize, second: usize, length: usize| {
        for at in 0..length {
            bytes.swap(first + at, second + at);
        }
    };
    swap(0, 6, 6);
    swap(26, 30, 4);
    swap(34, 36, 2);
}

/// The kernel takes the tag out before a packet socket sees the frame: the driver has to put it back.
fn vlan_tags_survive_packet_sockets(bench: &Bench, _: &Port, mut queues: Vec<PortQueue>) -> Outcome {
    let near = &mut queues[0];
    let (_far_port, mut far) = Port::open(&bench.eal, "net_af_packet1", &PortOptions::default(), &bench.pool)?;
    for round in 0..20u16 {
        // An EtherType that the kernel does not speak, so that nothing else comes between.
        let mut plain = numbered(usize::from(round));
        plain[..14].copy_from_slice(&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 0x88, 0xb5]);
        for tag in [None, Some(0x2000 | round), Some(0)] {
            let mut burst: Burst<Mbuf> = [bench.frame(&plain)?].into_iter().collect();
            ensure(tag.is_none_or(|tag| burst[0].insert_vlan_tag(tag)), || "no room for a tag".into())?;
            let sent = burst[0].bytes().to_vec();
            far[0].send(&mut burst);
            equal(burst.len(), 0)?;
            equal(next_of_ours(near)?, sent)?;
        }
    }
    Ok(())
}

fn next_of_ours(queue: &mut PortQueue) -> Result<Vec<u8>, Box<dyn Error>> {
    loop {
        let mut burst = Burst::new();
        wait_and_receive(queue, &mut burst)?;
        if let Some(mbuf) = burst.iter().find(|mbuf| mbuf.bytes().starts_with(&[2, 0, 0, 0, 0, 9])) {
            return Ok(mbuf.bytes().to_vec());
        }
    }
}

/// Everything is dropped before the buffer: its memory must be there still.
fn buffers_may_outlive_everything() -> Outcome {
    let (eal, directory) = start(64, &["net_null0"])?;
    let pool = Mempool::create(&eal, "test", BUFFERS, None)?;
    let (port, mut queues) = Port::open(&eal, "net_null0", &PortOptions::default(), &pool)?;
    let mut burst = Burst::new();
    queues[0].receive(&mut burst);
    let mut kept = pool.from_bytes(b"the last one").ok_or("the pool is empty")?;
    drop((queues, port, pool, eal));
    kept.bytes_mut()[0] = b'T';
    equal(kept.bytes(), &b"The last one"[..])?;
    drop((kept, burst));
    ensure(Path::new(&directory).is_dir(), || "the caller's directory is gone".into())?;
    Ok(std::fs::remove_dir_all(directory)?)
}
