//! Raw → checked: every rule that the file alone can break.

mod matches;
pub(super) mod ports;
pub(super) mod services;
mod words;

use std::collections::HashMap;
use std::fmt::Display;
use std::hash::Hash;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use toml::Spanned;

use super::error::Mistakes;
use super::raw::{Number, RawConfig, RawTimeouts, RawWorkers, Text, shown};
use super::{Config, ControlConfig, CoresConfig, FlowsConfig, Idle, Limits, ServiceConfig, Timeouts, WorkerCores};

/// What `sched_setaffinity`'s mask has room for.
const HIGHEST_CORE: i64 = 1023;
/// DPDK's limit on threads of its own, less the management core.
const MOST_WORKERS: i64 = 127;
/// The kernel's, whose clock has a thousand ticks a second and 31 bits of them.
const LONGEST_TIMEOUT: i64 = 2_147_483;
/// What `sun_path` has room for, with its closing zero.
const LONGEST_SOCKET: usize = 107;

/// The checked configuration; worth nothing as soon as there is a mistake.
pub(super) fn check(raw: &RawConfig, mistakes: &mut Mistakes) -> Config {
    let ports = ports::check(&raw.ports, mistakes);
    let rules = matches::check(&raw.matches, &ports, mistakes);
    let services = services::check(&raw.services, &rules, &ports, mistakes);
    if mistakes.is_empty() {
        matches::marks_meet(&raw.matches, &rules, &raw.services, &services, mistakes);
    }
    let idle = idle(&raw.idle, mistakes);
    Config {
        cores: cores(raw, idle, mistakes),
        hugepages: raw.hugepages.as_ref().is_none_or(|switch| *switch.get_ref()),
        memory_mb: number(&raw.memory_mb, "memory_mb", 64..=1 << 20, 512, mistakes) as u32,
        idle,
        flows: flows(raw, &services, mistakes),
        control: ControlConfig { socket: socket(&raw.control_socket, mistakes) },
        limits: limits(raw, mistakes),
        timeouts: timeouts(&raw.timeouts, "timeouts", Timeouts::default(), mistakes),
        ports: ports.all,
        matches: rules,
        services,
    }
}

fn idle(raw: &Text, mistakes: &mut Mistakes) -> Idle {
    choice(raw, "idle", &[("wait", Idle::Wait), ("poll", Idle::Poll)], Idle::Wait, mistakes)
}

fn cores(raw: &RawConfig, idle: Idle, mistakes: &mut Mistakes) -> CoresConfig {
    let management = raw.management.as_ref().map(|core| core_number(core, "cores.management", mistakes));
    let workers = match raw.workers.as_ref().map(|workers| (workers, workers.get_ref())) {
        None => WorkerCores::Count(1),
        Some((at, RawWorkers::Count(count))) => {
            let count = Some(Spanned::new(at.span(), *count));
            WorkerCores::Count(number(&count, "cores.workers", 1..=MOST_WORKERS, 1, mistakes) as usize)
        }
        Some((at, RawWorkers::These(cores))) => {
            if cores.is_empty() || cores.len() > MOST_WORKERS as usize {
                let message = format!("{} cores are not allowed: 1 to {MOST_WORKERS}", cores.len());
                mistakes.add(at.span().start, "cores.workers", message);
            }
            // Who never lets go of a core cannot share it.
            let taken = management.filter(|_| idle == Idle::Poll);
            WorkerCores::These(these_cores(cores, taken, mistakes))
        }
    };
    CoresConfig { management, workers }
}

fn these_cores(cores: &[Spanned<i64>], taken: Option<usize>, mistakes: &mut Mistakes) -> Vec<usize> {
    let mut seen = Seen::default();
    let mut these = Vec::new();
    for (index, raw) in cores.iter().enumerate() {
        let key = format!("cores.workers[{index}]");
        let core = core_number(raw, &key, mistakes);
        if Some(core) == taken {
            let message =
                format!("{core} is not allowed: a core other than cores.management's, or idle = \"wait\" to share it");
            mistakes.add(raw.span().start, key.as_str(), message);
        }
        seen.add(core, core, raw.span().start, &key, mistakes);
        these.push(core);
    }
    these
}

fn core_number(raw: &Spanned<i64>, key: &str, mistakes: &mut Mistakes) -> usize {
    number(&Some(raw.clone()), key, 0..=HIGHEST_CORE, 0, mistakes) as usize
}

fn flows(raw: &RawConfig, services: &[Arc<ServiceConfig>], mistakes: &mut Mistakes) -> FlowsConfig {
    let per_worker = flows_per_worker(&raw.flows_per_worker, mistakes);
    let quarter = per_worker / 4;
    let half_open = number(&raw.flows_half_open, "flows.half_open", 0..=per_worker as i64, quarter as i64, mistakes);
    let wide = wide_per_worker(&raw.flows_wide, FlowsConfig::wide_for(per_worker, services), mistakes);
    FlowsConfig { per_worker, half_open: half_open as usize, wide_per_worker: wide }
}

fn wide_per_worker(raw: &Number, default: usize, mistakes: &mut Mistakes) -> usize {
    const ALLOWED: RangeInclusive<i64> = FlowsConfig::LEAST as i64..=FlowsConfig::MOST as i64;
    const EXAMPLE: usize = 125_000;
    let Some(raw) = raw else { return default };
    let value = *raw.get_ref();
    if !ALLOWED.contains(&value) {
        let message = format!(
            "{value} is not allowed: {} to {}; a connection takes about 42.7 bytes: {EXAMPLE} take {} MB a worker",
            ALLOWED.start(),
            ALLOWED.end(),
            FlowsConfig::wide_bytes(EXAMPLE).div_ceil(1 << 20),
        );
        mistakes.add(raw.span().start, "flows.wide_per_worker", message);
    }
    value.clamp(*ALLOWED.start(), *ALLOWED.end()) as usize
}

fn flows_per_worker(raw: &Number, mistakes: &mut Mistakes) -> usize {
    const ALLOWED: RangeInclusive<i64> = FlowsConfig::LEAST as i64..=FlowsConfig::MOST as i64;
    const DEFAULT: i64 = 1_000_000;
    let Some(raw) = raw else { return DEFAULT as usize };
    let value = *raw.get_ref();
    if !ALLOWED.contains(&value) {
        let message = format!(
            "{value} is not allowed: {} to {}; a connection takes about 21.3 bytes (slots of 16 bytes, three quarters \
             of them used): {DEFAULT} connections take {} MB a worker",
            ALLOWED.start(),
            ALLOWED.end(),
            FlowsConfig::narrow_bytes(DEFAULT as usize).div_ceil(1 << 20),
        );
        mistakes.add(raw.span().start, "flows.per_worker", message);
    }
    value.clamp(*ALLOWED.start(), *ALLOWED.end()) as usize
}

/// No fewer than the file itself has.
fn limits(raw: &RawConfig, mistakes: &mut Mistakes) -> Limits {
    let (services, reals) = (raw.services.len(), raw.services.iter().map(|service| service.reals.len()).sum());
    let default = Limits::for_file(services, reals);
    let mut limit = |number: &Number, key: &str, there: usize, default: usize| {
        let least = there.clamp(1, Limits::MOST) as i64;
        let value = self::number(number, key, least..=Limits::MOST as i64, default as i64, mistakes);
        value as usize
    };
    Limits {
        services: limit(&raw.max_services, "max_services", services, default.services),
        reals: limit(&raw.max_reals, "max_reals", reals, default.reals),
    }
}

/// What is not said stays as it is.
pub(super) fn timeouts(raw: &RawTimeouts, path: &str, now: Timeouts, mistakes: &mut Mistakes) -> Timeouts {
    let mut seconds = |number: &Number, key: &str, now: u32| {
        self::number(number, &format!("{path}.{key}"), 1..=LONGEST_TIMEOUT, now.into(), mistakes) as u32
    };
    Timeouts {
        tcp: seconds(&raw.tcp, "tcp", now.tcp),
        tcp_fin: seconds(&raw.tcp_fin, "tcp_fin", now.tcp_fin),
        udp: seconds(&raw.udp, "udp", now.udp),
    }
}

fn socket(raw: &Text, mistakes: &mut Mistakes) -> PathBuf {
    let Some(raw) = raw else { return PathBuf::from("/run/drover/drover.sock") };
    let path = raw.get_ref();
    let plain = path.starts_with('/') && !path.ends_with('/') && !path.contains(char::is_control);
    if !plain || path.len() > LONGEST_SOCKET {
        let length = if path.len() > LONGEST_SOCKET { format!(" ({} bytes)", path.len()) } else { String::new() };
        let message =
            format!("{}{length} is not allowed: a path from / on, of at most {LONGEST_SOCKET} bytes", shown(path));
        mistakes.add(raw.span().start, "control.socket", message);
    }
    PathBuf::from(path)
}

fn number(raw: &Number, key: &str, allowed: RangeInclusive<i64>, default: i64, mistakes: &mut Mistakes) -> i64 {
    let Some(raw) = raw else { return default };
    let value = *raw.get_ref();
    if allowed.contains(&value) {
        return value;
    }
    let message = format!("{value} is not allowed: {} to {}", allowed.start(), allowed.end());
    mistakes.add(raw.span().start, key, message);
    default
}

fn choice<T: Copy>(raw: &Text, key: &str, choices: &[(&str, T)], default: T, mistakes: &mut Mistakes) -> T {
    let Some(raw) = raw else { return default };
    if let Some((_, chosen)) = choices.iter().find(|(name, _)| name == raw.get_ref()) {
        return *chosen;
    }
    let names: Vec<_> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    let message = format!("{} is not allowed: {}", shown(raw.get_ref()), names.join(" or "));
    mistakes.add(raw.span().start, key, message);
    default
}

fn parsed<T: FromStr>(raw: &Text, key: &str, allowed: &str, mistakes: &mut Mistakes) -> Option<T> {
    let raw = raw.as_ref()?;
    let value = raw.get_ref().parse().ok();
    if value.is_none() {
        mistakes.add(raw.span().start, key, format!("{} is not allowed: {allowed}", shown(raw.get_ref())));
    }
    value
}

/// A MAC address that one station can have.
fn station(raw: &Text, key: &str, mistakes: &mut Mistakes) -> Option<crate::packet::Mac> {
    let mac: crate::packet::Mac = parsed(raw, key, "a MAC address such as \"02:00:00:00:00:01\"", mistakes)?;
    if !mac.is_unicast() {
        let message = format!("{mac} is not allowed: the address of one station, not a multicast address or zero");
        mistakes.add(place(raw), key, message);
    }
    Some(mac)
}

/// Where a value is; only called when there is one.
fn place(raw: &Text) -> usize {
    raw.as_ref().map_or(0, |raw| raw.span().start)
}

/// Why no single host can have this address.
fn no_host(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets()[0] {
        _ if address.is_unspecified() => Some("the unspecified address"),
        0 => Some("an address of \"this network\" (0.0.0.0/8)"),
        127 => Some("a loopback address"),
        224..=239 => Some("a multicast address"),
        _ if address.is_broadcast() => Some("the broadcast address"),
        240.. => Some("a reserved address (240.0.0.0/4)"),
        _ => None,
    }
}

/// Finds what is there twice, and says where it was first.
struct Seen<T>(HashMap<T, usize>);

impl<T> Default for Seen<T> {
    fn default() -> Seen<T> {
        Seen(HashMap::new())
    }
}

impl<T: Eq + Hash> Seen<T> {
    fn add(&mut self, value: T, name: impl Display, at: usize, key: &str, mistakes: &mut Mistakes) {
        match self.0.get(&value) {
            Some(first) => {
                let line = mistakes.line(*first);
                mistakes.add(at, key, format!("{name} is not allowed twice: line {line} has it already"));
            }
            None => {
                self.0.insert(value, at);
            }
        }
    }
}
