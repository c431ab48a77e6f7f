//! Bytes to checked views, one file a protocol.
//! Contract: once `parse` has said yes, no accessor panics.

pub mod addr;
pub mod frame;

pub use addr::{Ipv4Net, Mac};
pub use frame::{BURST, Burst, Frame, Queue};
