//! IPv6 headers, and the way through their extensions.

use std::net::Ipv6Addr;

use super::ipv4;
use crate::verdict::DropReason;

pub const HEADER: usize = 40;
const HOP_LIMIT: usize = 7;
/// Real packets have one or two; a chain that goes on is nobody's.
const MOST_EXTENSIONS: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
pub const ICMP: u8 = 58;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6 {
    pub source: Ipv6Addr,
    pub destination: Ipv6Addr,
    /// Behind the extensions.
    pub protocol: u8,
    pub hop_limit: u8,
    /// Of all headers, up to what `protocol` says.
    pub header_len: usize,
    /// Of the packet; never more than there is.
    pub total_len: usize,
    pub is_fragment: bool,
}

/// Checks the headers at the start of `packet`; `wire_len` is what the whole frame has there.
#[inline]
pub fn parse(packet: &[u8], wire_len: usize) -> Result<Ipv6, DropReason> {
    let header = packet.first_chunk::<HEADER>().ok_or(DropReason::Truncated)?;
    if header[0] >> 4 != 6 {
        return Err(DropReason::BadIpHeader);
    }
    let total_len = HEADER + usize::from(u16::from_be_bytes([header[4], header[5]]));
    if total_len > wire_len {
        return Err(DropReason::Truncated);
    }
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&header[at..at + 16]);
        Ipv6Addr::from(octets)
    };
    let mut parsed = Ipv6 {
        source: address(8),
        destination: address(24),
        protocol: header[6],
        hop_limit: header[HOP_LIMIT],
        header_len: HEADER,
        total_len,
        is_fragment: false,
    };
    if !matches!(parsed.protocol, ipv4::TCP | ipv4::UDP | ICMP) {
        walk(packet, &mut parsed)?;
    }
    Ok(parsed)
}

/// Through the extensions to what they are in front of.
fn walk(packet: &[u8], parsed: &mut Ipv6) -> Result<(), DropReason> {
    for _ in 0..MOST_EXTENSIONS {
        let length = match parsed.protocol {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => None,
            FRAGMENT => Some(8),
            _ => return Ok(()),
        };
        let extension = packet.get(parsed.header_len..).and_then(<[u8]>::first_chunk::<8>);
        let extension = extension.ok_or(DropReason::Truncated)?;
        // The offset, or more to come: a lone "atomic" fragment is a whole packet.
        parsed.is_fragment |=
            parsed.protocol == FRAGMENT && u16::from_be_bytes([extension[2], extension[3]]) & 0xfff9 != 0;
        parsed.protocol = extension[0];
        parsed.header_len += length.unwrap_or(8 + usize::from(extension[1]) * 8);
        if parsed.header_len > parsed.total_len {
            return Err(DropReason::BadIpHeader);
        }
    }
    Err(DropReason::BadIpHeader)
}

/// Counts one hop. The caller has seen that the limit is more than one.
#[inline]
pub fn decrement_hop_limit(packet: &mut [u8]) {
    if let Some(limit) = packet.get_mut(HOP_LIMIT) {
        *limit = limit.wrapping_sub(1);
    }
}

pub fn can_be_source(address: Ipv6Addr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast())
}
