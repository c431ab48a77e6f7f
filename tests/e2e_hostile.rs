//! What comes to a director on a bad day: garbage, floods, and its interfaces taken away.
//! Runs as root or, through user namespaces, as anybody.
#![cfg(feature = "dpdk")]

mod harness;

use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use drover::control::wire::Stats;
use drover::lab::director::CONFIGURATION;
use drover::lab::{CLIENT, DIRECTOR, Droverd, LabPort, VIP, run};
use drover::manage::{ARP_RATE, ECHO_RATE};
use drover::packet::{Mac, arp, ethernet};
use drover::sim::frames::FrameBuilder;
use harness::capture::{Capture, is_arp_of};
use harness::stranger::{self, Stranger};
use harness::{Bench, until};

const SYN: u8 = 2;
const VIRTUAL: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);

/// Several times the buffers that the lab's director has.
const ENOUGH: u64 = 50_000;

/// A generator that gives the same garbage in every run (xorshift).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

fn director(bench: &Bench) -> Mac {
    bench.director_mac().parse().unwrap()
}

fn syn(to: Mac, source: Ipv4Addr, port: u16) -> FrameBuilder {
    let frame = FrameBuilder::tcp((source, port), (VIRTUAL, 80), SYN);
    FrameBuilder { destination_mac: to, source_mac: stranger::MAC, ..frame }
}

/// Half of it has nothing right but the MAC addresses; the rest is a good packet with a few bytes changed or cut off.
fn garbage(noise: &mut Noise, director: Mac) -> Vec<u8> {
    let random = noise.next();
    let mut frame = match random % 4 {
        0 | 1 => noise.bytes(14 + (random >> 8) as usize % 1500),
        2 => arp::request(stranger::MAC, Ipv4Addr::new(10, 9, 0, 66), VIRTUAL, None),
        _ => syn(director, Ipv4Addr::new(10, 9, 0, 66), random as u16).build(),
    };
    for _ in 0..random >> 60 {
        let at = 12 + noise.next() as usize % (frame.len() - 12);
        frame[at] = noise.next() as u8;
    }
    if random & 0x100 != 0 {
        frame.truncate(14 + noise.next() as usize % (frame.len() - 13));
    }
    if random.is_multiple_of(4) {
        frame[12..14].copy_from_slice(&[[8, 0], [8, 6], [0x81, 0], [0x86, 0xdd]][(random >> 32) as usize % 4]);
    }
    frame[..6].copy_from_slice(&director.0);
    frame[6..12].copy_from_slice(&stranger::MAC.0);
    frame
}

/// All frames are accounted for: by the director's own sums, and by the port's.
fn settles(bench: &Bench) -> Stats {
    until("the director's totals to add up and to equal the port's", || {
        let stats = bench.lab.stats().map_err(|error| error.to_string())?;
        let (total, port) = (&stats.total, &stats.ports[0]);
        let dropped: u64 = total.dropped.values().sum();
        let sums = total.received == total.forwarded + total.to_manage + total.to_host + dropped
            && total.originated == total.originated_sent + total.originated_dropped;
        let same = (port.received, port.sent) == (total.received, total.forwarded + total.originated_sent);
        if sums && same && port.no_buffer == 0 { Ok(stats) } else { Err(format!("{stats:?}")) }
    })
}

fn serves(bench: &Bench) {
    let outcome = run::requests(&bench.lab, 300).unwrap();
    assert_eq!(outcome.failed, 0, "{outcome:?}\n{}", bench.log());
}

/// However much happens, the log stays readable.
fn log_is_short(bench: &Bench) {
    let log = bench.log();
    assert!(log.lines().count() < 100, "{} lines: {}", log.lines().count(), &log[log.len().min(20_000)..]);
}

/// More frames than there are buffers: had garbage kept any, the port would be dumb afterwards.
fn garbage_changes_nothing(port: LabPort) {
    let bench = Bench::new();
    let _droverd = bench.direct(port);
    let mut stranger = Stranger::plug(&bench);
    let before = bench.lab.status().unwrap().pid;
    let (mut noise, director) = (Noise(0x6472_6f76_6572), director(&bench));
    std::thread::scope(|scope| {
        // A busy machine's TAPs lose much of it: on until enough has come through.
        let flood = scope.spawn(|| {
            until("garbage to arrive", || {
                stranger.send_all((0..20_000).map(|_| garbage(&mut noise, director)));
                match bench.lab.stats().map_err(|error| error.to_string())?.total.received {
                    enough if enough > ENOUGH => Ok(()),
                    few => Err(format!("{few} frames")),
                }
            });
        });
        while !flood.is_finished() {
            serves(&bench);
        }
    });
    let stats = settles(&bench);
    for reason in ["truncated", "bad_ip_header", "bad_ip_checksum"] {
        assert!(stats.total.dropped.get(reason).is_some_and(|count| *count > 0), "{reason}: {stats:?}");
    }
    serves(&bench);
    assert_eq!(bench.lab.status().unwrap().pid, before);
    log_is_short(&bench);
}

#[test]
fn garbage_changes_nothing_on_a_tap() {
    garbage_changes_nothing(LabPort::Tap);
}

#[test]
fn garbage_changes_nothing_on_af_packet() {
    garbage_changes_nothing(LabPort::AfPacket);
}

/// Spoofed SYNs, four times as many as the table holds.
#[test]
fn a_flood_of_spoofed_connections_fills_no_table_and_new_clients_are_served() {
    let bench = Bench::new();
    let small = CONFIGURATION.replace("per_worker = 100_000", "per_worker = 5_000");
    let _droverd = bench.direct_with(LabPort::Tap, &small);
    let mut stranger = Stranger::plug(&bench);
    let director = director(&bench);
    let spoofed = |number: u32| syn(director, Ipv4Addr::from(0xc633_0000 + number), 1024 + number as u16).build();
    stranger.send_all((0..20_000).map(spoofed));
    let stats = settles(&bench);
    let worker = &bench.lab.status().unwrap().workers[0];
    assert!(stats.total.stateless > 0 && !stats.total.dropped.contains_key("flow_table_full"), "{stats:?}");
    serves(&bench);
    assert!(worker.flows <= worker.flow_capacity.next_power_of_two(), "{worker:?}");
    bench.sh(CLIENT, "ip neigh flush dev eth0");
    bench.pings_are_answered_once(VIP);
    log_is_short(&bench);
}

#[test]
fn floods_of_questions_are_answered_at_their_rates() {
    let bench = Bench::new();
    let _droverd = bench.direct(LabPort::Tap);
    let mut stranger = Stranger::plug(&bench);
    let director = director(&bench);
    let started = Instant::now();
    let asker = |number: u32| Ipv4Addr::from(0x0a09_0000 + 1 + number % 250);
    stranger.send_all((0..30_000).map(|number| arp::request(stranger::MAC, asker(number), VIRTUAL, Some(director))));
    let ping = ping(director);
    stranger.send_all((0..30_000).map(|_| ping.clone()));
    let stats = settles(&bench);
    let seconds = started.elapsed().as_secs() + 1;
    let manage = &stats.manage;
    // What does not fit into the queue to the management core is dropped by name before the limit sees it.
    let refused = manage.rate_limited + stats.total.dropped.get("manage_queue_full").copied().unwrap_or(0);
    assert!(refused > 0 && manage.echo_replies > 0 && manage.arp_replies > 0, "{stats:?}");
    assert!(manage.echo_replies <= u64::from(ECHO_RATE.burst) + u64::from(ECHO_RATE.per_second) * seconds, "{stats:?}");
    assert!(manage.arp_replies <= u64::from(ARP_RATE.burst) + u64::from(ARP_RATE.per_second) * seconds, "{stats:?}");
    serves(&bench);
    bench.pings_are_answered_once(VIP);
    log_is_short(&bench);
}

/// An echo request of the stranger's to the virtual address.
fn ping(director: Mac) -> Vec<u8> {
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(stranger::MAC.0, director.0)
        .ipv4([10, 9, 0, 66], VIRTUAL.octets(), 64)
        .icmpv4_echo_request(7, 1)
        .write(&mut frame, b"0123456789")
        .unwrap();
    frame
}

#[test]
fn interfaces_that_are_taken_away_cost_no_cpu_and_are_reported() {
    let bench = Bench::new();
    let droverd = bench.direct(LabPort::Tap);
    bench.sh(DIRECTOR, "ip link del drover0");
    until("a warning", || {
        let warnings = bench.lab.status().map_err(|error| error.to_string())?.warnings;
        let told = warnings.iter().any(|warning| warning.starts_with("port lab: the host's TAP drover0 is gone"));
        if told { Ok(()) } else { Err(format!("{warnings:?}")) }
    });
    serves(&bench);
    bench.sh(DIRECTOR, "ip link del dtap0");
    until("the link to be down", || match bench.lab.status().map_err(|error| error.to_string())?.ports[0].link_up {
        true => Err("up".into()),
        false => Ok(()),
    });
    rests(&bench);
    log_is_short(&bench);
    bench.stop(droverd);
}

/// The director uses less than a fifth of a core.
fn rests(bench: &Bench) {
    let pid = bench.lab.status().unwrap().pid;
    let ticks = || {
        let stat = bench.sh(DIRECTOR, &format!("cat /proc/{pid}/stat"));
        let fields: Vec<u64> = stat.split(' ').map(|field| field.parse().unwrap_or(0)).collect();
        fields[13] + fields[14]
    };
    until("a second of rest", || {
        let before = ticks();
        std::thread::sleep(Duration::from_secs(1));
        let used = ticks() - before;
        if used < 20 { Ok(()) } else { Err(format!("{used} % of a core")) }
    });
}

#[test]
fn a_packet_interface_that_goes_down_and_comes_up_is_noticed_and_announced() {
    let bench = Bench::new();
    let droverd = bench.direct(LabPort::AfPacket);
    let link = |wanted: bool| {
        until("the link's state", || match bench.lab.status().map_err(|error| error.to_string())?.ports[0].link_up {
            up if up == wanted => Ok(()),
            up => Err(format!("up: {up}")),
        });
    };
    bench.sh(DIRECTOR, "ip link set eth0 down");
    link(false);
    rests(&bench);
    let announcements = Capture::start(&bench, CLIENT, |frame| is_arp_of(frame, VIP));
    bench.sh(DIRECTOR, "ip link set eth0 up");
    link(true);
    announcements.wait_for(1);
    serves(&bench);
    rests(&bench);
    assert!(bench.log().contains("port lab: link is down"), "{}", bench.log());
    bench.stop(droverd);
}

/// Killed at any moment of its start, it puts everything right the next time.
#[test]
fn killed_again_and_again_it_starts_and_leaves_nothing() {
    let bench = Bench::new();
    let settings =
        || bench.sh(DIRECTOR, "cat /proc/sys/net/ipv4/conf/*/send_redirects; nft list ruleset; ls /sys/class/net");
    let before = settings();
    bench.kill(bench.direct(LabPort::AfPacket));
    for milliseconds in [20, 60, 120, 180, 300] {
        start_and_kill(&bench, Duration::from_millis(milliseconds));
    }
    let droverd = bench.direct(LabPort::AfPacket);
    serves(&bench);
    let stops: Vec<_> = (0..2).map(|_| bench.drover().arg("stop").spawn().unwrap()).collect();
    for mut stop in stops {
        assert!(stop.wait().unwrap().success());
    }
    wait_for_end(droverd);
    assert_eq!(settings(), before);
}

fn wait_for_end(mut droverd: Droverd) {
    until("droverd to end", || droverd.exit_code().unwrap().ok_or("still there".into()));
}

/// With the configuration of the start before.
fn start_and_kill(bench: &Bench, after: Duration) {
    let mut droverd = bench.lab.command(DIRECTOR, harness::droverd());
    droverd.arg("--config").arg(bench.lab.path().join("droverd.toml"));
    let mut droverd = droverd.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(after);
    bench.sh(DIRECTOR, "pkill -9 -x droverd || true; while pgrep -x droverd >/dev/null; do :; done");
    droverd.wait().unwrap();
}

/// Nobody here knows VLANs but the stranger and droverd: he is client and real server in one.
fn a_port_in_a_vlan(port: LabPort) {
    let bench = Bench::new();
    let real = format!("address = \"10.9.0.66\"\nmac = \"{}\"", stranger::MAC);
    let (head, _) = CONFIGURATION.split_once("[[service.real]]").unwrap();
    let address = "address = \"10.9.0.10/24\"";
    let head = head.replace(address, &format!("{address}\nvlan = 7"));
    let _droverd =
        bench.start(port, &format!("{head}[[service.real]]\n{real}\n")).unwrap_or_else(|error| panic!("{error}"));
    let director = director(&bench);
    let mut stranger = Stranger::plug(&bench);
    let me = Ipv4Addr::new(10, 9, 0, 66);
    let tagged = |frame: &[u8]| [&frame[..12], &[0x81, 0, 0, 7], &frame[12..]].concat();
    let ours = move |frame: &[u8], ether_type: u16| {
        let link = ethernet::parse(frame);
        link.is_some_and(|link| (link.vlan, link.ether_type) == (Some(7), ether_type) && link.source == director)
    };

    let question = arp::request(stranger::MAC, me, VIRTUAL, None);
    let answer = stranger.ask(&tagged(&question), |frame| ours(frame, ethernet::ARP) && frame[25] == 2);
    assert_eq!(answer[32..36], VIRTUAL.octets());

    let pong = stranger.ask(&tagged(&ping(director)), |frame| ours(frame, ethernet::IPV4) && frame[38] == 0);
    assert_eq!(pong[30..34], VIRTUAL.octets());

    let sent = tagged(&syn(director, me, 4321).build());
    let arrived = stranger.ask(&sent, |frame| ours(frame, ethernet::IPV4) && frame[27] == 6);
    assert_eq!(arrived[..6], stranger::MAC.0);
    assert_eq!(arrived[12..26], sent[12..26], "the tag, and the packet up to its TTL");
    assert_eq!(arrived[30..], sent[30..]);

    // The host's kernel knows no VLANs: what it hears and says has no tag on the TAP, and has one on the wire.
    bench.sh(DIRECTOR, &format!("ip neigh replace 10.9.0.66 lladdr {} dev drover0", stranger::MAC));
    let mut host = ping(director);
    host[30..34].copy_from_slice(&[10, 9, 0, 10]);
    host[24..26].fill(0);
    let sum = drover::packet::checksum::checksum(&host[14..34]);
    host[24..26].copy_from_slice(&sum.to_be_bytes());
    stranger.ask(&tagged(&host), |frame| ours(frame, ethernet::IPV4) && frame[30..34] == [10, 9, 0, 10]);

    stranger.send(&question);
    until("what is in no VLAN to be dropped", || {
        let stats = bench.lab.stats().unwrap();
        stats.total.dropped.get("other_vlan").filter(|count| **count > 0).map(|_| ()).ok_or(format!("{stats:?}"))
    });
    settles(&bench);
}

#[test]
fn a_port_in_a_vlan_on_a_tap() {
    a_port_in_a_vlan(LabPort::Tap);
}

#[test]
fn a_port_in_a_vlan_on_af_packet() {
    a_port_in_a_vlan(LabPort::AfPacket);
}
