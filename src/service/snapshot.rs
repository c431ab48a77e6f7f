//! One epoch's services and reals, with everything the path copies laid out ready.

use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::ops::Range;

use super::lookup::ServiceLookup;
use crate::config::{Config, Protocol, Scheduler};
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
    pub address: Ipv4Addr,
    pub port: u16,
    pub scheduler: Scheduler,
    /// Its reals in `Snapshot::reals`, in the order of the configuration.
    pub reals: Range<usize>,
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
    pub service: ServiceId,
    pub address: Ipv4Addr,
    pub port: u16,
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
        let mut services = Vec::with_capacity(config.services.len());
        let mut reals = Vec::new();
        for (service, id) in config.services.iter().zip((1..=u16::MAX).filter_map(ServiceId::from_number)) {
            let first = reals.len();
            for real in &service.reals {
                let egress = egress_port(&stations, real.address);
                let reached = real.mac.map_or_else(|| reach(egress, real.address), Reach::At);
                reals.push(lay_out(real, id, egress, stations[egress].mac, reached));
            }
            services.push(Service {
                id,
                protocol: service.protocol,
                address: service.address,
                port: service.port,
                scheduler: service.scheduler,
                reals: first..reals.len(),
            });
        }
        let lookup =
            ServiceLookup::build(services.iter().map(|one| (one.address, one.port, one.protocol.number(), one.id)));
        Snapshot { epoch, stations, services, reals, lookup }
    }

    pub fn find(&self, address: Ipv4Addr, port: u16, protocol: u8) -> Option<&Service> {
        self.lookup.find(address, port, protocol).map(|id| self.service(id))
    }

    pub fn is_virtual(&self, address: Ipv4Addr) -> bool {
        self.lookup.is_virtual(address)
    }

    pub fn service(&self, id: ServiceId) -> &Service {
        &self.services[id.index()]
    }

    pub fn real(&self, id: RealId) -> &Real {
        &self.reals[id.index()]
    }
}

/// The port whose network the address is in; the first port for an address in none, which the check does not let by.
pub fn egress_port(stations: &[Station], address: Ipv4Addr) -> usize {
    stations.iter().position(|station| station.network.contains(address)).unwrap_or(0)
}

fn lay_out(real: &crate::config::RealConfig, service: ServiceId, egress: usize, own: Mac, reached: Reach) -> Real {
    let (mac, has_mac, answers) = match reached {
        Reach::Unknown => (Mac::ZERO, false, false),
        Reach::At(mac) => (mac, true, true),
        Reach::Lost(mac) => (mac, true, false),
    };
    let mut link = [0; 12];
    link[..6].copy_from_slice(&mac.0);
    link[6..].copy_from_slice(&own.0);
    Real {
        link,
        egress: egress as u8,
        has_mac,
        answers,
        weight: real.weight,
        service,
        address: real.address,
        port: real.port,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::{Forwarding, RealConfig};

    pub fn reals_with_weights(weights: &[u16]) -> Vec<Real> {
        let real = |(index, weight): (usize, &u16)| {
            let config = RealConfig {
                address: Ipv4Addr::new(10, 9, 0, 11 + index as u8),
                port: 80,
                weight: *weight,
                forwarding: Forwarding::DirectRouting,
                mac: None,
            };
            let mac = Mac([2, 0, 0, 0, 1, index as u8]);
            lay_out(&config, ServiceId::from_number(1).unwrap(), 0, Mac([2, 0, 0, 0, 0, 1]), Reach::At(mac))
        };
        weights.iter().enumerate().map(real).collect()
    }

    pub fn service_with(scheduler: Scheduler, reals: usize) -> Service {
        Service {
            id: ServiceId::from_number(1).unwrap(),
            protocol: Protocol::Tcp,
            address: Ipv4Addr::new(10, 9, 0, 100),
            port: 80,
            scheduler,
            reals: 0..reals,
        }
    }

    #[test]
    fn a_real_is_one_cache_line() {
        assert_eq!(size_of::<Real>(), 64);
    }
}
