//! The Ethernet header as the management core sees it: untagged, or behind tags in what the host sends.

use std::net::Ipv4Addr;

use crate::packet::Mac;

pub const HEADER_LEN: usize = 14;
/// The shortest frame on the wire, without its checksum. Not every port pads by itself.
pub const LEAST_FRAME: usize = 60;
pub const ETHERTYPE_IPV4: u16 = 0x0800;
pub const ETHERTYPE_ARP: u16 = 0x0806;
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet {
    pub destination: Mac,
    pub source: Mac,
    pub ethertype: u16,
}

impl Ethernet {
    /// The header and what follows it.
    pub fn parse(frame: &[u8]) -> Option<(Ethernet, &[u8])> {
        let (header, payload) = frame.split_first_chunk::<HEADER_LEN>()?;
        let ethertype = u16::from_be_bytes([header[12], header[13]]);
        Some((Ethernet { destination: mac_at(header, 0), source: mac_at(header, 6), ethertype }, payload))
    }

    pub fn write(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.destination.0);
        into.extend_from_slice(&self.source.0);
        into.extend_from_slice(&self.ethertype.to_be_bytes());
    }
}

/// The protocol behind up to two VLAN tags, and where its header starts.
pub fn behind_tags(frame: &[u8]) -> Option<(u16, usize)> {
    let mut at = HEADER_LEN - 2;
    for _ in 0..3 {
        let ethertype = u16::from_be_bytes(*frame.get(at..)?.first_chunk()?);
        if !matches!(ethertype, ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN) {
            return Some((ethertype, at + 2));
        }
        at += 4;
    }
    None
}

/// Six bytes of a header of known length.
pub fn mac_at<const N: usize>(header: &[u8; N], at: usize) -> Mac {
    let mut mac = [0; 6];
    mac.copy_from_slice(&header[at..at + 6]);
    Mac(mac)
}

/// Four bytes of a header of known length.
pub fn address_at<const N: usize>(header: &[u8; N], at: usize) -> Ipv4Addr {
    let mut address = [0; 4];
    address.copy_from_slice(&header[at..at + 4]);
    Ipv4Addr::from(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_looked_behind_and_never_past_the_end() {
        let mut frame = vec![0; 12];
        frame.extend_from_slice(&[0x88, 0xa8, 0, 1, 0x81, 0, 0, 2, 8, 0]);
        assert_eq!(behind_tags(&frame), Some((ETHERTYPE_IPV4, 22)));
        for shorter in 0..22 {
            assert_eq!(behind_tags(&frame[..shorter]), None);
        }
        frame[20] = 0x81;
        frame.extend_from_slice(&[0, 3, 8, 0]);
        assert_eq!(behind_tags(&frame), None, "three tags");
    }
}
