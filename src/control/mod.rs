//! The config socket.

pub mod wire;
