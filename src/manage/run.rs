//! The management core's loop: between the workers, the host's TAPs and the [`Manager`], which decides.

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender};

use super::egress::Egress;
use super::{ManageConfig, Manager, Neighbour, Out};
use crate::clock::Now;
use crate::config::Config;
use crate::control::wire::{ManageStats, PortStats};
use crate::counters::Ledger;
use crate::packet::{Frame, Mac, ethernet};
use crate::service::registry::NoNumber;
use crate::service::{Composer, Composition, Reach, Registry, Snapshot, Station};
use crate::sys::epoch::Publisher;
use crate::sys::netdev::Tap;
use crate::worker::exchange::{self, Handed, Inbox, Outbox, Refused};

/// Frames that one turn takes from each source, so that none starves the others.
const BATCH: usize = 64;
/// How often the ports are asked whether they have a link.
const LINK_CHECK: Duration = Duration::from_millis(500);
/// How long whoever changed the configuration waits for the workers to take it up, and how often they are looked at.
const TAKE_UP: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Changes of many reals at once become one snapshot.
const PUBLISH_EVERY: Duration = Duration::from_millis(10);
/// The longest frame that goes between the host and a port.
const LONGEST_FRAME: usize = 16 * 1024;

/// A port's link and statistics, as its driver tells them.
#[derive(Clone, Debug, Default)]
pub struct PortView {
    pub link_up: bool,
    pub speed: u32,
    pub stats: PortStats,
}

/// What management knows, for whoever asks on the config socket.
#[derive(Clone, Debug)]
pub struct View {
    pub epoch: u64,
    /// The epoch that each worker has passed.
    pub held: Vec<u64>,
    pub neighbours: Vec<Neighbour>,
    pub warnings: Vec<String>,
    pub stats: ManageStats,
    pub ports: Vec<PortView>,
    /// Whose numbers are whose in the ledgers and in the flow tables.
    pub numbers: Arc<Registry>,
    /// In force now.
    pub config: Arc<Config>,
}

/// What the config socket wants of the management core.
pub enum Call {
    View(Sender<View>),
    Config(Sender<Arc<Config>>),
    /// Put another configuration in force, if the one it was made of still is.
    Publish {
        base: Arc<Config>,
        config: Arc<Config>,
        answer: Sender<Result<Published, String>>,
    },
}

/// A configuration that is in force.
#[derive(Debug)]
pub struct Published {
    pub epoch: u64,
    /// Workers that have not taken it up within our patience.
    pub behind: usize,
    /// What has no number yet.
    pub waiting: Vec<NoNumber>,
}

/// Somebody who waits until all workers have taken up what was published for them.
struct Waiter {
    published: Published,
    until: Now,
    answer: Sender<Result<Published, String>>,
}

/// Publishes the configuration with what is known of the reals' MACs.
pub struct Snapshots {
    pub publisher: Publisher<Snapshot>,
    pub config: Arc<Config>,
    pub composer: Composer,
    pub stations: Vec<Station>,
    /// All workers', to be cleared where a number gets another meaning.
    pub ledgers: Vec<Arc<Ledger>>,
    /// What of the configuration has no number yet.
    waiting: Vec<NoNumber>,
    /// The epoch up to which numbers were released.
    released: u64,
}

impl Snapshots {
    /// What goes on from the first one.
    pub fn new(
        publisher: Publisher<Snapshot>,
        config: Arc<Config>,
        composer: Composer,
        stations: Vec<Station>,
        ledgers: Vec<Arc<Ledger>>,
    ) -> Snapshots {
        Snapshots { publisher, config, composer, stations, ledgers, waiting: Vec::new(), released: 0 }
    }

    /// The first one, by what `manager` knows. A checked configuration has a number for everything that is in it.
    pub fn first(config: &Config, stations: &[Station], workers: usize, manager: &Manager) -> (Composer, Snapshot) {
        let mut composer = Composer::new(config.limits, stations.to_vec()).for_several_workers(workers > 1);
        let Composition { snapshot, .. } = composer.compose(1, config, &reach_of(manager));
        (composer, snapshot)
    }

    /// The same configuration, with what is known now of those who have these addresses.
    fn refresh(&mut self, manager: &Manager, addresses: &[Ipv4Addr]) {
        let epoch = self.publisher.epoch() + 1;
        self.publisher.replace(self.composer.refresh(epoch, addresses, &reach_of(manager)));
    }

    /// Another configuration, of the same ports. What has to wait for numbers to be released is said, and comes by
    /// `release`.
    pub fn publish(&mut self, config: Arc<Config>, manager: &Manager) -> Vec<NoNumber> {
        self.config = config;
        self.compose(manager);
        self.waiting.clone()
    }

    fn compose(&mut self, manager: &Manager) {
        let epoch = self.publisher.epoch() + 1;
        let Composition { snapshot, recycled, came, waiting } =
            self.composer.compose(epoch, &self.config, &reach_of(manager));
        for ledger in &self.ledgers {
            ledger.clear(&recycled.services, &recycled.reals);
            ledger.restart(&came.services, &came.reals);
        }
        self.publisher.replace(snapshot);
        self.waiting = waiting;
    }

    /// Frees the numbers that no worker's table can name any more, and gives them to who waits for one. Says whether
    /// there is a new snapshot.
    fn release(&mut self, manager: &Manager) -> bool {
        let swept = self.ledgers.iter().map(|ledger| ledger.swept.get()).min().unwrap_or(0);
        if swept <= self.released || !self.composer.registry().is_clearing() {
            return false;
        }
        self.released = swept;
        self.composer.release(swept);
        if !self.waiting.is_empty() {
            self.compose(manager);
            return true;
        }
        let is_done = !self.composer.registry().is_clearing();
        if is_done {
            // Sweeps look for the dead no more: that costs them a line of memory a flow.
            self.refresh(manager, &[]);
        }
        is_done
    }
}

fn reach_of(manager: &Manager) -> impl Fn(usize, Ipv4Addr) -> Reach {
    |port, address| match manager.neighbour(port, address).map(|neighbour| (neighbour.state.usable(), neighbour.mac)) {
        Some((true, Some(mac))) => Reach::At(mac),
        Some((false, Some(mac))) => Reach::Lost(mac),
        _ => Reach::Unknown,
    }
}

/// Makes a frame of bytes; none when there is no buffer.
pub type FrameMaker<F> = Box<dyn Fn(&[u8]) -> Option<F> + Send>;

pub struct Management<F> {
    pub manager: Manager,
    pub snapshots: Snapshots,
    /// One a port; none where the host is not served.
    pub taps: Vec<Option<Tap>>,
    /// What was said about each TAP that went away.
    pub lost: Vec<String>,
    pub outbox: Arc<Outbox<F>>,
    /// The worker that sends for us.
    pub sender: Arc<Inbox<F>>,
    pub make: FrameMaker<F>,
    pub ports: Box<dyn Fn() -> Vec<PortView> + Send>,
    pub calls: Receiver<Call>,
    /// All workers', to be woken for a new snapshot.
    pub workers: Vec<Arc<Inbox<F>>>,
}

/// What the loop itself remembers.
struct Turn {
    out: Vec<Out>,
    buffer: Vec<u8>,
    links: Vec<bool>,
    links_asked: Option<Now>,
    /// The neighbours that have changed since the last snapshot.
    changed: Vec<Ipv4Addr>,
    published: Now,
    /// Frames wait for the sending worker.
    ring: bool,
    waiters: Vec<Waiter>,
}

impl<F: Frame> Management<F> {
    /// Runs until `stop`; whoever sets that rings the outbox's bell.
    pub fn run(&mut self, clock: impl Fn() -> Now, stop: &AtomicBool) {
        let outbox = self.outbox.clone();
        let mut turn = Turn {
            out: Vec::new(),
            buffer: vec![0; LONGEST_FRAME],
            links: Vec::new(),
            links_asked: None,
            changed: Vec::new(),
            published: clock(),
            ring: false,
            waiters: Vec::new(),
        };
        while !stop.load(Ordering::Relaxed) {
            let now = clock();
            let busy = self.turn(now, &mut turn);
            if !busy {
                let patience = self.patience(clock(), &turn);
                let taps = self.taps.iter().flatten().map(AsFd::as_fd);
                let awaited: Vec<BorrowedFd<'_>> = std::iter::once(outbox.bell.as_fd()).chain(taps).collect();
                let mut awaited: Vec<_> = awaited.into_iter().map(exchange::readable).collect();
                exchange::wait(&mut awaited, patience);
                outbox.bell.silence();
            }
        }
    }

    /// Until something is due.
    fn patience(&self, now: Now, turn: &Turn) -> Duration {
        let due = self.manager.next_deadline().since(now).min(LINK_CHECK);
        let due = if turn.changed.is_empty() { due } else { due.min(PUBLISH_EVERY) };
        if turn.waiters.is_empty() { due } else { due.min(LOOK_EVERY) }
    }

    /// Takes a batch of everything; says whether more may be waiting.
    fn turn(&mut self, now: Now, turn: &mut Turn) -> bool {
        let mut busy = self.take_from_workers(now, turn);
        for port in 0..self.taps.len() {
            busy |= self.take_from_host(port, turn);
        }
        if turn.links_asked.is_none_or(|asked| now.since(asked) >= LINK_CHECK) {
            turn.links = (self.ports)().into_iter().map(|port| port.link_up).collect();
            turn.links_asked = Some(now);
            // Tables are gone through every ten seconds: this is often enough to look.
            if self.snapshots.release(&self.manager) {
                self.wake_workers();
            }
        }
        self.manager.tick(now, &turn.links, &mut turn.out);
        self.carry_out(None, turn);
        // Whoever asks hears of what is in force: a real that we call resolved gets its flows.
        if !turn.changed.is_empty() && (now.since(turn.published) >= PUBLISH_EVERY || !self.calls.is_empty()) {
            self.snapshots.refresh(&self.manager, &turn.changed);
            turn.changed.clear();
            turn.published = now;
        }
        if std::mem::take(&mut turn.ring) {
            self.sender.bell.ring();
        }
        for _ in 0..BATCH {
            let Ok(call) = self.calls.try_recv() else { break };
            self.answer(now, call, turn);
        }
        self.tell_waiters(now, turn);
        busy
    }

    /// Where an answer cannot be left, nobody waits for it any more.
    fn answer(&mut self, now: Now, call: Call, turn: &mut Turn) {
        match call {
            Call::View(asker) => drop(asker.try_send(self.view(now))),
            Call::Config(asker) => drop(asker.try_send(self.snapshots.config.clone())),
            Call::Publish { base, answer, .. } if !Arc::ptr_eq(&base, &self.snapshots.config) => {
                drop(answer.try_send(Err("the configuration has changed meanwhile; try again".to_owned())));
            }
            Call::Publish { config, answer, .. } => {
                let wanted = ManageConfig::new(&config, self.manager.macs(), 0);
                self.manager.reconfigure(now, &wanted);
                let waiting = self.snapshots.publish(config, &self.manager);
                // What was learnt meanwhile is in it.
                turn.changed.clear();
                turn.published = now;
                self.wake_workers();
                let published = Published { epoch: self.snapshots.publisher.epoch(), behind: 0, waiting };
                turn.waiters.push(Waiter { published, until: now + TAKE_UP, answer });
            }
        }
    }

    fn tell_waiters(&self, now: Now, turn: &mut Turn) {
        let publisher = &self.snapshots.publisher;
        turn.waiters.retain(|waiter| {
            let behind = publisher.held().filter(|held| *held < waiter.published.epoch).count();
            let done = behind == 0 || now >= waiter.until;
            if done {
                let Published { epoch, ref waiting, .. } = waiter.published;
                drop(waiter.answer.try_send(Ok(Published { epoch, behind, waiting: waiting.clone() })));
            }
            !done
        });
    }

    /// Those that sleep take up the newest snapshot when they wake.
    fn wake_workers(&self) {
        self.workers.iter().for_each(|inbox| inbox.bell.ring());
    }

    fn take_from_workers(&mut self, now: Now, turn: &mut Turn) -> bool {
        let outbox = self.outbox.clone();
        let mut taken = 0;
        for Handed { port, frame } in std::iter::from_fn(|| outbox.manage.pop()).take(BATCH) {
            taken += 1;
            let port = usize::from(port);
            let Some(bytes) = untagged(&frame, self.vlan(port), &mut turn.buffer) else { continue };
            let length = bytes.len();
            self.manager.handle(now, port, bytes, &mut turn.out);
            self.carry_out(Some(length), turn);
        }
        for Refused { handed, answer } in std::iter::from_fn(|| outbox.refused.pop()).take(BATCH) {
            taken += 1;
            let port = usize::from(handed.port);
            if let Some(bytes) = untagged(&handed.frame, self.vlan(port), &mut turn.buffer) {
                self.manager.refuse(now, port, answer, bytes, &mut turn.out);
                self.carry_out(None, turn);
            }
        }
        for Handed { port, frame } in std::iter::from_fn(|| outbox.host.pop()).take(BATCH) {
            taken += 1;
            let port = usize::from(port);
            if let Some(length) = untagged(&frame, self.vlan(port), &mut turn.buffer).map(<[u8]>::len) {
                self.give_to_host(port, &turn.buffer[..length]);
            }
        }
        taken > 0
    }

    /// Does what the manager wants done; `handled` is the length of the frame in the buffer that it was about.
    fn carry_out(&mut self, handled: Option<usize>, turn: &mut Turn) {
        for order in std::mem::take(&mut turn.out) {
            match order {
                Out::Send { port, frame } => {
                    if !self.send(port, &frame, turn) {
                        log::debug!(
                            "port {}: no buffer or no room for a frame of our own",
                            self.manager.port_name(port)
                        );
                    }
                }
                Out::Host { port } => {
                    if let Some(length) = handled {
                        self.give_to_host(port, &turn.buffer[..length]);
                    }
                }
                Out::Neighbour(neighbour) => {
                    let name = self.manager.port_name(neighbour.port);
                    log::log!(neighbour_level(&neighbour), "port {name}: {neighbour}");
                    turn.changed.push(neighbour.address);
                }
                Out::Event(event) => {
                    log::log!(event.level(), "port {}: {event}", self.manager.port_name(event.port()));
                }
            }
        }
    }

    fn vlan(&self, port: usize) -> Option<u16> {
        self.snapshots.stations.get(port).and_then(|station| station.vlan)
    }

    /// Gives an untagged frame to the worker that sends for us.
    fn send(&mut self, port: usize, frame: &[u8], turn: &mut Turn) -> bool {
        let made = match self.vlan(port) {
            None => (self.make)(frame),
            Some(vlan) => (self.make)(&tagged(frame, vlan)),
        };
        turn.ring = true;
        made.is_some_and(|frame| self.sender.send.push(Handed { port: port as u8, frame }).is_ok())
    }

    fn give_to_host(&mut self, port: usize, frame: &[u8]) {
        let written = self.taps.get(port).and_then(Option::as_ref).map(|tap| tap.write(frame));
        let stats = self.manager.stats_mut();
        match written {
            Some(Ok(_)) => stats.host_received += 1,
            _ => stats.host_dropped += 1,
        }
    }

    /// What the host sends by this port.
    fn take_from_host(&mut self, port: usize, turn: &mut Turn) -> bool {
        for _ in 0..BATCH {
            let Some(tap) = self.taps.get(port).and_then(Option::as_ref) else { return false };
            let length = match tap.read(&mut turn.buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) => {
                    self.give_up_tap(port, &error);
                    return false;
                }
            };
            let mut frame = turn.buffer[..length].to_vec();
            if self.manager.host_egress(port, &mut frame) == Egress::Send {
                let sent = self.send(port, &frame, turn);
                let stats = self.manager.stats_mut();
                if sent { stats.host_sent += 1 } else { stats.host_dropped += 1 }
            }
        }
        true
    }

    /// A TAP that was deleted under us is ready for ever and never comes back.
    fn give_up_tap(&mut self, port: usize, error: &std::io::Error) {
        let Some(tap) = self.taps.get_mut(port).and_then(Option::take) else { return };
        let (port, tap) = (self.manager.port_name(port), tap.name());
        let warning = format!("port {port}: the host's TAP {tap} is gone ({error}); droverd makes it when it starts");
        log::error!("{warning}");
        self.lost.push(warning);
    }

    fn view(&self, now: Now) -> View {
        let mut warnings = self.manager.warnings(now);
        warnings.extend(self.lost.iter().cloned());
        warnings.extend(NoNumber::told(&self.snapshots.waiting));
        View {
            epoch: self.snapshots.publisher.epoch(),
            held: self.snapshots.publisher.held().collect(),
            neighbours: self.manager.neighbours().copied().collect(),
            warnings,
            stats: self.manager.stats().clone(),
            ports: (self.ports)(),
            numbers: self.snapshots.composer.registry().clone(),
            config: self.snapshots.config.clone(),
        }
    }
}

/// The frame in `buffer`, without the tag of the port's VLAN.
fn untagged<'b, F: Frame>(frame: &F, vlan: Option<u16>, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
    let length = frame.copy_to(buffer);
    if length < frame.wire_len() {
        return None;
    }
    // A priority tag (VLAN 0) is left to the kernel.
    match ethernet::parse(&buffer[..length]) {
        Some(link) if vlan.is_some() && link.vlan == vlan => {
            buffer.copy_within(link.payload - 2..length, ethernet::HEADER - 2);
            Some(&buffer[..length - ethernet::TAG])
        }
        _ => Some(&buffer[..length]),
    }
}

fn tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(frame.len().min(2 * size_of::<Mac>()));
    [addresses, &ethernet::VLAN.to_be_bytes(), &vlan.to_be_bytes(), rest].concat()
}

fn neighbour_level(neighbour: &Neighbour) -> log::Level {
    match neighbour.state {
        super::NeighbourState::Unreachable => log::Level::Warn,
        _ => log::Level::Info,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SimFrame;
    use crate::sim::frames::FrameBuilder;

    #[test]
    fn a_tag_comes_off_and_goes_on_again() {
        let plain = FrameBuilder::udp((Ipv4Addr::new(1, 2, 3, 4), 5), (Ipv4Addr::new(6, 7, 8, 9), 10));
        let with_tag = FrameBuilder { vlan: Some(7), ..plain.clone() }.build();
        let mut buffer = [0; 2048];
        let frame = SimFrame(with_tag.clone());
        assert_eq!(untagged(&frame, Some(7), &mut buffer), Some(&plain.build()[..]));
        assert_eq!(untagged(&frame, None, &mut buffer), Some(&with_tag[..]), "the host's own VLAN interface wants it");
        assert_eq!(tagged(&plain.build(), 7), with_tag);
        assert_eq!(untagged(&frame, Some(7), &mut [0; 20]), None, "no half frames");
    }
}
