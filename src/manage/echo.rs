//! ICMP echo for the virtual addresses (RFC 792): the answer is built from the request.

use crate::packet::Mac;
use crate::packet::checksum::checksum;
use crate::packet::ethernet::{self, Ethernet};
use crate::packet::icmp;
use crate::packet::ipv4::{self, Ipv4};

/// The answer to an echo request that came to `mac`, as a whole frame; none if it is no request to be answered. `packet`
/// is what the link carried, `ip` its checked header. Options are not sent back: a route recorded or prescribed by the
/// client is not ours to repeat.
pub fn reply(link: &Ethernet, ip: &Ipv4, packet: &[u8], mac: Mac) -> Option<Vec<u8>> {
    if ip.protocol != ipv4::ICMP || ip.is_fragment || !ipv4::is_host(ip.source) {
        return None;
    }
    let message = packet.get(ip.header_len..ip.total_len)?;
    let (header, rest) = message.split_first_chunk::<{ icmp::HEADER }>()?;
    let to_us = link.destination == mac && link.source.is_unicast() && link.source != mac;
    if !to_us || header[0] != icmp::ECHO_REQUEST || header[1] != 0 || checksum(message) != 0 {
        return None;
    }
    let length = ethernet::HEADER + ipv4::MIN_HEADER + message.len();
    let mut frame = Vec::with_capacity(length.max(ethernet::LEAST_FRAME));
    ethernet::write_header(&mut frame, link.source, mac, ethernet::IPV4);
    let asked: &[u8; ipv4::MIN_HEADER] = packet.first_chunk()?;
    let answer = ipv4::Header {
        tos: asked[1],
        id: [asked[4], asked[5]],
        // As the kernel has it: the answer may be cut, whatever the request might.
        dont_fragment: false,
        protocol: ipv4::ICMP,
        source: ip.destination,
        destination: ip.source,
    };
    ipv4::write_header(&mut frame, answer, message.len());
    icmp::write(&mut frame, icmp::ECHO_REPLY, 0, [header[4], header[5], header[6], header[7]], rest);
    ethernet::pad(&mut frame);
    Some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

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
        let link = ethernet::parse(frame)?;
        let packet = &frame[link.payload..];
        reply(&link, &ipv4::parse(packet, packet.len()).ok()?, packet, OURS)
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
        assert_eq!((header.time_to_live, header.dont_fragment, header.more_fragments), (64, false, false));
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
    }

    /// As the kernel's answer, which is `df=0` to a request that must not be cut.
    #[test]
    fn the_answer_may_be_cut_whatever_the_request_might() {
        for flags in [[0, 0], [0x40, 0]] {
            let frame = with_ip(request(b"x"), |ip| ip[6..8].copy_from_slice(&flags));
            let answer = answer(&frame).unwrap();
            assert_eq!(answer[20..22], [0, 0], "{flags:?}");
            judge(&answer, b"x");
        }
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
        for source in [[0, 0, 0, 0], [255; 4], [224, 0, 0, 1], [127, 0, 0, 1], [0, 1, 2, 3]] {
            assert!(answer(&with_ip(good.clone(), |ip| ip[12..16].copy_from_slice(&source))).is_none(), "{source:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            answer(&bytes);
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
