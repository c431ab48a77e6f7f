//! A packet's line, its frame, and what came out for it in words.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use drover::packet::Mac;
use drover::packet::checksum::checksum;

use super::scenario::Capability;

pub const DIRECTOR: Mac = Mac([2, 0, 0, 0, 0, 0x10]);
/// The router, behind which all clients are.
pub const ROUTER: Mac = Mac([2, 0, 0, 0, 0, 1]);
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const FLAGS: [(char, u8); 6] = [('F', 1), ('S', 2), ('R', 4), ('P', 8), ('A', 16), ('U', 32)];

pub fn real_mac(number: u8) -> Mac {
    Mac([2, 0, 0, 0, 1, number])
}

/// `10.1.0.5:2001 > 10.9.0.100:80 tcp SA ttl=1`
#[derive(Clone, Debug, PartialEq)]
pub struct Packet {
    pub source: (Ipv4Addr, u16),
    pub destination: (Ipv4Addr, u16),
    pub kind: Kind,
    pub ttl: u8,
    pub fault: Option<Fault>,
    pub tos: u8,
    /// The network may cut it.
    pub may_fragment: bool,
    /// Four bytes of IP options that do nothing.
    pub options: bool,
    /// Bytes behind the header; of an error about TCP, behind the header that it quotes.
    pub payload: u16,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Tcp(u8),
    Udp,
    Echo,
    /// Of this type and code, about a packet of this protocol from the destination to the source.
    Error(u8, u8, u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The checksum of TCP or UDP.
    Checksum,
    HeaderChecksum,
    /// Ten bytes of the header only.
    Cut,
}

impl Fault {
    const ALL: [Fault; 3] = [Fault::Checksum, Fault::HeaderChecksum, Fault::Cut];

    fn name(self) -> &'static str {
        match self {
            Fault::Checksum => "bad-checksum",
            Fault::HeaderChecksum => "bad-header-checksum",
            Fault::Cut => "cut",
        }
    }
}

impl Packet {
    pub fn new(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16), kind: Kind) -> Packet {
        Packet {
            source,
            destination,
            kind,
            ttl: 64,
            fault: None,
            tos: 0,
            may_fragment: false,
            options: false,
            payload: 0,
        }
    }

    pub fn need(&self) -> Option<Capability> {
        match self.kind {
            Kind::Echo => Some(Capability::Echo),
            Kind::Error(..) => Some(Capability::ErrorsIn),
            _ => None,
        }
    }

    /// The whole frame, from the router to the director.
    pub fn frame(&self) -> Vec<u8> {
        let segment = match self.kind {
            Kind::Tcp(flags) => tcp(self.source, self.destination, flags, self.payload),
            Kind::Udp => udp(self.source, self.destination, self.payload),
            Kind::Echo => icmp(8, 0, &[0x12, 0x34, 0, 1], &pattern(self.payload)),
            Kind::Error(kind, code, protocol) => {
                let (from, to) = (self.destination, self.source);
                let quoted = if protocol == TCP { tcp(from, to, 16, self.payload) } else { udp(from, to, 8) };
                icmp(kind, code, &[0, 0, 5, 0xdc], &ip(from.0, to.0, protocol, 60, false, &quoted))
            }
        };
        let mut segment = segment;
        match self.fault {
            Some(Fault::Checksum) => {
                let at = if matches!(self.kind, Kind::Tcp(_)) { 16 } else { 6 };
                segment[at] ^= 0x55;
            }
            Some(Fault::Cut) => segment.truncate(if matches!(self.kind, Kind::Tcp(_)) { 10 } else { 6 }),
            _ => (),
        }
        let protocol = match self.kind {
            Kind::Tcp(_) => TCP,
            Kind::Udp => UDP,
            Kind::Echo | Kind::Error(..) => ICMP,
        };
        let mut packet = ip(self.source.0, self.destination.0, protocol, self.ttl, self.options, &segment);
        packet[1] = self.tos;
        packet[6] = if self.may_fragment { 0 } else { 0x40 };
        packet[10..12].fill(0);
        let length = usize::from(packet[0] & 15) * 4;
        let sum = checksum(&packet[..length]) ^ if self.fault == Some(Fault::HeaderChecksum) { 0x5500 } else { 0 };
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        framed(&packet)
    }
}

/// An IPv4 frame without what Ethernet put behind its packet.
pub fn without_padding(mut frame: Vec<u8>) -> Vec<u8> {
    frame.truncate(14 + usize::from(u16::from_be_bytes([frame[16], frame[17]])));
    frame
}

pub fn framed(packet: &[u8]) -> Vec<u8> {
    [&DIRECTOR.0, &ROUTER.0, &[8, 0][..], packet].concat()
}

fn pattern(length: u16) -> Vec<u8> {
    (0..length).map(|at| at as u8).collect()
}

pub fn ip(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, ttl: u8, options: bool, segment: &[u8]) -> Vec<u8> {
    let length = if options { 24 } else { 20 };
    let mut header = vec![0x40 | (length / 4) as u8, 0];
    header.extend(((length + segment.len()) as u16).to_be_bytes());
    header.extend([0, 1, 0x40, 0, ttl, protocol, 0, 0]);
    header.extend(from.octets());
    header.extend(to.octets());
    header.resize(length, 1);
    let sum = checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    header.extend(segment);
    header
}

/// The sequence numbers are those that a stream might have, and depend on the ports, so that no answer is right by
/// chance.
fn tcp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), flags: u8, payload: u16) -> Vec<u8> {
    let mut segment = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    segment.extend((u32::from(from.1) * 65_537).to_be_bytes());
    let acknowledged = if flags & 16 != 0 { u32::from(to.1) * 70_001 + u32::from(from.1) } else { 0 };
    segment.extend(acknowledged.to_be_bytes());
    segment.extend([0x50, flags, 0xfa, 0xf0, 0, 0, 0, 0]);
    segment.extend(pattern(payload));
    with_checksum(segment, from.0, to.0, TCP, 16)
}

fn udp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), payload: u16) -> Vec<u8> {
    let mut segment = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    segment.extend((8 + payload).to_be_bytes());
    segment.extend([0, 0]);
    segment.extend(pattern(payload));
    with_checksum(segment, from.0, to.0, UDP, 6)
}

fn with_checksum(mut segment: Vec<u8>, from: Ipv4Addr, to: Ipv4Addr, protocol: u8, at: usize) -> Vec<u8> {
    let mut pseudo = [from.octets(), to.octets()].concat();
    pseudo.extend([0, protocol]);
    pseudo.extend((segment.len() as u16).to_be_bytes());
    pseudo.extend(&segment);
    let sum = checksum(&pseudo).to_be_bytes();
    segment[at..at + 2].copy_from_slice(&sum);
    segment
}

pub fn icmp(kind: u8, code: u8, rest: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, code, 0, 0], rest, payload].concat();
    let sum = checksum(&message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    message
}

impl fmt::Display for Packet {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        let ((source, source_port), (destination, port)) = (self.source, self.destination);
        write!(to, "{source}:{source_port} > {destination}:{port} ")?;
        match self.kind {
            Kind::Tcp(flags) => write!(to, "tcp {}", flag_letters(flags))?,
            Kind::Udp => to.write_str("udp")?,
            Kind::Echo => to.write_str("echo")?,
            Kind::Error(kind, code, protocol) => {
                write!(to, "error {kind}.{code} {}", if protocol == TCP { "tcp" } else { "udp" })?
            }
        }
        if self.ttl != 64 {
            write!(to, " ttl={}", self.ttl)?;
        }
        if self.payload != 0 {
            write!(to, " payload={}", self.payload)?;
        }
        if self.tos != 0 {
            write!(to, " tos={:02x}", self.tos)?;
        }
        if self.may_fragment {
            to.write_str(" may-fragment")?;
        }
        if self.options {
            to.write_str(" options")?;
        }
        self.fault.map_or(Ok(()), |fault| write!(to, " {}", fault.name()))
    }
}

/// `-` when there is none.
fn flag_letters(flags: u8) -> String {
    let letters: String = FLAGS.iter().filter(|(_, bit)| flags & bit != 0).map(|(letter, _)| *letter).collect();
    if letters.is_empty() { "-".into() } else { letters }
}

impl FromStr for Packet {
    type Err = ();

    fn from_str(line: &str) -> Result<Packet, ()> {
        parse(line).ok_or(())
    }
}

fn parse(line: &str) -> Option<Packet> {
    fn place(text: &str) -> Option<(Ipv4Addr, u16)> {
        let (address, port) = text.split_once(':')?;
        Some((address.parse().ok()?, port.parse().ok()?))
    }
    let mut words = line.split_whitespace();
    let source = place(words.next()?)?;
    let destination = words.next().filter(|arrow| *arrow == ">").and(words.next())?;
    let destination = place(destination)?;
    let kind = match words.next()? {
        "udp" => Kind::Udp,
        "echo" => Kind::Echo,
        "tcp" => {
            let letters = words.next()?;
            Kind::Tcp(FLAGS.iter().filter(|(letter, _)| letters.contains(*letter)).map(|(_, bit)| bit).sum())
        }
        "error" => {
            let (kind, code) = words.next()?.split_once('.')?;
            let protocol = if words.next()? == "tcp" { TCP } else { UDP };
            Kind::Error(kind.parse().ok()?, code.parse().ok()?, protocol)
        }
        _ => return None,
    };
    let mut packet = Packet::new(source, destination, kind);
    for word in words {
        if let Some(ttl) = word.strip_prefix("ttl=") {
            packet.ttl = ttl.parse().ok()?;
        } else if let Some(length) = word.strip_prefix("payload=") {
            packet.payload = length.parse().ok()?;
        } else if let Some(tos) = word.strip_prefix("tos=") {
            packet.tos = u8::from_str_radix(tos, 16).ok()?;
        } else if word == "options" {
            packet.options = true;
        } else if word == "may-fragment" {
            packet.may_fragment = true;
        } else {
            packet.fault = Some(Fault::ALL.into_iter().find(|fault| fault.name() == word)?);
        }
    }
    Some(packet)
}

/// What came out for a frame, in words: `drop`, or each frame in turn.
pub fn answer(sent: &[u8], came: &[Vec<u8>]) -> String {
    if came.is_empty() {
        return "drop".into();
    }
    came.iter().map(|frame| described(sent, frame)).collect::<Vec<_>>().join(" + ")
}

fn described(sent: &[u8], frame: &[u8]) -> String {
    forwarded(sent, frame).or_else(|| answered(sent, frame)).unwrap_or_else(|| format!("frame {}", hex(frame)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The frame that went in, sent on as direct routing does, is nothing but the number of the real.
fn forwarded(sent: &[u8], frame: &[u8]) -> Option<String> {
    let real = (1..=u8::MAX).find(|number| frame.starts_with(&real_mac(*number).0))?;
    let header = 14 + usize::from(sent[14] & 15) * 4;
    let expected = [&real_mac(real).0[..], &DIRECTOR.0, &sent[12..14], &one_hop_on(&sent[14..])].concat();
    if frame == expected {
        return Some(format!("real {real}"));
    }
    let what = piece(&expected, frame, header).unwrap_or_else(|| format!("changed {}", hex(frame)));
    Some(format!("real {real} {what}"))
}

/// The packet with one hop less.
fn one_hop_on(packet: &[u8]) -> Vec<u8> {
    let header = usize::from(packet[0] & 15) * 4;
    let mut packet = packet.to_vec();
    packet[8] = packet[8].wrapping_sub(1);
    packet[10..12].fill(0);
    let sum = checksum(&packet[..header]).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet
}

/// A fragment of what was expected: which of the bytes behind the IP header, and how many these are.
fn piece(whole: &[u8], frame: &[u8], header: usize) -> Option<String> {
    let (fragment, length) = (u16::from_be_bytes([frame[20], frame[21]]), frame.len().checked_sub(header)?);
    let begin = usize::from(fragment & 0x1fff) * 8;
    let (end, goes_on) = (begin + length, fragment & 0x2000 != 0);
    let mut expected = [&whole[..header], whole.get(header + begin..header + end)?].concat();
    expected[16..18].copy_from_slice(&((header - 14 + length) as u16).to_be_bytes());
    expected[20..22].copy_from_slice(&fragment.to_be_bytes());
    expected[24..26].fill(0);
    let sum = checksum(&expected[14..header]).to_be_bytes();
    expected[24..26].copy_from_slice(&sum);
    let all = whole.len() - header;
    let is_one = frame == expected && goes_on == (end < all) && fragment & 0xc000 == 0;
    is_one.then(|| format!("piece {begin}..{end} of {all}"))
}

/// What the director itself says to the client: a reset, an ICMP error that quotes what went in, an echo reply. The
/// identification of the IP header is anyone's choice.
fn answered(sent: &[u8], frame: &[u8]) -> Option<String> {
    let whole = frame.len() >= 42 && frame.starts_with(&ROUTER.0) && frame[6..12] == DIRECTOR.0 && frame[14] == 0x45;
    if !whole || checksum(&frame[14..34]) != 0 {
        return None;
    }
    let address = |at: usize| Ipv4Addr::from_bits(u32::from_be_bytes(frame[at..at + 4].try_into().unwrap()));
    let (tos, fragment, ttl, segment) = (frame[15], &frame[20..22], frame[22], &frame[34..]);
    let from = address(26);
    if frame[30..34] != sent[26..30] {
        return None;
    }
    let header = format!("from {from} tos={tos:02x} ttl={ttl} df={}", fragment[0] >> 6 & 1);
    match frame[23] {
        TCP => {
            let number = |at: usize| u32::from_be_bytes(segment[at..at + 4].try_into().unwrap());
            let right = reflected(sent, segment) && tcp_is_right(frame);
            let (sequence, acknowledged) = (number(4), number(8));
            let flags = flag_letters(segment[13]);
            right.then(|| format!("tcp {flags} seq={sequence} ack={acknowledged} {header} len={}", segment.len()))
        }
        ICMP if checksum(segment) == 0 && segment[0] == 0 => {
            let asked = &sent[14 + usize::from(sent[14] & 15) * 4..];
            (segment[4..] == asked[4..]).then(|| format!("echo reply {header}"))
        }
        ICMP if checksum(segment) == 0 => {
            let quoted = &segment[8..];
            let rest = u32::from_be_bytes(segment[4..8].try_into().unwrap());
            // What was on its way out already had one hop less.
            let hop = if sent[14..].starts_with(quoted) {
                ""
            } else if one_hop_on(&sent[14..]).starts_with(quoted) {
                " ttl-1"
            } else {
                return None;
            };
            Some(format!("icmp {}.{} rest={rest} quoted={}{hop} {header}", segment[0], segment[1], quoted.len()))
        }
        _ => None,
    }
}

/// Whether a segment goes back to where the sent one came from, by its ports.
fn reflected(sent: &[u8], segment: &[u8]) -> bool {
    let asked = &sent[14 + usize::from(sent[14] & 15) * 4..];
    asked[..2] == segment[2..4] && asked[2..4] == segment[..2]
}

fn tcp_is_right(frame: &[u8]) -> bool {
    let length = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    let segment = &frame[34..14 + length];
    let mut pseudo = frame[26..34].to_vec();
    pseudo.extend([0, TCP]);
    pseudo.extend((segment.len() as u16).to_be_bytes());
    pseudo.extend(segment);
    checksum(&pseudo) == 0
}
