//! The rules of `[[service]]` and `[[service.real]]`.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use super::ports::{Ports, network, no_host_of};
use super::{Seen, choice, no_host, number, parsed, place, station};
use crate::config::error::Mistakes;
use crate::config::raw::{RawReal, RawService, shown};
use crate::config::{Forwarding, Protocol, RealConfig, Scheduler, ServiceConfig};

/// Services and reals are 16-bit numbers in the flow table.
const MOST: usize = 65_535;

pub(super) fn check(raw: &[RawService], ports: &Ports, mistakes: &mut Mistakes) -> Vec<ServiceConfig> {
    if too_many(raw, mistakes) {
        return Vec::new();
    }
    let mut services = Vec::new();
    let mut seen = Seen::default();
    for (index, raw) in raw.iter().enumerate() {
        let Some((protocol, address)) = virtual_address(index, raw, ports, mistakes) else {
            continue;
        };
        let key = format!("service[{index}].{}", key_of(protocol));
        seen.add((protocol, address), format!("{} {address}", protocol.name()), virtual_place(raw), &key, mistakes);
        let reals = reals(index, raw, address, ports, mistakes);
        let schedulers = [("rr", Scheduler::RoundRobin), ("wrr", Scheduler::WeightedRoundRobin)];
        let key = format!("service[{index}].scheduler");
        let scheduler = choice(&raw.scheduler, &key, &schedulers, Scheduler::WeightedRoundRobin, mistakes);
        services.push(ServiceConfig { protocol, address: *address.ip(), port: address.port(), scheduler, reals });
    }
    virtual_addresses_are_no_reals(raw, &services, mistakes);
    services
}

fn too_many(raw: &[RawService], mistakes: &mut Mistakes) -> bool {
    let reals: usize = raw.iter().map(|service| service.reals.len()).sum();
    if let Some(first_too_many) = raw.get(MOST) {
        let message = format!("{} services are not allowed: at most {MOST}", raw.len());
        mistakes.add(first_too_many.at, "service", message);
    }
    if reals > MOST {
        let first_too_many = raw.iter().flat_map(|service| &service.reals).nth(MOST);
        let message = format!("{reals} reals in all services together are not allowed: at most {MOST}");
        mistakes.add(first_too_many.map_or(0, |real| real.at), "service.real", message);
    }
    raw.len() > MOST || reals > MOST
}

fn key_of(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

fn virtual_place(raw: &RawService) -> usize {
    raw.tcp.as_ref().or(raw.udp.as_ref()).map_or(raw.at, |text| text.span().start)
}

fn virtual_address(
    index: usize,
    raw: &RawService,
    ports: &Ports,
    mistakes: &mut Mistakes,
) -> Option<(Protocol, SocketAddrV4)> {
    const ALLOWED: &str = "a virtual address with its port, such as \"10.9.0.100:80\"";
    let (protocol, text) = match (&raw.tcp, &raw.udp) {
        (Some(_), None) => (Protocol::Tcp, &raw.tcp),
        (None, Some(_)) => (Protocol::Udp, &raw.udp),
        (None, None) => {
            mistakes.add(raw.at, format!("service[{index}]"), format!("no address: tcp or udp, {ALLOWED}"));
            return None;
        }
        (Some(_), Some(_)) => {
            mistakes.add(
                place(&raw.udp),
                format!("service[{index}].udp"),
                "not allowed beside tcp: exactly one of them",
            );
            return None;
        }
    };
    let key = format!("service[{index}].{}", key_of(protocol));
    let address: SocketAddrV4 = parsed(text, &key, ALLOWED, mistakes)?;
    let fault = match address.port() {
        0 => Some("a port of 1 to 65535".to_owned()),
        _ => virtual_fault(*address.ip(), ports),
    };
    if let Some(fault) = fault {
        mistakes.add(place(text), key, format!("{address} is not allowed: {fault}"));
    }
    Some((protocol, address))
}

fn virtual_fault(address: Ipv4Addr, ports: &Ports) -> Option<String> {
    if let Some(what) = no_host(address) {
        return Some(format!("an address that one host can have, not {what}"));
    }
    ports.all.iter().find_map(|port| {
        if port.address.address == address {
            Some(format!("an address of its own, and port \"{}\" has this one for itself", port.name))
        } else if port.gateway == Some(address) {
            Some(format!("an address of its own, and this is the gateway of port \"{}\"", port.name))
        } else {
            no_host_of(port.address, address).map(|what| format!("an address that one host can have, not {what}"))
        }
    })
}

fn reals(
    service: usize,
    raw: &RawService,
    virtual_address: SocketAddrV4,
    ports: &Ports,
    mistakes: &mut Mistakes,
) -> Vec<RealConfig> {
    let key = format!("service[{service}].forward");
    let forwarding =
        choice(&raw.forward, &key, &[("dr", Forwarding::DirectRouting)], Forwarding::DirectRouting, mistakes);
    let mut seen = Seen::default();
    let mut reals = Vec::new();
    for (index, raw) in raw.reals.iter().enumerate() {
        let key = |name: &str| format!("service[{service}].real[{index}].{name}");
        let weight = number(&raw.weight, &key("weight"), 0..=65_535, 1, mistakes) as u16;
        let mac = real_mac(raw, &key("mac"), ports, mistakes);
        let address = real_address(raw, &key("address"), virtual_address.port(), mistakes);
        let Some(address) = address else { continue };
        if let Some(fault) = real_fault(address, ports) {
            mistakes.add(place(&raw.address), key("address"), format!("{address} is not allowed: {fault}"));
        }
        seen.add(address, address, place(&raw.address), &key("address"), mistakes);
        reals.push(RealConfig { address, port: virtual_address.port(), weight, forwarding, mac });
    }
    reals
}

fn real_address(raw: &RawReal, key: &str, service_port: u16, mistakes: &mut Mistakes) -> Option<Ipv4Addr> {
    const ALLOWED: &str = "a server's address such as \"10.9.0.11\"";
    let Some(written) = &raw.address else {
        mistakes.add(raw.at, key, format!("missing: {ALLOWED}"));
        return None;
    };
    let text = written.get_ref();
    let (address, port) = match text.parse::<SocketAddrV4>() {
        Ok(address) => (Some(*address.ip()), address.port()),
        Err(_) => (text.parse().ok(), service_port),
    };
    if address.is_none() {
        mistakes.add(written.span().start, key, format!("{} is not allowed: {ALLOWED}", shown(text)));
    } else if port != service_port {
        let message = format!(
            "{} is not allowed: port {service_port}, as the service has it; direct routing leaves packets as they are \
             and cannot map ports",
            shown(text)
        );
        mistakes.add(written.span().start, key, message);
    }
    address
}

fn real_mac(raw: &RawReal, key: &str, ports: &Ports, mistakes: &mut Mistakes) -> Option<crate::packet::Mac> {
    let mac = station(&raw.mac, key, mistakes)?;
    if let Some(port) = ports.all.iter().find(|port| port.mac == Some(mac)) {
        let message = format!("{mac} is not allowed: the server's own, and port \"{}\" has this one", port.name);
        mistakes.add(place(&raw.mac), key, message);
    }
    Some(mac)
}

fn real_fault(address: Ipv4Addr, ports: &Ports) -> Option<String> {
    if let Some(what) = no_host(address) {
        return Some(format!("an address that one host can have, not {what}"));
    }
    let Some(port) = ports.all.iter().find(|port| port.address.contains(address)) else {
        let networks: Vec<_> =
            ports.all.iter().map(|port| format!("{} (port \"{}\")", network(port.address), port.name)).collect();
        let fault = "direct routing reaches only servers in a port's own network";
        return ports.complete.then(|| format!("an address in {}; {fault}", networks.join(" or ")));
    };
    if port.address.address == address {
        return Some(format!("a server's own address, and port \"{}\" has this one", port.name));
    }
    no_host_of(port.address, address).map(|what| format!("an address that one host can have, not {what}"))
}

/// A real server with the virtual address for its own would be sent its own packets for ever.
fn virtual_addresses_are_no_reals(raw: &[RawService], services: &[ServiceConfig], mistakes: &mut Mistakes) {
    let virtual_addresses: HashMap<Ipv4Addr, &ServiceConfig> =
        services.iter().map(|service| (service.address, service)).collect();
    for (service, raw) in raw.iter().enumerate() {
        for (index, real) in raw.reals.iter().enumerate() {
            let Some(text) = &real.address else { continue };
            let address = text.get_ref().split(':').next().unwrap_or_default().parse::<Ipv4Addr>();
            if let Some(taken) = address.ok().and_then(|address| virtual_addresses.get(&address)) {
                let message = format!(
                    "{} is not allowed: a server's own address, and {} {}:{} is a service",
                    taken.address,
                    taken.protocol.name(),
                    taken.address,
                    taken.port
                );
                mistakes.add(text.span().start, format!("service[{service}].real[{index}].address"), message);
            }
        }
    }
}
