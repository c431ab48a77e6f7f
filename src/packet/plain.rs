//! What nearly every frame is: the link header of its port, IPv4 without options and whole or IPv6 without extensions, and
//! at least as much behind it as TCP's header has (padding will do for UDP). All of it is at places that are known before
//! the frame is, so a few loads read it. Whatever is not plain goes the long way (`ethernet`, `ipv4`, `ipv6`,
//! `transport`), which knows every case and every reason; a test demands that the two agree.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::transport::{TCP_HEADER, TcpFlags, UDP_HEADER};
use super::{Mac, checksum, ethernet, ipv4, ipv6};

/// The IP header, and as much of the segment as TCP's header has.
const HEADERS_V4: usize = ipv4::MIN_HEADER + TCP_HEADER;
const HEADERS_V6: usize = ipv6::HEADER + TCP_HEADER;
/// The first byte of a header of version 4 without options.
const VERSION_AND_LENGTH: u8 = 0x45;
/// Where the eight bytes are that say what kind of link header it is.
const KIND: usize = 10;

/// What a plain frame begins with at one port, computed once a burst.
#[derive(Clone, Copy)]
pub struct Gate {
    /// The destination address, in the upper bytes of a little-endian word.
    destination: u64,
    kind: u64,
    kind_mask: u64,
    /// Where IP begins.
    network: usize,
}

/// Headers of IPv4 that have been checked as the long way checks them, in the words that were loaded for it.
pub struct PlainV4 {
    /// The first eight bytes of the IP header: up to the fragment offset.
    first: u64,
    /// The next eight: TTL, protocol, checksum, source.
    second: u64,
    destination: u32,
    ports: u32,
    tcp_flags: u8,
}

/// The same of IPv6.
pub struct PlainV6<'f> {
    headers: &'f [u8; HEADERS_V6],
    /// The first eight bytes: version, length of the payload, protocol, hop limit.
    first: u64,
}

impl Gate {
    /// For IPv4 or IPv6 to a station in a VLAN or in none.
    pub fn new(mac: Mac, vlan: Option<u16>, ether_type: u16) -> Gate {
        let [a, b, c, d, e, f] = mac.0;
        let mut kind = [0; 8];
        let mut kind_mask = [0; 8];
        let network = match vlan {
            None => {
                kind[2..4].copy_from_slice(&ether_type.to_be_bytes());
                kind_mask[2..4].fill(0xff);
                ethernet::HEADER
            }
            Some(vlan) => {
                kind[2..4].copy_from_slice(&ethernet::VLAN.to_be_bytes());
                kind[4..6].copy_from_slice(&vlan.to_be_bytes());
                kind[6..8].copy_from_slice(&ether_type.to_be_bytes());
                // The priority may be any.
                kind_mask[2..8].copy_from_slice(&[0xff, 0xff, 0x0f, 0xff, 0xff, 0xff]);
                ethernet::HEADER + ethernet::TAG
            }
        };
        Gate {
            destination: u64::from_le_bytes([0, 0, a, b, c, d, e, f]),
            kind: u64::from_le_bytes(kind),
            kind_mask: u64::from_le_bytes(kind_mask),
            network,
        }
    }

    /// Whether a frame is for the station and of its kind.
    #[inline(always)]
    fn opens_for(&self, frame: &[u8]) -> bool {
        frame.first_chunk::<{ KIND + 8 }>().is_some_and(|link| {
            eight(link, 0) << 16 == self.destination && eight(link, KIND) & self.kind_mask == self.kind
        })
    }

    #[inline(always)]
    fn headers<'f, const LENGTH: usize>(&self, frame: &'f [u8]) -> Option<&'f [u8; LENGTH]> {
        frame.get(self.network..self.network + LENGTH)?.first_chunk()
    }

    /// A plain, good frame of IPv4, of a gate for that.
    #[inline(always)]
    pub fn admit_v4(&self, frame: &[u8], wire_len: usize) -> Option<PlainV4> {
        let ip: &[u8; HEADERS_V4] = self.headers(frame)?;
        if !self.opens_for(frame) {
            return None;
        }
        let plain = PlainV4 {
            first: eight(ip, 0),
            second: eight(ip, 8),
            destination: four(ip, 16),
            ports: four(ip, 20),
            tcp_flags: ip[33],
        };
        let least = ipv4::MIN_HEADER + least_segment(plain.protocol());
        let fits = plain.total_len() >= least && plain.total_len() <= wire_len.wrapping_sub(self.network);
        let good = plain.version_and_length() == VERSION_AND_LENGTH && plain.is_whole() && plain.checksum_is_right();
        (good && fits).then_some(plain)
    }

    /// The same of IPv6.
    #[inline(always)]
    pub fn admit_v6<'f>(&self, frame: &'f [u8], wire_len: usize) -> Option<PlainV6<'f>> {
        let headers: &[u8; HEADERS_V6] = self.headers(frame)?;
        let plain = PlainV6 { headers, first: eight(headers, 0) };
        let least = ipv6::HEADER + least_segment(plain.protocol());
        let fits = plain.total_len() >= least && plain.total_len() <= wire_len.wrapping_sub(self.network);
        (self.opens_for(frame) && headers[0] >> 4 == 6 && fits).then_some(plain)
    }

    /// Where IP begins in the frame.
    #[inline(always)]
    pub fn network(&self) -> usize {
        self.network
    }
}

impl PlainV4 {
    #[inline(always)]
    fn version_and_length(&self) -> u8 {
        self.first as u8
    }

    /// Neither More Fragments nor an offset.
    #[inline(always)]
    fn is_whole(&self) -> bool {
        (self.first >> 48) as u16 & 0xff3f == 0
    }

    #[inline(always)]
    fn checksum_is_right(&self) -> bool {
        let halves = |word: u64| (word & 0xffff_ffff) + (word >> 32);
        checksum::sums_up(halves(self.first) + halves(self.second) + u64::from(self.destination))
    }

    #[inline(always)]
    pub fn total_len(&self) -> usize {
        ((self.first >> 16) as u16).swap_bytes().into()
    }

    #[inline(always)]
    pub fn ttl(&self) -> u8 {
        self.second as u8
    }

    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        (self.second >> 8) as u8
    }

    /// The client's address and port.
    #[inline(always)]
    pub fn source(&self) -> (Ipv4Addr, u16) {
        (Ipv4Addr::from_bits(((self.second >> 32) as u32).swap_bytes()), (self.ports as u16).swap_bytes())
    }

    #[inline(always)]
    pub fn destination(&self) -> (Ipv4Addr, u16) {
        (Ipv4Addr::from_bits(self.destination.swap_bytes()), ((self.ports >> 16) as u16).swap_bytes())
    }

    #[inline(always)]
    fn is_tcp(&self) -> bool {
        self.protocol() == ipv4::TCP
    }

    /// None: not TCP.
    #[inline(always)]
    pub fn tcp_flags(&self) -> Option<TcpFlags> {
        self.is_tcp().then_some(TcpFlags(self.tcp_flags))
    }
}

impl PlainV6<'_> {
    #[inline(always)]
    pub fn total_len(&self) -> usize {
        ipv6::HEADER + usize::from(((self.first >> 32) as u16).swap_bytes())
    }

    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        (self.first >> 48) as u8
    }

    #[inline(always)]
    pub fn hop_limit(&self) -> u8 {
        (self.first >> 56) as u8
    }

    /// The client's address and port.
    #[inline(always)]
    pub fn source(&self) -> (Ipv6Addr, u16) {
        (self.address(8), (four(self.headers, ipv6::HEADER) as u16).swap_bytes())
    }

    #[inline(always)]
    pub fn destination(&self) -> (Ipv6Addr, u16) {
        (self.address(24), ((four(self.headers, ipv6::HEADER) >> 16) as u16).swap_bytes())
    }

    #[inline(always)]
    fn address(&self, at: usize) -> Ipv6Addr {
        let halves = [eight(self.headers, at), eight(self.headers, at + 8)].map(u64::swap_bytes);
        Ipv6Addr::from_bits(u128::from(halves[0]) << 64 | u128::from(halves[1]))
    }

    /// None: not TCP.
    #[inline(always)]
    pub fn tcp_flags(&self) -> Option<TcpFlags> {
        (self.protocol() == ipv4::TCP).then_some(TcpFlags(self.headers[ipv6::HEADER + 13]))
    }
}

/// What TCP needs, or else UDP.
#[inline(always)]
const fn least_segment(protocol: u8) -> usize {
    if protocol == ipv4::TCP { TCP_HEADER } else { UDP_HEADER }
}

/// Eight bytes, the first one lowest, from a place that is a constant where this is inlined.
#[inline(always)]
fn eight<const LENGTH: usize>(bytes: &[u8; LENGTH], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Four of them.
#[inline(always)]
fn four<const LENGTH: usize>(bytes: &[u8; LENGTH], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::transport;
    use proptest::prelude::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 0x10]);

    /// What the long way says of a frame, where it is plain.
    fn long_way(frame: &[u8], wire_len: usize, vlan: Option<u16>) -> Option<Told> {
        let link = ethernet::parse(frame)?;
        if link.vlan != vlan || link.destination != MAC || link.ether_type != ethernet::IPV4 {
            return None;
        }
        let packet = &frame[link.payload..];
        let ip = ipv4::parse(packet, wire_len.checked_sub(link.payload)?).ok()?;
        let segment = &packet[ip.header_len..];
        let flags = match ip.protocol {
            ipv4::TCP => Some(transport::tcp_flags(segment)?),
            _ => None,
        };
        let (source, destination) = transport::ports(segment)?;
        let least = if ip.protocol == ipv4::TCP { 40 } else { 28 };
        let plain = !ip.is_fragment && ip.header_len == 20 && ip.total_len >= least && packet.len() >= 40;
        let told = (link.payload, ip.total_len, ip.ttl, (ip.source, source), (ip.destination, destination), flags);
        plain.then_some(told)
    }

    type Told = (usize, usize, u8, (Ipv4Addr, u16), (Ipv4Addr, u16), Option<TcpFlags>);

    fn short_way(frame: &[u8], wire_len: usize, vlan: Option<u16>) -> Option<Told> {
        let gate = Gate::new(MAC, vlan, ethernet::IPV4);
        let plain = gate.admit_v4(frame, wire_len)?;
        let (source, destination) = (plain.source(), plain.destination());
        Some((gate.network(), plain.total_len(), plain.ttl(), source, destination, plain.tcp_flags()))
    }

    fn good(vlan: Option<u16>, protocol: u8, length: usize) -> Vec<u8> {
        let mut frame = [MAC.0, [2, 0, 0, 0, 0, 1]].concat();
        if let Some(vlan) = vlan {
            frame.extend([0x81, 0x00]);
            frame.extend((vlan | 0x6000).to_be_bytes());
        }
        frame.extend([8, 0]);
        let mut header = [0x45, 0, 0, length as u8, 0, 7, 0x40, 0, 64, protocol, 0, 0, 10, 9, 0, 1, 10, 9, 0, 100];
        let sum = checksum::checksum(&header).to_be_bytes();
        header[10..12].copy_from_slice(&sum);
        frame.extend(header);
        frame.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x12]);
        frame.resize(frame.len().max(66), 0);
        frame
    }

    type ToldV6 = (usize, usize, u8, u8, (Ipv6Addr, u16), (Ipv6Addr, u16), Option<TcpFlags>);

    fn long_way_v6(frame: &[u8], wire_len: usize, vlan: Option<u16>) -> Option<ToldV6> {
        let link = ethernet::parse(frame)?;
        if link.vlan != vlan || link.destination != MAC || link.ether_type != ethernet::IPV6 {
            return None;
        }
        let packet = &frame[link.payload..];
        let ip = ipv6::parse(packet, wire_len.checked_sub(link.payload)?).ok()?;
        let segment = &packet[ip.header_len..];
        let flags = if ip.protocol == ipv4::TCP { Some(transport::tcp_flags(segment)?) } else { None };
        let (source, destination) = transport::ports(segment)?;
        let least = if ip.protocol == ipv4::TCP { 60 } else { 48 };
        let known = matches!(ip.protocol, ipv4::TCP | ipv4::UDP);
        let plain = known && ip.header_len == 40 && ip.total_len >= least && packet.len() >= 60;
        let ends = ((ip.source, source), (ip.destination, destination));
        plain.then_some((link.payload, ip.total_len, ip.hop_limit, ip.protocol, ends.0, ends.1, flags))
    }

    /// What no service can have is left out: the long way would look behind extensions.
    fn short_way_v6(frame: &[u8], wire_len: usize, vlan: Option<u16>) -> Option<ToldV6> {
        let gate = Gate::new(MAC, vlan, ethernet::IPV6);
        let plain = gate.admit_v6(frame, wire_len)?;
        let (protocol, source, destination) = (plain.protocol(), plain.source(), plain.destination());
        let told = (gate.network(), plain.total_len(), plain.hop_limit(), protocol, source, destination);
        let (network, length, hops, ..) = told;
        matches!(protocol, ipv4::TCP | ipv4::UDP).then_some((
            network,
            length,
            hops,
            protocol,
            source,
            destination,
            plain.tcp_flags(),
        ))
    }

    fn good_v6(vlan: Option<u16>, protocol: u8, length: usize) -> Vec<u8> {
        let mut frame = good(vlan, protocol, 46);
        frame.truncate(if vlan.is_some() { 18 } else { 14 });
        let ether_type = frame.len() - 2;
        frame[ether_type..].copy_from_slice(&ethernet::IPV6.to_be_bytes());
        frame.extend([0x6f, 1, 2, 3, 0, length as u8, protocol, 9]);
        frame.extend((0..32).map(|byte| byte * 7));
        frame.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x12]);
        frame.resize(frame.len() + 12, 0);
        frame
    }

    #[test]
    fn plain_frames_of_ipv6_are_admitted() {
        for vlan in [None, Some(5)] {
            for protocol in [ipv4::TCP, ipv4::UDP] {
                let frame = good_v6(vlan, protocol, 20);
                let told = short_way_v6(&frame, frame.len(), vlan).expect("a plain frame");
                assert_eq!((told.1, told.2, told.3, told.4.1, told.5.1), (60, 9, protocol, 40_000, 80));
                assert_eq!(Some(told), long_way_v6(&frame, frame.len(), vlan));
                assert_eq!(short_way(&frame, frame.len(), vlan), None);
            }
        }
    }

    #[test]
    fn plain_frames_are_admitted() {
        for vlan in [None, Some(5), Some(0x0abc)] {
            for protocol in [ipv4::TCP, ipv4::UDP] {
                let frame = good(vlan, protocol, 46);
                let told = short_way(&frame, frame.len(), vlan).expect("a plain frame");
                let flags = (protocol == ipv4::TCP).then_some(TcpFlags(0x12));
                assert_eq!((told.1, told.2, told.4.1, told.5), (46, 64, 80, flags));
                assert_eq!(Some(told), long_way(&frame, frame.len(), vlan));
                assert_eq!(short_way(&frame, frame.len(), Some(77)), None);
            }
        }
    }

    proptest! {
        /// A good frame with a few bytes changed, and sometimes its checksum put right, at any length.
        #[test]
        fn both_ways_say_the_same(
            vlan in prop_oneof![Just(None), Just(Some(5u16))],
            station in prop_oneof![4 => Just(None), 4 => Just(Some(5u16)), 1 => Just(Some(0u16))],
            protocol in prop_oneof![Just(6u8), Just(17), Just(1)],
            length in 20usize..60,
            changes in proptest::collection::vec((0usize..66, any::<u8>()), 0..4),
            put_right: bool,
            cut in 0usize..80,
            padding in 0usize..20,
        ) {
            let mut frame = good(vlan, protocol, length);
            for (at, value) in changes {
                frame[at] = value;
            }
            let at = if vlan.is_some() { 18 } else { 14 };
            if put_right {
                frame[at + 10..at + 12].fill(0);
                let sum = checksum::checksum(&frame[at..at + 20]).to_be_bytes();
                frame[at + 10..at + 12].copy_from_slice(&sum);
            }
            frame.truncate(cut.max(10));
            let station = station.filter(|vlan| *vlan != 0);
            let wire_len = frame.len() + padding;
            prop_assert_eq!(short_way(&frame, wire_len, station), long_way(&frame, wire_len, station));
        }

        #[test]
        fn both_ways_say_the_same_of_ipv6(
            vlan in prop_oneof![Just(None), Just(Some(5u16))],
            station in prop_oneof![Just(None), Just(Some(5u16))],
            protocol in prop_oneof![Just(6u8), Just(17), Just(58), Just(44), Just(0)],
            length in 0usize..40,
            changes in proptest::collection::vec((0usize..80, any::<u8>()), 0..4),
            cut in 0usize..90,
            padding in 0usize..20,
        ) {
            let mut frame = good_v6(vlan, protocol, length);
            for (at, value) in changes {
                frame[at] = value;
            }
            frame.truncate(cut.max(10));
            let wire_len = frame.len() + padding;
            prop_assert_eq!(short_way_v6(&frame, wire_len, station), long_way_v6(&frame, wire_len, station));
        }
    }
}
