//! What a frame is, by its headers alone.

use std::net::IpAddr;

use super::burst::Note;
use crate::flow::{Event, FlowKey, WideKey};
use crate::forward::dr;
use crate::packet::icmp::{self, Conversation};
use crate::packet::plain::Gate;
use crate::packet::{Frame, ethernet, ipv4, ipv6, transport};
use crate::service::{Asked, ServiceId, Snapshot, Station};
use crate::verdict::{Answer, DropReason, Verdict};

/// What a frame turned out to be: a packet of a flow, or an error about one, or decided.
pub enum Recognised {
    Narrow(FlowKey, Note, Option<Conversation>),
    Wide(WideKey, Note, Option<Conversation>),
    Decided(Verdict),
}

/// A plain packet for a service; none: it is for somebody below.
#[inline(always)]
pub fn recognise_plain_v4<F: Frame>(gate: &Gate, snapshot: &Snapshot, frame: &F, place: u8) -> Option<(FlowKey, Note)> {
    let plain = gate.admit_v4(frame.bytes(), frame.wire_len())?;
    let ((client, source), (address, port)) = (plain.source(), plain.destination());
    let service = snapshot.find_v4(address, port, plain.protocol())?;
    let event = plain.tcp_flags().map_or(Event::Datagram, Event::of_tcp);
    let packet = dr::Packet::new(gate.network(), plain.ttl(), plain.total_len(), false);
    Some((FlowKey::new(client, source, service), Note { packet, event, place, service: None }))
}

#[inline(always)]
pub fn recognise_plain_v6<F: Frame>(gate: &Gate, snapshot: &Snapshot, frame: &F, place: u8) -> Option<(WideKey, Note)> {
    let plain = gate.admit_v6(frame.bytes(), frame.wire_len())?;
    let ((client, source), (address, port)) = (plain.source(), plain.destination());
    let service = snapshot.find_v6(address, port, plain.protocol())?;
    let event = plain.tcp_flags().map_or(Event::Datagram, Event::of_tcp);
    let packet = dr::Packet::new(gate.network(), plain.hop_limit(), plain.total_len(), true);
    Some((WideKey::ipv6(client, source, service), Note { packet, event, place, service: None }))
}

/// A frame that has passed its link layer.
struct Arrived<'a> {
    snapshot: &'a Snapshot,
    station: &'a Station,
    link: ethernet::Ethernet,
    frame: &'a [u8],
    wire_len: usize,
    place: u8,
}

/// What any frame is: a packet for a service, or else the verdict.
#[inline(never)]
pub fn recognise<F: Frame>(station: &Station, snapshot: &Snapshot, frame: &F, place: u8) -> Recognised {
    let (frame, wire_len) = (frame.bytes(), frame.wire_len());
    let Some(link) = ethernet::parse(frame) else { return dropped(DropReason::Truncated) };
    if link.vlan != station.vlan {
        // In a VLAN of ours nothing else is; without one, tagged frames are the host's.
        let verdict = station.vlan.map_or(Verdict::Host, |_| Verdict::Drop(DropReason::OtherVlan));
        return Recognised::Decided(verdict);
    }
    if link.destination != station.mac && !link.destination.is_multicast() {
        return dropped(DropReason::NotOurMac);
    }
    let arrived = Arrived { snapshot, station, link, frame, wire_len, place };
    match link.ether_type {
        ethernet::IPV4 => arrived.ipv4(),
        ethernet::IPV6 => arrived.ipv6(),
        ethernet::ARP => Recognised::Decided(Verdict::Manage),
        _ => Recognised::Decided(Verdict::Host),
    }
}

impl Arrived<'_> {
    fn ipv4(&self) -> Recognised {
        let packet = &self.frame[self.link.payload..];
        let ip = match ipv4::parse(packet, self.wire_len.saturating_sub(self.link.payload)) {
            Ok(ip) => ip,
            Err(reason) => return dropped(reason),
        };
        let segment = packet.get(ip.header_len..ip.total_len).or(packet.get(ip.header_len..)).unwrap_or_default();
        let whole = !ip.is_fragment && !self.link.destination.is_multicast();
        let packet = dr::Packet::new(self.link.payload, ip.ttl, ip.total_len, false);
        if let Some((event, source, port)) = conversation(ip.protocol, segment, whole) {
            let (client, address, protocol) = (ip.source, ip.destination, ip.protocol);
            let flow = Conversation { client, client_port: source, address, port, protocol };
            if let Some(candidate) = self.candidate(flow, event, packet) {
                return candidate;
            }
        }
        let about = if whole && ip.protocol == ipv4::ICMP { icmp::quoted(ip.destination, segment) } else { None };
        if let Some(quoted) = about {
            return self.error_about(quoted, packet);
        }
        self.without_service(ip.destination.into(), ip.is_fragment, ip.protocol, segment)
    }

    fn ipv6(&self) -> Recognised {
        let packet = &self.frame[self.link.payload..];
        let ip = match ipv6::parse(packet, self.wire_len.saturating_sub(self.link.payload)) {
            Ok(ip) => ip,
            Err(reason) => return dropped(reason),
        };
        let segment = packet.get(ip.header_len..ip.total_len).or(packet.get(ip.header_len..)).unwrap_or_default();
        let whole = !ip.is_fragment && !self.link.destination.is_multicast();
        if let Some((event, source, port)) = conversation(ip.protocol, segment, whole)
            && let Some(service) = self.snapshot.find_v6(ip.destination, port, ip.protocol)
        {
            let packet = dr::Packet::new(self.link.payload, ip.hop_limit, ip.total_len, true);
            let note = Note { packet, event, place: self.place, service: Some(service) };
            return Recognised::Wide(WideKey::ipv6(ip.source, source, service), note, None);
        }
        self.without_service(ip.destination.into(), ip.is_fragment, ip.protocol, segment)
    }

    /// An ICMP error about a flow of a service.
    fn error_about(&self, about: Conversation, packet: dr::Packet) -> Recognised {
        match self.candidate(about, Event::Error, packet) {
            Some(candidate) => candidate,
            None if self.snapshot.is_virtual(about.address.into()) => dropped(DropReason::NoConnection),
            None => Recognised::Decided(Verdict::Host),
        }
    }

    /// Where to look for the flow; none: nobody takes such packets, nor did before.
    fn candidate(&self, flow: Conversation, event: Event, packet: dr::Packet) -> Option<Recognised> {
        let Conversation { client, client_port: source, address, port, protocol } = flow;
        let about = (event == Event::Error).then_some(flow);
        let found = self.service((client.into(), address.into()), port, protocol);
        let note = Note { packet, event, place: self.place, service: found.map(|(service, _)| service) };
        match found {
            Some((service, false)) => Some(Recognised::Narrow(FlowKey::new(client, source, service), note, about)),
            None if !self.may_have_been(address.into()) => None,
            _ => Some(Recognised::Wide(WideKey::ipv4(client, source, address).to(protocol, port), note, about)),
        }
    }

    /// Whether there may be flows to an address and port that no service takes.
    fn may_have_been(&self, address: IpAddr) -> bool {
        let earlier = self.snapshot.earlier();
        !earlier.is_empty() && (earlier.may_have_been(address) || self.snapshot.is_virtual(address))
    }

    /// The packet's service, and whether its flows are in the wide table.
    fn service(&self, ends: (IpAddr, IpAddr), port: u16, protocol: u8) -> Option<(ServiceId, bool)> {
        let ingress = self.snapshot.stations.iter().position(|station| std::ptr::eq(station, self.station));
        let asked = Asked {
            source: ends.0,
            destination: ends.1,
            port,
            protocol,
            ingress: ingress.unwrap_or(0) as u8,
            source_mac: self.link.source,
        };
        self.snapshot.find(&asked).map(|found| (found.service, found.wide))
    }

    /// A good packet that no service takes. What is for a virtual address never reaches the host's kernel, which might
    /// hold the address too and would answer.
    #[cold]
    fn without_service(&self, destination: IpAddr, is_fragment: bool, protocol: u8, segment: &[u8]) -> Recognised {
        let verdict = if !self.snapshot.is_virtual(destination) {
            Verdict::Host
        } else if self.link.destination.is_multicast() {
            Verdict::Drop(DropReason::NotOurMac)
        } else if is_fragment {
            Verdict::Drop(DropReason::Fragment)
        } else if matches!(protocol, ipv4::ICMP | ipv6::ICMP) {
            Verdict::Manage
        } else {
            refusal_of(destination, protocol, segment)
        };
        Recognised::Decided(verdict)
    }
}

/// Nobody listens at this port of the virtual address.
fn refusal_of(destination: IpAddr, protocol: u8, segment: &[u8]) -> Verdict {
    match protocol {
        ipv4::TCP if segment.len() < transport::TCP_HEADER => Verdict::Drop(DropReason::Truncated),
        ipv4::UDP if segment.len() < transport::UDP_HEADER => Verdict::Drop(DropReason::Truncated),
        ipv4::TCP => {
            let event = transport::tcp_flags(segment).map_or(Event::Blank, Event::of_tcp);
            closed_port(event, destination.is_ipv6())
        }
        ipv4::UDP => closed_port(Event::Datagram, destination.is_ipv6()),
        _ => Verdict::Drop(DropReason::NoService),
    }
}

/// The same for a packet that was read.
pub fn closed_port(event: Event, is_v6: bool) -> Verdict {
    match event {
        Event::Error => Verdict::Drop(DropReason::NoConnection),
        _ if is_v6 => Verdict::Drop(DropReason::NoService),
        Event::Rst => Verdict::Drop(DropReason::NoService),
        Event::Datagram => Verdict::Answer(Answer::ClosedPort),
        _ => Verdict::Answer(Answer::Reset),
    }
}

/// What a whole packet tells about its flow, with the source and the destination port.
fn conversation(protocol: u8, segment: &[u8], whole: bool) -> Option<(Event, u16, u16)> {
    let event = match protocol {
        _ if !whole => None,
        ipv4::TCP => transport::tcp_flags(segment).map(Event::of_tcp),
        ipv4::UDP => transport::is_udp(segment).then_some(Event::Datagram),
        _ => None,
    };
    let (source, destination) = transport::ports(segment)?;
    Some((event?, source, destination))
}

fn dropped(reason: DropReason) -> Recognised {
    Recognised::Decided(Verdict::Drop(reason))
}
