//! IPv4 headers.

use std::net::Ipv4Addr;

use super::checksum::{checksum, fold, is_right, sum};
use crate::verdict::DropReason;

pub const MIN_HEADER: usize = 20;
/// In the sixth byte of the header.
const DONT_FRAGMENT: u8 = 0x40;
/// In the seventh and eighth byte.
pub const OFFSET: u16 = 0x1fff;
const TTL: usize = 8;
/// What our own packets start with.
const OWN_TTL: u8 = 64;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

/// A checked IPv4 header: version, lengths and checksum are right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4 {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub protocol: u8,
    pub ttl: u8,
    /// Of the header, with options.
    pub header_len: usize,
    /// Of the packet, as its header says; never more than there is.
    pub total_len: usize,
    /// Part of a fragmented datagram, first or later.
    pub is_fragment: bool,
}

/// Checks the header at the start of `packet`, the part of the frame's first segment behind the link layer. `wire_len`
/// is what the whole frame has there.
#[inline(always)]
pub fn parse(packet: &[u8], wire_len: usize) -> Result<Ipv4, DropReason> {
    let header = packet.first_chunk::<MIN_HEADER>().ok_or(DropReason::Truncated)?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || header_len < MIN_HEADER {
        return Err(DropReason::BadIpHeader);
    }
    let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if total_len < header_len {
        return Err(DropReason::BadIpHeader);
    }
    if total_len > wire_len {
        return Err(DropReason::Truncated);
    }
    let right = match header_len {
        MIN_HEADER => is_right(header),
        _ => checksum(packet.get(..header_len).ok_or(DropReason::Truncated)?) == 0,
    };
    if !right {
        return Err(DropReason::BadIpChecksum);
    }
    Ok(Ipv4 {
        source: Ipv4Addr::new(header[12], header[13], header[14], header[15]),
        destination: Ipv4Addr::new(header[16], header[17], header[18], header[19]),
        protocol: header[9],
        ttl: header[TTL],
        header_len,
        total_len,
        // More Fragments, or an offset.
        is_fragment: u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0,
    })
}

/// Whether the header has the Don't Fragment bit.
pub fn must_stay_whole(packet: &[u8]) -> bool {
    packet.get(6).is_some_and(|flags| flags & DONT_FRAGMENT != 0)
}

/// Counts one hop: TTL less one, the checksum to match. The caller has seen that the TTL is more than one.
///
/// The TTL is the first byte of its 16-bit word, so the sum has one less there and the checksum one more, in the first
/// byte of its own (RFC 1141); a carry goes round, and 0xffff, which no recomputed checksum is, becomes zero.
#[inline(always)]
pub fn decrement_ttl(packet: &mut [u8]) {
    let Some(bytes) = packet.get_mut(TTL..TTL + 4).and_then(<[u8]>::first_chunk_mut) else { return };
    let word = u32::from_le_bytes(*bytes);
    let sum = (word >> 16) + 1;
    let sum = sum + u32::from(sum >= 0xffff);
    *bytes = ((word & 0xffff).wrapping_sub(1) | sum << 16).to_le_bytes();
}

/// A header for a packet of our own, without options and in one piece.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub tos: u8,
    pub id: [u8; 2],
    pub dont_fragment: bool,
    pub protocol: u8,
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
}

/// Appends a header for a payload of so many bytes.
pub fn write_header(into: &mut Vec<u8>, header: Header, payload: usize) {
    let start = into.len();
    into.extend_from_slice(&[0x45, header.tos]);
    into.extend_from_slice(&((MIN_HEADER + payload) as u16).to_be_bytes());
    into.extend_from_slice(&header.id);
    into.extend_from_slice(&[if header.dont_fragment { DONT_FRAGMENT } else { 0 }, 0, OWN_TTL, header.protocol, 0, 0]);
    into.extend_from_slice(&header.source.octets());
    into.extend_from_slice(&header.destination.octets());
    let sum = checksum(&into[start..]);
    into[start + 10..start + 12].copy_from_slice(&sum.to_be_bytes());
}

/// Whether the checksum of TCP or UDP, in `segment`, is right.
pub fn segment_is_right(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, segment: &[u8]) -> bool {
    segment_checksum(source, destination, protocol, segment) == 0
}

/// The checksum over a segment of TCP or UDP and its pseudo header.
pub fn segment_checksum(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, segment: &[u8]) -> u16 {
    let addresses = sum(&source.octets()) + sum(&destination.octets());
    !fold(addresses + u64::from(protocol) + segment.len() as u64 + sum(segment))
}

/// Whether one host can have this address, and so send from it: not a network's own words (0/8), loopback, groups or
/// broadcast. 240/4 is reserved and all the same in use, inside clouds above all; the kernel takes it too.
pub fn is_host(address: Ipv4Addr) -> bool {
    let this_network = address.octets()[0] == 0;
    !(this_network || address.is_loopback() || address.is_multicast() || address.is_broadcast())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::checksum::update;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_hop_changes_ttl_and_checksum_as_starting_over_would(mut header: [u8; MIN_HEADER], ttl in 2u8..) {
            header[TTL] = ttl;
            let (old, sum) = ([header[8], header[9]], [header[10], header[11]].map(u16::from));
            let mut expected = header;
            expected[TTL] -= 1;
            let (old, new) = (u16::from_be_bytes(old), u16::from_be_bytes([expected[8], expected[9]]));
            expected[10..12].copy_from_slice(&update(sum[0] << 8 | sum[1], old, new).to_be_bytes());
            decrement_ttl(&mut header);
            prop_assert_eq!(header, expected);
        }
    }

    #[test]
    fn the_checksums_two_zeroes() {
        for (before, after) in [([0xfe, 0xff], [0, 0]), ([0xff, 0xff], [1, 0]), ([0xff, 0xfe], [0, 0xff])] {
            let mut header = [0; MIN_HEADER];
            header[TTL] = 2;
            header[10..12].copy_from_slice(&before);
            decrement_ttl(&mut header);
            assert_eq!(header[10..12], after);
        }
    }

    #[test]
    fn hosts_are_told_from_what_no_host_can_be() {
        for none in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.255.255", "224.0.0.1", "239.255.255.255"] {
            assert!(!is_host(none.parse().unwrap()), "{none}");
        }
        assert!(!is_host(Ipv4Addr::BROADCAST));
        for host in ["1.0.0.0", "10.9.0.1", "126.1.1.1", "128.0.0.1", "223.255.255.255", "240.0.0.1", "255.255.255.254"]
        {
            assert!(is_host(host.parse().unwrap()), "{host}");
        }
    }
}
