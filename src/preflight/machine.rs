//! The machine as preflight sees it: a few roots of file trees, so that tests run on trees of their own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::sys::interfaces::{self, Interface};

#[derive(Clone, Debug)]
pub struct Machine {
    pub sys: PathBuf,
    pub proc: PathBuf,
    pub dev: PathBuf,
    /// Those of this network namespace, which `/sys` need not show.
    pub interfaces: Vec<Interface>,
}

impl Machine {
    /// The one that we run on.
    pub fn this() -> io::Result<Machine> {
        Ok(Machine { sys: "/sys".into(), proc: "/proc".into(), dev: "/dev".into(), interfaces: interfaces::list()? })
    }

    pub fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.name == name)
    }

    /// The cores that this process may run on, in ascending order.
    pub(super) fn allowed_cores(&self) -> Vec<usize> {
        self.status("Cpus_allowed_list:").map(|list| core_list(&list)).unwrap_or_default()
    }

    /// Whether the process has this capability; unknown is no reason to refuse.
    pub(super) fn capable(&self, capability: u32) -> bool {
        let mask = self.status("CapEff:").and_then(|mask| u64::from_str_radix(&mask, 16).ok());
        mask.is_none_or(|mask| mask >> capability & 1 == 1)
    }

    /// Root itself, not root in a user namespace.
    pub(super) fn is_true_root(&self) -> bool {
        let uid = self.status("Uid:").and_then(|ids| ids.split_whitespace().nth(1).map(str::to_owned));
        let map = fs::read_to_string(self.proc.join("self/uid_map")).unwrap_or_default();
        let whole = map.split_whitespace().eq(["0", "0", "4294967295"]) || map.is_empty();
        uid.as_deref() == Some("0") && whole
    }

    fn status(&self, field: &str) -> Option<String> {
        let status = fs::read_to_string(self.proc.join("self/status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix(field)).map(|value| value.trim().to_owned())
    }

    /// A line of `/proc/meminfo`, in bytes.
    pub(super) fn meminfo(&self, field: &str) -> Option<u64> {
        let text = fs::read_to_string(self.proc.join("meminfo")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    }

    pub(super) fn pci(&self, address: &str) -> PathBuf {
        self.sys.join("bus/pci/devices").join(address)
    }
}

/// What a link's last part is called: the driver behind `…/driver`, the group behind `…/iommu_group`.
pub(super) fn link_name(link: &Path) -> Option<String> {
    fs::read_link(link).ok()?.file_name().map(|name| name.to_string_lossy().into_owned())
}

pub(super) fn number_in(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// `0-2,5` as the kernel writes it.
pub(super) fn core_list(text: &str) -> Vec<usize> {
    const HIGHEST: usize = 1 << 16;
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
            cores.extend(first..=last.min(HIGHEST));
        }
    }
    cores
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_lists_read_as_the_kernel_writes_them() {
        assert_eq!(core_list("0-2,5"), [0, 1, 2, 5]);
        assert_eq!(core_list("3"), [3]);
        assert!(core_list("").is_empty());
        assert_eq!(core_list("1-x,4"), [4]);
        assert_eq!(core_list("0-99999999999999").len(), (1 << 16) + 1);
    }
}
