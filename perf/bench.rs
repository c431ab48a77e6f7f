//! What all suites stand on: one environment (EAL), how large everything is, and how to put a director together.

use std::error::Error;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use drover::clock::Now;
use drover::config::{Config, Protocol, Scheduler, Settings, Takes};
use drover::counters::Ledger;
use drover::director::{Director, Tables};
use drover::dpdk::{Eal, EalOptions, Mempool, Port, PortOptions, PortQueue, cycles};
use drover::flow::{FlowTable, WideTable};
use drover::packet::{BURST, Burst, Frame, Mac, Queue};
use drover::service::snapshot::{RealPlan, ServicePlan};
use drover::service::{Reach, Snapshot, Station};
use drover::sys::epoch::{self, Publisher};
use drover::sys::memory::Backing;
use drover::verdict::Verdict;
use drover::worker::Worker;
use drover::worker::exchange::{Inbox, Outbox};

use crate::measure::{CHUNK, Effort};
use crate::report::Report;
use crate::traffic::{FIRST_OTHER, OTHERS_PORT, STATION, TCP_PORT, UDP_PORT, VIP, VIP_V6};

pub type Outcome = Result<(), Box<dyn Error>>;

/// Any will do; the same in every run.
const SECRET: [u64; 2] = [0x2b7e_1516_28ae_d2a6, 0xabf7_1588_09cf_4f3c];
/// Reals behind the one service that is used.
pub const REALS: usize = 16;
/// Bursts in a chunk.
pub const BURSTS: usize = CHUNK / BURST;
/// As many buckets as a busy worker sweeps after each burst.
pub const SWEEP: usize = 64;
/// Frames of 64 bytes fit twice; small buffers keep the drivers' working set in the cache.
pub const ROOM: u16 = 256;
/// Flows of the family that is not measured.
const FEW: usize = 1024;
/// What fits into them.
const MTU: u16 = 200;
const BUFFERS: u32 = 16_383;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scale {
    /// Seconds: does it still run?
    Smoke,
    /// Under a minute.
    Quick,
    Full,
}

/// So many flows, and what the case is called.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub name: &'static str,
    /// Three quarters of a power of two, so that every table has the same load.
    pub flows: u32,
}

const fn size(name: &'static str, slots: u32) -> Size {
    Size { name, flows: slots / 4 * 3 }
}

const SIZES: [Size; 4] = [size("1K", 1 << 10), size("1M", 1 << 20), size("10M", 1 << 24), size("64M", 1 << 26)];

impl Scale {
    pub fn sizes(self) -> &'static [Size] {
        match self {
            Scale::Smoke => &SIZES[..1],
            Scale::Quick => &SIZES[..3],
            Scale::Full => &SIZES,
        }
    }

    pub fn effort(self) -> Effort {
        match self {
            Scale::Smoke => Effort { turns: 2, chunks: 2 },
            Scale::Quick => Effort { turns: 14, chunks: 8 },
            Scale::Full => Effort { turns: 60, chunks: 12 },
        }
    }

    /// One of three, by the scale.
    pub fn pick<T>(self, smoke: T, quick: T, full: T) -> T {
        match self {
            Scale::Smoke => smoke,
            Scale::Quick => quick,
            Scale::Full => full,
        }
    }
}

pub struct Bench {
    pub eal: Eal,
    pub pool: Mempool,
    pub hertz: u64,
    pub scale: Scale,
    pub hugepages: bool,
    /// Where everything runs that runs alone.
    pub core: usize,
    /// All that this process may use; EAL binds the thread that starts it to one.
    pub cores: Vec<usize>,
    pub report: Report,
    /// Goes last: EAL's own files are in it.
    pub directory: tempfile::TempDir,
}

impl Bench {
    pub fn start(scale: Scale) -> Result<Bench, Box<dyn Error>> {
        let wanted_mb = scale.pick(0, 1_500, 6_000);
        let hugepages = scale > Scale::Smoke && free_hugepages_mb() >= wanted_mb;
        let directory = tempfile::Builder::new().prefix("drover-bench-").tempdir()?;
        let cores: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
        let core = cores.last().copied().unwrap_or(0);
        let options = EalOptions {
            management_core: core,
            hugepages,
            memory_mb: scale.pick(64, 1_024, 4_096),
            runtime_dir: directory.path().to_owned(),
            file_prefix: format!("drover-bench-{}", std::process::id()),
            ..EalOptions::default()
        };
        let eal = Eal::start(&options)?;
        let pool = Mempool::with_room(&eal, "bench", BUFFERS, ROOM, None)?;
        let hertz = cycles::per_second(&eal);
        Ok(Bench { eal, pool, hertz, scale, hugepages, core, cores, report: Report::default(), directory })
    }

    /// Some core that is not the one where things are measured, if there is one.
    pub fn other_core(&self) -> usize {
        self.cores.iter().copied().find(|core| *core != self.core).unwrap_or(self.core)
    }

    /// What DPDK's memory is on.
    pub fn dpdk_pages(&self) -> &'static str {
        if self.hugepages { "2 MB pages (reserved)" } else { "4 KB pages" }
    }

    pub fn table(&self, flows: u32) -> std::io::Result<FlowTable> {
        FlowTable::new(flows as usize, self.hugepages, SECRET)
    }

    /// For so many flows over IPv4, and a few over IPv6.
    pub fn tables(&self, flows: u32) -> std::io::Result<Tables> {
        Ok(Tables { narrow: self.table(flows)?, wide: WideTable::new(FEW, self.hugepages, SECRET)? })
    }

    /// The other way round.
    pub fn tables_v6(&self, flows: u32) -> std::io::Result<Tables> {
        Ok(Tables { narrow: self.table(FEW as u32)?, wide: WideTable::new(flows as usize, self.hugepages, SECRET)? })
    }

    /// A virtual device with so many pairs of queues. The device goes with the last handle, as far as DPDK lets it.
    pub fn port(&self, device: &str, arguments: &str, queues: u16) -> Result<(Port, Vec<PortQueue>), Box<dyn Error>> {
        self.port_on(device, arguments, queues, &self.pool)
    }

    /// The same with a pool of its own.
    pub fn port_on(
        &self,
        device: &str,
        arguments: &str,
        queues: u16,
        pool: &Mempool,
    ) -> Result<(Port, Vec<PortQueue>), Box<dyn Error>> {
        self.eal.add_vdev(device, arguments)?;
        let options = PortOptions {
            queues,
            rss: false,
            rx_descriptors: 256,
            tx_descriptors: 256,
            mtu: MTU,
            ..PortOptions::default()
        };
        Ok(Port::open(&self.eal, device, &options, pool)?)
    }
}

fn free_hugepages_mb() -> u64 {
    let free = fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    free.ok().and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0) * 2
}

/// One port, one virtual address, a TCP and a UDP service with sixteen reals each that are all known, and `others`
/// services beside them.
pub fn snapshot(others: usize) -> Snapshot {
    lay_out(1, &config(others))
}

pub fn lay_out(epoch: u64, config: &Config) -> Snapshot {
    let port = &config.ports[0];
    let station = Station { mac: STATION, network: port.address, vlan: port.vlan, mtu: port.mtu };
    Snapshot::build(epoch, config, vec![station], |_, _| Reach::Unknown)
}

pub fn config(others: usize) -> Config {
    drover::config::parse(&config_text("tap = \"wire\"", others), "bench").expect("a configuration of our own")
}

/// The same for a port on `device`, as droverd reads it.
pub fn config_text(device: &str, others: usize) -> String {
    let mut text = format!("[[port]]\nname = \"wire\"\n{device}\nmac = \"{STATION}\"\naddress = \"10.9.0.10/16\"\n");
    let real = |number: usize| {
        let [high, low] = (number as u16 + 0x0200).to_be_bytes();
        format!("[[service.real]]\naddress = \"10.9.{high}.{low}\"\nmac = \"02:00:00:01:{high:02x}:{low:02x}\"\n")
    };
    for (protocol, port) in [("tcp", TCP_PORT), ("udp", UDP_PORT)] {
        text += &format!("[[service]]\n{protocol} = \"{VIP}:{port}\"\nscheduler = \"rr\"\n");
        text.extend((0..REALS).map(real));
    }
    for number in 0..others {
        let address = Ipv4Addr::from_bits(FIRST_OTHER + number as u32);
        text += &format!("[[service]]\ntcp = \"{address}:{OTHERS_PORT}\"\nscheduler = \"rr\"\n");
        // 64,000 behind 10,000.
        let reals = if number % 5 < 2 { 7 } else { 6 };
        text.extend((number..number + reals).map(real));
    }
    text
}

/// One TCP service with this scheduler and so many reals, of different weights.
pub fn snapshot_of(scheduler: &str, reals: usize) -> Snapshot {
    let mut text = config_text("tap = \"wire\"", 0);
    text.truncate(text.find("[[service]]").unwrap_or(0));
    text += &format!("[[service]]\ntcp = \"{VIP}:{TCP_PORT}\"\nscheduler = \"{scheduler}\"\n");
    for number in 0..reals {
        let [high, low] = (number as u16 + 0x0200).to_be_bytes();
        let mac = format!("02:00:00:01:{high:02x}:{low:02x}");
        // ovf fills one after the other, up to its weight.
        let weight = (number % 10 + 1) * 6_000;
        text += &format!("[[service.real]]\naddress = \"10.9.{high}.{low}\"\nmac = \"{mac}\"\nweight = {weight}\n");
    }
    lay_out(1, &drover::config::parse(&text, "bench").expect("a configuration of our own"))
}

/// One TCP service over IPv6, with as many reals as that over IPv4 has.
pub fn snapshot_v6() -> Snapshot {
    let stations = snapshot(0).stations;
    let real = |number: u16| RealPlan {
        address: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 2, number).into(),
        port: TCP_PORT,
        weight: 1,
        upper: 0,
        lower: 0,
        egress: 0,
        reach: Reach::At(Mac([2, 0, 0, 1, 2, number as u8])),
    };
    let service = ServicePlan {
        takes: Takes::exact(Protocol::Tcp, VIP_V6, TCP_PORT),
        scheduler: Scheduler::RoundRobin,
        settings: Settings::default(),
        reals: (0..REALS as u16).map(real).collect(),
    };
    Snapshot::lay_out(1, stations, &[service])
}

/// With so many half-open connections at most.
pub fn director(snapshot: &Snapshot, tables: Tables, half_open: usize) -> (Director, Arc<Ledger>) {
    let ledger = Arc::new(Ledger::new(snapshot.services.len(), snapshot.reals.len()));
    (Director::new(tables, half_open, snapshot, 0, ledger.clone()), ledger)
}

pub fn forwarded(verdicts: &[Verdict]) -> usize {
    verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Forward { .. })).count()
}

/// A worker on a queue, and what a test of it needs to hold.
pub struct Engine<Q: Queue> {
    pub worker: Worker<Q>,
    pub ledger: Arc<Ledger>,
    pub publisher: Publisher<Snapshot>,
    pub backing: Backing,
    _outbox: Arc<Outbox<Q::Frame>>,
}

impl<Q: Queue> Engine<Q> {
    pub fn new(queue: Q, tables: Tables, snapshot: Snapshot) -> std::io::Result<Engine<Q>> {
        let backing = tables.narrow.backing();
        let (director, ledger) = director(&snapshot, tables, usize::MAX);
        let (publisher, mut readers) = epoch::publish(snapshot, 1);
        let (inbox, outbox) = (Arc::new(Inbox::new(64)?), Arc::new(Outbox::new(64)?));
        let reader = readers.pop().ok_or(std::io::ErrorKind::NotFound)?;
        let worker = Worker::new(vec![queue], director, reader, ledger.clone(), inbox, outbox.clone());
        Ok(Engine { worker, ledger, publisher, backing, _outbox: outbox })
    }

    /// Turns until a chunk of packets has been forwarded, by the clock that workers have.
    pub fn chunk(&mut self) {
        self.chunk_at(drover::daemon::clock);
    }

    /// Packets that came in and did not go out.
    pub fn lost(&self) -> u64 {
        self.ledger.frames.received.get() - self.ledger.frames.forwarded.get()
    }

    pub fn chunk_at(&mut self, mut clock: impl FnMut() -> Now) {
        let before = self.ledger.frames.forwarded.get();
        for _ in 0..BURSTS {
            self.worker.turn(clock());
        }
        let done = self.ledger.frames.forwarded.get() - before;
        assert_eq!(done, CHUNK as u64, "every packet is for a service and is forwarded");
    }
}

/// Time as a core sees it that does nothing else: it goes by with the cycles that are counted.
pub struct VirtualClock {
    nanoseconds: f64,
    per_cycle: f64,
}

impl VirtualClock {
    pub fn new(hertz: u64) -> VirtualClock {
        VirtualClock { nanoseconds: 1e12, per_cycle: 1e9 / hertz as f64 }
    }

    pub fn now(&self) -> Now {
        Now(self.nanoseconds as u64)
    }

    pub fn pass(&mut self, cycles: u64) {
        self.nanoseconds += cycles as f64 * self.per_cycle;
    }

    pub fn pass_seconds(&mut self, seconds: f64) {
        self.nanoseconds += seconds * 1e9;
    }
}

/// All of a burst's frames, for loops that look at nothing else.
pub fn each_frame<F: Frame>(frames: &mut Burst<F>, mut visit: impl FnMut(&mut [u8])) {
    for frame in frames.iter_mut() {
        visit(frame.bytes_mut());
    }
}
