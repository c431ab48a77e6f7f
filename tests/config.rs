//! Bad files and what is said about them, to the letter; good files and what they mean.

use std::path::Path;
use std::sync::Arc;

use drover::config::{
    self, Config, CoresConfig, Device, FlowsConfig, Idle, Limits, MacMatch, OnMiss, OnRemoved, Ports, Scheduler,
    ServiceConfig, Timeouts, WorkerCores,
};
use drover::flow::{FlowTable, WideTable};
use drover::packet::Mac;
use proptest::prelude::*;

/// A port that has nothing wrong, to put other things behind.
const PORT: &str = "[[port]]\ntap = \"dtap0\"\naddress = \"10.9.0.10/24\"\n";

fn good(text: &str) -> Config {
    config::parse(text, "x.toml").unwrap_or_else(|errors| panic!("{text}\n{errors}"))
}

fn messages(text: &str) -> String {
    config::parse(text, "x.toml").expect_err(text).to_string()
}

/// Each text, and all that is said about it.
fn expect(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        assert_eq!(messages(text), *expected, "\n{text}");
    }
}

/// The same for what follows a sound port, whose three lines are not counted.
fn expect_after_port(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        assert_eq!(messages(&format!("{PORT}{text}")), *expected, "\n{text}");
    }
}

#[test]
fn what_is_no_toml_is_named_with_its_place() {
    expect(&[
        ("idle = ", "x.toml:1:8: not TOML: string values must be quoted, expected literal string"),
        ("idle = \"wait\"\nidle = \"poll\"\n", "x.toml:2:1: not TOML: duplicate key"),
        ("[port\nb = 1\n", "x.toml:1:6: not TOML: unclosed table, expected `]`"),
    ]);
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_known_one() {
    expect_after_port(&[
        ("vlam = 3\n", "x.toml:4:1: port[0].vlam: no such key: did you mean \"vlan\"?"),
        ("[flow]\n", "x.toml:4:2: flow: no such key: did you mean \"flows\"?"),
        (
            "[cores]\nlcores = 3\nxyz.zzy = 1\n",
            "x.toml:5:1: cores.lcores: no such key: allowed here are management, workers\n\
             x.toml:6:1: cores.xyz: no such key: allowed here are management, workers",
        ),
        (
            "[[service]]\nudp = \"10.9.0.100:53\"\n  [[service.real]]\n  address = \"10.9.0.11\"\n  \"wei ght\" = 3\n",
            "x.toml:8:3: service[0].real[0].\"wei ght\": no such key: did you mean \"weight\"?",
        ),
    ]);
}

#[test]
fn wrong_types_are_named_as_such() {
    expect_after_port(&[
        ("mtu = \"1500\"\n", "x.toml:4:7: port[0].mtu: \"1500\" is not allowed: a whole number"),
        ("mtu = 1e3\n", "x.toml:4:7: port[0].mtu: 1e3 is not allowed: a whole number"),
        (
            "mtu = 0xffff_ffff_ffff_ffff_ff\n",
            "x.toml:4:7: port[0].mtu: 0xffffffffffffffffff is not allowed: a whole number",
        ),
        ("name = 7\n", "x.toml:4:8: port[0].name: 7 is not allowed: a text in quotes"),
        ("allow_host_addresses = 1\n", "x.toml:4:24: port[0].allow_host_addresses: 1 is not allowed: true or false"),
        (
            "[cores]\nworkers = \"all\"\n",
            "x.toml:5:11: cores.workers: \"all\" is not allowed: a number of cores, or a list of cores such as [1, 2]",
        ),
        (
            "[service]\ntcp = \"10.9.0.100:80\"\n",
            "x.toml:4:1: service: a table is not allowed: one or more tables, each beginning with [[service]]",
        ),
        (
            "[[service]]\ntcp = \"10.9.0.100:80\"\nreal = [1]\n",
            "x.toml:6:9: service[0].real[0]: 1 is not allowed: one or more tables, each beginning with [[service.real]]",
        ),
    ]);
    expect(&[
        (
            "flows = 3\n[[port]]\ntap = \"t\"\naddress = \"10.0.0.1/8\"\n",
            "x.toml:1:9: flows: 3 is not allowed: a table, [flows]",
        ),
        (
            "hugepages = \"yes\"\nidle = \"sleep\"\nmemory_mb = 0\n[[port]]\ntap = \"t\"\naddress = \"10.0.0.1/8\"\n",
            "x.toml:1:13: hugepages: \"yes\" is not allowed: true or false\n\
             x.toml:2:8: idle: \"sleep\" is not allowed: \"wait\" or \"poll\"\n\
             x.toml:3:13: memory_mb: 0 is not allowed: 64 to 1048576",
        ),
    ]);
}

#[test]
fn who_sleeps_may_share_its_core_with_management() {
    let with = |idle| format!("idle = \"{idle}\"\ncores.management = 1\ncores.workers = [2, 1]\n{PORT}");
    assert_eq!(
        messages(&with("poll")),
        "x.toml:3:21: cores.workers[1]: 1 is not allowed: a core other than cores.management's, or idle = \"wait\" to \
         share it"
    );
    let cores = CoresConfig { management: Some(1), workers: WorkerCores::These(vec![2, 1]) };
    assert_eq!(good(&with("wait")).cores, cores);
}

#[test]
fn cores_flows_and_socket_have_their_limits() {
    expect_after_port(&[
        (
            "[cores]\nmanagement = 1\nworkers = [2, 1, 2, 5000]\n",
            "x.toml:6:18: cores.workers[2]: 2 is not allowed twice: line 6 has it already\n\
             x.toml:6:21: cores.workers[3]: 5000 is not allowed: 0 to 1023",
        ),
        ("[cores]\nworkers = []\n", "x.toml:5:11: cores.workers: 0 cores are not allowed: 1 to 127"),
        ("[cores]\nworkers = 0\n", "x.toml:5:11: cores.workers: 0 is not allowed: 1 to 127"),
        ("[cores]\nmanagement = -1\n", "x.toml:5:14: cores.management: -1 is not allowed: 0 to 1023"),
        (
            "[flows]\nper_worker = 1_000\n",
            "x.toml:5:14: flows.per_worker: 1000 is not allowed: 1024 to 1073741824; a connection takes about 21.3 bytes \
             (slots of 16 bytes, three quarters of them used): 1000000 connections take 21 MB a worker",
        ),
        (
            "[control]\nsocket = \"drover.sock\"\n",
            "x.toml:5:10: control.socket: \"drover.sock\" is not allowed: a path from / on, of at most 107 bytes",
        ),
    ]);
    let long = format!("/{}", "x".repeat(107));
    let expected =
        format!("\"/{}…\" (108 bytes) is not allowed: a path from / on, of at most 107 bytes", "x".repeat(79));
    assert!(messages(&format!("{PORT}[control]\nsocket = \"{long}\"\n")).ends_with(&expected));
    good(&format!("{PORT}[control]\nsocket = \"{}\"\n", &long[..107]));
}

#[test]
fn ports_are_checked_each_by_itself() {
    expect(&[
        ("", "x.toml:1:1: port: missing: at least one [[port]]"),
        (
            "[[port]]\n",
            "x.toml:1:1: port[0]: no device: exactly one of pci, af_packet, tap and vdev\n\
             x.toml:1:1: port[0].address: missing: the port's own address with its prefix length, such as \"10.9.0.10/24\"",
        ),
        (
            "[[port]]\npci = \"3b:00.8\"\ntap = \"t\"\naddress = \"10.0.0.0/8\"\n",
            "x.toml:2:7: port[0].pci: \"3b:00.8\" is not allowed: a PCI address such as \"0000:3b:00.0\", as lspci -D prints it\n\
             x.toml:3:7: port[0].tap: not allowed beside pci: exactly one of pci, af_packet, tap and vdev\n\
             x.toml:4:11: port[0].address: 10.0.0.0/8 is not allowed: an address that one host can have, not the network's own address",
        ),
        (
            "[[port]]\nvdev = \"eth0\"\naddress = \"224.0.0.1/24\"\n",
            "x.toml:2:8: port[0].vdev: \"eth0\" is not allowed: a network device of DPDK with its arguments, such as \
             \"net_ring0\" or \"net_pcap0,iface=eth1\"\n\
             x.toml:3:11: port[0].address: 224.0.0.1/24 is not allowed: an address that one host can have, not a multicast address",
        ),
        (
            "[[port]]\naf_packet = \"sixteen-letters-\"\naddress = \"10.9.0.10/32\"\nname = \"a b\"\n",
            "x.toml:2:13: port[0].af_packet: \"sixteen-letters-\" is not allowed: the name of an interface, 1 to 15 \
             letters, digits and . _ - @\n\
             x.toml:3:11: port[0].address: 10.9.0.10/32 is not allowed: a network of more than one host: a prefix length of 1 to 31",
        ),
    ]);
    expect_after_port(&[
        (
            "gateway = \"10.8.0.1\"\n",
            "x.toml:4:11: port[0].gateway: 10.8.0.1 is not allowed: an address in the port's network 10.9.0.0/24",
        ),
        (
            "gateway = \"10.9.0.10\"\n",
            "x.toml:4:11: port[0].gateway: 10.9.0.10 is not allowed: an address other than the port's own",
        ),
        (
            "gateway = \"10.9.0.255\"\n",
            "x.toml:4:11: port[0].gateway: 10.9.0.255 is not allowed: an address that one host can have, not the network's broadcast address",
        ),
        ("vlan = 4095\n", "x.toml:4:8: port[0].vlan: 4095 is not allowed: 1 to 4094"),
        ("mtu = 575\n", "x.toml:4:7: port[0].mtu: 575 is not allowed: 576 to 9000"),
        (
            "mac = \"01:00:5e:00:00:01\"\n",
            "x.toml:4:7: port[0].mac: 01:00:5e:00:00:01 is not allowed: the address of one station, not a multicast address or zero",
        ),
        (
            "mac = \"2:0\"\n",
            "x.toml:4:7: port[0].mac: \"2:0\" is not allowed: a MAC address such as \"02:00:00:00:00:01\"",
        ),
        ("name = \"a b\"\n", "x.toml:4:8: port[0].name: \"a b\" is not allowed: 1 to 32 letters without spaces"),
        (
            "host_tap = \"a/b\"\n",
            "x.toml:4:12: port[0].host_tap: \"a/b\" is not allowed: the name of an interface, 1 to 15 letters, digits and . _ - @",
        ),
        (
            "host_tap = \"dtap0\"\n",
            "x.toml:4:12: port[0].host_tap: \"dtap0\" is not allowed twice: line 2 has it already",
        ),
    ]);
}

#[test]
fn ports_do_not_share_what_is_one_ports_own() {
    expect_after_port(&[
        (
            "[[port]]\ntap = \"dtap0\"\naddress = \"10.9.0.11/16\"\n",
            "x.toml:5:7: port[1].tap: \"dtap0\" is not allowed twice: line 2 has it already\n\
             x.toml:6:11: port[1].address: 10.9.0.11/16 is not allowed: a network of its own; port \"dtap0\" on line 1 is in 10.9.0.0/24 already",
        ),
        (
            "name = \"lan\"\nmac = \"02:00:00:00:00:01\"\n[[port]]\nname = \"lan\"\npci = \"3b:00.0\"\naddress = \"10.8.0.1/24\"\n\
             mac = \"02:00:00:00:00:01\"\nhost_tap = \"drover0\"\n\
             [[port]]\npci = \"0000:3B:00.0\"\naddress = \"10.7.0.1/24\"\n",
            "x.toml:7:8: port[1].name: \"lan\" is not allowed twice: line 4 has it already\n\
             x.toml:10:7: port[1].mac: 02:00:00:00:00:01 is not allowed twice: line 5 has it already\n\
             x.toml:11:12: port[1].host_tap: \"drover0\" is not allowed twice: line 1 has it already\n\
             x.toml:13:7: port[2].pci: \"0000:3b:00.0\" is not allowed twice: line 8 has it already",
        ),
    ]);
}

#[test]
fn services_are_checked() {
    expect_after_port(&[
        (
            "[[service]]\nscheduler = \"wlc\"\n",
            "x.toml:4:1: service[0]: no address: tcp or udp, a virtual address with its port, such as \"10.9.0.100:80\", or mark",
        ),
        (
            "[[service]]\ntcp = \"10.9.0.100:80\"\nudp = \"10.9.0.100:80\"\n",
            "x.toml:6:7: service[0].udp: not allowed beside tcp: exactly one of them",
        ),
        (
            "[[service]]\ntcp = \"10.9.0.100\"\n",
            "x.toml:5:7: service[0].tcp: \"10.9.0.100\" is not allowed: a virtual address with its port, such as \"10.9.0.100:80\"",
        ),
        (
            "[[service]]\ntcp = \"10.9.0.100:0\"\n",
            "x.toml:5:7: service[0].tcp: 10.9.0.100:0 is not allowed: port 0 is any port, and then a client's connections \
             have to stay together: persistent = 360, or a service by mark",
        ),
        (
            "[[service]]\ntcp = \"10.9.0.10:80\"\n",
            "x.toml:5:7: service[0].tcp: 10.9.0.10:80 is not allowed: an address of its own, and port \"dtap0\" has this one for itself",
        ),
        (
            "gateway = \"10.9.0.1\"\n[[service]]\ntcp = \"10.9.0.1:80\"\n",
            "x.toml:6:7: service[0].tcp: 10.9.0.1:80 is not allowed: an address of its own, and this is the gateway of port \"dtap0\"",
        ),
        (
            "[[service]]\nudp = \"127.0.0.1:53\"\n[[service]]\nudp = \"255.255.255.255:53\"\n[[service]]\nudp = \"10.9.0.255:53\"\n",
            "x.toml:5:7: service[0].udp: 127.0.0.1:53 is not allowed: an address that one host can have, not a loopback address\n\
             x.toml:7:7: service[1].udp: 255.255.255.255:53 is not allowed: an address that one host can have, not the broadcast address\n\
             x.toml:9:7: service[2].udp: 10.9.0.255:53 is not allowed: an address that one host can have, not the network's broadcast address",
        ),
        (
            "[[service]]\ntcp = \"10.9.0.100:80\"\nscheduler = \"wlcc\"\nforward = \"nat\"\n[[service]]\ntcp = \"10.9.0.100:80\"\n",
            "x.toml:6:13: service[0].scheduler: there is no scheduler \"wlcc\": use one of rr, wrr, lc, wlc, lblc, \
             lblcr, dh, sh, sed, nq, fo, ovf, mh, twos, maglev\n\
             x.toml:7:11: service[0].forward: \"nat\" is not allowed: \"dr\"\n\
             x.toml:9:7: service[1].tcp: TCP 10.9.0.100:80 is not allowed twice: line 5 has it already",
        ),
    ]);
}

#[test]
fn services_take_what_lvs_can_say() {
    let config = good(&format!(
        "{PORT}[timeouts]\ntcp = 60\nudp = 5\n\
         [[service]]\nudp = \"10.9.0.100:8000-8099\"\none_packet = true\nscheduler = \"sh\"\nflags = \"sh-port,sh-fallback\"\n\
         [[service]]\ntcp = \"198.18.0.0/28:80\"\non_removed = \"drop\"\non_miss = \"drop\"\n\
         [[service]]\ntcp = \"10.9.0.101:0\"\npersistent = true\nscheduler = \"maglev\"\n\
         [[service.real]]\naddress = \"10.9.0.11:0\"\nupper = 10\nlower = 10\n\
         [[service]]\nmark = 7\npersistent = 120\nnetmask = \"255.255.0.0\"\n\
         [[match]]\nmark = 7\nsource = \"10.0.0.0/8\"\ndestination = \"10.9.0.102\"\nports = \"1-9\"\nprotocol = \"tcp\"\n\
         ingress = \"dtap0\"\nnot_source_mac = \"02:00:00:00:00:01\"\n"
    ));
    let said =
        |service: &Arc<ServiceConfig>| format!("{} {} {}", service.takes, service.scheduler.name(), service.flags());
    assert_eq!(
        config.services.iter().map(said).collect::<Vec<_>>(),
        [
            "UDP 10.9.0.100:8000-8099 sh (sh-fallback,sh-port) ops",
            "TCP 198.18.0.0/28:80 wlc ",
            "TCP 10.9.0.101:0 maglev persistent 360",
            "FWM 7 wlc persistent 120 mask 255.255.0.0",
        ]
    );
    let settings: Vec<_> =
        config.services.iter().map(|service| (service.settings.on_removed, service.settings.on_miss)).collect();
    use OnRemoved::{Drop, Reschedule};
    let expected =
        [(Reschedule, OnMiss::Reset), (Drop, OnMiss::Drop), (Reschedule, OnMiss::Hash), (Reschedule, OnMiss::Reset)];
    assert_eq!(settings, expected);
    let real = &config.services[2].reals[0];
    assert_eq!((real.port, real.upper, real.lower), (0, 10, 10));
    assert_eq!(config.timeouts, Timeouts { tcp: 60, tcp_fin: 120, udp: 5 });
    let rule = &config.matches[0];
    assert_eq!((rule.mark, rule.ports, rule.ingress), (7, Ports { first: 1, last: 9 }, Some(0)));
    assert_eq!(rule.source_mac, Some(MacMatch::IsNot(Mac([2, 0, 0, 0, 0, 1]))));
    assert_eq!((config.limits.services, config.limits.reals), (1024, 8192));
    assert_eq!(good(&format!("max_services = 7\nmax_reals = 9\n{PORT}")).limits, Limits { services: 7, reals: 9 });
}

#[test]
fn what_does_not_go_together_is_refused() {
    let one = |rest: &str| format!("[[service]]\ntcp = \"10.9.0.100:80\"\n{rest}\n");
    let cases = [
        (
            one("flags = \"mh-port\""),
            "6:9: service[0].flags: \"mh-port\" does not belong to wlc, which has no flags: leave it out",
        ),
        (
            one("scheduler = \"sh\"\nflags = \"mh-port\""),
            "7:9: service[0].flags: \"mh-port\" does not belong to sh: its flags are sh-fallback and sh-port",
        ),
        (one("persistent = 0"), "6:14: service[0].persistent: 0 is not allowed: 1 to 2678400"),
        (one("persistent = \"yes\""), "6:14: service[0].persistent: \"yes\" is not allowed: seconds, or true for 360"),
        (
            one("netmask = \"255.255.255.0\""),
            "6:11: service[0].netmask: \"255.255.255.0\" is not allowed: only beside persistent, whose clients it puts together",
        ),
        (
            one("persistent = true\nnetmask = \"255.0.255.0\""),
            "7:11: service[0].netmask: \"255.0.255.0\" is not allowed: a mask such as \"255.255.255.0\": ones, and then zeros",
        ),
        (
            one("expire_quiescent = true"),
            "6:20: service[0].expire_quiescent: true is not allowed: only beside persistent, whose clients otherwise stay \
             with their server",
        ),
        (
            one("one_packet = true"),
            "6:14: service[0].one_packet: true is not allowed: only for udp and mark; a TCP connection is more than one packet",
        ),
        (
            one("on_miss = \"rst\""),
            "6:11: service[0].on_miss: \"rst\" is not allowed: \"hash\" or \"reset\" or \"drop\"",
        ),
        (
            one("on_removed = \"hash\""),
            "6:14: service[0].on_removed: \"hash\" is not allowed: \"reschedule\" or \"reset\" or \"drop\"",
        ),
        (one("mark = 7"), "6:8: service[0].mark: not allowed beside tcp: exactly one of them"),
        ("[[service]]\nmark = 0\n".into(), "5:8: service[0].mark: 0 is not allowed: 1 to 4294967295"),
        (
            "[[service]]\ntcp = \"10.9.0.100:90-80\"\n".into(),
            "5:7: service[0].tcp: \"10.9.0.100:90-80\" is not allowed: ports from the first to a later one, such as \"8000-8099\"; from 1 on",
        ),
        (
            "[[service]]\ntcp = \"198.18.0.1/28:80\"\n".into(),
            "5:7: service[0].tcp: 198.18.0.1/28:80 is not allowed: a network is written with its first address, 198.18.0.0/28",
        ),
        (
            "[[service]]\ntcp = \"198.0.0.0/7:80\"\n".into(),
            "5:7: service[0].tcp: 198.0.0.0/7:80 is not allowed: a network of virtual addresses has a prefix length of 8 to 32",
        ),
        (
            "[[service]]\ntcp = \"10.9.0.0/28:80\"\n".into(),
            "5:7: service[0].tcp: 10.9.0.0/28:80 is not allowed: addresses of their own, and port \"dtap0\" has 10.9.0.10 for itself",
        ),
        (
            one("[[service.real]]\naddress = \"10.9.0.11\"\nlower = 5"),
            "8:9: service[0].real[0].lower: 5 is not allowed: only beside upper, which says where new connections end",
        ),
        (
            one("[[service.real]]\naddress = \"10.9.0.11\"\nweight = 65536"),
            "8:10: service[0].real[0].weight: 65536 is not allowed: 0 to 65535",
        ),
        (
            one("[[service.real]]\naddress = \"10.9.0.11\"\nlower = 5\nupper = 4"),
            "8:9: service[0].real[0].lower: 5 is not allowed: at most upper, 4; new connections begin again below lower",
        ),
        (
            "[[service]]\nmark = 7\n[[service.real]]\naddress = \"10.9.0.11:80\"\n".into(),
            "7:11: service[0].real[0].address: \"10.9.0.11:80\" is not allowed: no port: the service takes several; direct routing leaves packets as they are and cannot map ports",
        ),
        ("[timeouts]\ntcp = 0\n".into(), "5:7: timeouts.tcp: 0 is not allowed: 1 to 2147483"),
        ("[[match]]\nports = \"80\"\n".into(), "4:1: match[0].mark: missing: the mark of a service, such as 7"),
        (
            "[[match]]\nmark = 7\nsource = \"10.0.0.1/8\"\n".into(),
            "6:10: match[0].source: \"10.0.0.1/8\" is not allowed: a network is written with its first address, 10.0.0.0/8",
        ),
        (
            "[[match]]\nmark = 7\ningress = \"wan\"\n".into(),
            "6:11: match[0].ingress: \"wan\" is not allowed: the name of a port, \"dtap0\"",
        ),
        (
            "[[match]]\nmark = 7\ndestination = \"10.9.0.10\"\n".into(),
            "6:15: match[0].destination: 10.9.0.10 is not allowed: an address of its own, and port \"dtap0\" has this one for itself",
        ),
        (
            "[[match]]\nmark = 7\nsource_mac = \"02:00:00:00:00:01\"\nnot_source_mac = \"02:00:00:00:00:02\"\n".into(),
            "7:18: match[0].not_source_mac: not allowed beside source_mac: at most one of them",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(messages(&format!("{PORT}{text}")), format!("x.toml:{expected}"), "\n{text}");
    }
    let few = format!(
        "max_reals = 1\n{PORT}{}[[service.real]]\naddress = \"10.9.0.11\"\n[[service.real]]\naddress = \"10.9.0.12\"\n",
        one("")
    );
    assert_eq!(messages(&few), "x.toml:1:13: max_reals: 1 is not allowed: 2 to 65535");
}

#[test]
fn two_services_are_never_equally_exact() {
    let pair = |one: &str, two: &str| format!("{PORT}[[service]]\n{one}\n[[service]]\n{two}\n");
    let apart = [
        ("tcp = \"10.9.0.100:80-90\"", "tcp = \"10.9.0.100:85\""),
        ("tcp = \"10.9.0.100:80-90\"", "udp = \"10.9.0.100:85-95\""),
        ("tcp = \"10.9.0.100:80-90\"", "tcp = \"10.9.0.100:91-95\""),
        ("tcp = \"198.18.0.0/28:80-90\"", "tcp = \"198.18.0.0/29:85-95\""),
    ];
    for (one, two) in apart {
        good(&pair(one, two));
    }
    for (one, two) in [("10.9.0.100:80-90", "10.9.0.100:90-95"), ("198.18.0.0/28:1-9", "198.18.0.0/28:2-3")] {
        let expected = format!(
            "x.toml:7:7: service[1].tcp: TCP {two} is not allowed: line 5 has TCP {one}, and ports in both would be for \
             either; ranges apart"
        );
        assert_eq!(messages(&pair(&format!("tcp = \"{one}\""), &format!("tcp = \"{two}\""))), expected);
    }
    assert_eq!(
        messages(&pair("mark = 7", "mark = 7")),
        "x.toml:7:8: service[1].mark: FWM 7 is not allowed twice: line 5 has it already"
    );
    let real = "tcp = \"198.18.0.1:80\"\n[[service.real]]\naddress = \"10.9.0.113\"";
    assert_eq!(
        messages(&pair("udp = \"10.9.0.112/28:53\"", real)),
        "x.toml:9:11: service[1].real[0].address: 10.9.0.113 is not allowed: a server's own address, and UDP \
         10.9.0.112/28:53 is a service"
    );
}

#[test]
fn rules_that_meet_are_told_who_wins() {
    let text = format!(
        "{PORT}[[service]]\nmark = 7\n[[service]]\nmark = 8\n[[service]]\nmark = 9\n\
         [[match]]\nmark = 7\nports = \"80\"\n\
         [[match]]\nmark = 8\nprotocol = \"udp\"\n\
         [[match]]\nmark = 7\nports = \"80\"\nprotocol = \"tcp\"\n\
         [[match]]\nmark = 5\nports = \"81\"\nprotocol = \"tcp\"\n"
    );
    let (_, warnings) = config::parse_with_warnings(&text, "x.toml").unwrap();
    assert_eq!(
        warnings.lines().collect::<Vec<_>>(),
        [
            "x.toml:8:1: service[2].mark: warning: no [[match]] gives mark 9: nothing comes to this service",
            "x.toml:13:1: match[1]: warning: packets that match the rule on line 10 too get its mark 7: the first rule wins",
            "x.toml:16:1: match[2]: warning: never reached: all its packets get mark 7 by the rule on line 10, which comes first",
            "x.toml:20:1: match[3].mark: warning: no service has mark 5: its packets go as if they had none",
        ]
    );
}

#[test]
fn reals_are_checked() {
    let service = |real: &str| format!("{PORT}[[service]]\ntcp = \"10.9.0.100:80\"\n  [[service.real]]\n  {real}\n");
    let cases = [
        ("weight = 70000", "6:3", "address", "missing: a server's address such as \"10.9.0.11\""),
        ("address = \"web1\"", "7:13", "address", "\"web1\" is not allowed: a server's address such as \"10.9.0.11\""),
        (
            "address = \"10.9.0.11:81\"",
            "7:13",
            "address",
            "\"10.9.0.11:81\" is not allowed: port 80, as the service has it; direct routing leaves packets as they are \
             and cannot map ports",
        ),
        (
            "address = \"10.9.1.11\"",
            "7:13",
            "address",
            "10.9.1.11 is not allowed: an address in 10.9.0.0/24 (port \"dtap0\"); direct routing reaches only servers in \
             a port's own network",
        ),
        (
            "address = \"10.9.0.10\"",
            "7:13",
            "address",
            "10.9.0.10 is not allowed: a server's own address, and port \"dtap0\" has this one",
        ),
        (
            "address = \"10.9.0.0\"",
            "7:13",
            "address",
            "10.9.0.0 is not allowed: an address that one host can have, not the network's own address",
        ),
        (
            "address = \"0.0.0.0\"",
            "7:13",
            "address",
            "0.0.0.0 is not allowed: an address that one host can have, not the unspecified address",
        ),
        (
            "address = \"10.9.0.100\"",
            "7:13",
            "address",
            "10.9.0.100 is not allowed: a server's own address, and TCP 10.9.0.100:80 is a service",
        ),
        ("address = \"10.9.0.11\"\n  weight = -1", "8:12", "weight", "-1 is not allowed: 0 to 65535"),
        (
            "address = \"10.9.0.11\"\n  mac = \"ff:ff:ff:ff:ff:ff\"",
            "8:9",
            "mac",
            "ff:ff:ff:ff:ff:ff is not allowed: the address of one station, not a multicast address or zero",
        ),
        (
            "address = \"10.9.0.11\"\n  [[service.real]]\n  address = \"10.9.0.11:80\"",
            "9:13",
            "",
            "10.9.0.11 is not allowed twice: line 7 has it already",
        ),
    ];
    for (real, place, key, message) in cases {
        let found = messages(&service(real));
        let key =
            if key.is_empty() { "service[0].real[1].address".into() } else { format!("service[0].real[0].{key}") };
        let expected = format!("x.toml:{place}: {key}: {message}");
        assert!(found.lines().any(|line| line == expected), "expected\n{expected}\nfound\n{found}");
    }
    assert!(
        messages(&service("weight = 70000")).contains(":7:12: service[0].real[0].weight: 70000 is not allowed: 0 to")
    );
}

#[test]
fn a_real_is_outside_only_when_all_networks_are_known() {
    let text = "[[port]]\ntap = \"t\"\naddress = \"nonsense\"\n[[service]]\ntcp = \"10.9.0.100:80\"\n[[service.real]]\naddress = \"10.9.0.11\"\n";
    assert_eq!(messages(text).lines().count(), 1, "{}", messages(text));
}

#[test]
fn ports_are_all_in_one_vlan_or_in_none() {
    let text = "[[port]]\ntap = \"t\"\naddress = \"10.9.0.10/24\"\n[[port]]\ntap = \"u\"\naddress = \"10.8.0.10/24\"\nvlan = 7\n[[service]]\ntcp = \"10.9.0.100:80\"\n";
    assert_eq!(
        messages(text),
        "x.toml:7:8: port[1].vlan: 7 is not allowed beside port \"t\" with none: all ports have the same; direct routing \
         keeps a frame's tag"
    );
    let both = text.replace("10.9.0.10/24\"", "10.9.0.10/24\"\nvlan = 7");
    assert!(config::parse(&both, "x.toml").is_ok());
}

#[test]
fn a_port_that_has_a_reals_mac_would_send_to_itself() {
    let text = format!(
        "{PORT}mac = \"02:00:00:00:00:01\"\n[[service]]\ntcp = \"10.9.0.100:80\"\n[[service.real]]\naddress = \"10.9.0.11\"\nmac = \"02:00:00:00:00:01\"\n"
    );
    assert_eq!(
        messages(&text),
        "x.toml:9:7: service[0].real[0].mac: 02:00:00:00:00:01 is not allowed: the server's own, and port \"dtap0\" has this one"
    );
}

#[test]
fn columns_count_letters_and_not_bytes() {
    assert_eq!(
        messages(
            "[[port]]\ntap = \"t\"\naddress = \"10.0.0.1/8\"\n[[service]]\n\"ü\".tcp = 1\ntcp = \"10.1.0.1:80\"\n"
        ),
        "x.toml:5:1: service[0].\"ü\": no such key: allowed here are tcp, udp, mark, scheduler, flags, \
         persistent, netmask, expire_quiescent, one_packet, on_removed, on_miss, forward, real"
    );
    assert!(messages("control = { \"ü\" = 1, sacket = 2 }").contains("x.toml:1:22: control.sacket"));
}

#[test]
fn the_list_of_mistakes_ends_somewhere() {
    let text: String = (0..1000).map(|line| format!("key{line} = 1\n")).collect();
    let errors = config::parse(&text, "x.toml").unwrap_err();
    assert_eq!(errors.mistakes.len(), 100);
    assert_eq!(errors.more, 901);
    assert!(errors.to_string().ends_with("\nx.toml: and 901 more"));
}

#[test]
fn services_and_reals_are_16_bit_numbers() {
    let service = |number: u32| {
        format!("[[service]]\ntcp = \"10.8.{}.{}:{}\"\n", number >> 8 & 255, number & 255, number / 65536 + 1)
    };
    let many: String = (0..65_536).map(service).collect();
    let expected = format!("x.toml:{}:1: service: 65536 services are not allowed: at most 65535", 3 + 2 * 65_535 + 1);
    assert_eq!(messages(&format!("{PORT}{many}")), expected);
    let most: String = (0..65_535).map(service).collect();
    assert_eq!(good(&format!("{PORT}{most}")).services.len(), 65_535);
}

#[test]
fn files_that_cannot_be_read_are_said_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.toml");
    let message = |path: &Path| config::load(path).unwrap_err().to_string();
    assert!(message(&path).contains("x.toml: cannot be read: No such file"), "{}", message(&path));
    std::fs::write(&path, b"idle = \"wait\"\n# \xff\n").unwrap();
    assert!(message(&path).ends_with("x.toml:2:3: not TOML: the text is not UTF-8 from here on"), "{}", message(&path));
    std::fs::File::create(&path).unwrap().set_len(config::LONGEST_FILE + 1).unwrap();
    assert!(message(&path).ends_with("x.toml: longer than the 16 MB that a configuration may have"));
    assert!(
        message(Path::new("/dev/zero")).ends_with("/dev/zero: longer than the 16 MB that a configuration may have")
    );
}

#[test]
fn what_is_left_out_has_its_default() {
    let config = good(PORT);
    assert!(config.hugepages);
    assert_eq!(config.memory_mb, 512);
    assert_eq!(config.idle, Idle::Wait);
    assert_eq!(config.cores, CoresConfig { management: None, workers: WorkerCores::Count(1) });
    assert_eq!(config.flows.per_worker, 1_000_000);
    assert_eq!(config.control.socket, Path::new("/run/drover/drover.sock"));
    let port = &config.ports[0];
    assert_eq!((port.name.as_str(), port.host_tap.as_str(), port.mtu), ("dtap0", "drover0", 1500));
    assert_eq!((port.gateway, port.vlan, port.mac, port.allow_host_addresses), (None, None, None, false));
    assert!(config.services.is_empty());
    assert_eq!(config.summary(), "1 port, 0 services, 0 reals");
}

#[test]
fn a_pci_address_and_a_vdev_are_taken_as_people_write_them() {
    let config = good(
        "[[port]]\npci = \"3B:1f.7\"\naddress = \"10.0.0.1/24\"\n[[port]]\nvdev = \"net_pcap0,iface=eth1\"\naddress = \"10.0.1.1/31\"\ngateway = \"10.0.1.0\"\n",
    );
    assert_eq!(config.ports[0].device, Device::Pci("0000:3b:1f.7".into()));
    assert_eq!(config.ports[0].device.to_string(), "pci 0000:3b:1f.7");
    assert_eq!(config.ports[1].name, "net_pcap0");
    assert_eq!(config.ports[1].host_tap, "drover1");
}

#[test]
fn the_arithmetic_is_that_of_the_table() {
    for per_worker in [FlowsConfig::LEAST, 3_000, 12_288, 12_289, 100_000, 1_000_001] {
        let table = FlowTable::new(per_worker, false, [1, 2]).unwrap();
        let said = FlowsConfig::narrow_bytes(per_worker);
        assert_eq!(said, table.buckets() as u64 * 64, "{per_worker}");
        assert_eq!(said, FlowTable::bytes_for(per_worker) as u64, "{per_worker}");
        let both = FlowsConfig { per_worker, half_open: 0, wide_per_worker: per_worker / 2 + 1 };
        let wide = WideTable::new(both.wide_per_worker, false, [1, 2]).unwrap();
        assert_eq!(both.bytes_per_worker(), said + wide.buckets() as u64 * 128, "{per_worker}");
    }
}

#[test]
fn the_wide_table_is_as_large_as_somebody_needs_it() {
    let port = "[[port]]\ntap = \"dtap0\"\naddress = \"10.9.0.10/24\"\n";
    let wide = |flows: &str, service: &str| {
        let text = format!("[flows]\n{flows}\n{port}{service}");
        config::parse(&text, "x.toml").map(|config| config.flows.wide_per_worker).map_err(|errors| errors.to_string())
    };
    let (exact, range) = ("[[service]]\ntcp = \"10.9.0.100:80\"", "[[service]]\ntcp = \"10.9.0.100:80-89\"");
    assert_eq!([wide("", exact), wide("", range)], [Ok(1024), Ok(125_000)]);
    assert_eq!(wide("", "[[service]]\nmark = 7"), Ok(125_000));
    assert_eq!(wide("per_worker = 5000", range), Ok(1024));
    assert_eq!(wide("wide_per_worker = 3000", exact), Ok(3000));
    let said = wide("wide_per_worker = 1000", exact).unwrap_err();
    assert_eq!(
        said,
        "x.toml:2:19: flows.wide_per_worker: 1000 is not allowed: 1024 to 1073741824; a connection takes about 42.7 \
         bytes: 125000 take 6 MB a worker"
    );
}

#[test]
fn the_laboratorys_file_means_what_it_says() {
    let config = config::load(Path::new("conf/lab.toml")).unwrap();
    assert_eq!((config.hugepages, config.memory_mb, config.idle), (false, 128, Idle::Wait));
    assert_eq!(config.cores.workers, WorkerCores::Count(1));
    assert_eq!(config.ports[0].device, Device::Tap("dtap0".into()));
    assert_eq!(config.ports[0].address.to_string(), "10.9.0.10/24");
    assert_eq!(config.ports[0].host_tap, "drover0");
    let service = &config.services[0];
    assert_eq!(
        (service.takes.to_string().as_str(), service.scheduler),
        ("TCP 10.9.0.100:80", Scheduler::WeightedRoundRobin)
    );
    let reals: Vec<_> =
        service.reals.iter().map(|real| format!("{}:{} {}", real.address, real.port, real.weight)).collect();
    assert_eq!(reals, ["10.9.0.11:80 3", "10.9.0.12:80 2", "10.9.0.13:80 1"]);
    assert_eq!(config.summary(), "1 port, 1 service, 3 reals");
}

#[test]
fn the_example_for_a_dedicated_machine_means_what_it_says() {
    let config = config::load(Path::new("conf/drover.toml")).unwrap();
    assert!(config.hugepages);
    assert_eq!(config.idle, Idle::Poll);
    assert_eq!(config.cores, CoresConfig { management: Some(0), workers: WorkerCores::These(vec![1, 2]) });
    assert_eq!(config.ports[0].device, Device::Pci("0000:3b:00.0".into()));
    assert_eq!(config.ports[0].gateway, Some([192, 0, 2, 1].into()));
    assert_eq!(config.services.len(), 2);
    assert_eq!(config.services[1].takes.to_string(), "UDP 192.0.2.100:53");
}

#[test]
fn the_example_for_an_ordinary_interface_means_what_it_says() {
    let config = config::load(Path::new("conf/af_packet.toml")).unwrap();
    assert!(!config.hugepages);
    assert_eq!(config.ports[0].device, Device::AfPacket("eth1".into()));
    assert!(!config.ports[0].allow_host_addresses);
}

/// Every key that there is, in `key = value` or `# key = value`, is explained in the annotated file.
#[test]
fn the_annotated_file_knows_every_key() {
    let text = std::fs::read_to_string("conf/drover.toml").unwrap();
    let keys = "hugepages memory_mb idle management workers name pci af_packet tap vdev address gateway vlan mac mtu \
                host_tap allow_host_addresses per_worker socket tcp udp scheduler forward weight max_services max_reals \
                tcp_fin mark flags persistent netmask expire_quiescent one_packet on_removed on_miss upper lower source destination \
                ports protocol ingress source_mac not_source_mac";
    for key in keys.split_whitespace() {
        let written = |line: &str| {
            let line = line.trim_start_matches(['#', ' ']);
            line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='))
        };
        assert!(text.lines().any(written), "{key}");
    }
}

/// Lines of the right words in wrong places reach deeper than random letters do.
fn lines() -> impl Strategy<Value = String> {
    let key = "(hugepages|idle|cores|port|name|pci|tap|vdev|address|mtu|flows|service|match|mark|ports|source|persistent|netmask|flags|tcp|udp|real|weight|upper|mac|[a-z\"é.]{0,4})";
    let value = "(true|-?[0-9]{1,21}|0x[0-9a-f]{1,20}|[0-9]\\.[0-9]|\"[0-9a-f.:/]{0,20}\"|\"\\PC{0,20}\"|\\[[0-9, ]{0,9}\\]|\\{\\}|1979-05-27|\\PC{0,9})";
    let line = format!("({key} = {value}|\\[{key}\\]|\\[\\[{key}(\\.{key})?\\]\\]|\\PC{{0,20}})\r?\n");
    let line = prop::string::string_regex(&line).unwrap();
    prop::collection::vec(line, 0..12).prop_map(|lines| lines.concat())
}

proptest! {
    #[test]
    fn no_text_panics(text in prop_oneof!["(?s).{0,200}", lines()]) {
        if let Err(errors) = config::parse(&text, "x.toml") {
            prop_assert!(!errors.mistakes.is_empty());
            prop_assert!(!errors.to_string().is_empty());
        }
    }
}

#[cfg(feature = "dpdk")]
#[test]
fn droverd_checks_a_file_and_starts_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let bad = directory.path().join("bad.toml");
    std::fs::write(&bad, format!("{PORT}mtu = 1\n")).unwrap();
    let check = |path: &Path| {
        let droverd = std::process::Command::new(env!("CARGO_BIN_EXE_droverd")).arg("--check").arg(path).output();
        let output = droverd.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let good = check(Path::new("conf/lab.toml"));
    assert_eq!(good, (Some(0), "conf/lab.toml: ok: 1 port, 1 service, 3 reals\n".into(), String::new()));
    let expected = format!("{}:4:7: port[0].mtu: 1 is not allowed: 576 to 9000\n", bad.display());
    assert_eq!(check(&bad), (Some(2), String::new(), expected));
}
