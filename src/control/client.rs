//! The operator's end of the config socket.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::Deserialize;

use super::line::{Line, Lines, Timed};
use super::wire::{Answer, ConnCursor, ConnEntry, Envelope, MAX_ANSWER, Outcome, Reply, Request, VERSION};

/// Where `droverd` listens unless its file says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/drover/drover.sock";
/// The variable that names another socket; a lab sets it for what runs inside.
pub const SOCKET_VARIABLE: &str = "DROVER_SOCKET";
/// How long a director may take for one answer.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A conversation with a director.
pub struct Client {
    path: PathBuf,
    stream: UnixStream,
    lines: Lines,
    patience: Duration,
}

#[derive(Debug)]
pub enum ClientError {
    /// There is no such file.
    NoSocket(PathBuf),
    /// The file is there, and nobody listens.
    Refused(PathBuf),
    /// Not allowed; the group that is, when it is known.
    Denied(PathBuf, Option<String>),
    Io(PathBuf, io::Error),
    TimedOut(Duration),
    /// The director closed without an answer.
    NoAnswer,
    AnswerTooLong,
    /// The director speaks another version of the protocol.
    OtherVersion(u32),
    NotUnderstood(String),
    /// The director's own words.
    Director(String),
}

impl fmt::Display for ClientError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::NoSocket(path) => write!(
                out,
                "there is no config socket at {}\nIs droverd running? Was it started with another [control] socket? \
                 Try --socket PATH or {SOCKET_VARIABLE}=PATH.",
                path.display()
            ),
            ClientError::Refused(path) => write!(
                out,
                "nobody listens at {}\nIs droverd running? The file seems to be left over from one that was killed.",
                path.display()
            ),
            ClientError::Denied(path, Some(group)) => write!(
                out,
                "permission denied for {}\nIt is open to its owner and to the group {group}: become root, or join \
                 that group.",
                path.display()
            ),
            ClientError::Denied(path, None) => {
                write!(out, "permission denied for {}\nBecome root, or join the socket's group.", path.display())
            }
            ClientError::Io(path, error) => write!(out, "{}: {error}", path.display()),
            ClientError::TimedOut(patience) => {
                write!(out, "the director has not answered within {} s", patience.as_secs_f32())
            }
            ClientError::NoAnswer => write!(out, "the director closed the connection without an answer"),
            ClientError::AnswerTooLong => write!(out, "the director's answer is longer than {MAX_ANSWER} bytes"),
            ClientError::OtherVersion(theirs) => write!(
                out,
                "the director speaks version {theirs} of the config socket's protocol, this drover version {VERSION}\n\
                 Use the drover that came with the director."
            ),
            ClientError::NotUnderstood(why) => write!(out, "the director's answer is not understood: {why}"),
            ClientError::Director(why) => write!(out, "the director refused: {why}"),
        }
    }
}

impl std::error::Error for ClientError {}

impl Client {
    pub fn connect(path: &Path) -> Result<Client, ClientError> {
        Client::connect_within(path, PATIENCE)
    }

    pub fn connect_within(path: &Path, patience: Duration) -> Result<Client, ClientError> {
        let stream = open(path, patience).map_err(|error| cannot_connect(path, error, patience))?;
        Ok(Client { path: path.into(), stream, lines: Lines::new(MAX_ANSWER), patience })
    }

    pub fn ask(&mut self, request: &Request) -> Result<Answer, ClientError> {
        let mut line = serde_json::to_vec(&Envelope::new(request.clone()))
            .map_err(|error| ClientError::NotUnderstood(error.to_string()))?;
        line.push(b'\n');
        let mut stream = Timed::new(&self.stream, self.patience);
        // A director that has no place for us says so and closes before it has read anything: its answer counts more
        // than our failure to write.
        let written = stream.write_all(&line);
        match self.lines.next(&mut stream) {
            Ok(Line::Whole(line)) => read_reply(&line),
            Ok(Line::TooLong) => Err(ClientError::AnswerTooLong),
            Ok(Line::Half) => Err(ClientError::NotUnderstood("it ended in the middle".into())),
            Ok(Line::End) => match written {
                Ok(()) => Err(ClientError::NoAnswer),
                Err(error) => Err(self.failed(error)),
            },
            Err(error) => Err(self.failed(written.err().unwrap_or(error))),
        }
    }

    /// All connections, page by page, until `each` says that it has seen enough.
    pub fn connections<E: From<ClientError>>(
        &mut self,
        mut each: impl FnMut(ConnEntry) -> Result<bool, E>,
    ) -> Result<(), E> {
        let mut from = ConnCursor::default();
        loop {
            let answer = self.ask(&Request::ConnList { from })?;
            let Answer::Connections(page) = answer else {
                return Err(unexpected(&Request::ConnList { from }).into());
            };
            for connection in page.connections {
                if !each(connection)? {
                    return Ok(());
                }
            }
            match page.next {
                None => return Ok(()),
                Some(next) if next > from => from = next,
                Some(_) => {
                    return Err(ClientError::NotUnderstood("its pages of connections go in a circle".into()).into());
                }
            }
        }
    }

    /// Whether the director has closed the conversation within that time. It does so last of all when it stops.
    pub fn closed_within(&mut self, patience: Duration) -> bool {
        match self.lines.next(&mut Timed::new(&self.stream, patience)) {
            Ok(Line::End) => true,
            Ok(_) => false,
            Err(error) => error.kind() != io::ErrorKind::TimedOut,
        }
    }

    fn failed(&self, error: io::Error) -> ClientError {
        match error.kind() {
            io::ErrorKind::TimedOut => ClientError::TimedOut(self.patience),
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ClientError::NoAnswer,
            _ => ClientError::Io(self.path.clone(), error),
        }
    }
}

/// The answer was to another question.
pub fn unexpected(request: &Request) -> ClientError {
    ClientError::NotUnderstood(format!("it answers something else than {request:?}"))
}

/// Connects by hand, because a full queue of clients would make the standard library wait for ever.
fn open(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

fn cannot_connect(path: &Path, error: io::Error, patience: Duration) -> ClientError {
    match error.kind() {
        io::ErrorKind::NotFound => ClientError::NoSocket(path.into()),
        io::ErrorKind::ConnectionRefused => ClientError::Refused(path.into()),
        io::ErrorKind::PermissionDenied => ClientError::Denied(path.into(), group_of(path)),
        io::ErrorKind::WouldBlock => ClientError::TimedOut(patience),
        _ => ClientError::Io(path.into(), error),
    }
}

/// The name of the file's group, or its number.
fn group_of(path: &Path) -> Option<String> {
    let number = fs::metadata(path).ok()?.gid().to_string();
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let name = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == number).then(|| name.to_string())
    });
    Some(name.unwrap_or(number))
}

fn read_reply(line: &[u8]) -> Result<Answer, ClientError> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let not_understood = |error: serde_json::Error| ClientError::NotUnderstood(error.to_string());
    // The version first: what else is in the answer of another version is not ours to read.
    let theirs = serde_json::from_slice::<Version>(line).map_err(not_understood)?.v;
    if theirs != VERSION {
        return Err(ClientError::OtherVersion(theirs));
    }
    match serde_json::from_slice::<Reply>(line).map_err(not_understood)?.outcome {
        Outcome::Ok(answer) => Ok(answer),
        Outcome::Error(why) => Err(ClientError::Director(why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_not_is_told_who_may() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let said = |path: &Path| cannot_connect(path, io::Error::from_raw_os_error(libc::EACCES), PATIENCE).to_string();
        let group = group_of(file.path()).unwrap();
        assert!(said(file.path()).contains(&format!("to the group {group}: become root")), "{}", said(file.path()));
        assert!(said(Path::new("/nowhere/at/all")).contains("Become root, or join the socket's group"));
        assert_eq!(group_of(Path::new("/etc/passwd")).as_deref(), Some("root"));
    }
}
