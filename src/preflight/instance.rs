//! One droverd for each control socket: a lock on a file beside it, which the kernel gives back however we end.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags};

use super::Problem;

/// Held for the life of the process.
#[derive(Debug)]
pub struct InstanceLock {
    path: PathBuf,
    _file: File,
}

#[derive(Debug)]
pub(super) enum Refusal {
    /// Another instance holds the lock.
    Running(Problem),
    /// The lock's file cannot be made.
    Unusable(Problem),
}

impl Refusal {
    pub fn into_problem(self) -> Problem {
        match self {
            Refusal::Running(problem) | Refusal::Unusable(problem) => problem,
        }
    }
}

impl InstanceLock {
    /// Makes the socket's directory where it is missing. A socket that a dead instance left does not matter.
    pub fn take(socket: &Path) -> Result<InstanceLock, Problem> {
        InstanceLock::attempt(socket).map_err(Refusal::into_problem)
    }

    pub(super) fn attempt(socket: &Path) -> Result<InstanceLock, Refusal> {
        let mut name = socket.as_os_str().to_owned();
        name.push(".lock");
        let path = PathBuf::from(name);
        match lock(&path) {
            Ok(Some(file)) => Ok(InstanceLock { path, _file: file }),
            Ok(None) => Err(Refusal::Running(running(socket, &path))),
            Err(error) => {
                let what = format!("{} cannot be made: {error}", path.display());
                let remedy = "start droverd as root, or set a path under [control] that is yours";
                Err(Refusal::Unusable(Problem::new(what, remedy)))
            }
        }
    }
}

impl Drop for InstanceLock {
    fn drop(&mut self) {
        // While the lock is still held: whoever opened this file meanwhile sees that it is not the path's any more.
        let _ = fs::remove_file(&self.path);
    }
}

/// None: somebody else holds it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    }
    loop {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o644);
        let mut file = options.custom_flags(OFlags::NOFOLLOW.bits() as i32).open(path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        if is_at(&file, path)? {
            file.set_len(0)?;
            writeln!(file, "{}", std::process::id())?;
            return Ok(Some(file));
        }
    }
}

/// Whether the path still leads to the file that was locked, and not to a later one.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let locked = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (locked.dev(), locked.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn running(socket: &Path, path: &Path) -> Problem {
    const LONGEST_PID: u64 = 16;
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(LONGEST_PID).read_to_string(&mut text));
    let pid = read.ok().and_then(|_| text.trim().parse::<u32>().ok());
    let who = pid.map_or("another droverd".to_owned(), |pid| format!("another droverd (pid {pid})"));
    let what = format!("{who} is running with the control socket {}", socket.display());
    let remedy =
        format!("stop it with `drover --socket {} stop`, or set another socket under [control]", socket.display());
    Problem::new(what, remedy)
}
