//! The decision: what becomes of each frame of a burst. Every branch of a packet's way is here, in order, top to
//! bottom; the leaves are pure functions of their own modules.
//!
//! No I/O, clock, log, lock or allocation: bytes, a snapshot, this core's own table and `now` go in, verdicts come out.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;

use crate::clock::Now;
use crate::counters::Ledger;
use crate::flow::{Event, FlowKey, FlowState, FlowTable, Hash, Owners, Pin, Slot, TableFull, timeout_ticks};
use crate::forward::dr;
use crate::packet::transport;
use crate::packet::{BURST, Burst, Frame, ethernet, ipv4};
use crate::service::maglev::mix;
use crate::service::{Real, RealId, Schedule, Service, Snapshot, Station};
use crate::verdict::{DropReason, Verdict};

/// How long the sweep takes to come round the whole table.
const SWEEP_ROUND: Duration = Duration::from_secs(10);
/// How long after a connection that got no entry others like it may still be about.
const STATELESS_TICKS: u32 = timeout_ticks(FlowState::Established);

/// What one core decides with: nobody else touches it.
pub struct Director {
    flows: FlowTable,
    /// One a service, by its index.
    schedules: Vec<Schedule>,
    ledger: Arc<Ledger>,
    swept_until: Now,
    /// Connections of which only a SYN was seen, and how many of them may have an entry.
    half_open: usize,
    half_open_most: usize,
    /// Until then there may be connections without an entry, because the table or the half-open ones were at their
    /// limit.
    stateless_until: u32,
    /// None: every flow that arrives here is this worker's.
    owners: Option<Owners>,
}

/// A good packet for a service.
#[derive(Clone, Copy)]
struct Candidate {
    key: FlowKey,
    hash: Hash,
    packet: dr::Packet,
    event: Event,
    /// Its place in the burst.
    place: u8,
}

/// Where a flow's packet goes, and whether that is remembered.
enum Way {
    /// The flow is known.
    Known(Slot, Pin, RealId),
    /// A new one, that has just got its entry.
    New(RealId),
    /// By the hash alone: there is no entry, and there will be none.
    Stateless(RealId),
}

/// Until the second look at it.
const UNDECIDED: Verdict = Verdict::Manage;

/// Packets of one service in a row, counted together.
#[derive(Default)]
struct Run {
    service: usize,
    packets: u64,
    bytes: u64,
}

impl Director {
    /// `worker` is the number of the core's worker: it sets where its schedulers start. `half_open` is how many
    /// connections may have an entry that have sent nothing but a SYN.
    pub fn new(
        flows: FlowTable,
        half_open: usize,
        snapshot: &Snapshot,
        worker: usize,
        ledger: Arc<Ledger>,
    ) -> Director {
        let start = |service: &Service| Schedule::start(service, &snapshot.reals, worker);
        Director {
            flows,
            schedules: snapshot.services.iter().map(start).collect(),
            ledger,
            swept_until: Now(0),
            half_open: 0,
            half_open_most: half_open,
            stateless_until: 0,
            owners: None,
        }
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
        let mut verdicts = Burst::new();
        let mut candidates = ArrayVec::<Candidate, BURST>::new();
        for (frame, place) in frames.iter().zip(0u8..) {
            verdicts.push(match recognise(&self.flows, station, snapshot, frame, place) {
                Ok(candidate) => match self.owners.and_then(|owners| owners.other(candidate.key.client())) {
                    Some(worker) => Verdict::Hand { worker },
                    None => {
                        self.flows.prefetch(candidate.hash);
                        candidates.push(candidate);
                        UNDECIDED
                    }
                },
                Err(verdict) => verdict,
            });
        }
        let (tick, mut run) = (now.tick(), Run::default());
        for candidate in &candidates {
            let place = usize::from(candidate.place);
            let frame = frames[place].bytes_mut();
            verdicts[place] = self.steer(tick, station.mtu, snapshot, candidate, frame, &mut run);
        }
        self.ledger.count_run(run.service, run.packets, run.bytes);
        verdicts
    }

    /// A packet for a service: finds its way, rewrites it, and remembers.
    #[inline(always)]
    fn steer(
        &mut self,
        tick: u32,
        mtu: u16,
        snapshot: &Snapshot,
        candidate: &Candidate,
        frame: &mut [u8],
        run: &mut Run,
    ) -> Verdict {
        let way = match self.way(tick, snapshot, candidate) {
            Ok(way) => way,
            Err(reason) => return Verdict::Drop(reason),
        };
        let (Way::Known(_, _, id) | Way::New(id) | Way::Stateless(id)) = way;
        let real = snapshot.real(id);
        if !real.has_mac {
            return Verdict::Drop(DropReason::RealUnresolved);
        }
        let verdict = dr::forward(frame, candidate.packet, real, mtu);
        if let Verdict::Forward { .. } = verdict {
            match way {
                Way::Known(slot, old, _) => self.renew(tick, candidate, slot, old, id),
                Way::New(_) => (),
                Way::Stateless(_) => self.ledger.frames.stateless.add(1),
            }
            self.ledger.count_packet(id.index(), candidate.packet.total_len());
            run.count(&self.ledger, real.service.index(), candidate.packet.total_len());
        }
        verdict
    }

    /// The way of a packet: its flow's real; for a new flow the scheduler's. A flow that starts again while its real
    /// does not answer gets another.
    #[inline(always)]
    fn way(&mut self, tick: u32, snapshot: &Snapshot, candidate: &Candidate) -> Result<Way, DropReason> {
        match self.flows.find(candidate.key, candidate.hash, tick) {
            Some((slot, pin)) if !candidate.event.opens() || snapshot.real(pin.real).answers => {
                Ok(Way::Known(slot, pin, pin.real))
            }
            Some((slot, pin)) => Ok(Way::Known(slot, pin, self.choose(snapshot, candidate.key)?)),
            None => self.way_of_unknown(tick, snapshot, candidate),
        }
    }

    /// A packet that no entry is for.
    #[cold]
    fn way_of_unknown(&mut self, tick: u32, snapshot: &Snapshot, candidate: &Candidate) -> Result<Way, DropReason> {
        let (source, _) = candidate.key.client();
        if !candidate.event.opens() {
            // Its connection may have begun when there was no room for it.
            let stateless = tick < self.stateless_until && candidate.event != Event::Rst;
            return if stateless { stateless_way(snapshot, candidate) } else { Err(DropReason::NoConnection) };
        }
        if !ipv4::is_host(source) || snapshot.is_virtual(IpAddr::V4(source)) {
            return Err(DropReason::BadSource);
        }
        let crowded = candidate.event == Event::Syn && self.half_open >= self.half_open_most;
        if !crowded {
            let real = self.choose(snapshot, candidate.key)?;
            if self.begin(tick, candidate, real).is_ok() {
                return Ok(Way::New(real));
            }
        }
        self.stateless_until = tick.saturating_add(STATELESS_TICKS);
        stateless_way(snapshot, candidate)
    }

    /// The real for a new connection, or why there is none.
    fn choose(&mut self, snapshot: &Snapshot, key: FlowKey) -> Result<RealId, DropReason> {
        let service = key.service().map(|id| snapshot.service(id)).ok_or(DropReason::NoService)?;
        let schedule = self.schedules.get_mut(service.id.index()).ok_or(DropReason::NoService)?;
        schedule.choose(service, &snapshot.reals).ok_or_else(|| nobody(service, snapshot))
    }

    /// Enters a new flow. What has run out and is in its way goes.
    fn begin(&mut self, tick: u32, candidate: &Candidate, real: RealId) -> Result<(), TableFull> {
        let pin = Pin { real, state: FlowState::None.on(candidate.event), seen: tick };
        let (ledger, half_open) = (&self.ledger, &mut self.half_open);
        self.flows.insert(candidate.key, candidate.hash, pin, |key, old| ended(ledger, half_open, key, old))?;
        self.half_open += usize::from(is_half_open(pin));
        self.ledger.flow_began(&candidate.key, &pin);
        self.ledger.frames.flows.set(self.flows.len() as u64);
        Ok(())
    }

    /// Another packet of a flow.
    #[inline]
    fn renew(&mut self, tick: u32, candidate: &Candidate, slot: Slot, old: Pin, real: RealId) {
        let new = Pin { real, state: old.state.on(candidate.event), seen: tick };
        if old != new {
            self.flows.update(slot, new);
            if old.state != new.state || old.real != new.real {
                self.note_change(candidate.key, old, new);
            }
        }
    }

    #[cold]
    fn note_change(&mut self, key: FlowKey, old: Pin, new: Pin) {
        self.half_open = self.half_open + usize::from(is_half_open(new)) - usize::from(is_half_open(old));
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
        let (ledger, half_open) = (&self.ledger, &mut self.half_open);
        self.flows.sweep(now.tick(), due.min(limit), |key, old| ended(ledger, half_open, key, old));
        ledger.frames.flows.set(self.flows.len() as u64);
    }
}

impl Run {
    #[inline]
    fn count(&mut self, ledger: &Ledger, service: usize, bytes: u16) {
        if self.service != service {
            ledger.count_run(self.service, self.packets, self.bytes);
            *self = Run { service, ..Run::default() };
        }
        self.packets += 1;
        self.bytes += u64::from(bytes);
    }
}

fn is_half_open(pin: Pin) -> bool {
    pin.state == FlowState::SynRecv
}

fn ended(ledger: &Ledger, half_open: &mut usize, key: FlowKey, pin: Pin) {
    *half_open -= usize::from(is_half_open(pin));
    ledger.flow_ended(&key, &pin);
}

/// Why a service has nobody for a connection.
fn nobody(service: &Service, snapshot: &Snapshot) -> DropReason {
    let weighs = |real: &Real| real.weight > 0;
    let silent = snapshot.reals[service.reals.clone()].iter().any(weighs);
    if silent { DropReason::RealUnresolved } else { DropReason::NoReal }
}

/// By the client's address and port alone, the same on every director.
fn stateless_way(snapshot: &Snapshot, candidate: &Candidate) -> Result<Way, DropReason> {
    let service = candidate.key.service().map(|id| snapshot.service(id)).ok_or(DropReason::NoService)?;
    let (client, port) = candidate.key.client();
    let hash = mix(u64::from(client.to_bits()) << 16 | u64::from(port));
    service.stateless.choose(hash).map(|real| Way::Stateless(RealId(real))).ok_or_else(|| nobody(service, snapshot))
}

/// What the frame is, by its headers alone: a packet for a service, or else the verdict.
#[inline(always)]
fn recognise<F: Frame>(
    flows: &FlowTable,
    station: &Station,
    snapshot: &Snapshot,
    frame: &F,
    place: u8,
) -> Result<Candidate, Verdict> {
    let (bytes, wire_len) = (frame.bytes(), frame.wire_len());
    let link = ethernet::parse(bytes).ok_or(Verdict::Drop(DropReason::Truncated))?;
    if link.vlan != station.vlan {
        // In a VLAN of ours nothing else is; without one, tagged frames are the host's.
        return Err(station.vlan.map_or(Verdict::Host, |_| Verdict::Drop(DropReason::OtherVlan)));
    }
    if link.destination != station.mac && !link.destination.is_multicast() {
        return Err(Verdict::Drop(DropReason::NotOurMac));
    }
    match link.ether_type {
        ethernet::IPV4 => {
            let (key, event, packet) = recognise_ipv4(snapshot, &link, bytes, wire_len)?;
            Ok(Candidate { key, hash: flows.hash(key), packet, event, place })
        }
        ethernet::ARP => Err(Verdict::Manage),
        _ => Err(Verdict::Host),
    }
}

#[inline(always)]
fn recognise_ipv4(
    snapshot: &Snapshot,
    link: &ethernet::Ethernet,
    frame: &[u8],
    wire_len: usize,
) -> Result<(FlowKey, Event, dr::Packet), Verdict> {
    let packet = &frame[link.payload..];
    let ip = ipv4::parse(packet, wire_len.saturating_sub(link.payload)).map_err(Verdict::Drop)?;
    let segment = packet.get(ip.header_len..ip.total_len).or(packet.get(ip.header_len..)).unwrap_or_default();
    let event = match ip.protocol {
        _ if ip.is_fragment || link.destination.is_multicast() => None,
        ipv4::TCP => transport::tcp_flags(segment).map(Event::of_tcp),
        ipv4::UDP => transport::is_udp(segment).then_some(Event::Datagram),
        _ => None,
    };
    if let (Some(event), Some((source, destination))) = (event, transport::ports(segment))
        && let Some(service) = snapshot.find_v4(ip.destination, destination, ip.protocol)
    {
        let key = FlowKey::new(ip.source, source, service);
        return Ok((key, event, dr::Packet::new(link.payload, ip.ttl, ip.total_len, false)));
    }
    Err(without_service(snapshot, link, &ip, segment))
}

/// A good packet that no service takes. What is for a virtual address never reaches the host's kernel, which might hold
/// the address too and would answer.
#[cold]
fn without_service(snapshot: &Snapshot, link: &ethernet::Ethernet, ip: &ipv4::Ipv4, segment: &[u8]) -> Verdict {
    let short = match ip.protocol {
        ipv4::TCP => segment.len() < transport::TCP_HEADER,
        ipv4::UDP => segment.len() < transport::UDP_HEADER,
        _ => false,
    };
    if !snapshot.is_virtual(ip.destination.into()) {
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
