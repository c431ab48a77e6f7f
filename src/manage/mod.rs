//! The management core's network duties.

pub mod arp;
mod ethernet;
mod limit;
pub mod neighbour;
mod random;
