//! `drover`, the operator's command: asks a director over its config socket and renders the answer.

mod change;
mod cores;
pub mod lab;
pub mod render;
mod table;

use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use serde::Serialize;

use crate::control::client::{Client, ClientError, DEFAULT_SOCKET, SOCKET_VARIABLE, unexpected};
use crate::control::wire::{Answer, Request, Status};
use change::{How, NoMark, RealVerb, ServiceVerb, Timeouts};
use cores::PerCore;
use lab::LabVerb;
use render::Style;

/// Ask and command a director.
#[derive(Debug, Parser)]
#[command(name = "drover", version, disable_help_subcommand = true)]
pub struct Cli {
    /// The director's config socket.
    #[arg(long, global = true, value_name = "PATH", env = SOCKET_VARIABLE, default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    /// Print JSON, for programs.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// How the director is: ports, workers, and what needs attention.
    Status,
    /// Services and their real servers.
    #[command(subcommand)]
    Service(ServiceVerb),
    /// Real servers of a service.
    #[command(subcommand)]
    Real(RealVerb),
    /// How long connections are remembered.
    Timeouts(Timeouts),
    /// Read the configuration file again, and do what it says anew of services, match rules and timeouts.
    Reload(How),
    /// The configuration in force.
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Connections.
    #[command(subcommand)]
    Conn(ConnVerb),
    /// Frames counted: forwarded, and dropped by name.
    Stats {
        /// How evenly the workers share the work.
        #[arg(long)]
        per_core: bool,
    },
    /// Stop the director, and wait until it has.
    Stop {
        /// Wait no longer than this; 0 does not wait.
        #[arg(long, value_name = "SECONDS", default_value_t = 10)]
        wait: u64,
    },
    /// A laboratory to try the director in.
    #[command(subcommand)]
    Lab(LabVerb),
}

#[derive(Debug, Subcommand)]
enum ConfigVerb {
    /// As a configuration file would have it.
    Show,
}

#[derive(Debug, Subcommand)]
enum ConnVerb {
    /// As `ipvsadm -Lnc` shows them, with the worker that holds each.
    List {
        /// No more than this many.
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
    },
}

/// As clap has it.
const WRONG_USAGE: u8 = 2;

/// Why a command failed.
enum Failure {
    Client(ClientError),
    /// Nobody reads our output any more.
    Output(io::Error),
    StillThere(Duration),
    Usage(NoMark),
}

impl From<NoMark> for Failure {
    fn from(error: NoMark) -> Failure {
        Failure::Usage(error)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        Failure::Client(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Output(error)
    }
}

/// The whole of the `drover` binary.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Verb::Lab(verb) = cli.verb {
        return crate::lab::dispatch(verb.into());
    }
    let stdout = io::stdout();
    let colour = stdout.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut out = BufWriter::new(stdout.lock());
    let done = run(&cli, Style { colour }, &mut out).and_then(|()| Ok(out.flush()?));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            // What was listed before the failure comes first.
            let _ = out.flush();
            explain(&failure);
            if matches!(failure, Failure::Usage(_)) { ExitCode::from(WRONG_USAGE) } else { ExitCode::FAILURE }
        }
    }
}

fn explain(failure: &Failure) {
    let text = match failure {
        Failure::Client(error) => error.to_string(),
        Failure::Output(error) => format!("cannot write: {error}"),
        Failure::StillThere(waited) => {
            format!("the director was told to stop and is still there after {} s", waited.as_secs())
        }
        Failure::Usage(NoMark(word)) => format!("{word:?} is no mark: a number from 1 on, such as 7"),
    };
    // Without a place for complaints there is nobody to complain to.
    let _ = writeln!(io::stderr(), "drover: {text}");
}

fn run(cli: &Cli, style: Style, out: &mut impl Write) -> Result<(), Failure> {
    // Wrong usage is told whether there is a director or not.
    let change = change_of(&cli.verb)?;
    let mut client = Client::connect(&cli.socket)?;
    if let Some(request) = change {
        return ask_change(&mut client, request, cli.json, out);
    }
    match &cli.verb {
        Verb::Status => status(&mut client, cli.json, style, out),
        Verb::Config(ConfigVerb::Show) => config(&mut client, cli.json, out),
        Verb::Conn(ConnVerb::List { limit }) => connections(&mut client, cli.json, *limit, out),
        Verb::Stats { per_core } => stats(&mut client, cli.json, *per_core, style, out),
        Verb::Stop { wait } => stop(&mut client, cli.json, Duration::from_secs(*wait), out),
        Verb::Service(_) => services(&mut client, cli.json, style, out),
        Verb::Real(_) | Verb::Timeouts(_) | Verb::Reload(_) | Verb::Lab(_) => Ok(()),
    }
}

/// What a verb asks to be changed, if it is one that changes anything.
fn change_of(verb: &Verb) -> Result<Option<Request>, NoMark> {
    match verb {
        Verb::Service(verb) => verb.request(),
        Verb::Real(verb) => verb.request().map(Some),
        Verb::Timeouts(seconds) => Ok(Some(seconds.request())),
        Verb::Reload(how) => Ok(Some(how.reload())),
        _ => Ok(None),
    }
}

/// Asks, and takes the one kind of answer that fits the question.
fn ask<T>(client: &mut Client, request: Request, fits: impl Fn(Answer) -> Option<T>) -> Result<T, ClientError> {
    let answer = client.ask(&request)?;
    fits(answer).ok_or_else(|| unexpected(&request))
}

fn ask_status(client: &mut Client) -> Result<Status, ClientError> {
    ask(client, Request::Status, |answer| match answer {
        Answer::Status(status) => Some(status),
        _ => None,
    })
}

fn status(client: &mut Client, json: bool, style: Style, out: &mut impl Write) -> Result<(), Failure> {
    let status = ask_status(client)?;
    if json {
        return print_json(&status, out);
    }
    let services = ask_services(client)?;
    Ok(out.write_all(render::status(&status, &services, style).as_bytes())?)
}

fn ask_services(client: &mut Client) -> Result<Vec<crate::control::wire::ServiceEntry>, ClientError> {
    ask(client, Request::ServiceList, |answer| match answer {
        Answer::Services(services) => Some(services),
        _ => None,
    })
}

fn services(client: &mut Client, json: bool, style: Style, out: &mut impl Write) -> Result<(), Failure> {
    let services = ask_services(client)?;
    if json { print_json(&services, out) } else { Ok(out.write_all(render::services(&services, style).as_bytes())?) }
}

/// Asks for a change, or for the timeouts, which the same verb does without any.
fn ask_change(client: &mut Client, request: Request, json: bool, out: &mut impl Write) -> Result<(), Failure> {
    match client.ask(&request)? {
        Answer::Changed(changed) if json => print_json(&changed, out),
        Answer::Changed(changed) => Ok(out.write_all(render::changed(&changed).as_bytes())?),
        Answer::Timeouts(timeouts) if json => print_json(&timeouts, out),
        Answer::Timeouts(timeouts) => Ok(out.write_all(render::timeouts(&timeouts).as_bytes())?),
        _ => Err(unexpected(&request).into()),
    }
}

fn config(client: &mut Client, json: bool, out: &mut impl Write) -> Result<(), Failure> {
    let text = ask(client, Request::ConfigShow, |answer| match answer {
        Answer::Config(text) => Some(text),
        _ => None,
    })?;
    if json { print_json(&text, out) } else { Ok(out.write_all(text.as_bytes())?) }
}

/// Printed as they come: a full table does not fit into memory twice.
fn connections(client: &mut Client, json: bool, limit: Option<u64>, out: &mut impl Write) -> Result<(), Failure> {
    let limit = limit.unwrap_or(u64::MAX);
    let mut shown = 0;
    out.write_all(if json { b"[" } else { render::CONNECTIONS_HEAD.as_bytes() })?;
    if limit > 0 {
        client.connections(|connection| -> Result<bool, Failure> {
            if json {
                out.write_all(if shown > 0 { b",\n" } else { b"\n" })?;
                out.write_all(&to_json(&connection)?)?;
            } else {
                out.write_all(render::connection(&connection).as_bytes())?;
            }
            shown += 1;
            Ok(shown < limit)
        })?;
    }
    if json {
        out.write_all(b"\n]\n")?;
    }
    Ok(())
}

fn stats(client: &mut Client, json: bool, per_core: bool, style: Style, out: &mut impl Write) -> Result<(), Failure> {
    let stats = ask(client, Request::Stats, |answer| match answer {
        Answer::Stats(stats) => Some(stats),
        _ => None,
    })?;
    if per_core {
        let shares = PerCore::new(&ask_status(client)?, &stats);
        let text = || shares.render(style);
        return if json { print_json(&shares, out) } else { Ok(out.write_all(text().as_bytes())?) };
    }
    if json { print_json(&stats, out) } else { Ok(out.write_all(render::stats(&stats, style).as_bytes())?) }
}

fn stop(client: &mut Client, json: bool, wait: Duration, out: &mut impl Write) -> Result<(), Failure> {
    ask(client, Request::Stop, |answer| matches!(answer, Answer::Stopping).then_some(()))?;
    let stopped = !wait.is_zero() && client.closed_within(wait);
    if !stopped && !wait.is_zero() {
        return Err(Failure::StillThere(wait));
    }
    match (json, stopped) {
        (true, _) => writeln!(out, "{{\"stopped\":{stopped}}}")?,
        (false, true) => writeln!(out, "the director has stopped")?,
        (false, false) => writeln!(out, "the director is stopping")?,
    }
    Ok(())
}

fn print_json(value: &impl Serialize, out: &mut impl Write) -> Result<(), Failure> {
    out.write_all(&to_json(value)?)?;
    Ok(out.write_all(b"\n")?)
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(value).map_err(|error| ClientError::NotUnderstood(error.to_string()).into())
}
