//! One director for the tests of the pure path: VIP 10.9.0.100, port 80 of TCP (wrr 3:2:1) and 53 of UDP (rr).
#![allow(dead_code)] // Each test binary uses its own part.

use std::net::Ipv4Addr;
use std::sync::Arc;

use drover::clock::Now;
use drover::config::{
    Config, ControlConfig, CoresConfig, Device, FlowsConfig, Forwarding, Idle, Limits, PortConfig, Protocol,
    RealConfig, Scheduler, ServiceConfig, Takes, Timeouts, WorkerCores,
};
use drover::counters::Ledger;
use drover::director::{Director, Tables};
use drover::flow::{FlowTable, WideTable};
use drover::packet::Mac;
use drover::service::{Reach, Snapshot, Station};
use drover::sim::frames::FrameBuilder;
use drover::sim::{SimFrame, SimQueue};
use drover::sys::epoch::{self, Publisher};
use drover::worker::Worker;
use drover::worker::exchange::{Inbox, Outbox};

pub const DIRECTOR: Mac = Mac([2, 0, 0, 0, 0, 0x10]);
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
pub const SYN: u8 = 2;
pub const ACK: u8 = 16;
pub const FIN: u8 = 1;
pub const RST: u8 = 4;

pub fn real_mac(number: u8) -> Mac {
    Mac([2, 0, 0, 0, 1, number])
}

pub fn real_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 9, 0, 10 + number)
}

fn service(protocol: Protocol, port: u16, scheduler: Scheduler, weights: &[u16]) -> Arc<ServiceConfig> {
    let real = |(weight, number): (&u16, u8)| RealConfig {
        address: real_address(number),
        port,
        weight: *weight,
        upper: 0,
        lower: 0,
        forwarding: Forwarding::DirectRouting,
        mac: None,
    };
    let reals = weights.iter().zip(1u8..).map(real).collect();
    Arc::new(ServiceConfig::new(Takes::exact(protocol, VIP, port), scheduler, reals))
}

pub fn config() -> Config {
    Config {
        ports: vec![PortConfig {
            name: "lan".into(),
            device: Device::Tap("dtap0".into()),
            address: "10.9.0.10/24".parse().unwrap(),
            gateway: None,
            vlan: None,
            mac: Some(DIRECTOR),
            mtu: 1500,
            host_tap: "drover0".into(),
            allow_host_addresses: false,
        }],
        cores: CoresConfig { management: None, workers: WorkerCores::Count(1) },
        hugepages: false,
        memory_mb: 64,
        idle: Idle::Poll,
        flows: FlowsConfig { per_worker: 1000, half_open: 1000, wide_per_worker: 1024 },
        control: ControlConfig { socket: "/nowhere".into() },
        limits: Limits::LEAST,
        timeouts: Timeouts::default(),
        matches: Vec::new(),
        services: vec![
            service(Protocol::Tcp, 80, Scheduler::WeightedRoundRobin, &[3, 2, 1]),
            service(Protocol::Udp, 53, Scheduler::RoundRobin, &[1, 1, 1]),
            service(Protocol::Tcp, 81, Scheduler::RoundRobin, &[]),
        ],
    }
}

/// The configuration as the director sees it, when the reals are reached so.
pub fn snapshot_of(config: &Config, reach: impl Fn(u8) -> Reach) -> Snapshot {
    let port = &config.ports[0];
    let station = Station { mac: DIRECTOR, network: port.address, vlan: port.vlan, mtu: port.mtu };
    Snapshot::build(1, config, vec![station], |_, address| reach(address.octets()[3] - 10))
}

pub fn snapshot() -> Snapshot {
    snapshot_of(&config(), |number| Reach::At(real_mac(number)))
}

pub fn ledger(snapshot: &Snapshot) -> Arc<Ledger> {
    Arc::new(Ledger::new(snapshot.services.len(), snapshot.reals.len()))
}

/// With room for some IPv6 flows.
pub fn tables(narrow: FlowTable) -> Tables {
    Tables { narrow, wide: WideTable::new(1024, false, [0x452821e638d01377, 0xbe5466cf34e90c6c]).unwrap() }
}

pub fn director(snapshot: &Snapshot, flows: usize) -> (Director, Arc<Ledger>) {
    let ledger = ledger(snapshot);
    let table = FlowTable::new(flows, false, [0x2b7e_1516_28ae_d2a6, 0xabf7_1588_09cf_4f3c]).unwrap();
    let half_open = table.slots();
    (Director::new(tables(table), half_open, snapshot, 0, ledger.clone()), ledger)
}

pub fn tcp(client_port: u16, flags: u8) -> FrameBuilder {
    FrameBuilder::tcp((CLIENT, client_port), (VIP, 80), flags)
}

pub fn udp(client_port: u16) -> FrameBuilder {
    FrameBuilder::udp((CLIENT, client_port), (VIP, 53))
}

/// A worker on queues in memory, and the ends that a test holds.
pub struct Bench {
    pub worker: Worker<SimQueue>,
    pub wire: SimQueue,
    pub ledger: Arc<Ledger>,
    pub inbox: Arc<Inbox<SimFrame>>,
    pub outbox: Arc<Outbox<SimFrame>>,
    pub publisher: Publisher<Snapshot>,
    pub now: Now,
}

impl Bench {
    pub fn new(snapshot: Snapshot, flows: usize, queue_room: usize, outbox_room: usize) -> Bench {
        let (director, ledger) = director(&snapshot, flows);
        let (publisher, mut readers) = epoch::publish(snapshot, 1);
        let wire = SimQueue::with_room(queue_room);
        let (inbox, outbox) = (Arc::new(Inbox::new(64).unwrap()), Arc::new(Outbox::new(outbox_room).unwrap()));
        let reader = readers.pop().unwrap();
        let worker = Worker::new(vec![wire.clone()], director, reader, ledger.clone(), inbox.clone(), outbox.clone());
        Bench { worker, wire, ledger, inbox, outbox, publisher, now: Now::from_secs(1000) }
    }

    /// Turns until there is nothing to do.
    pub fn turn(&mut self) {
        while self.worker.turn(self.now) {}
    }

    pub fn pass(&mut self, frame: Vec<u8>) -> Vec<Vec<u8>> {
        self.wire.arrive(frame);
        self.turn();
        self.wire.sent()
    }

    pub fn assert_adds_up(&self) {
        assert_adds_up(&self.ledger);
    }
}

/// received + handed in = forwarded + to_manage + to_host + handed out + Σ dropped, and the same for what is originated.
pub fn assert_adds_up(ledger: &Ledger) {
    let counters = &ledger.frames;
    let dropped: u64 = counters.dropped.iter().map(|counter| counter.get()).sum();
    let consumed = counters.to_manage.get() + counters.to_host.get() + counters.handed_out.get();
    let came = counters.received.get() + counters.handed_in.get();
    assert_eq!(came, counters.forwarded.get() + consumed + dropped, "forwarded + consumed + dropped by name");
    assert_eq!(counters.originated.get(), counters.originated_sent.get() + counters.originated_dropped.get());
}
