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
use crate::flow::{
    ClientKey, Event, FlowKey, FlowState, FlowTable, Hash, Hint, Owners, Pin, Slot, Table, TableFull, WideKey,
    WideTable, timeout_ticks,
};
use crate::forward::dr;
use crate::packet::transport;
use crate::packet::{BURST, Burst, Frame, ethernet, ipv4, ipv6};
use crate::service::maglev::mix;
use crate::service::{Real, RealId, Schedule, Service, ServiceId, Snapshot, Station};
use crate::verdict::{DropReason, Verdict};

/// How long the sweep takes to come round the whole table.
const SWEEP_ROUND: Duration = Duration::from_secs(10);
/// How long after a connection that got no entry others like it may still be about.
const STATELESS_TICKS: u32 = timeout_ticks(FlowState::Established);

/// A core's flow tables: IPv4's, where a bucket is one cache line, and IPv6's.
pub struct Tables {
    pub narrow: FlowTable,
    pub wide: WideTable,
}

/// What one core decides with: nobody else touches it.
pub struct Director {
    flows: FlowTable,
    wide: WideTable,
    choosing: Choosing,
    swept_until: Now,
    /// None: every flow that arrives here is this worker's.
    owners: Option<Owners>,
}

/// What the flows of both families have in common.
struct Choosing {
    /// One a service, by its index.
    schedules: Vec<Option<Schedule>>,
    ledger: Arc<Ledger>,
    /// Connections of which only a SYN was seen, and how many of them may have an entry.
    half_open: usize,
    half_open_most: usize,
    /// Until then there may be connections without an entry, because the table or the half-open ones were at their
    /// limit.
    stateless_until: u32,
}

/// A good packet for a service.
#[derive(Clone, Copy)]
struct Candidate<K> {
    key: K,
    hash: Hash,
    packet: dr::Packet,
    event: Event,
}

/// Those of one burst: what the table is asked for, and, in the same order, what else is known and where in the burst
/// they are.
struct Candidates<K> {
    wanted: ArrayVec<(K, Hash), BURST>,
    notes: ArrayVec<(dr::Packet, Event, u8), BURST>,
}

impl<K> Default for Candidates<K> {
    fn default() -> Candidates<K> {
        Candidates { wanted: ArrayVec::new(), notes: ArrayVec::new() }
    }
}

/// What a frame turned out to be.
enum Recognised {
    V4(FlowKey, Event, dr::Packet),
    V6(WideKey, Event, dr::Packet),
    Decided(Verdict),
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

/// One burst's circumstances.
#[derive(Clone, Copy)]
struct Scene<'s> {
    tick: u32,
    snapshot: &'s Snapshot,
}

impl Director {
    /// `worker` is the number of the core's worker: it sets where its schedulers start. `half_open` is how many
    /// connections may have an entry that have sent nothing but a SYN.
    pub fn new(tables: Tables, half_open: usize, snapshot: &Snapshot, worker: usize, ledger: Arc<Ledger>) -> Director {
        let start = |service: &Option<Arc<Service>>| Some(Schedule::start(service.as_ref()?, &snapshot.reals, worker));
        let choosing = Choosing {
            schedules: snapshot.services.iter().map(start).collect(),
            ledger,
            half_open: 0,
            half_open_most: half_open,
            stateless_until: 0,
        };
        let Tables { narrow: flows, wide } = tables;
        Director { flows, wide, choosing, swept_until: Now(0), owners: None }
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
        let (mut narrow, mut wide) = (Candidates::default(), Candidates::default());
        let mut verdicts = Burst::new();
        for (frame, place) in frames.iter().zip(0u8..) {
            verdicts.push(match recognise(station, snapshot, frame) {
                Recognised::V4(key, event, packet) => {
                    expect(&self.flows, self.owners, &mut narrow, key, event, packet, place)
                }
                Recognised::V6(key, event, packet) => {
                    expect(&self.wide, self.owners, &mut wide, key, event, packet, place)
                }
                Recognised::Decided(verdict) => verdict,
            });
        }
        let scene = Scene { tick: now.tick(), snapshot };
        self.choosing.act(&mut self.flows, scene, &narrow, frames, &mut verdicts);
        if !wide.wanted.is_empty() {
            self.choosing.act(&mut self.wide, scene, &wide, frames, &mut verdicts);
        }
        verdicts
    }

    /// Clears some of what has run out: as much as keeps the sweep's round, at most `limit` buckets of each table.
    pub fn sweep(&mut self, now: Now, limit: usize) {
        const ROUND: u64 = SWEEP_ROUND.as_nanos() as u64;
        // Ten seconds of nanoseconds times all the buckets that a table can have: less than 64 bits.
        let elapsed = now.0.saturating_sub(self.swept_until.0).min(ROUND);
        let due = |buckets: usize| (elapsed * buckets as u64 / ROUND) as usize;
        let (narrow, wide) = (due(self.flows.buckets()), due(self.wide.buckets()));
        if narrow.max(wide) == 0 {
            return;
        }
        self.swept_until = now;
        self.choosing.sweep(&mut self.flows, now.tick(), narrow.min(limit));
        self.choosing.sweep(&mut self.wide, now.tick(), wide.min(limit));
    }
}

/// Notes a packet for the second pass and asks for the line it will need, or hands it to the worker that owns its flow.
#[inline(always)]
fn expect<K: ClientKey<Q>, const Q: usize>(
    flows: &Table<K, Q>,
    owners: Option<Owners>,
    candidates: &mut Candidates<K>,
    key: K,
    event: Event,
    packet: dr::Packet,
    place: u8,
) -> Verdict {
    if let Some(worker) = owners.and_then(|owners| owners.other(key.client_bits())) {
        return Verdict::Hand { worker };
    }
    let hash = flows.hash(key);
    flows.prefetch(hash);
    candidates.wanted.push((key, hash));
    candidates.notes.push((packet, event, place));
    UNDECIDED
}

impl Choosing {
    /// The second and the third pass: looks for all flows, then acts on each.
    #[inline(always)]
    fn act<K: ClientKey<Q>, F: Frame, const Q: usize>(
        &mut self,
        flows: &mut Table<K, Q>,
        scene: Scene<'_>,
        candidates: &Candidates<K>,
        frames: &mut Burst<F>,
        verdicts: &mut Burst<Verdict>,
    ) {
        let mut hints = [Hint::default(); BURST];
        flows.seek_burst(&candidates.wanted, &mut hints);
        let mut run = Run::default();
        for ((&(key, hash), &(packet, event, place)), hint) in
            candidates.wanted.iter().zip(&candidates.notes).zip(hints)
        {
            let frame = frames[usize::from(place)].bytes_mut();
            let candidate = Candidate { key, hash, packet, event };
            verdicts[usize::from(place)] = self.steer(flows, scene, &candidate, hint, frame, &mut run);
        }
        self.ledger.count_run(run.service, run.packets, run.bytes);
    }

    /// A packet for a service: finds its way, rewrites it, and remembers.
    #[inline(always)]
    fn steer<K: ClientKey<Q>, const Q: usize>(
        &mut self,
        flows: &mut Table<K, Q>,
        scene: Scene<'_>,
        candidate: &Candidate<K>,
        hint: Hint,
        frame: &mut [u8],
        run: &mut Run,
    ) -> Verdict {
        let way = match self.way(flows, scene, candidate, hint) {
            Ok(way) => way,
            Err(reason) => return Verdict::Drop(reason),
        };
        let (Way::Known(_, _, id) | Way::New(id) | Way::Stateless(id)) = way;
        let real = scene.snapshot.real(id);
        if !real.has_mac {
            return Verdict::Drop(DropReason::RealUnresolved);
        }
        let verdict = dr::forward(frame, candidate.packet, real);
        if let Verdict::Forward { .. } = verdict {
            match way {
                Way::Known(slot, old, _) => self.renew(flows, scene.tick, candidate, slot, old, id),
                Way::New(_) => (),
                Way::Stateless(_) => self.ledger.frames.stateless.add(1),
            }
            self.ledger.count_packet(id.index(), candidate.packet.total_len());
            let service = real.service.map_or(usize::MAX, ServiceId::index);
            run.count(&self.ledger, service, candidate.packet.total_len());
        }
        verdict
    }

    /// The way of a packet: its flow's real; for a new flow the scheduler's. A flow that starts again while its real
    /// does not answer gets another.
    #[inline(always)]
    fn way<K: ClientKey<Q>, const Q: usize>(
        &mut self,
        flows: &mut Table<K, Q>,
        scene: Scene<'_>,
        candidate: &Candidate<K>,
        hint: Hint,
    ) -> Result<Way, DropReason> {
        match flows.find_at(hint, candidate.key, candidate.hash, scene.tick) {
            Some((slot, pin)) if !candidate.event.opens() || scene.snapshot.real(pin.real()).answers => {
                Ok(Way::Known(slot, pin, pin.real()))
            }
            Some((slot, pin)) => Ok(Way::Known(slot, pin, self.choose(scene.snapshot, candidate.key.service())?)),
            None => self.way_of_unknown(flows, scene, candidate),
        }
    }

    /// A packet that no entry is for.
    #[inline(never)]
    fn way_of_unknown<K: ClientKey<Q>, const Q: usize>(
        &mut self,
        flows: &mut Table<K, Q>,
        scene: Scene<'_>,
        candidate: &Candidate<K>,
    ) -> Result<Way, DropReason> {
        let snapshot = scene.snapshot;
        if !candidate.event.opens() {
            // Its connection may have begun when there was no room for it.
            let stateless = scene.tick < self.stateless_until && candidate.event != Event::Rst;
            return if stateless { stateless_way(snapshot, candidate.key) } else { Err(DropReason::NoConnection) };
        }
        let source = candidate.key.source();
        if !can_be_source(source) || snapshot.is_virtual(source) {
            return Err(DropReason::BadSource);
        }
        let crowded = candidate.event == Event::Syn && self.half_open >= self.half_open_most;
        if !crowded {
            let real = self.choose(snapshot, candidate.key.service())?;
            if self.begin(flows, scene.tick, candidate, real).is_ok() {
                return Ok(Way::New(real));
            }
        }
        self.stateless_until = scene.tick.saturating_add(STATELESS_TICKS);
        stateless_way(snapshot, candidate.key)
    }

    /// The real for a new connection, or why there is none.
    fn choose(&mut self, snapshot: &Snapshot, service: Option<ServiceId>) -> Result<RealId, DropReason> {
        let service = service.and_then(|id| snapshot.service(id)).ok_or(DropReason::NoService)?;
        let schedule = self.schedules.get_mut(service.id.index()).and_then(Option::as_mut);
        let schedule = schedule.ok_or(DropReason::NoService)?;
        schedule.choose(service, &snapshot.reals).ok_or_else(|| nobody(service, snapshot))
    }

    /// Enters a new flow. What has run out and is in its way goes.
    fn begin<K: ClientKey<Q>, const Q: usize>(
        &mut self,
        flows: &mut Table<K, Q>,
        tick: u32,
        candidate: &Candidate<K>,
        real: RealId,
    ) -> Result<(), TableFull> {
        let pin = Pin::new(real, FlowState::None.on(candidate.event), tick);
        flows.insert(candidate.key, candidate.hash, pin, |key, old| self.ended(key.service(), old))?;
        self.half_open += usize::from(is_half_open(pin));
        self.ledger.flow_began(candidate.key.service(), pin);
        Ok(())
    }

    /// Another packet of a flow.
    #[inline(always)]
    fn renew<K: ClientKey<Q>, const Q: usize>(
        &mut self,
        flows: &mut Table<K, Q>,
        tick: u32,
        candidate: &Candidate<K>,
        slot: Slot,
        old: Pin,
        real: RealId,
    ) {
        let new = Pin::new(real, old.state().on(candidate.event), tick);
        if old != new {
            flows.update(slot, new);
            if old.state() != new.state() || old.real() != real {
                self.note_change(candidate.key.service(), old, new);
            }
        }
    }

    #[cold]
    fn note_change(&mut self, service: Option<ServiceId>, old: Pin, new: Pin) {
        self.half_open = self.half_open + usize::from(is_half_open(new)) - usize::from(is_half_open(old));
        if old.real() != new.real() {
            self.ledger.flow_moved(service, old, new);
        } else if old.state().is_active() != new.state().is_active() {
            self.ledger.flow_changed(service, old, new);
        }
    }

    fn ended(&mut self, service: Option<ServiceId>, pin: Pin) {
        self.half_open -= usize::from(is_half_open(pin));
        self.ledger.flow_ended(service, pin);
    }

    fn sweep<K: ClientKey<Q>, const Q: usize>(&mut self, flows: &mut Table<K, Q>, tick: u32, buckets: usize) {
        if !flows.is_empty() {
            flows.sweep(tick, buckets, |key, old| self.ended(key.service(), old));
        }
    }
}

impl Run {
    #[inline(always)]
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
    pin.state() == FlowState::SynRecv
}

fn can_be_source(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => ipv4::is_host(address),
        IpAddr::V6(address) => ipv6::can_be_source(address),
    }
}

/// Why a service has nobody for a connection.
fn nobody(service: &Service, snapshot: &Snapshot) -> DropReason {
    let weighs = |real: &Real| real.weight > 0;
    let silent = snapshot.reals_of(service).iter().any(weighs);
    if silent { DropReason::RealUnresolved } else { DropReason::NoReal }
}

/// By the client's address and port alone, the same on every director.
fn stateless_way<K: ClientKey<Q>, const Q: usize>(snapshot: &Snapshot, key: K) -> Result<Way, DropReason> {
    let service = key.service().and_then(|id| snapshot.service(id)).ok_or(DropReason::NoService)?;
    let chosen = service.by_hash(mix(key.client_bits()));
    chosen.map(Way::Stateless).ok_or_else(|| nobody(service, snapshot))
}

/// What the frame is, by its headers alone: a packet for a service, or else the verdict.
#[inline(always)]
fn recognise<F: Frame>(station: &Station, snapshot: &Snapshot, frame: &F) -> Recognised {
    let (bytes, wire_len) = (frame.bytes(), frame.wire_len());
    let Some(link) = ethernet::parse(bytes) else { return dropped(DropReason::Truncated) };
    if link.vlan != station.vlan {
        // In a VLAN of ours nothing else is; without one, tagged frames are the host's.
        let verdict = station.vlan.map_or(Verdict::Host, |_| Verdict::Drop(DropReason::OtherVlan));
        return Recognised::Decided(verdict);
    }
    if link.destination != station.mac && !link.destination.is_multicast() {
        return dropped(DropReason::NotOurMac);
    }
    match link.ether_type {
        ethernet::IPV4 => recognise_ipv4(snapshot, &link, bytes, wire_len),
        ethernet::IPV6 => recognise_ipv6(snapshot, &link, bytes, wire_len),
        ethernet::ARP => Recognised::Decided(Verdict::Manage),
        _ => Recognised::Decided(Verdict::Host),
    }
}

#[inline(always)]
fn recognise_ipv4(snapshot: &Snapshot, link: &ethernet::Ethernet, frame: &[u8], wire_len: usize) -> Recognised {
    let packet = &frame[link.payload..];
    let ip = match ipv4::parse(packet, wire_len.saturating_sub(link.payload)) {
        Ok(ip) => ip,
        Err(reason) => return dropped(reason),
    };
    let segment = packet.get(ip.header_len..ip.total_len).or(packet.get(ip.header_len..)).unwrap_or_default();
    let whole = !ip.is_fragment && !link.destination.is_multicast();
    if let Some((event, source, destination)) = conversation(ip.protocol, segment, whole)
        && let Some(service) = snapshot.find_v4(ip.destination, destination, ip.protocol)
    {
        let key = FlowKey::new(ip.source, source, service);
        return Recognised::V4(key, event, dr::Packet::new(link.payload, ip.ttl, ip.total_len, false));
    }
    let address = ip.destination.into();
    without_service(snapshot, link.destination.is_multicast(), address, ip.is_fragment, ip.protocol, segment)
}

#[inline(never)]
fn recognise_ipv6(snapshot: &Snapshot, link: &ethernet::Ethernet, frame: &[u8], wire_len: usize) -> Recognised {
    let packet = &frame[link.payload..];
    let ip = match ipv6::parse(packet, wire_len.saturating_sub(link.payload)) {
        Ok(ip) => ip,
        Err(reason) => return dropped(reason),
    };
    let segment = packet.get(ip.header_len..ip.total_len).or(packet.get(ip.header_len..)).unwrap_or_default();
    let whole = !ip.is_fragment && !link.destination.is_multicast();
    if let Some((event, source, destination)) = conversation(ip.protocol, segment, whole)
        && let Some(service) = snapshot.find_v6(ip.destination, destination, ip.protocol)
    {
        let key = WideKey::ipv6(ip.source, source, service);
        return Recognised::V6(key, event, dr::Packet::new(link.payload, ip.hop_limit, ip.total_len, true));
    }
    let address = ip.destination.into();
    without_service(snapshot, link.destination.is_multicast(), address, ip.is_fragment, ip.protocol, segment)
}

/// What a whole packet tells about its flow, with the source and the destination port.
#[inline(always)]
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

/// A good packet that no service takes. What is for a virtual address never reaches the host's kernel, which might hold
/// the address too and would answer.
#[cold]
fn without_service(
    snapshot: &Snapshot,
    to_many: bool,
    destination: IpAddr,
    is_fragment: bool,
    protocol: u8,
    segment: &[u8],
) -> Recognised {
    let short = match protocol {
        ipv4::TCP => segment.len() < transport::TCP_HEADER,
        ipv4::UDP => segment.len() < transport::UDP_HEADER,
        _ => false,
    };
    Recognised::Decided(if !snapshot.is_virtual(destination) {
        Verdict::Host
    } else if to_many {
        Verdict::Drop(DropReason::NotOurMac)
    } else if is_fragment {
        Verdict::Drop(DropReason::Fragment)
    } else if matches!(protocol, ipv4::ICMP | ipv6::ICMP) {
        Verdict::Manage
    } else if short {
        Verdict::Drop(DropReason::Truncated)
    } else {
        Verdict::Drop(DropReason::NoService)
    })
}

fn dropped(reason: DropReason) -> Recognised {
    Recognised::Decided(Verdict::Drop(reason))
}
