//! The rules of `[[port]]`.

use std::net::Ipv4Addr;

use super::{Seen, no_host, number, parsed, place, station};
use crate::config::error::Mistakes;
use crate::config::raw::{RawPort, Text, shown};
use crate::config::{Device, PortConfig};
use crate::packet::Ipv4Net;
use crate::packet::port::MAX_PORTS;

/// Linux's `IFNAMSIZ`, less the closing zero.
const LONGEST_INTERFACE: usize = 15;
const ONE_DEVICE: &str = "exactly one of pci, af_packet, tap and vdev";

pub(in crate::config) struct Ports {
    pub all: Vec<PortConfig>,
    /// None was left out for its mistakes, so that whoever is not in any network is really in none.
    pub complete: bool,
}

pub(super) fn check(raw: &[RawPort], mistakes: &mut Mistakes) -> Ports {
    if raw.is_empty() {
        mistakes.add(0, "port", "missing: at least one [[port]]");
    }
    if let Some(first_too_many) = raw.get(MAX_PORTS) {
        let message = format!("{} ports are not allowed: 1 to {MAX_PORTS}", raw.len());
        mistakes.add(first_too_many.at, "port", message);
    }
    let checked: Vec<_> = raw.iter().enumerate().map(|(index, port)| check_one(index, port, mistakes)).collect();
    let pairs: Vec<_> = raw.iter().zip(&checked).enumerate().collect();
    let sound: Vec<_> =
        pairs.into_iter().filter_map(|(index, (raw, port))| Some((index, raw, port.as_ref()?))).collect();
    names_are_unique(&sound, mistakes);
    networks_are_apart(&sound, mistakes);
    tags_are_alike(&sound, mistakes);
    let all: Vec<_> = checked.iter().flatten().cloned().collect();
    Ports { complete: all.len() == raw.len() && !all.is_empty(), all }
}

fn check_one(index: usize, raw: &RawPort, mistakes: &mut Mistakes) -> Option<PortConfig> {
    let key = |name: &str| format!("port[{index}].{name}");
    let device = device(index, raw, mistakes);
    let address = own_address(index, raw, mistakes);
    let gateway = gateway(index, raw, address, mistakes);
    let vlan = raw.vlan.as_ref().map(|_| number(&raw.vlan, &key("vlan"), 1..=4094, 1, mistakes) as u16);
    let mac = station(&raw.mac, &key("mac"), mistakes);
    let mtu = number(&raw.mtu, &key("mtu"), 576..=9000, 1500, mistakes) as u16;
    let host_tap = match &raw.host_tap {
        Some(_) => interface(&raw.host_tap, &key("host_tap"), mistakes).unwrap_or_default(),
        None => format!("drover{index}"),
    };
    let device = device?;
    Some(PortConfig {
        name: name(index, raw, &device, mistakes),
        device,
        address: address?,
        gateway,
        vlan,
        mac,
        mtu,
        host_tap,
        allow_host_addresses: raw.allow_host_addresses.as_ref().is_some_and(|switch| *switch.get_ref()),
    })
}

fn device(index: usize, raw: &RawPort, mistakes: &mut Mistakes) -> Option<Device> {
    let kinds = [("pci", &raw.pci), ("af_packet", &raw.af_packet), ("tap", &raw.tap), ("vdev", &raw.vdev)];
    let mut given = kinds.iter().filter(|(_, text)| text.is_some());
    let Some((kind, text)) = given.next() else {
        mistakes.add(raw.at, format!("port[{index}]"), format!("no device: {ONE_DEVICE}"));
        return None;
    };
    for (other, text) in given {
        let message = format!("not allowed beside {kind}: {ONE_DEVICE}");
        mistakes.add(place(text), format!("port[{index}].{other}"), message);
    }
    let key = format!("port[{index}].{kind}");
    match *kind {
        "pci" => pci(text, &key, mistakes).map(Device::Pci),
        "af_packet" => interface(text, &key, mistakes).map(Device::AfPacket),
        "tap" => interface(text, &key, mistakes).map(Device::Tap),
        _ => vdev(text, &key, mistakes).map(Device::Vdev),
    }
}

/// `domain:bus:device.function`; the domain may be left out, as lspci does.
fn pci(raw: &Text, key: &str, mistakes: &mut Mistakes) -> Option<String> {
    let text = raw.as_ref()?.get_ref();
    let address = pci_address(text);
    if address.is_none() {
        let message =
            format!("{} is not allowed: a PCI address such as \"0000:3b:00.0\", as lspci -D prints it", shown(text));
        mistakes.add(place(raw), key, message);
    }
    address
}

fn pci_address(text: &str) -> Option<String> {
    let (domain, rest) = match text.matches(':').count() {
        1 => ("0000", text),
        _ => text.split_once(':')?,
    };
    let (bus, rest) = rest.split_once(':')?;
    let (device, function) = rest.split_once('.')?;
    let hex = |part: &str, digits: std::ops::RangeInclusive<usize>, most: u32| {
        let plain = digits.contains(&part.len()) && part.bytes().all(|digit| digit.is_ascii_hexdigit());
        u32::from_str_radix(part, 16).ok().filter(|value| plain && *value <= most)
    };
    let domain = hex(domain, 4..=8, u32::MAX)?;
    let (bus, device, function) = (hex(bus, 2..=2, 0xff)?, hex(device, 2..=2, 0x1f)?, hex(function, 1..=1, 7)?);
    Some(format!("{domain:04x}:{bus:02x}:{device:02x}.{function}"))
}

fn vdev(raw: &Text, key: &str, mistakes: &mut Mistakes) -> Option<String> {
    const LONGEST: usize = 1024;
    const LONGEST_NAME: usize = 63;
    let text = raw.as_ref()?.get_ref();
    let name = text.split(',').next().unwrap_or_default();
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    if !plain || !name.starts_with("net_") || name.len() > LONGEST_NAME || text.len() > LONGEST {
        let message = format!(
            "{} is not allowed: a network device of DPDK with its arguments, such as \"net_ring0\" or \
             \"net_pcap0,iface=eth1\"",
            shown(text)
        );
        mistakes.add(place(raw), key, message);
        return None;
    }
    Some(text.clone())
}

/// The name of a kernel interface that neither Linux nor EAL's arguments misread.
fn interface(raw: &Text, key: &str, mistakes: &mut Mistakes) -> Option<String> {
    let text = raw.as_ref()?.get_ref();
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte));
    let dots = text == "." || text == "..";
    if !plain || dots || text.is_empty() || text.len() > LONGEST_INTERFACE {
        let message = format!(
            "{} is not allowed: the name of an interface, 1 to {LONGEST_INTERFACE} letters, digits and . _ - @",
            shown(text)
        );
        mistakes.add(place(raw), key, message);
        return None;
    }
    Some(text.clone())
}

fn name(index: usize, raw: &RawPort, device: &Device, mistakes: &mut Mistakes) -> String {
    const LONGEST: usize = 32;
    let Some(given) = &raw.name else {
        return device.short_name().to_owned();
    };
    let name = given.get_ref();
    if name.is_empty() || name.len() > LONGEST || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = format!("{} is not allowed: 1 to {LONGEST} letters without spaces", shown(name));
        mistakes.add(given.span().start, format!("port[{index}].name"), message);
    }
    name.clone()
}

fn own_address(index: usize, raw: &RawPort, mistakes: &mut Mistakes) -> Option<Ipv4Net> {
    const ALLOWED: &str = "the port's own address with its prefix length, such as \"10.9.0.10/24\"";
    let key = format!("port[{index}].address");
    if raw.address.is_none() {
        mistakes.add(raw.at, key, format!("missing: {ALLOWED}"));
        return None;
    }
    let net: Ipv4Net = parsed(&raw.address, &key, ALLOWED, mistakes)?;
    let fault = match net.prefix {
        0 | 32 => Some("a network of more than one host: a prefix length of 1 to 31".to_owned()),
        _ => no_host(net.address)
            .or_else(|| no_host_of(net, net.address))
            .map(|what| format!("an address that one host can have, not {what}")),
    };
    if let Some(fault) = fault {
        mistakes.add(place(&raw.address), key, format!("{net} is not allowed: {fault}"));
        return None;
    }
    Some(net)
}

fn gateway(index: usize, raw: &RawPort, net: Option<Ipv4Net>, mistakes: &mut Mistakes) -> Option<Ipv4Addr> {
    let key = format!("port[{index}].gateway");
    let gateway: Ipv4Addr = parsed(&raw.gateway, &key, "an address such as \"10.9.0.1\"", mistakes)?;
    let net = net?;
    let fault = if !net.contains(gateway) {
        Some(format!("an address in the port's network {}", network(net)))
    } else if gateway == net.address {
        Some("an address other than the port's own".to_owned())
    } else {
        no_host_of(net, gateway).map(|what| format!("an address that one host can have, not {what}"))
    };
    if let Some(fault) = fault {
        mistakes.add(place(&raw.gateway), key, format!("{gateway} is not allowed: {fault}"));
    }
    Some(gateway)
}

/// Why no host in this network can have this address; networks of two (RFC 3021) have neither.
pub(super) fn no_host_of(net: Ipv4Net, address: Ipv4Addr) -> Option<&'static str> {
    let host = u32::from(address) & !net.mask();
    match host {
        _ if net.prefix >= 31 || !net.contains(address) => None,
        0 => Some("the network's own address"),
        _ if host == !net.mask() => Some("the network's broadcast address"),
        _ => None,
    }
}

/// The network without the host: `10.9.0.0/24`.
pub(super) fn network(net: Ipv4Net) -> Ipv4Net {
    Ipv4Net { address: Ipv4Addr::from(u32::from(net.address) & net.mask()), prefix: net.prefix }
}

type Sound<'a> = [(usize, &'a RawPort, &'a PortConfig)];

fn names_are_unique(ports: &Sound, mistakes: &mut Mistakes) {
    let mut names = Seen::default();
    let mut devices = Seen::default();
    let mut macs = Seen::default();
    // Kernel interfaces: those that ports are, and those that they give to the host.
    let mut interfaces = Seen::default();
    for (index, raw, port) in ports {
        let device_at = [&raw.pci, &raw.af_packet, &raw.tap, &raw.vdev].into_iter().find(|text| text.is_some());
        let device_at = device_at.map_or(raw.at, place);
        let device_key = format!("port[{index}].{}", port.device.key());
        if let Device::AfPacket(interface) | Device::Tap(interface) = &port.device {
            interfaces.add(interface.clone(), shown(interface), device_at, &device_key, mistakes);
        } else {
            let short = port.device.short_name();
            devices.add(short.to_owned(), shown(short), device_at, &device_key, mistakes);
        }
        if let Some(name) = &raw.name {
            names.add(
                port.name.clone(),
                shown(&port.name),
                name.span().start,
                &format!("port[{index}].name"),
                mistakes,
            );
        }
        if let Some(mac) = port.mac {
            macs.add(mac, mac, place(&raw.mac), &format!("port[{index}].mac"), mistakes);
        }
    }
    for (index, raw, port) in ports.iter().filter(|(.., port)| !port.host_tap.is_empty()) {
        let at = raw.host_tap.as_ref().map_or(raw.at, |name| name.span().start);
        let tap = &port.host_tap;
        interfaces.add(tap.clone(), shown(tap), at, &format!("port[{index}].host_tap"), mistakes);
    }
}

/// Direct routing sends a frame on as it came, with its tag or without.
fn tags_are_alike(ports: &Sound, mistakes: &mut Mistakes) {
    let Some((_, _, first)) = ports.first() else { return };
    for (index, raw, port) in ports.iter().filter(|(_, _, port)| port.vlan != first.vlan) {
        let named = |vlan: Option<u16>| vlan.map_or("none".into(), |vlan| vlan.to_string());
        let message = format!(
            "{} is not allowed beside port \"{}\" with {}: all ports have the same; direct routing keeps a frame's tag",
            named(port.vlan),
            first.name,
            named(first.vlan)
        );
        let at = raw.vlan.as_ref().map_or(raw.at, |vlan| vlan.span().start);
        mistakes.add(at, format!("port[{index}].vlan"), message);
    }
}

fn networks_are_apart(ports: &Sound, mistakes: &mut Mistakes) {
    for (position, (index, raw, port)) in ports.iter().enumerate() {
        let net = port.address;
        for (_, earlier_raw, earlier) in &ports[..position] {
            let other = earlier.address;
            if net.contains(other.address) || other.contains(net.address) {
                let message = format!(
                    "{net} is not allowed: a network of its own; port \"{}\" on line {} is in {} already",
                    earlier.name,
                    mistakes.line(earlier_raw.at),
                    network(other)
                );
                mistakes.add(place(&raw.address), format!("port[{index}].address"), message);
            }
        }
    }
}
