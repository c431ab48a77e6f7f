//! The socket is never open to others. Alone in its process, because the umask is the whole process's.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use drover::control::server::{Handler, Server};
use drover::control::wire::{Answer, Outcome, Request};
use rustix::fs::Mode;
use tempfile::TempDir;

struct Mute;

impl Handler for Mute {
    fn handle(&self, _: Request) -> Outcome {
        Outcome::Ok(Answer::Stopping)
    }
}

#[test]
fn the_mode_is_0660_under_every_umask_and_never_wider() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("drover.sock");
    let done = AtomicBool::new(false);
    let seen = AtomicU64::new(0);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if let Ok(found) = fs::metadata(&path) {
                    assert_eq!(found.permissions().mode() & 0o117, 0, "{:o}", found.permissions().mode());
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let umasks = [0o000, 0o022, 0o077, 0o777].into_iter().cycle();
        // On a busy machine the watcher may come late.
        for (round, umask) in umasks.enumerate() {
            if round >= 400 && (seen.load(Ordering::Relaxed) > 0 || watcher.is_finished()) {
                break;
            }
            rustix::process::umask(Mode::from_raw_mode(umask));
            let server = Server::start(&path, Arc::new(Mute)).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o660, "umask {umask:o}");
            drop(server);
        }
        done.store(true, Ordering::Relaxed);
        watcher.join().unwrap();
    });
}
