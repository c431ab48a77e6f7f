//! The ways to bring a packet to its real, one file each: the rewrite, nothing else.

pub mod dr;
