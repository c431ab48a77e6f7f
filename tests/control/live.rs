//! A director of everything but DPDK: socket, desk, management core and workers on wires in memory, and a network of
//! servers that answer ARP and count what reaches them.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::bounded;
use drover::clock::Now;
use drover::config::{self, Config, Idle};
use drover::control::desk::{Desk, PortFacts, WorkerFacts};
use drover::control::server::Server;
use drover::control::wire::*;
use drover::counters::Ledger;
use drover::director::{Director, Sharing, Tables};
use drover::flow::{FlowTable, Owners, WideTable};
use drover::manage::run::{Management, PortView, Snapshots};
use drover::manage::{ManageConfig, Manager};
use drover::packet::arp::{self, Arp, Operation};
use drover::packet::{Mac, ethernet};
use drover::service::Station;
use drover::sim::frames::FrameBuilder;
use drover::sim::{SimFrame, SimQueue};
use drover::sys::epoch;
use drover::worker::exchange::{Inbox, Outbox};
use drover::worker::{self, Worker, handover};
use tempfile::TempDir;

use crate::director::{Peer, drover, eventually};

const WORKERS: usize = 2;
const DIRECTOR: Mac = Mac([2, 0, 0, 0, 0, 0x10]);
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);
pub const SYN: u8 = 2;
pub const ACK: u8 = 16;

pub const FILE: &str = "cores.workers = 2\nhugepages = false\n[flows]\nper_worker = 20000\n\
    [[port]]\nname = \"lan\"\ntap = \"dtap0\"\naddress = \"10.9.0.10/24\"\nmac = \"02:00:00:00:00:10\"\n\
    [[service]]\ntcp = \"10.9.0.100:80\"\nscheduler = \"rr\"\n[[service.real]]\naddress = \"10.9.0.11\"\n\
    [[service.real]]\naddress = \"10.9.0.12\"\n";

fn clock() -> Now {
    static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
    Now::from_secs(1000) + BEGUN.elapsed()
}

/// The same, fifty times as fast: what takes half a minute takes less than a second.
fn fast_clock() -> Now {
    static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
    Now::from_secs(1000) + BEGUN.elapsed() * 50
}

/// What has reached whom, and what was said.
#[derive(Default)]
struct Seen {
    /// Frames to each server, by the last byte of its address.
    served: BTreeMap<u8, u64>,
    /// The server that had the last packet of a client's port to a virtual one.
    last: BTreeMap<(Ipv4Addr, u16, u16), u8>,
    /// Addresses that the director announced, and those that it answers for.
    announced: Vec<Ipv4Addr>,
    answered: Vec<Ipv4Addr>,
}

pub struct Live {
    server: Option<Server>,
    directory: TempDir,
    wires: Vec<SimQueue>,
    inboxes: Vec<Arc<Inbox<SimFrame>>>,
    ledgers: Vec<Arc<Ledger>>,
    outbox: Arc<Outbox<SimFrame>>,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

fn server_mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 1, last])
}

impl Live {
    pub fn start(text: &str) -> Live {
        Live::with_clock(text, clock)
    }

    pub fn fast(text: &str) -> Live {
        Live::with_clock(text, fast_clock)
    }

    fn with_clock(text: &str, clock: fn() -> Now) -> Live {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("drover.toml");
        fs::write(&file, text).unwrap();
        let config = Arc::new(config::load(&file).unwrap());
        let port = &config.ports[0];
        let station = Station { mac: DIRECTOR, network: port.address, vlan: None, mtu: port.mtu };
        let manager = Manager::new(&ManageConfig::new(&config, &[DIRECTOR], 7), clock());
        let (composer, first) = Snapshots::first(&config, std::slice::from_ref(&station), WORKERS, &manager);
        let (publisher, readers) = epoch::publish(first, WORKERS);
        let mut live = Live {
            server: None,
            directory,
            wires: (0..WORKERS).map(|_| SimQueue::with_room(100_000)).collect(),
            inboxes: (0..WORKERS).map(|_| Arc::new(Inbox::new(1024).unwrap())).collect(),
            ledgers: ledgers(&config),
            outbox: Arc::new(Outbox::new(1024).unwrap()),
            seen: Arc::default(),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        live.hire(&config, readers, clock);
        let (calls, called) = bounded(64);
        let ledgers = live.ledgers.clone();
        let mut management = Management {
            manager,
            snapshots: Snapshots::new(publisher, config.clone(), composer, vec![station.clone()], ledgers),
            taps: vec![None],
            lost: Vec::new(),
            outbox: live.outbox.clone(),
            sender: live.inboxes[0].clone(),
            make: Box::new(|bytes| Some(SimFrame(bytes.to_vec()))),
            ports: Box::new(|| vec![PortView { link_up: true, ..PortView::default() }]),
            calls: called,
            workers: live.inboxes.clone(),
        };
        let stop = live.stop.clone();
        live.threads.push(thread::spawn(move || management.run(clock, &stop)));
        live.plug_in();
        let facts = |(core, (ledger, inbox)): (usize, (&Arc<Ledger>, &Arc<Inbox<SimFrame>>))| {
            let (ledger, inbox) = (ledger.clone(), inbox.clone());
            WorkerFacts { core, ledger, inbox, flow_capacity: 20_000, flow_memory: "plain pages".into() }
        };
        let desk = Desk {
            config,
            config_path: file,
            dpdk: "none".into(),
            started: clock(),
            clock,
            management_core: 0,
            ports: vec![PortFacts { driver: "sim".into(), queues: WORKERS, station }],
            workers: live.ledgers.iter().zip(&live.inboxes).enumerate().map(facts).collect(),
            steering: Steering::Software,
            remarks: Vec::new(),
            calls,
            writing: Default::default(),
            outbox: live.outbox.clone(),
            stop: Arc::default(),
        };
        live.server = Some(Server::start(&live.path(), Arc::new(desk)).unwrap());
        live
    }

    fn hire(&mut self, config: &Config, readers: Vec<epoch::Reader<drover::service::Snapshot>>, clock: fn() -> Now) {
        let mut links = handover::mesh(&self.inboxes).into_iter();
        for (id, mut reader) in readers.into_iter().enumerate() {
            let secret = [id as u64 + 1, 7];
            let flows = &config.flows;
            let narrow = FlowTable::new(flows.per_worker, false, secret).unwrap();
            let wide = WideTable::new(flows.wide_per_worker, false, secret).unwrap();
            let (ledger, inbox) = (self.ledgers[id].clone(), self.inboxes[id].clone());
            let tables = Tables { narrow, wide };
            let mut director = Director::new(tables, flows.half_open, reader.read(), id, ledger.clone());
            let mut peers = self.ledgers.clone();
            peers.remove(id);
            director.set_peers(peers);
            let (wire, outbox) = (self.wires[id].clone(), self.outbox.clone());
            let mut worker = Worker::new(vec![wire], director, reader, ledger, inbox, outbox);
            let owners = Owners::new(id as u8, WORKERS as u8, [3, 4]);
            worker.share(Sharing { owners, all: true, nic: None }, links.next().unwrap());
            let stop = self.stop.clone();
            self.threads.push(thread::spawn(move || worker::run(worker, Idle::Wait, &[], clock, &stop)));
        }
    }

    /// Servers 10.9.0.11 to 10.9.0.99, and whoever listens to the director.
    fn plug_in(&mut self) {
        let (wires, inbox, seen, stop) =
            (self.wires.clone(), self.inboxes[0].clone(), self.seen.clone(), self.stop.clone());
        self.threads.push(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for frame in wires.iter().flat_map(SimQueue::sent) {
                    if let Some(answer) = hear(&frame, &mut seen.lock().unwrap()) {
                        wires[0].arrive(answer);
                        inbox.bell.ring();
                    }
                }
                thread::sleep(Duration::from_micros(500));
            }
        }));
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("drover.sock")
    }

    pub fn write_file(&self, text: &str) {
        fs::write(self.directory.path().join("drover.toml"), text).unwrap();
    }

    pub fn drover(&self, line: &str) -> Output {
        drover(&self.path(), &line.split(' ').collect::<Vec<_>>())
    }

    /// A command that must succeed, and what it says.
    pub fn does(&self, line: &str) -> String {
        let output = self.drover(line);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A command that must be refused, and why.
    pub fn refuses(&self, line: &str) -> String {
        let output = self.drover(line);
        assert_eq!(output.status.code(), Some(1), "{line}: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stderr).unwrap()
    }

    pub fn connect(&self) -> Peer {
        Peer::connect(&self.path())
    }

    pub fn services(&self) -> Vec<ServiceEntry> {
        serde_json::from_str(&self.does("--json service list")).unwrap()
    }

    pub fn connections(&self) -> Vec<ConnEntry> {
        serde_json::from_str(&self.does("--json conn list")).unwrap()
    }

    pub fn send(&self, frame: Vec<u8>) {
        self.wires[0].arrive(frame);
        self.inboxes[0].bell.ring();
    }

    pub fn tcp(&self, client_port: u16, to: (Ipv4Addr, u16), flags: u8) {
        self.send(FrameBuilder::tcp((CLIENT, client_port), to, flags).build());
    }

    /// The server that gets a packet.
    pub fn server_of(&self, client_port: u16, to: (Ipv4Addr, u16), flags: u8) -> u8 {
        let key = (to.0, client_port, to.1);
        self.seen.lock().unwrap().last.remove(&key);
        self.tcp(client_port, to, flags);
        let mut server = 0;
        eventually("the packet reaches a server", || {
            server = self.seen.lock().unwrap().last.get(&key).copied().unwrap_or(0);
            server != 0
        });
        server
    }

    pub fn served(&self, server: u8) -> u64 {
        self.seen.lock().unwrap().served.get(&server).copied().unwrap_or(0)
    }

    pub fn announced(&self, address: Ipv4Addr) -> usize {
        self.seen.lock().unwrap().announced.iter().filter(|announced| **announced == address).count()
    }

    /// Whether the director says that it has the address.
    pub fn answers_for(&self, address: Ipv4Addr) -> bool {
        self.seen.lock().unwrap().answered.retain(|answered| *answered != address);
        // Behind it, a question that is always answered: whoever answers that has heard the first.
        for target in [address, Ipv4Addr::new(10, 9, 0, 10)] {
            self.send(arp::request(Mac([2, 0, 0, 0, 9, 9]), CLIENT, target, None));
        }
        eventually("the director answers for itself", || {
            self.seen.lock().unwrap().answered.contains(&Ipv4Addr::new(10, 9, 0, 10))
        });
        let mut seen = self.seen.lock().unwrap();
        let answers = seen.answered.contains(&address);
        seen.answered.clear();
        answers
    }

    /// Until all reals with this address are resolved.
    pub fn resolves(&self, address: &str) {
        eventually("ARP has answered", || {
            let all = self.services();
            let mut reals = all.iter().flat_map(|service| &service.reals);
            let mut its = reals.by_ref().filter(|real| real.address.ip().to_string() == address).peekable();
            its.peek().is_some() && its.all(|real| real.state == RealState::Resolved)
        });
    }

    pub fn ledgers_add_up(&self) {
        eventually("every frame is accounted for", || {
            let sum = |of: fn(&Ledger) -> u64| self.ledgers.iter().map(|ledger| of(ledger)).sum::<u64>();
            let came = sum(|ledger| ledger.frames.received.get());
            let dropped = sum(|ledger| ledger.frames.dropped.iter().map(|counter| counter.get()).sum());
            let used = sum(|ledger| ledger.frames.to_manage.get() + ledger.frames.to_host.get());
            came == sum(|ledger| ledger.frames.forwarded.get()) + used + dropped
        });
    }

    pub fn dropped(&self) -> u64 {
        let of = |ledger: &Arc<Ledger>| ledger.frames.dropped.iter().map(|counter| counter.get()).sum::<u64>();
        self.ledgers.iter().map(of).sum()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.server = None;
        self.stop.store(true, Ordering::Relaxed);
        self.outbox.bell.ring();
        self.inboxes.iter().for_each(|inbox| inbox.bell.ring());
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "a thread of the director panicked");
        }
    }
}

fn ledgers(config: &Config) -> Vec<Arc<Ledger>> {
    let ledger = |_| Arc::new(Ledger::new(config.limits.services, config.limits.reals));
    (0..WORKERS).map(ledger).collect()
}

/// What the network makes of a frame of the director's: notes it, or answers.
fn hear(frame: &[u8], seen: &mut Seen) -> Option<Vec<u8>> {
    let link = ethernet::parse(frame)?;
    if link.ether_type != ethernet::ARP {
        let server = link.destination.0[5];
        *seen.served.entry(server).or_default() += 1;
        let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let to = Ipv4Addr::new(frame[30], frame[31], frame[32], frame[33]);
        seen.last.insert((to, port(34), port(36)), server);
        return None;
    }
    let arp = Arp::parse(&frame[link.payload..])?;
    let last = arp.target.octets()[3];
    match arp.operation {
        Operation::Request if arp.is_gratuitous() => seen.announced.push(arp.sender),
        Operation::Request if (11..100).contains(&last) => return Some(arp::reply(&arp, server_mac(last))),
        Operation::Reply if !arp.is_gratuitous() => seen.answered.push(arp.sender),
        _ => (),
    }
    None
}
