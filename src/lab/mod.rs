//! The laboratory.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// What `drover lab` can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabCommand {
    Up { port: LabPort, config: Option<PathBuf> },
    Run { requests: u32 },
    Exec { host: String, command: Vec<OsString> },
    Down,
    Demo { port: LabPort, requests: u32, once: bool },
}

/// What kind of port the laboratory's director works on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LabPort {
    /// DPDK's net_tap: the robust one.
    #[default]
    Tap,
    /// DPDK's net_af_packet on a veth.
    AfPacket,
}

pub fn dispatch(_command: LabCommand) -> ExitCode {
    eprintln!("drover: the laboratory is not built in this tree");
    ExitCode::FAILURE
}
