//! The words: strict towards requests, lenient towards answers, calm towards everything else.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use drover::control::client::{Client, ClientError};
use drover::control::wire::*;
use proptest::prelude::*;
use tempfile::TempDir;

use crate::director::{self, drover};

fn requests() -> Vec<Request> {
    let from = ConnCursor { worker: 1, bucket: 77 };
    let service = ServiceName { tcp: Some("10.9.0.100:80".into()), ..ServiceName::default() };
    let words = ServiceWords {
        mark: Some(7),
        scheduler: Some("mh".into()),
        flags: Some("mh-port".into()),
        persistent: Some(300),
        netmask: Some("255.255.255.0".into()),
        expire_quiescent: true,
        one_packet: true,
        on_removed: Some("reset".into()),
        on_miss: Some("drop".into()),
        ..ServiceWords::default()
    };
    let real = RealWords { weight: Some(3), upper: Some(9), lower: Some(3), ..real() };
    vec![
        Request::Status,
        Request::ServiceList,
        Request::ConnList { from },
        Request::Stats,
        Request::Stop,
        Request::ConfigShow,
        Request::ServiceAdd { service: words.clone(), dry_run: true },
        Request::ServiceEdit { service: words, dry_run: false },
        Request::ServiceDelete { service: service.clone(), dry_run: true },
        Request::RealAdd { service: service.clone(), real: real.clone(), dry_run: false },
        Request::RealEdit { service: service.clone(), real, dry_run: true },
        Request::RealDelete { service, real: RealName { address: "10.9.0.11".into() }, dry_run: false },
        Request::Timeouts { tcp: Some(900), tcp_fin: None, udp: Some(-1), dry_run: true },
        Request::Reload { dry_run: false },
    ]
}

fn real() -> RealWords {
    RealWords { address: "10.9.0.11".into(), mac: Some("02:00:00:00:00:11".into()), ..RealWords::default() }
}

#[test]
fn every_request_survives_the_socket() {
    for request in requests() {
        let line = serde_json::to_vec(&Envelope::new(request.clone())).unwrap();
        assert_eq!(parse_request(&line), Ok(request));
    }
    assert_eq!(parse_request(br#"{"v":1,"verb":"conn list"}"#), Ok(Request::ConnList { from: ConnCursor::default() }));
}

#[test]
fn every_answer_survives_the_socket() {
    let page = ConnPage { connections: director::connections(), next: Some(ConnCursor { worker: 1, bucket: 3 }) };
    for outcome in [
        Outcome::Ok(Answer::Status(director::status())),
        Outcome::Ok(Answer::Services(director::services())),
        Outcome::Ok(Answer::Connections(page)),
        Outcome::Ok(Answer::Stats(director::stats())),
        Outcome::Ok(Answer::Changed(Changed {
            dry_run: false,
            changes: vec!["delete service FWM 7".into()],
            notes: vec!["a note".into()],
            epoch: 4,
            workers_behind: 1,
        })),
        Outcome::Ok(Answer::Timeouts(TimeoutsEntry { tcp: 900, tcp_fin: 120, udp: 300 })),
        Outcome::Ok(Answer::Config("idle = \"wait\"\n".into())),
        Outcome::Ok(Answer::Stopping),
        Outcome::Error("no \"such\" thing\n".into()),
    ] {
        let reply = Reply::new(outcome);
        let line = serde_json::to_string(&reply).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Reply>(&line).unwrap(), reply);
    }
}

#[test]
fn each_kind_of_bad_request_is_told_what_is_wrong() {
    for (line, why) in [
        (&b"\xff{}"[..], "the request is not UTF-8"),
        (b"", "not a JSON object on one line"),
        (b"status", "not a JSON object on one line"),
        (b"[1]", "not a JSON object on one line"),
        (br#"{"v":1,"verb":"status"} {}"#, "not a JSON object on one line"),
        (br#"{"verb":"status"}"#, "has no version: put \"v\":1 in it"),
        (br#"{"v":2,"verb":"status"}"#, "of version 2; this director speaks version 1"),
        (br#"{"v":"1","verb":"status"}"#, "of version \"1\""),
        (
            br#"{"v":1}"#,
            "no \"verb\"; there are \"status\", \"service list\", \"conn list\", \"stats\", \"service add\", ",
        ),
        (br#"{"v":1,"verb":"reboot"}"#, "unknown verb \"reboot\"; there are \"status\""),
        (br#"{"v":1,"verb":7}"#, "unknown verb 7"),
        (br#"{"v":1,"verb":"stop","now":true}"#, "\"stop\" has no field \"now\""),
        (br#"{"v":1,"verb":"conn list","from":3}"#, "\"conn list\": invalid type"),
        (br#"{"v":1,"verb":"conn list","from":{"worker":-1,"bucket":0}}"#, "\"conn list\": invalid value"),
        (br#"{"v":1,"verb":"conn list","from":{"worker":1,"bucket":0,"slot":2}}"#, "unknown field `slot`"),
        (br#"{"v":1,"verb":"service add"}"#, "\"service add\": missing field `service`"),
        (
            br#"{"v":1,"verb":"service add","service":{"tcp":"10.9.0.101:80","sheduler":"rr"}}"#,
            "unknown field `sheduler`",
        ),
        (br#"{"v":1,"verb":"service add","service":{"tcp":80}}"#, "\"service add\": invalid type"),
        (br#"{"v":1,"verb":"service delete","service":{"tcp":"a","scheduler":"rr"}}"#, "unknown field `scheduler`"),
        (br#"{"v":1,"verb":"real add","service":{"mark":7},"real":{}}"#, "missing field `address`"),
        (
            br#"{"v":1,"verb":"real delete","service":{"mark":7},"real":{"address":"a","weight":1}}"#,
            "unknown field `weight`",
        ),
        (br#"{"v":1,"verb":"timeouts","tcp":1e99}"#, "\"timeouts\": invalid type"),
        (br#"{"v":1,"verb":"timeouts","sctp":3}"#, "\"timeouts\" has no field \"sctp\""),
        (br#"{"v":1,"verb":"reload","file":"/etc/passwd"}"#, "\"reload\" has no field \"file\""),
        (br#"{"v":1,"verb":"reload","dry_run":"no"}"#, "\"reload\": invalid type"),
    ] {
        let said = parse_request(line).unwrap_err().to_string();
        assert!(said.contains(why), "{}: {said}", String::from_utf8_lossy(line));
    }
}

#[test]
fn what_a_peer_wrote_is_quoted_only_in_part() {
    let line = format!(r#"{{"v":1,"verb":"{}"}}"#, "x".repeat(60_000));
    assert!(parse_request(line.as_bytes()).unwrap_err().to_string().len() < 300);
    let deep = "[".repeat(MAX_REQUEST);
    assert!(parse_request(deep.as_bytes()).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_a_request_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse_request(&bytes);
    }

    #[test]
    fn a_damaged_request_is_another_request_or_an_error(
        which in 0..14usize, at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>(),
    ) {
        let mut line = serde_json::to_vec(&Envelope::new(requests()[which].clone())).unwrap();
        let at = at.index(line.len());
        line[at] = byte;
        if let Ok(request) = parse_request(&line) {
            let again = serde_json::to_vec(&Envelope::new(request.clone())).unwrap();
            prop_assert_eq!(parse_request(&again), Ok(request));
        }
        let _ = parse_request(&line[..cut.index(line.len())]);
    }
}

/// Somebody who answers the first request of the first client with these bytes.
pub fn impostor(answer: impl FnOnce(&mut dyn Write) + Send + 'static) -> (TempDir, PathBuf, JoinHandle<()>) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("impostor.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let thread = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut byte = [0];
        while stream.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {}
        answer(&mut stream);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        // Until the client has gone: a lost connection is not what is tested here.
        while matches!(stream.read(&mut byte), Ok(1)) {}
    });
    (directory, path, thread)
}

fn ask(path: &Path) -> Result<Answer, ClientError> {
    Client::connect_within(path, Duration::from_secs(10))?.ask(&Request::Status)
}

fn answered(line: String) -> Result<Answer, ClientError> {
    let (_directory, path, thread) = impostor(move |stream| stream.write_all(line.as_bytes()).unwrap());
    let outcome = ask(&path);
    thread.join().unwrap();
    outcome
}

/// Adds a field to each object.
fn extended(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Object(fields) => {
            let known = fields.into_iter().map(|(name, value)| match name.as_str() {
                // A map of the director's own names; a name more is a drop reason more.
                "dropped" => (name, value),
                _ => (name, extended(value)),
            });
            Value::Object(known.chain([("of_the_future".into(), Value::from("x"))]).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(extended).collect()),
        other => other,
    }
}

#[test]
fn fields_of_a_newer_director_are_passed_over() {
    for answer in [
        Answer::Status(director::status()),
        Answer::Services(director::services()),
        Answer::Stats(director::stats()),
        Answer::Connections(ConnPage { connections: director::connections(), next: None }),
    ] {
        let mut reply = serde_json::to_value(Reply::new(Outcome::Ok(answer.clone()))).unwrap();
        for inner in reply["ok"].as_object_mut().unwrap().values_mut() {
            *inner = extended(inner.take());
        }
        reply["of_the_future"] = "x".into();
        assert_eq!(answered(format!("{reply}\n")).unwrap(), answer);
    }
}

#[test]
fn a_director_of_another_version_is_named_as_such() {
    let error = answered("{\"v\":2,\"done\":[]}\n".into()).unwrap_err();
    assert!(matches!(error, ClientError::OtherVersion(2)), "{error}");
    let (_directory, path, thread) = impostor(|stream| stream.write_all(b"{\"v\":9}\n").unwrap());
    let output = drover(&path, &["status"]);
    thread.join().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("the director speaks version 9"));
}

#[test]
fn an_answer_that_is_none_is_an_error() {
    for (line, expected) in [
        ("", "closed the connection without an answer"),
        ("{\"v\":1", "it ended in the middle"),
        ("hello\n", "is not understood"),
        ("{\"v\":1}\n", "is not understood"),
        ("{\"v\":1,\"ok\":{\"weather\":{}}}\n", "is not understood"),
        ("{\"v\":1,\"error\":\"not today\"}\n", "the director refused: not today"),
    ] {
        let said = answered(line.into()).unwrap_err().to_string();
        assert!(said.contains(expected), "{line}: {said}");
    }
}

#[test]
fn an_answer_without_end_is_not_read_to_its_end() {
    let (_directory, path, thread) = impostor(|stream| {
        let chunk = vec![b' '; 1 << 16];
        let written = (0..4 * MAX_ANSWER / chunk.len()).take_while(|_| stream.write_all(&chunk).is_ok()).count();
        assert!(written * chunk.len() < 2 * MAX_ANSWER, "the client reads on");
    });
    assert!(matches!(ask(&path), Err(ClientError::AnswerTooLong)));
    thread.join().unwrap();
}

#[test]
fn a_director_that_says_nothing_is_not_waited_for_for_ever() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("silent.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let outcome = Client::connect_within(&path, Duration::from_millis(50)).unwrap().ask(&Request::Status);
    assert!(matches!(outcome, Err(ClientError::TimedOut(_))));
}

#[test]
fn pages_that_go_in_a_circle_are_noticed() {
    let handler = director::By(|_| {
        let next = Some(ConnCursor { worker: 0, bucket: 4 });
        Outcome::Ok(Answer::Connections(ConnPage { connections: director::connections(), next }))
    });
    let running = director::Running::with(handler, Default::default());
    let output = running.drover(&["conn", "list"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("go in a circle"));
}
