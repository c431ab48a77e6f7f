//! Many workers, turned one after the other in one thread: every flow has one owner, wherever its packets arrive, and
//! nothing is lost between two workers.

mod common;

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use common::*;
use crossbeam::channel::bounded;
use drover::clock::Now;
use drover::config::{Config, MatchRule, Persistence, Ports, Takes};
use drover::counters::{Counter, Ledger, WorkerCounters};
use drover::director::{Director, Sharing};
use drover::flow::{FlowTable, Owners};
use drover::service::{Composer, Reach, Snapshot, Station};
use drover::sim::frames::FrameBuilder;
use drover::sim::{SimFrame, SimQueue};
use drover::sys::epoch::{self, Publisher};
use drover::verdict::DropReason;
use drover::worker::Worker;
use drover::worker::exchange::{Entry, Inbox, Outbox, Question};
use drover::worker::handover::{self, Links};

const OWNERS: [u64; 2] = [0x4528_21e6_38d0_1377, 0xbe54_66cf_34e9_0c6c];
const NOW: Now = Now::from_secs(1000);

/// Chance from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ mixed >> 27) >> 16) as usize % sides
    }
}

/// A director of many workers, with one port and a queue for each.
struct Crew {
    workers: Vec<Worker<SimQueue>>,
    wires: Vec<SimQueue>,
    ledgers: Vec<Arc<Ledger>>,
    inboxes: Vec<Arc<Inbox<SimFrame>>>,
    publisher: Publisher<Snapshot>,
}

impl Crew {
    fn new(count: usize) -> Crew {
        Crew::on(count, snapshot, true)
    }

    /// `all`: no NIC spreads the flows.
    fn on(count: usize, snapshot: impl Fn() -> Snapshot, all: bool) -> Crew {
        let inboxes: Vec<_> = (0..count).map(|_| Arc::new(Inbox::new(64).unwrap())).collect();
        let outbox = Arc::new(Outbox::new(100_000).unwrap());
        let links: Vec<Links<SimFrame>> = if count > 1 { handover::mesh(&inboxes) } else { Vec::new() };
        let (publisher, readers) = epoch::publish(snapshot(), count);
        let mut crew = Crew { workers: Vec::new(), wires: Vec::new(), ledgers: Vec::new(), inboxes, publisher };
        let mut links = links.into_iter();
        for (id, reader) in readers.into_iter().enumerate() {
            let table = FlowTable::new(10_000, false, [id as u64 + 1, 7]).unwrap();
            let ledger = ledger(&snapshot());
            let wire = SimQueue::with_room(100_000);
            let director = Director::new(common::tables(table), usize::MAX, &snapshot(), id, ledger.clone());
            let inbox = crew.inboxes[id].clone();
            let mut worker = Worker::new(vec![wire.clone()], director, reader, ledger.clone(), inbox, outbox.clone());
            if let Some(links) = links.next() {
                worker.share(Sharing { owners: Owners::new(id as u8, count as u8, OWNERS), all, nic: None }, links);
            }
            crew.workers.push(worker);
            crew.wires.push(wire);
            crew.ledgers.push(ledger);
        }
        crew
    }

    /// Round and round until nobody has anything to do.
    fn settle(&mut self) {
        while self.workers.iter_mut().fold(false, |busy, worker| worker.turn(NOW) | busy) {}
    }

    fn sum(&self, of: impl Fn(&WorkerCounters) -> &Counter) -> u64 {
        self.ledgers.iter().map(|ledger| of(&ledger.frames).get()).sum()
    }

    fn assert_adds_up(&self) {
        self.ledgers.iter().for_each(|ledger| assert_adds_up(ledger));
    }

    /// The clients whose flows a worker holds.
    fn clients_of(&mut self, worker: usize) -> Vec<(Ipv4Addr, u16)> {
        let mut clients = Vec::new();
        let mut from = Some(0);
        while let Some(from_bucket) = from {
            let (answer, page) = bounded(1);
            let question = Question { from_bucket, page: Vec::with_capacity(4096), answer };
            self.inboxes[worker].questions.push(question).map_err(|_| ()).unwrap();
            self.workers[worker].turn(NOW);
            let page = page.try_recv().unwrap();
            clients.extend(page.entries.iter().map(client_of));
            from = page.next;
        }
        clients
    }
}

fn client_of(entry: &Entry) -> (Ipv4Addr, u16) {
    let std::net::IpAddr::V4(address) = entry.client.0 else { panic!("IPv6") };
    (address, entry.client.1)
}

fn client(number: usize) -> (Ipv4Addr, u16) {
    (Ipv4Addr::new(10, 9, 1, (number % 200) as u8), 1000 + number as u16)
}

fn packet(number: usize, flags: u8) -> FrameBuilder {
    FrameBuilder { source: client(number), ..tcp(0, flags) }
}

/// Packets of 3,000 flows arrive at random queues, in random batches, with the workers' turns in random order between.
fn random_arrivals(count: usize, seed: u64) {
    const FLOWS: usize = 3000;
    const PACKETS: usize = 12_000;
    let mut dice = Dice(seed);
    let mut crew = Crew::new(count);
    let mut begun = HashSet::new();
    let mut sent: HashMap<(Ipv4Addr, u16), HashSet<Vec<u8>>> = HashMap::new();
    for step in 0..PACKETS {
        let number = if step < FLOWS { step } else { dice.below(FLOWS) };
        let flags = if begun.insert(number) { SYN } else { ACK };
        crew.wires[dice.below(count)].arrive(packet(number, flags).build());
        // A flow's second packet must not overtake its first on the way to the owner.
        if step < FLOWS && dice.below(8) == 0 || step == FLOWS {
            crew.settle();
        }
        if dice.below(4) == 0 {
            let some = dice.below(count);
            crew.workers[some].turn(NOW);
        }
    }
    crew.settle();
    for wire in &crew.wires {
        for frame in wire.sent() {
            let client = (Ipv4Addr::new(frame[26], frame[27], frame[28], frame[29]), [frame[34], frame[35]]);
            let client = (client.0, u16::from_be_bytes(client.1));
            sent.entry(client).or_default().insert(frame[..6].to_vec());
        }
    }
    let context = format!("{count} workers, seed {seed}");
    let lost: u64 = DropReason::ALL.iter().map(|reason| crew.sum(|frames| &frames.dropped[*reason as usize])).sum();
    assert_eq!((crew.sum(|frames| &frames.received), lost), (PACKETS as u64, 0), "{context}");
    assert_eq!(crew.sum(|frames| &frames.forwarded), PACKETS as u64, "{context}");
    assert_eq!(crew.sum(|frames| &frames.handed_out), crew.sum(|frames| &frames.handed_in), "{context}");
    assert_eq!(crew.sum(|frames| &frames.handed_in) > 0, count > 1, "{context}");
    crew.assert_adds_up();
    assert_eq!(sent.len(), FLOWS, "{context}");
    assert!(sent.values().all(|reals| reals.len() == 1), "a flow changed its real: {context}");
    let mut held = HashSet::new();
    for worker in 0..count {
        for client in crew.clients_of(worker) {
            assert_eq!(
                Owners::new(0, count as u8, OWNERS).of(client_bits(client)),
                worker as u8,
                "{client:?}, {context}"
            );
            assert!(held.insert(client), "{client:?} is at two workers: {context}");
        }
    }
    assert_eq!(held.len(), FLOWS, "{context}");
}

/// As a flow key says it.
fn client_bits((address, port): (Ipv4Addr, u16)) -> u64 {
    u64::from(address.to_bits()) << 16 | u64::from(port)
}

#[test]
fn every_flow_has_one_owner_wherever_its_packets_arrive() {
    for (count, seed) in [(1, 1), (2, 2), (2, 3), (3, 4), (8, 5), (13, 6), (64, 7), (64, 8)] {
        random_arrivals(count, seed);
    }
}

/// A client's connections to a persistent service come to one worker, which knows its template, and to one real; those
/// of other services stay where the NIC has put them.
#[test]
fn a_client_of_a_persistent_service_is_one_workers() {
    let persistent = || {
        let mut config = common::config();
        let mut web = (*config.services[0]).clone();
        web.settings.persistence = Some(Persistence { seconds: 360, prefix: 24 });
        config.services[0] = Arc::new(web);
        let port = &config.ports[0];
        let station = Station { mac: DIRECTOR, network: port.address, vlan: port.vlan, mtu: port.mtu };
        let reach = |_, address: Ipv4Addr| Reach::At(real_mac(address.octets()[3] - 10));
        Composer::new(config.limits, vec![station]).for_several_workers(true).compose(1, &config, &reach).snapshot
    };
    let mut crew = Crew::on(4, persistent, false);
    for number in 0..400usize {
        let source = (Ipv4Addr::new(10, 8, (number % 5) as u8, (number / 5) as u8), 1000 + number as u16);
        crew.wires[number % 4].arrive(FrameBuilder { source, ..tcp(0, SYN) }.build());
        crew.wires[number % 4].arrive(FrameBuilder { source, ..common::udp(0) }.build());
        crew.settle();
    }
    let mut reals: HashMap<u8, HashSet<u8>> = HashMap::new();
    for frame in crew.wires.iter().flat_map(SimQueue::sent).filter(|frame| frame[23] == 6) {
        reals.entry(frame[28]).or_default().insert(frame[5]);
    }
    assert_eq!(reals.len(), 5);
    assert!(reals.values().all(|reals| reals.len() == 1), "{reals:?}");
    let handed = crew.sum(|frames| &frames.handed_out);
    assert!((200..400).contains(&handed), "{handed}: only the persistent ones, unless they were there already");
    crew.assert_adds_up();
}

/// A mark takes a service's packets over, and lets go of them again: whatever worker and table a connection is in, it is
/// found there.
#[test]
fn a_connection_is_found_whoever_takes_its_packets() {
    let mut config = common::config();
    let mut marked = (*config.services[0]).clone();
    marked.takes = Takes::Mark(7);
    config.services.push(Arc::new(marked));
    let any = "0.0.0.0/0".parse().unwrap();
    let (ports, protocol, ingress, source_mac) = (Ports::one(80), None, None, None);
    let rule = MatchRule { mark: 7, source: any, destination: any, ports, protocol, ingress, source_mac };
    let port = &config.ports[0];
    let station = Station { mac: DIRECTOR, network: port.address, vlan: port.vlan, mtu: port.mtu };
    let compose = |config: &Config, epoch| {
        let reach = |_, address: Ipv4Addr| Reach::At(real_mac(address.octets()[3] - 10));
        let composer = Composer::new(config.limits, vec![station.clone()]);
        composer.for_several_workers(true).compose(epoch, config, &reach).snapshot
    };
    let mut crew = Crew::on(4, || compose(&config, 1), true);
    let arrive = |crew: &mut Crew, numbers: std::ops::Range<usize>, flags| {
        for number in numbers {
            crew.wires[number % 4].arrive(packet(number, flags).build());
        }
        crew.settle();
    };
    arrive(&mut crew, 0..200, SYN);
    for epoch in 2..6 {
        let marks = if epoch % 2 == 0 { vec![rule.clone()] } else { Vec::new() };
        crew.publisher.replace(compose(&Config { matches: marks, ..config.clone() }, epoch));
        arrive(&mut crew, 0..200, ACK);
        arrive(&mut crew, epoch as usize * 200..epoch as usize * 200 + 50, SYN);
        arrive(&mut crew, epoch as usize * 200..epoch as usize * 200 + 50, ACK);
        assert_eq!(crew.sum(|frames| &frames.flows_created), 200 + 50 * (epoch - 1), "nothing began twice");
        assert_eq!(crew.sum(|frames| &frames.forwarded), 200 + 300 * (epoch - 1));
    }
    crew.assert_adds_up();
}

/// All packets at one worker, whose peers do not turn: what the rings do not hold is dropped by name.
#[test]
fn what_an_owner_cannot_keep_up_with_is_dropped_by_name() {
    for count in [2, 64] {
        let mut crew = Crew::new(count);
        (0..10_000).for_each(|number| crew.wires[0].arrive(packet(number, SYN).build()));
        while crew.workers[0].turn(NOW) {}
        let first = &crew.ledgers[0].frames;
        let (handed, own) = (first.handed_out.get(), first.forwarded.get());
        let lost = first.dropped[DropReason::HandoverQueueFull as usize].get();
        assert_eq!(handed, ((count - 1) * handover::ring_capacity(count)) as u64);
        assert_eq!(handed + own + lost, 10_000);
        crew.assert_adds_up();
        crew.settle();
        assert_eq!(crew.sum(|frames| &frames.handed_in), handed);
        assert_eq!(crew.sum(|frames| &frames.forwarded), handed + own);
        crew.assert_adds_up();
    }
}

/// ARP, pings and what is the host's own concern no flow: they are not carried between cores, also when a service is gone
/// whose connections may be there still.
#[test]
fn only_packets_for_services_are_handed_over() {
    let gone = || {
        let mut config = common::config();
        let port = &config.ports[0];
        let station = Station { mac: DIRECTOR, network: port.address, vlan: port.vlan, mtu: port.mtu };
        let mut composer = Composer::new(config.limits, vec![station]).for_several_workers(true);
        let reach = |_, address: Ipv4Addr| Reach::At(real_mac(address.octets()[3] - 10));
        composer.compose(1, &config, &reach);
        config.services.remove(1);
        composer.compose(2, &config, &reach).snapshot
    };
    for (mut crew, closed_are_handed) in [(Crew::new(8), false), (Crew::on(8, gone, true), true)] {
        let mut arp = packet(1, SYN).build();
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        for number in 0..100 {
            let elsewhere = FrameBuilder { destination: (real_address(9), 22), ..packet(number, SYN) };
            let ping = FrameBuilder { protocol: 1, ..packet(number, 0) };
            let closed = FrameBuilder { destination: (VIP, 8080), ..packet(number, SYN) };
            for frame in [arp.clone(), elsewhere.build(), ping.build(), closed.build(), vec![0; 10]] {
                crew.wires[3].arrive(frame);
            }
        }
        crew.settle();
        let counters = &crew.ledgers[3].frames;
        assert_eq!((counters.received.get(), counters.handed_out.get() > 0), (500, closed_are_handed));
        let told = (crew.sum(|frames| &frames.to_manage), counters.to_host.get());
        assert_eq!(told, (300, 100), "closed ports are answered");
        crew.assert_adds_up();
    }
}
