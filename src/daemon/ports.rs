//! From the ports of the configuration to DPDK's, and the host's TAP beside each.

use std::path::Path;

use anyhow::{Context, Result};

use crate::config::{Config, Device, PortConfig};
use crate::control::desk::PortFacts;
use crate::dpdk::{Eal, Mempool, Port, PortOptions, PortQueue};
use crate::manage::host::create_tap;
use crate::manage::run::PortView;
use crate::packet::{PortStats, ethernet};
use crate::preflight;
use crate::service::Station;
use crate::sys::netdev::{self, Tap};

/// Of each queue, for receiving and for sending.
pub const DESCRIPTORS: u16 = 1024;

/// The longest frame of a port, with a VLAN tag.
pub fn frame_length(mtu: u16) -> u16 {
    mtu.saturating_add((ethernet::HEADER + ethernet::TAG) as u16)
}

/// A port that is up, and the host's way to it.
pub struct OpenPort {
    name: String,
    port: Port,
    pub station: Station,
    queues: usize,
    pub tap: Option<Tap>,
    /// The driver for packet sockets calls every link up; its interface knows.
    packet_interface: Option<String>,
}

/// What EAL calls the device of the port with this number.
fn eal_name(device: &Device, number: usize) -> String {
    match device {
        Device::Pci(address) => address.clone(),
        Device::AfPacket(_) => format!("net_af_packet{number}"),
        Device::Tap(_) => format!("net_tap{number}"),
        Device::Vdev(arguments) => arguments.split(',').next().unwrap_or(arguments).to_owned(),
    }
}

pub fn pci_devices(config: &Config) -> Vec<String> {
    let pci = |port: &PortConfig| match &port.device {
        Device::Pci(address) => Some(address.clone()),
        _ => None,
    };
    config.ports.iter().filter_map(pci).collect()
}

pub fn virtual_devices(config: &Config, workers: usize) -> Vec<String> {
    config.ports.iter().enumerate().filter_map(|(number, port)| virtual_device(port, number, workers)).collect()
}

fn virtual_device(port: &PortConfig, number: usize, workers: usize) -> Option<String> {
    let name = eal_name(&port.device, number);
    match &port.device {
        Device::Pci(_) => None,
        Device::Vdev(arguments) => Some(arguments.clone()),
        Device::Tap(interface) => {
            let mac = port.mac.map_or_else(String::new, |mac| format!(",mac={mac}"));
            Some(format!("{name},iface={interface}{mac}"))
        }
        Device::AfPacket(interface) => {
            // The ring's frames hold the kernel's own header too; blocks hold whole frames.
            let frame = usize::from(frame_length(port.mtu) + 128).next_power_of_two().max(2048);
            let block = (2 * frame).max(4096);
            Some(format!("{name},iface={interface},qpairs={workers},framesz={frame},blocksz={block}"))
        }
    }
}

/// Opens every port with a queue for each worker; gives each worker its queues, one of each port, in order.
pub fn open_all(
    eal: &Eal,
    config: &Config,
    workers: usize,
    pool: &Mempool,
) -> Result<(Vec<OpenPort>, Vec<Vec<PortQueue>>)> {
    for (number, port) in config.ports.iter().enumerate() {
        let info = Port::info_of(eal, &eal_name(&port.device, number)).with_context(|| describe(port))?;
        preflight::check_queues(workers, &port.name, usize::from(info.max_queues))?;
    }
    let mut ports = Vec::new();
    let mut queues: Vec<Vec<PortQueue>> = (0..workers).map(|_| Vec::new()).collect();
    for (number, port) in config.ports.iter().enumerate() {
        let (opened, its_queues) = open(eal, port, number, workers, pool).with_context(|| describe(port))?;
        ports.push(opened);
        queues.iter_mut().zip(its_queues).for_each(|(worker, queue)| worker.push(queue));
    }
    Ok((ports, queues))
}

fn describe(port: &PortConfig) -> String {
    format!("port {} ({})", port.name, port.device)
}

fn open(
    eal: &Eal,
    config: &PortConfig,
    number: usize,
    workers: usize,
    pool: &Mempool,
) -> Result<(OpenPort, Vec<PortQueue>)> {
    let options = PortOptions {
        queues: workers as u16,
        rx_descriptors: DESCRIPTORS,
        tx_descriptors: DESCRIPTORS,
        mtu: config.mtu,
        mac: config.mac,
        all_multicast: true,
        ..PortOptions::default()
    };
    let (port, queues) = Port::open(eal, &eal_name(&config.device, number), &options, pool)?;
    let mac = port.mac();
    if let (Device::Tap(interface), true) = (&config.device, port.kernel_interface().is_some()) {
        // A bridge takes frames for its ports' own MACs for itself, and this one is the director's.
        netdev::set_mac(interface, netdev::kernel_end_mac(mac))?;
    }
    let tap = create_tap(&config.host_tap, mac, config.mtu, config.address, config.gateway, Path::new("/proc"))
        .with_context(|| format!("the host's TAP {}", config.host_tap))?;
    let station = Station { mac, network: config.address, vlan: config.vlan, mtu: config.mtu };
    log::info!(
        "port {}: {}, {mac}, {workers} queue(s), the host's end is {}",
        config.name,
        config.device,
        config.host_tap
    );
    let packet_interface = match &config.device {
        Device::AfPacket(interface) => Some(interface.clone()),
        _ => None,
    };
    let name = config.name.clone();
    Ok((OpenPort { name, port, station, queues: workers, tap: Some(tap), packet_interface }, queues))
}

/// The kernel interfaces that are ours: none of them may send a redirect.
pub fn kernel_interfaces(config: &Config) -> Vec<&str> {
    let mut interfaces = Vec::new();
    for port in &config.ports {
        interfaces.push(port.host_tap.as_str());
        if let Device::Tap(interface) | Device::AfPacket(interface) = &port.device {
            interfaces.push(interface);
        }
    }
    interfaces
}

/// An interface that cannot be asked is gone.
fn is_running(interface: &str) -> bool {
    netdev::is_running(interface).unwrap_or(false)
}

impl OpenPort {
    pub fn facts(&self) -> PortFacts {
        PortFacts { driver: self.port.driver().to_owned(), queues: self.queues, station: self.station.clone() }
    }

    pub fn view(&self) -> PortView {
        let link = self.port.link();
        PortView {
            link_up: link.up && self.packet_interface.as_deref().is_none_or(is_running),
            speed: link.speed,
            stats: PortStats { name: self.name.clone(), ..self.port.stats() },
        }
    }
}
