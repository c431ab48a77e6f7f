//! One epoch's services and reals, with everything the path copies laid out ready.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::sync::Arc;

use super::compose::Composer;
use super::earlier::Earlier;
use super::lookup::ServiceLookup;
use super::rules::{Asked, Found, Rules};
use super::schedule::Roster;
use crate::config::{Config, Limits, OnRemoved, Scheduler, Settings, Takes, Timeouts};
use crate::packet::{Ipv4Net, Mac};

/// An interned service: 16 bits of a flow's key. Never zero, so that no key is zero. `registry.rs` says whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(NonZeroU16);

impl ServiceId {
    pub fn from_number(number: u16) -> Option<ServiceId> {
        NonZeroU16::new(number).map(ServiceId)
    }

    pub const fn number(self) -> u16 {
        self.0.get()
    }

    pub const fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// An interned real, of one service: its place in every snapshot, as long as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RealId(pub u16);

impl RealId {
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Debug)]
pub struct Service {
    pub id: ServiceId,
    pub takes: Takes,
    pub scheduler: Scheduler,
    pub settings: Settings,
    /// Its reals in `Snapshot::reals`, newest first.
    pub reals: Box<[RealId]>,
    /// The same as its scheduler sees them.
    pub roster: Arc<Roster>,
}

/// What is known of a real's MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Nothing yet.
    Unknown,
    At(Mac),
    /// It was there, but does not answer any more.
    Lost(Mac),
}

/// One cache line: all that the rewrite copies.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Real {
    /// Destination and source MAC address, as they stand in a frame.
    pub link: [u8; 12],
    /// The port that leads to it.
    pub egress: u8,
    /// A packet can be sent to it, if only to where it was last seen.
    pub has_mac: bool,
    /// New connections may go to it, weight permitting.
    pub answers: bool,
    /// Of its number: a flow that names this number with another generation is dead.
    pub generation: u8,
    pub weight: u16,
    /// The last weight that was not zero since it was added; zero: it was added with none.
    pub last_weight: u16,
    /// Of the port that leads to it; zero, so that no packet fits, when it has no MAC address.
    pub mtu: u16,
    /// None: the number is nobody's.
    pub service: Option<ServiceId>,
    pub port: u16,
    pub address: IpAddr,
    /// It is not in the configuration any more, but flows may still name it.
    pub removed: bool,
    /// What its service, or the last that it had, has chosen for the connections of removed reals.
    pub on_removed: OnRemoved,
    /// Its generation, if it is there and answers: what a flow's own is compared with.
    pub(super) passport: u16,
    /// New connections end at so many, and begin again below so many; 0: never.
    pub upper: u32,
    pub lower: u32,
}

impl Real {
    /// A number that nobody has.
    pub const fn nobody(generation: u8) -> Real {
        Real {
            link: [0; 12],
            egress: 0,
            has_mac: false,
            answers: false,
            generation,
            weight: 0,
            last_weight: 0,
            mtu: 0,
            service: None,
            port: 0,
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            removed: true,
            on_removed: OnRemoved::Reschedule,
            passport: NO_PASSPORT,
            upper: 0,
            lower: 0,
        }
    }

    /// Whether a flow that was pinned to this generation of it goes on as it is.
    #[inline(always)]
    pub const fn serves(&self, generation: u8) -> bool {
        self.passport == generation as u16
    }

    /// The configuration has it no longer. Its MAC address stays: flows may still name it.
    pub(super) fn remove(&mut self) {
        (self.removed, self.answers, self.weight) = (true, false, 0);
        self.settle();
    }

    fn settle(&mut self) {
        self.passport = if self.answers && !self.removed { self.generation.into() } else { NO_PASSPORT };
    }

    /// Puts in what is known of its way; says whether it takes new connections now and did not before, or the reverse.
    pub(super) fn reach(&mut self, reach: Reach, station: &Station) -> bool {
        let (mac, has_mac, answers) = match reach {
            Reach::Unknown => (Mac::ZERO, false, false),
            Reach::At(mac) => (mac, true, true),
            Reach::Lost(mac) => (mac, true, false),
        };
        self.link[..6].copy_from_slice(&mac.0);
        self.link[6..].copy_from_slice(&station.mac.0);
        (self.has_mac, self.mtu) = (has_mac, if has_mac { station.mtu } else { 0 });
        let answered = std::mem::replace(&mut self.answers, answers);
        self.settle();
        answered != answers
    }
}

/// Of no generation.
const NO_PASSPORT: u16 = 0x100;

static NOBODY: Real = Real::nobody(0);

/// A service's own reals, newest first.
#[derive(Clone, Copy)]
pub struct Reals<'a> {
    pub ids: &'a [RealId],
    /// Everybody's.
    pub all: &'a [Real],
}

impl<'a> Reals<'a> {
    pub fn len(self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(self) -> bool {
        self.ids.is_empty()
    }

    pub fn at(self, place: usize) -> &'a Real {
        self.ids.get(place).and_then(|id| self.all.get(id.index())).unwrap_or(&NOBODY)
    }

    pub fn iter(self) -> impl Iterator<Item = &'a Real> {
        (0..self.len()).map(move |place| self.at(place))
    }
}

/// A service as it is to be laid out.
pub struct ServicePlan {
    pub takes: Takes,
    pub scheduler: Scheduler,
    pub settings: Settings,
    /// In the order in which they were added.
    pub reals: Vec<RealPlan>,
}

/// A real, and what is known of its way.
pub struct RealPlan {
    pub address: IpAddr,
    pub port: u16,
    pub weight: u16,
    pub upper: u32,
    pub lower: u32,
    pub egress: usize,
    pub reach: Reach,
}

/// Who a port is on its network.
#[derive(Clone, Debug, PartialEq)]
pub struct Station {
    pub mac: Mac,
    pub network: Ipv4Net,
    pub vlan: Option<u16>,
    pub mtu: u16,
}

#[derive(Debug)]
pub struct Snapshot {
    pub epoch: u64,
    pub stations: Vec<Station>,
    /// By their numbers' index; none where no service has the number.
    pub services: Vec<Option<Arc<Service>>>,
    /// By their numbers. One that nobody has, or that was removed, is marked so.
    pub reals: Vec<Real>,
    pub timeouts: Timeouts,
    /// The epoch in which services, reals or timeouts were last edited; in between only answers to ARP have changed.
    pub configured: u64,
    /// Some numbers are being cleared: flows that name them with another generation are to be swept out.
    pub clearing: bool,
    pub(super) lookup: ServiceLookup,
    pub(super) rules: Arc<Rules>,
    pub(super) earlier: Earlier,
}

impl Snapshot {
    /// The first snapshot of what `config` says, with what is known of the reals now. The configuration is checked: it
    /// has no more services and reals than its limits say, none twice, each real in some port's network. Who lays out
    /// more than one has a [`Composer`].
    pub fn build(
        epoch: u64,
        config: &Config,
        stations: Vec<Station>,
        reach: impl Fn(usize, Ipv4Addr) -> Reach,
    ) -> Snapshot {
        Composer::new(config.limits, stations).compose(epoch, config, &reach).snapshot
    }

    /// The same of services that no configuration can say.
    pub fn lay_out(epoch: u64, stations: Vec<Station>, plans: &[ServicePlan]) -> Snapshot {
        let reals = plans.iter().map(|plan| plan.reals.len()).sum();
        Composer::new(Limits::for_file(plans.len(), reals), stations).compose_plans(epoch, plans)
    }

    /// The service of a packet to one that has one address and one port, and that no match rule touches.
    #[inline]
    pub fn find_v4(&self, address: Ipv4Addr, port: u16, protocol: u8) -> Option<ServiceId> {
        self.lookup.find_v4(address, port, protocol)
    }

    #[inline]
    pub fn find_v6(&self, address: Ipv6Addr, port: u16, protocol: u8) -> Option<ServiceId> {
        self.lookup.find_v6(address, port, protocol)
    }

    /// The service of any packet: by mark, by address and port, by a range of ports, by any port.
    #[inline]
    pub fn find(&self, asked: &Asked) -> Option<Found> {
        match self.lookup.find(asked.destination, asked.port, asked.protocol) {
            Some(service) => Some(Found { service, wide: false }),
            None => self.find_by_rules(asked),
        }
    }

    /// The same for a packet that `find_v4` or `find_v6` know no service for.
    #[inline]
    pub fn find_by_rules(&self, asked: &Asked) -> Option<Found> {
        if self.rules.is_empty() { None } else { self.rules.find(asked) }
    }

    /// Whether packets can be for a service that `find_v4` and `find_v6` do not know.
    #[inline]
    pub fn has_rules(&self) -> bool {
        !self.rules.is_empty()
    }

    /// Whose flows there may be that are not where their packets lead now.
    #[inline]
    pub fn earlier(&self) -> &Earlier {
        &self.earlier
    }

    pub fn is_virtual(&self, address: IpAddr) -> bool {
        self.lookup.is_virtual(address) || self.rules.is_virtual(address)
    }

    #[inline]
    pub fn service(&self, id: ServiceId) -> Option<&Service> {
        self.services.get(id.index())?.as_deref()
    }

    #[inline]
    pub fn real(&self, id: RealId) -> &Real {
        self.reals.get(id.index()).unwrap_or(&NOBODY)
    }

    /// A service's own reals.
    pub fn reals_of<'s>(&'s self, service: &'s Service) -> Reals<'s> {
        Reals { ids: &service.reals, all: &self.reals }
    }
}

/// The port whose network the address is in; the first port for an address in none, which the check does not let by.
pub fn egress_port(stations: &[Station], address: Ipv4Addr) -> usize {
    stations.iter().position(|station| station.network.contains(address)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_is_one_cache_line() {
        assert_eq!(size_of::<Real>(), 64);
    }
}
