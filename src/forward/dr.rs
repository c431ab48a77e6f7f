//! Direct routing: the frame gets the real's MAC address and the director's own as source. The packet inside stays as
//! the client sent it, but for one hop counted, so that no arrangement of directors can loop it for ever.

use crate::packet::{ethernet, ipv4, ipv6};
use crate::service::Real;
use crate::verdict::{Answer, DropReason, Verdict};

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

/// Rewrites the frame for `real`, or says why it cannot go there. `longest` is the MTU of the port that the frame came
/// in by.
pub fn forward(frame: &mut [u8], packet: Packet, real: &Real, longest: u16) -> Result<u8, Verdict> {
    if passes(packet, real) {
        Ok(rewrite(true, frame, packet, real))
    } else {
        Err(refusal(frame, packet, real, longest))
    }
}

/// Whether the packet has a hop left and is short enough for the way to `real`.
#[inline(always)]
pub const fn passes(packet: Packet, real: &Real) -> bool {
    packet.hops() > 1 && packet.total_len() <= real.mtu
}

/// Rewrites the frame of a packet that passes; says by which port it leaves. `may_be_v6` is a constant: false where only
/// IPv4 comes by.
#[inline(always)]
pub fn rewrite(may_be_v6: bool, frame: &mut [u8], packet: Packet, real: &Real) -> u8 {
    ethernet::set_addresses(frame, &real.link);
    if let Some(header) = frame.get_mut(packet.network()..) {
        if may_be_v6 && packet.is_v6() {
            ipv6::decrement_hop_limit(header);
        } else {
            ipv4::decrement_ttl(header);
        }
    }
    real.egress
}

/// Why it cannot, told to the sender where the kernel does.
#[cold]
fn refusal(frame: &[u8], packet: Packet, real: &Real, longest: u16) -> Verdict {
    if packet.hops() <= 1 && !packet.is_v6() {
        Verdict::Answer(Answer::TimeExceeded)
    } else if packet.hops() <= 1 {
        Verdict::Drop(DropReason::TtlExpired)
    } else if !real.has_mac {
        Verdict::Drop(DropReason::RealUnresolved)
    } else if packet.total_len() > longest {
        // It never was on the wire like that: an offload glued several together, and its sender cannot help it.
        Verdict::Drop(DropReason::LongerThanMtu)
    } else if !packet.is_v6() && ipv4::must_stay_whole(frame.get(packet.network()..).unwrap_or_default()) {
        Verdict::Answer(Answer::FragmentationNeeded { egress: real.egress })
    } else {
        Verdict::Drop(DropReason::LongerThanMtu)
    }
}
