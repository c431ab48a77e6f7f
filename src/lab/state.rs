//! The lab's directory: its configuration, logs and socket, and the note of who holds it.
//!
//! It lies where only its owner can write. In /tmp somebody else may have made a directory of our name first, or a
//! symbolic link: then it is refused rather than used.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use super::error::{LabError, Result, doing};
use super::holder::Holder;

/// One lab's directory. Who makes it or removes it locks it first.
pub struct LabDir {
    path: PathBuf,
    lock: File,
}

#[derive(Serialize, Deserialize)]
struct Note {
    holder: u32,
    start_time: u64,
}

impl LabDir {
    /// The directory of the lab called `name`, which need not exist yet.
    pub fn new(name: &str) -> Result<LabDir> {
        LabDir::under(&base()?, name)
    }

    pub fn under(base: &Path, name: &str) -> Result<LabDir> {
        let lock_path = base.join(format!("{name}.lock"));
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(doing(lock_path.display()))?;
        Ok(LabDir { path: base.join(name), lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the directory for a new lab; refuses when one is up, clears what a crashed one left.
    pub fn create(self) -> Result<LabDir> {
        self.exclusively()?;
        if self.recall()?.is_some() {
            return Err(LabError::new("a lab is already up; `drover lab down` takes it down"));
        }
        self.remove_files()?;
        private_directory(&self.path)?;
        Ok(self)
    }

    pub fn remember(&self, holder: &Holder) -> Result<()> {
        let note = Note { holder: holder.pid(), start_time: holder.start_time() };
        let text = serde_json::to_string(&note).map_err(doing("the lab's note"))?;
        fs::write(self.note(), text).map_err(doing(self.note().display()))
    }

    /// Who holds this lab, if it is still alive.
    pub fn recall(&self) -> Result<Option<Holder>> {
        let text = match fs::read_to_string(self.note()) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(doing(self.note().display())(error)),
        };
        let Ok(note) = serde_json::from_str::<Note>(&text) else { return Ok(None) };
        Ok(Holder::find(note.holder, note.start_time))
    }

    pub fn remove(&self) -> Result<()> {
        self.exclusively()?;
        self.remove_files()
    }

    fn note(&self) -> PathBuf {
        self.path.join("holder.json")
    }

    /// Others may now take it down.
    pub fn release(&self) -> Result<()> {
        rustix::fs::flock(&self.lock, FlockOperation::Unlock).map_err(doing("the lab's lock"))
    }

    fn exclusively(&self) -> Result<()> {
        rustix::fs::flock(&self.lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| LabError::new("another `drover lab` is at work on this lab; wait for it"))
    }

    fn remove_files(&self) -> Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(doing(self.path.display())(error)),
            _ => Ok(()),
        }
    }
}

/// Where this user's labs are: the session's runtime directory, or a private one under /tmp.
fn base() -> Result<PathBuf> {
    let user = geteuid().as_raw();
    let session = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let candidates = session.into_iter().chain([PathBuf::from(format!("/run/user/{user}"))]);
    for runtime in candidates {
        if fs::symlink_metadata(&runtime).is_ok_and(|found| is_private(&found)) {
            let path = runtime.join("drover-lab");
            return private_directory(&path).map(|()| path);
        }
    }
    let path = PathBuf::from(format!("/tmp/drover-lab-{user}"));
    private_directory(&path).map(|()| path)
}

/// Makes the directory, or makes sure that the one that is there is ours alone.
pub fn private_directory(path: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(doing(path.display())(error)),
    }
    let found: io::Result<fs::Metadata> = fs::symlink_metadata(path);
    if is_private(&found.map_err(doing(path.display()))?) {
        return Ok(());
    }
    Err(LabError::new(format!(
        "{} is not a directory of ours with mode 0700; somebody else made it: remove it, or set XDG_RUNTIME_DIR",
        path.display()
    )))
}

fn is_private(found: &fs::Metadata) -> bool {
    found.is_dir() && found.uid() == geteuid().as_raw() && found.permissions().mode() & 0o077 == 0
}
