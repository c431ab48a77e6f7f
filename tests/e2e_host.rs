//! The host behind the port: it keeps its network, gets back what was changed, and nothing of ours stays with it.
//! Runs as root or, through user namespaces, as anybody.
#![cfg(feature = "dpdk")]

mod harness;

use std::process::Command;
use std::time::{Duration, Instant};

use drover::lab::director::CONFIGURATION;
use drover::lab::{CLIENT, DIRECTOR, LabPort, REALS, VIP, run};
use harness::{Bench, succeed, until};

/// TCP to the kernel of the director's host, over the port that forwards, while it forwards all it can.
fn the_host_stays_usable(port: LabPort) {
    let bench = Bench::new();
    let _droverd = bench.direct(port);
    bench.serve_from_director();
    let flood = bench.flood();
    let start = bench.lab.stats().unwrap().total.forwarded;
    until("the flood to flow", || {
        let forwarded = bench.lab.stats().unwrap().total.forwarded - start;
        if forwarded > 500 { Ok(()) } else { Err(format!("{forwarded} frames forwarded")) }
    });
    for _ in 0..20 {
        assert_eq!(bench.get(CLIENT, "http://10.9.0.10:8080/").unwrap().trim(), DIRECTOR);
    }
    // And from the host outwards.
    assert_eq!(bench.get(DIRECTOR, "http://10.9.0.11/").unwrap().trim(), REALS[0]);
    drop(flood);
    assert_eq!(bench.kernel_counter(DIRECTOR, "Tcp", "InCsumErrors"), 0);
}

#[test]
fn the_host_stays_usable_under_a_flood_on_a_tap() {
    the_host_stays_usable(LabPort::Tap);
}

#[test]
fn the_host_stays_usable_under_a_flood_on_af_packet() {
    the_host_stays_usable(LabPort::AfPacket);
}

/// With the VIP on the TAP, where keepalived puts it, the kernel must neither answer for it nor reset connections to it.
fn the_kernel_keeps_out(port: LabPort, hold: impl Fn(&Bench)) {
    let bench = Bench::new();
    let _droverd = bench.direct(port);
    let director = bench.director_mac();
    hold(&bench);
    until("the VIP on the TAP", || {
        let addresses = bench.sh(DIRECTOR, "ip addr show dev drover0");
        if addresses.contains(VIP) { Ok(()) } else { Err(addresses) }
    });
    bench.sh(CLIENT, "ip neigh flush dev eth0");
    assert_eq!(run::requests(&bench.lab, 120).unwrap().failed, 0);
    bench.pings_are_answered_once(VIP);
    assert_eq!(bench.neighbour(CLIENT, VIP).as_deref(), Some(&*director));
    assert_eq!(bench.kernel_counter(DIRECTOR, "Tcp", "OutRsts"), 0);
}

fn hold_by_hand(bench: &Bench) {
    bench.sh(DIRECTOR, &format!("ip addr add {VIP}/32 dev drover0"));
}

fn hold_by_keepalived(bench: &Bench) {
    let file = bench.lab.path().join("keepalived.conf");
    std::fs::write(&file, KEEPALIVED).unwrap();
    let pid = bench.lab.path().join("keepalived");
    bench.sh(
        DIRECTOR,
        &format!("keepalived --vrrp -f {} -p {pid}.pid -r {pid}-vrrp.pid", file.display(), pid = pid.display()),
    );
}

const KEEPALIVED: &str = "
global_defs {
    router_id lab
    script_user root
}
vrrp_instance lab {
    state MASTER
    interface drover0
    virtual_router_id 51
    priority 200
    advert_int 1
    virtual_ipaddress {
        10.9.0.100/32 dev drover0
    }
}
";

#[test]
fn the_kernel_keeps_out_when_the_vip_is_put_on_the_tap() {
    the_kernel_keeps_out(LabPort::Tap, hold_by_hand);
}

#[test]
fn the_kernel_keeps_out_when_the_vip_is_put_on_the_tap_of_an_af_packet_port() {
    the_kernel_keeps_out(LabPort::AfPacket, hold_by_hand);
}

#[test]
fn the_kernel_keeps_out_when_keepalived_holds_the_vip() {
    the_kernel_keeps_out(LabPort::Tap, hold_by_keepalived);
}

/// What droverd may have changed on its host.
fn host_settings(bench: &Bench) -> String {
    bench.sh(
        DIRECTOR,
        "cd /proc/sys/net/ipv4/conf; grep . */send_redirects | sort; ip -o link show | sed 's/^[0-9]*: //; s/@.*//; s/:.*//' | sort;
         nft list ruleset; ethtool -k eth0 | grep -E 'generic-receive|large-receive'; ip route; ls /dev/hugepages 2>/dev/null || true",
    )
}

fn stopping_restores(port: LabPort) {
    let bench = Bench::new();
    bench.kernel_forwards();
    // As it is before the first start, with the wire already prepared.
    drover::lab::network::prepare_port(&bench.lab, port).unwrap();
    let before = host_settings(&bench);
    let droverd = bench.direct(port);
    let during = host_settings(&bench);
    assert!(during.contains("all/send_redirects:0"), "{during}");
    assert!(during.contains("drover0"), "{during}");
    bench.stop(droverd);
    assert_eq!(host_settings(&bench), before);

    // A director that is killed cannot clean up; the next one does.
    let droverd = bench.direct(port);
    bench.kill(droverd);
    let droverd = bench.direct(port);
    assert_eq!(run::requests(&bench.lab, 60).unwrap().failed, 0);
    bench.stop(droverd);
    assert_eq!(host_settings(&bench), before);
}

#[test]
fn stopping_restores_the_host_on_a_tap() {
    stopping_restores(LabPort::Tap);
}

#[test]
fn stopping_restores_the_host_on_af_packet() {
    stopping_restores(LabPort::AfPacket);
}

#[test]
fn the_rest_of_the_host_redirects_as_before() {
    let bench = Bench::new();
    bench.sh(DIRECTOR, "ip link add other type veth peer name another; ip link set other up");
    bench.sysctl(DIRECTOR, "conf/all/send_redirects", "1");
    bench.sysctl(DIRECTOR, "conf/other/send_redirects", "0");
    let droverd = bench.direct(LabPort::Tap);
    // The kernel goes by "all or the interface's own": this one sent redirects, so it still does.
    assert_eq!(bench.sh(DIRECTOR, "cat /proc/sys/net/ipv4/conf/other/send_redirects").trim(), "1");
    assert_eq!(bench.sh(DIRECTOR, "cat /proc/sys/net/ipv4/conf/drover0/send_redirects").trim(), "0");
    bench.stop(droverd);
    assert_eq!(bench.sh(DIRECTOR, "cat /proc/sys/net/ipv4/conf/other/send_redirects").trim(), "0");
}

#[test]
fn an_interface_with_the_hosts_addresses_is_refused_with_the_remedy() {
    let bench = Bench::new();
    bench.sh(DIRECTOR, "ip addr add 10.9.0.10/24 dev eth0");
    let refusal = bench.start(LabPort::AfPacket, CONFIGURATION).err().unwrap().to_string();
    assert!(refusal.contains("exit status: 2"), "{refusal}");
    assert!(refusal.contains("10.9.0.10") && refusal.contains("drover0"), "{refusal}");
}

#[test]
fn a_second_director_is_refused() {
    let bench = Bench::new();
    let _droverd = bench.direct(LabPort::Tap);
    let pid = bench.lab.status().unwrap().pid;
    let program = harness::droverd();
    let file = bench.lab.path().join("droverd.toml");
    let mut second = bench.lab.command(DIRECTOR, program);
    let output = second.arg("--config").arg(file).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{complaint}");
    assert!(complaint.contains(&pid.to_string()), "{complaint}");
    assert_eq!(bench.lab.status().unwrap().pid, pid);
    assert_eq!(run::requests(&bench.lab, 6).unwrap().failed, 0);
}

/// With nothing to do it lets go of the core. The time is measured, so here it does pass.
fn idle_costs_little(port: LabPort) {
    let bench = Bench::new();
    let _droverd = bench.direct(port);
    let pid = bench.lab.status().unwrap().pid;
    assert_eq!(run::requests(&bench.lab, 60).unwrap().failed, 0);
    let (began, before) = (Instant::now(), cpu_ticks(&bench, pid));
    std::thread::sleep(Duration::from_secs(4));
    let ticks = cpu_ticks(&bench, pid) - before;
    let available = began.elapsed().as_secs_f64() * 100.0;
    assert!(ticks as f64 <= available / 10.0, "{ticks} of {available:.0} ticks");
}

/// User and system time, in hundredths of a second.
fn cpu_ticks(bench: &Bench, pid: u32) -> u64 {
    let stat = bench.sh(DIRECTOR, &format!("cat /proc/{pid}/stat"));
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn an_idle_director_costs_little_on_a_tap() {
    idle_costs_little(LabPort::Tap);
}

#[test]
fn an_idle_director_costs_little_on_af_packet() {
    idle_costs_little(LabPort::AfPacket);
}

#[test]
fn the_operators_command_needs_no_dpdk_and_is_quick() {
    let linked = succeed(Command::new("ldd").arg(env!("CARGO_BIN_EXE_drover")));
    assert!(!linked.contains("librte"), "{linked}");
    assert!(succeed(Command::new("ldd").arg(harness::droverd())).contains("librte"));

    let bench = Bench::new();
    let _droverd = bench.direct(LabPort::Tap);
    // The best of several: this machine may be busy with other things.
    let once = |_| {
        let began = Instant::now();
        let text = succeed(bench.drover().arg("status"));
        assert!(text.contains("drover0"), "{text}");
        began.elapsed()
    };
    let best = (0..10).map(once).min().unwrap();
    assert!(best < Duration::from_millis(20), "{best:?}");
    let json = succeed(bench.drover().args(["--json", "status"]));
    let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(parsed.is_object(), "{json}");
}
