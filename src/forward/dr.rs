//! Direct routing: the frame gets the real's MAC address and the director's own as source. The packet inside stays as
//! the client sent it, but for one hop counted, so that no arrangement of directors can loop it for ever.

use crate::packet::{ethernet, ipv4};
use crate::service::Real;
use crate::verdict::{DropReason, Verdict};

/// What the rewrite needs to know of a packet that has been parsed.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// Where the IPv4 header begins in the frame.
    pub network: usize,
    pub total_len: usize,
    pub ttl: u8,
}

pub fn forward(frame: &mut [u8], packet: Packet, real: &Real, mtu: usize) -> Verdict {
    if packet.ttl <= 1 {
        return Verdict::Drop(DropReason::TtlExpired);
    }
    if packet.total_len > mtu {
        return Verdict::Drop(DropReason::LongerThanMtu);
    }
    ethernet::set_addresses(frame, &real.link);
    if let Some(header) = frame.get_mut(packet.network..) {
        ipv4::decrement_ttl(header);
    }
    Verdict::Forward { port: real.egress }
}
