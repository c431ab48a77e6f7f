//! ARP over Ethernet for IPv4 (RFC 826): a checked view of a request or an answer, and the frames that we send.

use std::net::Ipv4Addr;

use super::{Mac, ethernet};

/// An ARP packet without its Ethernet header.
const PACKET_LEN: usize = 28;
/// Ethernet, IPv4, and the lengths of their addresses: the only kind we speak.
const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Request,
    Reply,
}

/// What an ARP packet says, copied out of its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    pub operation: Operation,
    pub sender_mac: Mac,
    pub sender: Ipv4Addr,
    pub target_mac: Mac,
    pub target: Ipv4Addr,
}

impl Arp {
    /// Reads what follows the Ethernet header. Padding behind the packet is allowed.
    pub fn parse(payload: &[u8]) -> Option<Arp> {
        let packet = payload.first_chunk::<PACKET_LEN>()?;
        if packet[..6] != KIND {
            return None;
        }
        let operation = match packet[6..8] {
            [0, 1] => Operation::Request,
            [0, 2] => Operation::Reply,
            _ => return None,
        };
        let (sender, target) = (station_at(packet, 8), station_at(packet, 18));
        Some(Arp { operation, sender_mac: sender.0, sender: sender.1, target_mac: target.0, target: target.1 })
    }

    /// An announcement: the sender speaks about its own address.
    pub fn is_gratuitous(&self) -> bool {
        self.sender == self.target
    }

    /// The frame that carries this packet, padded to Ethernet's least length.
    pub fn frame(&self, destination: Mac, source: Mac) -> Vec<u8> {
        let mut frame = Vec::with_capacity(ethernet::LEAST_FRAME);
        ethernet::write_header(&mut frame, destination, source, ethernet::ARP);
        frame.extend_from_slice(&KIND);
        frame.extend_from_slice(match self.operation {
            Operation::Request => &[0, 1],
            Operation::Reply => &[0, 2],
        });
        frame.extend_from_slice(&self.sender_mac.0);
        frame.extend_from_slice(&self.sender.octets());
        frame.extend_from_slice(&self.target_mac.0);
        frame.extend_from_slice(&self.target.octets());
        ethernet::pad(&mut frame);
        frame
    }
}

/// The MAC and the address behind it.
fn station_at(packet: &[u8; PACKET_LEN], at: usize) -> (Mac, Ipv4Addr) {
    let (mut mac, mut address) = ([0; 6], [0; 4]);
    mac.copy_from_slice(&packet[at..at + 6]);
    address.copy_from_slice(&packet[at + 6..at + 10]);
    (Mac(mac), address.into())
}

/// Asks who has `target`: everybody, or only `station` when it is known.
pub fn request(mac: Mac, sender: Ipv4Addr, target: Ipv4Addr, station: Option<Mac>) -> Vec<u8> {
    let question = Arp { operation: Operation::Request, sender_mac: mac, sender, target_mac: Mac::ZERO, target };
    question.frame(station.unwrap_or(Mac::BROADCAST), mac)
}

/// Answers `question` with `mac`.
pub fn reply(question: &Arp, mac: Mac) -> Vec<u8> {
    let answer = Arp {
        operation: Operation::Reply,
        sender_mac: mac,
        sender: question.target,
        target_mac: question.sender_mac,
        target: question.sender,
    };
    answer.frame(question.sender_mac, mac)
}

/// Tells everybody that `address` is at `mac`: a request for one's own address, the form RFC 5227 recommends.
pub fn announcement(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    request(mac, address, address, None)
}

/// Puts another sender into the ARP packet behind `header` bytes of the frame, which [`Arp::parse`] has accepted.
pub fn set_sender(frame: &mut [u8], header: usize, sender: Ipv4Addr) {
    if let Some(field) = frame.get_mut(header + 14..header + 18) {
        field.copy_from_slice(&sender.octets());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{ArpEthIpv4Packet, ArpOperation, LaxSlicedPacket, NetSlice, SlicedPacket};
    use proptest::prelude::*;

    const OURS: Mac = Mac([2, 0, 0, 0, 0, 0x10]);
    const THEIRS: Mac = Mac([2, 0, 0, 0, 0, 0x01]);
    const OUR_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 10);
    const THEIR_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

    /// What the judge reads: the Ethernet addresses, and the packet.
    fn judged(frame: &[u8]) -> (Mac, Mac, ArpEthIpv4Packet) {
        let packet = SlicedPacket::from_ethernet(frame).unwrap();
        let Some(etherparse::LinkSlice::Ethernet2(ethernet)) = &packet.link else { panic!("no Ethernet") };
        let Some(NetSlice::Arp(arp)) = &packet.net else { panic!("no ARP") };
        let arp = arp.to_packet().try_eth_ipv4().unwrap();
        (Mac(ethernet.destination()), Mac(ethernet.source()), arp)
    }

    fn packet(operation: ArpOperation, from: (Mac, Ipv4Addr), to: (Mac, Ipv4Addr)) -> ArpEthIpv4Packet {
        ArpEthIpv4Packet {
            operation,
            sender_mac: from.0.0,
            sender_ipv4: from.1.octets(),
            target_mac: to.0.0,
            target_ipv4: to.1.octets(),
        }
    }

    #[test]
    fn a_request_asks_everybody_or_one_station() {
        for (station, destination) in [(None, Mac::BROADCAST), (Some(THEIRS), THEIRS)] {
            let frame = request(OURS, OUR_ADDRESS, THEIR_ADDRESS, station);
            assert_eq!(frame.len(), 60);
            let asked = packet(ArpOperation::REQUEST, (OURS, OUR_ADDRESS), (Mac::ZERO, THEIR_ADDRESS));
            assert_eq!(judged(&frame), (destination, OURS, asked));
        }
    }

    #[test]
    fn a_reply_goes_to_who_asked() {
        let question = Arp::parse(&request(THEIRS, THEIR_ADDRESS, OUR_ADDRESS, None)[14..]).unwrap();
        let answered = packet(ArpOperation::REPLY, (OURS, OUR_ADDRESS), (THEIRS, THEIR_ADDRESS));
        assert_eq!(judged(&reply(&question, OURS)), (THEIRS, OURS, answered));
    }

    #[test]
    fn an_announcement_is_gratuitous_and_broadcast() {
        let frame = announcement(OURS, OUR_ADDRESS);
        let arp = Arp::parse(&frame[14..]).unwrap();
        assert!(arp.is_gratuitous());
        assert_eq!(judged(&frame).0, Mac::BROADCAST);
        assert_eq!(arp.sender_mac, OURS);
    }

    #[test]
    fn other_kinds_of_arp_are_refused() {
        let good = request(OURS, OUR_ADDRESS, THEIR_ADDRESS, None)[14..].to_vec();
        assert!(Arp::parse(&good).is_some());
        assert!(Arp::parse(&good[..27]).is_none(), "short");
        for (at, value) in [(1, 6), (2, 0x86), (4, 8), (5, 16), (7, 3), (6, 1)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(Arp::parse(&bad).is_none(), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_as_the_judge_reads_them(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut frame = vec![0; 12];
            frame.extend_from_slice(&[8, 6]);
            frame.extend_from_slice(&bytes);
            let judge = LaxSlicedPacket::from_ethernet(&frame).ok().and_then(|packet| match packet.net {
                Some(etherparse::LaxNetSlice::Arp(arp)) => arp.to_packet().try_eth_ipv4().ok(),
                _ => None,
            });
            match (Arp::parse(&bytes), judge) {
                (Some(ours), Some(judge)) => prop_assert_eq!(ours.sender.octets(), judge.sender_ipv4),
                (None, Some(judge)) => prop_assert!(!matches!(judge.operation.0, 1 | 2)),
                (Some(_), None) => prop_assert!(false, "we accept what the judge refuses"),
                (None, None) => {}
            }
        }

        #[test]
        fn what_is_written_is_read_back(sender in any::<[u8; 4]>(), target in any::<[u8; 4]>(), mac in any::<[u8; 6]>()) {
            let frame = request(Mac(mac), sender.into(), target.into(), None);
            let arp = Arp::parse(&frame[14..]).unwrap();
            prop_assert_eq!(arp.sender_mac, Mac(mac));
            prop_assert_eq!(arp.sender.octets(), sender);
            prop_assert_eq!(arp.target.octets(), target);
        }
    }
}
