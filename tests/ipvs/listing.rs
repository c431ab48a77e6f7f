//! What the director knows, printed as `ipvsadm` prints what the kernel knows, in the form in which the harness
//! compares it.

use std::net::IpAddr;

use drover::clock::TICKS_PER_SECOND;
use drover::config::{Config, Protocol, ServiceConfig, Takes};
use drover::counters::{Ledger, Traffic};
use drover::flow::{FlowTable, Pin, Template, Templates, WideTable};
use drover::service::registry::{RealName, Registry};
use drover::service::{RealId, ServiceId};

/// Everything that a listing can be about.
pub struct Known<'k> {
    pub config: &'k Config,
    pub registry: &'k Registry,
    pub ledger: &'k Ledger,
    pub flows: &'k FlowTable,
    pub wide: &'k WideTable,
    pub templates: &'k Templates,
    pub tick: u32,
    /// There was a pause in this scenario.
    pub paused: bool,
}

impl Known<'_> {
    /// `ipvsadm -L -n`
    pub fn services(&self) -> Vec<String> {
        let service = |service: &ServiceConfig| {
            let takes = service.takes;
            let words = [takes.kind(), &takes.place(), service.scheduler.name(), &service.flags()].join(" ");
            words.trim_end().to_owned()
        };
        self.list(service, |traffic| {
            let (active, inactive) = (traffic.active.get(), traffic.inactive.get());
            (String::new(), format!(" {active} {inactive}"))
        })
    }

    /// `ipvsadm -L -n --stats --exact`
    pub fn stats(&self) -> Vec<String> {
        let numbers = |traffic: &Traffic| {
            let Traffic { connections, packets, bytes, answers, answer_bytes, .. } = traffic;
            [connections, packets, answers, bytes, answer_bytes].map(|counter| format!(" {}", counter.get())).concat()
        };
        let service = |service: &ServiceConfig| {
            let takes = service.takes;
            let traffic = self.registry.held_service(&takes).map(|id| &self.ledger.services[id.index()]);
            format!("{} {}{}", takes.kind(), takes.place(), traffic.map(numbers).unwrap_or_default())
        };
        self.list(service, |traffic| (numbers(traffic), String::new()))
    }

    /// Services in `ipvsadm`'s order, each with its reals; what is said of a real in place of its weight, or behind it.
    fn list(
        &self,
        line: impl Fn(&ServiceConfig) -> String,
        of_real: impl Fn(&Traffic) -> (String, String),
    ) -> Vec<String> {
        let mut services: Vec<&ServiceConfig> = self.config.services.iter().map(AsRef::as_ref).collect();
        services.sort_by_key(|service| place_in_listing(service.takes));
        let mut lines = Vec::new();
        for service in services {
            lines.push(line(service));
            let id = self.registry.held_service(&service.takes).expect("it is in force");
            let mut reals: Vec<_> = service.reals.iter().collect();
            reals.sort_by_key(|real| real.address);
            for real in reals {
                let name = RealName { service: id, address: real.address.into(), port: real.port };
                let traffic = &self.ledger.reals[self.registry.held_real(&name).expect("it is in force").index()];
                let (instead, behind) = of_real(traffic);
                let weight = if instead.is_empty() { format!(" Route {}", real.weight) } else { instead };
                lines.push(format!("-> {}:{}{weight}{behind}", real.address, real.port));
            }
        }
        lines
    }

    /// `ipvsadm -L -n -c`, sorted.
    pub fn connections(&self) -> Vec<String> {
        let narrow = (0..self.flows.buckets()).flat_map(|bucket| self.flows.bucket(bucket, self.tick));
        let narrow = narrow.filter(|(_, pin)| self.is_there(pin.real(), pin.generation())).map(|(key, pin)| {
            let takes = self.takes(drover::flow::ClientKey::service(key));
            let (protocol, address, port) = takes.as_exact().expect("one address and one port");
            let (client, client_port) = key.client();
            self.connection(protocol.name(), (client.into(), client_port), (address, port), pin)
        });
        let wide = (0..self.wide.buckets()).flat_map(|bucket| self.wide.bucket(bucket, self.tick));
        let wide = wide.filter(|(_, pin)| self.is_there(pin.real(), pin.generation())).map(|(key, pin)| {
            let (address, protocol, port) = key.destination();
            let protocol = if protocol == Protocol::Tcp.number() { "TCP" } else { "UDP" };
            let address = address.expect("scenarios have IPv4 only").into();
            self.connection(protocol, key.client(), (address, port), pin)
        });
        let templates =
            self.templates.iter().filter(|Template { pinned, .. }| self.is_there(pinned.real, pinned.generation));
        let templates = templates.map(|template| self.template(template));
        let mut lines: Vec<String> = narrow.chain(wide).chain(templates).collect();
        lines.sort();
        lines
    }

    /// Whether what names this generation of a real is of the real that has the number now.
    fn is_there(&self, real: RealId, generation: u8) -> bool {
        self.registry.generation(real) == generation
    }

    /// One that is spent has lost its ports.
    fn template(&self, template: &Template) -> String {
        let takes = self.takes(Some(template.key.service));
        let real = self.registry.real_name(template.pinned.real).expect("whose template it is").address;
        let (protocol, address) = match takes {
            Takes::Mark(mark) => ("IP", IpAddr::V4(mark.into())),
            Takes::Address { protocol, address, .. } => (protocol.name(), address),
        };
        let port = if template.spent { u16::MAX } else { takes.port() };
        let left = if self.paused { "-".into() } else { rounded(template.left(self.tick)) };
        let state = if template.assured { "ASSURED" } else { "NONE" };
        format!("{protocol} {left} {state} {}:0 {address}:{port} {real}:{port}", template.key.client())
    }

    fn takes(&self, id: Option<ServiceId>) -> Takes {
        *id.and_then(|id| self.registry.service_name(id)).expect("whose flow it is")
    }

    /// The real's port is, in direct routing, what the client asked for.
    fn connection(&self, protocol: &str, client: (IpAddr, u16), asked: (IpAddr, u16), pin: Pin) -> String {
        let real = self.registry.real_name(pin.real()).expect("whose flow it is").address;
        let left = rounded(pin.left(self.tick));
        let ((client, client_port), (address, port)) = (client, asked);
        format!("{protocol} {left} {} {client}:{client_port} {address}:{port} {real}:{port}", pin.state().name())
    }
}

/// To ten seconds.
fn rounded(ticks: u32) -> String {
    format!("{}s", (ticks / TICKS_PER_SECOND + 5) / 10 * 10)
}

/// Services by protocol, address and port; those by mark behind them.
fn place_in_listing(takes: Takes) -> (u32, u8, Option<IpAddr>, u16) {
    match takes {
        Takes::Mark(mark) => (mark, 0, None, 0),
        Takes::Address { protocol, address, .. } => (0, protocol.number(), Some(address), takes.port()),
    }
}
