//! The socket's life: how it comes, who may use it, how it goes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Output;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use drover::control::server::{Options, Server};
use drover::control::wire::*;
use tempfile::TempDir;

use crate::director::{By, Fixed, Peer, Running, drover, eventually};

const STATUS: &str = r#"{"v":1,"verb":"status"}"#;

#[test]
fn a_missing_directory_is_made_and_the_socket_goes_with_its_server() {
    let directory = TempDir::new().unwrap();
    let parent = directory.path().join("run/drover");
    let path = parent.join("drover.sock");
    let server = Server::start(&path, Arc::new(Fixed)).unwrap();
    assert_eq!(server.path(), path);
    assert_eq!(fs::metadata(&parent).unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o660);
    drop(server);
    assert!(!path.exists());
}

#[test]
fn what_a_killed_director_left_is_replaced() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("drover.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let _server = Server::start(&path, Arc::new(Fixed)).unwrap();
    assert!(Peer::connect(&path).exchange(STATUS).starts_with(r#"{"v":1,"ok":{"status""#));
}

#[test]
fn a_director_that_answers_is_left_alone() {
    let running = Running::fixed();
    let error = Server::start(&running.path(), Arc::new(Fixed)).err().unwrap();
    assert!(error.to_string().contains("another director answers at"), "{error}");
    assert!(running.connect().exchange(STATUS).contains("\"ok\""));
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("drover.sock");
    fs::write(&path, "precious").unwrap();
    let error = Server::start(&path, Arc::new(Fixed)).err().unwrap();
    assert!(error.to_string().contains("exists and is not a socket"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_server_removes_no_socket_but_its_own() {
    let mut running = Running::fixed();
    fs::rename(running.path(), running.directory.path().join("aside")).unwrap();
    let successor = Server::start(&running.path(), Arc::new(Fixed)).unwrap();
    running.server = None;
    assert!(running.connect().exchange(STATUS).contains("\"ok\""));
    drop(successor);
}

#[test]
fn a_server_ends_at_once_whatever_its_clients_do() {
    let mut running = Running::fixed();
    let idle = running.connect();
    let mut half = running.connect();
    half.say(b"{\"v\":1,");
    // Clients are taken in their order: when the last is served, the others have their places.
    let mut asked = running.connect();
    assert!(asked.exchange(STATUS).contains("\"ok\""));
    let begun = Instant::now();
    running.server = None;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    for mut client in [idle, half, asked] {
        eventually("the conversation has ended", || client.hear().is_empty());
    }
}

/// The moment that is left for last words is not waited for when nobody is speaking.
#[test]
fn idle_clients_do_not_hold_up_the_end() {
    let once = || {
        let mut running = Running::fixed();
        let _idle = running.connect();
        // So that the idle client's thread waits for it by now.
        for _ in 0..50 {
            running.connect().exchange_or_end(STATUS);
        }
        let begun = Instant::now();
        running.server = None;
        begun.elapsed()
    };
    let best = (0..5).map(|_| once()).min().unwrap();
    assert!(best < Duration::from_millis(200), "{best:?}");
}

#[test]
fn every_thread_is_pinned_before_it_works() {
    let (started, names) = mpsc::channel();
    let on_thread_start = Arc::new(move || {
        started.send(std::thread::current().name().unwrap().to_string()).unwrap();
    });
    let running = Running::with(Fixed, Options { on_thread_start, ..Options::default() });
    running.connect().exchange(STATUS);
    let names: Vec<String> = names.try_iter().collect();
    assert_eq!(names, ["control", "control-client"]);
}

/// Starts a director that ends when told to, and tells it.
pub fn stopping_director(arguments: &[&str]) -> Output {
    let (told, when_told) = mpsc::channel();
    let handler = By(move |request| match request {
        Request::Stop => {
            told.send(()).unwrap();
            Outcome::Ok(Answer::Stopping)
        }
        _ => Outcome::Error("only stop".into()),
    });
    let mut running = Running::with(handler, Options::default());
    let path = running.path();
    let (_ended, until_ended) = mpsc::channel::<()>();
    let main = std::thread::spawn(move || {
        when_told.recv().unwrap();
        running.server = None;
        drop(until_ended);
        running
    });
    let output = drover(&path, arguments);
    main.join().unwrap();
    output
}

#[test]
fn stop_waits_until_the_director_has_gone() {
    let output = stopping_director(&["stop"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "the director has stopped\n");
    assert!(output.status.success());
}

#[test]
fn stop_does_not_wait_for_ever() {
    let running = Running::fixed();
    let output = running.drover(&["stop", "--wait", "1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is still there after 1 s"));
    let output = running.drover(&["stop", "--wait", "0"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "the director is stopping\n");
}

#[test]
fn a_handler_that_panics_costs_one_client_its_answer() {
    let handler = By(|request| match request {
        Request::Stats => panic!("a fault on purpose"),
        _ => Outcome::Ok(Answer::Status(crate::director::status())),
    });
    let running = Running::with(handler, Options { clients: 1, ..Options::default() });
    assert_eq!(running.connect().exchange(r#"{"v":1,"verb":"stats"}"#), "");
    eventually("the place is free again", || running.connect().exchange_or_end(STATUS).contains("\"ok\""));
}
