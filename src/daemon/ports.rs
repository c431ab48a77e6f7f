//! From the ports of the configuration to DPDK's, and the host's TAP beside each.

use std::path::Path;

use anyhow::{Context, Result};

use super::memory::Pools;
use crate::config::{Config, Device, PortConfig};
use crate::control::desk::PortFacts;
use crate::control::wire::Steering;
use crate::dpdk::{Eal, Port, PortOptions, PortQueue, Spread};
use crate::flow::NicSpread;
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

/// The NUMA node of each port.
pub fn nodes(eal: &Eal, config: &Config) -> Result<Vec<Option<u32>>> {
    let node = |(number, port): (usize, &PortConfig)| {
        let info = Port::info_of(eal, &eal_name(&port.device, number)).with_context(|| describe(port))?;
        Ok(info.socket)
    };
    config.ports.iter().enumerate().map(node).collect()
}

/// Who sees to it that a flow comes to its worker, and why, where it is not the NIC.
pub fn steering(ports: &[OpenPort], remarks: &mut Vec<String>) -> Steering {
    let spreads: Vec<_> = ports.iter().map(|port| (port.name.as_str(), port.port.spread())).collect();
    let (steering, why) = steering_of(&spreads);
    // Of these two nothing else is to be expected.
    let expected = ports.iter().all(|port| matches!(port.port.driver(), "net_tap" | "net_af_packet"));
    match why.map(|why| format!("flows are shared out among the workers in software: {why}")) {
        Some(remark) if expected => log::info!("{remark}"),
        Some(remark) => remarks.push(remark),
        None => (),
    }
    steering
}

/// How the NICs spread flows, where they do, all of them alike.
pub fn nic_spread(ports: &[OpenPort]) -> Option<NicSpread> {
    ports.first().and_then(|port| match port.port.spread() {
        Spread::Verified(rss) => Some(NicSpread {
            key: rss.key.clone(),
            table: rss.table.clone(),
            tcp_ports: rss.hashes_tcp_ports(),
            udp_ports: rss.hashes_udp_ports(),
        }),
        Spread::OneQueue | Spread::Unknown(_) => None,
    })
}

/// A flow may come in by any port: their queues mean its worker only if all of them spread alike.
fn steering_of(spreads: &[(&str, &Spread)]) -> (Steering, Option<String>) {
    let mut first = None;
    for (name, spread) in spreads {
        match (spread, first) {
            (Spread::OneQueue, _) => return (Steering::OneWorker, None),
            (Spread::Unknown(why), _) => return (Steering::Software, Some(format!("of port {name}, {why}"))),
            (Spread::Verified(rss), None) => first = Some((name, rss)),
            (Spread::Verified(rss), Some((_, same))) if rss == same => (),
            (Spread::Verified(_), Some((other, _))) => {
                return (Steering::Software, Some(format!("ports {other} and {name} spread differently")));
            }
        }
    }
    (Steering::Nic, None)
}

/// Opens every port with a queue for each worker; gives each worker its queues, one of each port, in order.
pub fn open_all(
    eal: &Eal,
    config: &Config,
    workers: usize,
    pools: &Pools,
) -> Result<(Vec<OpenPort>, Vec<Vec<PortQueue>>)> {
    for (number, port) in config.ports.iter().enumerate() {
        let info = Port::info_of(eal, &eal_name(&port.device, number)).with_context(|| describe(port))?;
        preflight::check_queues(workers, &port.name, usize::from(info.max_queues))?;
    }
    let mut ports = Vec::new();
    let mut queues: Vec<Vec<PortQueue>> = (0..workers).map(|_| Vec::new()).collect();
    for (number, port) in config.ports.iter().enumerate() {
        let (opened, its_queues) = open(eal, port, number, workers, pools).with_context(|| describe(port))?;
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
    pools: &Pools,
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
    let name = eal_name(&config.device, number);
    let pool = pools.of(Port::info_of(eal, &name)?.socket);
    let (port, queues) = Port::open(eal, &name, &options, pool)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dpdk::Rss;

    fn verified(table: u16) -> Spread {
        Spread::Verified(Rss { key: vec![1; 40], functions: 1, table: (0..table).map(|entry| entry % 3).collect() })
    }

    #[test]
    fn the_nic_steers_only_if_all_ports_are_known_to_do_it_alike() {
        let unknown = Spread::Unknown("its hash key cannot be read back".into());
        let (one, same, other) = (verified(128), verified(128), verified(512));
        let by = |spreads: &[&Spread]| {
            let named: Vec<_> = ["a", "b", "c"].into_iter().zip(spreads.iter().copied()).collect();
            let (steering, why) = steering_of(&named);
            (steering, why.unwrap_or_default())
        };
        assert_eq!(by(&[&Spread::OneQueue, &Spread::OneQueue]), (Steering::OneWorker, String::new()));
        assert_eq!(by(&[&one]), (Steering::Nic, String::new()));
        assert_eq!(by(&[&one, &same]), (Steering::Nic, String::new()));
        let differently = "ports a and c spread differently".to_owned();
        assert_eq!(by(&[&one, &same, &other]), (Steering::Software, differently));
        let why = "of port b, its hash key cannot be read back".to_owned();
        assert_eq!(by(&[&one, &unknown]), (Steering::Software, why));
    }
}
