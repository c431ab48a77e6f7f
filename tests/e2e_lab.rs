//! The laboratory itself, and the failure that drover exists to end, without drover. Needs no DPDK.
//! Runs as root or, through user namespaces, as anybody.

mod harness;

use std::os::unix::fs::{PermissionsExt, symlink};

use drover::lab::network::mac;
use drover::lab::{CLIENT, DIRECTOR, Lab, LabDir, Life, REALS, VIP};
use harness::capture::{Capture, is_packet};
use harness::{Bench, until};

#[test]
fn every_server_answers_for_the_virtual_address() {
    let bench = Bench::new();
    for real in REALS {
        bench.sh(CLIENT, &format!("ip neigh replace {VIP} lladdr {} dev eth0", mac(real)));
        assert_eq!(bench.get(CLIENT, &format!("http://{VIP}/")).unwrap().trim(), real);
    }
}

#[test]
fn nobody_says_that_the_virtual_address_is_his() {
    let bench = Bench::new();
    let ping = bench.try_sh(CLIENT, &format!("ping -c 1 -W 1 {VIP}"));
    assert!(!ping.status.success());
    assert_eq!(bench.neighbour(CLIENT, VIP), None);
}

#[test]
fn when_its_holder_is_killed_nothing_is_left() {
    let bench = Bench::new();
    let pid = bench.lab.holder.pid().to_string();
    let inside = bench.sh(CLIENT, "readlink /proc/1/ns/pid");
    assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    until("the lab's processes to end", || {
        let left = processes_in(inside.trim());
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    assert!(!bench.lab.holder.is_alive());
}

/// The processes of a PID namespace, as far as we may see them.
fn processes_in(namespace: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let inside = |path: &std::path::Path| {
        std::fs::read_link(path.join("ns/pid")).is_ok_and(|found| found.to_string_lossy() == namespace)
    };
    entries.map(|entry| entry.path()).filter(|path| inside(path)).map(|path| path.display().to_string()).collect()
}

#[test]
fn a_second_lab_in_the_same_place_is_refused_and_a_crashed_one_is_cleared() {
    let directory = tempfile::tempdir().unwrap();
    let place = || LabDir::under(directory.path(), "lab").unwrap();
    let mut lab = Lab::build(place().create().unwrap(), Life::Detached).unwrap();
    lab.dir.release().unwrap();
    let refusal = place().create().err().unwrap().to_string();
    assert!(refusal.contains("already up"), "{refusal}");
    lab.holder.stop().unwrap();
    assert!(lab.path().join("holder.json").exists());
    assert!(place().recall().unwrap().is_none());
    place().remove().unwrap();
    assert!(!lab.path().exists());
}

#[test]
fn somebody_elses_directory_is_not_used() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("target");
    std::fs::create_dir(&target).unwrap();
    symlink(&target, directory.path().join("lab")).unwrap();
    let refusal = LabDir::under(directory.path(), "lab").unwrap().create().err();
    assert!(refusal.is_none_or(|error| error.to_string().contains("0700")));
    assert_eq!(std::fs::read_dir(&target).unwrap().count(), 0);

    let open = directory.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
    let refusal = drover::lab::state::private_directory(&open).err().unwrap().to_string();
    assert!(refusal.contains("0700"), "{refusal}");
}

/// Whoever routes the VIP by the director's own address gets this from a kernel that forwards: "you can reach it
/// yourself". He tries, nobody answers ARP, and the VIP is gone: the first of the seeds, step by step.
#[test]
fn the_seed_a_forwarding_kernel_redirects_the_client_and_the_virtual_address_is_lost() {
    let bench = Bench::new();
    bench.kernel_forwards();
    bench.sh(DIRECTOR, "ip addr add 10.9.0.10/24 dev eth0");
    bench.sh(CLIENT, &format!("ip route add {VIP}/32 via 10.9.0.10"));
    const REDIRECT: u8 = 5;
    let redirects = Capture::start(&bench, CLIENT, |frame| is_packet(frame, 1, "10.9.0.1") && frame[34] == REDIRECT);
    let failure = bench.get(CLIENT, &format!("http://{VIP}/")).unwrap_err();
    assert!(failure.contains("Couldn't connect"), "{failure}");
    assert!(!redirects.wait_for(1).is_empty());
}

/// The same, where the kernel does know a server for the VIP: one answer, with it the redirect, and then no more.
#[test]
fn the_seed_a_client_that_follows_the_redirect_loses_a_virtual_address_that_worked() {
    let bench = Bench::new();
    bench.kernel_forwards();
    bench.sh(DIRECTOR, "ip addr add 10.9.0.10/24 dev eth0");
    bench.sh(DIRECTOR, &format!("ip neigh add {VIP} lladdr {} dev eth0", mac(REALS[0])));
    bench.route_by_director_with_a_stale_neighbour();
    assert_eq!(bench.get(CLIENT, &format!("http://{VIP}/")).unwrap().trim(), REALS[0]);
    // The kernel ignores a redirect about a TCP connection that it is just then working on; a ping has no such luck.
    until("the client to be misled", || {
        bench.try_sh(CLIENT, &format!("ping -c 1 -W 1 {VIP}"));
        let route = bench.sh(CLIENT, &format!("ip route get {VIP}"));
        if route.contains("redirected") { Ok(()) } else { Err(route) }
    });
    assert!(bench.get(CLIENT, &format!("http://{VIP}/")).is_err());
}
