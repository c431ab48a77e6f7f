//! ICMP for IPv4 (RFC 792): messages of our own, and what an error is about.

use std::net::Ipv4Addr;

use super::checksum::checksum;
use super::{ipv4, transport};

pub const HEADER: usize = 8;

pub const ECHO_REPLY: u8 = 0;
pub const UNREACHABLE: u8 = 3;
pub const SOURCE_QUENCH: u8 = 4;
pub const REDIRECT: u8 = 5;
pub const ECHO_REQUEST: u8 = 8;
pub const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;
/// No type above this one has a meaning that the kernel knows.
const LAST_TYPE: u8 = 18;

/// Codes of `UNREACHABLE`.
pub const PORT: u8 = 3;
pub const FRAGMENTATION_NEEDED: u8 = 4;

/// Appends a message; `rest` is the second half of its header.
pub fn write(into: &mut Vec<u8>, kind: u8, code: u8, rest: [u8; 4], payload: &[u8]) {
    let start = into.len();
    into.extend_from_slice(&[kind, code, 0, 0]);
    into.extend_from_slice(&rest);
    into.extend_from_slice(payload);
    let sum = checksum(&into[start..]);
    into[start + 2..start + 4].copy_from_slice(&sum.to_be_bytes());
}

/// Whether nobody may be told of an error in this message, because it is one itself, or may be (RFC 1122).
pub fn is_error(message: &[u8]) -> bool {
    const ERRORS: [u8; 5] = [UNREACHABLE, SOURCE_QUENCH, REDIRECT, TIME_EXCEEDED, PARAMETER_PROBLEM];
    message.first().is_none_or(|kind| ERRORS.contains(kind) || *kind > LAST_TYPE)
}

/// What tells a flow of IPv4 from others: its ends, and what they speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversation {
    pub client: Ipv4Addr,
    pub client_port: u16,
    /// The virtual address.
    pub address: Ipv4Addr,
    pub port: u16,
    pub protocol: u8,
}

/// What an ICMP error that came to `address` quotes: a packet of TCP or UDP from there to a client. `message` is all that
/// the IP packet carries, which was no fragment.
///
/// Of the errors, these are who cannot be reached, source quench and time exceeded: the kernel sends no other on. It looks
/// at the message's checksum too; the one in the quoted header is the word of whoever saw the packet last.
pub fn quoted(address: Ipv4Addr, message: &[u8]) -> Option<Conversation> {
    let (header, packet) = message.split_first_chunk::<HEADER>()?;
    if !matches!(header[0], UNREACHABLE | SOURCE_QUENCH | TIME_EXCEEDED) {
        return None;
    }
    let ip = packet.first_chunk::<{ ipv4::MIN_HEADER }>()?;
    let header_len = usize::from(ip[0] & 0x0f) * 4;
    if ip[0] >> 4 != 4 || header_len < ipv4::MIN_HEADER {
        return None;
    }
    let total_len = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    // The ports are in the first fragment only, and some quote no more than them.
    let first = u16::from_be_bytes([ip[6], ip[7]]) & ipv4::OFFSET == 0;
    let (source, client) = (address_at(ip, 12), address_at(ip, 16));
    let protocol = ip[9];
    let has_ports = first && matches!(protocol, ipv4::TCP | ipv4::UDP) && total_len >= header_len + 4;
    if !has_ports || source != address || checksum(message) != 0 {
        return None;
    }
    let (port, client_port) = transport::ports(packet.get(header_len..)?)?;
    Some(Conversation { client, client_port, address, port, protocol })
}

fn address_at(header: &[u8; ipv4::MIN_HEADER], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3])
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use etherparse::{Icmpv4Slice, LaxIpv4Slice, LaxPacketHeaders, TransportHeader};
    use proptest::prelude::*;

    const VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);
    const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);

    /// A packet from the virtual address to the client.
    fn packet(protocol: u8, payload: usize) -> Vec<u8> {
        let (mut packet, payload) = (Vec::new(), vec![7; payload]);
        let builder = PacketBuilder::ipv4(VIP.octets(), CLIENT.octets(), 60);
        match protocol {
            ipv4::TCP => builder.tcp(80, 1234, 5, 1024).write(&mut packet, &payload),
            _ => builder.udp(80, 1234).write(&mut packet, &payload),
        }
        .unwrap();
        packet
    }

    fn message(kind: u8, quoted: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        write(&mut message, kind, 3, [0; 4], quoted);
        message
    }

    fn flow(protocol: u8) -> Conversation {
        Conversation { client: CLIENT, client_port: 1234, address: VIP, port: 80, protocol }
    }

    #[test]
    fn the_flow_is_found_in_as_little_as_its_ports() {
        for protocol in [ipv4::TCP, ipv4::UDP] {
            let packet = packet(protocol, 100);
            for kind in [UNREACHABLE, SOURCE_QUENCH, TIME_EXCEEDED] {
                for length in [24, 28, 60, packet.len()] {
                    let message = message(kind, &packet[..length]);
                    assert_eq!(quoted(VIP, &message), Some(flow(protocol)), "{length}");
                }
                for length in 0..24 {
                    assert_eq!(quoted(VIP, &message(kind, &packet[..length])), None, "{length}");
                }
            }
        }
    }

    #[test]
    fn options_are_stepped_over() {
        let mut packet = packet(ipv4::UDP, 8);
        packet.splice(20..20, [1; 8]);
        (packet[0], packet[3]) = (0x47, packet[3] + 8);
        assert_eq!(quoted(VIP, &message(TIME_EXCEEDED, &packet)), Some(flow(ipv4::UDP)));
    }

    #[test]
    fn what_is_about_no_flow_of_the_address_is_nothing() {
        let good = packet(ipv4::TCP, 0);
        for kind in (0..=255).filter(|kind| ![UNREACHABLE, SOURCE_QUENCH, TIME_EXCEEDED].contains(kind)) {
            assert_eq!(quoted(VIP, &message(kind, &good)), None, "type {kind}");
        }
        assert_eq!(quoted(CLIENT, &message(UNREACHABLE, &good)), None, "to another address than the quoted one's");
        for (at, value, what) in [
            (0, 0x65, "version"),
            (0, 0x44, "header length"),
            (0, 0x4f, "longer than there is"),
            (3, 23, "total length"),
            (7, 1, "a later fragment"),
            (6, 0x1f, "a later fragment"),
            (9, ipv4::ICMP, "protocol"),
            (12, 11, "source"),
        ] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(quoted(VIP, &message(UNREACHABLE, &bad)), None, "{what}");
        }
        let mut first_fragment = good.clone();
        first_fragment[6] = 0x20;
        assert_eq!(quoted(VIP, &message(UNREACHABLE, &first_fragment)), Some(flow(ipv4::TCP)));
        let mut damaged = message(UNREACHABLE, &good);
        for at in 0..damaged.len() {
            damaged[at] ^= 4;
            assert_eq!(quoted(VIP, &damaged), None, "byte {at}");
            damaged[at] ^= 4;
        }
    }

    #[test]
    fn errors_are_told_from_questions() {
        let errors: Vec<u8> = (0..=18).filter(|kind| is_error(&[*kind])).collect();
        assert_eq!(errors, [3, 4, 5, 11, 12]);
        assert!(is_error(&[]) && is_error(&[19]) && is_error(&[255]));
    }

    /// What the judge finds in the quoted packet, wherever it stops.
    fn judged(message: &[u8]) -> Option<Conversation> {
        let icmp = Icmpv4Slice::from_slice(message).ok()?;
        let packet = message.get(HEADER..)?;
        LaxIpv4Slice::from_slice(packet).ok()?;
        let headers = LaxPacketHeaders::from_ip(packet).ok()?;
        let Some(etherparse::NetHeaders::Ipv4(ip, _)) = headers.net else { return None };
        let (protocol, port, client_port) = match headers.transport? {
            TransportHeader::Tcp(tcp) => (ipv4::TCP, tcp.source_port, tcp.destination_port),
            TransportHeader::Udp(udp) => (ipv4::UDP, udp.source_port, udp.destination_port),
            _ => return None,
        };
        let is_sent_on = [UNREACHABLE, SOURCE_QUENCH, TIME_EXCEEDED].contains(&icmp.type_u8());
        let (client, address) = (ip.destination.into(), ip.source.into());
        (is_sent_on && checksum(message) == 0).then_some(Conversation { client, client_port, address, port, protocol })
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..96), address: u32) {
            quoted(address.into(), &bytes);
            is_error(&bytes);
        }

        #[test]
        fn what_the_judge_finds_is_found(
            client: u32, ports: (u16, u16), tcp: bool, payload in 0usize..80, kind in prop_oneof![Just(3u8), Just(4), Just(11), any::<u8>()],
            change in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())), cut in 20usize..140
        ) {
            let mut packet = Vec::new();
            let builder = PacketBuilder::ipv4(VIP.octets(), client.to_be_bytes(), 60);
            match tcp {
                true => builder.tcp(ports.0, ports.1, 5, 1024).write(&mut packet, &vec![7; payload]).unwrap(),
                false => builder.udp(ports.0, ports.1).write(&mut packet, &vec![7; payload]).unwrap(),
            }
            if let Some((at, value)) = change {
                let at = at.index(packet.len());
                packet[at] = value;
            }
            packet.truncate(cut);
            let message = message(kind, &packet);
            let found = quoted(VIP, &message);
            if let Some(judged) = judged(&message).filter(|judged| judged.address == VIP) {
                // The judge believes a quoted packet of any length; ours has to have ports by its own word.
                let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
                if total >= usize::from(packet[0] & 15) * 4 + 4 {
                    prop_assert_eq!(found, Some(judged));
                }
            }
            if change.is_none() && cut >= 24 && [3, 4, 11].contains(&kind) {
                let protocol = if tcp { ipv4::TCP } else { ipv4::UDP };
                let flow = Conversation { client: client.into(), client_port: ports.1, address: VIP, port: ports.0, protocol };
                prop_assert_eq!(found, Some(flow));
            }
        }
    }
}
