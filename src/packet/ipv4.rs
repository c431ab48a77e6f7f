//! IPv4 headers.

use std::net::Ipv4Addr;

use super::checksum::{checksum, is_right, update};
use crate::verdict::DropReason;

pub const MIN_HEADER: usize = 20;
const TTL: usize = 8;
const CHECKSUM: usize = 10;

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

/// Counts one hop: TTL less one, the checksum to match. The caller has seen that the TTL is more than one.
#[inline(always)]
pub fn decrement_ttl(packet: &mut [u8]) {
    let Some(header) = packet.first_chunk_mut::<MIN_HEADER>() else { return };
    let old = u16::from_be_bytes([header[TTL], header[TTL + 1]]);
    let new = old.wrapping_sub(0x0100);
    let sum = update(u16::from_be_bytes([header[CHECKSUM], header[CHECKSUM + 1]]), old, new);
    [header[TTL], header[TTL + 1]] = new.to_be_bytes();
    [header[CHECKSUM], header[CHECKSUM + 1]] = sum.to_be_bytes();
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
