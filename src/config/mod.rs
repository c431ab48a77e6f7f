//! Configuration: a file in the user's words → [`raw`] (what was written, with positions) → [`Config`] (checked).
//!
//! Whoever holds a [`Config`] holds a valid one: every rule that the file alone can break is checked in `check.rs`.
//! What only this machine can tell (hugepages, devices, cores) is `crate::preflight`.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use crate::packet::{Ipv4Net, Mac};

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
    pub services: Vec<ServiceConfig>,
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
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlConfig {
    pub socket: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub const fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduler {
    RoundRobin,
    WeightedRoundRobin,
}

impl Scheduler {
    pub const fn name(self) -> &'static str {
        match self {
            Scheduler::RoundRobin => "rr",
            Scheduler::WeightedRoundRobin => "wrr",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    DirectRouting,
}

impl Forwarding {
    /// As `ipvsadm` prints it.
    pub const fn name(self) -> &'static str {
        match self {
            Forwarding::DirectRouting => "Route",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct ServiceConfig {
    pub protocol: Protocol,
    pub address: Ipv4Addr,
    pub port: u16,
    pub scheduler: Scheduler,
    pub reals: Vec<RealConfig>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RealConfig {
    pub address: Ipv4Addr,
    /// Direct routing cannot map ports: always the service's.
    pub port: u16,
    pub weight: u16,
    pub forwarding: Forwarding,
    /// Given by hand: never asked for by ARP.
    pub mac: Option<Mac>,
}
