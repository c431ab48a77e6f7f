//! drover: a layer-4 director. Read `ARCHITECTURE.md` first, then `director.rs`.
//!
//! Imports point one way:
//! packet ← service, flow ← forward ← director ← worker.

#![deny(unsafe_code)]

pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod counters;
#[cfg(feature = "dpdk")]
pub mod daemon;
pub mod director;
#[cfg(feature = "dpdk")]
#[allow(unsafe_code)]
pub mod dpdk;
pub mod flow;
pub mod forward;
pub mod lab;
pub mod manage;
pub mod packet;
pub mod preflight;
pub mod service;
pub mod sim;
pub mod sys;
pub mod verdict;
pub mod worker;
