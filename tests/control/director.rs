//! A director that gives fixed answers, and the means to talk to it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::SocketAddrV4;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use drover::config::{self, Config, edit};
use drover::control::server::{Handler, Options, Server};
use drover::control::wire::*;
use tempfile::TempDir;

pub struct Fixed;

impl Handler for Fixed {
    fn handle(&self, request: Request) -> Outcome {
        Outcome::Ok(match request {
            Request::Status => Answer::Status(status()),
            Request::ServiceList => Answer::Services(services()),
            Request::ConnList { from } => Answer::Connections(page_from(from, &connections(), 2)),
            Request::Stats => Answer::Stats(stats()),
            Request::Timeouts { tcp: None, tcp_fin: None, udp: None, .. } => {
                Answer::Timeouts(TimeoutsEntry { tcp: 900, tcp_fin: 120, udp: 300 })
            }
            Request::ConfigShow => Answer::Config(running().to_toml()),
            Request::Reload { dry_run } => Answer::Changed(reloaded(dry_run)),
            Request::Stop => Answer::Stopping,
            other => match edited(&other) {
                Ok(changed) => Answer::Changed(changed),
                Err(refused) => return Outcome::Error(refused),
            },
        })
    }
}

/// What its answers come from where a configuration is needed.
pub fn running() -> Config {
    config::parse(CONFIGURATION, "drover.toml").unwrap()
}

const CONFIGURATION: &str = "[[port]]\nname = \"lan0\"\npci = \"0000:3b:00.0\"\naddress = \"10.9.0.10/24\"\nvlan = 7\n\
    gateway = \"10.9.0.1\"\n[[service]]\ntcp = \"10.9.0.100:80\"\nscheduler = \"wrr\"\n\
    [[service.real]]\naddress = \"10.9.0.11\"\nweight = 3\n\
    [[service.real]]\naddress = \"10.9.0.12\"\nweight = 2\nmac = \"52:54:00:00:00:12\"\n";

/// The edit is checked as it is by a director, and goes nowhere.
fn edited(request: &Request) -> Result<Changed, String> {
    let (edit, dry_run) = request.as_edit().expect("an edit");
    let change = edit::check(&running(), &edit).map_err(|mistakes| mistakes[0].to_string().trim_start().to_owned())?;
    Ok(changed(dry_run, vec![change.to_string()], Vec::new()))
}

fn reloaded(dry_run: bool) -> Changed {
    let file = CONFIGURATION.replace("\"wrr\"", "\"wlc\"").replace("10.9.0.11", "10.9.0.13");
    let file = config::parse(&format!("{file}[cores]\nworkers = 4\n"), "drover.toml").unwrap();
    let edit::Reload { changes, notes } = edit::reload(&running(), &file).unwrap();
    changed(dry_run, changes.iter().map(ToString::to_string).collect(), notes)
}

fn changed(dry_run: bool, changes: Vec<String>, notes: Vec<String>) -> Changed {
    Changed { dry_run, changes, notes, epoch: if dry_run { 3 } else { 4 }, workers_behind: 0 }
}

/// A handler made of a function.
pub struct By<F>(pub F);

impl<F: Fn(Request) -> Outcome + Send + Sync> Handler for By<F> {
    fn handle(&self, request: Request) -> Outcome {
        (self.0)(request)
    }
}

/// A server in a directory of its own.
pub struct Running {
    pub server: Option<Server>,
    pub directory: TempDir,
}

impl Running {
    pub fn fixed() -> Running {
        Running::with(Fixed, Options::default())
    }

    pub fn with(handler: impl Handler + 'static, options: Options) -> Running {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("drover.sock");
        let server = Server::start_with(&path, Arc::new(handler), options).unwrap();
        Running { server: Some(server), directory }
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("drover.sock")
    }

    pub fn connect(&self) -> Peer {
        Peer::connect(&self.path())
    }

    pub fn drover(&self, arguments: &[&str]) -> Output {
        drover(&self.path(), arguments)
    }
}

pub fn drover(socket: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drover"));
    command.env("DROVER_SOCKET", socket).env_remove("NO_COLOR").args(arguments).output().unwrap()
}

/// A client by hand, that may say anything.
pub struct Peer {
    pub stream: UnixStream,
    reader: BufReader<UnixStream>,
}

impl Peer {
    pub fn connect(path: &Path) -> Peer {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        Peer { stream, reader }
    }

    /// To a server that may have heard enough and closed before the last byte.
    pub fn say(&mut self, bytes: &[u8]) {
        match self.stream.write_all(bytes) {
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => (),
            said => said.unwrap(),
        }
    }

    /// The next line without its newline; empty at the end.
    pub fn hear(&mut self) -> String {
        let mut line = String::new();
        // A server that closes before it has read everything resets the connection.
        let _ = self.reader.read_line(&mut line);
        line.trim_end_matches('\n').to_string()
    }

    pub fn exchange(&mut self, line: &str) -> String {
        self.say(line.as_bytes());
        self.say(b"\n");
        self.hear()
    }

    /// For a server that may have closed before it has read anything.
    pub fn exchange_or_end(&mut self, line: &str) -> String {
        let _ = self.stream.write_all(format!("{line}\n").as_bytes());
        self.hear()
    }
}

/// Waits for what must become true.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "still not: {what}");
        std::thread::yield_now();
    }
}

pub fn page_from(from: ConnCursor, all: &[ConnEntry], size: usize) -> ConnPage {
    let end = (from.bucket + size).min(all.len());
    let next = (end < all.len()).then_some(ConnCursor { worker: 0, bucket: end });
    ConnPage { connections: all[from.bucket.min(end)..end].to_vec(), next }
}

fn address(text: &str) -> SocketAddrV4 {
    text.parse().unwrap()
}

pub fn status() -> Status {
    Status {
        version: "0.1.0".into(),
        commit: "1a2b3c4".into(),
        dpdk: "22.11.11".into(),
        pid: 4242,
        uptime_seconds: 3723,
        config: "/etc/drover/drover.toml".into(),
        epoch: 3,
        management_core: 0,
        steering: Steering::Software,
        ports: vec![port()],
        workers: vec![worker(0, 1, 12, 3), worker(1, 2, 7, 2)],
        warnings: vec!["52:54:00:00:00:99 on lan0 claims the virtual address 10.9.0.100".into()],
    }
}

fn port() -> PortStatus {
    PortStatus {
        name: "lan0".into(),
        device: "pci 0000:3b:00.0".into(),
        driver: "net_ixgbe".into(),
        mac: "52:54:00:00:00:10".into(),
        address: "10.9.0.10/24".into(),
        vlan: Some(7),
        gateway: Some("10.9.0.1".parse().unwrap()),
        gateway_mac: Some("52:54:00:00:00:01".into()),
        mtu: 1500,
        link_up: true,
        speed: 10_000,
        queues: 2,
        host_tap: "drover0".into(),
    }
}

fn worker(id: usize, core: usize, flows: u64, epoch: u64) -> WorkerStatus {
    WorkerStatus { id, core, flows, flow_capacity: 1_048_576, flow_memory: "2 MB pages".into(), epoch }
}

pub fn services() -> Vec<ServiceEntry> {
    let web = vec![
        real("10.9.0.11:80", 3, RealState::Resolved, Some("52:54:00:00:00:11"), (3, 1)),
        real("10.9.0.12:80", 2, RealState::Fixed, Some("52:54:00:00:00:12"), (2, 0)),
        real("10.9.0.13:80", 1, RealState::Unreachable, None, (0, 0)),
    ];
    let dns = vec![real("10.9.0.11:53", 1, RealState::Resolving, None, (0, 1))];
    vec![service("TCP", "10.9.0.100:80", "wrr", web), service("UDP", "10.9.0.100:53", "rr", dns)]
}

fn service(protocol: &str, at: &str, scheduler: &str, reals: Vec<RealEntry>) -> ServiceEntry {
    let traffic = TrafficEntry {
        connections: 9,
        packets: 90,
        bytes: 9000,
        active: 5,
        inactive: 1,
        answers: 2,
        answer_bytes: 136,
    };
    let (protocol, address, scheduler) = (protocol.into(), at.into(), scheduler.into());
    ServiceEntry {
        protocol,
        address,
        scheduler,
        flags: String::new(),
        persistent: None,
        netmask: None,
        expire_quiescent: false,
        one_packet: false,
        on_removed: "reschedule".into(),
        on_miss: "reset".into(),
        manners: String::new(),
        traffic,
        reals,
    }
}

fn real(at: &str, weight: u16, state: RealState, mac: Option<&str>, (active, inactive): (u64, u64)) -> RealEntry {
    let traffic =
        TrafficEntry { connections: 3, packets: 30, bytes: 3000, active, inactive, answers: 0, answer_bytes: 0 };
    let mac = mac.map(str::to_string);
    let (upper, lower) = (0, 0);
    RealEntry { address: address(at), forward: "Route".into(), weight, upper, lower, state, mac, traffic }
}

pub fn connections() -> Vec<ConnEntry> {
    let connection = |client, real, state: &str, expires_seconds, worker| ConnEntry {
        protocol: "TCP".into(),
        client: address(client),
        virtual_address: address("10.9.0.100:80"),
        real: address(real),
        state: state.into(),
        expires_seconds,
        worker,
    };
    vec![
        connection("10.9.0.1:2005", "10.9.0.11:80", "SYN_RECV", 57, 0),
        connection("203.0.113.255:54321", "10.9.0.12:80", "ESTABLISHED", 897, 0),
        connection("10.9.0.1:2000", "10.9.0.12:80", "FIN_WAIT", 117, 1),
    ]
}

pub fn stats() -> Stats {
    let first = FrameStats {
        received: 1000,
        received_bytes: 100_000,
        forwarded: 980,
        forwarded_bytes: 98_000,
        to_manage: 4,
        to_host: 12,
        handed_out: 20,
        handed_in: 20,
        dropped: BTreeMap::from([("no_service".into(), 3), ("not_our_mac".into(), 1)]),
        originated: 30,
        originated_sent: 29,
        originated_dropped: 1,
        flows: 12,
        flows_created: 40,
        flows_expired: 28,
        stateless: 7,
        templates_refused: 5,
        turns: 5000,
        waits: 42,
    };
    let second = FrameStats {
        received: 234,
        received_bytes: 23_400,
        forwarded: 220,
        forwarded_bytes: 22_000,
        to_manage: 6,
        to_host: 8,
        handed_out: 20,
        handed_in: 20,
        flows: 7,
        flows_created: 9,
        flows_expired: 2,
        stateless: 0,
        templates_refused: 1,
        turns: 4000,
        waits: 40,
        ..FrameStats::default()
    };
    Stats { total: total(&first, &second), workers: vec![first, second], ports: vec![port_stats()], manage: manage() }
}

fn total(first: &FrameStats, second: &FrameStats) -> FrameStats {
    FrameStats {
        received: first.received + second.received,
        received_bytes: first.received_bytes + second.received_bytes,
        forwarded: first.forwarded + second.forwarded,
        forwarded_bytes: first.forwarded_bytes + second.forwarded_bytes,
        to_manage: first.to_manage + second.to_manage,
        to_host: first.to_host + second.to_host,
        handed_out: first.handed_out + second.handed_out,
        handed_in: first.handed_in + second.handed_in,
        dropped: first.dropped.clone(),
        flows: first.flows + second.flows,
        flows_created: first.flows_created + second.flows_created,
        flows_expired: first.flows_expired + second.flows_expired,
        stateless: first.stateless + second.stateless,
        templates_refused: first.templates_refused + second.templates_refused,
        turns: first.turns + second.turns,
        waits: first.waits + second.waits,
        ..first.clone()
    }
}

fn port_stats() -> PortStats {
    PortStats {
        name: "lan0".into(),
        received: 1234,
        received_bytes: 123_400,
        sent: 1229,
        sent_bytes: 122_900,
        missed: 2,
        ..PortStats::default()
    }
}

fn manage() -> ManageStats {
    ManageStats {
        arp_replies: 5,
        arp_requests: 6,
        gratuitous_arps: 2,
        echo_replies: 3,
        rate_limited: 1,
        resets: 7,
        resets_limited: 2,
        port_unreachable: 6,
        port_unreachable_limited: 1,
        time_exceeded: 3,
        time_exceeded_limited: 0,
        fragmentation_needed: 1,
        fragmentation_needed_limited: 0,
        ignored: 2,
        conflicts: 1,
        host_received: 20,
        host_sent: 14,
        host_dropped: 0,
    }
}
