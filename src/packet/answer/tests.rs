use std::net::Ipv4Addr;

use etherparse::{Icmpv4Slice, NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket, TcpSlice, TransportSlice};
use etherparse::{IpNumber, Ipv4Header, TcpHeader};
use proptest::prelude::*;

use super::*;
use crate::packet::Mac;
use crate::packet::checksum::checksum;

const VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const OURS: Mac = Mac([2, 0, 0, 0, 0, 0x10]);
const ROUTER: Mac = Mac([2, 0, 0, 0, 0, 0x01]);
const MTU: u16 = 1400;
const ALL: [Answer; 5] = [
    Answer::Reset,
    Answer::PortUnreachable,
    Answer::ClosedPort,
    Answer::TimeExceeded,
    Answer::FragmentationNeeded { egress: 0 },
];

fn from_client() -> PacketBuilderStep<etherparse::IpHeaders> {
    let mut ip = Ipv4Header::new(0, 7, IpNumber::TCP, CLIENT.octets(), VIP.octets()).unwrap();
    (ip.identification, ip.dont_fragment) = (0x1234, true);
    PacketBuilder::ethernet2(ROUTER.0, OURS.0).ip(etherparse::IpHeaders::Ipv4(ip, Default::default()))
}

fn tcp(change: impl FnOnce(&mut TcpHeader), payload: &[u8]) -> Vec<u8> {
    let mut header = TcpHeader::new(1234, 80, 1_000_000, 1024);
    header.acknowledgment_number = 77;
    change(&mut header);
    let mut frame = Vec::new();
    from_client().tcp_header(header).write(&mut frame, payload).unwrap();
    frame
}

fn udp(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    from_client().udp(1234, 80).write(&mut frame, payload).unwrap();
    frame
}

/// Changes the IP header, and puts its checksum right.
fn with_ip(mut frame: Vec<u8>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    change(&mut frame[14..34]);
    frame[24..26].fill(0);
    let sum = checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn told(frame: &[u8], kind: Answer) -> Option<Vec<u8>> {
    answer(frame, kind, |egress| (egress == 0).then_some(MTU))
}

/// The judge takes an answer apart, and it is right in all that every answer has in common.
fn judged<'a>(sent: &[u8], frame: &'a [u8]) -> (Ipv4Header, TransportSlice<'a>) {
    assert!((60..=14 + LONGEST_ERROR).contains(&frame.len()), "{} bytes", frame.len());
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(etherparse::LinkSlice::Ethernet2(link)) = &packet.link else { panic!("no Ethernet") };
    assert_eq!((&link.destination()[..], &link.source()[..]), (&sent[6..12], &sent[..6]));
    let Some(NetSlice::Ipv4(ip)) = &packet.net else { panic!("no IPv4") };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    assert_eq!((header.time_to_live, header.options.len()), (64, 0));
    let asked = Ipv4Header::from_slice(&sent[ethernet::parse(sent).unwrap().payload..]).unwrap().0;
    assert_eq!((header.source, header.destination), (asked.destination, asked.source));
    (header, packet.transport.unwrap())
}

fn judged_reset(sent: &[u8]) -> Option<(u32, u32, bool)> {
    let frame = told(sent, Answer::Reset)?;
    let (ip, transport) = judged(sent, &frame);
    assert_eq!((ip.dont_fragment, ip.identification, ip.total_len), (true, 0, 40));
    let TransportSlice::Tcp(tcp) = transport else { panic!("no TCP") };
    assert_eq!((tcp.source_port(), tcp.destination_port()), (80, 1234));
    assert_eq!(tcp.checksum(), tcp.calc_checksum_ipv4(ip.source, ip.destination).unwrap());
    assert!(tcp.rst() && !tcp.syn() && !tcp.fin() && !tcp.psh() && !tcp.urg());
    assert_eq!((tcp.window_size(), tcp.urgent_pointer(), tcp.payload().len()), (0, 0, 0));
    Some((tcp.sequence_number(), tcp.acknowledgment_number(), tcp.ack()))
}

/// Type, code, the MTU, and what is quoted.
fn judged_error(sent: &[u8], kind: Answer) -> Option<(u8, u8, u16, Vec<u8>)> {
    let frame = told(sent, kind)?;
    let (ip, transport) = judged(sent, &frame);
    assert!(!ip.dont_fragment && ip.total_len <= 576);
    let TransportSlice::Icmpv4(icmp) = transport else { panic!("no ICMP") };
    let bytes = icmp.bytes5to8();
    assert_eq!(icmp.icmp_type().calc_checksum(icmp.payload()), icmp.checksum());
    assert_eq!(bytes[..2], [0, 0]);
    Some((icmp.type_u8(), icmp.code_u8(), u16::from_be_bytes([bytes[2], bytes[3]]), icmp.payload().to_vec()))
}

#[test]
fn a_reset_takes_its_place_in_the_conversation() {
    let ack = |header: &mut TcpHeader| header.ack = true;
    assert_eq!(judged_reset(&tcp(ack, b"data")), Some((77, 0, false)));
    let syn = |header: &mut TcpHeader| header.syn = true;
    assert_eq!(judged_reset(&tcp(syn, b"")), Some((0, 1_000_001, true)));
    assert_eq!(judged_reset(&tcp(|header| header.fin = true, b"data!")), Some((0, 1_000_006, true)));
    let both = |header: &mut TcpHeader| (header.syn, header.fin) = (true, true);
    assert_eq!(judged_reset(&tcp(both, b"")), Some((0, 1_000_002, true)));
    assert_eq!(judged_reset(&tcp(|_| (), b"")), Some((0, 1_000_000, true)));
    let last = |header: &mut TcpHeader| (header.syn, header.sequence_number) = (true, u32::MAX);
    assert_eq!(judged_reset(&tcp(last, b"")), Some((0, 0, true)));
    let with_options = |header: &mut TcpHeader| {
        header.syn = true;
        header.set_options_raw(&[1; 12]).unwrap();
    };
    assert_eq!(judged_reset(&tcp(with_options, b"ab")), Some((0, 1_000_003, true)), "options are not data");
}

#[test]
fn a_reset_is_never_reset() {
    for (ack, syn) in [(false, false), (true, false), (false, true), (true, true)] {
        let frame = tcp(|header| (header.rst, header.ack, header.syn) = (true, ack, syn), b"");
        assert_eq!(told(&frame, Answer::Reset), None);
        assert!(judged_error(&frame, Answer::TimeExceeded).is_some(), "as the kernel does");
    }
}

#[test]
fn damaged_segments_are_not_reset() {
    let good = tcp(|header| header.ack = true, b"0123456789");
    for at in 34..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        assert_eq!(told(&bad, Answer::Reset), None, "byte {at}");
    }
    for length in [0, 4, 15] {
        let mut frame = good.clone();
        frame[46] = length << 4 | frame[46] & 15;
        frame[50..52].fill(0);
        let sum = ipv4::segment_checksum(CLIENT, VIP, ipv4::TCP, &frame[34..]);
        frame[50..52].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(told(&frame, Answer::Reset), None, "a header of {length} words");
    }
    let cut = with_ip(good.clone(), |ip| ip[3] = 30);
    assert_eq!(told(&cut, Answer::Reset), None, "half a header");
    assert_eq!(told(&udp(b"x"), Answer::Reset), None, "no TCP");
}

#[test]
fn an_error_quotes_what_fits() {
    for kind in [(Answer::PortUnreachable, 3, 3), (Answer::ClosedPort, 3, 3), (Answer::TimeExceeded, 11, 0)] {
        for length in [0, 1, 519, 520, 521, 1472] {
            let sent = udp(&vec![b'u'; length]);
            let quoted = sent[14..(28 + 14 + length).min(14 + 548)].to_vec();
            assert_eq!(judged_error(&sent, kind.0), Some((kind.1, kind.2, 0, quoted)), "{length}");
        }
    }
    let mut padded = udp(b"x");
    let length = padded.len();
    padded.resize(60, 0xaa);
    assert_eq!(judged_error(&padded, Answer::TimeExceeded).unwrap().3, padded[14..length], "padding is nothing");
    let syn = tcp(|header| header.syn = true, b"");
    assert_eq!(judged_error(&syn, Answer::PortUnreachable).unwrap().3, syn[14..]);
    assert_eq!(judged_error(&syn, Answer::ClosedPort), None, "TCP is reset");
}

/// As the kernel's does, for a tunnel: `ttl=63 [...]` in a packet that came with 64, 576 bytes in all.
#[test]
fn fragmentation_needed_tells_the_mtu_and_quotes_one_hop_less() {
    let kind = Answer::FragmentationNeeded { egress: 0 };
    let sent = udp(&[b'u'; 1472]);
    let (icmp, code, mtu, quoted) = judged_error(&sent, kind).unwrap();
    assert_eq!((icmp, code, mtu, quoted.len()), (3, 4, MTU, 548));
    let mut one_hop_less = sent[14..14 + 548].to_vec();
    ipv4::decrement_ttl(&mut one_hop_less);
    assert_eq!((quoted[8], &quoted), (6, &one_hop_less));
    assert_eq!(checksum(&quoted[..20]), 0);

    assert_eq!(told(&udp(&[0; 1373]), kind).map(|frame| frame.len()), Some(590), "a byte too long");
    assert_eq!(told(&udp(&[0; 1372]), kind), None, "it fits");
    assert_eq!(told(&with_ip(sent.clone(), |ip| ip[6] = 0), kind), None, "it may be cut");
    assert_eq!(told(&sent, Answer::FragmentationNeeded { egress: 1 }), None, "no such port");
    for ttl in [0, 1, 255] {
        assert!(judged_error(&with_ip(sent.clone(), |ip| ip[8] = ttl), kind).is_some());
    }
}

#[test]
fn a_closed_port_looks_at_the_checksum_and_others_do_not() {
    let good = udp(b"0123456789");
    for at in 34..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        assert_eq!(told(&bad, Answer::ClosedPort), None, "byte {at}");
        assert!(judged_error(&bad, Answer::PortUnreachable).is_some(), "byte {at}");
    }
    let mut without = good.clone();
    without[40..42].fill(0);
    assert!(judged_error(&without, Answer::ClosedPort).is_some(), "no checksum");
    for length in [0, 7, 19] {
        let mut bad = good.clone();
        (bad[39], bad[40], bad[41]) = (length, 0, 0);
        assert_eq!(told(&bad, Answer::ClosedPort), None, "{length} bytes by its own word");
    }
}

#[test]
fn the_type_of_service_is_kept() {
    for (tos, reset, error) in [(0, 0, 0xc0), (0xff, 0xfc, 0xde), (0xb8, 0xb8, 0xd8), (3, 0, 0xc2), (0x21, 0x20, 0xc0)]
    {
        let frame = with_ip(tcp(|header| header.ack = true, b""), |ip| ip[1] = tos);
        assert_eq!(told(&frame, Answer::Reset).unwrap()[15], reset);
        assert_eq!(told(&frame, Answer::TimeExceeded).unwrap()[15], error);
    }
}

#[test]
fn fragments_are_not_reset_and_only_the_first_is_told_of() {
    for (field, first) in [([0x20, 0], true), ([0, 1], false), ([0x20, 1], false), ([0x1f, 0xff], false)] {
        let segment = with_ip(tcp(|header| header.ack = true, b""), |ip| ip[6..8].copy_from_slice(&field));
        assert_eq!(told(&segment, Answer::Reset), None);
        let datagram = with_ip(udp(b"x"), |ip| ip[6..8].copy_from_slice(&field));
        assert_eq!(told(&datagram, Answer::PortUnreachable).is_some(), first);
        assert_eq!(told(&datagram, Answer::TimeExceeded).is_some(), first);
        assert_eq!(told(&datagram, Answer::ClosedPort), None, "nobody has the whole datagram");
    }
}

#[test]
fn errors_are_never_answered_with_an_error() {
    for kind in 0..=255u8 {
        let mut frame = with_ip(udp(b"01234567"), |ip| ip[9] = ipv4::ICMP);
        frame[34] = kind;
        let is_error = [3, 4, 5, 11, 12].contains(&kind) || kind > 18;
        assert_eq!(told(&frame, Answer::TimeExceeded).is_none(), is_error, "type {kind}");
    }
    let empty = with_ip(udp(b""), |ip| (ip[3], ip[9]) = (20, ipv4::ICMP));
    assert_eq!(told(&empty, Answer::TimeExceeded), None, "it may have been one");
}

#[test]
fn neither_groups_nor_strange_addresses_are_answered() {
    let frames = [tcp(|header| header.ack = true, b""), udp(b"x"), udp(&[0; 1472])];
    let silent = |frame: &[u8], what: &str| {
        for kind in ALL {
            assert_eq!(told(frame, kind), None, "{kind:?}: {what}");
        }
    };
    for good in frames {
        for mac in [Mac::BROADCAST, Mac::ZERO, Mac([1, 0, 0x5e, 0, 0, 1])] {
            for at in [0, 6] {
                let mut frame = good.clone();
                frame[at..at + 6].copy_from_slice(&mac.0);
                silent(&frame, &format!("{mac}"));
            }
        }
        let mut own = good.clone();
        own.copy_within(..6, 6);
        silent(&own, "from ourselves");
        // A change of both addresses at once would leave the checksum of TCP as it is.
        for address in [[0, 0, 0, 0], [0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4]] {
            silent(&with_ip(good.clone(), |ip| ip[12..16].copy_from_slice(&address)), "source");
            silent(&with_ip(good.clone(), |ip| ip[16..20].copy_from_slice(&address)), "destination");
        }
        silent(&with_ip(good.clone(), |ip| ip.copy_within(16..20, 12)), "from the address itself");
        let mut six = good.clone();
        six[12..14].copy_from_slice(&[0x86, 0xdd]);
        silent(&six, "not IPv4");
        let mut wrong = good.clone();
        wrong[24] ^= 1;
        silent(&wrong, "header checksum");
    }
}

#[test]
fn a_priority_tag_is_left_out_of_the_answer() {
    let plain = udp(b"x");
    let tagged = [&plain[..12], &[0x81, 0, 0xe0, 0], &plain[12..]].concat();
    assert_eq!(told(&tagged, Answer::TimeExceeded), told(&plain, Answer::TimeExceeded));
}

/// Whatever is answered is right by the judge.
fn judge(sent: &[u8]) {
    for kind in ALL {
        let Some(frame) = told(sent, kind) else { continue };
        let (ip, transport) = judged(sent, &frame);
        match transport {
            TransportSlice::Tcp(tcp) => {
                let tcp: TcpSlice = tcp;
                assert_eq!(tcp.checksum(), tcp.calc_checksum_ipv4(ip.source, ip.destination).unwrap());
            }
            TransportSlice::Icmpv4(icmp) => {
                let icmp: Icmpv4Slice = icmp;
                assert_eq!(checksum(icmp.slice()), 0);
            }
            other => panic!("{other:?}"),
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
        judge(&bytes);
    }

    #[test]
    fn any_packet_is_answered_right_or_not_at_all(
        is_tcp: bool, flags: u8, payload in 0usize..1600, cut in 0usize..1700,
        changes in proptest::collection::vec((12usize..80, any::<u8>()), 0..4), put_right: bool
    ) {
        let payload = vec![0x5a; payload];
        let mut frame = match is_tcp {
            true => tcp(|header| {
                (header.fin, header.syn, header.rst) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
                (header.psh, header.ack, header.urg) = (flags & 8 != 0, flags & 16 != 0, flags & 32 != 0);
            }, &payload),
            false => udp(&payload),
        };
        for (at, value) in changes {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        frame.truncate(cut);
        if put_right && frame.len() >= 34 {
            frame = with_ip(frame, |_| ());
        }
        judge(&frame);
    }
}
