//! A checked configuration as a file would have it: what `drover config show` prints.

use std::fmt::{self, Write};

use super::{
    Config, Device, Idle, MacMatch, MatchRule, OnMiss, OnRemoved, PortConfig, Ports, Protocol, RealConfig,
    ServiceConfig, Settings, Takes, Timeouts, WorkerCores,
};
use crate::packet::Ipv4Net;

impl Config {
    /// Reads as this configuration.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        let idle = if self.idle == Idle::Poll { "poll" } else { "wait" };
        writeln!(out, "hugepages = {}\nmemory_mb = {}\nidle = \"{idle}\"", self.hugepages, self.memory_mb)?;
        writeln!(out, "max_services = {}\nmax_reals = {}", self.limits.services, self.limits.reals)?;
        writeln!(out, "\n[cores]")?;
        if let Some(core) = self.cores.management {
            writeln!(out, "management = {core}")?;
        }
        match &self.cores.workers {
            WorkerCores::Count(count) => writeln!(out, "workers = {count}")?,
            WorkerCores::These(cores) => writeln!(out, "workers = {cores:?}")?,
        }
        let flows = &self.flows;
        writeln!(out, "\n[flows]\nper_worker = {}\nhalf_open = {}", flows.per_worker, flows.half_open)?;
        writeln!(out, "wide_per_worker = {}", flows.wide_per_worker)?;
        writeln!(out, "\n[control]\nsocket = {}", text(&self.control.socket.display().to_string()))?;
        let Timeouts { tcp, tcp_fin, udp } = self.timeouts;
        writeln!(out, "\n[timeouts]\ntcp = {tcp}\ntcp_fin = {tcp_fin}\nudp = {udp}")?;
        self.ports.iter().try_for_each(|each| port(out, each))?;
        self.matches.iter().try_for_each(|rule| match_rule(out, rule, &self.ports))?;
        self.services.iter().try_for_each(|each| service(out, each))
    }
}

/// As TOML writes a text.
fn text(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn port(out: &mut String, port: &PortConfig) -> fmt::Result {
    let PortConfig { name, device, address, gateway, vlan, mac, mtu, host_tap, allow_host_addresses } = port;
    let (Device::Pci(what) | Device::AfPacket(what) | Device::Tap(what) | Device::Vdev(what)) = device;
    writeln!(out, "\n[[port]]\nname = {}\n{} = {}", text(name), device.key(), text(what))?;
    writeln!(out, "address = \"{}/{}\"\nmtu = {mtu}\nhost_tap = {}", address.address, address.prefix, text(host_tap))?;
    gateway.map_or(Ok(()), |gateway| writeln!(out, "gateway = \"{gateway}\""))?;
    vlan.map_or(Ok(()), |vlan| writeln!(out, "vlan = {vlan}"))?;
    mac.map_or(Ok(()), |mac| writeln!(out, "mac = \"{mac}\""))?;
    if *allow_host_addresses { writeln!(out, "allow_host_addresses = true") } else { Ok(()) }
}

fn match_rule(out: &mut String, rule: &MatchRule, stations: &[PortConfig]) -> fmt::Result {
    let MatchRule { mark, source, destination, ports, protocol, ingress, source_mac } = rule;
    writeln!(out, "\n[[match]]\nmark = {mark}")?;
    for (key, net) in [("source", source), ("destination", destination)] {
        if net.prefix > 0 {
            writeln!(out, "{key} = \"{}\"", network(*net))?;
        }
    }
    if *ports != Ports::ANY {
        writeln!(out, "ports = \"{ports}\"")?;
    }
    if let Some(protocol) = protocol {
        writeln!(out, "protocol = \"{}\"", key_of(*protocol))?;
    }
    if let Some(port) = ingress.and_then(|port| stations.get(port)) {
        writeln!(out, "ingress = {}", text(&port.name))?;
    }
    match source_mac {
        Some(MacMatch::Is(mac)) => writeln!(out, "source_mac = \"{mac}\""),
        Some(MacMatch::IsNot(mac)) => writeln!(out, "not_source_mac = \"{mac}\""),
        None => Ok(()),
    }
}

fn service(out: &mut String, service: &ServiceConfig) -> fmt::Result {
    let ServiceConfig { takes, scheduler, settings, reals } = service;
    writeln!(out, "\n[[service]]")?;
    match takes {
        Takes::Mark(mark) => writeln!(out, "mark = {mark}")?,
        Takes::Address { protocol, .. } => writeln!(out, "{} = \"{}\"", key_of(*protocol), takes.place())?,
    }
    writeln!(out, "scheduler = \"{}\"", scheduler.name())?;
    let flags: Vec<_> = scheduler.flags().collect();
    if !flags.is_empty() {
        writeln!(out, "flags = \"{}\"", flags.join(","))?;
    }
    // Taken apart, so that a new setting cannot be forgotten here.
    let Settings { persistence, expire_quiescent, one_packet, on_removed, on_miss } = settings;
    if let Some(persistence) = persistence {
        writeln!(out, "persistent = {}", persistence.seconds)?;
        if let Some(mask) = persistence.mask() {
            writeln!(out, "netmask = \"{mask}\"")?;
        }
    }
    for (key, set) in [("expire_quiescent", expire_quiescent), ("one_packet", one_packet)] {
        if *set {
            writeln!(out, "{key} = true")?;
        }
    }
    if *on_removed != OnRemoved::default() {
        writeln!(out, "on_removed = \"{}\"", on_removed.name())?;
    }
    if *on_miss != OnMiss::of(*scheduler) {
        writeln!(out, "on_miss = \"{}\"", on_miss.name())?;
    }
    reals.iter().try_for_each(|each| real(out, each))
}

fn real(out: &mut String, real: &RealConfig) -> fmt::Result {
    writeln!(out, "\n[[service.real]]\naddress = \"{}\"\nweight = {}", real.address, real.weight)?;
    if real.upper > 0 {
        writeln!(out, "upper = {}\nlower = {}", real.upper, real.lower)?;
    }
    real.mac.map_or(Ok(()), |mac| writeln!(out, "mac = \"{mac}\""))
}

fn key_of(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

fn network(net: Ipv4Net) -> String {
    if net.prefix == 32 { net.address.to_string() } else { format!("{}/{}", net.address, net.prefix) }
}
