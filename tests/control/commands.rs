//! The binary, as an operator uses it.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use drover::control::wire::*;
use serde_json::Value;
use tempfile::TempDir;

use crate::director::{self, By, Running, drover, page_from};

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json(running: &Running, arguments: &[&str]) -> Value {
    serde_json::from_str(&stdout(&running.drover(arguments))).unwrap()
}

#[test]
fn json_is_what_the_director_said_wherever_the_flag_stands() {
    let running = Running::fixed();
    for (verb, expected) in [
        (vec!["status"], serde_json::to_value(director::status()).unwrap()),
        (vec!["service", "list"], serde_json::to_value(director::services()).unwrap()),
        (vec!["conn", "list"], serde_json::to_value(director::connections()).unwrap()),
        (vec!["stats"], serde_json::to_value(director::stats()).unwrap()),
        (vec!["stop", "--wait", "0"], serde_json::json!({"stopped": false})),
    ] {
        assert_eq!(json(&running, &[&["--json"], &verb[..]].concat()), expected);
        assert_eq!(json(&running, &[&verb[..], &["--json"]].concat()), expected);
    }
}

#[test]
fn conn_list_follows_every_page_or_stops_at_its_limit() {
    let all: Vec<ConnEntry> = (0..10_000)
        .map(|number| {
            let client = format!("10.1.{}.{}:1024", number / 250, number % 250 + 1).parse().unwrap();
            ConnEntry { client, ..director::connections()[0].clone() }
        })
        .collect();
    let pages = all.clone();
    let running = Running::with(
        By(move |request| match request {
            Request::ConnList { from } => Outcome::Ok(Answer::Connections(page_from(from, &pages, CONN_PAGE))),
            _ => Outcome::Error("only connections".into()),
        }),
        Default::default(),
    );
    let listed: Vec<ConnEntry> = serde_json::from_value(json(&running, &["conn", "list", "--json"])).unwrap();
    assert_eq!(listed, all);
    for (limit, lines) in [("0", 1), ("1", 2), ("4097", 4098), ("20000", 10_001)] {
        assert_eq!(stdout(&running.drover(&["conn", "list", "--limit", limit])).lines().count(), lines);
    }
    assert_eq!(json(&running, &["--json", "conn", "list", "--limit", "0"]), serde_json::json!([]));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let connections = vec![director::connections()[0].clone(); CONN_PAGE];
    let running = Running::with(
        By(move |request| match request {
            Request::ConnList { from } => {
                let next = (from.bucket < 100).then_some(ConnCursor { worker: 0, bucket: from.bucket + 1 });
                Outcome::Ok(Answer::Connections(ConnPage { connections: connections.clone(), next }))
            }
            _ => Outcome::Error("only connections".into()),
        }),
        Default::default(),
    );
    let mut child = Command::new(env!("CARGO_BIN_EXE_drover"))
        .args(["conn", "list", "--socket"])
        .arg(running.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("pro expire state"));
    let mut complaint = String::new();
    child.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
    assert_eq!((child.wait().unwrap().code(), complaint.as_str()), (Some(0), ""));
}

#[test]
fn without_a_director_the_operator_is_told_what_to_look_at() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("none.sock");
    let output = drover(&path, &["status"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&format!("there is no config socket at {}", path.display())), "{said}");
    assert!(said.contains("Is droverd running?") && said.contains("--socket"), "{said}");

    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let output = drover(&path, &["stats"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("nobody listens at"));

    let long = Path::new("/").join("x".repeat(200));
    assert_eq!(drover(&long, &["stats"]).status.code(), Some(1));
}

#[test]
fn the_directors_refusal_is_passed_on() {
    let running = Running::with(By(|_| Outcome::Error("the moon is full".into())), Default::default());
    let real = ["real", "add", "tcp", "10.9.0.100:80", "10.9.0.11"];
    for verb in [
        &["status"][..],
        &["service", "list"],
        &["service", "delete", "mark", "7"],
        &real,
        &["timeouts"],
        &["reload"],
        &["config", "show"],
        &["conn", "list"],
        &["stats"],
        &["stop"],
    ] {
        let output = running.drover(verb);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8(output.stderr).unwrap().contains("the director refused: the moon is full"));
    }
}

#[test]
fn wrong_usage_is_exit_code_two() {
    for arguments in [
        &[][..],
        &["status", "now"],
        &["conn"],
        &["conn", "list", "--limit", "x"],
        &["reboot"],
        &["service", "add"],
        &["service", "add", "sctp", "10.9.0.100:80"],
        &["service", "add", "mark", "seven"],
        &["service", "add", "tcp", "10.9.0.100:80", "-p", "long"],
        &["real", "add", "tcp", "10.9.0.100:80"],
        &["real", "delete", "tcp", "10.9.0.100:80", "10.9.0.11", "-w", "1"],
        &["timeouts", "900", "120"],
    ] {
        assert_eq!(drover(Path::new("/nowhere"), arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn the_socket_named_on_the_command_line_wins() {
    let running = Running::fixed();
    let path = running.path();
    let by_flag = drover(Path::new("/nowhere"), &["stats", "--socket", path.to_str().unwrap()]);
    assert_eq!(stdout(&by_flag), stdout(&running.drover(&["stats"])));
}

#[test]
fn there_is_no_colour_in_a_pipe() {
    let running = Running::fixed();
    for verb in [&["status"][..], &["service", "list"], &["stats"]] {
        assert!(!stdout(&running.drover(verb)).contains('\x1b'));
    }
}

#[test]
fn status_takes_less_than_twenty_milliseconds() {
    let running = Running::fixed();
    let once = || {
        let begun = Instant::now();
        stdout(&running.drover(&["status"]));
        begun.elapsed()
    };
    let best = (0..20).map(|_| once()).min().unwrap();
    assert!(best < Duration::from_millis(20), "{best:?}");
}

#[test]
fn drover_needs_no_dpdk() {
    let output = Command::new("ldd").arg(env!("CARGO_BIN_EXE_drover")).output().unwrap();
    let libraries = stdout(&output);
    assert!(libraries.contains("libc.so"), "{libraries}");
    assert!(!libraries.contains("librte"), "{libraries}");
}
