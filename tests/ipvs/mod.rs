//! The kernel's IPVS as the judge of the decision. A scenario is a list of steps, each a line of text; whoever takes it
//! answers each step with lines of text, in one form; two who answer the same decide the same.
//!
//! `scenario.rs` has the steps and their text, `generate.rs` makes them from a seed, `packet.rs` turns a packet's line
//! into a frame and the frames that came out into an answer, `kernel.rs` boots the kernel and asks it, `subject.rs` asks
//! the director, `listing.rs` prints what it knows, `compare.rs` finds the differences, `trace.rs` is the kernel's answers in a file.
#![allow(dead_code)] // Each test binary uses its own part.

pub mod compare;
pub mod generate;
pub mod kernel;
pub mod listing;
pub mod packet;
pub mod scenario;
pub mod subject;
pub mod trace;
