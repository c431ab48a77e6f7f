//! The decision: what becomes of each frame of a burst. Every branch of a packet's way is here, in order, top to
//! bottom; the leaves are pure functions of their own modules.
//!
//! No I/O, clock, log, lock or allocation: bytes, a snapshot, this core's own table and `now` go in, verdicts come out.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;

use crate::clock::Now;
use crate::counters::Ledger;
use crate::flow::{FlowKey, FlowState, FlowTable, Hash, Owners, Pin, Slot, TableFull};
use crate::forward::dr;
use crate::packet::transport::{self, TcpFlags};
use crate::packet::{BURST, Burst, Frame, ethernet, ipv4};
use crate::service::{Real, RealId, Schedule, Service, Snapshot, Station};
use crate::verdict::{DropReason, Verdict};

/// How long the sweep takes to come round the whole table.
const SWEEP_ROUND: Duration = Duration::from_secs(10);

/// What one core decides with: nobody else touches it.
pub struct Director {
    flows: FlowTable,
    /// One a service, by its index.
    schedules: Vec<Schedule>,
    ledger: Arc<Ledger>,
    swept_until: Now,
    /// None: every flow that arrives here is this worker's.
    owners: Option<Owners>,
}

/// What a frame turned out to be.
enum Step {
    Decided(Verdict),
    Flow(Candidate),
}

/// A good packet for a service.
struct Candidate {
    key: FlowKey,
    hash: Hash,
    source: Ipv4Addr,
    event: Event,
    packet: dr::Packet,
}

/// What a packet tells about its flow.
#[derive(Clone, Copy)]
enum Event {
    Tcp(TcpFlags),
    Datagram,
}

impl Event {
    /// Whether it may begin a flow: SYN, with ACK or without, as the kernel has it; any datagram.
    fn opens(self) -> bool {
        match self {
            Event::Tcp(flags) => flags.has(TcpFlags::SYN),
            Event::Datagram => true,
        }
    }

    fn next(self, state: FlowState) -> FlowState {
        match self {
            Event::Tcp(flags) => state.on_tcp(flags),
            Event::Datagram => FlowState::Udp,
        }
    }
}

impl Director {
    /// `worker` is the number of the core's worker: it sets where its schedulers start.
    pub fn new(flows: FlowTable, snapshot: &Snapshot, worker: usize, ledger: Arc<Ledger>) -> Director {
        let start = |service: &Service| Schedule::start(service, &snapshot.reals, worker);
        let schedules = snapshot.services.iter().map(start).collect();
        Director { flows, schedules, ledger, swept_until: Now(0), owners: None }
    }

    /// From now on, flows that other workers own are theirs to decide.
    pub fn share(&mut self, owners: Owners) {
        self.owners = Some(owners);
    }

    pub fn flows(&self) -> &FlowTable {
        &self.flows
    }

    /// One verdict a frame, in order. All frames are read and their table lines asked for before the first line is
    /// needed.
    pub fn decide<F: Frame>(
        &mut self,
        now: Now,
        station: &Station,
        snapshot: &Snapshot,
        frames: &mut Burst<F>,
    ) -> Burst<Verdict> {
        let mut steps = ArrayVec::<Step, BURST>::new();
        for frame in frames.iter() {
            let mut step = recognise(&self.flows, station, snapshot, frame.bytes(), frame.wire_len());
            if let Step::Flow(candidate) = &step {
                match self.owners.and_then(|owners| owners.other(candidate.key.client())) {
                    Some(worker) => step = Step::Decided(Verdict::Hand { worker }),
                    None => self.flows.prefetch(candidate.hash),
                }
            }
            steps.push(step);
        }
        let decide = |(frame, step): (&mut F, Step)| match step {
            Step::Decided(verdict) => verdict,
            Step::Flow(candidate) => self.steer(now.tick(), station, snapshot, &candidate, frame.bytes_mut()),
        };
        frames.iter_mut().zip(steps).map(decide).collect()
    }

    /// A packet for a service: its flow's real, or the scheduler's. A flow that starts again while its real does not
    /// answer gets another.
    fn steer(
        &mut self,
        tick: u32,
        station: &Station,
        snapshot: &Snapshot,
        candidate: &Candidate,
        frame: &mut [u8],
    ) -> Verdict {
        let opens = candidate.event.opens();
        let known = self.flows.find(candidate.key, candidate.hash, tick);
        let (real, state) = match known {
            Some((_, pin)) if !opens || snapshot.real(pin.real).answers => (Ok(pin.real), pin.state),
            Some((_, pin)) => (self.choose(snapshot, candidate.key), pin.state),
            None if !opens => (Err(DropReason::NoConnection), FlowState::None),
            None if !ipv4::can_be_source(candidate.source) || snapshot.is_virtual(candidate.source) => {
                (Err(DropReason::BadSource), FlowState::None)
            }
            None => (self.choose(snapshot, candidate.key), FlowState::None),
        };
        let pin = match real {
            Ok(real) => Pin { real, state: candidate.event.next(state), seen: tick },
            Err(reason) => return Verdict::Drop(reason),
        };
        let real = snapshot.real(pin.real);
        if !real.has_mac {
            return Verdict::Drop(DropReason::RealUnresolved);
        }
        let verdict = dr::forward(frame, candidate.packet, real, usize::from(station.mtu));
        if let Verdict::Forward { .. } = verdict {
            match known {
                Some((slot, old)) => self.renew(candidate.key, slot, old, pin),
                None if self.begin(candidate, pin).is_err() => return Verdict::Drop(DropReason::FlowTableFull),
                None => (),
            }
            self.ledger.count_packet(real.service.index(), pin.real.index(), candidate.packet.total_len);
        }
        verdict
    }

    /// The real for a new connection, or why there is none.
    fn choose(&mut self, snapshot: &Snapshot, key: FlowKey) -> Result<RealId, DropReason> {
        let service = key.service().map(|id| snapshot.service(id)).ok_or(DropReason::NoService)?;
        let schedule = self.schedules.get_mut(service.id.index()).ok_or(DropReason::NoService)?;
        schedule.choose(service, &snapshot.reals).ok_or_else(|| {
            let weighs = |real: &Real| real.weight > 0;
            let silent = snapshot.reals[service.reals.clone()].iter().any(weighs);
            if silent { DropReason::RealUnresolved } else { DropReason::NoReal }
        })
    }

    /// A new flow.
    fn begin(&mut self, candidate: &Candidate, pin: Pin) -> Result<(), TableFull> {
        let ledger = &self.ledger;
        self.flows.insert(candidate.key, candidate.hash, pin, |key, old| ledger.flow_ended(&key, &old))?;
        ledger.flow_began(&candidate.key, &pin);
        ledger.frames.flows.set(self.flows.len() as u64);
        Ok(())
    }

    /// Another packet of a flow.
    fn renew(&mut self, key: FlowKey, slot: Slot, old: Pin, new: Pin) {
        if old != new {
            self.flows.update(slot, new);
        }
        if old.real != new.real {
            self.ledger.flow_moved(&key, &old, &new);
        } else if old.state.is_active() != new.state.is_active() {
            self.ledger.flow_changed(&key, &old, &new);
        }
    }

    /// Clears some of what has run out: as much as keeps the sweep's round, at most `limit` buckets.
    pub fn sweep(&mut self, now: Now, limit: usize) {
        let buckets = self.flows.buckets() as u128;
        let elapsed = now.since(self.swept_until).min(SWEEP_ROUND);
        let due = (elapsed.as_nanos() * buckets / SWEEP_ROUND.as_nanos()) as usize;
        if due == 0 {
            return;
        }
        self.swept_until = now;
        if self.flows.is_empty() {
            return;
        }
        let ledger = &self.ledger;
        self.flows.sweep(now.tick(), due.min(limit), |key, old| ledger.flow_ended(&key, &old));
        ledger.frames.flows.set(self.flows.len() as u64);
    }
}

/// What the frame is, by its headers alone.
fn recognise(flows: &FlowTable, station: &Station, snapshot: &Snapshot, frame: &[u8], wire_len: usize) -> Step {
    let Some(link) = ethernet::parse(frame) else { return dropped(DropReason::Truncated) };
    if link.vlan != station.vlan {
        // In a VLAN of ours nothing else is; without one, tagged frames are the host's.
        return station.vlan.map_or(Step::Decided(Verdict::Host), |_| dropped(DropReason::OtherVlan));
    }
    if link.destination != station.mac && !link.destination.is_multicast() {
        return dropped(DropReason::NotOurMac);
    }
    match link.ether_type {
        ethernet::ARP => Step::Decided(Verdict::Manage),
        ethernet::IPV4 => recognise_ipv4(flows, snapshot, &link, frame, wire_len),
        _ => Step::Decided(Verdict::Host),
    }
}

fn recognise_ipv4(
    flows: &FlowTable,
    snapshot: &Snapshot,
    link: &ethernet::Ethernet,
    frame: &[u8],
    wire_len: usize,
) -> Step {
    let packet = &frame[link.payload..];
    let ip = match ipv4::parse(packet, wire_len.saturating_sub(link.payload)) {
        Ok(ip) => ip,
        Err(reason) => return dropped(reason),
    };
    let segment = packet.get(ip.header_len..ip.total_len).or(packet.get(ip.header_len..)).unwrap_or_default();
    let event = match ip.protocol {
        _ if ip.is_fragment || link.destination.is_multicast() => None,
        ipv4::TCP => transport::tcp_flags(segment).map(Event::Tcp),
        ipv4::UDP => transport::is_udp(segment).then_some(Event::Datagram),
        _ => None,
    };
    let found = event.zip(transport::ports(segment)).and_then(|(event, (source, destination))| {
        let service = snapshot.find(ip.destination, destination, ip.protocol)?;
        Some((event, FlowKey::new(ip.source, source, service.id)))
    });
    match found {
        None => Step::Decided(without_service(snapshot, link, &ip, segment)),
        Some((event, key)) => Step::Flow(Candidate {
            key,
            hash: flows.hash(key),
            source: ip.source,
            event,
            packet: dr::Packet { network: link.payload, total_len: ip.total_len, ttl: ip.ttl },
        }),
    }
}

/// A good packet that no service takes. What is for a virtual address never reaches the host's kernel, which might hold
/// the address too and would answer.
fn without_service(snapshot: &Snapshot, link: &ethernet::Ethernet, ip: &ipv4::Ipv4, segment: &[u8]) -> Verdict {
    let short = match ip.protocol {
        ipv4::TCP => segment.len() < transport::TCP_HEADER,
        ipv4::UDP => segment.len() < transport::UDP_HEADER,
        _ => false,
    };
    if !snapshot.is_virtual(ip.destination) {
        Verdict::Host
    } else if link.destination.is_multicast() {
        Verdict::Drop(DropReason::NotOurMac)
    } else if ip.is_fragment {
        Verdict::Drop(DropReason::Fragment)
    } else if ip.protocol == ipv4::ICMP {
        Verdict::Manage
    } else if short {
        Verdict::Drop(DropReason::Truncated)
    } else {
        Verdict::Drop(DropReason::NoService)
    }
}

fn dropped(reason: DropReason) -> Step {
    Step::Decided(Verdict::Drop(reason))
}
