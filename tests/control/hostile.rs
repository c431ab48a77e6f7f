//! Clients as bad as they come: the others do not feel them, and memory does not grow.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use drover::control::server::Options;
use drover::control::wire::*;

use crate::director::{By, Fixed, Peer, Running, eventually};

const STATUS: &str = r#"{"v":1,"verb":"status"}"#;

fn brief() -> Options {
    Options { idle: Duration::from_millis(300), take: Duration::from_millis(300), ..Options::default() }
}

fn assert_serves(running: &Running) {
    let begun = Instant::now();
    assert!(running.connect().exchange(STATUS).starts_with(r#"{"v":1,"ok":{"status""#));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[test]
fn garbage_in_whole_lines_is_answered_line_by_line() {
    let running = Running::fixed();
    let mut peer = running.connect();
    for garbage in [&b"\0\0\0\n"[..], b"\xff\xfe\n", b"GET / HTTP/1.1\r\n", b"\n", b"{\"v\":1,\"verb\":\"format\"}\n"] {
        peer.say(garbage);
        assert!(peer.hear().starts_with(r#"{"v":1,"error":"#));
    }
    assert!(peer.exchange(STATUS).contains("\"ok\""), "the framing was never lost");
}

#[test]
fn several_requests_in_one_write_have_several_answers() {
    let mut peer_of = Running::fixed();
    let mut peer = peer_of.connect();
    peer.say(format!("{STATUS}\n{{\"v\":1,\"verb\":\"stop\"}}\n{STATUS}\n").as_bytes());
    assert!(peer.hear().contains("\"status\""));
    assert_eq!(peer.hear(), r#"{"v":1,"ok":"stopping"}"#);
    assert!(peer.hear().contains("\"status\""));
    peer_of.server = None;
}

#[test]
fn a_gigabyte_without_a_newline_is_cut_short() {
    let running = Running::fixed();
    let mut peer = running.connect();
    let chunk = vec![b'x'; 1 << 20];
    let taken = (0..1024).take_while(|_| peer.stream.write_all(&chunk).is_ok()).count();
    assert!(taken < 8, "{taken} MB were taken");
    assert_eq!(peer.hear(), r#"{"v":1,"error":"the request is longer than 65536 bytes"}"#);
    assert_eq!(peer.hear(), "");
    assert_serves(&running);
}

#[test]
fn the_longest_line_is_taken_and_one_byte_more_is_not() {
    let running = Running::fixed();
    let padded = |length: usize| format!("{}{STATUS}", " ".repeat(length - STATUS.len()));
    assert!(running.connect().exchange(&padded(MAX_REQUEST - 1)).contains("\"ok\""));
    assert!(running.connect().exchange(&padded(MAX_REQUEST)).contains("longer than 65536 bytes"));
}

#[test]
fn a_line_that_drips_in_is_given_up() {
    let running = Running::with(Fixed, brief());
    let mut peer = running.connect();
    peer.stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    let begun = Instant::now();
    let mut first = [0; 1];
    // Each byte would be in time, all of them together are not.
    while peer.stream.write_all(b" ").is_ok() {
        match peer.stream.read(&mut first) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                assert!(begun.elapsed() < Duration::from_secs(5), "the server waits on");
            }
            _ => break,
        }
    }
    peer.stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert!(peer.hear().ends_with("the request was not complete within 0.3 s\"}"));
    assert_eq!(peer.hear(), "");
}

#[test]
fn half_a_line_and_then_the_end_is_an_error() {
    let running = Running::fixed();
    let mut peer = running.connect();
    peer.say(br#"{"v":1,"verb":"st"#);
    peer.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(peer.hear(), r#"{"v":1,"error":"the request ended without a newline"}"#);
    assert_eq!(peer.hear(), "");
}

#[test]
fn an_idle_client_is_told_and_let_go() {
    let running = Running::with(Fixed, brief());
    let mut peer = running.connect();
    assert_eq!(peer.hear(), r#"{"v":1,"error":"no request came within 0.3 s"}"#);
    assert_eq!(peer.hear(), "");
}

#[test]
fn of_a_hundred_clients_thirty_two_are_served_and_the_others_told() {
    let running = Running::fixed();
    let mut served: Vec<Peer> = (0..32).map(|_| running.connect()).collect();
    for peer in &mut served {
        assert!(peer.exchange(STATUS).contains("\"ok\""));
    }
    for _ in 32..100 {
        let mut peer = running.connect();
        let said = peer.hear();
        assert_eq!(said, r#"{"v":1,"error":"32 clients are on the config socket already; try again later"}"#);
    }
    let output = running.drover(&["status"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("the director refused: 32 clients"), "{output:?}");
    assert!(served[31].exchange(STATUS).contains("\"ok\""));
    served.pop();
    eventually("a place is free", || running.connect().exchange_or_end(STATUS).contains("\"ok\""));
}

#[test]
fn clients_that_come_and_go_leave_nothing_behind() {
    let running = Running::fixed();
    for round in 0..200 {
        let mut peer = running.connect();
        match round % 3 {
            0 => drop(peer),
            1 => peer.say(b"{\"v\""),
            _ => peer.say(format!("{STATUS}\n{STATUS}\n").as_bytes()),
        }
        eventually("served", || running.connect().exchange_or_end(STATUS).contains("\"ok\""));
    }
}

#[test]
fn a_client_that_never_reads_is_let_go_and_stalls_nobody() {
    let handled = Arc::new(AtomicUsize::new(0));
    let count = handled.clone();
    let handler = By(move |request| match request {
        Request::ServiceList => {
            count.fetch_add(1, Ordering::Relaxed);
            Outcome::Error("x".repeat(4 << 20))
        }
        _ => Outcome::Ok(Answer::Status(crate::director::status())),
    });
    let running = Running::with(handler, brief());
    let mut deaf = running.connect();
    deaf.stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    let refused = (0..100_000).find_map(|_| {
        if handled.load(Ordering::Relaxed) == 1 {
            assert_serves(&running);
        }
        deaf.stream.write_all(b"{\"v\":1,\"verb\":\"service list\"}\n").err()
    });
    let kind = refused.expect("the server has let go").kind();
    assert!(matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{kind}: the server waits on");
    assert_eq!(handled.load(Ordering::Relaxed), 1, "one answer at a time");
    assert_serves(&running);
}

/// Against a whole director: whatever is asked to be changed, by whoever may, it is an answer, and what it does is sound.
#[test]
fn any_change_that_can_be_written_is_made_or_refused() {
    let live = crate::live::Live::start(crate::live::FILE);
    let long = "9".repeat(20_000);
    let names = ["tcp", "udp", "mark", "scheduler", "flags", "persistent", "netmask", "on_miss", "address", "weight"];
    let values = [
        "\"\"",
        "\"10.9.0.101:80\"",
        "\"\\u0000\\u001b[31m\"",
        "7",
        "-1",
        "9223372036854775807",
        "true",
        "null",
        &long,
    ];
    let mut peer = live.connect();
    for verb in ["service add", "service edit", "service delete", "real add", "real edit", "real delete"] {
        for (name, value) in names.iter().flat_map(|name| values.iter().map(move |value| (name, value))) {
            for other in ["", ",\"tcp\":\"10.9.0.100:80\"", ",\"udp\":\"10.9.0.255:0-70000\""] {
                let service = format!("{{\"{name}\":{value}{other}}}");
                let real = format!("{{\"address\":\"10.9.0.13\",\"{name}\":{value}}}");
                let real = if verb.starts_with("real") { format!(",\"real\":{real}") } else { String::new() };
                let said = peer.exchange(&format!("{{\"v\":1,\"verb\":\"{verb}\",\"service\":{service}{real}}}"));
                assert!(said.starts_with("{\"v\":1,\"ok\":") || said.starts_with("{\"v\":1,\"error\":"), "{said}");
                assert!(said.len() < 2000 && !said.contains('\x1b'), "{}", &said[..said.len().min(3000)]);
            }
        }
    }
    // What is in force is a configuration that its own check finds good.
    let shown = live.does("config show");
    let running = drover::config::parse(&shown, "shown").unwrap_or_else(|errors| panic!("{errors}\n{shown}"));
    assert_eq!(running.services.len(), live.services().len());
}

#[test]
fn an_answer_too_long_for_the_socket_is_an_error_and_not_a_broken_line() {
    let running = Running::with(By(|_| Outcome::Error("x".repeat(MAX_ANSWER))), Options { ..Options::default() });
    let said = running.connect().exchange(STATUS);
    assert!(said.contains("the answer cannot be sent: it is longer than"), "{}", &said[..said.len().min(200)]);
}
