//! Configuration: a file in the user's words → `raw.rs` (what was written, with positions) → [`Config`] (checked).
//!
//! Whoever holds a [`Config`] holds a valid one: every rule that the file alone can break is checked in `check.rs`.
//! What only this machine can tell (hugepages, devices, cores) is `crate::preflight`.

mod check;
pub mod edit;
mod error;
mod raw;
mod scheduler;
mod service;
mod show;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

pub use error::{ConfigErrors, Mistake, Warnings};
pub use scheduler::{HashFlags, NoScheduler, Scheduler};
pub use service::{
    Forwarding, MacMatch, MatchRule, OnMiss, OnRemoved, Persistence, Ports, Protocol, RealConfig, ServiceConfig,
    Settings, Takes, Timeouts,
};

use crate::packet::{Ipv4Net, Mac};

/// A longer file is no configuration: 65,535 services with their servers are shorter.
pub const LONGEST_FILE: u64 = 16 << 20;

/// What `droverd` leaves with when the file or the machine will not do, and nothing was started.
pub const EXIT_REFUSED: u8 = 2;

/// Reads and checks a file.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    examine(path).map(|(config, _)| config)
}

/// Reads and checks a file, and says what is allowed but most likely not meant.
pub fn examine(path: &Path) -> Result<(Config, Warnings), ConfigErrors> {
    let name = path.display().to_string();
    let whole_file = |message| ConfigErrors::whole_file(&name, message);
    let bytes = read(path).map_err(|error| whole_file(format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > LONGEST_FILE {
        return Err(whole_file(format!("longer than the {} MB that a configuration may have", LONGEST_FILE >> 20)));
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => parse_with_warnings(text, &name),
        Err(error) => {
            // The text up to the first wrong byte is sound, and its end is the place.
            let sound = std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default();
            let mut mistakes = error::Mistakes::new(sound);
            mistakes.add(sound.len(), "", "not TOML: the text is not UTF-8 from here on");
            Err(mistakes.into_errors(&name))
        }
    }
}

/// At most one byte more than is allowed, whatever the path leads to.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LONGEST_FILE + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Checks a text; `name` is what messages call it.
pub fn parse(text: &str, name: &str) -> Result<Config, ConfigErrors> {
    parse_with_warnings(text, name).map(|(config, _)| config)
}

pub fn parse_with_warnings(text: &str, name: &str) -> Result<(Config, Warnings), ConfigErrors> {
    if text.len() as u64 > LONGEST_FILE {
        let message = format!("longer than the {} MB that a configuration may have", LONGEST_FILE >> 20);
        return Err(ConfigErrors::whole_file(name, message));
    }
    let mut mistakes = error::Mistakes::new(text);
    let config = raw::read(text, &mut mistakes).map(|raw| check::check(&raw, &mut mistakes));
    match config {
        Some(config) if mistakes.is_empty() => Ok((config, mistakes.into_warnings(name))),
        _ => Err(mistakes.into_errors(name)),
    }
}

/// `droverd --check FILE`: says on stdout what a good file holds, and on stderr what is wrong with a bad one and what is
/// strange in a good one.
pub fn run_check(path: &Path) -> ExitCode {
    match examine(path) {
        Ok((config, warnings)) => {
            if !warnings.0.is_empty() {
                eprintln!("{warnings}");
            }
            println!("{}: ok: {}", path.display(), config.summary());
            ExitCode::SUCCESS
        }
        Err(errors) => {
            eprintln!("{errors}");
            ExitCode::from(EXIT_REFUSED)
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub ports: Vec<PortConfig>,
    pub cores: CoresConfig,
    pub hugepages: bool,
    /// Memory for packet buffers and DPDK's own, in MB.
    pub memory_mb: u32,
    pub idle: Idle,
    pub flows: FlowsConfig,
    pub control: ControlConfig,
    pub limits: Limits,
    pub timeouts: Timeouts,
    /// In the order in which they are tried.
    pub matches: Vec<MatchRule>,
    /// Shared, so that whoever lays out the next snapshot sees at once what is still the same.
    pub services: Vec<Arc<ServiceConfig>>,
}

impl Config {
    /// The addresses that the director answers for: those of services, and those that match rules have as their one
    /// destination, if their mark leads to a service.
    pub fn virtual_networks(&self) -> impl Iterator<Item = Ipv4Net> {
        let has_service = |mark| self.services.iter().any(|service| service.takes == Takes::Mark(mark));
        let rules = self.matches.iter().filter(|rule| rule.destination.prefix == 32);
        let rules = rules.filter(move |rule| has_service(rule.mark)).map(|rule| rule.destination);
        self.services.iter().filter_map(|service| service.takes.net()).chain(rules)
    }

    /// `1 port, 1 service, 3 reals`.
    pub fn summary(&self) -> String {
        let count = |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
        let reals = self.services.iter().map(|service| service.reals.len()).sum();
        [count(self.ports.len(), "port"), count(self.services.len(), "service"), count(reals, "real")].join(", ")
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct PortConfig {
    /// What listings call it.
    pub name: String,
    pub device: Device,
    /// The port's own address and network. Real servers in direct routing are in it.
    pub address: Ipv4Net,
    pub gateway: Option<Ipv4Addr>,
    pub vlan: Option<u16>,
    pub mac: Option<Mac>,
    pub mtu: u16,
    /// The kernel TAP by which the host keeps using this NIC; at most 15 bytes, as Linux has it.
    pub host_tap: String,
    /// Take an `af_packet` interface although it carries addresses of the host.
    pub allow_host_addresses: bool,
}

/// What a port is, in the user's words; `crate::daemon` turns it into EAL's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Device {
    /// `domain:bus:device.function`, lower case.
    Pci(String),
    /// A kernel interface.
    AfPacket(String),
    /// A new kernel TAP of this name.
    Tap(String),
    /// Any DPDK virtual device, as EAL's `--vdev` takes it.
    Vdev(String),
}

impl Device {
    /// The key of `[[port]]` that gives it.
    pub const fn key(&self) -> &'static str {
        match self {
            Device::Pci(_) => "pci",
            Device::AfPacket(_) => "af_packet",
            Device::Tap(_) => "tap",
            Device::Vdev(_) => "vdev",
        }
    }

    /// The device without its arguments: what a port is called that was given no name.
    pub fn short_name(&self) -> &str {
        match self {
            Device::Pci(name) | Device::AfPacket(name) | Device::Tap(name) => name,
            Device::Vdev(arguments) => arguments.split(',').next().unwrap_or(arguments),
        }
    }
}

/// As listings show it: `tap dtap0`.
impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Device::Pci(what) | Device::AfPacket(what) | Device::Tap(what) | Device::Vdev(what)) = self;
        write!(f, "{} {what}", self.key())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoresConfig {
    pub management: Option<usize>,
    pub workers: WorkerCores,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerCores {
    /// So many, on cores that preflight picks.
    Count(usize),
    These(Vec<usize>),
}

impl WorkerCores {
    pub fn count(&self) -> usize {
        match self {
            WorkerCores::Count(count) => *count,
            WorkerCores::These(cores) => cores.len(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Spin a while, then wait on the ports' descriptors.
    Wait,
    /// Never let go of the core.
    Poll,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowsConfig {
    /// Connections that each worker has room for.
    pub per_worker: usize,
    /// How many of them may be half open: a SYN was seen, and nothing since.
    pub half_open: usize,
    /// Room for what a client and a service alone do not name: connections of services of several addresses or ports.
    pub wide_per_worker: usize,
}

impl FlowsConfig {
    pub const LEAST: usize = 1_024;
    pub const MOST: usize = 1 << 30;

    /// What one worker's tables take.
    pub const fn bytes_per_worker(&self) -> u64 {
        FlowsConfig::narrow_bytes(self.per_worker) + FlowsConfig::wide_bytes(self.wide_per_worker)
    }

    /// Room in the wide table that nobody said anything of: only who needs it pays for it.
    pub fn wide_for(per_worker: usize, services: &[Arc<ServiceConfig>]) -> usize {
        let needed = services.iter().any(|service| service.takes.as_exact().is_none());
        if needed { (per_worker / 8).max(FlowsConfig::LEAST) } else { FlowsConfig::LEAST }
    }

    /// Buckets of 64 bytes with three of their four slots used, and sixteen more as the stash.
    pub const fn narrow_bytes(connections: usize) -> u64 {
        ((connections as u64).div_ceil(3) + 16) * 64
    }

    /// The same with buckets of 128 bytes.
    pub const fn wide_bytes(connections: usize) -> u64 {
        FlowsConfig::narrow_bytes(connections) * 2
    }

    /// The wide table is as small as can be, and worth no huge page.
    pub const fn wide_is_least(&self) -> bool {
        self.wide_per_worker == FlowsConfig::LEAST
    }
}

/// How many services and reals there can be, those that were removed and may still be named among them: as many have
/// a line of counters in every worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub services: usize,
    pub reals: usize,
}

impl Limits {
    /// Services and reals are 16-bit numbers in the flow table.
    pub const MOST: usize = 65_535;
    pub const LEAST: Limits = Limits { services: 1_024, reals: 8_192 };

    /// What a file has that says nothing of it: room for twice what is in it.
    pub fn for_file(services: usize, reals: usize) -> Limits {
        let room = |count: usize, least: usize| (2 * count).clamp(least, Limits::MOST);
        Limits { services: room(services, Limits::LEAST.services), reals: room(reals, Limits::LEAST.reals) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlConfig {
    pub socket: PathBuf,
}
