//! One epoch's services and reals, with everything the path copies laid out ready.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::ops::Range;
use std::sync::Arc;

use super::lookup::ServiceLookup;
use super::schedule::{Member, Roster};
use crate::config::{Config, Protocol, RealConfig, Scheduler, ServiceConfig};
use crate::packet::{Ipv4Net, Mac};

/// An interned service: 16 bits of a flow's key. Never zero, so that no key is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

/// An interned real, of one service: its place in the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RealId(pub u16);

impl RealId {
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Debug)]
pub struct Service {
    pub id: ServiceId,
    pub protocol: Protocol,
    pub address: IpAddr,
    pub port: u16,
    pub scheduler: Scheduler,
    /// Its reals in `Snapshot::reals`, in the order of the configuration.
    pub reals: Range<usize>,
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
#[derive(Clone, Debug)]
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
    pub weight: u16,
    /// Of the port that leads to it; zero, so that no packet fits, when it has no MAC address.
    pub mtu: u16,
    pub service: ServiceId,
    pub address: IpAddr,
    pub port: u16,
}

/// A service as it is to be laid out.
pub struct ServicePlan {
    pub protocol: Protocol,
    pub address: IpAddr,
    pub port: u16,
    pub scheduler: Scheduler,
    pub reals: Vec<RealPlan>,
}

/// A real, and what is known of its way.
pub struct RealPlan {
    pub address: IpAddr,
    pub port: u16,
    pub weight: u16,
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
    pub services: Vec<Service>,
    pub reals: Vec<Real>,
    lookup: ServiceLookup,
}

impl Snapshot {
    /// Lays out what `config` says with what is known of the reals now. The configuration is checked: it has at most
    /// 65,535 services and reals, none twice, each real in some port's network.
    pub fn build(
        epoch: u64,
        config: &Config,
        stations: Vec<Station>,
        reach: impl Fn(usize, Ipv4Addr) -> Reach,
    ) -> Snapshot {
        let real = |real: &RealConfig| {
            let egress = egress_port(&stations, real.address);
            let reach = real.mac.map_or_else(|| reach(egress, real.address), Reach::At);
            RealPlan { address: real.address.into(), port: real.port, weight: real.weight, egress, reach }
        };
        let service = |service: &ServiceConfig| ServicePlan {
            protocol: service.protocol,
            address: service.address.into(),
            port: service.port,
            scheduler: service.scheduler,
            reals: service.reals.iter().map(real).collect(),
        };
        let plans: Vec<ServicePlan> = config.services.iter().map(service).collect();
        Snapshot::lay_out(epoch, stations, &plans)
    }

    pub fn lay_out(epoch: u64, stations: Vec<Station>, plans: &[ServicePlan]) -> Snapshot {
        let mut services = Vec::with_capacity(plans.len());
        let mut reals = Vec::new();
        for (plan, id) in plans.iter().zip((1..=u16::MAX).filter_map(ServiceId::from_number)) {
            let first = reals.len();
            reals.extend(plan.reals.iter().map(|real| lay_out(real, id, &stations[real.egress])));
            services.push(Service {
                id,
                protocol: plan.protocol,
                address: plan.address,
                port: plan.port,
                scheduler: plan.scheduler,
                reals: first..reals.len(),
                roster: Arc::new(roster(plan.scheduler, &reals[first..], first)),
            });
        }
        let lookup =
            ServiceLookup::build(services.iter().map(|one| (one.address, one.port, one.protocol.number(), one.id)));
        Snapshot { epoch, stations, services, reals, lookup }
    }

    #[inline]
    pub fn find_v4(&self, address: Ipv4Addr, port: u16, protocol: u8) -> Option<ServiceId> {
        self.lookup.find_v4(address, port, protocol)
    }

    #[inline]
    pub fn find_v6(&self, address: Ipv6Addr, port: u16, protocol: u8) -> Option<ServiceId> {
        self.lookup.find_v6(address, port, protocol)
    }

    pub fn is_virtual(&self, address: IpAddr) -> bool {
        self.lookup.is_virtual(address)
    }

    #[inline]
    pub fn service(&self, id: ServiceId) -> &Service {
        &self.services[id.index()]
    }

    #[inline]
    pub fn real(&self, id: RealId) -> &Real {
        &self.reals[id.index()]
    }
}

/// The port whose network the address is in; the first port for an address in none, which the check does not let by.
pub fn egress_port(stations: &[Station], address: Ipv4Addr) -> usize {
    stations.iter().position(|station| station.network.contains(address)).unwrap_or(0)
}

/// Newest first; in a configuration the newest is the last.
fn roster(scheduler: Scheduler, reals: &[Real], first: usize) -> Roster {
    let member = |(place, real): (usize, &Real)| Member {
        id: RealId((first + place) as u16),
        generation: 0,
        ready: real.answers,
        weight: real.weight,
        last_weight: real.weight,
        address: real.address,
        port: real.port,
    };
    Roster::build(scheduler, reals.iter().enumerate().rev().map(member).collect(), 0, 0)
}

fn lay_out(plan: &RealPlan, service: ServiceId, station: &Station) -> Real {
    let (mac, has_mac, answers) = match plan.reach {
        Reach::Unknown => (Mac::ZERO, false, false),
        Reach::At(mac) => (mac, true, true),
        Reach::Lost(mac) => (mac, true, false),
    };
    let mut link = [0; 12];
    link[..6].copy_from_slice(&mac.0);
    link[6..].copy_from_slice(&station.mac.0);
    Real {
        link,
        egress: plan.egress as u8,
        has_mac,
        answers,
        weight: plan.weight,
        mtu: if has_mac { station.mtu } else { 0 },
        service,
        address: plan.address,
        port: plan.port,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_is_one_cache_line() {
        assert_eq!(size_of::<Real>(), 64);
    }
}
