//! The decision: what becomes of each frame of a burst. Every branch of a packet's way is here, in order, top to
//! bottom; the leaves are pure functions of their own modules.
//!
//! No I/O, clock, log, lock or allocation: bytes, a snapshot, this core's own table and `now` go in, verdicts come out.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Now, TICKS_PER_SECOND};
use crate::counters::{Ledger, Traffic};
use crate::flow::{
    ClientKey, Event, FlowKey, FlowState, FlowTable, Hash, Hint, Lanes, Owners, Pin, Slot, Table, TableFull, Timeouts,
    WideKey, WideTable, Work, timeout_ticks,
};
use crate::forward::dr;
use crate::packet::plain::Gate;
use crate::packet::{BURST, Burst, Frame, ethernet, ipv4, ipv6, transport};
use crate::service::{Load, Member, RealId, Schedule, Service, ServiceId, Snapshot, Start, Station};
use crate::verdict::{DropReason, Verdict};

/// How long the sweep takes to come round the whole table.
const SWEEP_ROUND: Duration = Duration::from_secs(10);
/// How long a connection waits for its second packet while too many do; the kernel gives a new entry as much.
const HURRIED_TICKS: u32 = 3 * TICKS_PER_SECOND;
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
    /// What is written here is gone with the burst.
    narrow_room: Box<Room<FlowKey>>,
    wide_room: Box<Room<WideKey>>,
    ledger: Arc<Ledger>,
    swept_until: Now,
    /// None: every flow that arrives here is this worker's.
    owners: Option<Owners>,
}

/// What the flows of both families have in common.
struct Choosing {
    /// One a service, by its index.
    schedules: Vec<Option<Schedule>>,
    timeouts: Timeouts,
    /// Connections of which only a SYN was seen, and how many of them may have an entry.
    half_open: usize,
    half_open_most: usize,
    /// Until then there may be connections without an entry, because the table or the half-open ones were at their
    /// limit.
    stateless_until: u32,
}

/// What a packet told about itself, besides its flow, and its place in the burst.
#[derive(Clone, Copy)]
struct Note {
    packet: dr::Packet,
    event: Event,
    place: u8,
}

/// Room for the candidates of one burst, kept so that nobody has to clear it: what the table is asked for, and, in the
/// same order, what else is known of them and their places in the burst.
struct Room<K> {
    wanted: [(K, Hash); BURST],
    notes: [Note; BURST],
}

/// A good packet for a service, where it is in the room.
struct Candidate<'r, K> {
    wanted: &'r (K, Hash),
    note: &'r Note,
}

impl<K: Copy> Candidate<'_, K> {
    #[inline(always)]
    fn key(&self) -> K {
        self.wanted.0
    }

    #[inline(always)]
    fn hash(&self) -> Hash {
        self.wanted.1
    }
}

/// The candidates of one burst.
struct Candidates<'r, K> {
    room: &'r mut Room<K>,
    count: usize,
}

impl<K: Copy> Room<K> {
    /// What is in it means nothing yet.
    fn new<const Q: usize>(flows: &Table<K, Q>) -> Box<Room<K>>
    where
        K: ClientKey<Q>,
    {
        let key = K::from_words([0; Q]);
        let note = Note { packet: dr::Packet::new(0, 0, 0, false), event: Event::Blank, place: 0 };
        Box::new(Room { wanted: [(key, flows.hash(key)); BURST], notes: [note; BURST] })
    }

    #[inline(always)]
    fn empty(&mut self) -> Candidates<'_, K> {
        Candidates { room: self, count: 0 }
    }
}

impl<K> Candidates<'_, K> {
    /// There are no more than frames in a burst.
    #[inline(always)]
    fn push(&mut self, key: K, hash: Hash, note: Note) {
        self.room.wanted[self.count % BURST] = (key, hash);
        self.room.notes[self.count % BURST] = note;
        self.count += 1;
    }
}

/// What a frame turned out to be.
enum Recognised {
    V4(FlowKey, Note),
    V6(WideKey, Note),
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
const UNDECIDED: Verdict = Verdict::Drop(DropReason::NoService);

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
    ledger: &'s Ledger,
    /// The ledger's lines of the reals.
    traffic: &'s [Traffic],
}

impl Scene<'_> {
    /// Counts a packet to a real of a service.
    #[inline(always)]
    fn count(&self, run: &mut Run, real: RealId, service: Option<ServiceId>, packet: dr::Packet) {
        if let Some(traffic) = self.traffic.get(real.index()) {
            traffic.count_packet(packet.total_len());
        }
        run.count(self.ledger, service.map_or(usize::MAX, ServiceId::index), packet.total_len());
    }
}

/// One burst to decide, as something to be compiled for the CPU's way of comparing keys.
struct Decision<'a, F: Frame> {
    director: &'a mut Director,
    now: Now,
    station: &'a Station,
    snapshot: &'a Snapshot,
    frames: &'a mut Burst<F>,
    /// As many, `UNDECIDED`.
    verdicts: &'a mut [Verdict; BURST],
}

impl<F: Frame> Work for Decision<'_, F> {
    type Answer = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Decision { director, now, station, snapshot, frames, verdicts } = self;
        let (mut narrow, mut wide) = (director.narrow_room.empty(), director.wide_room.empty());
        let (flows, wide_flows, owners) = (&director.flows, &director.wide, director.owners);
        let gates = [ethernet::IPV4, ethernet::IPV6].map(|kind| Gate::new(station.mac, station.vlan, kind));
        for ((frame, verdict), place) in frames.iter().zip(verdicts.iter_mut()).zip(0u8..) {
            let decided = if let Some((key, note)) = recognise_plain_v4(&gates[0], snapshot, frame, place) {
                expect(flows, owners, &mut narrow, key, note)
            } else if let Some((key, note)) = recognise_plain_v6(&gates[1], snapshot, frame, place) {
                expect(wide_flows, owners, &mut wide, key, note)
            } else {
                match recognise(station, snapshot, frame, place) {
                    Recognised::V4(key, note) => expect(flows, owners, &mut narrow, key, note),
                    Recognised::V6(key, note) => expect(wide_flows, owners, &mut wide, key, note),
                    Recognised::Decided(verdict) => Some(verdict),
                }
            };
            *verdict = decided.unwrap_or(UNDECIDED);
        }
        let ledger = &*director.ledger;
        let scene = Scene { tick: now.tick(), snapshot, ledger, traffic: &ledger.reals };
        director.choosing.act(lanes, &mut director.flows, scene, &narrow, frames, verdicts);
        if wide.count > 0 {
            director.choosing.act(lanes, &mut director.wide, scene, &wide, frames, verdicts);
        }
    }
}

impl Director {
    /// `worker` is the number of the core's worker: it sets where its schedulers start. `half_open` is how many
    /// connections may have an entry that have sent nothing but a SYN.
    pub fn new(tables: Tables, half_open: usize, snapshot: &Snapshot, worker: usize, ledger: Arc<Ledger>) -> Director {
        let begin = Start { worker, addresses: 1, ..Start::default() };
        let start = |service: &Option<Arc<Service>>| {
            service.as_ref().map(|service| Schedule::start(service.scheduler, &service.roster, begin))
        };
        let choosing = Choosing {
            schedules: snapshot.services.iter().map(start).collect(),
            timeouts: Timeouts::default(),
            half_open: 0,
            half_open_most: half_open,
            stateless_until: 0,
        };
        let Tables { narrow: flows, wide } = tables;
        let (narrow_room, wide_room) = (Room::new(&flows), Room::new(&wide));
        Director { flows, wide, choosing, narrow_room, wide_room, ledger, swept_until: Now(0), owners: None }
    }

    /// From now on, flows that other workers own are theirs to decide.
    pub fn share(&mut self, owners: Owners) {
        self.owners = Some(owners);
    }

    pub fn flows(&self) -> &FlowTable {
        &self.flows
    }

    pub fn wide_flows(&self) -> &WideTable {
        &self.wide
    }

    /// One verdict a frame, in order; what follows means nothing. All frames are read and their table lines asked for before the first line is
    /// needed.
    pub fn decide<F: Frame>(
        &mut self,
        now: Now,
        station: &Station,
        snapshot: &Snapshot,
        frames: &mut Burst<F>,
    ) -> [Verdict; BURST] {
        let mut verdicts = [UNDECIDED; BURST];
        let probe = self.flows.probe();
        probe.run(Decision { director: self, now, station, snapshot, frames, verdicts: &mut verdicts });
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
        self.choosing.sweep(&mut self.flows, &self.ledger, now.tick(), narrow.min(limit));
        self.choosing.sweep(&mut self.wide, &self.ledger, now.tick(), wide.min(limit));
    }
}

/// Notes a packet for the second pass and asks for the line it will need, or hands it to the worker that owns its flow.
#[inline(always)]
fn expect<K: ClientKey<Q>, const Q: usize>(
    flows: &Table<K, Q>,
    owners: Option<Owners>,
    candidates: &mut Candidates<'_, K>,
    key: K,
    note: Note,
) -> Option<Verdict> {
    if let Some(worker) = owners.and_then(|owners| owners.other(key.client_bits())) {
        return Some(Verdict::Hand { worker });
    }
    let hash = flows.hash(key);
    flows.prefetch(hash);
    candidates.push(key, hash, note);
    None
}

impl Choosing {
    /// The second and the third pass: looks for all flows, then acts on each.
    #[inline(always)]
    fn act<K: ClientKey<Q>, F: Frame, L: Lanes, const Q: usize>(
        &mut self,
        lanes: L,
        flows: &mut Table<K, Q>,
        scene: Scene<'_>,
        candidates: &Candidates<'_, K>,
        frames: &mut Burst<F>,
        verdicts: &mut [Verdict; BURST],
    ) {
        let count = candidates.count.min(BURST);
        let (wanted, notes) = (&candidates.room.wanted[..count], &candidates.room.notes[..count]);
        let mut hints = [Hint::default(); BURST];
        flows.seek_burst(lanes, wanted, &mut hints);
        let mut run = Run::default();
        for ((wanted, note), &hint) in wanted.iter().zip(notes).zip(&hints) {
            let known = flows.find_at(lanes, hint, wanted.0, scene.tick);
            let frame = frames[usize::from(note.place)].bytes_mut();
            let sent = self.steer(flows, scene, Candidate { wanted, note }, known, frame, &mut run);
            verdicts[usize::from(note.place) % BURST] =
                sent.map_or_else(Verdict::Drop, |port| Verdict::Forward { port });
        }
        scene.ledger.count_run(run.service, run.packets, run.bytes);
    }

    /// A packet for a service: finds its way, rewrites it, and remembers.
    #[inline(always)]
    fn steer<K: ClientKey<Q>, const Q: usize>(
        &mut self,
        flows: &mut Table<K, Q>,
        scene: Scene<'_>,
        candidate: Candidate<'_, K>,
        known: Option<(Slot, Pin)>,
        frame: &mut [u8],
        run: &mut Run,
    ) -> Result<u8, DropReason> {
        if let Some((slot, pin)) = known {
            let real = scene.snapshot.real(pin.real());
            if real.answers || !candidate.note.event.opens() {
                let port = dr::forward(K::MAY_BE_V6, frame, candidate.note.packet, real)?;
                self.renew(flows, scene, &candidate, slot, pin, pin.real());
                scene.count(run, pin.real(), real.service, candidate.note.packet);
                return Ok(port);
            }
        }
        self.begin(flows, scene, &candidate, frame)
    }

    /// The same for a packet whose entry is not where it was looked for first, or that begins a flow, perhaps again.
    #[inline(never)]
    fn begin<K: ClientKey<Q>, const Q: usize>(
        &mut self,
        flows: &mut Table<K, Q>,
        scene: Scene<'_>,
        candidate: &Candidate<'_, K>,
        frame: &mut [u8],
    ) -> Result<u8, DropReason> {
        let way = self.way(flows, scene, candidate)?;
        let (Way::Known(_, _, id) | Way::New(id) | Way::Stateless(id)) = way;
        let real = scene.snapshot.real(id);
        let port = dr::forward(K::MAY_BE_V6, frame, candidate.note.packet, real)?;
        match way {
            Way::Known(slot, old, _) => self.renew(flows, scene, candidate, slot, old, id),
            Way::New(_) => (),
            Way::Stateless(_) => scene.ledger.frames.stateless.add(1),
        }
        let mut run = Run::default();
        scene.count(&mut run, id, real.service, candidate.note.packet);
        scene.ledger.count_run(run.service, run.packets, run.bytes);
        Ok(port)
    }

    /// The way of a packet: its flow's real; for a new flow the scheduler's. A flow that begins again while its real
    /// does not answer gets another.
    fn way<K: ClientKey<Q>, const Q: usize>(
        &mut self,
        flows: &mut Table<K, Q>,
        scene: Scene<'_>,
        candidate: &Candidate<'_, K>,
    ) -> Result<Way, DropReason> {
        match flows.find(candidate.key(), candidate.hash(), scene.tick) {
            Some((slot, pin)) if !candidate.note.event.opens() || scene.snapshot.real(pin.real()).answers => {
                Ok(Way::Known(slot, pin, pin.real()))
            }
            Some((slot, pin)) => Ok(Way::Known(slot, pin, self.choose(scene, candidate.key())?)),
            None => self.way_of_unknown(flows, scene, candidate),
        }
    }

    /// A packet that no entry is for.
    fn way_of_unknown<K: ClientKey<Q>, const Q: usize>(
        &mut self,
        flows: &mut Table<K, Q>,
        scene: Scene<'_>,
        candidate: &Candidate<'_, K>,
    ) -> Result<Way, DropReason> {
        let snapshot = scene.snapshot;
        if !candidate.note.event.opens() {
            // Its connection may have begun when there was no room for it.
            let stateless = scene.tick < self.stateless_until && candidate.note.event != Event::Rst;
            return if stateless { stateless_way(snapshot, candidate.key()) } else { Err(DropReason::NoConnection) };
        }
        let source = candidate.key().source();
        if !can_be_source(source) || snapshot.is_virtual(source) {
            return Err(DropReason::BadSource);
        }
        let crowded = candidate.note.event == Event::Syn && self.half_open >= self.half_open_most;
        if !crowded {
            let real = self.choose(scene, candidate.key())?;
            if self.enter(flows, scene, candidate, real).is_ok() {
                return Ok(Way::New(real));
            }
        }
        self.stateless_until = scene.tick.saturating_add(STATELESS_TICKS);
        stateless_way(snapshot, candidate.key())
    }

    /// The real for a new connection, or why there is none.
    fn choose<K: ClientKey<Q>, const Q: usize>(&mut self, scene: Scene<'_>, key: K) -> Result<RealId, DropReason> {
        let service = key.service().and_then(|id| scene.snapshot.service(id)).ok_or(DropReason::NoService)?;
        let schedule = self.schedules.get_mut(service.id.index()).and_then(Option::as_mut);
        let schedule = schedule.ok_or(DropReason::NoService)?;
        let ledger = scene.ledger;
        let loads = |id: RealId| ledger.reals.get(id.index()).map_or_else(Load::default, load_of);
        let opening = key.opening(service.takes.address());
        schedule.choose(&service.roster, &opening, loads, scene.tick).ok_or_else(|| nobody(service))
    }

    /// Enters a new flow. What has run out and is in its way goes.
    fn enter<K: ClientKey<Q>, const Q: usize>(
        &mut self,
        flows: &mut Table<K, Q>,
        scene: Scene<'_>,
        candidate: &Candidate<'_, K>,
        real: RealId,
    ) -> Result<(), TableFull> {
        let pin = self.pin(real, FlowState::None.on(candidate.note.event), scene.tick);
        let ended = |key: K, old| self.ended(scene.ledger, key.service(), old);
        flows.insert(candidate.key(), candidate.hash(), pin, scene.tick, ended)?;
        self.count_half_open(usize::from(is_half_open(pin)), 0);
        scene.ledger.flow_began(candidate.key().service(), pin);
        Ok(())
    }

    /// Another packet of a flow.
    #[inline(always)]
    fn renew<K: ClientKey<Q>, const Q: usize>(
        &mut self,
        flows: &mut Table<K, Q>,
        scene: Scene<'_>,
        candidate: &Candidate<'_, K>,
        slot: Slot,
        old: Pin,
        real: RealId,
    ) {
        let new = self.pin(real, old.state_on(candidate.note.event), scene.tick);
        if old != new {
            flows.update(slot, new);
            if !old.differs_in_time_alone(new) {
                self.note_change(scene.ledger, candidate.key().service(), old, new);
            }
        }
    }

    #[inline(always)]
    fn pin(&self, real: RealId, state: FlowState, tick: u32) -> Pin {
        Pin::new(real, state, tick.wrapping_add(self.timeouts.ticks(state)))
    }

    #[cold]
    fn note_change(&mut self, ledger: &Ledger, service: Option<ServiceId>, old: Pin, new: Pin) {
        self.count_half_open(usize::from(is_half_open(new)), usize::from(is_half_open(old)));
        if old.real() != new.real() {
            ledger.flow_moved(service, old, new);
        } else if old.state().is_active() != new.state().is_active() {
            ledger.flow_changed(service, old, new);
        }
    }

    /// With more than half of the half-open connections that may have an entry, SYNs wait for seconds, not a minute.
    fn count_half_open(&mut self, more: usize, fewer: usize) {
        self.half_open = self.half_open + more - fewer;
        let hurried = self.half_open > self.half_open_most / 2;
        let patience = if hurried { HURRIED_TICKS } else { timeout_ticks(FlowState::SynRecv) };
        self.timeouts.set(FlowState::SynRecv, patience);
    }

    fn ended(&mut self, ledger: &Ledger, service: Option<ServiceId>, pin: Pin) {
        self.count_half_open(0, usize::from(is_half_open(pin)));
        ledger.flow_ended(service, pin);
    }

    fn sweep<K: ClientKey<Q>, const Q: usize>(
        &mut self,
        flows: &mut Table<K, Q>,
        ledger: &Ledger,
        tick: u32,
        buckets: usize,
    ) {
        if !flows.is_empty() {
            flows.sweep(tick, buckets, |key, old| self.ended(ledger, key.service(), old));
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

fn load_of(traffic: &Traffic) -> Load {
    Load { active: traffic.active.get() as u32, inactive: traffic.inactive.get() as u32, overloaded: false }
}

/// Why a service has nobody for a connection.
fn nobody(service: &Service) -> DropReason {
    let is_silent = |member: &Member| member.weight > 0 && !member.ready;
    if service.roster.members().iter().any(is_silent) { DropReason::RealUnresolved } else { DropReason::NoReal }
}

/// By the client's address and port alone, the same on every director.
fn stateless_way<K: ClientKey<Q>, const Q: usize>(snapshot: &Snapshot, key: K) -> Result<Way, DropReason> {
    let service = key.service().and_then(|id| snapshot.service(id)).ok_or(DropReason::NoService)?;
    let chosen = service.roster.without_state(service.scheduler, &key.opening(service.takes.address()));
    chosen.map(Way::Stateless).ok_or_else(|| nobody(service))
}

/// A plain packet for a service; none: it is for somebody below.
#[inline(always)]
fn recognise_plain_v4<F: Frame>(gate: &Gate, snapshot: &Snapshot, frame: &F, place: u8) -> Option<(FlowKey, Note)> {
    let plain = gate.admit_v4(frame.bytes(), frame.wire_len())?;
    let ((client, source), (address, port)) = (plain.source(), plain.destination());
    let service = snapshot.find_v4(address, port, plain.protocol())?;
    let event = plain.tcp_flags().map_or(Event::Datagram, Event::of_tcp);
    let packet = dr::Packet::new(gate.network(), plain.ttl(), plain.total_len(), false);
    Some((FlowKey::new(client, source, service), Note { packet, event, place }))
}

#[inline(always)]
fn recognise_plain_v6<F: Frame>(gate: &Gate, snapshot: &Snapshot, frame: &F, place: u8) -> Option<(WideKey, Note)> {
    let plain = gate.admit_v6(frame.bytes(), frame.wire_len())?;
    let ((client, source), (address, port)) = (plain.source(), plain.destination());
    let service = snapshot.find_v6(address, port, plain.protocol())?;
    let event = plain.tcp_flags().map_or(Event::Datagram, Event::of_tcp);
    let packet = dr::Packet::new(gate.network(), plain.hop_limit(), plain.total_len(), true);
    Some((WideKey::ipv6(client, source, service), Note { packet, event, place }))
}

/// What any frame is, by its headers alone: a packet for a service, or else the verdict.
#[inline(never)]
fn recognise<F: Frame>(station: &Station, snapshot: &Snapshot, frame: &F, place: u8) -> Recognised {
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
        ethernet::IPV4 => recognise_ipv4(snapshot, &link, bytes, wire_len, place),
        ethernet::IPV6 => recognise_ipv6(snapshot, &link, bytes, wire_len, place),
        ethernet::ARP => Recognised::Decided(Verdict::Manage),
        _ => Recognised::Decided(Verdict::Host),
    }
}

fn recognise_ipv4(
    snapshot: &Snapshot,
    link: &ethernet::Ethernet,
    frame: &[u8],
    wire_len: usize,
    place: u8,
) -> Recognised {
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
        let packet = dr::Packet::new(link.payload, ip.ttl, ip.total_len, false);
        return Recognised::V4(key, Note { packet, event, place });
    }
    let address = ip.destination.into();
    without_service(snapshot, link.destination.is_multicast(), address, ip.is_fragment, ip.protocol, segment)
}

#[inline(never)]
fn recognise_ipv6(
    snapshot: &Snapshot,
    link: &ethernet::Ethernet,
    frame: &[u8],
    wire_len: usize,
    place: u8,
) -> Recognised {
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
        let packet = dr::Packet::new(link.payload, ip.hop_limit, ip.total_len, true);
        return Recognised::V6(key, Note { packet, event, place });
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
