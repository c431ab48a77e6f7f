//! A director that is changed while clients use it: nothing is lost that is not taken away.
//! Runs as root or, through user namespaces, as anybody.
#![cfg(feature = "dpdk")]

mod harness;

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use drover::control::wire::{RealState, ServiceEntry};
use drover::lab::director::CONFIGURATION;
use drover::lab::servers::serve;
use drover::lab::{CLIENT, LabPort, REALS, VIP, run};
use harness::{Bench, succeed, until};

const WEB: [&str; 2] = ["tcp", "10.9.0.100:80"];

fn does(bench: &Bench, line: &[&str]) -> String {
    succeed(bench.drover().args(line))
}

fn real(bench: &Bench, verb: &str, rest: &[&str]) -> String {
    does(bench, &[&["real", verb], &WEB[..], rest].concat())
}

fn resolved(bench: &Bench, service: &str, reals: usize) {
    until("the reals of the service to be resolved", || {
        let services = bench.lab.services().unwrap();
        let its = |entry: &&ServiceEntry| entry.address == service;
        let found = services.iter().find(its).ok_or("no such service")?;
        let resolved = found.reals.iter().filter(|real| real.state == RealState::Resolved).count();
        if resolved == reals && found.reals.len() == reals { Ok(()) } else { Err(format!("{services:?}")) }
    });
}

/// Requests are under way all the time; a real comes, drains, and goes.
#[test]
fn reals_come_and_go_while_requests_run() {
    let bench = Bench::new();
    let _droverd = bench.direct(LabPort::Tap);
    // What the file says is not what is in force from here on.
    real(&bench, "delete", &["10.9.0.13"]);
    let before = bench.lab.stats().unwrap();
    let (outcome, rounds) = thread::scope(|scope| {
        let requests = scope.spawn(|| run::requests(&bench.lab, 6000).unwrap());
        let mut rounds = 0;
        while !requests.is_finished() {
            let said = real(&bench, "add", &["10.9.0.13", "--weight", "3"]);
            assert!(said.ends_with("is in force on all workers\n"), "{said}");
            resolved(&bench, "10.9.0.100:80", 3);
            thread::sleep(Duration::from_millis(50));
            real(&bench, "edit", &["10.9.0.13", "-w", "0"]);
            // Drained: what is under way comes to its end first.
            until("its last connection to end", || {
                let services = bench.lab.services().unwrap();
                let active = services[0].reals[2].traffic.active;
                if active == 0 { Ok(()) } else { Err(format!("{active} active")) }
            });
            real(&bench, "delete", &["10.9.0.13"]);
            resolved(&bench, "10.9.0.100:80", 2);
            rounds += 1;
        }
        (requests.join().unwrap(), rounds)
    });
    assert!(rounds >= 3 && outcome.served["real3"] > 50, "{rounds} rounds, {outcome:?}");
    assert_eq!(outcome.failed, 0, "{outcome:?}\n{}", bench.log());
    let dropped = run::dropped_between(&before, &bench.lab.stats().unwrap());
    let named: BTreeMap<_, _> = dropped.into_iter().filter(|(name, _)| name != "not_our_mac").collect();
    assert_eq!(named, BTreeMap::new());
}

/// A new virtual address is answered for at once, serves, and is nobody's again.
#[test]
fn a_service_comes_and_goes() {
    const NEW: &str = "10.9.0.101";
    let bench = Bench::new();
    let _droverd = bench.direct(LabPort::Tap);
    let unanswered = bench.try_sh(CLIENT, &format!("ping -c 1 -W 1 {NEW}"));
    assert!(!unanswered.status.success());
    for host in &REALS[..2] {
        bench.sh(host, &format!("ip addr add {NEW}/32 dev lo"));
        // Its own directory: the lab's nginx has the host's name.
        std::fs::rename(bench.lab.path().join(host), bench.lab.path().join(format!("{host}-first"))).unwrap();
        serve(&bench.lab, host, &[&format!("{NEW}:8080")]).unwrap();
    }
    does(&bench, &["service", "add", "tcp", "10.9.0.101:8080", "--scheduler", "rr"]);
    for address in ["10.9.0.11", "10.9.0.12"] {
        does(&bench, &["real", "add", "tcp", "10.9.0.101:8080", address]);
    }
    resolved(&bench, "10.9.0.101:8080", 2);
    bench.pings_are_answered_once(NEW);
    assert_eq!(bench.neighbour(CLIENT, NEW), Some(bench.director_mac()));
    let mut served: Vec<String> =
        (0..4).map(|_| bench.get(CLIENT, &format!("http://{NEW}:8080/")).unwrap().trim().to_owned()).collect();
    served.sort();
    assert_eq!(served, ["real1", "real1", "real2", "real2"]);

    does(&bench, &["service", "delete", "tcp", "10.9.0.101:8080"]);
    bench.sh(CLIENT, &format!("ip neigh flush to {NEW}"));
    assert!(!bench.try_sh(CLIENT, &format!("ping -c 1 -W 1 {NEW}")).status.success());
    assert!(bench.get(CLIENT, &format!("http://{VIP}/")).is_ok());
}

/// Two requests over one connection, the second when the file is there; prints who answered each.
const TWICE: &str = r#"
exec 3<>/dev/tcp/10.9.0.100/80
ask() { printf 'GET / HTTP/1.1\r\nHost: vip\r\n\r\n' >&3; }
answer() { while read -r -t 5 line <&3; do case $line in X-Real:*) echo "${line%$'\r'}";; real?) return;; esac; done; }
ask; answer
while [ ! -e $GO ]; do sleep 0.02; done
ask; answer
"#;

/// Its packets are another service's from a moment in its middle on; it stays with its server.
#[test]
fn a_connection_stays_when_another_service_takes_its_packets() {
    const ALL: [&str; 2] = ["tcp", "10.9.0.100:0"];
    let bench = Bench::new();
    let _droverd = bench.direct(LabPort::Tap);
    does(&bench, &["service", "delete", WEB[0], WEB[1]]);
    does(&bench, &["service", "add", ALL[0], ALL[1], "--scheduler", "rr", "--persistent", "60"]);
    does(&bench, &["real", "add", ALL[0], ALL[1], "10.9.0.11"]);
    resolved(&bench, "10.9.0.100:0", 1);
    let go = bench.file("go");
    let script = bench.file("twice");
    std::fs::write(&script, TWICE.replace("$GO", go.to_str().unwrap())).unwrap();
    let said = thread::scope(|scope| {
        let twice = scope.spawn(|| bench.sh(CLIENT, &format!("bash {}", script.display())));
        until("the connection", || {
            let active = bench.lab.services().unwrap()[0].reals[0].traffic.active;
            if active == 1 { Ok(()) } else { Err(format!("{active} active")) }
        });
        does(&bench, &["service", "add", WEB[0], WEB[1], "--scheduler", "rr"]);
        real(&bench, "add", &["10.9.0.12"]);
        resolved(&bench, WEB[1], 1);
        assert_eq!(bench.get(CLIENT, &format!("http://{VIP}/")).unwrap().trim(), "real2", "who is new");
        std::fs::write(&go, "").unwrap();
        twice.join().unwrap()
    });
    assert_eq!(said, "X-Real: real1\nX-Real: real1\n");
}

/// The file is read again, with requests under way: what it says anew is done, the rest is not touched.
#[test]
fn a_file_is_read_again() {
    let bench = Bench::new();
    let _droverd = bench.direct(LabPort::AfPacket);
    let file = bench.lab.path().join("droverd.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("\"wrr\"", "\"wrrr\"")).unwrap();
    let refused = bench.drover().arg("reload").output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("service[0].scheduler: there is no scheduler \"wrrr\""), "{said}");
    assert!(CONFIGURATION.contains("weight = 3"));
    std::fs::write(&file, text.replace("\"wrr\"", "\"rr\"")).unwrap();
    let outcome = thread::scope(|scope| {
        let requests = scope.spawn(|| run::requests(&bench.lab, 2000).unwrap());
        let plan = does(&bench, &["reload", "--dry-run"]);
        assert!(plan.starts_with("edit service TCP 10.9.0.100:80 rr\na dry run"), "{plan}");
        let said = does(&bench, &["reload"]);
        assert!(said.starts_with("edit service TCP 10.9.0.100:80 rr\ndone: epoch "), "{said}");
        requests.join().unwrap()
    });
    assert_eq!(outcome.failed, 0);
    assert_eq!(bench.lab.services().unwrap()[0].scheduler, "rr");
}
