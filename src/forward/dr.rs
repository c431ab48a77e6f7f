//! Direct routing: the frame gets the real's MAC address and the director's own as source. The packet inside stays as
//! the client sent it, but for one hop counted, so that no arrangement of directors can loop it for ever.

use crate::packet::{ethernet, ipv4, ipv6};
use crate::service::Real;
use crate::verdict::{DropReason, Verdict};

/// What the rewrite needs to know of a packet that has been parsed, in one word: written and read whole, it goes from
/// one pass over the burst to the next without a stall.
#[derive(Clone, Copy, Debug)]
pub struct Packet(u64);

impl Packet {
    /// `network` is where the IP header begins in the frame; `hops` the TTL, or IPv6's hop limit.
    #[inline(always)]
    pub const fn new(network: usize, hops: u8, total_len: usize, is_v6: bool) -> Packet {
        let total_len = if total_len > 0xffff { 0xffff } else { total_len };
        Packet(network as u64 & 0xff | (hops as u64) << 8 | (total_len as u64) << 16 | (is_v6 as u64) << 32)
    }

    #[inline(always)]
    const fn network(self) -> usize {
        self.0 as u8 as usize
    }

    #[inline(always)]
    const fn hops(self) -> u8 {
        (self.0 >> 8) as u8
    }

    #[inline(always)]
    pub const fn total_len(self) -> u16 {
        (self.0 >> 16) as u16
    }

    #[inline(always)]
    const fn is_v6(self) -> bool {
        self.0 >> 32 & 1 != 0
    }
}

#[inline(always)]
pub fn forward(frame: &mut [u8], packet: Packet, real: &Real) -> Verdict {
    if packet.hops() <= 1 {
        return Verdict::Drop(DropReason::TtlExpired);
    }
    if packet.total_len() > real.mtu {
        return Verdict::Drop(DropReason::LongerThanMtu);
    }
    ethernet::set_addresses(frame, &real.link);
    if let Some(header) = frame.get_mut(packet.network()..) {
        if packet.is_v6() {
            ipv6::decrement_hop_limit(header);
        } else {
            ipv4::decrement_ttl(header);
        }
    }
    Verdict::Forward { port: real.egress }
}
