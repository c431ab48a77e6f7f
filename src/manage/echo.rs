//! ICMP echo for the virtual addresses (RFC 792): the answer is built from the request.

use std::net::Ipv4Addr;

use super::ethernet::{self, ETHERTYPE_IPV4, Ethernet};
use crate::packet::{Ipv4Net, Mac};

const IP_HEADER: usize = 20;
const ICMP_HEADER: usize = 8;
pub const PROTOCOL_ICMP: u8 = 1;
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
pub const REDIRECT: u8 = 5;
const TTL: u8 = 64;
const DONT_FRAGMENT: u8 = 0x40;
/// More-fragments and the offset.
const FRAGMENT: u16 = 0x3fff;

/// A sane IPv4 header, and what it carries.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4<'a> {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub protocol: u8,
    header: &'a [u8; IP_HEADER],
    pub payload: &'a [u8],
}

impl<'a> Ipv4<'a> {
    /// Reads what follows the Ethernet header; padding behind the packet is left out. The checksum must be right.
    pub fn parse(bytes: &'a [u8]) -> Option<Ipv4<'a>> {
        let header = bytes.first_chunk::<IP_HEADER>()?;
        let header_len = usize::from(header[0] & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header[0] >> 4 != 4 || header_len < IP_HEADER || total_len < header_len {
            return None;
        }
        let payload = bytes.get(header_len..total_len)?;
        (checksum(bytes.get(..header_len)?) == 0).then_some(())?;
        Some(Ipv4 {
            source: ethernet::address_at(header, 12),
            destination: ethernet::address_at(header, 16),
            protocol: header[9],
            header,
            payload,
        })
    }

    pub fn is_fragment(&self) -> bool {
        u16::from_be_bytes([self.header[6], self.header[7]]) & FRAGMENT != 0
    }
}

/// The answer to an echo request that came to `mac`, as a whole frame; none if it is no request to be answered.
/// Options are not sent back: a route recorded or prescribed by the client is not ours to repeat.
pub fn reply(ethernet: &Ethernet, request: &Ipv4, mac: Mac) -> Option<Vec<u8>> {
    if request.protocol != PROTOCOL_ICMP || request.is_fragment() || !is_host(request.source) {
        return None;
    }
    let icmp = request.payload;
    let (header, rest) = icmp.split_first_chunk::<ICMP_HEADER>()?;
    let to_us = ethernet.destination == mac && ethernet.source.is_unicast() && ethernet.source != mac;
    if !to_us || header[0] != ECHO_REQUEST || header[1] != 0 || checksum(icmp) != 0 {
        return None;
    }
    let total_len = u16::try_from(IP_HEADER + icmp.len()).ok()?;
    let mut frame = Vec::with_capacity((ethernet::HEADER_LEN + usize::from(total_len)).max(ethernet::LEAST_FRAME));
    Ethernet { destination: ethernet.source, source: mac, ethertype: ETHERTYPE_IPV4 }.write(&mut frame);
    write_ip_header(&mut frame, request, total_len);
    write_echo_reply(&mut frame, header, rest);
    let padded = frame.len().max(ethernet::LEAST_FRAME);
    frame.resize(padded, 0);
    Some(frame)
}

fn write_ip_header(frame: &mut Vec<u8>, request: &Ipv4, total_len: u16) {
    let asked = request.header;
    let start = frame.len();
    frame.extend_from_slice(&[0x45, asked[1]]);
    frame.extend_from_slice(&total_len.to_be_bytes());
    frame.extend_from_slice(&[asked[4], asked[5], asked[6] & DONT_FRAGMENT, 0, TTL, PROTOCOL_ICMP, 0, 0]);
    frame.extend_from_slice(&request.destination.octets());
    frame.extend_from_slice(&request.source.octets());
    let sum = checksum(&frame[start..]);
    frame[start + 10..start + 12].copy_from_slice(&sum.to_be_bytes());
}

fn write_echo_reply(frame: &mut Vec<u8>, request: &[u8; ICMP_HEADER], rest: &[u8]) {
    let start = frame.len();
    frame.extend_from_slice(&[ECHO_REPLY, 0, 0, 0]);
    frame.extend_from_slice(&request[4..]);
    frame.extend_from_slice(rest);
    let sum = checksum(&frame[start..]);
    frame[start + 2..start + 4].copy_from_slice(&sum.to_be_bytes());
}

/// Whether one host can have this address.
pub fn is_host(address: Ipv4Addr) -> bool {
    !(address.is_unspecified() || address.is_broadcast() || address.is_multicast() || address.is_loopback())
        && address.octets()[0] != 0
        && address.octets()[0] < 240
}

/// Whether it is the broadcast address or the name of `net`; networks of two or one addresses have neither.
pub fn is_network_wide(net: Ipv4Net, address: Ipv4Addr) -> bool {
    let host_bits = u32::from(address) & !net.mask();
    net.prefix < 31 && net.contains(address) && (host_bits == 0 || host_bits == !net.mask())
}

/// The internet checksum; zero over bytes that hold their own, right, checksum.
fn checksum(bytes: &[u8]) -> u16 {
    let (pairs, odd) = bytes.as_chunks::<2>();
    let mut sum: u32 = pairs.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum();
    sum += odd.first().map_or(0, |byte| u32::from(*byte) << 8);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{Icmpv4Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    const VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);
    const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
    const OURS: Mac = Mac([2, 0, 0, 0, 0, 0x10]);
    const THEIRS: Mac = Mac([2, 0, 0, 0, 0, 0x01]);

    fn request(payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(THEIRS.0, OURS.0)
            .ipv4(CLIENT.octets(), VIP.octets(), 7)
            .icmpv4_echo_request(0x1234, 5)
            .write(&mut frame, payload)
            .unwrap();
        frame
    }

    fn answer(frame: &[u8]) -> Option<Vec<u8>> {
        let (ethernet, payload) = Ethernet::parse(frame)?;
        reply(&ethernet, &Ipv4::parse(payload)?, OURS)
    }

    /// Rewrites the IP checksum after a change to the header.
    fn with_ip(mut frame: Vec<u8>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        change(&mut frame[14..34]);
        frame[24..26].fill(0);
        let sum = checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame
    }

    fn judge(frame: &[u8], payload: &[u8]) {
        let packet = SlicedPacket::from_ethernet(frame).unwrap();
        let Some(etherparse::LinkSlice::Ethernet2(link)) = &packet.link else { panic!("no Ethernet") };
        assert_eq!((link.destination(), link.source()), (THEIRS.0, OURS.0));
        let Some(NetSlice::Ipv4(ip)) = &packet.net else { panic!("no IPv4") };
        let header = ip.header().to_header();
        assert_eq!((header.source, header.destination), (VIP.octets(), CLIENT.octets()));
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        assert_eq!(header.time_to_live, 64);
        let Some(TransportSlice::Icmpv4(icmp)) = &packet.transport else { panic!("no ICMP") };
        let Icmpv4Type::EchoReply(echo) = icmp.icmp_type() else { panic!("no echo reply") };
        assert_eq!((echo.id, echo.seq), (0x1234, 5));
        assert_eq!(icmp.payload(), payload);
        assert_eq!(icmp.icmp_type().calc_checksum(payload), icmp.header().checksum);
    }

    #[test]
    fn answers_what_the_judge_finds_right() {
        for length in [0, 1, 18, 56, 57, 1472] {
            let payload: Vec<u8> = (0..length).map(|byte| byte as u8).collect();
            let reply = answer(&request(&payload)).unwrap();
            assert!(reply.len() >= 60);
            judge(&reply, &payload);
        }
    }

    #[test]
    fn padding_is_not_payload() {
        let mut frame = request(b"a");
        frame.resize(60, 0xaa);
        judge(&answer(&frame).unwrap(), b"a");
    }

    #[test]
    fn wrong_checksums_are_not_answered() {
        let good = request(b"0123456789");
        assert!(answer(&good).is_some());
        for at in 14..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(answer(&bad).is_none(), "byte {at}");
        }
    }

    #[test]
    fn fragments_are_not_answered() {
        for flags in [[0x20, 0], [0, 1], [0x20, 1], [0x1f, 0xff]] {
            let frame = with_ip(request(b"x"), |ip| ip[6..8].copy_from_slice(&flags));
            assert!(answer(&frame).is_none(), "{flags:?}");
        }
        assert!(answer(&with_ip(request(b"x"), |ip| ip[6..8].copy_from_slice(&[0x40, 0]))).is_some());
    }

    #[test]
    fn a_request_with_options_is_answered_without_them() {
        let mut frame = request(b"options");
        frame.splice(34..34, [7, 7, 4, 0, 0, 0, 0, 0]);
        frame[14] = 0x47;
        frame[17] += 8;
        frame[24..26].fill(0);
        let sum = checksum(&frame[14..42]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        judge(&answer(&frame).unwrap(), b"options");
    }

    #[test]
    fn broadcasts_are_not_answered_and_nobody_is_answered_at_a_group() {
        let good = request(b"x");
        for destination in [Mac::BROADCAST, Mac([1, 0, 0x5e, 0, 0, 1]), THEIRS] {
            let mut frame = good.clone();
            frame[..6].copy_from_slice(&destination.0);
            assert!(answer(&frame).is_none(), "{destination}");
        }
        for source in [Mac::BROADCAST, Mac::ZERO, OURS] {
            let mut frame = good.clone();
            frame[6..12].copy_from_slice(&source.0);
            assert!(answer(&frame).is_none(), "{source}");
        }
        for source in [[0, 0, 0, 0], [255; 4], [224, 0, 0, 1], [127, 0, 0, 1], [250, 0, 0, 1], [0, 1, 2, 3]] {
            assert!(answer(&with_ip(good.clone(), |ip| ip[12..16].copy_from_slice(&source))).is_none(), "{source:?}");
        }
    }

    #[test]
    fn addresses_of_a_whole_network_are_known() {
        let net: Ipv4Net = "10.9.0.10/24".parse().unwrap();
        for (last, wide) in [(0, true), (255, true), (1, false), (254, false)] {
            assert_eq!(is_network_wide(net, Ipv4Addr::new(10, 9, 0, last)), wide);
        }
        assert!(!is_network_wide(net, Ipv4Addr::new(10, 9, 1, 255)));
        let pair: Ipv4Net = "10.9.0.10/31".parse().unwrap();
        assert!(!is_network_wide(pair, Ipv4Addr::new(10, 9, 0, 11)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            answer(&bytes);
            Ipv4::parse(&bytes);
        }

        #[test]
        fn any_change_to_a_request_is_survived(at in 0usize..60, value in any::<u8>(), cut in 0usize..70) {
            let mut frame = request(b"0123456789abcdefghij");
            frame[at] = value;
            frame.truncate(cut);
            answer(&frame);
        }
    }
}
