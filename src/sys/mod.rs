//! What needs `unsafe` beside DPDK: each module is safe to use from outside.

#[allow(unsafe_code)]
pub mod allocations;
#[allow(unsafe_code)]
pub mod epoch;
#[allow(unsafe_code)]
pub mod interfaces;
#[allow(unsafe_code)]
pub mod memory;
#[allow(unsafe_code)]
pub mod netdev;
#[allow(unsafe_code)]
pub mod prefetch;
#[allow(unsafe_code)]
pub mod probe;
#[allow(unsafe_code)]
pub mod signals;
