//! What the sender of a packet that goes nowhere is told: by the worker's word, within limits.

use super::limit::{Limit, Rate};
use super::{Manager, Out};
use crate::clock::Now;
use crate::control::wire::ManageStats;
use crate::packet::answer::answer;
use crate::packet::{ethernet, ipv4};
use crate::verdict::Answer;

/// Each kind has a limit of its own, so that a flood of one leaves the others.
pub(super) struct Refusals {
    resets: Limit,
    unreachable: Limit,
    exceeded: Limit,
    too_long: Limit,
}

impl Refusals {
    pub(super) fn new(resets: Rate, errors: Rate) -> Refusals {
        let [unreachable, exceeded, too_long] = [errors; 3].map(Limit::new);
        Refusals { resets: Limit::new(resets), unreachable, exceeded, too_long }
    }

    fn of(&mut self, kind: Answer) -> &mut Limit {
        match kind {
            Answer::Reset => &mut self.resets,
            Answer::PortUnreachable | Answer::ClosedPort => &mut self.unreachable,
            Answer::TimeExceeded => &mut self.exceeded,
            Answer::FragmentationNeeded { .. } => &mut self.too_long,
        }
    }
}

impl Manager {
    /// Tells the sender of a frame, which came without its VLAN tag by `port`, what a worker found. What is not to be
    /// answered at all is ignored.
    pub fn refuse(&mut self, now: Now, port: usize, kind: Answer, frame: &[u8], out: &mut Vec<Out>) {
        let mtu = |egress: u8| Some(self.ports.get(usize::from(egress))?.mtu);
        let answer = if self.may_be_told(port, frame) { answer(frame, kind, mtu) } else { None };
        let Some((answer, at)) = answer.zip(self.ports.get_mut(port)) else {
            self.stats.ignored += 1;
            return;
        };
        let within = at.refusals.of(kind).take(now);
        *count(&mut self.stats, kind, within) += 1;
        if within {
            out.push(Out::Send { port, frame: answer });
        }
    }

    /// Whether the frame is for this port and comes from where somebody else is.
    fn may_be_told(&self, port: usize, frame: &[u8]) -> bool {
        let Some((at, link)) = self.ports.get(port).zip(ethernet::parse(frame)) else { return false };
        let packet = frame.get(link.payload..).unwrap_or_default();
        let Ok(ip) = ipv4::parse(packet, packet.len()) else { return false };
        let theirs = at.is_sane(ip.source) && !self.is_ours(port, ip.source) && !self.macs.contains(&link.source);
        theirs && link.destination == at.mac && ip.destination != at.address.address && at.is_sane(ip.destination)
    }
}

/// Of this kind: how many were sent, or else how many were held back by the limit.
fn count(stats: &mut ManageStats, kind: Answer, sent: bool) -> &mut u64 {
    match (kind, sent) {
        (Answer::Reset, true) => &mut stats.resets,
        (Answer::Reset, false) => &mut stats.resets_limited,
        (Answer::PortUnreachable | Answer::ClosedPort, true) => &mut stats.port_unreachable,
        (Answer::PortUnreachable | Answer::ClosedPort, false) => &mut stats.port_unreachable_limited,
        (Answer::TimeExceeded, true) => &mut stats.time_exceeded,
        (Answer::TimeExceeded, false) => &mut stats.time_exceeded_limited,
        (Answer::FragmentationNeeded { .. }, true) => &mut stats.fragmentation_needed,
        (Answer::FragmentationNeeded { .. }, false) => &mut stats.fragmentation_needed_limited,
    }
}
