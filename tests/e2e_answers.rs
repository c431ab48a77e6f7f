//! What a client is told about packets that go nowhere, on the wire.
//! Runs as root or, through user namespaces, as anybody.
#![cfg(feature = "dpdk")]

mod harness;

use std::net::Ipv4Addr;
use std::time::Instant;

use drover::lab::{CLIENT, LabPort, VIP, run};
use drover::manage::{ERROR_RATE, RESET_RATE};
use drover::packet::Mac;
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use harness::stranger::{self, Stranger};
use harness::{Bench, until};

const VIRTUAL: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);
const ASKER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 66);
/// Of the lab, which serves port 80 only.
const CLOSED: u16 = 81;

fn director(bench: &Bench) -> Mac {
    bench.director_mac().parse().unwrap()
}

/// A segment of the stranger's to the virtual address: SYN, or else an ACK of 77.
fn segment(director: Mac, port: (u16, u16), syn: bool, ttl: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(stranger::MAC.0, director.0).ipv4(ASKER.octets(), VIRTUAL.octets(), ttl);
    let builder = builder.tcp(port.0, port.1, 1_000_000, 1024);
    let builder = if syn { builder.syn() } else { builder.ack(77) };
    builder.write(&mut frame, &[]).unwrap();
    frame
}

fn datagram(director: Mac, port: (u16, u16)) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(stranger::MAC.0, director.0).ipv4(ASKER.octets(), VIRTUAL.octets(), 64);
    builder.udp(port.0, port.1).write(&mut frame, &[7; 600]).unwrap();
    frame
}

/// What an answer says, by the judge; none: it is no answer of the virtual address to the stranger, or a broken one.
#[derive(Debug, PartialEq)]
enum Told {
    /// Its ports, the sequence number and, with ACK, what it acknowledges.
    Reset(u16, u16, u32, Option<u32>),
    /// Type, code, and how much it quotes.
    Error(u8, u8, Vec<u8>),
}

fn told(frame: &[u8], director: Mac) -> Option<Told> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let Some(NetSlice::Ipv4(ip)) = &packet.net else { return None };
    let header = ip.header().to_header();
    let right = header.header_checksum == header.calc_header_checksum() && header.time_to_live == 64;
    let link = frame.starts_with(&stranger::MAC.0) && frame[6..12] == director.0;
    if !link || !right || (header.source, header.destination) != (VIRTUAL.octets(), ASKER.octets()) {
        return None;
    }
    match packet.transport? {
        TransportSlice::Tcp(tcp) if tcp.rst() => {
            let right = tcp.checksum() == tcp.calc_checksum_ipv4(header.source, header.destination).ok()?;
            let acknowledged = tcp.ack().then(|| tcp.acknowledgment_number());
            right.then(|| Told::Reset(tcp.source_port(), tcp.destination_port(), tcp.sequence_number(), acknowledged))
        }
        TransportSlice::Icmpv4(icmp) => {
            let right = icmp.checksum() == icmp.icmp_type().calc_checksum(icmp.payload());
            right.then(|| Told::Error(icmp.type_u8(), icmp.code_u8(), icmp.payload().to_vec()))
        }
        _ => None,
    }
}

fn a_client_is_told(port: LabPort) {
    let bench = Bench::new();
    let _droverd = bench.direct(port);
    let mut stranger = Stranger::plug(&bench);
    let director = director(&bench);
    let mut ask = |frame: &[u8], expected: Told| {
        stranger.ask(frame, |frame| told(frame, director).as_ref() == Some(&expected));
    };
    ask(&segment(director, (1000, 80), false, 64), Told::Reset(80, 1000, 77, None));
    ask(&segment(director, (1001, CLOSED), true, 64), Told::Reset(CLOSED, 1001, 0, Some(1_000_001)));
    ask(&segment(director, (1002, CLOSED), false, 1), Told::Reset(CLOSED, 1002, 77, None));
    let sent = datagram(director, (1003, CLOSED));
    ask(&sent, Told::Error(3, 3, sent[14..14 + 548].to_vec()));
    let sent = segment(director, (1004, 80), true, 1);
    ask(&sent, Told::Error(11, 0, sent[14..].to_vec()));

    let stats = bench.lab.stats().unwrap().manage;
    assert!(stats.resets >= 3 && stats.port_unreachable >= 1 && stats.time_exceeded >= 1, "{stats:?}");
    // A client's own kernel believes it: refused, not timed out.
    let refused = bench.sh(CLIENT, &format!("curl -sS --max-time 5 http://{VIP}:{CLOSED}/ 2>&1 || echo exit $?"));
    assert!(refused.contains("exit 7"), "{refused}");
    assert_eq!(bench.kernel_counter(CLIENT, "Tcp", "InCsumErrors"), 0);
    assert_eq!(run::requests(&bench.lab, 60).unwrap().failed, 0);
}

#[test]
fn a_client_is_told_on_a_tap() {
    a_client_is_told(LabPort::Tap);
}

#[test]
fn a_client_is_told_on_af_packet() {
    a_client_is_told(LabPort::AfPacket);
}

/// In no other case: whoever answered these could be made to answer somebody else.
#[test]
fn nobody_is_told_what_he_did_not_ask() {
    let bench = Bench::new();
    let _droverd = bench.direct(LabPort::Tap);
    let mut stranger = Stranger::plug(&bench);
    let director = director(&bench);
    let good = segment(director, (2000, CLOSED), false, 64);
    let changed = |at: usize, bytes: &[u8]| {
        let mut frame = good.clone();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame[24..26].fill(0);
        let sum = drover::packet::checksum::checksum(&frame[14..34]).to_be_bytes();
        frame[24..26].copy_from_slice(&sum);
        frame
    };
    let silent = [
        changed(47, &[0x04]),
        changed(50, &[0x55]),
        changed(0, &[0xff; 6]),
        changed(20, &[0x20, 0]),
        changed(26, &VIRTUAL.octets()),
        changed(26, &[10, 9, 0, 255]),
        changed(26, &[224, 0, 0, 1]),
    ];
    stranger.send_all((0..200).flat_map(|_| silent.clone()));
    let last = segment(director, (2001, CLOSED), false, 64);
    stranger.ask(&last, |frame| told(frame, director) == Some(Told::Reset(CLOSED, 2001, 77, None)));
    let (resets, others) =
        stranger.frames().iter().filter_map(|frame| told(frame, director)).fold((0, 0), |(own, others), told| {
            if matches!(told, Told::Reset(CLOSED, 2001, ..)) { (own + 1, others) } else { (own, others + 1) }
        });
    assert!(resets > 0 && others == 0, "{others} answers to what is not answered");
}

#[test]
fn a_flood_of_what_goes_nowhere_is_answered_at_its_rate_and_starves_nobody() {
    let bench = Bench::new();
    let _droverd = bench.direct(LabPort::Tap);
    let mut stranger = Stranger::plug(&bench);
    let director = director(&bench);
    let started = Instant::now();
    let mut flood = || {
        stranger.send_all((0..20_000u32).map(|number| match number % 2 {
            0 => segment(director, (number as u16, 80), false, 64),
            _ => datagram(director, (number as u16, CLOSED)),
        }));
    };
    // A busy machine's TAPs lose much of it: on until enough has come through.
    until("answers to be held back", || {
        flood();
        let manage = bench.lab.stats().map_err(|error| error.to_string())?.manage;
        let held_back = manage.resets_limited.min(manage.port_unreachable_limited);
        if held_back > 0 { Ok(()) } else { Err(format!("{manage:?}")) }
    });
    let mut before = 0;
    let stats = until("the flood to be through", || {
        let stats = bench.lab.stats().map_err(|error| error.to_string())?;
        let now = stats.total.received + stats.total.originated_sent;
        let quiet = std::mem::replace(&mut before, now) == now;
        if quiet { Ok(stats) } else { Err(format!("{stats:?}")) }
    });
    let (manage, seconds) = (&stats.manage, started.elapsed().as_secs() + 1);
    let most = |rate: drover::manage::limit::Rate| u64::from(rate.burst) + u64::from(rate.per_second) * seconds;
    assert!(manage.resets > 0 && manage.resets <= most(RESET_RATE), "{stats:?}");
    assert!(manage.port_unreachable > 0 && manage.port_unreachable <= most(ERROR_RATE), "{stats:?}");
    assert!(!stats.total.dropped.contains_key("manage_queue_full"), "{stats:?}");
    bench.sh(CLIENT, "ip neigh flush dev eth0");
    bench.pings_are_answered_once(VIP);
    assert_eq!(run::requests(&bench.lab, 120).unwrap().failed, 0);
}
