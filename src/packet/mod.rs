//! Bytes to checked views, one file a protocol.
//! Contract: once `parse` has said yes, no accessor panics.

pub mod addr;
pub mod answer;
pub mod arp;
pub mod checksum;
pub mod ethernet;
pub mod frame;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod plain;
pub mod port;
pub mod transport;

pub use addr::{Ipv4Net, Mac};
pub use frame::{BURST, Burst, Frame, Queue};
pub use port::PortStats;
