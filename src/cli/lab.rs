//! The words of `drover lab`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::lab::{LabCommand, LabPort};

#[derive(Clone, Debug, Subcommand)]
pub enum LabVerb {
    /// Build the laboratory: a client, three servers, a switch and a director, in namespaces of their own.
    Up {
        #[command(flatten)]
        port: PortArgument,
        /// Start the director with this file instead of the laboratory's own.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Send HTTP requests through the director and show who served them.
    Run {
        #[command(flatten)]
        load: LoadArgument,
    },
    /// Run a command on one of the laboratory's hosts.
    Exec {
        #[arg(value_name = "HOST")]
        host: String,
        #[arg(value_name = "CMD", required = true, last = true)]
        command: Vec<OsString>,
    },
    /// Take the laboratory down, also one that has crashed.
    Down,
    /// Build it, run it, and leave it up until Ctrl-C.
    Demo {
        #[command(flatten)]
        port: PortArgument,
        #[command(flatten)]
        load: LoadArgument,
        /// Check the outcome, take the laboratory down and leave with 0 or 1.
        #[arg(long)]
        once: bool,
    },
}

#[derive(Clone, Copy, Debug, Args)]
pub struct PortArgument {
    /// What kind of port the director works on.
    #[arg(long, value_enum, default_value_t)]
    port: Port,
}

#[derive(Clone, Copy, Debug, Args)]
pub struct LoadArgument {
    /// How many requests.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    requests: u32,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Port {
    #[default]
    Tap,
    #[value(name = "af_packet")]
    AfPacket,
}

impl From<LabVerb> for LabCommand {
    fn from(verb: LabVerb) -> LabCommand {
        match verb {
            LabVerb::Up { port, config } => LabCommand::Up { port: port.port.into(), config },
            LabVerb::Run { load } => LabCommand::Run { requests: load.requests },
            LabVerb::Exec { host, command } => LabCommand::Exec { host, command },
            LabVerb::Down => LabCommand::Down,
            LabVerb::Demo { port, load, once } => {
                LabCommand::Demo { port: port.port.into(), requests: load.requests, once }
            }
        }
    }
}

impl From<Port> for LabPort {
    fn from(port: Port) -> LabPort {
        match port {
            Port::Tap => LabPort::Tap,
            Port::AfPacket => LabPort::AfPacket,
        }
    }
}
