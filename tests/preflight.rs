//! Preflight on machines made of a few files.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::Path;

use drover::config::{self, Config};
use drover::preflight::{self, InstanceLock, Machine, Plan, Problem};
use drover::sys::interfaces::Interface;
use tempfile::TempDir;

const NET_ADMIN_AND_RAW: u64 = 1 << 12 | 1 << 13;

/// A machine with four cores, 8 GB of which 4 are free, no huge page set aside, and one interface; all is allowed.
struct Bench {
    root: TempDir,
    machine: Machine,
}

impl Bench {
    fn new() -> Bench {
        let root = TempDir::new().unwrap();
        let at = |name: &str| root.path().join(name);
        let interfaces = vec![interface("lo", false, &[("127.0.0.1", 8)]), interface("eth1", true, &[])];
        let machine = Machine { sys: at("sys"), proc: at("proc"), dev: at("dev"), interfaces };
        let bench = Bench { root, machine };
        bench.status(0, "0-3", u64::MAX);
        bench.write("proc/self/uid_map", "         0          0 4294967295\n");
        bench.write("proc/meminfo", "MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\nHugepagesize: 2048 kB\n");
        bench.hugepages(2048, 0, 0, 0);
        bench.write("dev/net/tun", "");
        bench
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn link(&self, path: &str, target: &str) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    fn status(&self, uid: u32, cores: &str, capabilities: u64) {
        let text = format!(
            "Name:\tdroverd\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nCapEff:\t{capabilities:016x}\nCpus_allowed_list:\t{cores}\n"
        );
        self.write("proc/self/status", &text);
    }

    fn hugepages(&self, size_kb: u64, total: u64, free: u64, reserved: u64) {
        let directory = format!("sys/kernel/mm/hugepages/hugepages-{size_kb}kB");
        self.write(&format!("{directory}/nr_hugepages"), &format!("{total}\n"));
        self.write(&format!("{directory}/free_hugepages"), &format!("{free}\n"));
        self.write(&format!("{directory}/resv_hugepages"), &format!("{reserved}\n"));
    }

    /// A NIC at 0000:3b:00.0.
    fn nic(&self, driver: Option<&str>, group: Option<&str>) {
        let device = "sys/bus/pci/devices/0000:3b:00.0";
        self.write(&format!("{device}/class"), "0x020000\n");
        if let Some(driver) = driver {
            self.link(&format!("{device}/driver"), &format!("../../../../bus/pci/drivers/{driver}"));
        }
        if let Some(group) = group {
            self.link(&format!("{device}/iommu_group"), &format!("../../../../kernel/iommu_groups/{group}"));
        }
    }

    /// The text with a control socket in this bench's own directory.
    fn config(&self, text: &str) -> Config {
        let socket = self.root.path().join("run/drover/drover.sock");
        let text = format!("{text}\n[control]\nsocket = {socket:?}\n");
        config::parse(&text, "x.toml").unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn plan(&self, text: &str) -> Plan {
        preflight::check(&self.config(text), &self.machine).unwrap_or_else(|problems| panic!("{problems:#?}"))
    }

    fn problems(&self, text: &str) -> Vec<Problem> {
        preflight::check(&self.config(text), &self.machine).expect_err("no problem was found")
    }

    /// The only problem: what it is, and its remedy.
    fn problem(&self, text: &str) -> (String, String) {
        let mut problems = self.problems(text);
        assert_eq!(problems.len(), 1, "{problems:#?}");
        let Problem { what, remedy } = problems.remove(0);
        assert_eq!(remedy.lines().count(), 1);
        (what, remedy)
    }

    /// The same with this bench's directory as `ROOT`.
    fn problem_by_root(&self, text: &str) -> (String, String) {
        let root = self.root.path().to_str().unwrap();
        let (what, remedy) = self.problem(text);
        (what.replace(root, "ROOT"), remedy.replace(root, "ROOT"))
    }
}

fn interface(name: &str, ethernet: bool, addresses: &[(&str, u8)]) -> Interface {
    let addresses = addresses.iter().map(|(address, prefix)| (address.parse::<IpAddr>().unwrap(), *prefix)).collect();
    Interface { name: name.into(), up: true, ethernet, addresses }
}

fn pair(what: &str, remedy: &str) -> (String, String) {
    (what.into(), remedy.into())
}

fn tap(before: &str) -> String {
    format!("hugepages = false\n{before}\n[[port]]\ntap = \"dtap0\"\naddress = \"10.9.0.10/24\"\n")
}

fn eth1(more: &str) -> String {
    format!("hugepages = false\n[[port]]\naf_packet = \"eth1\"\naddress = \"10.9.0.10/24\"\n{more}\n")
}

const NIC: &str = "hugepages = false\n[[port]]\npci = \"3b:00.0\"\naddress = \"10.9.0.10/24\"\n";

#[test]
fn cores_are_picked_from_those_that_the_process_has() {
    let bench = Bench::new();
    let plan = |management_core, worker_cores: &[usize]| Plan { management_core, worker_cores: worker_cores.to_vec() };
    assert_eq!(bench.plan(&tap("")), plan(0, &[1]));
    assert_eq!(bench.plan(&tap("[cores]\nworkers = 3")), plan(0, &[1, 2, 3]));
    assert_eq!(bench.plan(&tap("[cores]\nmanagement = 2\nworkers = 3")), plan(2, &[0, 1, 3]));
    assert_eq!(bench.plan(&tap("[cores]\nworkers = [3, 0]")), plan(1, &[3, 0]));
    bench.status(0, "5,7-8", u64::MAX);
    assert_eq!(bench.plan(&tap("[cores]\nworkers = 2")), plan(5, &[7, 8]));
    bench.status(0, "6", u64::MAX);
    assert_eq!(bench.plan(&tap("[cores]\nworkers = 1")), plan(6, &[6]));
    assert_eq!(bench.plan(&tap("[cores]\nworkers = [6]")), plan(6, &[6]));
}

#[test]
fn more_workers_than_cores_are_refused() {
    let bench = Bench::new();
    assert_eq!(
        bench.problem(&tap("[cores]\nworkers = 4")),
        pair(
            "4 workers, but this process has 4 cores (cores 0, 1, 2, 3), and management takes one",
            "set workers = 3 under [cores], or let management share a core: management = 0, workers = [0, 1, 2, 3]"
        )
    );
    assert_eq!(bench.problem(&tap("[cores]\nworkers = 5")).1, "set workers = 3 under [cores]");
    assert_eq!(bench.problem(&tap("idle = \"poll\"\n[cores]\nworkers = 4")).1, "set workers = 3 under [cores]");
    assert_eq!(
        bench.problem(&tap("[cores]\nworkers = [2, 0, 1, 3]")),
        pair(
            "the workers take all 4 cores, and none is left for management",
            "take one core out of workers under [cores], or let management share one: management = 0, workers = [2, 0, \
             1, 3]"
        )
    );
    assert_eq!(
        bench.problem(&tap("[cores]\nmanagement = 9\nworkers = [1]")).0,
        "cores.management: core 9 is not one that this process may run on: 0, 1, 2, 3"
    );
    assert_eq!(
        bench.problem(&tap("[cores]\nworkers = [1, 4]")).0,
        "cores.workers: core 4 is not one that this process may run on: 0, 1, 2, 3"
    );
    bench.status(0, "0", u64::MAX);
    assert_eq!(
        bench.problem(&tap("[cores]\nworkers = 2")),
        pair(
            "2 workers, but this process has one core (cores 0), and management takes one",
            "set workers = 1 under [cores]"
        )
    );
}

#[test]
fn management_shares_a_core_where_it_is_asked_to() {
    let bench = Bench::new();
    bench.status(0, "0-1", u64::MAX);
    let plan = bench.plan(&tap("[cores]\nmanagement = 0\nworkers = [0, 1]"));
    assert_eq!(plan, Plan { management_core: 0, worker_cores: vec![0, 1] });
    let (_, remedy) = bench.problem(&tap("[cores]\nworkers = 2"));
    assert!(remedy.ends_with("management = 0, workers = [0, 1]"), "{remedy}");
}

#[test]
fn workers_on_another_node_than_their_port_are_told() {
    let bench = Bench::new();
    let config = bench.config(&tap("[cores]\nmanagement = 0\nworkers = [1, 2, 3]"));
    let plan = preflight::check(&config, &bench.machine).unwrap();
    let told = |node| preflight::distant_workers(&bench.machine, &plan, &config, &[node]);
    assert!(told(Some(1)).is_empty(), "this kernel knows no nodes");
    bench.write("sys/devices/system/node/online", "0-1\n");
    bench.write("sys/devices/system/node/node0/cpulist", "0-1\n");
    bench.write("sys/devices/system/node/node1/cpulist", "2-3\n");
    assert!(told(None).is_empty());
    assert_eq!(
        told(Some(1)),
        [
            "port dtap0 is on NUMA node 1, and the workers on these cores are not: 1; each of their packets crosses over. \
          Cores of node 1: 2-3"
        ]
    );
    assert!(told(Some(0))[0].contains("are not: 2, 3;"), "{:?}", told(Some(0)));
}

#[test]
fn memory_that_is_not_there_is_refused_with_the_arithmetic() {
    let bench = Bench::new();
    let (what, remedy) = bench.problem(&tap("flows.per_worker = 100_000_000\nmemory_mb = 4000\n"));
    assert_eq!(
        what,
        "6036 MB are needed: memory_mb = 4000 and 1 × 2036 MB for the connections (100000000 per worker at about 21.3 \
         bytes), but only 4096 MB are free"
    );
    assert_eq!(remedy, "lower memory_mb, or use fewer workers");
    // What the workers need is counted whether or not there are cores for them.
    let problems = bench.problems(&tap("flows.per_worker = 50_000_000\ncores.workers = [1, 2, 3, 8]\n"));
    assert!(problems[1].what.starts_with("4584 MB are needed: memory_mb = 512 and 4 × 1018 MB"), "{problems:#?}");
    let (what, remedy) = bench.problem(&tap("flows.per_worker = 1024\nflows.wide_per_worker = 1_000_000_000\n"));
    assert!(what.contains("(1024 per worker at about 21.3 bytes, and 1000000000 wide ones at about 42.7)"), "{what}");
    assert_eq!(remedy, "lower wide_per_worker under [flows], or use fewer workers");
    let (what, remedy) = bench.problem(&tap("flows.per_worker = 1_000_000_000\n"));
    assert!(what.ends_with("but this machine has 8192 MB in all"), "{what}");
    assert_eq!(remedy, "lower per_worker under [flows], or use fewer workers");
}

#[test]
fn hugepages_are_counted() {
    let bench = Bench::new();
    let text = tap("").replace("hugepages = false", "hugepages = true");
    // 512 MB and a table of 22 MB: 267 pages of 2 MB.
    let (what, remedy) = bench.problem(&text);
    assert!(what.starts_with("hugepages = true, but none is free; 534 MB are needed: "), "{what}");
    assert_eq!(remedy, "sysctl vm.nr_hugepages=267 (or set hugepages = false)");
    // Another program has 50 of 300, and 10 more are promised to it.
    bench.hugepages(2048, 300, 250, 10);
    let (what, remedy) = bench.problem(&text);
    assert!(what.starts_with("hugepages = true, but only 480 MB are free; "), "{what}");
    assert_eq!(remedy, "sysctl vm.nr_hugepages=327 (or set hugepages = false)");
    bench.hugepages(2048, 327, 277, 10);
    bench.plan(&text);
    // One page of 1 GB does as well.
    bench.hugepages(2048, 0, 0, 0);
    bench.hugepages(1_048_576, 1, 1, 0);
    bench.plan(&text);
    fs::remove_dir_all(bench.root.path().join("sys/kernel")).unwrap();
    assert_eq!(bench.problem(&text).0, "hugepages = true, but this kernel has no huge pages");
}

#[test]
fn a_pci_device_must_be_there_and_let_go_by_the_kernel() {
    let bench = Bench::new();
    assert_eq!(
        bench.problem(NIC),
        pair(
            "port \"0000:3b:00.0\": no PCI device 0000:3b:00.0",
            "choose one from `lspci -D | grep -i -e ethernet -e network`"
        )
    );
    bench.nic(Some("ixgbe"), Some("17"));
    bench.write("sys/bus/pci/devices/0000:3b:00.0/net/eth3/mtu", "1500\n");
    assert_eq!(
        bench.problem(NIC),
        pair(
            "port \"0000:3b:00.0\": PCI device 0000:3b:00.0 is held by the kernel's ixgbe",
            "modprobe vfio-pci && ip link set eth3 down && dpdk-devbind.py -b vfio-pci 0000:3b:00.0"
        )
    );
}

#[test]
fn the_interface_of_a_virtio_device_is_found_too() {
    let bench = Bench::new();
    bench.nic(Some("virtio-pci"), Some("17"));
    bench.write("sys/bus/pci/devices/0000:3b:00.0/virtio0/net/eth3/mtu", "1500\n");
    let remedy = bench.problem(NIC).1;
    assert_eq!(remedy, "modprobe vfio-pci && ip link set eth3 down && dpdk-devbind.py -b vfio-pci 0000:3b:00.0");
}

#[test]
fn a_pci_device_without_driver_and_iommu_gets_the_whole_line() {
    let bench = Bench::new();
    bench.nic(None, None);
    let safer = "(the machine shows no IOMMU: safer is intel_iommu=on or amd_iommu=on for the kernel)";
    let (what, remedy) = bench.problem(NIC);
    assert_eq!(what, "port \"0000:3b:00.0\": PCI device 0000:3b:00.0 has no driver");
    let bind = "modprobe uio_pci_generic && dpdk-devbind.py -b uio_pci_generic 0000:3b:00.0";
    assert_eq!(remedy, format!("{bind} {safer}"));
    bench.write("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "N\n");
    let bind = "modprobe vfio-pci && echo 1 > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode && \
                dpdk-devbind.py -b vfio-pci 0000:3b:00.0";
    assert_eq!(bench.problem(NIC).1, format!("{bind} {safer}"));
}

#[test]
fn a_pci_device_of_another_kind_is_refused() {
    let bench = Bench::new();
    bench.write("sys/bus/pci/devices/0000:3b:00.0/class", "0x010802\n");
    assert_eq!(
        bench.problem(NIC).0,
        "port \"0000:3b:00.0\": PCI device 0000:3b:00.0 is no network device (class 0x010802)"
    );
}

#[test]
fn vfio_needs_its_group() {
    let bench = Bench::new();
    bench.nic(Some("vfio-pci"), None);
    assert!(bench.problem(NIC).0.ends_with("is in no IOMMU group, and vfio-pci needs one"));
    let bench = Bench::new();
    bench.nic(Some("vfio-pci"), Some("17"));
    assert_eq!(
        bench.problem_by_root(NIC),
        pair(
            "port \"0000:3b:00.0\": ROOT/dev/vfio/17 is missing",
            "modprobe vfio-pci, and in a container pass /dev/vfio on"
        )
    );
    bench.write("dev/vfio/noiommu-17", "");
    bench.plan(NIC);
}

#[test]
fn vfio_needs_the_driver_of_the_iommu() {
    let bench = Bench::new();
    bench.nic(Some("vfio-pci"), Some("17"));
    bench.write("dev/vfio/17", "");
    assert_eq!(
        bench.problem(NIC),
        pair(
            "port \"0000:3b:00.0\": vfio-pci has no driver for the IOMMU (vfio_iommu_type1)",
            "modprobe vfio_iommu_type1"
        )
    );
    bench.write("sys/module/vfio_iommu_type1/parameters/dma_entry_limit", "65535\n");
    bench.plan(NIC);
}

#[test]
fn a_whole_iommu_group_is_given_away() {
    let bench = Bench::new();
    bench.nic(Some("vfio-pci"), Some("17"));
    bench.write("dev/vfio/17", "");
    bench.write("sys/module/vfio_iommu_type1/parameters/dma_entry_limit", "65535\n");
    let devices = "sys/kernel/iommu_groups/17/devices";
    for (device, driver) in [("0000:3a:00.0", "pcieport"), ("0000:3b:00.0", "vfio-pci")] {
        bench.link(&format!("{devices}/{device}/driver"), &format!("../../../../../bus/pci/drivers/{driver}"));
    }
    bench.write(&format!("{devices}/0000:3b:00.2/class"), "0x088000\n");
    bench.plan(NIC);
    bench.link(&format!("{devices}/0000:3b:00.1/driver"), "../../../../../bus/pci/drivers/ixgbe");
    assert_eq!(
        bench.problem(NIC),
        pair(
            "port \"0000:3b:00.0\": 0000:3b:00.0 shares its IOMMU group with 0000:3b:00.1, which is held by the \
             kernel's ixgbe",
            "dpdk-devbind.py -b vfio-pci 0000:3b:00.1 (or another slot for the card)"
        )
    );
}

#[test]
fn drivers_that_dpdk_works_beside_need_no_binding_but_root() {
    for driver in ["mlx5_core", "mlx4_core", "uio_pci_generic", "igb_uio"] {
        let bench = Bench::new();
        bench.nic(Some(driver), Some("17"));
        bench.plan(NIC);
        // Root in a user namespace only.
        bench.write("proc/self/uid_map", "0 1000 1\n");
        assert!(bench.problem(NIC).0.ends_with(&format!("with the driver {driver} needs root")));
    }
}

#[test]
fn an_af_packet_interface_must_be_there_up_and_ethernet() {
    let mut bench = Bench::new();
    bench.plan(&eth1(""));
    bench.machine.interfaces[1].up = false;
    assert_eq!(bench.problem(&eth1("")), pair("port \"eth1\": interface eth1 is down", "ip link set eth1 up"));
    bench.machine.interfaces[1].ethernet = false;
    assert_eq!(bench.problem(&eth1("")).0, "port \"eth1\": eth1 is no Ethernet interface");
    bench.machine.interfaces.pop();
    assert_eq!(bench.problem(&eth1("")), pair("port \"eth1\": no interface eth1 here", "choose from lo"));
}

#[test]
fn an_af_packet_interface_with_the_hosts_addresses_is_refused() {
    let mut bench = Bench::new();
    // The link-local address is everybody's, and no reason.
    bench.machine.interfaces[1] = interface("eth1", true, &[("fe80::1", 64)]);
    bench.plan(&eth1(""));
    bench.machine.interfaces[1] = interface("eth1", true, &[("10.9.0.10", 24), ("fe80::1", 64)]);
    assert_eq!(
        bench.problem(&eth1("")),
        pair(
            "port \"eth1\": interface eth1 carries addresses of the host (10.9.0.10/24), and the kernel would answer beside \
             droverd",
            "ip addr del 10.9.0.10/24 dev eth1 (the TAP drover0 gets 10.9.0.10/24 from droverd; or set \
             allow_host_addresses = true)"
        )
    );
    bench.machine.interfaces[1] = interface("eth1", true, &[("10.9.0.99", 24), ("2001:db8::1", 64)]);
    assert_eq!(
        bench.problem(&eth1("")).1,
        "ip addr del 10.9.0.99/24 dev eth1 && ip addr del 2001:db8::1/64 dev eth1 (the TAP drover0 gets 10.9.0.10/24 from \
         droverd, and the others belong there too; or set allow_host_addresses = true)"
    );
    bench.plan(&eth1("allow_host_addresses = true"));
}

#[test]
fn names_and_addresses_that_are_to_be_made_must_be_free() {
    let mut bench = Bench::new();
    bench.machine.interfaces.push(interface("dtap0", true, &[]));
    bench.machine.interfaces.push(interface("drover0", true, &[("10.9.0.10", 24)]));
    let found: Vec<_> = bench.problems(&tap("")).into_iter().map(|problem| (problem.what, problem.remedy)).collect();
    assert_eq!(
        found,
        [
            pair(
                "port \"dtap0\": tap = \"dtap0\" is to be made, but there is an interface dtap0",
                "choose another name, or remove that one: ip link del dtap0"
            ),
            pair(
                "port \"dtap0\": host_tap = \"drover0\" is to be made, but there is an interface drover0",
                "choose another name, or remove that one: ip link del drover0"
            ),
            pair(
                "port \"dtap0\": its address 10.9.0.10 is on interface drover0 already",
                "ip addr del 10.9.0.10/24 dev drover0 (the TAP drover0 gets it)"
            ),
        ]
    );
}

#[test]
fn permissions_that_are_missing_are_all_named() {
    let bench = Bench::new();
    bench.status(1000, "0-3", 0);
    let found: Vec<_> = bench.problems(&eth1("")).into_iter().map(|problem| problem.what).collect();
    assert_eq!(
        found,
        [
            "no permission to make network interfaces (CAP_NET_ADMIN)",
            "no permission for packet sockets (CAP_NET_RAW), which af_packet ports need"
        ]
    );
    // A TAP port needs no packet socket; and an ordinary user with the capabilities is welcome.
    bench.status(1000, "0-3", 1 << 12);
    bench.plan(&tap(""));
    bench.status(1000, "0-3", NET_ADMIN_AND_RAW);
    bench.plan(&eth1(""));
    fs::remove_file(bench.root.path().join("dev/net/tun")).unwrap();
    assert_eq!(
        bench.problem_by_root(&tap("")),
        pair(
            "ROOT/dev/net/tun cannot be opened, and every port has a TAP: No such file or directory (os error 2)",
            "modprobe tun, and in a container pass /dev/net/tun on"
        )
    );
}

#[test]
fn the_control_socket_must_have_a_place() {
    let bench = Bench::new();
    bench.write("run/drover/drover.sock", "not a socket");
    assert_eq!(
        bench.problem_by_root(&tap("")).0,
        "control.socket: ROOT/run/drover/drover.sock is there and is no socket"
    );
    let bench = Bench::new();
    bench.write("run/drover", "a file");
    assert_eq!(bench.problem_by_root(&tap("")).0, "control.socket: ROOT/run/drover is no directory");
    // A stale socket is no reason.
    let bench = Bench::new();
    fs::create_dir_all(bench.root.path().join("run/drover")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(bench.root.path().join("run/drover/drover.sock")).unwrap());
    bench.plan(&tap(""));
}

#[test]
fn all_problems_are_told_at_once() {
    let bench = Bench::new();
    bench.status(1000, "0-1", 0);
    let text = "[cores]\nworkers = 2\n[[port]]\npci = \"3b:00.0\"\naddress = \"10.9.0.10/24\"\n[[port]]\naf_packet = \"eth7\"\naddress = \"10.8.0.10/24\"\n";
    let problems = bench.problems(text);
    let found: Vec<_> = problems.iter().map(|problem| problem.what.as_str()).collect();
    assert_eq!(found.len(), 6, "{found:#?}");
    assert!(problems[0].to_string().ends_with("\n  remedy: set workers = 1 under [cores]"), "{}", problems[0]);
}

#[test]
fn a_port_with_too_few_queues_is_refused() {
    assert_eq!(preflight::check_queues(4, "lan", 4), Ok(()));
    let problem = preflight::check_queues(4, "lan", 2).unwrap_err();
    assert_eq!(problem.what, "4 workers, but port \"lan\" has 2 queues, and each worker needs its own");
    assert_eq!(problem.remedy, "set workers = 2 under [cores]");
}

#[test]
fn a_second_instance_is_refused_with_the_firsts_pid() {
    let bench = Bench::new();
    let config = bench.config(&tap(""));
    let socket = &config.control.socket;
    let (_, lock) = preflight::start(&config, &bench.machine).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let problems = preflight::start(&config, &bench.machine).unwrap_err();
    let expected =
        format!("another droverd (pid {}) is running with the control socket {}", std::process::id(), socket.display());
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].what, expected);
    assert_eq!(InstanceLock::take(socket).unwrap_err(), problems[0]);
    drop(lock);
    assert!(!lock_file(socket).exists());
    // What a killed one left is no reason.
    fs::write(lock_file(socket), "999999\n").unwrap();
    InstanceLock::take(socket).unwrap();
}

fn lock_file(socket: &Path) -> std::path::PathBuf {
    socket.with_extension("sock.lock")
}

#[test]
fn a_lock_that_leads_elsewhere_is_not_followed() {
    let bench = Bench::new();
    let victim = bench.root.path().join("victim");
    bench.write("victim", "precious");
    bench.link("run/drover/drover.sock.lock", victim.to_str().unwrap());
    let problem = InstanceLock::take(&bench.config(&tap("")).control.socket).unwrap_err();
    assert!(problem.what.contains("drover.sock.lock cannot be made"), "{}", problem.what);
    assert_eq!(fs::read_to_string(victim).unwrap(), "precious");
}

#[test]
fn this_machine_can_be_looked_at() {
    let machine = Machine::this().unwrap();
    assert!(machine.interface("lo").is_some_and(|loopback| !loopback.ethernet));
}
