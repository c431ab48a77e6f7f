//! The config socket: its words ([`wire`]), the director's end ([`server`]) and the operator's ([`client`]).
//!
//! Control plane only: threads, locks and clocks are allowed here, and nothing here runs on a worker's core.

mod change;
pub mod client;
pub mod desk;
mod line;
pub mod server;
pub mod wire;
