//! Edits of a configuration: one at a time, as an operator makes them, and many, as the way from one configuration to
//! another. An edit is checked by the same code as the file is, with the same words; what is refused changes nothing.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::check::ports::Ports as Stations;
use super::check::services::{
    check_one, check_real, clash_message, clashes, real_address, real_is_not_virtual, takes, virtual_networks,
};
use super::error::{Mistake, Mistakes};
use super::raw::{RawPersistence, RawReal, RawService, RawTimeouts};
use super::{Config, FlowsConfig, Forwarding, Limits, MatchRule, RealConfig, ServiceConfig, Takes, Timeouts, check};

mod reload;
mod say;

pub use reload::{Reload, reload};

/// What an edit says of a service, in its own words: exactly one of the first three, and of the rest what is not left
/// to its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceWords {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flags: Option<String>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netmask: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub expire_quiescent: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub one_packet: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_removed: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_miss: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RealWords {
    pub address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upper: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lower: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// What an operator wants changed. Of the services named by the words in the edits of reals, only what they take counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    AddService(ServiceWords),
    /// Everything but its reals is as said from now on.
    EditService(ServiceWords),
    DeleteService(ServiceWords),
    AddReal(ServiceWords, RealWords),
    EditReal(ServiceWords, RealWords),
    DeleteReal(ServiceWords, RealWords),
    /// Seconds; what is not said stays.
    SetTimeouts {
        tcp: Option<i64>,
        tcp_fin: Option<i64>,
        udp: Option<i64>,
    },
}

/// A change that was found to be sound, for the configuration that it was checked against.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    DeleteService(Takes),
    DeleteReal(Takes, Ipv4Addr),
    AddService(Arc<ServiceConfig>),
    /// Everything but its reals.
    EditService(Arc<ServiceConfig>),
    /// Behind those that the service has.
    AddReal(Takes, RealConfig),
    EditReal(Takes, RealConfig),
    SetTimeouts(Timeouts),
    SetMatches(Vec<MatchRule>),
}

/// Checks an edit of `config`. The mistakes are what a file would be told, less its lines.
pub fn check(config: &Config, edit: &Edit) -> Result<Change, Vec<Mistake>> {
    let mut mistakes = Mistakes::new("");
    let stations = Stations { all: config.ports.clone(), complete: true };
    let change = Checking { config, stations: &stations, mistakes: &mut mistakes }.change(edit);
    match change {
        Some(change) if mistakes.is_empty() => Ok(change),
        _ => Err(mistakes.into_unplaced()),
    }
}

/// Checks an edit and makes it, or says why not and leaves `config` as it is.
pub fn apply(config: &mut Config, edit: &Edit) -> Result<Change, Vec<Mistake>> {
    let change = check(config, edit)?;
    make(config, &change);
    Ok(change)
}

struct Checking<'c, 't> {
    config: &'c Config,
    stations: &'c Stations,
    mistakes: &'c mut Mistakes<'t>,
}

impl<'c> Checking<'c, '_> {
    fn change(&mut self, edit: &Edit) -> Option<Change> {
        match edit {
            Edit::AddService(words) => self.add_service(words),
            Edit::EditService(words) => {
                let reals = self.named(words)?.reals.clone();
                let edited = check_one("service", &words.raw(), self.stations, self.mistakes)?;
                Some(Change::EditService(Arc::new(ServiceConfig { reals, ..edited })))
            }
            Edit::DeleteService(words) => Some(Change::DeleteService(self.named(words)?.takes)),
            Edit::AddReal(service, real) => self.add_real(service, real),
            Edit::EditReal(service, words) => {
                let (service, there) = self.named_real(service, words)?;
                let real = self.real(service, words)?;
                // Its MAC address stays given unless another one is said.
                let mac = real.mac.or(there.mac);
                Some(Change::EditReal(service.takes, RealConfig { mac, ..real }))
            }
            Edit::DeleteReal(service, real) => {
                let (service, real) = self.named_real(service, real)?;
                Some(Change::DeleteReal(service.takes, real.address))
            }
            Edit::SetTimeouts { tcp, tcp_fin, udp } => {
                let raw = RawTimeouts { tcp: unplaced(*tcp), tcp_fin: unplaced(*tcp_fin), udp: unplaced(*udp) };
                Some(Change::SetTimeouts(check::timeouts(&raw, "timeouts", self.config.timeouts, self.mistakes)))
            }
        }
    }

    fn add_service(&mut self, words: &ServiceWords) -> Option<Change> {
        let service = check_one("service", &words.raw(), self.stations, self.mistakes)?;
        if let Some(other) = self.config.services.iter().find(|other| clashes(service.takes, other.takes)) {
            let message = clash_message(service.takes, other.takes, "the configuration");
            self.mistakes.add(0, "service", message);
        }
        let Limits { services: most, .. } = self.config.limits;
        if self.config.services.len() >= most {
            let message = format!("{} is one too many: max_services is {most}", service.takes);
            self.mistakes.add(0, "service", message);
        }
        if let Some(net) = service.takes.net() {
            let mut reals = self.config.services.iter().flat_map(|service| &service.reals);
            if let Some(real) = reals.find(|real| net.contains(real.address)) {
                let message = format!(
                    "{} is not allowed: {} is a server's own address, and no virtual address can be",
                    service.takes.place(),
                    real.address
                );
                self.mistakes.add(0, "service", message);
            }
        }
        Some(Change::AddService(Arc::new(service)))
    }

    fn add_real(&mut self, service: &ServiceWords, words: &RealWords) -> Option<Change> {
        let service = self.named(service)?;
        let real = self.real(service, words)?;
        if service.reals.iter().any(|other| other.address == real.address) {
            let message = format!("{} is not allowed twice: {} has it already", real.address, service.takes);
            self.mistakes.add(0, "real.address", message);
        }
        let holder = |address| {
            let mut nets = virtual_networks(&self.config.services, &self.config.matches);
            nets.find(|(net, _)| net.contains(address)).map(|(_, holder)| holder)
        };
        real_is_not_virtual("real", &words.raw(), holder, self.mistakes);
        let Limits { reals: most, .. } = self.config.limits;
        if self.config.services.iter().map(|service| service.reals.len()).sum::<usize>() >= most {
            self.mistakes.add(0, "real", format!("{} is one too many: max_reals is {most}", real.address));
        }
        Some(Change::AddReal(service.takes, real))
    }

    fn real(&mut self, service: &ServiceConfig, words: &RealWords) -> Option<RealConfig> {
        let forwarding = Forwarding::DirectRouting;
        check_real("real", &words.raw(), service.takes, forwarding, self.stations, self.mistakes)
    }

    /// The service that the words name, which must be there.
    fn named(&mut self, words: &ServiceWords) -> Option<&'c ServiceConfig> {
        let takes = takes("service", &words.raw(), self.stations, self.mistakes)?;
        let found = self.config.services.iter().find(|service| service.takes == takes);
        if found.is_none() {
            self.mistakes.add(0, "service", format!("there is no service {takes}: add it first"));
        }
        found.map(Arc::as_ref)
    }

    fn named_real(&mut self, service: &ServiceWords, words: &RealWords) -> Option<(&'c ServiceConfig, &'c RealConfig)> {
        let service = self.named(service)?;
        let address = real_address(&words.raw(), "real.address", service.takes.port(), self.mistakes)?;
        let found = service.reals.iter().find(|real| real.address == address);
        if found.is_none() {
            let message = format!("{} has no real {address}: add it first", service.takes);
            self.mistakes.add(0, "real.address", message);
        }
        found.map(|real| (service, real))
    }
}

fn unplaced<T>(value: Option<T>) -> Option<Spanned<T>> {
    value.map(|value| Spanned::new(0..0, value))
}

impl ServiceWords {
    fn raw(&self) -> RawService {
        RawService {
            at: 0,
            tcp: unplaced(self.tcp.clone()),
            udp: unplaced(self.udp.clone()),
            mark: unplaced(self.mark),
            scheduler: unplaced(self.scheduler.clone()),
            flags: unplaced(self.flags.clone()),
            persistent: unplaced(self.persistent.map(RawPersistence::Seconds)),
            netmask: unplaced(self.netmask.clone()),
            expire_quiescent: unplaced(self.expire_quiescent.then_some(true)),
            one_packet: unplaced(self.one_packet.then_some(true)),
            on_removed: unplaced(self.on_removed.clone()),
            on_miss: unplaced(self.on_miss.clone()),
            forward: None,
            reals: Vec::new(),
        }
    }
}

impl RealWords {
    fn raw(&self) -> RawReal {
        RawReal {
            at: 0,
            address: unplaced(Some(self.address.clone())),
            weight: unplaced(self.weight),
            upper: unplaced(self.upper),
            lower: unplaced(self.lower),
            mac: unplaced(self.mac.clone()),
        }
    }
}

/// Makes a change that was checked against this configuration, or planned from it. One that names what is not there
/// changes nothing.
pub fn make(config: &mut Config, change: &Change) {
    make_all(config, std::slice::from_ref(change));
}

/// The same for many, of a long list of services too.
pub fn make_all(config: &mut Config, changes: &[Change]) {
    let services = config.services.iter().enumerate();
    let mut places: HashMap<Takes, usize> = services.map(|(place, service)| (service.takes, place)).collect();
    let mut gone = HashSet::new();
    for change in changes {
        match change {
            Change::DeleteService(takes) => gone.extend(places.remove(takes)),
            Change::AddService(service) => {
                places.insert(service.takes, config.services.len());
                config.services.push(service.clone());
            }
            Change::SetTimeouts(timeouts) => config.timeouts = *timeouts,
            Change::SetMatches(rules) => config.matches = rules.clone(),
            Change::EditService(edited) => {
                change_service(config, places.get(&edited.takes), change);
            }
            Change::AddReal(takes, _) | Change::EditReal(takes, _) | Change::DeleteReal(takes, _) => {
                change_service(config, places.get(takes), change);
            }
        }
    }
    let mut place = 0..;
    config.services.retain(|_| place.next().is_some_and(|place| !gone.contains(&place)));
}

fn change_service(config: &mut Config, place: Option<&usize>, change: &Change) {
    let Some(service) = place.and_then(|place| config.services.get_mut(*place)) else { return };
    if let Change::EditService(edited) = change
        && (service.scheduler, service.settings) == (edited.scheduler, edited.settings)
    {
        // It is not taken for an edit of a real, which counts even if it changes nothing.
        return;
    }
    let service = Arc::make_mut(service);
    match change {
        Change::EditService(edited) => {
            let reals = std::mem::take(&mut service.reals);
            *service = ServiceConfig { reals, ..ServiceConfig::clone(edited) };
        }
        Change::AddReal(_, real) => service.reals.push(real.clone()),
        Change::EditReal(_, edited) => {
            let there = service.reals.iter_mut().find(|real| real.address == edited.address);
            there.into_iter().for_each(|real| *real = edited.clone());
        }
        Change::DeleteReal(_, address) => service.reals.retain(|real| real.address != *address),
        _ => (),
    }
}

/// What is allowed, but most likely not all that was meant: for who makes these changes of `config`.
pub fn remarks(config: &Config, changes: &[Change]) -> Vec<String> {
    let added = changes.iter().filter_map(|change| match change {
        Change::AddService(service) => Some(service.takes),
        _ => None,
    });
    let (mut remarks, mut several) = (Vec::new(), false);
    for takes in added {
        several |= takes.as_exact().is_none();
        if let Takes::Mark(mark) = takes
            && !config.matches.iter().any(|rule| rule.mark == mark)
            && !changes.iter().any(|change| matches!(change, Change::SetMatches(_)))
        {
            remarks.push(format!("no [[match]] gives mark {mark}: nothing comes to {takes}"));
        }
    }
    let room = config.flows.wide_per_worker;
    if several && room == FlowsConfig::LEAST {
        let what = "connections of services of several addresses or ports";
        remarks.push(format!("there is room for {room} {what} a worker: flows.wide_per_worker, at the next start"));
    }
    remarks
}

/// What leads from one configuration's services to another's, in an order in which every step is sound: first what goes,
/// then what changes, then what comes. Reals that stay keep their places, as those of a running director do; new ones
/// come behind them. Ports, cores and tables are not part of it: they are the start's.
pub fn plan(old: &Config, new: &Config) -> Vec<Change> {
    let before: HashMap<Takes, &Arc<ServiceConfig>> = old.services.iter().map(|one| (one.takes, one)).collect();
    let after: HashSet<Takes> = new.services.iter().map(|one| one.takes).collect();
    let gone = old.services.iter().filter(|one| !after.contains(&one.takes));
    let mut changes: Vec<Change> = gone.map(|one| Change::DeleteService(one.takes)).collect();
    if old.timeouts != new.timeouts {
        changes.push(Change::SetTimeouts(new.timeouts));
    }
    let mut coming = Vec::new();
    for service in &new.services {
        match before.get(&service.takes) {
            None => coming.push(Change::AddService(service.clone())),
            Some(there) if Arc::ptr_eq(there, service) => (),
            Some(there) => plan_service(there, service, &mut changes, &mut coming),
        }
    }
    changes.append(&mut coming);
    if old.matches != new.matches {
        // Last: the services that they lead to are there now.
        changes.push(Change::SetMatches(new.matches.clone()));
    }
    changes
}

fn plan_service(old: &ServiceConfig, new: &Arc<ServiceConfig>, changes: &mut Vec<Change>, coming: &mut Vec<Change>) {
    let takes = new.takes;
    let before: HashMap<Ipv4Addr, &RealConfig> = old.reals.iter().map(|real| (real.address, real)).collect();
    let after: HashSet<Ipv4Addr> = new.reals.iter().map(|real| real.address).collect();
    let gone = old.reals.iter().filter(|real| !after.contains(&real.address));
    changes.extend(gone.map(|real| Change::DeleteReal(takes, real.address)));
    if (old.scheduler, old.settings) != (new.scheduler, new.settings) {
        changes.push(Change::EditService(new.clone()));
    }
    for real in &new.reals {
        match before.get(&real.address) {
            None => coming.push(Change::AddReal(takes, real.clone())),
            Some(there) if *there != real => changes.push(Change::EditReal(takes, real.clone())),
            Some(_) => (),
        }
    }
}
