//! The originals of what was changed, in a file that outlives a killed process.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::sys::netdev::Offloads;

const VERSION: u32 = 1;
/// Far more than the interfaces of one host fill.
const LONGEST: u64 = 16 << 20;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// Which boot and which network namespace the rest is about.
    boot: String,
    namespace: String,
    /// `send_redirects` of which interface.
    redirects: Vec<(String, u8)>,
    offloads: Vec<OffloadsRecord>,
    /// The nft tables that were made.
    tables: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct OffloadsRecord {
    interface: String,
    index: u32,
    gro: bool,
    lro: bool,
}

impl Record {
    pub fn new(proc: &Path) -> Record {
        let boot = fs::read_to_string(proc.join("sys/kernel/random/boot_id")).unwrap_or_default();
        let namespace = fs::read_link(proc.join("self/ns/net")).unwrap_or_default();
        Record {
            version: VERSION,
            boot: boot.trim().to_owned(),
            namespace: namespace.to_string_lossy().into_owned(),
            redirects: Vec::new(),
            offloads: Vec::new(),
            tables: Vec::new(),
        }
    }

    pub fn is_of_same_place(&self, other: &Record) -> bool {
        (&self.boot, &self.namespace) == (&other.boot, &other.namespace)
    }

    pub fn is_empty(&self) -> bool {
        self.redirects.is_empty() && self.offloads.is_empty() && self.tables.is_empty()
    }

    pub fn clear(&mut self) {
        self.redirects.clear();
        self.offloads.clear();
        self.tables.clear();
    }

    /// The first original is the one to go back to.
    pub fn note_redirect(&mut self, interface: &str, original: u8) {
        if !self.redirects.iter().any(|(known, _)| known == interface) {
            self.redirects.push((interface.to_owned(), original));
        }
    }

    pub fn note_offloads(&mut self, interface: &str, index: u32, original: Offloads) {
        if !self.offloads.iter().any(|known| known.interface == interface) {
            let Offloads { gro, lro } = original;
            self.offloads.push(OffloadsRecord { interface: interface.to_owned(), index, gro, lro });
        }
    }

    pub fn note_table(&mut self, table: &str) {
        if !self.tables.iter().any(|known| known == table) {
            self.tables.push(table.to_owned());
        }
    }

    pub fn forget_table(&mut self, table: &str) {
        self.tables.retain(|known| known != table);
    }

    pub fn redirects(&self) -> impl Iterator<Item = (&str, u8)> {
        self.redirects.iter().map(|(name, original)| (name.as_str(), *original))
    }

    pub fn offloads(&self) -> impl Iterator<Item = (&str, u32, Offloads)> {
        self.offloads
            .iter()
            .map(|known| (known.interface.as_str(), known.index, Offloads { gro: known.gro, lro: known.lro }))
    }

    pub fn tables(&self) -> impl Iterator<Item = &str> {
        self.tables.iter().map(String::as_str)
    }
}

/// None: nothing was left to be put back.
pub fn load(path: &Path) -> io::Result<Option<Record>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|error| about(path, error))?,
    };
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).map_err(|error| about(path, error))?;
    let record: Record = serde_json::from_str(&text).map_err(|error| about(path, error.into()))?;
    if record.version != VERSION {
        let another = io::Error::new(io::ErrorKind::InvalidData, format!("version {} is not known", record.version));
        return Err(about(path, another));
    }
    Ok(Some(record))
}

/// Whole or not at all: a reader never sees half a journal.
pub fn save(path: &Path, record: &Record) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let written = remove(&fresh).and_then(|()| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        fs::rename(&fresh, path)
    });
    written.map_err(|error| about(path, error))
}

pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome.map_err(|error| about(path, error)),
    }
}

fn about(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("journal of the host's settings {}: {error}", path.display()))
}
