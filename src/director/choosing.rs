//! What a core knows of connections beside its flow tables: where its schedulers stand, what the reals have to do, which
//! client is to come back to which real, and how many connections are half open.

use std::net::IpAddr;
use std::sync::Arc;

use super::burst::{Candidate, Scene};
use super::loads::Loads;
use super::tables::Flow;
use crate::clock::TICKS_PER_SECOND;
use crate::config::Scheduler;
use crate::counters::Ledger;
use crate::flow::{
    ClientKey, Event, FlowState, Pin, Pinned, Table, TableFull, TemplateKey, Templates, Timeouts, timeout_ticks,
};
use crate::service::{Member, Opening, RealId, Schedule, Service, ServiceId, Snapshot, Start};
use crate::verdict::{Answer, DropReason, Verdict};

/// How long a connection waits for its second packet while too many do; the kernel gives a new entry as much.
const HURRIED_TICKS: u32 = 3 * TICKS_PER_SECOND;
/// How long after a connection that got no entry others like it may still be about.
const STATELESS_TICKS: u32 = timeout_ticks(FlowState::Established);
/// Virtual addresses that a service by mark may have: nobody knows which these are.
const MARKED_ADDRESSES: usize = 4096;

pub struct Choosing {
    /// One a service, by its index.
    schedules: Vec<Option<Schedule>>,
    /// By the services' index: how many bits of a client's address count, and counted before.
    prefixes: Vec<Prefixes>,
    pub loads: Loads,
    pub templates: Templates,
    timeouts: Timeouts,
    /// Connections of which only a SYN was seen, and how many of them may have an entry.
    half_open: usize,
    half_open_most: usize,
    /// Until then there may be connections without an entry, because the table or the half-open ones were at their
    /// limit.
    stateless_until: u32,
    start: Start,
    /// What was adopted.
    epoch: u64,
    configured: u64,
}

/// The real for a connection.
#[derive(Clone, Copy)]
pub struct Choice {
    pub real: RealId,
    /// Of a persistent service: the client, whether its template chose, and the template's turn.
    template: Option<(TemplateKey, bool, bool)>,
    /// The connection is half open while such, or templates, are scarce: it and its template are not waited for long.
    hurried: bool,
}

impl Choosing {
    /// `worker` sets where schedulers start, `seed` what they draw.
    pub fn new(half_open_most: usize, templates: usize, worker: usize, seed: u64, ledger: &Arc<Ledger>) -> Choosing {
        Choosing {
            schedules: Vec::with_capacity(ledger.services.len()),
            prefixes: Vec::with_capacity(ledger.services.len()),
            loads: Loads::new(ledger),
            templates: Templates::new(templates),
            timeouts: Timeouts::default(),
            half_open: 0,
            half_open_most,
            stateless_until: 0,
            start: Start { worker, seed, ..Start::default() },
            epoch: 0,
            configured: 0,
        }
    }

    /// Whether there is nothing new in it.
    #[inline(always)]
    pub fn knows(&self, snapshot: &Snapshot) -> bool {
        self.epoch == snapshot.epoch
    }

    /// Follows the edits that led to this snapshot.
    #[cold]
    pub fn adopt(&mut self, snapshot: &Snapshot, ledger: &Ledger, tick: u32) {
        self.epoch = snapshot.epoch;
        if self.configured == snapshot.configured {
            return;
        }
        self.configured = snapshot.configured;
        self.loads.adopt(snapshot, ledger);
        let set = snapshot.timeouts;
        for (state, seconds) in
            [(FlowState::Established, set.tcp), (FlowState::FinWait, set.tcp_fin), (FlowState::Udp, set.udp)]
        {
            self.timeouts.set(state, seconds.saturating_mul(TICKS_PER_SECOND));
        }
        let services = snapshot.services.len().max(self.schedules.len());
        self.schedules.resize_with(services, || None);
        self.prefixes.resize(services, Prefixes::default());
        for (place, schedule) in self.schedules.iter_mut().enumerate() {
            let service = snapshot.services.get(place).and_then(Option::as_deref);
            follow(schedule, service, Start { tick, ..self.start });
            let persistence = service.and_then(|service| service.settings.persistence);
            persistence.into_iter().for_each(|how| self.prefixes[place].add(how.prefix));
        }
    }

    /// The real for a new connection, or what becomes of the packet because there is none.
    pub fn choose(&mut self, scene: Scene<'_>, service: &Service, opening: &Opening) -> Result<Choice, Verdict> {
        let client = client_of(service, opening);
        if let Some(client) = client
            && let Some((real, turn)) = self.remembered(scene, service, client)
        {
            return Ok(Choice { real, template: Some((client, true, turn)), hurried: false });
        }
        self.loads.refresh(service.id, &service.roster, scene);
        // While the client may have connections without an entry, all of them go where those go.
        let by_hash = client.filter(|_| self.may_be_stateless(scene.tick)).and_then(|_| by_hash(service, opening));
        let by_hash = by_hash.filter(|real| !self.loads.of(scene.ledger, *real).overloaded);
        let real =
            by_hash.or_else(|| self.schedule(scene, service, opening)).ok_or_else(|| nobody(service, opening))?;
        let template = client.map(|client| (client, false, self.templates.next_turn(client, real)));
        Ok(Choice { real, template, hurried: false })
    }

    /// The real for a packet whose connection has no entry: the client's, where the service is persistent.
    pub fn choose_without_state(
        &mut self,
        scene: Scene<'_>,
        service: &Service,
        opening: &Opening,
    ) -> Result<RealId, Verdict> {
        let remembered = client_of(service, opening).and_then(|client| self.remembered(scene, service, client));
        let real = remembered.map(|(real, _)| real).or_else(|| by_hash(service, opening));
        real.ok_or(Verdict::Drop(DropReason::NoReal))
    }

    /// The real of the client's template, and its turn, if it can be had. A template that is of no use is not asked again.
    fn remembered(&mut self, scene: Scene<'_>, service: &Service, client: TemplateKey) -> Option<(RealId, bool)> {
        let Pinned { real, generation, turn } = self.templates.find(client, scene.tick)?.pinned;
        let bound = scene.snapshot.real(real);
        let is_drained = bound.weight == 0 && service.settings.expire_quiescent;
        if bound.serves(generation) && !is_drained {
            return Some((real, turn));
        }
        match bound.generation == generation {
            true => self.templates.spend(client),
            // It ended with the connections of its real.
            false => self.templates.end(client),
        }
        None
    }

    fn schedule(&mut self, scene: Scene<'_>, service: &Service, opening: &Opening) -> Option<RealId> {
        // Another director that takes over knows no templates, and is to choose the same for all of a client's connections.
        let opening = if service.scheduler == Scheduler::Maglev { of_client(service, opening) } else { *opening };
        let loads = &self.loads;
        let load = |id| loads.of(scene.ledger, id);
        let schedule = self.schedules.get_mut(service.id.index()).and_then(Option::as_mut)?;
        schedule.choose(&service.roster, &opening, load, scene.tick)
    }

    /// Enters a new flow in the state `to`. What has run out and is in its way goes.
    pub fn enter<K: ClientKey<Q>, const Q: usize>(
        &mut self,
        flows: &mut Table<K, Q>,
        scene: Scene<'_>,
        candidate: &Candidate<'_, K>,
        mut choice: Choice,
        to: FlowState,
    ) -> Result<(), TableFull> {
        let real = scene.snapshot.real(choice.real);
        let mut pin = Pin::new(choice.real, to, self.end_of(to, scene.tick)).of_generation(real.generation);
        if choice.template.is_some() && is_half_open(pin) && self.is_scarce() {
            choice.hurried = true;
            pin = pin.moved_to(pin.state(), scene.tick.wrapping_add(HURRIED_TICKS));
        }
        if let Some((client, _, turn)) = choice.template {
            pin = pin.persistent(self.mask_of(scene.snapshot, client.service), turn);
        }
        let ended = |key: K, old| self.ended(scene, key.source(), old);
        flows.insert(candidate.key(), candidate.hash(), pin, scene.tick, ended)?;
        self.count_half_open(usize::from(is_half_open(pin)), 0);
        scene.ledger.flow_began(real.service, pin);
        self.loads.began(scene.ledger, scene.snapshot, choice.real);
        self.remember(scene, choice);
        Ok(())
    }

    /// A connection of the client has begun, and its template knows.
    pub fn remember(&mut self, scene: Scene<'_>, choice: Choice) {
        match choice.template {
            Some((client, true, _)) => self.templates.use_again(client, choice.hurried, scene.tick),
            Some((client, false, turn)) => {
                let persistence =
                    scene.snapshot.service(client.service).and_then(|service| service.settings.persistence);
                let patience = persistence.map_or(0, |how| how.seconds.saturating_mul(TICKS_PER_SECOND));
                let generation = scene.snapshot.real(choice.real).generation;
                let pinned = Pinned { real: choice.real, generation, turn };
                if !self.templates.bind(client, pinned, patience, choice.hurried, scene.tick) {
                    scene.ledger.frames.templates_refused.add(1);
                }
            }
            None => (),
        }
    }

    /// Ends the connection that `remember` was told of, which is not entered.
    pub fn forget(&mut self, scene: Scene<'_>, choice: Choice) {
        if let Some((client, _, turn)) = choice.template {
            let generation = scene.snapshot.real(choice.real).generation;
            self.templates.release(client, Pinned { real: choice.real, generation, turn }, scene.tick);
        }
    }

    /// Another packet of a flow, which goes to its real.
    #[inline(always)]
    pub fn renew<K: ClientKey<Q>, const Q: usize>(
        &mut self,
        flows: &mut Table<K, Q>,
        scene: Scene<'_>,
        event: Event,
        Flow { key, slot, pin: old }: Flow<K>,
    ) {
        let state = old.state_on(event);
        let new = old.moved_to(state, self.end_of(state, scene.tick));
        if old != new {
            flows.update(slot, new);
            if !old.differs_in_time_alone(new) {
                self.note_change(scene, key, old, new);
            }
        }
    }

    #[inline(always)]
    fn end_of(&self, state: FlowState, tick: u32) -> u32 {
        tick.wrapping_add(self.timeouts.ticks(state))
    }

    /// What the key says of the client is asked for here: at the place of the call it would cost every packet's registers.
    #[cold]
    #[inline(never)]
    fn note_change<K: ClientKey<Q>, const Q: usize>(&mut self, scene: Scene<'_>, key: K, old: Pin, new: Pin) {
        self.count_half_open(usize::from(is_half_open(new)), usize::from(is_half_open(old)));
        let service = scene.snapshot.real(new.real()).service;
        if old.state().is_active() != new.state().is_active() {
            scene.ledger.flow_changed(service, old, new);
        }
        if new.is_persistent() && new.state() == FlowState::Established {
            self.template_of(service, key.source(), new).map(|client| self.templates.assure(client, pinned_by(new)));
        }
    }

    /// Ends a flow before its time.
    pub fn end<K: ClientKey<Q>, const Q: usize>(&mut self, flows: &mut Table<K, Q>, scene: Scene<'_>, flow: Flow<K>) {
        flows.remove(flow.slot);
        self.ended(scene, flow.key.source(), flow.pin);
    }

    /// A flow that is in the table no longer. One that its real's number had before is not among the real's any more.
    pub fn ended(&mut self, scene: Scene<'_>, client: IpAddr, pin: Pin) {
        self.count_half_open(0, usize::from(is_half_open(pin)));
        scene.ledger.flow_left();
        let real = scene.snapshot.real(pin.real());
        if real.generation != pin.generation() {
            return;
        }
        scene.ledger.flow_ended(real.service, pin);
        self.loads.ended(scene.ledger, scene.snapshot, pin.real());
        if pin.is_persistent() {
            let tick = pin.ended_by(scene.tick);
            let client = self.template_of(real.service, client, pin);
            client.map(|client| self.templates.release(client, pinned_by(pin), tick));
        }
    }

    /// The client of a persistent flow as its template knows it, which may be of a time when other bits of its address
    /// counted.
    fn template_of(&self, service: Option<ServiceId>, client: IpAddr, pin: Pin) -> Option<TemplateKey> {
        let service = service?;
        let prefix = self.prefixes.get(service.index())?.0[usize::from(pin.mask()?) % Prefixes::MOST];
        Some(TemplateKey::new(service, client, prefix))
    }

    /// Which of its prefixes a service has now.
    fn mask_of(&self, snapshot: &Snapshot, service: ServiceId) -> u8 {
        let persistence = snapshot.service(service).and_then(|service| service.settings.persistence);
        let place = persistence.and_then(|how| self.prefixes.get(service.index())?.place(how.prefix));
        place.unwrap_or(0) as u8
    }

    /// Whether as many connections are half open as may have an entry.
    pub fn is_crowded(&self) -> bool {
        self.half_open >= self.half_open_most
    }

    /// Whether half-open connections of persistent services are not to last.
    fn is_scarce(&self) -> bool {
        self.is_hurried() || self.templates.are_scarce()
    }

    /// Whether a SYN is one more that its connection is not to live any longer for: a flood would keep its templates.
    pub fn is_idle_talk(&self, event: Event, pin: Pin) -> bool {
        event == Event::Syn && pin.is_persistent() && is_half_open(pin) && self.is_scarce()
    }

    fn is_hurried(&self) -> bool {
        self.half_open > self.half_open_most / 2
    }

    /// A connection goes on without an entry.
    pub fn note_stateless(&mut self, tick: u32) {
        self.stateless_until = tick.wrapping_add(STATELESS_TICKS);
    }

    /// Whether a packet that no entry is for may be of a connection that got none.
    pub fn may_be_stateless(&self, tick: u32) -> bool {
        self.stateless_until.wrapping_sub(tick) as i32 > 0
    }

    /// With more than half of the half-open connections that may have an entry, SYNs wait for seconds, not a minute.
    fn count_half_open(&mut self, more: usize, fewer: usize) {
        self.half_open = self.half_open + more - fewer;
        let patience = if self.is_hurried() { HURRIED_TICKS } else { timeout_ticks(FlowState::SynRecv) };
        self.timeouts.set(FlowState::SynRecv, patience);
    }

    pub fn sweep<K: ClientKey<Q>, const Q: usize>(
        &mut self,
        flows: &mut Table<K, Q>,
        scene: Scene<'_>,
        buckets: usize,
    ) {
        let snapshot = scene.snapshot;
        let ended = |key: K, old| self.ended(scene, key.source(), old);
        match snapshot.clearing {
            false => flows.sweep(scene.tick, buckets, |_| true, ended),
            true => {
                let stays = |pin: Pin| snapshot.real(pin.real()).generation == pin.generation();
                flows.sweep(scene.tick, buckets, stays, ended);
            }
        }
    }

    /// A template whose real's connections were ended goes with them.
    pub fn sweep_templates(&mut self, scene: Scene<'_>, count: usize) {
        let stays = |pinned: Pinned| scene.snapshot.real(pinned.real).generation == pinned.generation;
        self.templates.sweep(scene.tick, count, stays);
    }
}

/// The prefixes that a service's templates have had: as many as a flow's entry can tell apart. Of more the last stands
/// for the rest, whose templates then end by themselves.
#[derive(Clone, Copy, Default)]
struct Prefixes([u8; Prefixes::MOST]);

impl Prefixes {
    const MOST: usize = 7;

    fn add(&mut self, prefix: u8) {
        if self.place(prefix).is_none() {
            let free = self.place(0).unwrap_or(Prefixes::MOST - 1);
            self.0[free] = prefix;
        }
    }

    fn place(&self, prefix: u8) -> Option<usize> {
        self.0.iter().position(|other| *other == prefix)
    }
}

/// Brings a service's schedule up to the service as it is now.
fn follow(schedule: &mut Option<Schedule>, service: Option<&Service>, start: Start) {
    let Some(service) = service else { return *schedule = None };
    let start = Start { addresses: addresses_of(service), ..start };
    match schedule {
        Some(there) if there.edits() <= service.roster.edits() => {
            there.switch(service.scheduler, &service.roster, start);
            there.changed(&service.roster);
        }
        _ => *schedule = Some(Schedule::start(service.scheduler, &service.roster, start)),
    }
}

/// How many virtual addresses a service takes.
fn addresses_of(service: &Service) -> usize {
    service.takes.net().map_or(MARKED_ADDRESSES, |net| 1 << (32 - u32::from(net.prefix.min(32))).min(20))
}

fn pinned_by(pin: Pin) -> Pinned {
    Pinned { real: pin.real(), generation: pin.generation(), turn: pin.turn() }
}

fn is_half_open(pin: Pin) -> bool {
    pin.state() == FlowState::SynRecv
}

/// The client as its service's templates know it.
fn client_of(service: &Service, opening: &Opening) -> Option<TemplateKey> {
    let persistence = service.settings.persistence;
    persistence.map(|how| TemplateKey::new(service.id, opening.client, how.prefix))
}

/// What all connections of a client have in common, as far as its service tells clients apart; where it is not
/// persistent, each connection is a client of its own.
fn of_client(service: &Service, opening: &Opening) -> Opening {
    match client_of(service, opening) {
        Some(client) => Opening { client: client.client(), client_port: 0, ..*opening },
        None => *opening,
    }
}

/// By the client alone, the same on every director.
fn by_hash(service: &Service, opening: &Opening) -> Option<RealId> {
    service.roster.without_state(service.scheduler, &of_client(service, opening))
}

/// What becomes of a connection for which a service has nobody.
fn nobody(service: &Service, opening: &Opening) -> Verdict {
    let is_silent = |member: &Member| member.weight > 0 && !member.ready;
    if service.roster.members().iter().any(is_silent) {
        Verdict::Drop(DropReason::RealUnresolved)
    } else if opening.client.is_ipv6() {
        Verdict::Drop(DropReason::NoReal)
    } else {
        Verdict::Answer(Answer::PortUnreachable)
    }
}
