//! Safe handles over `dpdk-sys`: what can be done with them is sound, whatever the order of drops.
//!
//! Whoever holds a port, a queue or a mempool holds the environment they live in; see [`eal`] for what that means at
//! the end.

pub mod cycles;
mod descriptor;
pub mod eal;
pub mod error;
pub mod hash;
pub mod mbuf;
pub mod mempool;
mod messages;
pub mod port;
pub mod queue;
pub mod spread;
mod tap;
pub mod thread;

pub use eal::{Eal, EalOptions};
pub use error::Error;
pub use hash::HashTable;
pub use mbuf::Mbuf;
pub use mempool::Mempool;
pub use port::{Link, Port, PortInfo, PortOptions};
pub use queue::PortQueue;
pub use spread::{Rss, Spread};
pub use thread::Registered;

/// The version that runs, which may be newer than the one that was built against.
pub fn version() -> String {
    // SAFETY: a constant string of the library.
    unsafe { error::text(dpdk_sys::rte_version()) }
}
