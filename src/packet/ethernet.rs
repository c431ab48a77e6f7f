//! Ethernet, with one 802.1Q tag or none.

use super::Mac;

pub const HEADER: usize = 14;
pub const TAG: usize = 4;
pub const IPV4: u16 = 0x0800;
pub const ARP: u16 = 0x0806;
pub const VLAN: u16 = 0x8100;

/// A frame's link layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet {
    pub destination: Mac,
    pub source: Mac,
    /// The VLAN, if the frame carries one; a priority tag (VLAN 0) is none.
    pub vlan: Option<u16>,
    /// What the frame carries behind the tag.
    pub ether_type: u16,
    /// Where that begins.
    pub payload: usize,
}

/// None: the frame is shorter than its header.
#[inline(always)]
pub fn parse(frame: &[u8]) -> Option<Ethernet> {
    let (header, rest) = frame.split_first_chunk::<HEADER>()?;
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *header;
    let untagged = Ethernet {
        destination: Mac([d0, d1, d2, d3, d4, d5]),
        source: Mac([s0, s1, s2, s3, s4, s5]),
        vlan: None,
        ether_type: u16::from_be_bytes([t0, t1]),
        payload: HEADER,
    };
    if untagged.ether_type != VLAN {
        return Some(untagged);
    }
    let [c0, c1, t0, t1] = *rest.first_chunk::<TAG>()?;
    let id = u16::from_be_bytes([c0, c1]) & 0x0fff;
    Some(Ethernet {
        vlan: Some(id).filter(|id| *id != 0),
        ether_type: u16::from_be_bytes([t0, t1]),
        payload: HEADER + TAG,
        ..untagged
    })
}

/// Writes the two addresses, destination first: all that direct routing changes here.
#[inline(always)]
pub fn set_addresses(frame: &mut [u8], addresses: &[u8; 12]) {
    if let Some(start) = frame.first_chunk_mut::<12>() {
        *start = *addresses;
    }
}
