//! The decision on golden frames; etherparse, which shares no code with the director, judges what comes out.

mod common;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::*;
use drover::clock::Now;
use drover::config::{Protocol, Scheduler, Settings, Takes};
use drover::director::Director;
use drover::flow::FlowTable;
use drover::packet::{Burst, Mac};
use drover::service::{Reach, RealPlan, ServicePlan, Snapshot};
use drover::sim::SimFrame;
use drover::sim::frames::FrameBuilder;
use drover::verdict::DropReason::*;
use drover::verdict::{Answer, DropReason, Verdict};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

const FORWARD: Verdict = Verdict::Forward { port: 0 };
const RESET: Verdict = Verdict::Answer(Answer::Reset);
const UNREACHABLE: Verdict = Verdict::Answer(Answer::PortUnreachable);

fn decide_at(
    director: &mut drover::director::Director,
    snapshot: &Snapshot,
    now: Now,
    frame: Vec<u8>,
) -> (Verdict, Vec<u8>) {
    let mut burst = Burst::new();
    burst.push(SimFrame(frame));
    let verdicts = director.decide(now, &snapshot.stations[0], snapshot, &mut burst);
    (verdicts[0], burst.remove(0).0)
}

/// What a fresh director makes of one frame.
fn verdict_of(frame: Vec<u8>) -> Verdict {
    let snapshot = snapshot();
    let (mut director, _) = director(&snapshot, 100);
    decide_at(&mut director, &snapshot, Now::from_secs(1), frame).0
}

/// The number of the real that a forwarded frame is for.
fn real_of(frame: &[u8]) -> u8 {
    assert_eq!(frame[..5], real_mac(0).0[..5]);
    frame[5]
}

#[test]
fn the_frame_changes_in_its_addresses_ttl_and_checksum_and_in_nothing_else() {
    let snapshot = snapshot();
    for vlan in [None, Some(7)] {
        let mut snapshot_here = common::snapshot();
        snapshot_here.stations[0].vlan = vlan;
        let (mut director, _) = director(&snapshot, 100);
        let sent =
            FrameBuilder { payload: b"GET / HTTP/1.0\r\n\r\n".to_vec(), options: vec![1; 4], vlan, ..tcp(1001, SYN) }
                .build();
        let (verdict, got) = decide_at(&mut director, &snapshot_here, Now::from_secs(1), sent.clone());
        assert_eq!(verdict, FORWARD);

        let (before, after) = (SlicedPacket::from_ethernet(&sent).unwrap(), SlicedPacket::from_ethernet(&got).unwrap());
        let link = after.link.unwrap().to_header().unwrap().ethernet2().unwrap();
        assert_eq!(
            (Mac(link.source), Mac(link.destination)),
            (DIRECTOR, real_mac(3)),
            "the kernel's first: newest real"
        );
        let (Some(NetSlice::Ipv4(before_ip)), Some(NetSlice::Ipv4(after_ip))) = (before.net, after.net) else {
            panic!()
        };
        let header = after_ip.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        let mut expected = before_ip.header().to_header();
        expected.time_to_live -= 1;
        expected.header_checksum = expected.calc_header_checksum();
        assert_eq!(header, expected);
        assert_eq!(before_ip.payload().payload, after_ip.payload().payload, "nothing behind the IP header changes");
        let Some(TransportSlice::Tcp(segment)) = after.transport else { panic!() };
        assert_eq!(segment.calc_checksum_ipv4(header.source, header.destination).unwrap(), segment.checksum());
    }
}

#[test]
fn the_builder_is_right_by_etherparse() {
    for frame in [tcp(5, SYN).build(), udp(5).build()] {
        let packet = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(NetSlice::Ipv4(ip)) = packet.net else { panic!() };
        let (stated, right) = match packet.transport.unwrap() {
            TransportSlice::Tcp(segment) => (
                segment.checksum(),
                segment.calc_checksum_ipv4(ip.header().source(), ip.header().destination()).unwrap(),
            ),
            TransportSlice::Udp(datagram) => {
                let header = datagram.to_header();
                (
                    header.checksum,
                    header
                        .calc_checksum_ipv4_raw(ip.header().source(), ip.header().destination(), datagram.payload())
                        .unwrap(),
                )
            }
            _ => panic!(),
        };
        assert_eq!(stated, right);
    }
}

#[test]
fn every_frame_has_its_verdict() {
    let with = |change: fn(&mut FrameBuilder)| {
        let mut builder = tcp(1000, SYN);
        change(&mut builder);
        builder.build()
    };
    let damaged = |at: usize, byte: u8, frame: Vec<u8>| {
        let mut frame = frame;
        frame[at] = byte;
        frame
    };
    let short = |frame: Vec<u8>, length: usize| frame[..length].to_vec();
    let broadcast = |frame: Vec<u8>| [&[0xff; 6], &frame[6..]].concat();
    let drop = Verdict::Drop;
    let cases: Vec<(&str, Vec<u8>, Verdict)> = vec![
        ("SYN", tcp(1, SYN).build(), FORWARD),
        ("SYN with a wrong TCP checksum", damaged(50, 0x55, tcp(1, SYN).build()), FORWARD),
        ("SYN+ACK, as the kernel has it", tcp(1, SYN | ACK).build(), FORWARD),
        ("datagram", udp(1).build(), FORWARD),
        ("SYN with padding", [tcp(1, SYN).build(), vec![0; 6]].concat(), FORWARD),
        ("ACK without connection", tcp(1, ACK).build(), RESET),
        ("RST without connection", tcp(1, RST).build(), drop(NoConnection)),
        ("wrong IP checksum", damaged(24, 0, tcp(1, SYN).build()), drop(BadIpChecksum)),
        ("no Ethernet header", vec![0; 13], drop(Truncated)),
        ("nothing", vec![], drop(Truncated)),
        ("half an IP header", short(tcp(1, SYN).build(), 30), drop(Truncated)),
        ("IP longer than the frame", short(tcp(1, SYN).build(), 50), drop(Truncated)),
        ("version 6 in an IPv4 frame", damaged(14, 0x65, tcp(1, SYN).build()), drop(BadIpHeader)),
        ("header of 16 bytes", damaged(14, 0x44, tcp(1, SYN).build()), drop(BadIpHeader)),
        ("TTL 1", with(|b| b.ttl = 1), Verdict::Answer(Answer::TimeExceeded)),
        ("TTL 0", with(|b| b.ttl = 0), Verdict::Answer(Answer::TimeExceeded)),
        ("another's MAC", with(|b| b.destination_mac = Mac([2, 9, 9, 9, 9, 9])), drop(NotOurMac)),
        ("VIP by broadcast", broadcast(tcp(1, SYN).build()), drop(NotOurMac)),
        ("first fragment", with(|b| b.fragment = 0x2000), drop(Fragment)),
        ("last fragment", with(|b| b.fragment = 0x00b9), drop(Fragment)),
        ("longer than the MTU", with(|b| b.payload = vec![0; 1461]), drop(LongerThanMtu)),
        ("just the MTU", with(|b| b.payload = vec![0; 1460]), FORWARD),
        ("port without service", with(|b| b.destination = (VIP, 82)), RESET),
        (
            "RST to a port without service",
            FrameBuilder { destination: (VIP, 82), ..tcp(1, RST) }.build(),
            drop(NoService),
        ),
        (
            "UDP port without service",
            FrameBuilder { destination: (VIP, 54), ..udp(1) }.build(),
            Verdict::Answer(Answer::ClosedPort),
        ),
        ("SCTP to the VIP", with(|b| b.protocol = 132), drop(NoService)),
        ("ping of the VIP", with(|b| b.protocol = 1), Verdict::Manage),
        ("service without reals", with(|b| b.destination = (VIP, 81)), UNREACHABLE),
        ("from the VIP itself", with(|b| b.source.0 = VIP), drop(BadSource)),
        ("from a multicast address", with(|b| b.source.0 = Ipv4Addr::new(224, 0, 0, 1)), drop(BadSource)),
        ("from nowhere", with(|b| b.source.0 = Ipv4Addr::UNSPECIFIED), drop(BadSource)),
        ("tagged, for the host's own VLAN interface", with(|b| b.vlan = Some(5)), Verdict::Host),
        ("priority tag", with(|b| b.vlan = Some(0)), FORWARD),
        ("SSH to the director", with(|b| b.destination = (Ipv4Addr::new(10, 9, 0, 10), 22)), Verdict::Host),
        (
            "fragment for the host",
            with(|b| {
                b.destination.0 = Ipv4Addr::new(10, 9, 0, 10);
                b.fragment = 0x2000
            }),
            Verdict::Host,
        ),
        ("ARP", damaged(13, 6, tcp(1, SYN).build()), Verdict::Manage),
        ("IPv6 that is none", damaged(12, 0x86, damaged(13, 0xdd, tcp(1, SYN).build())), drop(BadIpHeader)),
        ("IPv6 for the host", tcp_v6(HOST_V6, 22, SYN, 64), Verdict::Host),
    ];
    for (name, frame, expected) in cases {
        assert_eq!(verdict_of(frame), expected, "{name}");
    }
}

#[test]
fn a_short_segment_is_named() {
    let mut frame = tcp(1, SYN).build();
    // Ten bytes of TCP, with an IP header that says so.
    frame.truncate(14 + 20 + 10);
    frame[17] = 30;
    frame[24..26].fill(0);
    let sum = drover::packet::checksum::checksum(&frame[14..34]).to_be_bytes();
    frame[24..26].copy_from_slice(&sum);
    assert_eq!(verdict_of(frame), Verdict::Drop(Truncated));
}

#[test]
fn another_vlan_than_the_port_s_is_dropped() {
    let mut snapshot = snapshot();
    snapshot.stations[0].vlan = Some(7);
    for (vlan, expected) in [(None, Verdict::Drop(OtherVlan)), (Some(8), Verdict::Drop(OtherVlan)), (Some(7), FORWARD)]
    {
        let (mut director, _) = director(&snapshot, 100);
        let frame = FrameBuilder { vlan, ..tcp(1, SYN) }.build();
        assert_eq!(decide_at(&mut director, &snapshot, Now::from_secs(1), frame).0, expected);
    }
}

const VIP_V6: &str = "2001:db8::100";
const HOST_V6: &str = "2001:db8::10";

/// TCP over IPv6, by etherparse.
fn tcp_v6(destination: &str, port: u16, flags: u8, hops: u8) -> Vec<u8> {
    let address = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
    let tcp = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], DIRECTOR.0)
        .ipv6(address("2001:db8::1"), address(destination), hops)
        .tcp(1001, port, 1, 1000);
    let tcp = if flags & SYN != 0 { tcp.syn() } else { tcp };
    let tcp = if flags & ACK != 0 { tcp.ack(1) } else { tcp };
    let mut frame = Vec::new();
    tcp.write(&mut frame, b"hello").unwrap();
    frame
}

fn snapshot_v6() -> Snapshot {
    let real = |number: u8| RealPlan {
        address: format!("2001:db8::{number}").parse().unwrap(),
        port: 80,
        weight: 1,
        upper: 0,
        lower: 0,
        egress: 0,
        reach: Reach::At(real_mac(number)),
    };
    let service = ServicePlan {
        takes: Takes::exact(Protocol::Tcp, VIP_V6.parse::<IpAddr>().unwrap(), 80),
        scheduler: Scheduler::RoundRobin,
        settings: Settings::default(),
        reals: vec![real(1), real(2), real(3)],
    };
    Snapshot::lay_out(1, snapshot().stations, &[service])
}

/// The same frame with a header of this kind between IPv6's and TCP's.
fn with_extension(frame: &[u8], kind: u8, extension: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let next = std::mem::replace(&mut frame[14 + 6], kind);
    let length = u16::from_be_bytes([frame[18], frame[19]]) + extension.len() as u16;
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    let mut extension = extension.to_vec();
    extension[0] = next;
    frame.splice(54..54, extension);
    frame
}

#[test]
fn ipv6_goes_the_same_way() {
    let snapshot = snapshot_v6();
    let (mut director, ledger) = director(&snapshot, 100);
    let now = Now::from_secs(1);
    let mut decide = |frame: Vec<u8>| decide_at(&mut director, &snapshot, now, frame);
    assert_eq!(decide(tcp_v6(VIP_V6, 80, ACK, 64)).0, Verdict::Drop(NoConnection));
    let sent = tcp_v6(VIP_V6, 80, SYN, 64);
    let (verdict, got) = decide(sent.clone());
    assert_eq!((verdict, real_of(&got), &got[6..12]), (FORWARD, 3, &DIRECTOR.0[..]));
    let mut expected = sent.clone();
    expected[..12].copy_from_slice(&got[..12]);
    expected[14 + 7] -= 1;
    assert_eq!(expected, got, "two addresses and the hop limit");
    assert!(SlicedPacket::from_ethernet(&got).is_ok());
    let (verdict, got) = decide(tcp_v6(VIP_V6, 80, ACK, 64));
    assert_eq!((verdict, real_of(&got)), (FORWARD, 3), "the flow is known");

    let hop_by_hop = with_extension(&sent, 0, &[0; 8]);
    assert_eq!(decide(hop_by_hop).0, FORWARD, "an extension is passed over");
    assert_eq!(decide(with_extension(&sent, 44, &[0, 0, 0, 1, 0, 0, 0, 9])).0, Verdict::Drop(Fragment));
    assert_eq!(decide(with_extension(&sent, 44, &[0; 8])).0, FORWARD, "a lone fragment is a whole packet");
    assert_eq!(decide(with_extension(&sent, 60, &[0, 255, 0, 0, 0, 0, 0, 0])).0, Verdict::Drop(BadIpHeader));
    let endless = (0..9).fold(sent.clone(), |frame, _| with_extension(&frame, 60, &[0; 8]));
    assert_eq!(decide(endless).0, Verdict::Drop(BadIpHeader));
    assert_eq!(decide(tcp_v6(VIP_V6, 80, SYN, 1)).0, Verdict::Drop(TtlExpired));
    assert_eq!(decide(tcp_v6(VIP_V6, 81, SYN, 64)).0, Verdict::Drop(NoService));
    assert_eq!(decide(tcp_v6(HOST_V6, 80, SYN, 64)).0, Verdict::Host);
    assert_eq!(decide(sent[..60].to_vec()).0, Verdict::Drop(Truncated));
    let mut ping = sent.clone();
    ping[14 + 6] = 58;
    assert_eq!(decide(ping).0, Verdict::Manage);
    let mut from_multicast = sent.clone();
    from_multicast[22] = 0xff;
    assert_eq!(decide(from_multicast).0, Verdict::Drop(BadSource));
    assert_eq!((ledger.frames.flows.get(), ledger.reals[2].packets.get()), (1, 5));
}

#[test]
fn a_flow_stays_with_its_real_until_its_time_is_over() {
    let snapshot = snapshot();
    let (mut director, ledger) = director(&snapshot, 100);
    let mut send = |now, builder: FrameBuilder| {
        let (verdict, frame) = decide_at(&mut director, &snapshot, Now::from_secs(now), builder.build());
        (verdict == FORWARD).then(|| real_of(&frame)).ok_or(verdict)
    };
    assert_eq!(send(1, tcp(1, SYN)), Ok(3));
    assert_eq!(send(1, tcp(2, SYN)), Ok(2));
    assert_eq!(send(1, tcp(1, ACK)), Ok(3));
    assert_eq!(send(800, tcp(1, ACK)), Ok(3), "established: 900 s from the last packet");
    assert_eq!(send(800, tcp(2, ACK)), Err(RESET), "SYN_RECV: 60 s");
    assert_eq!(send(801, tcp(1, FIN | ACK)), Ok(3));
    assert_eq!(send(801 + 119, tcp(1, ACK)), Ok(3), "FIN_WAIT: 120 s");
    assert_eq!(send(801 + 119 + 120, tcp(1, ACK)), Err(RESET));
    let (traffic, frames) = (&ledger.reals[2], &ledger.frames);
    assert_eq!((traffic.connections.get(), traffic.packets.get(), traffic.bytes.get()), (1, 5, 5 * 40));
    assert_eq!((frames.flows_created.get(), ledger.services[0].packets.get()), (2, 6));
}

#[test]
fn the_sweep_counts_out_what_it_clears() {
    let snapshot = snapshot();
    let (mut director, ledger) = director(&snapshot, 1000);
    for port in 1..=600 {
        let frame = tcp(port, SYN).build();
        assert_eq!(decide_at(&mut director, &snapshot, Now::from_secs(1), frame).0, FORWARD);
    }
    let active = || ledger.reals.iter().map(|real| real.active.get()).collect::<Vec<_>>();
    assert_eq!((director.flows().len(), active()), (600, vec![300, 200, 100, 0, 0, 0]), "3:2:1");
    director.sweep(Now::from_secs(30), &snapshot, usize::MAX);
    assert_eq!(director.flows().len(), 600, "SYN_RECV lives 60 s");
    for second in 62..=73 {
        director.sweep(Now::from_secs(second), &snapshot, usize::MAX);
    }
    assert_eq!((director.flows().len(), active()), (0, vec![0; 6]));
    assert_eq!((ledger.frames.flows_expired.get(), ledger.services[0].active.get()), (600, 0));
}

#[test]
fn new_flows_avoid_a_real_that_does_not_answer_and_old_ones_start_again_elsewhere() {
    let all = snapshot();
    let (mut director, ledger) = director(&all, 100);
    let now = Now::from_secs(1);
    let (_, frame) = decide_at(&mut director, &all, now, tcp(1, SYN).build());
    assert_eq!(real_of(&frame), 3);
    let lost = snapshot_of(&config(), |number| match number {
        3 => Reach::Lost(real_mac(3)),
        _ => Reach::At(real_mac(number)),
    });
    for port in 100..130 {
        let (_, frame) = decide_at(&mut director, &lost, now, tcp(port, SYN).build());
        assert_ne!(real_of(&frame), 3);
    }
    let (_, frame) = decide_at(&mut director, &lost, now, tcp(1, ACK).build());
    assert_eq!(real_of(&frame), 3, "an established flow has nowhere else to go");
    let (_, frame) = decide_at(&mut director, &lost, now, tcp(1, SYN).build());
    assert_ne!(real_of(&frame), 3, "a repeated SYN has");
    assert_eq!((ledger.reals[2].active.get(), ledger.frames.flows.get()), (0, 31));
    let none = snapshot_of(&config(), |_| Reach::Unknown);
    assert_eq!(decide_at(&mut director, &none, now, tcp(200, SYN).build()).0, Verdict::Drop(RealUnresolved));
    assert_eq!(decide_at(&mut director, &none, now, tcp(100, ACK).build()).0, Verdict::Drop(RealUnresolved));
}

#[test]
fn a_full_table_forwards_the_new_by_hash_and_keeps_the_old() {
    let snapshot = snapshot();
    let (mut director, ledger) = director(&snapshot, 100);
    let now = Now::from_secs(1);
    let stateless = || ledger.frames.stateless.get();
    let (mut kept, mut hashed) = (Vec::new(), Vec::new());
    for port in 1..=2000 {
        let before = stateless();
        let (verdict, frame) = decide_at(&mut director, &snapshot, now, tcp(port, SYN).build());
        assert_eq!(verdict, FORWARD);
        let flows = if stateless() == before { &mut kept } else { &mut hashed };
        flows.push((port, real_of(&frame)));
    }
    assert!(hashed.len() > 1000 && kept.len() > 100, "{} by hash, {} kept", hashed.len(), kept.len());
    for (port, real) in kept.iter().chain(&hashed) {
        for flags in [ACK, FIN | ACK] {
            let (verdict, frame) = decide_at(&mut director, &snapshot, now, tcp(*port, flags).build());
            assert_eq!((verdict, real_of(&frame)), (FORWARD, *real), "port {port}");
        }
    }
    assert_eq!(ledger.frames.flows.get(), kept.len() as u64);
    let share = |number| hashed.iter().filter(|(_, real)| *real == number).count() * 6 / hashed.len();
    assert!((2..=3).contains(&share(1)) && (1..=2).contains(&share(2)) && share(3) <= 1, "by weight, 3:2:1");
}

#[test]
fn half_open_connections_have_a_limit_and_take_no_room_from_others() {
    let snapshot = snapshot();
    let ledger = common::ledger(&snapshot);
    let table = FlowTable::new(1000, false, [3, 5]).unwrap();
    let mut director = Director::new(common::tables(table), 50, &snapshot, 0, ledger.clone());
    let now = Now::from_secs(1);
    let mut send = |now, port, flags| decide_at(&mut director, &snapshot, now, tcp(port, flags).build());
    for port in 1..=40 {
        assert_eq!(send(now, port, SYN).0, FORWARD);
        assert_eq!(send(now, port, ACK).0, FORWARD);
    }
    assert_eq!(ledger.frames.flows.get(), 40, "established ones do not count");
    for port in 1000..5000 {
        assert_eq!(send(now, port, SYN).0, FORWARD);
    }
    assert_eq!((ledger.frames.flows.get(), ledger.frames.stateless.get()), (90, 3950));
    let (verdict, first) = send(now, 4999, SYN);
    assert_eq!((verdict, real_of(&first)), (FORWARD, real_of(&send(now, 4999, ACK).1)), "SYN and ACK meet");
    assert_eq!(send(now, 4999, RST).0, Verdict::Drop(NoConnection), "nobody waits for a reset");
    assert_eq!(send(now, 1000, ACK).0, FORWARD, "opens fully, and makes room for one");
    assert_eq!((send(now, 60_000, SYN).0, ledger.frames.flows.get()), (FORWARD, 91));
    let later = Now::from_secs(1 + 901);
    assert_eq!(send(later, 4998, ACK).0, RESET, "so late, nobody is without an entry any more");
    assert_eq!(send(later, 5, SYN).0, FORWARD);
    assert_eq!(ledger.frames.stateless.get(), 3953);
}

/// Under a flood a SYN that nothing follows keeps its entry for three seconds, else for the kernel's minute.
#[test]
fn a_flood_of_half_open_connections_passes_quickly() {
    let snapshot = snapshot();
    let ledger = common::ledger(&snapshot);
    let table = FlowTable::new(1000, false, [3, 5]).unwrap();
    let mut director = Director::new(common::tables(table), 100, &snapshot, 0, ledger.clone());
    let mut send = |now, ports: std::ops::Range<u16>, flags| {
        ports
            .for_each(|port| assert_eq!(decide_at(&mut director, &snapshot, now, tcp(port, flags).build()).0, FORWARD));
        director.sweep(now, &snapshot, usize::MAX);
        ledger.frames.flows.get()
    };
    let at = Now::from_secs;
    assert_eq!(send(at(1), 1..51, SYN), 50);
    assert_eq!(send(at(1), 100..150, SYN), 100, "up to the limit");
    // Sent again, as a flood may, they wait no longer.
    assert_eq!(send(at(2), 120..150, SYN), 100);
    assert_eq!(send(at(20), 1..1, SYN), 51, "of the second half all but the first, which was not yet too many");
    assert_eq!(send(at(60), 60_000..60_001, SYN), 51 + 1);
    assert_eq!(send(at(60), 1..10, ACK), 52, "those that go on are established");
    assert_eq!(send(at(75), 1..1, SYN), 9, "the others waited for a minute, the last of them in a hurry");
}

fn some_frame() -> impl Strategy<Value = Vec<u8>> {
    let good = (1u16..50, any::<u8>(), any::<bool>(), proptest::collection::vec(any::<u8>(), 0..60), 0usize..3)
        .prop_map(|(port, flags, is_udp, payload, options)| {
            let builder = if is_udp { udp(port) } else { tcp(port, flags) };
            FrameBuilder { payload, options: vec![1; options * 4], ..builder }.build()
        });
    let hit = (good.clone(), proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)).prop_map(
        |(mut frame, hits)| {
            for (at, byte) in hits {
                let at = at.index(frame.len());
                frame[at] = byte;
            }
            frame
        },
    );
    let cut =
        (good.clone(), any::<prop::sample::Index>()).prop_map(|(frame, at)| frame[..at.index(frame.len())].to_vec());
    prop_oneof![4 => good, 3 => hit, 2 => cut, 1 => proptest::collection::vec(any::<u8>(), 0..200)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Frames of any bytes: no panic, the rewrite touches what it may and nothing else, and what is forwarded is a
    /// packet by etherparse's judgement too.
    #[test]
    fn any_bytes(frames in proptest::collection::vec(some_frame(), 1..32)) {
        let snapshot = snapshot();
        let (mut director, _) = director(&snapshot, 20);
        let mut burst: Burst<_> = frames.iter().cloned().map(SimFrame).collect();
        let verdicts = director.decide(Now::from_secs(9), &snapshot.stations[0], &snapshot, &mut burst);
        prop_assert_eq!(burst.len(), frames.len());
        for ((before, after), verdict) in frames.iter().zip(&burst).zip(verdicts) {
            let after = &after.0;
            match verdict {
                Verdict::Forward { port } => {
                    prop_assert_eq!(port, 0);
                    prop_assert_eq!(&after[6..12], &DIRECTOR.0);
                    prop_assert!((1..=3).contains(&real_of(after)));
                    let network = if before[12..14] == [0x81, 0] { 18 } else { 14 };
                    let mut expected = before.clone();
                    expected[..12].copy_from_slice(&after[..12]);
                    expected[network + 8] -= 1;
                    expected[network + 10..network + 12].copy_from_slice(&after[network + 10..network + 12]);
                    prop_assert_eq!(&expected, after);
                    let header = etherparse::Ipv4HeaderSlice::from_slice(&after[network..]).unwrap().to_header();
                    prop_assert_eq!(header.header_checksum, header.calc_header_checksum());
                }
                Verdict::Drop(reason) => prop_assert!(DropReason::ALL.contains(&reason)),
                Verdict::Manage | Verdict::Answer(_) | Verdict::Host | Verdict::Hand { .. } => prop_assert_eq!(before, after),
            }
        }
    }
}
