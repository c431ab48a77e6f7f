//! Real HTTP through droverd to real servers, on both kinds of port.
//! Runs as root or, through user namespaces, as anybody.
#![cfg(feature = "dpdk")]

mod harness;

use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use drover::control::wire::{ConnEntry, FrameStats, RealState, Stats, Steering};
use drover::lab::director::CONFIGURATION;
use drover::lab::{CLIENT, LabDir, LabPort, REALS, VIP, run};
use harness::{Bench, Running, for_everybody, succeed, until, with_scheduler};
use tempfile::TempDir;

/// 600 requests: a hundred rounds of 3:2:1, two hundred of 1:1:1, so that every server's share is exact.
fn balances(port: LabPort, configuration: &str, expected: [u32; 3]) {
    let bench = Bench::new();
    let _droverd = bench.direct_with(port, configuration);
    let before = bench.lab.stats().unwrap();
    let outcome = run::requests(&bench.lab, 600).unwrap();
    assert_eq!((outcome.failed, outcome.connections), (0, 600));
    let again = run::used_again(&outcome, &before, &bench.lab.stats().unwrap());
    assert!(again < 100, "the client's kernel uses its ports again and again: {again} of 600");
    for (real, expected) in REALS.iter().zip(expected) {
        let served = outcome.served.get(*real).copied().unwrap_or(0);
        assert!(
            served.abs_diff(expected) <= again,
            "{real} served {served}, not {expected} ({again} ports used again)"
        );
    }

    let services = bench.lab.services().unwrap();
    let counted: Vec<u64> = services[0].reals.iter().map(|real| real.traffic.connections).collect();
    let entered = u64::from(600 - again);
    for (counted, expected) in counted.iter().zip(expected) {
        // New connections are shared out exactly, but for the last round.
        let due = u64::from(expected) * entered / 600;
        assert!(counted.abs_diff(due) <= if again == 0 { 0 } else { 3 }, "{services:?}");
    }
    assert_eq!((counted.iter().sum::<u64>(), services[0].traffic.connections), (entered, entered));

    let mut dropped = run::dropped_between(&before, &bench.lab.stats().unwrap());
    dropped.remove("not_our_mac");
    assert_eq!(dropped, BTreeMap::new());
    totals_are_the_ports_own(&bench);
}

/// What the workers counted is what the driver counted, and it adds up.
fn totals_are_the_ports_own(bench: &Bench) {
    until("the director's totals to equal the port's", || {
        let stats = bench.lab.stats().unwrap();
        let (total, port) = (&stats.total, &stats.ports[0]);
        let in_and_out = (total.received, total.forwarded + total.originated_sent);
        if in_and_out == (port.received, port.sent) && adds_up(&stats) { Ok(()) } else { Err(format!("{stats:?}")) }
    });
}

fn adds_up(stats: &Stats) -> bool {
    let each = |frames: &FrameStats| {
        let dropped: u64 = frames.dropped.values().sum();
        let consumed = frames.to_manage + frames.to_host + frames.handed_out;
        frames.received + frames.handed_in == frames.forwarded + consumed + dropped
            && frames.originated == frames.originated_sent + frames.originated_dropped
    };
    stats.workers.iter().chain([&stats.total]).all(each) && stats.total.handed_out == stats.total.handed_in
}

/// Two workers on cores of which management shares one. Each begins its round elsewhere and ends it unfinished: a server
/// may be off its share by its weight for each worker.
fn two_workers_balance(port: LabPort) {
    let bench = Bench::new();
    let _droverd = bench.direct_with(port, &two_workers());
    let status = bench.lab.status().unwrap();
    assert_eq!((status.workers.len(), status.steering), (2, Steering::Software));
    let shared = "worker 0 and management share core 0: they take turns";
    assert!(status.warnings.iter().any(|warning| warning == shared), "{:?}", status.warnings);

    let report = run::report(&bench.lab, 1000).unwrap();
    assert_eq!(report.complaints, Vec::<String>::new(), "{report}");
    assert_eq!((report.outcome.connections, report.outcome.served.values().sum::<u32>()), (1000, 1000));
    totals_are_the_ports_own(&bench);

    let stats = bench.lab.stats().unwrap();
    for (id, worker) in stats.workers.iter().enumerate() {
        assert!(worker.received > 0 && worker.forwarded > 0, "worker {id}: {stats:?}");
        // A fair coin, tossed a thousand times, does not fall so once in the age of the universe.
        assert!((350..650).contains(&worker.flows_created), "worker {id}: {stats:?}");
    }
    assert!(stats.total.handed_in > 0, "nothing came to the wrong worker: {stats:?}");
    assert!((900..=1000).contains(&stats.total.flows_created), "a flow was entered twice: {stats:?}");
    no_flow_has_two_workers(&bench, stats.total.flows_created as usize);
    let shares = succeed(bench.drover().args(["stats", "--per-core", "--json"]));
    let shares: serde_json::Value = serde_json::from_str(&shares).unwrap();
    let cores: Vec<u64> = [0, 1].map(|worker| shares["workers"][worker]["core"].as_u64().unwrap()).to_vec();
    assert_eq!(cores, [0, 1]);
    let skew = shares["skew"]["flows"].as_f64().unwrap();
    assert!((1.0..1.3).contains(&skew), "{shares}");
}

fn no_flow_has_two_workers(bench: &Bench, entered: usize) {
    let listing = succeed(bench.drover().args(["conn", "list", "--json"]));
    let flows: Vec<ConnEntry> = serde_json::from_str(&listing).unwrap();
    let clients: HashSet<_> = flows.iter().map(|flow| flow.client).collect();
    assert_eq!((flows.len(), clients.len()), (entered, entered));
}

fn two_workers() -> String {
    assert!(CONFIGURATION.contains("workers = 1\n"));
    CONFIGURATION.replace("workers = 1\n", "management = 0\nworkers = [0, 1]\n")
}

#[test]
fn two_workers_on_a_tap() {
    two_workers_balance(LabPort::Tap);
}

#[test]
fn two_workers_on_af_packet() {
    two_workers_balance(LabPort::AfPacket);
}

#[test]
fn weighted_round_robin_on_a_tap() {
    balances(LabPort::Tap, CONFIGURATION, [300, 200, 100]);
}

#[test]
fn weighted_round_robin_on_af_packet() {
    balances(LabPort::AfPacket, CONFIGURATION, [300, 200, 100]);
}

#[test]
fn round_robin_on_a_tap() {
    balances(LabPort::Tap, &with_scheduler("rr"), [200, 200, 200]);
}

#[test]
fn round_robin_on_af_packet() {
    balances(LabPort::AfPacket, &with_scheduler("rr"), [200, 200, 200]);
}

#[test]
fn a_server_that_does_not_answer_arp_is_unreachable_and_the_others_serve() {
    let bench = Bench::new();
    bench.sh(REALS[2], "ip link set eth0 down");
    let _droverd = bench.start(LabPort::Tap, CONFIGURATION).unwrap();
    until("two servers resolved and one unreachable", || {
        let services = bench.lab.services().map_err(|error| error.to_string())?;
        let states: Vec<RealState> = services[0].reals.iter().map(|real| real.state).collect();
        let wanted = [RealState::Resolved, RealState::Resolved, RealState::Unreachable];
        if states == wanted { Ok(()) } else { Err(format!("{states:?}")) }
    });
    let outcome = run::requests(&bench.lab, 500).unwrap();
    assert_eq!(outcome.failed, 0);
    assert_eq!(outcome.served, BTreeMap::from([("real1".to_owned(), 300), ("real2".to_owned(), 200)]));
    let status = succeed(bench.drover().arg("status"));
    assert!(status.contains("10.9.0.13") && status.contains("unreachable"), "{status}");

    bench.sh(REALS[2], "ip link set eth0 up");
    bench.lab.wait_for_reals().unwrap();
    let report = run::report(&bench.lab, 600).unwrap();
    assert_eq!(report.complaints, Vec::<String>::new(), "{report}");
}

#[test]
fn the_demonstration_succeeds_for_an_ordinary_user() {
    let directory = tempfile::Builder::new().prefix("drover-user-").tempdir().unwrap();
    let place = directory.path();
    for program in [env!("CARGO_BIN_EXE_drover"), env!("CARGO_BIN_EXE_droverd")] {
        let from = Path::new(program);
        std::fs::copy(from, place.join(from.file_name().unwrap())).unwrap();
    }
    for_everybody(place);
    let runtime = place.join("runtime");
    std::fs::create_dir(&runtime).unwrap();
    std::fs::set_permissions(&runtime, std::fs::Permissions::from_mode(0o700)).unwrap();
    let mut demo = if rustix::process::geteuid().is_root() {
        chown(&runtime, Some(65534), Some(65534)).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(place.join("drover"));
        command
    } else {
        Command::new(place.join("drover"))
    };
    demo.env("XDG_RUNTIME_DIR", &runtime).current_dir("/");
    let text = succeed(demo.args(["lab", "demo", "--once", "--requests", "60"]));
    assert!(text.contains("60 requests over 60 connections"), "{text}");
    assert!(text.contains("the lab is down"), "{text}");
    assert!(!runtime.join("drover-lab/lab").exists());
}

/// A directory that is only ours, as a session's runtime directory is; in any other no lab is made.
fn private_directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    directory
}

/// `drover lab …` with a place of its own for what it remembers.
fn lab_command(place: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drover"));
    command.env("XDG_RUNTIME_DIR", place).arg("lab").args(words);
    command
}

#[test]
fn the_laboratory_is_built_used_and_taken_down_by_hand() {
    let directory = private_directory();
    let lab = |words: &[&str]| lab_command(directory.path(), words);
    assert!(succeed(&mut lab(&["down"])).contains("no lab is up"));
    succeed(&mut lab(&["up", "--port", "af_packet"]));
    assert!(directory.path().join("drover-lab/lab").exists());
    let twice = lab(&["up"]).output().unwrap();
    assert_eq!(twice.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&twice.stderr).contains("already up"), "{twice:?}");

    let ran = succeed(&mut lab(&["run", "--requests", "60"]));
    assert!(ran.contains("60 requests over 60 connections") && ran.contains("real3           10"), "{ran}");
    let inside = succeed(&mut lab(&["exec", "director", "--", "drover", "service", "list"]));
    assert!(inside.contains("10.9.0.100:80 wrr"), "{inside}");
    assert_eq!(lab(&["exec", "real1", "--", "sh", "-c", "exit 7"]).status().unwrap().code(), Some(7));
    let stranger = lab(&["exec", "real9", "--", "true"]).output().unwrap();
    assert!(String::from_utf8_lossy(&stranger.stderr).contains("real3"), "{stranger:?}");

    succeed(&mut lab(&["exec", "client", "--", "ip", "route", "add", "blackhole", VIP]));
    let failing = lab(&["run", "--requests", "5"]).output().unwrap();
    assert_eq!(failing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failing.stdout).contains("WRONG: 5 of 5 requests failed"), "{failing:?}");

    assert!(succeed(&mut lab(&["down"])).contains("the lab is down"));
    assert!(!directory.path().join("drover-lab/lab").exists());
}

#[test]
fn a_kernel_that_refuses_namespaces_is_reported_with_the_remedy() {
    let directory = private_directory();
    let refusing = directory.path().join("unshare");
    std::fs::write(&refusing, "#!/bin/sh\necho 'unshare failed: Operation not permitted' >&2\nexit 1\n").unwrap();
    std::fs::set_permissions(&refusing, std::fs::Permissions::from_mode(0o755)).unwrap();
    let up = lab_command(directory.path(), &["up"]).env("PATH", directory.path()).output().unwrap();
    let complaint = String::from_utf8_lossy(&up.stderr);
    assert_eq!(up.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains("Operation not permitted"), "{complaint}");
    assert!(complaint.contains("max_user_namespaces") || complaint.contains("--privileged"), "{complaint}");
}

/// A demonstration that is up, and what it says from here on.
fn demonstration(place: &Path) -> (Running, impl Iterator<Item = String> + use<>) {
    let mut demo = lab_command(place, &["demo", "--requests", "60"]);
    let mut demo = Running(demo.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(demo.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("until Ctrl-C")));
    assert!(place.join("drover-lab/lab").exists());
    (demo, lines)
}

#[test]
fn the_demonstration_stays_up_until_it_is_interrupted() {
    let directory = private_directory();
    let (mut demo, lines) = demonstration(directory.path());
    succeed(&mut lab_command(directory.path(), &["run", "--requests", "6"]));
    succeed(Command::new("kill").args(["-INT", &demo.0.id().to_string()]));
    assert_eq!(lines.last().as_deref(), Some("the lab is down"));
    assert!(demo.0.wait().unwrap().success());
    assert!(!directory.path().join("drover-lab/lab").exists());
}

#[test]
fn a_demonstration_that_is_killed_takes_the_laboratory_with_it() {
    let directory = private_directory();
    let (demo, _lines) = demonstration(directory.path());
    let place = LabDir::under(&directory.path().join("drover-lab"), "lab").unwrap();
    assert!(place.recall().unwrap().is_some());
    drop(demo);
    until("the holder to end", || match place.recall().unwrap() {
        Some(holder) => Err(format!("process {} is still there", holder.pid())),
        None => Ok(()),
    });
    assert!(place.path().join("holder.json").exists());
    assert!(succeed(&mut lab_command(directory.path(), &["down"])).contains("no lab is up"));
    assert!(!place.path().exists());
}

#[test]
fn the_client_sees_one_machine() {
    let bench = Bench::new();
    let _droverd = bench.direct(LabPort::Tap);
    let answer = bench.get(CLIENT, &format!("http://{VIP}/")).unwrap();
    assert!(REALS.contains(&answer.trim()), "{answer}");
    let refused = bench.get(CLIENT, &format!("http://{VIP}:81/")).unwrap_err();
    assert!(refused.contains("curl"), "{refused}");
    assert!(bench.lab.stats().unwrap().manage.resets > 0, "refused, and not left waiting");
}
