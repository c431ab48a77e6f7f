//! The director's end of the config socket: one thread that accepts, one for each of a bounded number of clients.
//!
//! A peer can be slow, silent or hostile: every line is bounded in length, every wait in time, and what one client does
//! is not felt by another.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use log::{debug, warn};
use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::line::{Line, Lines, Timed};
use super::wire::{self, MAX_ANSWER, MAX_REQUEST, Outcome, Reply, Request};

/// Who may talk to the director: its owner and its group.
pub const SOCKET_MODE: u32 = 0o660;

/// A configuration is read on it, whose parser goes eighty levels deep: an unoptimized one needs less than a
/// quarter of this. What is not used takes no memory.
const STACK: usize = 2 << 20;

/// Gives the answers. Called from several clients' threads at once.
pub trait Handler: Send + Sync {
    fn handle(&self, request: Request) -> Outcome;
}

/// What the server allows, and how it starts its threads.
#[derive(Clone)]
pub struct Options {
    pub clients: usize,
    /// From one answer to the end of the next request.
    pub idle: Duration,
    /// For a client to take an answer.
    pub take: Duration,
    /// Run first by each thread: the place to pin it to the management core.
    pub on_thread_start: Arc<dyn Fn() + Send + Sync>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            clients: 32,
            idle: Duration::from_secs(30),
            take: Duration::from_secs(5),
            on_thread_start: Arc::new(|| ()),
        }
    }
}

/// A config socket that answers until it is dropped. Drop it last: `drover stop` takes the end of its conversation for
/// the end of the director.
pub struct Server {
    shared: Arc<Shared>,
    /// Closing it wakes the accepting thread.
    wake: Option<UnixStream>,
    acceptor: Option<JoinHandle<()>>,
    file: SocketFile,
}

struct Shared {
    handler: Arc<dyn Handler>,
    options: Options,
    clients: Mutex<Clients>,
    one_left: Condvar,
}

#[derive(Default)]
struct Clients {
    stopping: bool,
    next_id: u64,
    /// The second handle on each client's stream, to end it from outside.
    open: Vec<(u64, UnixStream)>,
}

impl Server {
    pub fn start(path: &Path, handler: Arc<dyn Handler>) -> io::Result<Server> {
        Server::start_with(path, handler, Options::default())
    }

    pub fn start_with(path: &Path, handler: Arc<dyn Handler>, options: Options) -> io::Result<Server> {
        let (listener, file) = listen(path)?;
        let (wake, woken) = UnixStream::pair()?;
        let shared = Arc::new(Shared { handler, options, clients: Mutex::default(), one_left: Condvar::new() });
        let acceptor = {
            let shared = shared.clone();
            spawn(&shared.options.clone(), "control", move || accept(&shared, &listener, &woken))?
        };
        Ok(Server { shared, wake: Some(wake), acceptor: Some(acceptor), file })
    }

    pub fn path(&self) -> &Path {
        &self.file.path
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.file.remove();
        self.wake = None;
        if let Some(acceptor) = self.acceptor.take()
            && acceptor.join().is_err()
        {
            warn!("the config socket's thread had panicked");
        }
        self.shared.end_clients();
    }
}

impl Shared {
    /// Whoever waits for a request ends now. Whoever is giving an answer gets a moment to finish it, so that `stop` is
    /// answered too.
    fn end_clients(&self) {
        const LAST_WORDS: Duration = Duration::from_millis(250);
        let mut clients = self.clients.lock();
        clients.stopping = true;
        clients.shut(Shutdown::Read);
        self.one_left.wait_while_for(&mut clients, |clients| !clients.open.is_empty(), LAST_WORDS);
        clients.shut(Shutdown::Both);
        self.one_left.wait_while_for(&mut clients, |clients| !clients.open.is_empty(), LAST_WORDS);
        if !clients.open.is_empty() {
            warn!("{} requests on the config socket are still being handled", clients.open.len());
        }
    }

    /// A place for the client, if there is one.
    fn admit(&self, stream: &UnixStream) -> io::Result<Option<u64>> {
        let mut clients = self.clients.lock();
        if clients.open.len() >= self.options.clients {
            return Ok(None);
        }
        let id = clients.next_id;
        clients.next_id += 1;
        clients.open.push((id, stream.try_clone()?));
        Ok(Some(id))
    }

    fn leave(&self, id: u64) {
        self.clients.lock().open.retain(|(open, _)| *open != id);
        self.one_left.notify_all();
    }

    fn stopping(&self) -> bool {
        self.clients.lock().stopping
    }
}

impl Clients {
    fn shut(&self, how: Shutdown) {
        for (_, stream) in &self.open {
            // The peer may have gone already.
            let _ = stream.shutdown(how);
        }
    }
}

/// The one place where the config socket's threads start.
fn spawn(options: &Options, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let on_start = options.on_thread_start.clone();
    thread::Builder::new().name(name.into()).stack_size(STACK).spawn(move || {
        on_start();
        work();
    })
}

fn accept(shared: &Arc<Shared>, listener: &UnixListener, woken: &UnixStream) {
    const A_MOMENT: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    loop {
        let mut waiting = [PollFd::new(listener, PollFlags::IN), PollFd::new(woken, PollFlags::IN)];
        match poll(&mut waiting, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return warn!("the config socket cannot wait for clients any more: {error}"),
        }
        if !waiting[1].revents().is_empty() {
            return;
        }
        match listener.accept() {
            Ok((stream, _)) => welcome(shared, stream),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                warn!("the config socket cannot accept a client: {error}");
                // Out of descriptors, most likely: the client stays in the queue, and asking again at once would spin.
                let _ = poll(&mut [PollFd::new(woken, PollFlags::IN)], Some(&A_MOMENT));
            }
        }
    }
}

fn welcome(shared: &Arc<Shared>, stream: UnixStream) {
    let place = match shared.admit(&stream) {
        Ok(Some(id)) => Place { shared: shared.clone(), id },
        Ok(None) => return turn_away(&stream, shared.options.clients),
        Err(error) => return warn!("the config socket cannot serve a client: {error}"),
    };
    let served = spawn(&shared.options, "control-client", move || {
        if let Err(error) = converse(&place.shared, &stream) {
            debug!("a client of the config socket went away: {error}");
        }
    });
    if let Err(error) = served {
        warn!("the config socket cannot serve a client: {error}");
    }
}

/// Never waits: this is the thread that accepts.
fn turn_away(stream: &UnixStream, clients: usize) {
    let line = encode(Outcome::Error(format!("{clients} clients are on the config socket already; try again later")));
    if let Err(error) = stream.set_nonblocking(true).and_then(|()| (&*stream).write_all(&line)) {
        debug!("a client too many went away: {error}");
    }
}

/// One of the clients' places; free again when dropped, even by a handler's panic.
struct Place {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.leave(self.id);
    }
}

fn converse(shared: &Shared, stream: &UnixStream) -> io::Result<()> {
    let mut lines = Lines::new(MAX_REQUEST);
    let idle = shared.options.idle;
    while !shared.stopping() {
        let refusal = match lines.next(&mut Timed::new(stream, idle)) {
            Ok(Line::Whole(line)) => {
                let outcome = match wire::parse_request(&line) {
                    Ok(request) => shared.handler.handle(request),
                    Err(error) => Outcome::Error(error.to_string()),
                };
                answer(shared, stream, outcome)?;
                continue;
            }
            Ok(Line::End) => return Ok(()),
            Ok(Line::Half) => "the request ended without a newline".into(),
            Ok(Line::TooLong) => format!("the request is longer than {MAX_REQUEST} bytes"),
            Err(error) if error.kind() == io::ErrorKind::TimedOut && lines.begun() => {
                format!("the request was not complete within {} s", idle.as_secs_f32())
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                format!("no request came within {} s", idle.as_secs_f32())
            }
            Err(error) => return Err(error),
        };
        // Where the next request would begin is unknown: the conversation ends here.
        return answer(shared, stream, Outcome::Error(refusal));
    }
    Ok(())
}

fn answer(shared: &Shared, stream: &UnixStream, outcome: Outcome) -> io::Result<()> {
    Timed::new(stream, shared.options.take).write_all(&encode(outcome))
}

/// The answer's line; an answer that would be too long becomes an error.
fn encode(outcome: Outcome) -> Vec<u8> {
    let mut line = Capped(Vec::new());
    if let Err(error) = serde_json::to_writer(&mut line, &Reply::new(outcome)) {
        line.0.clear();
        let why = format!("the answer cannot be sent: {error}");
        // A short string always can.
        let _ = serde_json::to_writer(&mut line, &Reply::new(Outcome::Error(why)));
    }
    line.0.push(b'\n');
    line.0
}

/// Takes less than [`MAX_ANSWER`] bytes.
struct Capped(Vec<u8>);

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() >= MAX_ANSWER {
            return Err(io::Error::other(format!("it is longer than {MAX_ANSWER} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The socket's name in the file system; goes with its owner.
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    /// Unless somebody else has put another file there meanwhile.
    fn remove(&self) {
        if let Ok(found) = fs::symlink_metadata(&self.path)
            && (found.dev(), found.ino()) == self.identity
            && let Err(error) = fs::remove_file(&self.path)
        {
            warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// A listening socket that only owner and group can reach, at every moment and whatever the umask.
fn listen(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    create_directory(path)?;
    clear_stale(path)?;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    // Linux gives the file the mode of the socket, less the umask: it is never wider than this, and chmod only adds
    // what the umask took. Nobody gets in before listen().
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(SOCKET_MODE))?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))?;
    let made = fs::symlink_metadata(path)?;
    rustix::net::listen(&socket, 64)?;
    Ok((UnixListener::from(socket), SocketFile { path: path.into(), identity: (made.dev(), made.ino()) }))
}

fn create_directory(path: &Path) -> io::Result<()> {
    const DIRECTORY_MODE: u32 = 0o755;
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() && !directory.exists() => {
            DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory)?;
            fs::set_permissions(directory, Permissions::from_mode(DIRECTORY_MODE))
        }
        _ => Ok(()),
    }
}

/// Removes what a director that was killed has left. Anything but a dead socket stays, and is an error.
fn clear_stale(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        let why = format!("{} exists and is not a socket", path.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => {
            let why = format!("another director answers at {}", path.display());
            Err(io::Error::new(io::ErrorKind::AddrInUse, why))
        }
    }
}
