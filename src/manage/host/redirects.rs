//! `send_redirects`. The kernel sends a redirect when `all` *or* the interface says so: turning one interface off means
//! turning `all` off, and saying for every other interface what `all` has said until now.

use std::io;
use std::path::{Path, PathBuf};

use super::check_name;

const SEND_REDIRECTS: &str = "send_redirects";
const ALL: &str = "all";
/// What new interfaces begin with. Writing it also changes the interfaces that nobody has set by themselves.
const DEFAULT: &str = "default";

/// The tree `/proc/sys/net/ipv4/conf` of this network namespace.
pub struct Conf {
    root: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub interface: String,
    pub original: u8,
    wanted: u8,
}

impl Conf {
    pub fn new(proc: &Path) -> Conf {
        Conf { root: proc.join("sys/net/ipv4/conf") }
    }

    pub fn write(&self, interface: &str, name: &str, value: u8) -> io::Result<()> {
        let path = self.root.join(interface).join(name);
        std::fs::write(&path, format!("{value}\n")).map_err(|error| about(&path, error))
    }

    /// What has to change for `managed` to send none, and in which order: `default` first, because that moves others,
    /// then those that are to go on, and `all` last. At no time do others do less, or more, than before.
    pub fn plan(&self, managed: &[&str]) -> io::Result<Vec<Change>> {
        managed.iter().try_for_each(|name| check_name(name))?;
        let all = self.read(ALL)?;
        let mut plan = Vec::new();
        if all != 0 {
            plan.extend(self.change(DEFAULT, 1)?);
            for other in self.interfaces()?.iter().filter(|name| !managed.contains(&name.as_str())) {
                plan.extend(self.unless_gone(other, 1)?);
            }
        }
        for name in managed {
            // Always written down: `default` may move it on the way.
            plan.push(Change { interface: (*name).to_owned(), original: self.read(name)?, wanted: 0 });
        }
        plan.extend(self.change(ALL, 0)?);
        let changes_nothing = plan.iter().all(|change| change.original == change.wanted);
        Ok(if changes_nothing { Vec::new() } else { plan })
    }

    pub fn apply(&self, plan: &[Change]) -> io::Result<()> {
        for change in plan {
            let optional = change.wanted == 1;
            match self.set(&change.interface, change.wanted) {
                Err(error) if optional && is_gone(&error) => {}
                outcome => outcome?,
            }
        }
        Ok(())
    }

    /// Puts the originals back, `all` and `default` first; an interface that has gone meanwhile needs nothing.
    pub fn restore<'a>(&self, originals: impl Iterator<Item = (&'a str, u8)>) -> Vec<io::Error> {
        let mut originals: Vec<_> = originals.collect();
        originals.sort_by_key(|(name, _)| match *name {
            ALL => 0,
            DEFAULT => 1,
            _ => 2,
        });
        let restored = originals.iter().map(|(name, original)| match *name {
            ALL | DEFAULT => self.set(name, *original),
            name => check_name(name).and_then(|()| match self.set(name, *original) {
                Err(error) if is_gone(&error) => Ok(()),
                outcome => outcome,
            }),
        });
        restored.filter_map(Result::err).collect()
    }

    fn change(&self, name: &str, wanted: u8) -> io::Result<Option<Change>> {
        let original = self.read(name)?;
        Ok((original != wanted).then(|| Change { interface: name.to_owned(), original, wanted }))
    }

    fn unless_gone(&self, name: &str, wanted: u8) -> io::Result<Option<Change>> {
        match self.change(name, wanted) {
            Err(error) if is_gone(&error) => Ok(None),
            outcome => outcome,
        }
    }

    /// Writes only what is not so already: a value that was written no longer follows `default`.
    fn set(&self, name: &str, value: u8) -> io::Result<()> {
        if self.read(name)? == value { Ok(()) } else { self.write(name, SEND_REDIRECTS, value) }
    }

    fn read(&self, name: &str) -> io::Result<u8> {
        let path = self.root.join(name).join(SEND_REDIRECTS);
        let text = std::fs::read_to_string(&path).map_err(|error| about(&path, error))?;
        // Any number but 0 means yes.
        text.trim()
            .parse::<i32>()
            .map(|value| u8::from(value != 0))
            .map_err(|error| about(&path, io::Error::new(io::ErrorKind::InvalidData, error)))
    }

    fn interfaces(&self) -> io::Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.root).map_err(|error| about(&self.root, error))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter(|name| check_name(name).is_ok()).collect())
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

fn about(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
