//! droverd in the lab: its configuration, its port, its start.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use toml::{Table, Value};

use crate::control::client::Client;
use crate::control::wire::{Answer, RealState, Request, ServiceEntry, Stats, Status};

use super::error::{LabError, Result, doing, wait_for};
use super::network::{self, DIRECTOR};
use super::{Lab, LabPort};

/// The configuration of the laboratory, as it stands in the repository.
pub const CONFIGURATION: &str = include_str!("../../conf/lab.toml");

/// How long droverd may take to answer: most of it is DPDK's own start.
const PATIENCE: Duration = Duration::from_secs(30);

/// How droverd is to be started.
pub struct Start {
    pub program: PathBuf,
    pub port: LabPort,
    /// A configuration as `conf/lab.toml`; device and socket are put in.
    pub configuration: String,
}

impl Start {
    /// The droverd beside this program, with the file's configuration or the laboratory's own.
    pub fn new(port: LabPort, file: Option<&Path>) -> Result<Start> {
        let configuration = match file {
            Some(path) => fs::read_to_string(path).map_err(doing(path.display()))?,
            None => CONFIGURATION.to_owned(),
        };
        Ok(Start { program: beside_us()?, port, configuration })
    }
}

/// A droverd that was started. Dropping this leaves it running: it ends with the lab.
pub struct Droverd {
    child: Child,
}

impl Droverd {
    /// Starts droverd on the lab's director, plugs it into the wire and waits until it answers.
    pub fn start(lab: &Lab, start: &Start) -> Result<Droverd> {
        network::prepare_port(lab, start.port)?;
        let (text, tap) = adapt(&start.configuration, start.port, &lab.socket())?;
        let file = lab.path().join("droverd.toml");
        fs::write(&file, text).map_err(doing(file.display()))?;
        let mut droverd = Droverd { child: launch(lab, &start.program, &file)? };
        let ended = wait_for(PATIENCE, "droverd to answer on its socket", || droverd.answers(lab))
            .map_err(|error| LabError::new(format!("{error}\n{}", log_tail(lab))))?;
        if let Some(status) = ended {
            return Err(LabError::new(format!("droverd did not start ({status}); {}", log_tail(lab))));
        }
        if let Some(tap) = tap {
            network::plug_tap(lab, &tap)?;
        }
        Ok(droverd)
    }

    /// Nothing once it answers; how it ended, if it did that instead.
    fn answers(&mut self, lab: &Lab) -> std::result::Result<Option<ExitStatus>, String> {
        if let Some(status) = self.exit_code().map_err(|error| error.to_string())? {
            return Ok(Some(status));
        }
        lab.status().map(|_| None).map_err(|error| error.to_string())
    }

    /// How it ended, once it has.
    pub fn exit_code(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().map_err(doing("droverd"))
    }
}

impl Lab {
    fn ask(&self, request: &Request) -> Result<Answer> {
        let socket = self.socket();
        let mut client = Client::connect(&socket).map_err(doing("the director"))?;
        client.ask(request).map_err(doing("the director"))
    }

    pub fn status(&self) -> Result<Status> {
        match self.ask(&Request::Status)? {
            Answer::Status(status) => Ok(status),
            other => Err(LabError::new(format!("the director answered {other:?}"))),
        }
    }

    pub fn services(&self) -> Result<Vec<ServiceEntry>> {
        match self.ask(&Request::ServiceList)? {
            Answer::Services(services) => Ok(services),
            other => Err(LabError::new(format!("the director answered {other:?}"))),
        }
    }

    pub fn stats(&self) -> Result<Stats> {
        match self.ask(&Request::Stats)? {
            Answer::Stats(stats) => Ok(stats),
            other => Err(LabError::new(format!("the director answered {other:?}"))),
        }
    }

    /// Waits until the director knows every real server's MAC.
    pub fn wait_for_reals(&self) -> Result<()> {
        wait_for(PATIENCE, "the real servers to answer ARP", || {
            let services = self.services().map_err(|error| error.to_string())?;
            let waiting = services
                .iter()
                .flat_map(|service| &service.reals)
                .find(|real| !matches!(real.state, RealState::Resolved | RealState::Fixed));
            match waiting {
                Some(real) => Err(format!("{} is {:?}", real.address, real.state)),
                None => Ok(()),
            }
        })
    }
}

fn beside_us() -> Result<PathBuf> {
    let us = std::env::current_exe().map_err(doing("this program's own path"))?;
    let program = us.with_file_name("droverd");
    if program.is_file() {
        return Ok(program);
    }
    Err(LabError::new(format!(
        "there is no {}; `cargo build --release` makes both programs (libdpdk-dev is needed), `make run` all in one",
        program.display()
    )))
}

/// In a session of its own, so that neither Ctrl-C nor the end of this terminal reaches it.
fn launch(lab: &Lab, program: &Path, file: &Path) -> Result<Child> {
    let path = lab.path().join("droverd.log");
    let log = File::options().create(true).append(true).open(&path).map_err(doing(path.display()))?;
    let copy = log.try_clone().map_err(doing(path.display()))?;
    let inner = lab.command(DIRECTOR, program);
    let mut command = Command::new("setsid");
    command.arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command.arg("--config").arg(file).stdin(Stdio::null()).stdout(copy).stderr(log);
    command.spawn().map_err(doing("setsid (package util-linux) does not start"))
}

fn log_tail(lab: &Lab) -> String {
    let path = lab.path().join("droverd.log");
    let text = fs::read_to_string(&path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines.split_at(lines.len().saturating_sub(20)).1;
    format!("the end of {}:\n{}", path.display(), tail.join("\n"))
}

/// The configuration with the lab's device and socket in it, and the name of the TAP to be plugged in, if there is one.
fn adapt(text: &str, port: LabPort, socket: &Path) -> Result<(String, Option<String>)> {
    let mut table: Table = text.parse().map_err(doing("the lab's configuration"))?;
    let control = table.entry("control").or_insert_with(|| Value::Table(Table::new()));
    if let Some(control) = control.as_table_mut() {
        control.insert("socket".into(), Value::String(socket.display().to_string()));
    }
    let first = table.get_mut("port").and_then(|ports| ports.get_mut(0)).and_then(Value::as_table_mut);
    let first = first.ok_or_else(|| LabError::new("the lab's configuration has no [[port]]"))?;
    for device in ["pci", "vdev", "af_packet"] {
        first.remove(device);
    }
    let mut tap = None;
    match port {
        LabPort::Tap => {
            let name = first.entry("tap").or_insert_with(|| Value::String("dtap0".into()));
            tap = name.as_str().map(str::to_owned);
        }
        LabPort::AfPacket => {
            first.remove("tap");
            first.insert("af_packet".into(), Value::String("eth0".into()));
        }
    }
    let text = toml::to_string(&table).map_err(doing("the lab's configuration"))?;
    Ok((text, tap))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "workers = 1\n[[port]]\ntap = \"dtap7\"\naddress = \"10.9.0.10/24\"\n";

    fn port_of(text: &str) -> Table {
        let table: Table = text.parse().unwrap();
        assert_eq!(table["control"]["socket"].as_str(), Some("/x/drover.sock"));
        assert_eq!(table["workers"].as_integer(), Some(1));
        table["port"][0].as_table().unwrap().clone()
    }

    #[test]
    fn the_tap_stays_the_users() {
        let (text, tap) = adapt(TEXT, LabPort::Tap, Path::new("/x/drover.sock")).unwrap();
        assert_eq!(tap.as_deref(), Some("dtap7"));
        assert_eq!(port_of(&text)["tap"].as_str(), Some("dtap7"));
    }

    #[test]
    fn af_packet_takes_the_taps_place() {
        let (text, tap) = adapt(TEXT, LabPort::AfPacket, Path::new("/x/drover.sock")).unwrap();
        assert_eq!(tap, None);
        let port = port_of(&text);
        assert_eq!(port["af_packet"].as_str(), Some("eth0"));
        assert!(!port.contains_key("tap"));
    }

    #[test]
    fn a_file_without_a_port_is_refused() {
        assert!(adapt("[control]\n", LabPort::Tap, Path::new("/x")).is_err());
    }
}
