//! What a sender is told about a packet that goes nowhere, in the name of the address that it was sent to: a TCP reset
//! (RFC 9293) or an ICMP error (RFC 792, RFC 1122), as Linux makes them.

use super::ethernet::{self, Ethernet};
use super::icmp;
use super::ipv4::{self, Ipv4};
use super::transport::{self, TcpFlags};
use crate::verdict::Answer;

/// The longest ICMP error, with its IP header: as much as every network carries in one piece.
const LONGEST_ERROR: usize = 576;
const LONGEST_QUOTE: usize = LONGEST_ERROR - ipv4::MIN_HEADER - icmp::HEADER;
/// An error keeps the type of service that was asked for, and goes before the rest (RFC 1812).
const TOS_BITS: u8 = 0x1e;
const INTERNETWORK_CONTROL: u8 = 0xc0;
/// A reset keeps the type of service but for what routers write there (RFC 3168).
const CONGESTION_BITS: u8 = 0x03;

/// The frame that answers a received one, without a tag; none: nobody may be told, or nobody can. `mtu` knows the MTU of
/// a port.
///
/// Never answered is what was sent to or from a group or to everybody, by its MAC or IP addresses; what does not come
/// from a host; fragments but the first, for they have no ports, and any fragment with a reset; an ICMP error; with a
/// reset, a reset, and a segment whose checksum is wrong: it may be of another conversation.
pub fn answer(frame: &[u8], answer: Answer, mtu: impl Fn(u8) -> Option<u16>) -> Option<Vec<u8>> {
    let refused = Refused::parse(frame)?;
    match answer {
        Answer::Reset => refused.reset(),
        Answer::ClosedPort if !refused.udp_is_right() => None,
        Answer::PortUnreachable | Answer::ClosedPort => refused.error(icmp::UNREACHABLE, icmp::PORT, 0),
        Answer::TimeExceeded => refused.error(icmp::TIME_EXCEEDED, 0, 0),
        Answer::FragmentationNeeded { egress } => refused.too_long(mtu(egress)?),
    }
}

/// How long an ICMP error about a packet of so many bytes is, with its IP header.
pub fn error_length(packet: u16) -> u16 {
    packet.min(LONGEST_QUOTE as u16) + (ipv4::MIN_HEADER + icmp::HEADER) as u16
}

/// A packet whose sender can be told something.
struct Refused<'f> {
    link: Ethernet,
    ip: Ipv4,
    /// The first bytes of the IP header.
    header: &'f [u8; ipv4::MIN_HEADER],
    /// The whole packet, without what Ethernet has put behind it.
    packet: &'f [u8],
}

impl<'f> Refused<'f> {
    fn parse(frame: &'f [u8]) -> Option<Refused<'f>> {
        let link = ethernet::parse(frame).filter(|link| link.ether_type == ethernet::IPV4)?;
        let packet = frame.get(link.payload..)?;
        let ip = ipv4::parse(packet, packet.len()).ok()?;
        let stations = link.destination.is_unicast() && link.source.is_unicast() && link.source != link.destination;
        let hosts = ipv4::is_host(ip.source) && ipv4::is_host(ip.destination) && ip.source != ip.destination;
        let packet = packet.get(..ip.total_len)?;
        (stations && hosts).then_some(Refused { link, ip, header: packet.first_chunk()?, packet })
    }

    fn segment(&self) -> Option<&'f [u8]> {
        self.packet.get(self.ip.header_len..)
    }

    fn reset(&self) -> Option<Vec<u8>> {
        if self.ip.protocol != ipv4::TCP || self.ip.is_fragment {
            return None;
        }
        let segment = self.segment()?;
        let header = segment.first_chunk::<{ transport::TCP_HEADER }>()?;
        let (flags, header_len) = (TcpFlags(header[13]), usize::from(header[12] >> 4) * 4);
        let payload = segment.len().checked_sub(header_len)?;
        let right = ipv4::segment_is_right(self.ip.source, self.ip.destination, ipv4::TCP, segment);
        if header_len < transport::TCP_HEADER || flags.has(TcpFlags::RST) || !right {
            return None;
        }
        let [sequence, acknowledged] = [4, 8].map(|at| number_at(header, at));
        let (sequence, acknowledged, flags) = match flags.has(TcpFlags::ACK) {
            true => (acknowledged, 0, TcpFlags::RST),
            false => {
                let ends = u32::from(flags.has(TcpFlags::SYN)) + u32::from(flags.has(TcpFlags::FIN));
                let length = payload as u32 + ends;
                (0, sequence.wrapping_add(length), TcpFlags::RST | TcpFlags::ACK)
            }
        };
        let answer = ipv4::Header {
            tos: self.header[1] & !CONGESTION_BITS,
            id: [0, 0],
            dont_fragment: true,
            protocol: ipv4::TCP,
            source: self.ip.destination,
            destination: self.ip.source,
        };
        let mut frame = self.begin(answer, transport::TCP_HEADER);
        write_tcp(&mut frame, answer, ports_back(header), sequence, acknowledged, flags);
        ethernet::pad(&mut frame);
        Some(frame)
    }

    /// The packet is longer than an MTU and must not be cut. It would have left with one hop less, and so it is quoted.
    fn too_long(&self, mtu: u16) -> Option<Vec<u8>> {
        if !ipv4::must_stay_whole(self.header) || self.packet.len() <= usize::from(mtu) {
            return None;
        }
        let mut frame = self.error(icmp::UNREACHABLE, icmp::FRAGMENTATION_NEEDED, mtu)?;
        if self.ip.ttl > 1 {
            // The quoted header's checksum goes with its TTL, and so the message's own stays right.
            let quoted = frame.get_mut(ethernet::HEADER + ipv4::MIN_HEADER + icmp::HEADER..)?;
            ipv4::decrement_ttl(quoted);
        }
        Some(frame)
    }

    fn error(&self, kind: u8, code: u8, mtu: u16) -> Option<Vec<u8>> {
        let offset = u16::from_be_bytes([self.header[6], self.header[7]]) & ipv4::OFFSET;
        if offset != 0 || self.ip.protocol == ipv4::ICMP && icmp::is_error(self.segment()?) {
            return None;
        }
        let quote = &self.packet[..self.packet.len().min(LONGEST_QUOTE)];
        let answer = ipv4::Header {
            tos: self.header[1] & TOS_BITS | INTERNETWORK_CONTROL,
            // It may be cut, so it needs one; what the sender counts on for its own packets will do (RFC 6864).
            id: [self.header[4], self.header[5]],
            dont_fragment: false,
            protocol: ipv4::ICMP,
            source: self.ip.destination,
            destination: self.ip.source,
        };
        let mut frame = self.begin(answer, icmp::HEADER + quote.len());
        let [high, low] = mtu.to_be_bytes();
        icmp::write(&mut frame, kind, code, [0, 0, high, low], quote);
        ethernet::pad(&mut frame);
        Some(frame)
    }

    /// Whether this is a whole datagram of UDP that is as it was sent.
    fn udp_is_right(&self) -> bool {
        let Some(segment) = self.segment().filter(|_| self.ip.protocol == ipv4::UDP && !self.ip.is_fragment) else {
            return false;
        };
        let Some(header) = segment.first_chunk::<{ transport::UDP_HEADER }>() else { return false };
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let Some(datagram) = segment.get(..length).filter(|_| length >= transport::UDP_HEADER) else { return false };
        header[6..] == [0, 0] || ipv4::segment_is_right(self.ip.source, self.ip.destination, ipv4::UDP, datagram)
    }

    /// The answer's link and IP headers, before a payload of so many bytes.
    fn begin(&self, answer: ipv4::Header, payload: usize) -> Vec<u8> {
        let length = ethernet::HEADER + ipv4::MIN_HEADER + payload;
        let mut frame = Vec::with_capacity(length.max(ethernet::LEAST_FRAME));
        ethernet::write_header(&mut frame, self.link.source, self.link.destination, ethernet::IPV4);
        ipv4::write_header(&mut frame, answer, payload);
        frame
    }
}

/// Appends a TCP header that ends a conversation; nothing follows it.
fn write_tcp(frame: &mut Vec<u8>, ip: ipv4::Header, ports: [u8; 4], sequence: u32, acknowledged: u32, flags: u8) {
    let start = frame.len();
    frame.extend_from_slice(&ports);
    frame.extend_from_slice(&sequence.to_be_bytes());
    frame.extend_from_slice(&acknowledged.to_be_bytes());
    frame.extend_from_slice(&[0x50, flags, 0, 0, 0, 0, 0, 0]);
    let sum = ipv4::segment_checksum(ip.source, ip.destination, ipv4::TCP, &frame[start..]);
    frame[start + 16..start + 18].copy_from_slice(&sum.to_be_bytes());
}

/// The ports of a segment that goes back to where this one came from.
fn ports_back(header: &[u8; transport::TCP_HEADER]) -> [u8; 4] {
    [header[2], header[3], header[0], header[1]]
}

fn number_at(header: &[u8; transport::TCP_HEADER], at: usize) -> u32 {
    u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

#[cfg(test)]
mod tests;
