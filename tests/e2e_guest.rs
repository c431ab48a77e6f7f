//! droverd on NICs that are bound to it: the `pci =` path, in a guest of QEMU's with an emulated processor.
//! Runs as root or, through user namespaces, as anybody.
#![cfg(feature = "dpdk")]

mod guest;
mod harness;

use std::collections::BTreeMap;

use drover::control::wire::{ConnEntry, RealState, ServiceEntry, Stats, Status, Steering};
use drover::lab::network::{address, mac};
use drover::lab::{CLIENT, REALS, VIP, run};
use guest::{Guest, Nic, PAGES, PLAIN, SPREADING};
use harness::capture::{Capture, is_packet, mac_text, ones_complement_sum};
use harness::{Bench, until};

const TCP: u8 = 6;
const REQUESTS: u32 = 200;
const CONFIGURATION: &str = "/etc/drover.toml";

#[test]
fn a_bound_nic_with_two_queues_is_a_director() {
    let bench = Bench::new();
    let mut guest = Guest::boot(&bench);
    pass("the guest has booted");
    configure(&mut guest, &SPREADING);
    refused_until_the_nic_is_ours(&mut guest);
    pass("refused, with the remedy, until the NIC was droverd's to have");
    // Through the IOMMU, by virtual addresses; and past it, by physical ones.
    directs(&bench, &mut guest, &SPREADING, "vfio-pci");
    directs(&bench, &mut guest, &SPREADING, "uio_pci_generic");
    directs(&bench, &mut guest, &PLAIN, "vfio-pci");
    guest.power_off();
    pass("the guest is off");
}

/// The life of a director on this NIC.
fn directs(bench: &Bench, guest: &mut Guest, nic: &Nic, driver: &str) {
    let pass = |what: &str| pass(&format!("{} by {driver}: {what}", nic.interface));
    configure(guest, nic);
    bind(guest, nic, driver);
    start(guest);
    what_it_says_of_itself(guest, nic);
    memory_is_near(guest, nic);
    pass("droverd runs and knows all servers, its memory where it belongs");
    forwards(bench, guest, nic);
    pass(&format!("{REQUESTS} requests served, all frames rewritten as they should be"));
    adds_up(guest);
    pass("every frame is accounted for, by droverd and by the NIC's driver");
    let flows = shared_out(guest, nic);
    pass(&format!("both workers had their flows, each its own: {flows:?}"));
    follows_its_link(bench, guest, nic);
    pass("the link went and came back, and requests are served again");
    stop(guest);
    pass("stopped, and everything given back");
}

fn pass(what: &str) {
    println!("PASS {what}");
}

fn configure(guest: &mut Guest, nic: &Nic) {
    let reals: String =
        REALS.iter().map(|real| format!("[[service.real]]\naddress = \"{}\"\n", address(real))).collect();
    guest.sh(&format!(
        "cat >{CONFIGURATION} <<end\nhugepages = true\nmemory_mb = 64\nidle = \"poll\"\n\
         [cores]\nmanagement = 0\nworkers = 2\n\
         [[port]]\nname = \"lan\"\npci = \"{}\"\naddress = \"10.9.0.10/24\"\n\
         [flows]\nper_worker = 100_000\n\
         [[service]]\ntcp = \"{VIP}:80\"\nscheduler = \"rr\"\n{reals}end",
        nic.address
    ));
}

/// What stands in the way, as an operator meets it who starts with a NIC that is still the kernel's.
fn refused_until_the_nic_is_ours(guest: &mut Guest) {
    let Nic { address, interface, .. } = SPREADING;
    let steps = format!("modprobe vfio-pci && ip link set {interface} down && dpdk-devbind.py -b vfio-pci {address}");
    refused(guest, &format!("PCI device {address} is held by the kernel's virtio-pci"), &steps);
    bind(guest, &SPREADING, "vfio-pci");
    let load = "modprobe vfio_iommu_type1";
    refused(guest, "vfio-pci has no driver for the IOMMU (vfio_iommu_type1)", load);
    guest.sh(load);
}

fn refused(guest: &mut Guest, what: &str, remedy: &str) {
    let (said, well) = guest.try_sh(&format!("droverd --config {CONFIGURATION}"));
    assert!(!well, "{said}");
    assert_eq!(said, format!("droverd: port \"lan\": {what}\n  remedy: {remedy}"));
}

/// What dpdk-devbind.py does, which is Python.
fn bind(guest: &mut Guest, nic: &Nic, driver: &str) {
    let address = nic.address;
    guest.sh(&format!(
        "device=/sys/bus/pci/devices/{address}; [ ! -e $device/driver ] || echo {address} >$device/driver/unbind
         echo {driver} >$device/driver_override && echo {address} >/sys/bus/pci/drivers_probe
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

fn what_it_says_of_itself(guest: &mut Guest, nic: &Nic) {
    let status: Status = guest.drover("status").unwrap();
    let port = &status.ports[0];
    assert_eq!((&*port.device, &*port.driver), (&*format!("pci {}", nic.address), "net_virtio"));
    assert_eq!((&*port.mac.to_lowercase(), port.link_up, port.queues), (nic.mac, true, 2));
    let cores: Vec<usize> = status.workers.iter().map(|worker| worker.core).collect();
    assert_eq!((status.management_core, cores), (0, vec![1, 2]));
    for worker in &status.workers {
        assert_eq!(worker.flow_memory, "2 MB pages (reserved)");
    }
    let warnings = status.warnings;
    if nic.spreads {
        assert_eq!((status.steering, warnings), (Steering::Nic, Vec::new()));
        return;
    }
    assert_eq!((status.steering, warnings.len()), (Steering::Software, 2), "{warnings:?}");
    assert!(warnings.iter().any(|warning| warning.contains("it has no hash for IPv4")), "{warnings:?}");
    let distant = "port lan is on NUMA node 1, and the workers on these cores are not: 1;";
    assert!(warnings.iter().any(|warning| warning.starts_with(distant)), "{warnings:?}");
}

/// Buffers on the NIC's NUMA node, if it has one; each worker's table on the worker's.
fn memory_is_near(guest: &mut Guest, nic: &Nic) {
    let maps = guest.sh("grep -w huge /proc/$droverd/numa_maps");
    // DPDK's segments are memfds, one for each page.
    let (buffers, tables): (Vec<&str>, Vec<&str>) = maps.lines().partition(|line| line.contains("memfd:"));
    let on = |lines: &[&str], node: &str| lines.iter().filter(|line| line.contains(node)).count();
    assert_eq!((on(&tables, " N0="), on(&tables, " N1=")), (1, 1), "{maps}");
    let (near, far) = (on(&buffers, " N1="), on(&buffers, " N0="));
    // A page of EAL's own is where management runs.
    assert!(nic.spreads || (near >= 10 && far <= 1), "{maps}");
}

/// Real requests, and every frame of theirs where it arrives.
fn forwards(bench: &Bench, guest: &mut Guest, nic: &Nic) {
    let wires = REALS.map(|real| Capture::start(bench, real, |frame| is_packet(frame, TCP, VIP)));
    let outcome = run::requests(&bench.lab, REQUESTS).unwrap();
    assert_eq!((outcome.failed, outcome.connections), (0, REQUESTS), "{outcome:?}");
    assert_eq!(outcome.served.len(), REALS.len(), "{outcome:?}");
    assert_eq!(bench.neighbour(CLIENT, VIP).as_deref(), Some(nic.mac));
    let forwarded = guest.drover::<Stats>("stats").unwrap().total.forwarded;
    let arrived = until("every forwarded frame", || {
        let arrived: Vec<_> = REALS.iter().zip(&wires).map(|(real, wire)| (real, wire.frames())).collect();
        let count: usize = arrived.iter().map(|(_, frames)| frames.len()).sum();
        if count as u64 >= forwarded { Ok(arrived) } else { Err(format!("{count} of {forwarded}")) }
    });
    for (real, frames) in arrived {
        for frame in frames {
            assert_eq!((mac_text(&frame[0..6]), &*mac_text(&frame[6..12])), (mac(real), nic.mac));
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
        let right = total.received + total.handed_in == accounted + total.handed_out
            && total.handed_in == total.handed_out
            && in_and_out == (port.received, port.sent);
        if right { Ok(()) } else { Err(format!("{stats:?}")) }
    });
}

/// Where the NIC spreads, whoever got a flow's packets is whom the RSS specification's function names, with the key and
/// the table that droverd set; else workers hand over what came to the wrong one. Answers with each worker's flows.
fn shared_out(guest: &mut Guest, nic: &Nic) -> BTreeMap<usize, u32> {
    let stats: Stats = guest.drover("stats").unwrap();
    assert_eq!(stats.total.handed_out == 0, nic.spreads, "{stats:?}");
    assert!(stats.workers.iter().all(|worker| worker.forwarded > 0), "{stats:?}");
    let connections: Vec<ConnEntry> = guest.drover("conn list").unwrap();
    // A client may use a port again, and then it is the same flow.
    assert!((REQUESTS as usize * 9 / 10..=REQUESTS as usize).contains(&connections.len()), "{connections:?}");
    let mut flows = BTreeMap::new();
    for connection in connections {
        let hash = rss_hash(&connection);
        assert!(!nic.spreads || connection.worker as u32 == hash % 128 % 2, "{connection:?} hashes to {hash:08x}");
        *flows.entry(connection.worker).or_insert(0) += 1;
    }
    assert_eq!(flows.len(), 2, "{flows:?}");
    flows
}

fn rss_hash(connection: &ConnEntry) -> u32 {
    let mut input = Vec::new();
    for address in [connection.client.ip(), connection.virtual_address.ip()] {
        input.extend(address.octets());
    }
    for port in [connection.client.port(), connection.virtual_address.port()] {
        input.extend(port.to_be_bytes());
    }
    toeplitz(&input)
}

/// The RSS specification's function, of twelve bytes and with its own key.
fn toeplitz(input: &[u8]) -> u32 {
    const KEY: u128 = 0x6d5a56da255b0ec24167253d43a38fb0;
    let bits = input.iter().flat_map(|byte| (0..8).map(move |bit| byte >> (7 - bit) & 1));
    bits.enumerate().filter(|(_, bit)| *bit == 1).fold(0, |hash, (at, _)| hash ^ (KEY >> (96 - at)) as u32)
}

#[test]
fn the_hash_is_the_specifications() {
    // Its first test vector: from 66.9.149.187:2794 to 161.142.100.80:1766.
    let ports = [2794_u16.to_be_bytes(), 1766_u16.to_be_bytes()];
    let input = [&[66, 9, 149, 187, 161, 142, 100, 80], ports.as_flattened()].concat();
    assert_eq!(toeplitz(&input), 0x51ccc178);
}

fn follows_its_link(bench: &Bench, guest: &mut Guest, nic: &Nic) {
    for plugged in [false, true] {
        guest.cable(nic, plugged);
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
    let free = guest.sh("sed -n 's/HugePages_Free: *//p' /proc/meminfo");
    assert_eq!(free, PAGES.to_string(), "{}", log(guest));
    assert!(!guest.sh("ls /sys/class/net").contains("drover0"), "{}", log(guest));
}
