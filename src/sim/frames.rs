//! A small builder of frames, right in every field unless told otherwise.

use std::net::Ipv4Addr;

use crate::packet::checksum::{checksum, fold, sum};
use crate::packet::{Mac, ethernet, ipv4};

/// TCP or UDP over IPv4 over Ethernet.
#[derive(Clone, Debug)]
pub struct FrameBuilder {
    pub destination_mac: Mac,
    pub source_mac: Mac,
    pub vlan: Option<u16>,
    pub source: (Ipv4Addr, u16),
    pub destination: (Ipv4Addr, u16),
    pub protocol: u8,
    pub tcp_flags: u8,
    pub ttl: u8,
    pub identification: u16,
    /// The flags and the fragment offset, as they stand in the header.
    pub fragment: u16,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl FrameBuilder {
    pub fn tcp(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16), flags: u8) -> FrameBuilder {
        FrameBuilder {
            destination_mac: Mac([2, 0, 0, 0, 0, 0x10]),
            source_mac: Mac([2, 0, 0, 0, 0, 1]),
            vlan: None,
            source,
            destination,
            protocol: ipv4::TCP,
            tcp_flags: flags,
            ttl: 64,
            identification: 1,
            fragment: 0x4000,
            options: Vec::new(),
            payload: Vec::new(),
        }
    }

    pub fn udp(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16)) -> FrameBuilder {
        FrameBuilder { protocol: ipv4::UDP, ..FrameBuilder::tcp(source, destination, 0) }
    }

    /// The whole frame.
    pub fn build(&self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(64 + self.payload.len());
        frame.extend(self.destination_mac.0);
        frame.extend(self.source_mac.0);
        if let Some(vlan) = self.vlan {
            frame.extend(ethernet::VLAN.to_be_bytes());
            frame.extend(vlan.to_be_bytes());
        }
        frame.extend(ethernet::IPV4.to_be_bytes());
        let segment = self.segment();
        frame.extend(self.header(segment.len()));
        frame.extend(segment);
        frame
    }

    fn header(&self, segment: usize) -> Vec<u8> {
        let length = ipv4::MIN_HEADER + self.options.len();
        let mut header = vec![0x40 | (length / 4) as u8, 0];
        header.extend(((length + segment) as u16).to_be_bytes());
        header.extend(self.identification.to_be_bytes());
        header.extend(self.fragment.to_be_bytes());
        header.extend([self.ttl, self.protocol, 0, 0]);
        header.extend(self.source.0.octets());
        header.extend(self.destination.0.octets());
        header.extend(&self.options);
        let sum = checksum(&header).to_be_bytes();
        header[10..12].copy_from_slice(&sum);
        header
    }

    fn segment(&self) -> Vec<u8> {
        let mut segment = Vec::new();
        segment.extend(self.source.1.to_be_bytes());
        segment.extend(self.destination.1.to_be_bytes());
        let at = if self.protocol == ipv4::TCP {
            segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, self.tcp_flags, 0xff, 0xff, 0, 0, 0, 0]);
            16
        } else {
            segment.extend(((8 + self.payload.len()) as u16).to_be_bytes());
            segment.extend([0, 0]);
            6
        };
        segment.extend(&self.payload);
        let mut pseudo = Vec::new();
        pseudo.extend(self.source.0.octets());
        pseudo.extend(self.destination.0.octets());
        pseudo.extend([0, self.protocol]);
        pseudo.extend((segment.len() as u16).to_be_bytes());
        let total = !fold(sum(&pseudo) + sum(&segment));
        segment[at..at + 2].copy_from_slice(&total.to_be_bytes());
        segment
    }
}
