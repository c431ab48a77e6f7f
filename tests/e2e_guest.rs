//! droverd on a NIC that is bound to it: the `pci =` path, in a guest of QEMU's with an emulated processor.
//! Runs as root or, through user namespaces, as anybody.
#![cfg(feature = "dpdk")]

mod guest;
mod harness;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use drover::control::wire::{ConnEntry, RealState, ServiceEntry, Stats, Status};
use drover::lab::network::mac;
use drover::lab::{CLIENT, REALS, VIP, run};
use guest::{Guest, MAC, NIC};
use harness::capture::{Capture, is_packet, mac_text, ones_complement_sum};
use harness::{Bench, until};

const TCP: u8 = 6;
const REQUESTS: u32 = 200;
const CONFIGURATION: &str = "/etc/drover.toml";

#[test]
fn a_bound_nic_with_two_queues_is_a_director() {
    let bench = Bench::new();
    let mut guest = Guest::boot(&bench);
    configure(&mut guest);
    pass("the guest has booted");
    refused_until_the_nic_is_ours(&mut guest);
    // Through the IOMMU, by virtual addresses; and past it, by physical ones.
    for driver in ["vfio-pci", "uio_pci_generic"] {
        bind(&mut guest, driver);
        start(&mut guest);
        pass(&format!("{driver}: droverd runs"));
        what_it_says_of_itself(&mut guest);
        forwards(&bench, &mut guest);
        pass(&format!("{driver}: {REQUESTS} requests served, their frames rewritten as they should be"));
        adds_up(&mut guest);
        spread_by_the_nic(&mut guest);
        pass(&format!("{driver}: both workers took part, each flow at the queue that its RSS hash names"));
        follows_its_link(&bench, &mut guest);
        pass(&format!("{driver}: the link went, and came back"));
        stop(&mut guest);
        pass(&format!("{driver}: stopped, and everything given back"));
    }
    guest.power_off();
    pass("the guest is off");
}

fn pass(what: &str) {
    println!("PASS {what}");
}

fn configure(guest: &mut Guest) {
    let reals: String =
        REALS.iter().map(|real| format!("[[service.real]]\naddress = \"{}\"\n", address(real))).collect();
    guest.sh(&format!(
        "cat >{CONFIGURATION} <<end\nhugepages = true\nmemory_mb = 64\nidle = \"poll\"\n\
         [cores]\nmanagement = 0\nworkers = 2\n\
         [[port]]\nname = \"lan\"\npci = \"{NIC}\"\naddress = \"10.9.0.10/24\"\n\
         [flows]\nper_worker = 100_000\n\
         [[service]]\ntcp = \"{VIP}:80\"\nscheduler = \"rr\"\n{reals}end"
    ));
}

fn address(host: &str) -> String {
    drover::lab::network::address(host)
}

/// What stands in the way, as an operator meets it who starts with a NIC that is still the kernel's.
fn refused_until_the_nic_is_ours(guest: &mut Guest) {
    let steps = format!("modprobe vfio-pci && ip link set eth0 down && dpdk-devbind.py -b vfio-pci {NIC}");
    refused(guest, &format!("PCI device {NIC} is held by the kernel's virtio-pci"), &steps);
    bind(guest, "vfio-pci");
    let load = "modprobe vfio_iommu_type1";
    refused(guest, "vfio-pci has no driver for the IOMMU (vfio_iommu_type1)", load);
    guest.sh(load);
    pass("refused, with the remedy, until the NIC was droverd's to have");
}

fn refused(guest: &mut Guest, what: &str, remedy: &str) {
    let (said, well) = guest.try_sh(&format!("droverd --config {CONFIGURATION}"));
    assert!(!well, "{said}");
    assert_eq!(said, format!("droverd: port \"lan\": {what}\n  remedy: {remedy}"));
}

/// What dpdk-devbind.py does, which is Python.
fn bind(guest: &mut Guest, driver: &str) {
    guest.sh(&format!(
        "device=/sys/bus/pci/devices/{NIC}; [ ! -e $device/driver ] || echo {NIC} >$device/driver/unbind
         echo {driver} >$device/driver_override && echo {NIC} >/sys/bus/pci/drivers_probe
         [ $(basename $(readlink $device/driver)) = {driver} ]"
    ));
}

fn start(guest: &mut Guest) {
    guest.sh(&format!("droverd --config {CONFIGURATION} >/run/droverd.log 2>&1 & droverd=$!"));
    until("every server to answer ARP", || {
        assert!(guest.try_sh("kill -0 $droverd").1, "{}", log(guest));
        let services: Vec<ServiceEntry> = guest.drover("service list")?;
        let resolved = services[0].reals.iter().all(|real| real.state == RealState::Resolved);
        if resolved { Ok(()) } else { Err(format!("{services:?}\n{}", log(guest))) }
    });
}

fn log(guest: &mut Guest) -> String {
    guest.sh("cat /run/droverd.log")
}

fn what_it_says_of_itself(guest: &mut Guest) {
    let status: Status = guest.drover("status").unwrap();
    let port = &status.ports[0];
    assert_eq!((&*port.device, &*port.driver), (&*format!("pci {NIC}"), "net_virtio"));
    assert_eq!((&*port.mac.to_lowercase(), port.link_up, port.queues), (MAC, true, 2));
    let cores: Vec<usize> = status.workers.iter().map(|worker| worker.core).collect();
    assert_eq!((status.management_core, cores), (0, vec![1, 2]));
    for worker in &status.workers {
        assert_eq!(worker.flow_memory, "2 MB pages (reserved)");
    }
    assert_eq!(status.warnings, Vec::<String>::new());
}

/// Real requests, and every frame of theirs where it arrives.
fn forwards(bench: &Bench, guest: &mut Guest) {
    let wires = REALS.map(|real| Capture::start(bench, real, |frame| is_packet(frame, TCP, VIP)));
    let outcome = run::requests(&bench.lab, REQUESTS).unwrap();
    assert_eq!((outcome.failed, outcome.connections), (0, REQUESTS), "{outcome:?}");
    assert_eq!(outcome.served.len(), REALS.len(), "{outcome:?}");
    assert_eq!(bench.neighbour(CLIENT, VIP).as_deref(), Some(MAC));
    let forwarded = guest.drover::<Stats>("stats").unwrap().total.forwarded;
    let arrived = until("every forwarded frame", || {
        let arrived: Vec<_> = REALS.iter().zip(&wires).map(|(real, wire)| (real, wire.frames())).collect();
        let count: usize = arrived.iter().map(|(_, frames)| frames.len()).sum();
        if count as u64 >= forwarded { Ok(arrived) } else { Err(format!("{count} of {forwarded}")) }
    });
    for (real, frames) in arrived {
        for frame in frames {
            assert_eq!((mac_text(&frame[0..6]), &*mac_text(&frame[6..12])), (mac(real), MAC));
            assert_eq!((frame[14 + 8], ones_complement_sum(&frame[14..34])), (63, 0xffff), "{frame:02x?}");
        }
    }
}

/// Received is forwarded, to management, to the host and dropped, and it is what the NIC's driver counted.
fn adds_up(guest: &mut Guest) {
    until("the director's totals to equal the port's", || {
        let stats: Stats = guest.drover("stats")?;
        let (total, port) = (&stats.total, &stats.ports[0]);
        let dropped: u64 = total.dropped.values().sum();
        let accounted = total.forwarded + total.to_manage + total.to_host + dropped;
        let in_and_out = (total.received, total.forwarded + total.originated_sent);
        let right = total.received == accounted && in_and_out == (port.received, port.sent);
        if right { Ok(()) } else { Err(format!("{stats:?}")) }
    });
}

/// Whoever got a flow's packets is whom the RSS specification's function names, with the key that droverd gave.
fn spread_by_the_nic(guest: &mut Guest) {
    let stats: Stats = guest.drover("stats").unwrap();
    assert!(stats.workers.iter().all(|worker| worker.forwarded > 0), "{stats:?}");
    let connections: Vec<ConnEntry> = guest.drover("conn list").unwrap();
    assert_eq!(connections.len(), REQUESTS as usize);
    let mut flows = BTreeMap::new();
    for connection in connections {
        let hash = rss_hash(&connection);
        assert_eq!(connection.worker as u32, hash % 128 % 2, "{connection:?} hashes to {hash:08x}");
        *flows.entry(connection.worker).or_insert(0) += 1;
    }
    println!("     flows by worker: {flows:?}");
}

fn rss_hash(connection: &ConnEntry) -> u32 {
    let mut input = Vec::new();
    for address in [connection.client.ip(), connection.virtual_address.ip()] {
        input.extend(Ipv4Addr::octets(address));
    }
    for port in [connection.client.port(), connection.virtual_address.port()] {
        input.extend(port.to_be_bytes());
    }
    toeplitz(&input)
}

/// The RSS specification's function and its own key.
fn toeplitz(input: &[u8]) -> u32 {
    const KEY: u128 = 0x6d5a56da255b0ec24167253d43a38fb0;
    let bits = input.iter().flat_map(|byte| (0..8).map(move |bit| byte >> (7 - bit) & 1));
    bits.enumerate().filter(|(_, bit)| *bit == 1).fold(0, |hash, (at, _)| hash ^ (KEY >> (96 - at)) as u32)
}

#[test]
fn the_hash_is_the_specifications() {
    // Its first test vector: 66.9.149.187:2794 to 161.142.100.80:1766.
    assert_eq!(
        toeplitz(&[66, 9, 149, 187, 161, 142, 100, 80, 2794_u16.to_be_bytes()[0], 0xea, 0x06, 0xe6]),
        0x51ccc178
    );
}

fn follows_its_link(bench: &Bench, guest: &mut Guest) {
    for plugged in [false, true] {
        guest.cable(plugged);
        until("the link's change to be seen", || {
            let up = guest.drover::<Status>("status")?.ports[0].link_up;
            if up == plugged { Ok(()) } else { Err(format!("link up: {up}")) }
        });
    }
    let outcome = run::requests(&bench.lab, 20).unwrap();
    assert_eq!((outcome.failed, outcome.connections), (0, 20), "{outcome:?}");
}

fn stop(guest: &mut Guest) {
    guest.sh("drover stop && wait $droverd");
    let left =
        guest.sh("cat /proc/sys/vm/nr_hugepages; sed -n 's/HugePages_Free: *//p' /proc/meminfo; ls /sys/class/net");
    assert_eq!(left, "128\n128\nlo", "{}", log(guest));
}
