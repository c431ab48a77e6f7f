//! The laboratory: a network of namespaces with a client, three real servers, a switch and the director, in which
//! drover balances real HTTP between real servers without touching the machine's own network.
//!
//! One *holder* process owns all of it, see [`holder`]. Everything here is done by the ordinary tools (`ip`, `nsenter`,
//! `nginx`, `curl`), so that whoever reads it can type the same commands.

/// Prints a line; whoever no longer reads does not matter.
macro_rules! say {
    ($($word:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout(), $($word)*);
    }};
}

mod demo;
pub mod director;
pub mod error;
pub mod holder;
pub mod network;
mod progress;
pub mod run;
pub mod servers;
pub mod state;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

pub use director::{Droverd, Start};
pub use error::{LabError, Result};
pub use holder::{Holder, Life};
pub use network::{CLIENT, DIRECTOR, HOSTS, REALS, SWITCH, VIP};
pub use state::LabDir;

/// What `drover lab …` was asked to do.
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

impl LabPort {
    pub const fn name(self) -> &'static str {
        match self {
            LabPort::Tap => "tap",
            LabPort::AfPacket => "af_packet",
        }
    }
}

/// A laboratory that is up: its namespaces, its servers and, once started, its director.
pub struct Lab {
    pub dir: LabDir,
    pub holder: Holder,
}

impl Lab {
    /// Builds the network and starts the servers; no director yet.
    pub fn build(dir: LabDir, life: Life) -> Result<Lab> {
        let holder = Holder::start(&dir, life)?;
        let mut lab = Lab { dir, holder };
        match lab.furnish() {
            Ok(()) => Ok(lab),
            Err(error) => {
                lab.down()?;
                Err(error)
            }
        }
    }

    fn furnish(&self) -> Result<()> {
        self.dir.remember(&self.holder)?;
        network::build(self)?;
        servers::start(self)
    }

    /// The one that `up` left behind.
    pub fn attach(dir: LabDir) -> Result<Lab> {
        let holder = dir.recall()?.ok_or_else(|| LabError::new("no lab is up; `drover lab up` starts one"))?;
        Ok(Lab { dir, holder })
    }

    /// Where this lab's files are.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.path().join("drover.sock")
    }

    /// `program` on `host`, in the lab's namespaces.
    pub fn command(&self, host: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.holder.on(host, program.as_ref(), self.path());
        command.env("DROVER_SOCKET", self.socket());
        command
    }

    /// Runs a line such as `ip addr show` on `host` and answers what it printed; its failure is an error.
    pub fn sh(&self, host: &str, line: &str) -> Result<String> {
        let mut command = self.command(host, "sh");
        command.arg("-ec").arg(line);
        error::output(&mut command, &format!("{host}: {line}"))
    }

    /// Takes everything down and removes the lab's files.
    pub fn down(&mut self) -> Result<()> {
        self.holder.stop()?;
        self.dir.remove()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.holder.life() == Life::WithUs && self.holder.is_alive() {
            let _ = self.down();
        }
    }
}

pub fn dispatch(command: LabCommand) -> ExitCode {
    match perform(command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("drover lab: {error}");
            ExitCode::FAILURE
        }
    }
}

fn perform(command: LabCommand) -> Result<ExitCode> {
    match command {
        LabCommand::Up { port, config } => up(port, config.as_deref()),
        LabCommand::Run { requests } => run(requests),
        LabCommand::Exec { host, command } => exec(&host, &command),
        LabCommand::Down => down(),
        LabCommand::Demo { port, requests, once } => demo::demo(port, requests, once),
    }
}

fn up(port: LabPort, config: Option<&Path>) -> Result<ExitCode> {
    let start = Start::new(port, config)?;
    let mut lab = Lab::build(LabDir::new("lab")?.create()?, Life::Detached)?;
    if let Err(error) = Droverd::start(&lab, &start) {
        lab.down()?;
        return Err(error);
    }
    say!("the lab is up: {}", HOSTS.join(", "));
    say!("`drover lab run` sends requests, `drover lab exec HOST -- CMD` looks around, `drover lab down` ends it");
    Ok(ExitCode::SUCCESS)
}

fn run(requests: u32) -> Result<ExitCode> {
    let report = run::report(&Lab::attach(LabDir::new("lab")?)?, requests)?;
    say!("{report}");
    Ok(if report.complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs a command where its caller is, so that `./program` works. A place in /run is covered by the lab's own; there the
/// command stays in the lab's directory.
const STAY_HERE: &str = r#"cd "$1" 2>/dev/null; shift; exec "$@""#;

fn exec(host: &str, words: &[OsString]) -> Result<ExitCode> {
    let lab = Lab::attach(LabDir::new("lab")?)?;
    network::known_host(host)?;
    let Some((program, arguments)) = words.split_first() else {
        return Err(LabError::new("a command is missing: drover lab exec HOST -- CMD"));
    };
    let mut command = lab.command(host, "sh");
    command.args(["-c", STAY_HERE, "sh"]).arg(std::env::current_dir().unwrap_or_else(|_| "/".into()));
    let status = command
        .arg(program)
        .args(arguments)
        .status()
        .map_err(|error| LabError::new(format!("nsenter does not start: {error}")))?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

fn down() -> Result<ExitCode> {
    let dir = LabDir::new("lab")?;
    match dir.recall()? {
        Some(holder) => {
            Lab { dir, holder }.down()?;
            say!("the lab is down");
        }
        None => {
            dir.remove()?;
            say!("no lab is up");
        }
    }
    Ok(ExitCode::SUCCESS)
}
