//! Lays out snapshots, each from the one before: what has not changed is shared and not made again.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::earlier::Earlier;
use super::lookup::ServiceLookup;
use super::maglev::{Maglev, name_of};
use super::registry::{Condemned, NoNumber, RealName, Registry};
use super::rules::Rules;
use super::schedule::{Member, Roster};
use super::snapshot::{
    Reach, Real, RealId, RealPlan, Reals, Service, ServiceId, ServicePlan, Snapshot, Station, egress_port,
};
use crate::config::{Config, Limits, MatchRule, OnRemoved, RealConfig, Scheduler, ServiceConfig, Takes, Timeouts};

/// Of our own Maglev; directors with the same one agree on every flow.
const GROUP_SEED: u64 = 0;

/// A new snapshot, and what goes with it.
#[derive(Debug)]
pub struct Composition {
    pub snapshot: Snapshot,
    /// Numbers that others had before. Whoever publishes the snapshot first clears what was counted under them: until
    /// then no worker counts anything there.
    pub recycled: Recycled,
    /// Services that came, and reals that came to a service which came since they went. What passed before is counted no
    /// longer, as in the kernel, where these are new; connections are still there.
    pub came: Recycled,
    /// Services and reals that no number is free for yet. They are left out; asking again once numbers were released
    /// brings them.
    pub waiting: Vec<NoNumber>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recycled {
    pub services: Vec<ServiceId>,
    pub reals: Vec<RealId>,
}

/// A service as it is in force.
#[derive(Debug)]
struct Placed {
    /// What it was made of, when nothing of it waits.
    config: Option<Arc<ServiceConfig>>,
    service: Arc<Service>,
}

/// A real that is in the configuration no longer.
#[derive(Debug)]
struct Gone {
    /// The turn in which it went.
    turn: u64,
    /// Its connections were ended.
    ended: bool,
}

/// What tells a service's reals apart for all directors, and their shares, in the order of `Service::reals`.
type Shares = Box<[(u64, u16)]>;

/// Owns the numbers, and what the last snapshot was made of.
#[derive(Debug)]
pub struct Composer {
    registry: Arc<Registry>,
    stations: Vec<Station>,
    timeouts: Timeouts,
    configured: u64,
    several_workers: bool,
    matches: Vec<MatchRule>,
    /// By their numbers' index.
    placed: Vec<Option<Placed>>,
    reals: Vec<Real>,
    /// How many times something was composed; when each service came, by its number's index, and when reals went.
    turns: u64,
    came: Vec<u64>,
    went: HashMap<RealId, Gone>,
    lookup: ServiceLookup,
    rules: Arc<Rules>,
    earlier: Earlier,
    /// Who is asked for by ARP, by its address.
    by_address: HashMap<Ipv4Addr, Vec<RealId>>,
    /// Services with the same reals share one table.
    tables: HashMap<Shares, Arc<Maglev>>,
}

impl Composer {
    pub fn new(limits: Limits, stations: Vec<Station>) -> Composer {
        Composer {
            registry: Arc::new(Registry::new(limits)),
            stations,
            timeouts: Timeouts::default(),
            configured: 0,
            several_workers: false,
            matches: Vec::new(),
            placed: Vec::new(),
            reals: Vec::new(),
            turns: 0,
            came: Vec::new(),
            went: HashMap::new(),
            lookup: ServiceLookup::build(std::iter::empty()),
            rules: Arc::default(),
            earlier: Earlier::default(),
            by_address: HashMap::new(),
            tables: HashMap::new(),
        }
    }

    /// More than one worker will use the snapshots.
    pub fn for_several_workers(mut self, several: bool) -> Composer {
        self.several_workers = several;
        self
    }

    /// Whose numbers are whose.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Every worker has gone through its whole flow table since it held the snapshot of `epoch`.
    pub fn release(&mut self, epoch: u64) {
        self.numbers().release(epoch);
    }

    /// To change them; who still reads the old ones keeps those.
    fn numbers(&mut self) -> &mut Registry {
        Arc::make_mut(&mut self.registry)
    }

    /// The snapshot of what `config` says, with what is known of the reals now.
    pub fn compose(&mut self, epoch: u64, config: &Config, reach: &dyn Fn(usize, Ipv4Addr) -> Reach) -> Composition {
        let mut turn = Turn::default();
        self.turns += 1;
        self.remove_others(config.services.iter().map(|service| service.takes).collect(), &mut turn);
        for service in &config.services {
            if !self.is_in_force(service) {
                let plan = self.plan(service, reach);
                let whole = self.place(&plan, &mut turn);
                self.keep(service, whole);
            }
        }
        if turn.reals_went {
            self.end_connections(epoch);
        }
        self.timeouts = config.timeouts;
        self.configured = epoch;
        if turn.changed {
            self.find_by_address(&config.services);
        }
        if turn.services_changed || self.matches != config.matches {
            self.matches.clone_from(&config.matches);
            self.look_up();
        }
        let addresses: Vec<Ipv4Addr> = self.by_address.keys().copied().collect();
        self.reach_again(&addresses, reach);
        let snapshot = self.snapshot(epoch);
        Composition { snapshot, recycled: turn.recycled, came: turn.came, waiting: turn.waiting }
    }

    /// The snapshot of services that no configuration can say.
    pub(super) fn compose_plans(&mut self, epoch: u64, plans: &[ServicePlan]) -> Snapshot {
        let mut turn = Turn::default();
        for plan in plans {
            self.place(plan, &mut turn);
        }
        self.configured = epoch;
        self.look_up();
        self.snapshot(epoch)
    }

    /// The last snapshot with what is known now of those who have these addresses.
    pub fn refresh(
        &mut self,
        epoch: u64,
        addresses: &[Ipv4Addr],
        reach: &dyn Fn(usize, Ipv4Addr) -> Reach,
    ) -> Snapshot {
        self.reach_again(addresses, reach);
        self.snapshot(epoch)
    }

    fn snapshot(&mut self, epoch: u64) -> Snapshot {
        let Condemned { services, reals } = self.numbers().make_room(epoch);
        if !services.is_empty() || !reals.is_empty() {
            // Workers follow this as they follow edits.
            self.configured = epoch;
            self.earlier = self.set_aside();
        }
        for id in reals {
            self.reals[id.index()] = Real::nobody(self.registry.generation(id));
            self.went.remove(&id);
        }
        Snapshot {
            epoch,
            stations: self.stations.clone(),
            services: self.placed.iter().map(|placed| Some(placed.as_ref()?.service.clone())).collect(),
            reals: self.reals.clone(),
            timeouts: self.timeouts,
            configured: self.configured,
            clearing: self.registry.is_clearing(),
            lookup: self.lookup.clone(),
            rules: self.rules.clone(),
            earlier: self.earlier.clone(),
        }
    }

    fn is_in_force(&self, service: &Arc<ServiceConfig>) -> bool {
        let id = self.registry.held_service(&service.takes);
        let placed = id.and_then(|id| self.placed.get(id.index())?.as_ref());
        placed.and_then(|placed| placed.config.as_ref()).is_some_and(|there| Arc::ptr_eq(there, service))
    }

    fn keep(&mut self, service: &Arc<ServiceConfig>, whole: bool) {
        let id = self.registry.held_service(&service.takes);
        if let Some(placed) = id.and_then(|id| self.placed.get_mut(id.index())?.as_mut()) {
            placed.config = whole.then(|| service.clone());
        }
    }

    fn plan(&self, service: &ServiceConfig, reach: &dyn Fn(usize, Ipv4Addr) -> Reach) -> ServicePlan {
        let real = |real: &RealConfig| {
            let egress = egress_port(&self.stations, real.address);
            RealPlan {
                address: real.address.into(),
                port: real.port,
                weight: real.weight,
                upper: real.upper,
                lower: real.lower,
                egress,
                reach: real.mac.map_or_else(|| reach(egress, real.address), Reach::At),
            }
        };
        let ServiceConfig { takes, scheduler, settings, reals } = service;
        ServicePlan {
            takes: *takes,
            scheduler: *scheduler,
            settings: *settings,
            reals: reals.iter().map(real).collect(),
        }
    }

    /// Lets go of the services that are not among these.
    fn remove_others(&mut self, stay: HashSet<Takes>, turn: &mut Turn) {
        for placed in &mut self.placed {
            let Some(Placed { service, .. }) = placed.as_ref().filter(|placed| !stay.contains(&placed.service.takes))
            else {
                continue;
            };
            Arc::make_mut(&mut self.registry).remove_service(service.id);
            for real in &service.reals {
                self.reals[real.index()].remove();
                self.went.insert(*real, Gone { turn: self.turns, ended: false });
                turn.reals_went = true;
            }
            *placed = None;
            (turn.changed, turn.services_changed) = (true, true);
        }
    }

    /// Puts a service in force as it is planned; says whether all of it is there.
    fn place(&mut self, plan: &ServicePlan, turn: &mut Turn) -> bool {
        turn.changed = true;
        let id = match self.numbers().service(plan.takes) {
            Ok(given) => {
                turn.recycled.services.extend(given.recycled.then_some(given.id));
                given.id
            }
            Err(waits) => {
                turn.waiting.push(waits);
                return false;
            }
        };
        if self.placed.len() <= id.index() {
            self.placed.resize_with(id.index() + 1, || None);
        }
        let before = self.placed[id.index()].take().map(|placed| placed.service);
        if before.is_none() {
            turn.came.services.push(id);
            self.came.resize(self.placed.len(), 0);
            self.came[id.index()] = self.turns;
        }
        let was_persistent = before.as_ref().map(|before| before.settings.persistence.is_some());
        turn.services_changed |= was_persistent != Some(plan.settings.persistence.is_some());
        let edits = before.as_deref().map_or(0, |before| self.edits(before, plan));
        self.remove_reals(before.as_deref(), plan, id, turn);
        let waiting = turn.waiting.len();
        let mut reals: Vec<RealId> = plan.reals.iter().filter_map(|real| self.place_real(real, id, turn)).collect();
        reals.reverse();
        let ServicePlan { takes, scheduler, settings, .. } = *plan;
        for real in self.registry.reals_of(id) {
            self.reals[real.index()].on_removed = settings.on_removed;
        }
        let roster = self.roster(&reals, takes, scheduler, edits);
        let service = Service { id, takes, scheduler, settings, reals: reals.into(), roster };
        self.placed[id.index()] = Some(Placed { config: None, service: Arc::new(service) });
        turn.waiting.len() == waiting
    }

    /// How often a service's list was edited, with this time. What changes only how it is scheduled is no edit of its
    /// list; an edit that changes nothing at all is one, of a real.
    fn edits(&self, before: &Service, plan: &ServicePlan) -> u32 {
        let reals = Reals { ids: &before.reals, all: &self.reals };
        let is_same = |(real, plan): (&Real, &RealPlan)| {
            (real.address, real.port, real.weight, real.upper, real.lower)
                == (plan.address, plan.port, plan.weight, plan.upper, plan.lower)
        };
        let of_reals = (before.scheduler, before.settings) == (plan.scheduler, plan.settings)
            || reals.len() != plan.reals.len()
            || !reals.iter().zip(plan.reals.iter().rev()).all(is_same);
        before.roster.edits().wrapping_add(u32::from(of_reals))
    }

    /// Lets go of the reals that are planned no longer.
    fn remove_reals(&mut self, before: Option<&Service>, plan: &ServicePlan, service: ServiceId, turn: &mut Turn) {
        let stay: HashSet<(IpAddr, u16)> = plan.reals.iter().map(|real| (real.address, real.port)).collect();
        for id in before.into_iter().flat_map(|service| &service.reals) {
            let real = &mut self.reals[id.index()];
            if real.service == Some(service) && !stay.contains(&(real.address, real.port)) {
                real.remove();
                self.went.insert(*id, Gone { turn: self.turns, ended: false });
                turn.reals_went = true;
                Arc::make_mut(&mut self.registry).remove_real(*id);
            }
        }
    }

    /// When reals go, the connections end of all that are gone and whose services want it so, as in the kernel.
    fn end_connections(&mut self, epoch: u64) {
        for (id, gone) in &mut self.went {
            let real = &mut self.reals[id.index()];
            if real.on_removed == OnRemoved::Reset && !gone.ended {
                gone.ended = Arc::make_mut(&mut self.registry).end_connections(*id, epoch);
                real.generation = self.registry.generation(*id);
            }
        }
    }

    fn place_real(&mut self, plan: &RealPlan, service: ServiceId, turn: &mut Turn) -> Option<RealId> {
        let name = RealName { service, address: plan.address, port: plan.port };
        let given = self.numbers().real(name).map_err(|waits| turn.waiting.push(waits)).ok()?;
        let id = given.id;
        turn.recycled.reals.extend(given.recycled.then_some(id));
        let went = self.went.get(&id).map(|gone| gone.turn);
        turn.came.reals.extend(went.filter(|went| *went <= self.came[service.index()]).map(|_| id));
        self.went.remove(&id);
        if self.reals.len() <= id.index() {
            self.reals.resize(id.index() + 1, Real::nobody(0));
        }
        let before = &self.reals[id.index()];
        let stays = before.service == Some(service) && !before.removed;
        let last_weight = if stays && plan.weight == 0 { before.last_weight } else { plan.weight };
        let mut real = Real {
            last_weight,
            egress: plan.egress as u8,
            weight: plan.weight,
            upper: plan.upper,
            lower: plan.lower,
            service: Some(service),
            address: plan.address,
            port: plan.port,
            removed: false,
            ..Real::nobody(self.registry.generation(id))
        };
        real.reach(plan.reach, self.stations.get(plan.egress)?);
        self.reals[id.index()] = real;
        Some(id)
    }

    fn find_by_address(&mut self, services: &[Arc<ServiceConfig>]) {
        self.by_address.clear();
        for service in services {
            let Some(id) = self.registry.held_service(&service.takes) else { continue };
            for real in service.reals.iter().filter(|real| real.mac.is_none()) {
                let name = RealName { service: id, address: real.address.into(), port: real.port };
                if let Some(id) = self.registry.held_real(&name) {
                    self.by_address.entry(real.address).or_default().push(id);
                }
            }
        }
    }

    fn reach_again(&mut self, addresses: &[Ipv4Addr], reach: &dyn Fn(usize, Ipv4Addr) -> Reach) {
        let mut changed: Vec<ServiceId> = Vec::new();
        for address in addresses {
            let egress = egress_port(&self.stations, *address);
            let (Some(ids), Some(station)) = (self.by_address.get(address), self.stations.get(egress)) else {
                continue;
            };
            let reach = reach(egress, *address);
            for id in ids {
                let real = &mut self.reals[id.index()];
                if real.reach(reach, station) {
                    changed.extend(real.service);
                }
            }
        }
        changed.sort_unstable();
        changed.dedup();
        changed.into_iter().for_each(|id| self.share_out_again(id));
    }

    /// Other reals of the service answer now than did before.
    fn share_out_again(&mut self, id: ServiceId) {
        let Some(Some(placed)) = self.placed.get(id.index()) else { return };
        let before = placed.service.clone();
        let Service { id, takes, scheduler, settings, .. } = *before;
        let roster = self.roster(&before.reals, takes, scheduler, before.roster.edits());
        let service = Arc::new(Service { id, takes, scheduler, settings, reals: before.reals.clone(), roster });
        if let Some(placed) = &mut self.placed[id.index()] {
            placed.service = service;
        }
    }

    /// What the scheduler may know of these reals.
    fn roster(&mut self, ids: &[RealId], takes: Takes, scheduler: Scheduler, edits: u32) -> Arc<Roster> {
        let stateless = match scheduler {
            Scheduler::Maglev => Arc::default(),
            _ => self.table(ids, takes.port()),
        };
        let member = |(id, real): (&RealId, &Real)| Member {
            id: *id,
            holder: self.registry.holder(*id),
            ready: real.answers,
            weight: real.weight,
            last_weight: real.last_weight,
            address: real.address,
            port: real.port,
        };
        let members = ids.iter().zip(Reals { ids, all: &self.reals }.iter()).map(member).collect();
        Arc::new(Roster::with(scheduler, members, edits, GROUP_SEED, stateless))
    }

    /// Who takes part in choices without state: those that could be chosen with it. A real keeps its places as long as
    /// its address and port are the same, on every director.
    fn table(&mut self, ids: &[RealId], service_port: u16) -> Arc<Maglev> {
        let share = |real: &Real| {
            // Services that differ by their port alone have the same table.
            let port = if real.port == service_port { 0 } else { real.port };
            (name_of(real.address, port), if real.answers { real.weight } else { 0 })
        };
        let shares: Shares = Reals { ids, all: &self.reals }.iter().map(share).collect();
        if let Some(table) = self.tables.get(&shares) {
            return table.clone();
        }
        let most = self.placed.len().max(64);
        if self.tables.len() > 2 * most {
            self.tables.retain(|_, table| Arc::strong_count(table) > 1);
        }
        let entries: Vec<(u16, u64, u16)> =
            shares.iter().zip(0u16..).map(|((name, weight), place)| (place, *name, *weight)).collect();
        let table = Arc::new(Maglev::build(&entries));
        self.tables.insert(shares, table.clone());
        table
    }

    fn look_up(&mut self) {
        let services = self.placed.iter().flatten();
        let services: Vec<(Takes, ServiceId)> =
            services.map(|placed| (placed.service.takes, placed.service.id)).collect();
        let is_persistent = |id: ServiceId| {
            let placed = self.placed.get(id.index()).and_then(Option::as_ref);
            placed.is_some_and(|placed| placed.service.settings.persistence.is_some())
        };
        // Several workers look closer at these: the client's template is on one of them.
        let (rules, hot) = Rules::build(&services, &self.matches, |id| self.several_workers && is_persistent(id));
        self.lookup = ServiceLookup::build(hot.into_iter());
        self.rules = Arc::new(rules);
        self.earlier = self.set_aside();
    }

    /// A director without services leaves everything to the host.
    fn set_aside(&self) -> Earlier {
        if self.placed.iter().flatten().next().is_none() {
            return Earlier::default();
        }
        let known = self.registry.known_services();
        let known = known.map(|(takes, id)| (takes, id, self.registry.held_service(&takes).is_some()));
        Earlier::build(known, &self.lookup)
    }
}

/// What one composition does.
#[derive(Default)]
struct Turn {
    changed: bool,
    /// Services came or went.
    services_changed: bool,
    reals_went: bool,
    recycled: Recycled,
    came: Recycled,
    waiting: Vec<NoNumber>,
}
