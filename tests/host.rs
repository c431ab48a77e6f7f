//! What droverd does to its host's kernel, on a real one: each test in network namespaces of its own, as root or, for an
//! ordinary user, as root of a user namespace.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use drover::manage::host::{HostState, create_tap};
use drover::packet::arp::{self, Arp, Operation};
use drover::packet::{Ipv4Net, Mac};
use drover::sys::netdev::{self, Offloads, Tap};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const ROLE: &str = "DROVER_HOST_TEST_ROLE";
const PROC: &str = "/proc";
const PATIENCE: Duration = Duration::from_secs(10);

const PORT_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x10]);
const PEER_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x01]);
const OWN: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 10);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);

/// Runs `body` as this test, in a fresh network namespace.
fn in_namespace(test: &str, body: fn()) {
    if std::env::var(ROLE).is_ok() {
        return body();
    }
    let mut unshare = Command::new("unshare");
    unshare.args(if rustix::process::geteuid().is_root() { &["-nm"][..] } else { &["-Urnm"] });
    let status = unshare.args(["--", &exe(), "--exact", test, "--nocapture"]).env(ROLE, "inside").status();
    assert!(status.expect("unshare is needed: apt install util-linux").success(), "{test} failed in its namespace");
}

fn exe() -> String {
    std::env::current_exe().unwrap().into_os_string().into_string().unwrap()
}

/// This test once more, as another process in the same namespace, to play `role`.
fn play(test: &str, role: &str) -> Command {
    let mut command = Command::new(exe());
    command.args(["--exact", test, "--nocapture"]).env(ROLE, role);
    command
}

fn plays(role: &str) -> bool {
    std::env::var(ROLE).is_ok_and(|played| played == role)
}

/// Tells the one who started us, and waits until it ends us.
fn ready() {
    println!("\nready");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// A process that has said "ready"; ended with this.
struct Running(Child);

impl Running {
    fn start(mut command: Command) -> Running {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let running = Running(child);
        assert!(output.lines().map_while(Result::ok).any(|line| line == "ready"), "it ended early");
        running
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(words: &str) -> bool {
    let mut words = words.split(' ');
    Command::new(words.next().unwrap()).args(words).stdout(Stdio::null()).status().unwrap().success()
}

fn ip(words: &str) {
    assert!(run(&format!("ip {words}")), "ip {words}");
}

fn readable(file: impl AsFd, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
    poll(&mut [PollFd::new(&file, PollFlags::IN)], Some(&timeout)).unwrap() > 0
}

/// The first frame from the kernel that `wanted` recognises.
fn next_frame<T>(tap: &Tap, what: &str, wanted: impl Fn(&[u8]) -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    let mut frame = [0; 2048];
    loop {
        assert!(readable(tap, deadline), "no {what} came");
        let length = tap.read(&mut frame).unwrap();
        if let Some(found) = wanted(&frame[..length]) {
            return found;
        }
    }
}

/// A datagram: its destination MAC, its source, its payload.
fn datagram(frame: &[u8]) -> Option<(Mac, Ipv4Addr, Vec<u8>)> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) = (&packet.net, &packet.transport) else {
        return None;
    };
    let sum = udp.to_header().calc_checksum_ipv4(&ip.header().to_header(), udp.payload()).unwrap();
    assert_eq!(udp.checksum(), sum, "a partial checksum left the kernel");
    let destination = Mac(frame[..6].try_into().unwrap());
    Some((destination, ip.header().source_addr(), udp.payload().to_vec()))
}

fn question(frame: &[u8]) -> Option<Arp> {
    let arp = (frame[12..14] == [8, 6]).then(|| Arp::parse(&frame[14..]))??;
    (arp.operation == Operation::Request && !arp.is_gratuitous()).then_some(arp)
}

fn host_tap() -> Tap {
    let address = Ipv4Net { address: OWN, prefix: 24 };
    create_tap("drover0", PORT_MAC, 1500, address, Some(PEER), Path::new(PROC)).unwrap()
}

#[test]
fn a_tap_carries_frames_to_a_kernel_socket_and_back() {
    in_namespace("a_tap_carries_frames_to_a_kernel_socket_and_back", || {
        let tap = host_tap();
        assert_eq!(netdev::mac("drover0").unwrap(), PORT_MAC);
        let socket = UdpSocket::bind((OWN, 5000)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();

        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(PEER_MAC.0, PORT_MAC.0).ipv4(PEER.octets(), OWN.octets(), 64);
        builder.udp(4000, 5000).write(&mut frame, b"to the kernel").unwrap();
        tap.write(&frame).unwrap();
        let mut received = [0; 64];
        let (length, from) = socket.recv_from(&mut received).unwrap();
        assert_eq!((&received[..length], from), (&b"to the kernel"[..], (PEER, 4000).into()));

        socket.send_to(b"and back", from).unwrap();
        let asked = next_frame(&tap, "question", question);
        assert_eq!((asked.sender, asked.sender_mac, asked.target), (OWN, PORT_MAC, PEER));
        tap.write(&arp::reply(&asked, PEER_MAC)).unwrap();
        assert_eq!(next_frame(&tap, "datagram", datagram), (PEER_MAC, OWN, b"and back".to_vec()));

        socket.send_to(b"beyond", "192.0.2.1:9").unwrap();
        assert_eq!(next_frame(&tap, "datagram", datagram), (PEER_MAC, OWN, b"beyond".to_vec()), "by the gateway");
    });
}

#[test]
fn the_kernel_never_asks_in_a_virtual_addresss_name() {
    in_namespace("the_kernel_never_asks_in_a_virtual_addresss_name", || {
        let tap = host_tap();
        ip("addr add 10.9.0.100/32 dev drover0");
        UdpSocket::bind((VIP, 0)).unwrap().send_to(b"x", (PEER, 9)).unwrap();
        let asked = next_frame(&tap, "question", question);
        assert_eq!((asked.sender, asked.target), (OWN, PEER));
    });
}

#[test]
fn a_tap_goes_away_and_a_name_is_taken_once() {
    in_namespace("a_tap_goes_away_and_a_name_is_taken_once", || {
        let tap = host_tap();
        let mut none = [0; 64];
        while tap.read(&mut none).is_ok() {}
        assert_eq!(tap.read(&mut none).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        let twice = Tap::create("drover0", PORT_MAC, 1500).unwrap_err();
        assert_eq!(twice.kind(), std::io::ErrorKind::AlreadyExists, "{twice}");
        drop(tap);
        assert_eq!(netdev::index("drover0").unwrap(), None);
    });
}

#[test]
fn a_mac_changes_on_an_interface_that_is_up() {
    in_namespace("a_mac_changes_on_an_interface_that_is_up", || {
        ip("link add left type veth peer name right");
        netdev::set_up("left", true).unwrap();
        let mac = netdev::kernel_end_mac(netdev::mac("left").unwrap());
        netdev::set_mac("left", mac).unwrap();
        netdev::set_mtu("left", 1400).unwrap();
        assert_eq!((netdev::mac("left").unwrap(), netdev::is_up("left").unwrap()), (mac, true));
    });
}

fn redirects() -> BTreeMap<String, String> {
    let conf = std::fs::read_dir("/proc/sys/net/ipv4/conf").unwrap();
    conf.map(|entry| {
        let entry = entry.unwrap();
        let value = std::fs::read_to_string(entry.path().join("send_redirects")).unwrap();
        (entry.file_name().into_string().unwrap(), value.trim().to_owned())
    })
    .collect()
}

fn set_redirects(interface: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/ipv4/conf/{interface}/send_redirects"), value).unwrap();
}

/// `all` says yes, one interface says no, and the default says no, which `lo` follows: nobody has set it by itself.
fn arrange_redirects() -> BTreeMap<String, String> {
    set_redirects("all", "1");
    set_redirects("default", "1");
    ip("link add says-no type veth peer name says-yes");
    set_redirects("says-no", "0");
    set_redirects("says-yes", "1");
    set_redirects("default", "0");
    ip("link add another type veth peer name ours");
    redirects()
}

fn assert_only_ours_is_quiet(now: &BTreeMap<String, String>) {
    for (interface, value) in now {
        let quiet = interface == "all" || interface == "ours";
        assert_eq!(value, if quiet { "0" } else { "1" }, "{interface}");
    }
}

#[test]
fn redirects_are_turned_off_and_put_back() {
    in_namespace("redirects_are_turned_off_and_put_back", || {
        let before = arrange_redirects();
        let dir = tempfile::tempdir().unwrap();
        let mut state = HostState::prepare(&dir.path().join("host.json"), Path::new(PROC)).unwrap();
        state.redirects_off(&["ours"]).unwrap();
        assert_only_ours_is_quiet(&redirects());
        state.restore().unwrap();
        assert_eq!(redirects(), before);
        set_redirects("default", "1");
        assert_eq!((&before["lo"][..], &redirects()["lo"][..]), ("0", "1"), "it follows the default still");
    });
}

#[test]
fn after_kill_9_the_next_start_puts_redirects_back() {
    const TEST: &str = "after_kill_9_the_next_start_puts_redirects_back";
    const JOURNAL: &str = "DROVER_HOST_TEST_JOURNAL";
    in_namespace(TEST, || {
        if plays("victim") {
            let journal = std::env::var(JOURNAL).unwrap();
            let mut state = HostState::prepare(Path::new(&journal), Path::new(PROC)).unwrap();
            state.redirects_off(&["ours"]).unwrap();
            return ready();
        }
        let before = arrange_redirects();
        let dir = tempfile::tempdir().unwrap();
        let journal = dir.path().join("host.json");
        let mut command = play(TEST, "victim");
        command.env(JOURNAL, &journal);
        Running::start(command).kill();
        assert_only_ours_is_quiet(&redirects());
        let next = HostState::prepare(&journal, Path::new(PROC)).unwrap();
        assert!(next.recovered());
        assert_eq!(redirects(), before);
    });
}

/// Another host: a network namespace, its end of the wire named `far`, ours named `near`.
struct Neighbour {
    process: Running,
}

impl Neighbour {
    fn new() -> Neighbour {
        let mut command = Command::new("unshare");
        command.args(["-n", "sh", "-c", "echo ready; exec cat"]);
        let neighbour = Neighbour { process: Running::start(command) };
        let pid = neighbour.process.0.id();
        ip(&format!("link add near type veth peer name far netns {pid}"));
        ip("addr add 10.9.0.10/24 dev near");
        ip("link set near up");
        neighbour.run("ip addr add 10.9.0.1/24 dev far");
        neighbour.run("ip link set far up");
        neighbour
    }

    fn run(&self, words: &str) -> bool {
        run(&format!("nsenter -t {} -n {words}", self.process.0.id()))
    }

    /// Whether one ping is answered within so many seconds: it goes on asking, as ARP may begin anew.
    fn ping(&self, seconds: u32) -> bool {
        self.run(&format!("ping -q -n -c 1 -i 0.2 -w {seconds} 10.9.0.10"))
    }
}

/// A packet socket that hears every interface.
fn packet_socket() -> OwnedFd {
    use rustix::net::{AddressFamily, Protocol, RawProtocol, SocketType, socket};
    let everything = u32::from((libc::ETH_P_ALL as u16).to_be());
    let protocol = Protocol::from_raw(RawProtocol::new(everything).unwrap());
    socket(AddressFamily::PACKET, SocketType::RAW, Some(protocol)).unwrap()
}

fn hears_a_ping(socket: &OwnedFd) -> bool {
    let deadline = Instant::now() + PATIENCE;
    let mut frame = [0; 2048];
    while readable(socket, deadline) {
        let length = rustix::io::read(socket, &mut frame).unwrap();
        let packet = SlicedPacket::from_ethernet(&frame[..length]);
        if matches!(packet.map(|packet| packet.transport), Ok(Some(TransportSlice::Icmpv4(_)))) {
            return true;
        }
    }
    false
}

#[test]
fn a_silenced_kernel_hears_nothing_and_a_packet_socket_still_does() {
    in_namespace("a_silenced_kernel_hears_nothing_and_a_packet_socket_still_does", || {
        let neighbour = Neighbour::new();
        assert!(neighbour.ping(10), "the wire carries nothing");
        assert!(run("ethtool -K near gro on"));
        let on = Offloads { gro: true, lro: false };
        assert_eq!(netdev::offloads("near").unwrap(), on);

        let dir = tempfile::tempdir().unwrap();
        let mut state = HostState::prepare(&dir.path().join("host.json"), Path::new(PROC)).unwrap();
        state.silence("near").unwrap();
        assert_eq!(netdev::offloads("near").unwrap(), Offloads { gro: false, lro: false });
        let socket = packet_socket();
        assert!(!neighbour.ping(1), "the kernel answered");
        assert!(hears_a_ping(&socket), "the packet socket heard nothing");

        state.restore().unwrap();
        assert_eq!(netdev::offloads("near").unwrap(), on);
        assert!(neighbour.ping(10), "the kernel is still silent");
        let tables = Command::new("nft").args(["list", "tables"]).output().unwrap();
        assert_eq!(String::from_utf8(tables.stdout).unwrap(), "");
    });
}

#[test]
fn silence_after_kill_9_is_ended_and_an_interface_that_went_is_fine() {
    in_namespace("silence_after_kill_9_is_ended_and_an_interface_that_went_is_fine", || {
        let neighbour = Neighbour::new();
        let dir = tempfile::tempdir().unwrap();
        let journal = dir.path().join("host.json");
        let silenced = || {
            let mut state = HostState::prepare(&journal, Path::new(PROC)).unwrap();
            state.silence("near").unwrap();
            std::mem::forget(state);
        };
        silenced();
        assert!(!neighbour.ping(1));
        assert!(HostState::prepare(&journal, Path::new(PROC)).unwrap().recovered());
        assert!(neighbour.ping(10));

        silenced();
        ip("link del near");
        assert!(HostState::prepare(&journal, Path::new(PROC)).unwrap().recovered());
        assert!(!journal.exists());
    });
}

#[test]
fn without_nft_the_remedy_is_named_and_nothing_stays_changed() {
    const TEST: &str = "without_nft_the_remedy_is_named_and_nothing_stays_changed";
    in_namespace(TEST, || {
        let dir = tempfile::tempdir().unwrap();
        if plays("without-nft") {
            let mut state = HostState::prepare(&dir.path().join("host.json"), Path::new(PROC)).unwrap();
            let error = state.silence("near").unwrap_err();
            assert!(error.to_string().contains("apt install nftables"), "{error}");
            state.restore().unwrap();
            return;
        }
        ip("link add near type veth peer name far");
        assert!(run("ethtool -K near gro on"));
        assert!(play(TEST, "without-nft").env("PATH", "/nonexistent").status().unwrap().success());
        assert!(netdev::offloads("near").unwrap().gro);
    });
}
