//! The decision: what becomes of each frame of a burst. Every branch of a packet's way is here, in order, top to
//! bottom; the leaves are pure functions of their own modules.
//!
//! No I/O, clock, log, lock or allocation: bytes, a snapshot, this core's own table and `now` go in, verdicts come out.

mod burst;
mod choosing;
mod loads;
mod recognise;
mod tables;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Now;
use crate::config::{OnMiss, OnRemoved};
use crate::counters::Ledger;
use crate::flow::{
    ClientKey, Event, FlowKey, FlowState, FlowTable, Hint, Lanes, NicSpread, Owners, Pin, Slot, Table, TemplateKey,
    Templates, WideKey, WideTable, Work,
};
use crate::forward::dr;
use crate::packet::icmp::Conversation;
use crate::packet::plain::Gate;
use crate::packet::{BURST, Burst, Frame, ethernet, ipv4, ipv6};
use crate::service::{Real, RealId, Service, Snapshot, Station};
use crate::verdict::{Answer, DropReason, Verdict};
use burst::{Candidate, Candidates, Note, Room, Run, Scene};
use choosing::Choosing;
use recognise::{Recognised, closed_port, recognise, recognise_plain_v4, recognise_plain_v6};
use tables::{Flow, Twin};

pub use tables::Tables;

/// How long the sweep takes to come round the whole table.
const SWEEP_ROUND: Duration = Duration::from_secs(10);
/// One persistence template for so many flows, and this many at least.
const FLOWS_A_TEMPLATE: usize = 16;
const LEAST_TEMPLATES: usize = 1024;

/// What one core decides with: nobody else touches it.
pub struct Director {
    tables: Tables,
    choosing: Choosing,
    /// What is written here is gone with the burst.
    narrow_room: Box<Room<FlowKey>>,
    wide_room: Box<Room<WideKey>>,
    ledger: Arc<Ledger>,
    /// The tables, the wide ones, and the templates, each at its own pace.
    swept: [SweptUntil; 3],
    /// Before that nothing is due in any of them.
    sweep_again: Now,
    /// None: every flow that arrives here is this worker's.
    sharing: Option<Sharing>,
}

/// Which flows are for other workers to decide.
#[derive(Clone)]
pub struct Sharing {
    pub owners: Owners,
    /// All that others own; else those of persistent services alone: a client's template is on one worker.
    pub all: bool,
    /// How the NIC spreads what is not shared out like that: an ICMP error goes where its flow is.
    pub nic: Option<NicSpread>,
}

/// Until when one table was swept.
#[derive(Clone, Copy)]
struct SweptUntil(Now);

/// A number that no real has.
const NOBODY: RealId = RealId(u16::MAX);

/// Until the second look at it.
const UNDECIDED: Verdict = Verdict::Drop(DropReason::NoService);

/// The port that a packet leaves by, or what becomes of it instead.
type Sent = Result<u8, Verdict>;

/// What a flow's next packet means for the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It goes on with its real.
    Stays,
    /// It begins anew.
    BeginsAnew,
    /// It goes on with another real.
    Moves,
    /// It is over, and the client is told.
    IsReset,
    /// Nothing: its real is gone, and its service says not to tell.
    IsSilent,
}

/// What follows from a packet of a flow.
enum Next {
    /// All is done.
    Is(Sent),
    /// It begins a flow; this one of the client was there before, has left the table and is still to be counted out.
    Begins(Option<(IpAddr, Pin)>),
    /// Its flow goes on from this state with another real.
    Moves(FlowState),
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
        let Tables { narrow: flows, wide: wide_flows } = &director.tables;
        let sharing = director.sharing.as_ref();
        let owners = sharing.filter(|sharing| sharing.all).map(|sharing| sharing.owners);
        let gates = [ethernet::IPV4, ethernet::IPV6].map(|kind| Gate::new(station.mac, station.vlan, kind));
        for ((frame, verdict), place) in frames.iter().zip(verdicts.iter_mut()).zip(0u8..) {
            let decided = if let Some((key, note)) = recognise_plain_v4(&gates[0], snapshot, frame, place) {
                expect(flows, owners, &mut narrow, key, note)
            } else if let Some((key, note)) = recognise_plain_v6(&gates[1], snapshot, frame, place) {
                expect(wide_flows, owners, &mut wide, key, note)
            } else {
                match recognise(station, snapshot, frame, place) {
                    Recognised::Narrow(key, note, about) => handed(sharing, snapshot, (key, note), about)
                        .or_else(|| expect(flows, None, &mut narrow, key, note)),
                    Recognised::Wide(key, note, about) => handed(sharing, snapshot, (key, note), about)
                        .or_else(|| expect(wide_flows, None, &mut wide, key, note)),
                    Recognised::Decided(verdict) => Some(verdict),
                }
            };
            *verdict = decided.unwrap_or(UNDECIDED);
        }
        let scene = scene_of(&director.ledger, now, snapshot, &station.mtu);
        director.choosing.act(lanes, &mut director.tables, scene, &narrow, frames, verdicts);
        if !wide.is_empty() {
            director.choosing.act(lanes, &mut director.tables, scene, &wide, frames, verdicts);
        }
    }
}

#[inline(always)]
fn scene_of<'s>(ledger: &'s Ledger, now: Now, snapshot: &'s Snapshot, longest: &'s u16) -> Scene<'s> {
    Scene { now, tick: now.tick(), snapshot, ledger, traffic: &ledger.reals, longest }
}

impl Director {
    /// `worker` is the number of the core's worker: it sets where its schedulers start. `half_open` is how many
    /// connections may have an entry that have sent nothing but a SYN.
    pub fn new(tables: Tables, half_open: usize, snapshot: &Snapshot, worker: usize, ledger: Arc<Ledger>) -> Director {
        let Tables { narrow, wide } = &tables;
        let templates = (narrow.slots() / FLOWS_A_TEMPLATE).max(LEAST_TEMPLATES);
        let mut choosing = Choosing::new(half_open, templates, worker, narrow.seed(), &ledger);
        choosing.adopt(snapshot, &ledger, 0);
        let (narrow_room, wide_room) = (Room::new(narrow), Room::new(wide));
        Director {
            tables,
            choosing,
            narrow_room,
            wide_room,
            ledger,
            swept: [SweptUntil(Now(0)); 3],
            sweep_again: Now(0),
            sharing: None,
        }
    }

    /// From now on, flows that other workers own are theirs to decide.
    pub fn share(&mut self, sharing: Sharing) {
        self.sharing = Some(sharing);
    }

    /// The other workers' ledgers: what their connections are is part of a real's load.
    pub fn set_peers(&mut self, peers: Vec<Arc<Ledger>>) {
        self.choosing.loads.set_peers(peers);
    }

    pub fn flows(&self) -> &FlowTable {
        &self.tables.narrow
    }

    pub fn wide_flows(&self) -> &WideTable {
        &self.tables.wide
    }

    pub fn templates(&self) -> &Templates {
        &self.choosing.templates
    }

    /// How often the sweep has gone through all tables.
    pub fn rounds(&self) -> u64 {
        self.tables.narrow.rounds().min(self.tables.wide.rounds())
    }

    /// Follows the edits that led to a snapshot; `decide` and `sweep` do so by themselves when they see a new one. To be
    /// told of every single one is to do exactly as the kernel does.
    pub fn adopt(&mut self, now: Now, snapshot: &Snapshot) {
        self.choosing.adopt(snapshot, &self.ledger, now.tick());
    }

    /// One verdict a frame, in order; what follows means nothing. All frames are read and their table lines asked for
    /// before the first line is needed.
    pub fn decide<F: Frame>(
        &mut self,
        now: Now,
        station: &Station,
        snapshot: &Snapshot,
        frames: &mut Burst<F>,
    ) -> [Verdict; BURST] {
        if !self.choosing.knows(snapshot) {
            self.adopt(now, snapshot);
        }
        let mut verdicts = [UNDECIDED; BURST];
        let probe = self.tables.narrow.probe();
        probe.run(Decision { director: self, now, station, snapshot, frames, verdicts: &mut verdicts });
        verdicts
    }

    /// Clears some of what has run out: as much as keeps the sweep's round, at most `limit` buckets of each table.
    pub fn sweep(&mut self, now: Now, snapshot: &Snapshot, limit: usize) {
        if !self.choosing.knows(snapshot) {
            // Also when no packet comes: what an edit ended, others are not to count any more.
            self.adopt(now, snapshot);
        }
        if now < self.sweep_again {
            return;
        }
        let [narrow, wide, templates] = &mut self.swept;
        let scene = scene_of(&self.ledger, now, snapshot, &u16::MAX);
        let buckets = [self.tables.narrow.buckets(), self.tables.wide.buckets(), self.choosing.templates.room()];
        self.choosing.sweep(&mut self.tables.narrow, scene, narrow.due(now, buckets[0], limit));
        self.choosing.sweep(&mut self.tables.wide, scene, wide.due(now, buckets[1], limit));
        self.choosing.sweep_templates(scene, templates.due(now, buckets[2], limit));
        let next = self.swept.iter().zip(buckets).map(|(swept, of)| swept.next(of)).min();
        self.sweep_again = next.unwrap_or(now);
    }
}

impl SweptUntil {
    /// How many of so many are due, at most `limit`. What is less than one stays due.
    fn due(&mut self, now: Now, of: usize, limit: usize) -> usize {
        const ROUND: u64 = SWEEP_ROUND.as_nanos() as u64;
        // Ten seconds of nanoseconds times all the buckets that a table can have: less than 64 bits.
        let elapsed = now.0.saturating_sub(self.0.0).min(ROUND);
        let due = (elapsed * of as u64 / ROUND) as usize;
        if due > 0 {
            self.0 = now;
        }
        due.min(limit)
    }

    /// When the next one is due.
    fn next(&self, of: usize) -> Now {
        self.0 + SWEEP_ROUND / of.clamp(1, u32::MAX as usize) as u32
    }
}

/// Whether another worker decides this flow: its client's, where the service is persistent. An error `about` a flow is
/// for the worker that has the flow.
fn handed<K: ClientKey<Q>, const Q: usize>(
    sharing: Option<&Sharing>,
    snapshot: &Snapshot,
    (key, note): (K, Note),
    about: Option<Conversation>,
) -> Option<Verdict> {
    let Sharing { owners, all, nic } = sharing?;
    let service = key.service().or(note.service).and_then(|service| snapshot.service(service));
    let other = match service.and_then(|service| Some((service.id, service.settings.persistence?))) {
        Some((service, how)) => owners.other(TemplateKey::new(service, key.source(), how.prefix).bits()),
        None if *all => owners.other(key.client_bits()),
        None => {
            let (about, nic) = (about?, nic.as_ref()?);
            let (client, to) = ((about.client, about.client_port), (about.address, about.port));
            nic.worker_of(client, to, about.protocol == ipv4::TCP).filter(|worker| *worker != owners.own())
        }
    };
    other.map(|worker| Verdict::Hand { worker })
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
    /// The second and the third pass: looks for all flows, and finds each its real. Those that just go on are rewritten
    /// when that is known of all: the two loops have their values in registers, one would not.
    #[inline(always)]
    fn act<K, O, F, L, const Q: usize, const P: usize>(
        &mut self,
        lanes: L,
        tables: &mut Tables,
        scene: Scene<'_>,
        candidates: &Candidates<'_, K>,
        frames: &mut Burst<F>,
        verdicts: &mut [Verdict; BURST],
    ) where
        K: Twin<O, Q, P>,
        O: ClientKey<P>,
        F: Frame,
        L: Lanes,
    {
        let (wanted, notes) = (candidates.wanted(), candidates.notes());
        let mut hints = [Hint::default(); BURST];
        K::own(tables).seek_burst(lanes, wanted, &mut hints);
        let mut steered = [NOBODY; BURST];
        for (((wanted, note), &hint), steered) in wanted.iter().zip(notes).zip(&hints).zip(&mut steered) {
            let known = K::own(tables).find_at(lanes, hint, wanted.0, scene.tick);
            if let Some(real) = self.steer(K::own(tables), scene, Candidate { wanted, note }, known) {
                *steered = real;
            } else {
                let frame = frames[usize::from(note.place)].bytes_mut();
                let sent = self.consider(tables, scene, &Candidate { wanted, note }, frame);
                verdicts[usize::from(note.place) % BURST] = verdict_of(sent);
            }
        }
        let mut run = Run::default();
        for (note, &id) in notes.iter().zip(&steered) {
            if id != NOBODY {
                let (real, frame) = (scene.snapshot.real(id), frames[usize::from(note.place)].bytes_mut());
                scene.count(&mut run, id, real.service, note.packet);
                let port = dr::rewrite(K::MAY_BE_V6, frame, note.packet, real);
                verdicts[usize::from(note.place) % BURST] = Verdict::Forward { port };
            }
        }
        run.end(scene.ledger);
    }

    /// The real of a packet's flow, if that goes on as it is and nothing else is to be said.
    #[inline(always)]
    fn steer<K: ClientKey<Q>, const Q: usize>(
        &mut self,
        flows: &mut Table<K, Q>,
        scene: Scene<'_>,
        candidate: Candidate<'_, K>,
        known: Option<(Slot, Pin)>,
    ) -> Option<RealId> {
        let (slot, pin) = known?;
        let (real, &Note { packet, event, .. }) = (scene.snapshot.real(pin.real()), candidate.note);
        if !real.serves(pin.generation()) || !event.goes_on() || !dr::passes(packet, real) {
            return None;
        }
        self.renew(flows, scene, event, Flow { key: candidate.key(), slot, pin });
        Some(pin.real())
    }

    /// What becomes of any other packet: it begins a flow, perhaps again; its real is not what it was, or it cannot go
    /// there; or its entry is not where it was looked for first.
    #[inline(never)]
    fn consider<K: Twin<O, Q, P>, O: ClientKey<P>, const Q: usize, const P: usize>(
        &mut self,
        tables: &mut Tables,
        scene: Scene<'_>,
        candidate: &Candidate<'_, K>,
        frame: &mut [u8],
    ) -> Sent {
        let (tables, key, service) = (K::both(tables), candidate.key(), candidate.service(scene.snapshot));
        let note = Note { service: service.map(|service| service.id), ..*candidate.note };
        let next = if let Some((slot, pin)) = tables.own.find(key, candidate.hash(), scene.tick) {
            self.go_on(tables.own, scene, &note, Flow { key, slot, pin }, frame)
        } else if let Some(flow) = tables.find_elsewhere(key, scene) {
            self.go_on(tables.other, scene, &note, flow, frame)
        } else {
            Next::Begins(None)
        };
        let own = tables.own;
        let refused = || Err(unclaimed(scene.snapshot, key, candidate.note.event));
        match next {
            Next::Is(sent) => sent,
            Next::Begins(before) => {
                let sent = service.map_or_else(refused, |service| self.begin(own, scene, candidate, service, frame));
                before.into_iter().for_each(|(client, pin)| self.replaced(scene, candidate.note, client, pin, &sent));
                sent
            }
            Next::Moves(state) => {
                service.map_or_else(refused, |service| self.connect(own, scene, candidate, service, state, frame))
            }
        }
    }

    /// The old connection of a client that began anew. A client who was told that nobody is there was told so, to the
    /// kernel, about the old one.
    fn replaced(&mut self, scene: Scene<'_>, note: &Note, client: IpAddr, pin: Pin, sent: &Sent) {
        self.ended(scene, client, pin);
        let real = scene.snapshot.real(pin.real());
        if *sent == Err(Verdict::Answer(Answer::PortUnreachable)) && real.generation == pin.generation() {
            scene.count_told(Verdict::Answer(Answer::PortUnreachable), pin.real(), real, note.packet);
        }
    }

    /// A packet of a flow that there is.
    fn go_on<K: ClientKey<Q>, const Q: usize>(
        &mut self,
        flows: &mut Table<K, Q>,
        scene: Scene<'_>,
        note: &Note,
        flow: Flow<K>,
        frame: &mut [u8],
    ) -> Next {
        let Flow { key, slot, pin } = flow;
        let real = scene.snapshot.real(pin.real());
        if note.event == Event::Error {
            return Next::Is(forward_error(scene, note, pin, frame));
        }
        match fate(real, pin, note.event) {
            Fate::Stays => {
                if !self.is_idle_talk(note.event, pin) {
                    self.renew(flows, scene, note.event, flow);
                }
                scene.count_one(pin.real(), real.service, note.packet);
                Next::Is(forward(scene, note.packet, pin.real(), real, frame))
            }
            // There is nobody with whom it could: the old connection stays as it is, as in the kernel.
            Fate::BeginsAnew if note.service.is_none() => Next::Begins(None),
            Fate::BeginsAnew => {
                // The kernel leaves the old connection to a timer: who chooses still counts it.
                flows.remove(slot);
                Next::Begins(Some((key.source(), pin)))
            }
            Fate::Moves => {
                self.end(flows, scene, flow);
                Next::Moves(pin.state())
            }
            Fate::IsReset => {
                self.end(flows, scene, flow);
                Next::Is(Err(told_reset(key.source())))
            }
            Fate::IsSilent => Next::Is(Err(Verdict::Drop(DropReason::RealRemoved))),
        }
    }

    /// A packet that no entry is for.
    fn begin<K: ClientKey<Q>, const Q: usize>(
        &mut self,
        flows: &mut Table<K, Q>,
        scene: Scene<'_>,
        candidate: &Candidate<'_, K>,
        service: &Service,
        frame: &mut [u8],
    ) -> Sent {
        let (key, event) = (candidate.key(), candidate.note.event);
        if !event.opens() {
            // Its connection may have begun when there was no room for it.
            return match service.settings.on_miss {
                _ if matches!(event, Event::Rst | Event::Error) => Err(Verdict::Drop(DropReason::NoConnection)),
                _ if self.may_be_stateless(scene.tick) => self.forward_without_state(scene, candidate, service, frame),
                OnMiss::Hash => self.forward_without_state(scene, candidate, service, frame),
                OnMiss::Reset => Err(told_reset(key.source())),
                OnMiss::Drop => Err(Verdict::Drop(DropReason::NoConnection)),
            };
        }
        let source = key.source();
        if !can_be_source(source) || scene.snapshot.is_virtual(source) {
            return Err(Verdict::Drop(DropReason::BadSource));
        }
        if service.settings.one_packet && event == Event::Datagram {
            return self.forward_once(scene, candidate, service, frame);
        }
        if event == Event::Syn && self.is_crowded() {
            self.note_stateless(scene.tick);
            return self.forward_without_state(scene, candidate, service, frame);
        }
        self.connect(flows, scene, candidate, service, FlowState::None, frame)
    }

    /// Gives a flow a real of the scheduler's choice, and an entry that goes on from the state `from`.
    fn connect<K: ClientKey<Q>, const Q: usize>(
        &mut self,
        flows: &mut Table<K, Q>,
        scene: Scene<'_>,
        candidate: &Candidate<'_, K>,
        service: &Service,
        from: FlowState,
        frame: &mut [u8],
    ) -> Sent {
        let choice = self.choose(scene, service, &candidate.key().opening(service.takes.address()))?;
        let state = from.on(candidate.note.event);
        if self.enter(flows, scene, candidate, choice, state).is_err() {
            self.note_stateless(scene.tick);
            return self.forward_without_state(scene, candidate, service, frame);
        }
        forward_new(scene, candidate, choice.real, frame)
    }

    /// For a connection that has no entry: by the client alone.
    fn forward_without_state<K: ClientKey<Q>, const Q: usize>(
        &mut self,
        scene: Scene<'_>,
        candidate: &Candidate<'_, K>,
        service: &Service,
        frame: &mut [u8],
    ) -> Sent {
        let opening = candidate.key().opening(service.takes.address());
        let real = self.choose_without_state(scene, service, &opening)?;
        let port = forward_new(scene, candidate, real, frame)?;
        scene.ledger.frames.stateless.add(1);
        Ok(port)
    }

    /// One-packet scheduling: every datagram is a connection of its own, over as soon as it is sent.
    fn forward_once<K: ClientKey<Q>, const Q: usize>(
        &mut self,
        scene: Scene<'_>,
        candidate: &Candidate<'_, K>,
        service: &Service,
        frame: &mut [u8],
    ) -> Sent {
        let choice = self.choose(scene, service, &candidate.key().opening(service.takes.address()))?;
        self.remember(scene, choice);
        self.forget(scene, choice);
        self.loads.passed(scene.ledger, scene.snapshot, choice.real);
        scene.ledger.flow_passed(service.id, choice.real);
        let real = scene.snapshot.real(choice.real);
        scene.count_one(choice.real, real.service, candidate.note.packet);
        // What the sender is told instead is about no connection, and counted nowhere; nor does the kernel.
        dr::forward(frame, candidate.note.packet, real, *scene.longest)
    }
}

/// What becomes of a flow when this comes.
fn fate(real: &Real, pin: Pin, event: Event) -> Fate {
    let on_removed = real.on_removed;
    let is_over = matches!(pin.state(), FlowState::TimeWait | FlowState::Close);
    let is_draining = real.weight == 0 && !real.removed && !pin.state().is_active();
    match event {
        // The real's connections ended when it was removed, or its number is nobody's any more.
        _ if real.generation != pin.generation() && !event.opens() && real.service.is_some() => Fate::IsReset,
        _ if real.generation != pin.generation() => Fate::BeginsAnew,
        // A client that begins again has no use for the old connection's real once that is gone.
        Event::Syn if real.removed && on_removed != OnRemoved::Drop => Fate::BeginsAnew,
        Event::Syn if !real.removed && !real.answers => Fate::BeginsAnew,
        Event::Syn if is_over && !pin.is_persistent() => Fate::BeginsAnew,
        Event::Syn if real.weight == 0 && !real.removed && on_removed == OnRemoved::Reset => Fate::BeginsAnew,
        // A real that drains would get something new otherwise, from a port that the client has closed and uses again.
        Event::Syn if is_draining && on_removed == OnRemoved::Reschedule => Fate::BeginsAnew,
        _ if real.removed && on_removed == OnRemoved::Drop => Fate::IsSilent,
        Event::Datagram if real.removed || !real.answers => Fate::BeginsAnew,
        _ if real.removed && on_removed == OnRemoved::Reset => Fate::IsReset,
        _ if real.removed => Fate::Moves,
        _ => Fate::Stays,
    }
}

/// An ICMP error goes to the real of the flow that it is about, and changes nothing of that.
fn forward_error(scene: Scene<'_>, note: &Note, pin: Pin, frame: &mut [u8]) -> Sent {
    let real = scene.snapshot.real(pin.real());
    // Also to one that was removed, while its connections are there: what it still sends may need it.
    let is_over = real.removed && real.on_removed == OnRemoved::Reschedule;
    if real.generation != pin.generation() || is_over {
        return Err(Verdict::Drop(DropReason::RealRemoved));
    }
    // Nobody is told of an error in an error.
    let told = |verdict| match verdict {
        Verdict::Answer(Answer::FragmentationNeeded { .. }) => Verdict::Drop(DropReason::LongerThanMtu),
        Verdict::Answer(_) => Verdict::Drop(DropReason::TtlExpired),
        other => other,
    };
    if !real.removed {
        scene.count_one(pin.real(), real.service, note.packet);
    }
    dr::forward(frame, note.packet, real, *scene.longest).map_err(told)
}

/// To a real that was just chosen.
fn forward_new<K: ClientKey<Q>, const Q: usize>(
    scene: Scene<'_>,
    candidate: &Candidate<'_, K>,
    id: RealId,
    frame: &mut [u8],
) -> Sent {
    let real = scene.snapshot.real(id);
    scene.count_one(id, real.service, candidate.note.packet);
    forward(scene, candidate.note.packet, id, real, frame)
}

/// A packet of a connection, to its real. What its sender is told instead is counted with what its real got.
fn forward(scene: Scene<'_>, packet: dr::Packet, id: RealId, real: &Real, frame: &mut [u8]) -> Sent {
    let forwarded = dr::forward(frame, packet, real, *scene.longest);
    forwarded.inspect_err(|verdict| scene.count_told(*verdict, id, real, packet))
}

/// A packet that no service takes, of no flow either.
fn unclaimed<K: ClientKey<Q>, const Q: usize>(snapshot: &Snapshot, key: K, event: Event) -> Verdict {
    let address = key.opening(Ipv4Addr::UNSPECIFIED.into()).address;
    if snapshot.is_virtual(address) { closed_port(event, address.is_ipv6()) } else { Verdict::Host }
}

/// Resets are made for IPv4 only.
fn told_reset(client: IpAddr) -> Verdict {
    match client {
        IpAddr::V4(_) => Verdict::Answer(Answer::Reset),
        IpAddr::V6(_) => Verdict::Drop(DropReason::NoConnection),
    }
}

fn verdict_of(sent: Sent) -> Verdict {
    sent.map_or_else(|verdict| verdict, |port| Verdict::Forward { port })
}

fn can_be_source(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => ipv4::is_host(address),
        IpAddr::V6(address) => ipv6::can_be_source(address),
    }
}
