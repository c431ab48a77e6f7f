//! The environment (EAL): once a process, and the last to go.

use std::collections::HashSet;
use std::ffi::{CString, c_char, c_int};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::error::{Error, check};
use super::messages;

#[derive(Clone, Debug, Default)]
pub struct EalOptions {
    /// The core of the thread that calls [`Eal::start`].
    pub management_core: usize,
    pub hugepages: bool,
    /// How much to take when there are no huge pages; with them it is taken as it is needed.
    pub memory_mb: u32,
    /// PCI devices as `domain:bus:device.function`; without any, the PCI bus is left alone.
    pub pci: Vec<String>,
    /// Virtual devices as `name,key=value,…`.
    pub vdevs: Vec<String>,
    /// A directory of this process alone, which exists; whoever made it removes it.
    pub runtime_dir: PathBuf,
    pub file_prefix: String,
}

impl EalOptions {
    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            "drover".to_owned(),
            format!("--lcores=0@{}", self.management_core),
            format!("--file-prefix={}", self.file_prefix),
            "--no-telemetry".to_owned(),
            format!("--log-level={}", log_level()),
        ];
        if self.hugepages {
            arguments.push("--in-memory".to_owned());
        } else {
            arguments.extend(["--no-huge", "--no-shconf", "-m"].map(str::to_owned));
            arguments.push(self.memory_mb.to_string());
        }
        if self.pci.is_empty() {
            arguments.push("--no-pci".to_owned());
        }
        arguments.extend(self.pci.iter().flat_map(|device| ["-a".to_owned(), device.clone()]));
        arguments.extend(self.vdevs.iter().map(|device| format!("--vdev={device}")));
        arguments
    }
}

/// What DPDK need not even put into words (see `messages`).
fn log_level() -> &'static str {
    if log::log_enabled!(target: "dpdk", log::Level::Trace) { "debug" } else { "warning" }
}

/// A share in the environment. When the last one goes, so does EAL; ports, queues and mempools hold one each.
#[derive(Clone)]
pub struct Eal(Arc<Environment>);

struct Environment {
    /// By DPDK's port number: what is open already.
    ports: Mutex<HashSet<u16>>,
    /// Buffers outlived their pool, and point into memory that cleaning up would unmap.
    buffers_remain: AtomicBool,
}

static STARTED: AtomicBool = AtomicBool::new(false);

impl Eal {
    /// Starts DPDK. Works once in the life of a process, also when it failed.
    ///
    /// The calling thread is bound to `management_core` from here on, and threads that it starts inherit that: move
    /// them (`core_affinity`). Call this before other threads run C code that reads the environment's variables.
    pub fn start(options: &EalOptions) -> Result<Eal, Error> {
        let words: Result<Vec<CString>, _> = options.arguments().into_iter().map(CString::new).collect();
        let words = words.map_err(|_| Error::plain("a DPDK argument holds a NUL character"))?;
        if STARTED.swap(true, Ordering::SeqCst) {
            return Err(Error::plain("DPDK can be started only once in a process"));
        }
        // SAFETY: other Rust threads use the same lock as set_var does. C code that reads variables at this moment is
        // excluded by this function's contract. EAL has no other way to be told.
        unsafe { std::env::set_var("RUNTIME_DIRECTORY", &options.runtime_dir) };
        messages::redirect();
        // EAL permutes this list and keeps pointers into the words: they live as long as the process, once.
        let mut argv: Vec<*mut c_char> = words.into_iter().map(CString::into_raw).collect();
        let count = argv.len() as c_int;
        argv.push(std::ptr::null_mut());
        // SAFETY: `count` C strings and the final null, all valid for good.
        if unsafe { dpdk_sys::rte_eal_init(count, argv.as_mut_ptr()) } < 0 {
            return Err(Error::last("DPDK does not start"));
        }
        Ok(Eal(Arc::new(Environment { ports: Mutex::default(), buffers_remain: AtomicBool::new(false) })))
    }

    /// Adds a virtual device while running: `net_tap0`, `iface=dtap0`.
    pub fn add_vdev(&self, name: &str, arguments: &str) -> Result<(), Error> {
        let what = || format!("virtual device {name} cannot be added");
        let device = CString::new(name).map_err(|_| Error::plain(what()))?;
        let arguments = CString::new(arguments).map_err(|_| Error::plain(what()))?;
        // SAFETY: three C strings, which DPDK copies.
        let result = unsafe { dpdk_sys::rte_eal_hotplug_add(c"vdev".as_ptr(), device.as_ptr(), arguments.as_ptr()) };
        check(result, what)
    }

    /// Removes a virtual device, which must not be open as a port.
    pub fn remove_vdev(&self, name: &str) -> Result<(), Error> {
        let what = || format!("virtual device {name} cannot be removed");
        let device = CString::new(name).map_err(|_| Error::plain(what()))?;
        // Held until it is gone, so that nobody opens it meanwhile.
        let ports = self.0.ports.lock();
        if super::port::number(&device).is_some_and(|port| ports.contains(&port)) {
            return Err(Error::refused(what(), libc::EBUSY));
        }
        // SAFETY: two C strings, and no handle of ours refers to the device.
        check(unsafe { dpdk_sys::rte_eal_hotplug_remove(c"vdev".as_ptr(), device.as_ptr()) }, what)
    }

    /// Whether `port` was free, and is now the caller's.
    pub(super) fn claim(&self, port: u16) -> bool {
        self.0.ports.lock().insert(port)
    }

    pub(super) fn give_back(&self, port: u16) {
        self.0.ports.lock().remove(&port);
    }

    /// A pool could not be freed; the memory has to stay mapped to the end of the process.
    pub(super) fn buffers_remain(&self) {
        self.0.buffers_remain.store(true, Ordering::Release);
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        if self.buffers_remain.load(Ordering::Acquire) {
            log::warn!("packet buffers are still held: DPDK's memory is left to the end of the process");
            return;
        }
        // SAFETY: the last share: no port, queue, mempool or mbuf exists any more.
        unsafe { dpdk_sys::rte_eal_cleanup() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_the_arguments_that_are_known_to_work() {
        let mut options = EalOptions { memory_mb: 64, file_prefix: "drover-1".into(), ..EalOptions::default() };
        let bare = options.arguments().join(" ");
        assert!(bare.contains("--no-huge --no-shconf -m 64"), "{bare}");
        assert!(bare.contains("--no-pci") && bare.contains("--file-prefix=drover-1"), "{bare}");
        options.hugepages = true;
        options.pci = vec!["0000:3b:00.0".into()];
        options.vdevs = vec!["net_tap0,iface=dtap0".into()];
        let huge = options.arguments().join(" ");
        assert!(huge.contains("--in-memory -a 0000:3b:00.0 --vdev=net_tap0,iface=dtap0"), "{huge}");
        assert!(!huge.contains("no-huge") && !huge.contains("--no-pci"), "{huge}");
    }
}
