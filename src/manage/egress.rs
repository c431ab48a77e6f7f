//! What the host may send through its TAP. The kernel does not know which addresses the director holds, so what would
//! mislead the network is stopped or put right here. A source MAC other than the port's is let out: VRRP with a
//! virtual MAC and bridges need it.

use std::net::Ipv4Addr;

use crate::packet::arp::{self, Arp, Operation};
use crate::packet::icmp::REDIRECT;
use crate::packet::{Ipv4Net, Mac, ethernet, ipv4};

const IPV6_HEADER: usize = 40;
const PROTOCOL_ICMPV6: u8 = 58;
const REDIRECT_V6: u8 = 137;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    Send,
    Drop(EgressDrop),
}

/// Why a frame of the host does not leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EgressDrop {
    /// Shorter than its headers.
    Truncated,
    /// It says that a virtual address is at another MAC than the port's: nothing would reach the director any more.
    VirtualAddressClaim,
    /// An ICMP redirect takes a client away from the director.
    Redirect,
}

impl EgressDrop {
    pub const fn name(self) -> &'static str {
        match self {
            EgressDrop::Truncated => "truncated",
            EgressDrop::VirtualAddressClaim => "virtual_address_claim",
            EgressDrop::Redirect => "redirect",
        }
    }
}

/// Judges a frame, and puts the port's address where an ordinary ARP request has a virtual one as its sender.
pub fn judge(frame: &mut [u8], mac: Mac, own: Ipv4Net, is_virtual: impl Fn(Ipv4Addr) -> bool) -> Egress {
    let Some((ether_type, at)) = ethernet::behind_tags(frame) else {
        return Egress::Drop(EgressDrop::Truncated);
    };
    let packet = &frame[at..];
    let redirect = match ether_type {
        ethernet::ARP => return judge_arp(frame, at, mac, own, is_virtual),
        ethernet::IPV4 => is_redirect(packet),
        ethernet::IPV6 => packet.get(6) == Some(&PROTOCOL_ICMPV6) && packet.get(IPV6_HEADER) == Some(&REDIRECT_V6),
        _ => false,
    };
    if redirect { Egress::Drop(EgressDrop::Redirect) } else { Egress::Send }
}

fn judge_arp(frame: &mut [u8], at: usize, mac: Mac, own: Ipv4Net, is_virtual: impl Fn(Ipv4Addr) -> bool) -> Egress {
    let Some(arp) = Arp::parse(&frame[at..]) else { return Egress::Send };
    if !is_virtual(arp.sender) {
        return Egress::Send;
    }
    if arp.sender_mac != mac {
        return Egress::Drop(EgressDrop::VirtualAddressClaim);
    }
    if arp.operation == Operation::Request && !arp.is_gratuitous() {
        arp::set_sender(frame, at, own.address);
    }
    Egress::Send
}

fn is_redirect(packet: &[u8]) -> bool {
    let Some(header) = packet.first_chunk::<20>() else { return false };
    let first_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff == 0;
    let icmp = usize::from(header[0] & 0x0f) * 4;
    header[9] == ipv4::ICMP && first_fragment && packet.get(icmp) == Some(&REDIRECT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{Icmpv4Type, PacketBuilder, icmpv4};
    use proptest::prelude::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 0x10]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 0x66]);
    const VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);
    const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

    fn own() -> Ipv4Net {
        Ipv4Net { address: Ipv4Addr::new(10, 9, 0, 10), prefix: 24 }
    }

    fn judged(frame: &mut [u8]) -> Egress {
        judge(frame, MAC, own(), |address| address == VIP)
    }

    fn tagged(frame: &[u8]) -> Vec<u8> {
        [&frame[..12], &[0x81, 0, 0, 7], &frame[12..]].concat()
    }

    fn icmp(kind: Icmpv4Type) -> Vec<u8> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(MAC.0, OTHER.0).ipv4([10, 9, 0, 10], CLIENT.octets(), 64);
        builder.icmpv4(kind).write(&mut frame, &[0; 28]).unwrap();
        frame
    }

    #[test]
    fn redirects_stay_in() {
        let redirect = icmpv4::RedirectHeader {
            code: icmpv4::RedirectCode::RedirectForHost,
            gateway_internet_address: [10, 9, 0, 11],
        };
        let mut frame = icmp(Icmpv4Type::Redirect(redirect));
        assert_eq!(judged(&mut frame), Egress::Drop(EgressDrop::Redirect));
        assert_eq!(judged(&mut tagged(&frame)), Egress::Drop(EgressDrop::Redirect));
        assert_eq!(
            judged(&mut icmp(Icmpv4Type::EchoRequest(etherparse::IcmpEchoHeader { id: 1, seq: 1 }))),
            Egress::Send
        );

        frame[21] = 1;
        assert_eq!(judged(&mut frame), Egress::Send, "the middle of a datagram");

        let mut six = vec![0; 14 + 48];
        six[12..14].copy_from_slice(&[0x86, 0xdd]);
        (six[14], six[20], six[54]) = (0x60, 58, 137);
        assert_eq!(judged(&mut six), Egress::Drop(EgressDrop::Redirect));
        six[54] = 135;
        assert_eq!(judged(&mut six), Egress::Send, "neighbour solicitation");
    }

    #[test]
    fn an_ordinary_question_never_carries_a_virtual_address() {
        let mut frame = arp::request(MAC, VIP, CLIENT, None);
        let mut with_tag = tagged(&frame);
        assert_eq!(judged(&mut frame), Egress::Send);
        assert_eq!(frame, arp::request(MAC, own().address, CLIENT, None));
        assert_eq!(judged(&mut with_tag), Egress::Send);
        assert_eq!(with_tag, tagged(&frame));
    }

    #[test]
    fn keepalived_may_announce_a_virtual_address_at_our_mac_only() {
        let announced = arp::announcement(MAC, VIP);
        let mut frame = announced.clone();
        assert_eq!(judged(&mut frame), Egress::Send);
        assert_eq!(frame, announced);
        assert_eq!(judged(&mut arp::announcement(OTHER, VIP)), Egress::Drop(EgressDrop::VirtualAddressClaim));
        assert_eq!(judged(&mut arp::request(OTHER, VIP, CLIENT, None)), Egress::Drop(EgressDrop::VirtualAddressClaim));
    }

    #[test]
    fn the_hosts_own_words_are_left_alone() {
        for original in [arp::request(MAC, own().address, VIP, None), arp::announcement(OTHER, CLIENT)] {
            let mut frame = original.clone();
            assert_eq!(judged(&mut frame), Egress::Send);
            assert_eq!(frame, original);
        }
        assert_eq!(judged(&mut [0; 13]), Egress::Drop(EgressDrop::Truncated));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(
            kind in proptest::sample::select(vec![[8u8, 0], [8, 6], [0x86, 0xdd], [0x81, 0], [0x88, 0xa8], [0, 0]]),
            mut bytes in proptest::collection::vec(any::<u8>(), 0..96)
        ) {
            if bytes.len() >= 14 {
                bytes[12..14].copy_from_slice(&kind);
            }
            let before = bytes.len();
            judged(&mut bytes);
            prop_assert_eq!(bytes.len(), before);
        }
    }
}
