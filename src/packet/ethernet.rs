//! Ethernet, with one 802.1Q tag or none; what the host sends may have two.

use super::Mac;

pub const HEADER: usize = 14;
pub const TAG: usize = 4;
pub const IPV4: u16 = 0x0800;
pub const ARP: u16 = 0x0806;
pub const IPV6: u16 = 0x86dd;
pub const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;
/// The shortest frame on the wire, without its checksum. Not every port pads by itself.
pub const LEAST_FRAME: usize = 60;

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

/// The protocol behind up to two VLAN tags of either kind, and where its header starts.
pub fn behind_tags(frame: &[u8]) -> Option<(u16, usize)> {
    let mut at = HEADER - 2;
    for _ in 0..3 {
        let ether_type = u16::from_be_bytes(*frame.get(at..)?.first_chunk()?);
        if !matches!(ether_type, VLAN | SERVICE_VLAN) {
            return Some((ether_type, at + 2));
        }
        at += TAG;
    }
    None
}

/// Appends a header without a tag.
pub fn write_header(into: &mut Vec<u8>, destination: Mac, source: Mac, ether_type: u16) {
    into.extend_from_slice(&destination.0);
    into.extend_from_slice(&source.0);
    into.extend_from_slice(&ether_type.to_be_bytes());
}

/// Fills a frame up to Ethernet's least length.
pub fn pad(frame: &mut Vec<u8>) {
    frame.resize(frame.len().max(LEAST_FRAME), 0);
}

/// Writes the two addresses, destination first: all that direct routing changes here.
#[inline(always)]
pub fn set_addresses(frame: &mut [u8], addresses: &[u8; 12]) {
    if let Some(start) = frame.first_chunk_mut::<12>() {
        *start = *addresses;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_looked_behind_and_never_past_the_end() {
        let mut frame = vec![0; 12];
        frame.extend_from_slice(&[0x88, 0xa8, 0, 1, 0x81, 0, 0, 2, 8, 0]);
        assert_eq!(behind_tags(&frame), Some((IPV4, 22)));
        for shorter in 0..22 {
            assert_eq!(behind_tags(&frame[..shorter]), None);
        }
        frame[20] = 0x81;
        frame.extend_from_slice(&[0, 3, 8, 0]);
        assert_eq!(behind_tags(&frame), None, "three tags");
    }

    #[test]
    fn a_written_header_is_read_back() {
        let mut frame = Vec::new();
        write_header(&mut frame, Mac([1; 6]), Mac([2; 6]), ARP);
        pad(&mut frame);
        let link = parse(&frame).unwrap();
        assert_eq!((link.destination, link.source, link.vlan), (Mac([1; 6]), Mac([2; 6]), None));
        assert_eq!((link.ether_type, link.payload, frame.len()), (ARP, HEADER, LEAST_FRAME));
        frame.resize(61, 0);
        pad(&mut frame);
        assert_eq!(frame.len(), 61);
    }
}
