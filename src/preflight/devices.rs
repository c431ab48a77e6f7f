//! Whether each port's device is there, is free, and can be used.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use super::machine::link_name;
use super::{Machine, Problem};
use crate::config::{Config, Device, PortConfig};
use crate::sys::interfaces::Interface;

/// Drivers that hand a device over to a process.
const USER_DRIVERS: &[&str] = &[VFIO, "igb_uio", "uio_pci_generic"];
const VFIO: &str = "vfio-pci";
/// Drivers that DPDK works beside: their devices stay with the kernel.
const SHARED_DRIVERS: &[&str] = &["mlx4_core", "mlx5_core"];
/// Drivers that may hold other devices of an IOMMU group that a process uses.
const GROUP_DRIVERS: &[&str] = &[VFIO, "pci-stub", "pcieport"];

pub(super) fn check(config: &Config, machine: &Machine, problems: &mut Vec<Problem>) {
    for port in &config.ports {
        match &port.device {
            Device::Pci(address) => pci(port, address, machine, problems),
            Device::AfPacket(name) => af_packet(port, name, machine, problems),
            Device::Tap(name) => name_is_free(port, "tap", name, machine, problems),
            Device::Vdev(_) => {}
        }
        name_is_free(port, "host_tap", &port.host_tap, machine, problems);
        address_is_free(port, machine, problems);
    }
}

fn pci(port: &PortConfig, address: &str, machine: &Machine, problems: &mut Vec<Problem>) {
    let device = machine.pci(address);
    if !device.exists() {
        let what = format!("port \"{}\": no PCI device {address}", port.name);
        problems.push(Problem::new(what, "choose one from `lspci -D | grep -i -e ethernet -e network`"));
        return;
    }
    let class = fs::read_to_string(device.join("class")).unwrap_or_default();
    if !class.is_empty() && !class.starts_with("0x02") {
        let what =
            format!("port \"{}\": PCI device {address} is no network device (class {})", port.name, class.trim());
        problems.push(Problem::new(what, "choose one from `lspci -D | grep -i -e ethernet -e network`"));
        return;
    }
    let driver = link_name(&device.join("driver"));
    match driver.as_deref() {
        Some(VFIO) => vfio(port, address, &device, machine, problems),
        Some(driver) if USER_DRIVERS.contains(&driver) || SHARED_DRIVERS.contains(&driver) => {
            if !machine.is_true_root() {
                let what = format!("port \"{}\": a PCI device with the driver {driver} needs root", port.name);
                problems.push(Problem::new(what, "start droverd as root"));
            }
        }
        _ => {
            let held = driver.map_or("has no driver".to_owned(), |driver| format!("is held by the kernel's {driver}"));
            let what = format!("port \"{}\": PCI device {address} {held}", port.name);
            problems.push(Problem::new(what, bind(address, &device, machine)));
        }
    }
}

/// The lines that give a device to the driver that fits this machine.
fn bind(address: &str, device: &Path, machine: &Machine) -> String {
    let mut steps = Vec::new();
    let safe = link_name(&device.join("iommu_group")).is_some();
    let parameter = "module/vfio/parameters/enable_unsafe_noiommu_mode";
    // Without an IOMMU vfio-pci takes a device only if the kernel was built for that, and Debian's are not.
    let driver = if safe || machine.sys.join(parameter).exists() { VFIO } else { "uio_pci_generic" };
    steps.push(format!("modprobe {driver}"));
    steps.extend(kernel_interfaces(device).iter().map(|interface| format!("ip link set {interface} down")));
    if !safe && driver == VFIO {
        steps.push(format!("echo 1 > /sys/{parameter}"));
    }
    steps.push(format!("dpdk-devbind.py -b {driver} {address}"));
    let mut line = steps.join(" && ");
    if !safe {
        line.push_str(" (the machine shows no IOMMU: safer is intel_iommu=on or amd_iommu=on for the kernel)");
    }
    line
}

/// Those over this device; a virtio device is one step further away from its own.
fn kernel_interfaces(device: &Path) -> Vec<String> {
    let names = |directory: &Path| -> Vec<String> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let mut interfaces = names(&device.join("net"));
    for virtio in names(device).iter().filter(|name| name.starts_with("virtio")) {
        interfaces.extend(names(&device.join(virtio).join("net")));
    }
    interfaces
}

fn vfio(port: &PortConfig, address: &str, device: &Path, machine: &Machine, problems: &mut Vec<Problem>) {
    let Some(group) = link_name(&device.join("iommu_group")) else {
        let what = format!("port \"{}\": PCI device {address} is in no IOMMU group, and vfio-pci needs one", port.name);
        problems.push(Problem::new(
            what,
            "boot the kernel with intel_iommu=on or amd_iommu=on, and VT-d on in the firmware",
        ));
        return;
    };
    let without_iommu = machine.dev.join("vfio").join(format!("noiommu-{group}"));
    if without_iommu.exists() {
        may_open(port, &without_iommu, problems);
        return;
    }
    group_is_ours(port, address, device, problems);
    let file = machine.dev.join("vfio").join(&group);
    if !file.exists() {
        let what = format!("port \"{}\": {} is missing", port.name, file.display());
        problems.push(Problem::new(what, "modprobe vfio-pci, and in a container pass /dev/vfio on"));
    } else if !machine.sys.join("module/vfio_iommu_type1").exists() {
        let what = format!("port \"{}\": vfio-pci has no driver for the IOMMU (vfio_iommu_type1)", port.name);
        problems.push(Problem::new(what, "modprobe vfio_iommu_type1"));
    } else {
        may_open(port, &file, problems);
    }
}

/// The kernel gives a group away as a whole: none of its devices may be left with another driver.
fn group_is_ours(port: &PortConfig, address: &str, device: &Path, problems: &mut Vec<Problem>) {
    let others = fs::read_dir(device.join("iommu_group/devices")).into_iter().flatten().flatten();
    for other in others {
        let name = other.file_name().to_string_lossy().into_owned();
        let Some(driver) = link_name(&other.path().join("driver")) else { continue };
        if name != address && !GROUP_DRIVERS.contains(&&*driver) {
            let what = format!(
                "port \"{}\": {address} shares its IOMMU group with {name}, which is held by the kernel's {driver}",
                port.name
            );
            let remedy = format!("dpdk-devbind.py -b vfio-pci {name} (or another slot for the card)");
            problems.push(Problem::new(what, remedy));
        }
    }
}

fn may_open(port: &PortConfig, file: &Path, problems: &mut Vec<Problem>) {
    let usable = rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK;
    if rustix::fs::access(file, usable).is_err() {
        let what = format!("port \"{}\": no permission for {}", port.name, file.display());
        problems.push(Problem::new(what, format!("start droverd as root, or chown {} to its user", file.display())));
    }
}

fn af_packet(port: &PortConfig, name: &str, machine: &Machine, problems: &mut Vec<Problem>) {
    let Some(interface) = machine.interface(name) else {
        let there: Vec<_> = machine.interfaces.iter().map(|interface| interface.name.as_str()).collect();
        let what = format!("port \"{}\": no interface {name} here", port.name);
        problems.push(Problem::new(what, format!("choose from {}", there.join(", "))));
        return;
    };
    if !interface.ethernet {
        let what = format!("port \"{}\": {name} is no Ethernet interface", port.name);
        problems.push(Problem::new(what, "choose another one from `ip link`"));
    } else if !interface.up {
        let what = format!("port \"{}\": interface {name} is down", port.name);
        problems.push(Problem::new(what, format!("ip link set {name} up")));
    }
    host_addresses(port, interface, problems);
}

/// With addresses there, the kernel answers beside us: every ping twice, and resets for what is ours.
fn host_addresses(port: &PortConfig, interface: &Interface, problems: &mut Vec<Problem>) {
    let addresses: Vec<_> = interface.addresses.iter().filter(|(address, _)| !is_link_local(*address)).collect();
    if addresses.is_empty() || port.allow_host_addresses {
        return;
    }
    let name = &interface.name;
    let list: Vec<_> = addresses.iter().map(|(address, prefix)| format!("{address}/{prefix}")).collect();
    let steps: Vec<_> = list.iter().map(|address| format!("ip addr del {address} dev {name}")).collect();
    let what = format!(
        "port \"{}\": interface {name} carries addresses of the host ({}), and the kernel would answer beside droverd",
        port.name,
        list.join(", ")
    );
    let own = |(address, _): &&&(IpAddr, u8)| *address == IpAddr::V4(port.address.address);
    let others = addresses.iter().filter(|address| !own(address)).count();
    let rest = if others > 0 { ", and the others belong there too" } else { "" };
    let remedy = format!(
        "{} (the TAP {} gets {} from droverd{rest}; or set allow_host_addresses = true)",
        steps.join(" && "),
        port.host_tap,
        port.address
    );
    problems.push(Problem::new(what, remedy));
}

/// Every IPv6 interface that is up has such a one; it is no address that somebody gave it.
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn name_is_free(port: &PortConfig, key: &str, name: &str, machine: &Machine, problems: &mut Vec<Problem>) {
    if machine.interface(name).is_some() {
        let what =
            format!("port \"{}\": {key} = \"{name}\" is to be made, but there is an interface {name}", port.name);
        problems.push(Problem::new(what, format!("choose another name, or remove that one: ip link del {name}")));
    }
}

/// The TAP gets the port's address; another interface with it would take its place.
fn address_is_free(port: &PortConfig, machine: &Machine, problems: &mut Vec<Problem>) {
    let own: Ipv4Addr = port.address.address;
    let device = match &port.device {
        Device::AfPacket(name) => Some(name),
        _ => None,
    };
    let others = machine.interfaces.iter().filter(|interface| Some(&interface.name) != device);
    for interface in others {
        for (address, prefix) in interface.addresses.iter().filter(|(address, _)| *address == IpAddr::V4(own)) {
            let what = format!("port \"{}\": its address {own} is on interface {} already", port.name, interface.name);
            let remedy =
                format!("ip addr del {address}/{prefix} dev {} (the TAP {} gets it)", interface.name, port.host_tap);
            problems.push(Problem::new(what, remedy));
        }
    }
}
