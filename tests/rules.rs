//! The rules of LVS at the pure director: what edits, limits, persistence and policies do to connections. That they are
//! the kernel's is for `ipvs_*` to show; here is each by itself.

mod common;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use drover::clock::Now;
use drover::config::{
    Config, MatchRule, OnMiss, OnRemoved, Persistence, Ports, Protocol, Scheduler, ServiceConfig, Settings, Takes,
};
use drover::counters::{Ledger, Traffic};
use drover::director::Director;
use drover::flow::FlowTable;
use drover::packet::{Burst, checksum, ipv4};
use drover::service::{Composer, Reach, RealId, Snapshot, Station};
use drover::sim::SimFrame;
use drover::sim::frames::FrameBuilder;
use drover::verdict::{Answer, DropReason, Verdict};

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const FIN: u8 = 0x01;
const RST: u8 = 0x04;
const RESET: Sent = Err(Verdict::Answer(Answer::Reset));

const HOST: Sent = Err(Verdict::Host);

/// The number of the real that got it, or what became of it.
type Sent = Result<u8, Verdict>;

/// A director whose configuration changes.
struct Rig {
    config: Config,
    composer: Composer,
    snapshot: Snapshot,
    director: Director,
    ledger: Arc<Ledger>,
    now: Now,
    silent: Vec<u8>,
}

impl Rig {
    /// The first service with this changed.
    fn new(change: impl FnOnce(&mut ServiceConfig)) -> Rig {
        Rig::with_half_open(usize::MAX, change)
    }

    /// The same where so many half-open connections may have an entry.
    fn with_half_open(most: usize, change: impl FnOnce(&mut ServiceConfig)) -> Rig {
        let mut config = config();
        let mut service = (*config.services[0]).clone();
        change(&mut service);
        config.services[0] = Arc::new(service);
        let port = &config.ports[0];
        let station = Station { mac: DIRECTOR, network: port.address, vlan: port.vlan, mtu: port.mtu };
        let mut composer = Composer::new(config.limits, vec![station]);
        let snapshot = composer.compose(1, &config, &|_, address| reach(&[], address)).snapshot;
        let ledger = Arc::new(Ledger::new(config.limits.services, config.limits.reals));
        let table = FlowTable::new(3_000, false, [3, 5]).unwrap();
        let director = Director::new(tables(table), most, &snapshot, 0, ledger.clone());
        Rig { config, composer, snapshot, director, ledger, now: Now::from_secs(1000), silent: Vec::new() }
    }

    fn edit(&mut self, change: impl FnOnce(&mut ServiceConfig)) {
        let mut service = (*self.config.services[0]).clone();
        change(&mut service);
        self.config.services[0] = Arc::new(service);
        self.compose();
    }

    fn compose(&mut self) {
        let (epoch, silent) = (self.snapshot.epoch + 1, self.silent.clone());
        let composition = self.composer.compose(epoch, &self.config, &|_, address| reach(&silent, address));
        self.ledger.clear(&composition.recycled.services, &composition.recycled.reals);
        self.ledger.restart(&composition.came.services, &composition.came.reals);
        self.snapshot = composition.snapshot;
        self.composer.refresh(epoch, &[1, 2, 3].map(real_address), &|_, address| reach(&silent, address));
        self.director.adopt(self.now, &self.snapshot);
    }

    fn goes_silent(&mut self, real: u8) {
        self.silent.push(real);
        let (epoch, silent) = (self.snapshot.epoch + 1, self.silent.clone());
        let reach = |_, address| reach(&silent, address);
        self.snapshot = self.composer.refresh(epoch, &[real_address(real)], &reach);
    }

    fn wait(&mut self, seconds: u64) {
        self.now = self.now + Duration::from_secs(seconds);
        self.director.sweep(self.now, &self.snapshot, usize::MAX);
    }

    fn send(&mut self, frame: FrameBuilder) -> Sent {
        self.send_frame(frame.build())
    }

    fn send_frame(&mut self, frame: Vec<u8>) -> Sent {
        let mut burst = Burst::new();
        burst.push(SimFrame(frame));
        let verdicts = self.director.decide(self.now, &self.snapshot.stations[0], &self.snapshot, &mut burst);
        match verdicts[0] {
            Verdict::Forward { .. } => Ok(burst[0].0[5]),
            other => Err(other),
        }
    }

    /// One new connection from each of these ports, and where they went.
    fn connect(&mut self, ports: impl IntoIterator<Item = u16>) -> Vec<Sent> {
        ports.into_iter().map(|port| self.send(tcp(port, SYN))).collect()
    }

    /// The real of a new connection that the client completes.
    fn establish(&mut self, client: u32, port: u16) -> u8 {
        let real = self.send(from(client, port, SYN)).unwrap();
        assert_eq!(self.send(from(client, port, ACK)), Ok(real));
        real
    }

    fn refused(&self) -> u64 {
        self.ledger.frames.templates_refused.get()
    }

    /// Connections and packets of the first service, and of its first two reals.
    fn passed(&self) -> ((u64, u64), [(u64, u64); 2]) {
        let of = |traffic: &Traffic| (traffic.connections.get(), traffic.packets.get());
        (of(&self.ledger.services[0]), [0, 1].map(|real| of(&self.ledger.reals[real])))
    }

    /// Of the first service.
    fn standing(&self, real: u8) -> (u64, u64) {
        let traffic = &self.ledger.reals[usize::from(real) - 1];
        (traffic.active.get(), traffic.inactive.get())
    }

    /// Active connections to this address, of all services that are known.
    fn active(&self, real: u8) -> u64 {
        let numbers = self.composer.registry();
        let is_its = |id: &RealId| numbers.real_name(*id).is_some_and(|name| name.address == real_address(real));
        let lines = (0..self.ledger.reals.len()).map(|place| RealId(place as u16)).filter(is_its);
        lines.map(|id| self.ledger.reals[id.index()].active.get()).sum()
    }
}

fn reach(silent: &[u8], address: Ipv4Addr) -> Reach {
    let number = address.octets()[3] - 10;
    if silent.contains(&number) { Reach::Lost(real_mac(number)) } else { Reach::At(real_mac(number)) }
}

fn remove_all_but(kept: u8) -> impl FnOnce(&mut ServiceConfig) {
    move |service| service.reals.retain(|real| real.address == real_address(kept))
}

#[test]
fn a_removed_real_s_connections_go_by_the_service_s_choice() {
    for (on_removed, mid_flow, again) in [
        (OnRemoved::Reschedule, Ok(1), Ok(1)),
        (OnRemoved::Reset, RESET, Ok(1)),
        (OnRemoved::Drop, Err(Verdict::Drop(DropReason::RealRemoved)), Err(Verdict::Drop(DropReason::RealRemoved))),
    ] {
        let mut rig = Rig::new(|service| service.settings = Settings { on_removed, ..service.settings });
        assert_eq!((rig.send(tcp(1, SYN)), rig.send(tcp(1, ACK))), (Ok(3), Ok(3)));
        assert_eq!(rig.send(tcp(2, SYN)), Ok(2));
        rig.edit(remove_all_but(1));
        assert_eq!(rig.send(tcp(1, ACK)), mid_flow, "{on_removed:?}");
        assert_eq!(rig.send(tcp(1, SYN)), again, "{on_removed:?}: a client that begins again");
        let left = if on_removed == OnRemoved::Drop { (1, 0) } else { (0, 0) };
        assert_eq!(rig.standing(3), left, "{on_removed:?}");
    }
}

#[test]
fn a_real_that_comes_back_finds_its_silent_connections() {
    let mut rig = Rig::new(|service| service.settings.on_removed = OnRemoved::Drop);
    assert_eq!((rig.send(tcp(1, SYN)), rig.send(tcp(1, ACK))), (Ok(3), Ok(3)));
    let before = rig.config.services[0].clone();
    rig.edit(remove_all_but(1));
    assert_eq!(rig.send(tcp(1, ACK)), Err(Verdict::Drop(DropReason::RealRemoved)));
    rig.edit(|service| *service = (*before).clone());
    assert_eq!(rig.send(tcp(1, ACK)), Ok(3));
}

#[test]
fn datagrams_leave_a_real_that_went_down_at_once() {
    let mut rig = Rig::new(|_| ());
    assert_eq!(rig.send(udp(1)), Ok(3));
    assert_eq!(rig.send(udp(1)), Ok(3));
    rig.goes_silent(3);
    assert_eq!(rig.send(udp(1)), Ok(2));
    assert_eq!(rig.send(udp(1)), Ok(2));
    // TCP in the middle of a connection stays: another real could only reset it.
    let mut rig = Rig::new(|_| ());
    assert_eq!((rig.send(tcp(1, SYN)), rig.send(tcp(1, ACK))), (Ok(3), Ok(3)));
    rig.goes_silent(3);
    assert_eq!((rig.send(tcp(1, ACK)), rig.send(tcp(1, SYN))), (Ok(3), Ok(2)));
}

#[test]
fn what_nobody_knows_goes_by_the_service_s_choice() {
    let sent = |on_miss| Rig::new(|service| service.settings.on_miss = on_miss).send(tcp(7, ACK));
    assert_eq!(sent(OnMiss::Reset), RESET);
    assert_eq!(sent(OnMiss::Drop), Err(Verdict::Drop(DropReason::NoConnection)));
    let first = sent(OnMiss::Hash).expect("somebody");
    assert_eq!(sent(OnMiss::Hash), Ok(first), "the same on every director");
    let mut rig = Rig::new(|service| service.settings.on_miss = OnMiss::Hash);
    assert_eq!(rig.send(tcp(7, RST)), Err(Verdict::Drop(DropReason::NoConnection)), "nobody waits for a reset");
}

#[test]
fn a_syn_in_time_wait_begins_anew_and_in_fin_wait_goes_on_at_once() {
    let mut rig = Rig::new(|service| service.scheduler = Scheduler::RoundRobin);
    assert_eq!((rig.send(tcp(1, SYN)), rig.send(tcp(1, FIN | ACK))), (Ok(3), Ok(3)), "TIME_WAIT");
    assert_eq!(rig.send(tcp(1, SYN)), Ok(2), "scheduled anew");
    assert_eq!((rig.send(tcp(2, SYN)), rig.send(tcp(2, ACK)), rig.send(tcp(2, FIN | ACK))), (Ok(1), Ok(1), Ok(1)));
    assert_eq!(rig.send(tcp(2, SYN)), Ok(1), "FIN_WAIT: the same real, at once");
    rig.edit(|service| service.reals.retain(|real| real.address != real_address(1)));
    assert_eq!(rig.send(tcp(2, FIN | ACK)).map(|real| real != 1), Ok(true));
}

#[test]
fn a_drained_real_gets_nothing_from_a_port_that_is_used_again() {
    for (on_removed, again) in [(OnRemoved::Reschedule, Ok(2)), (OnRemoved::Reset, Ok(2)), (OnRemoved::Drop, Ok(3))] {
        let mut rig = Rig::new(|service| {
            service.scheduler = Scheduler::RoundRobin;
            service.settings.on_removed = on_removed;
        });
        assert_eq!([SYN, ACK, FIN | ACK].map(|flags| rig.send(tcp(1, flags))), [Ok(3); 3], "FIN_WAIT");
        rig.edit(|service| service.reals[2].weight = 0);
        assert_eq!((rig.send(tcp(1, ACK)), rig.standing(3)), (Ok(3), (0, 1)), "what is left of the old one");
        assert_eq!(rig.send(tcp(1, SYN)), again, "{on_removed:?}");
    }
    // What is only repeated is nothing new.
    let mut rig = Rig::new(|service| service.scheduler = Scheduler::RoundRobin);
    assert_eq!(rig.send(tcp(1, SYN)), Ok(3));
    rig.edit(|service| service.reals[2].weight = 0);
    assert_eq!((rig.send(tcp(1, SYN)), rig.send(tcp(1, ACK)), rig.send(tcp(1, SYN))), (Ok(3), Ok(3), Ok(3)));
}

#[test]
fn limits_turn_away_and_let_in_again() {
    let mut rig = Rig::new(|service| {
        service.scheduler = Scheduler::RoundRobin;
        service.reals.retain(|real| real.address != real_address(1));
        service.reals[0].upper = 2;
        service.reals[0].lower = 1;
    });
    let to = rig.connect(1..=6);
    assert_eq!(to, [3, 2, 3, 2, 3, 3].map(Ok), "the second real takes two");
    for port in [2, 4] {
        rig.send(tcp(port, ACK)).unwrap();
        rig.send(tcp(port, RST)).unwrap();
    }
    assert_eq!(rig.connect(7..=7), [Ok(3)], "closed, and counted until they are gone");
    rig.wait(15);
    assert!(rig.connect(8..=9).contains(&Ok(2)), "below the lower limit");
}

/// A service that was deleted and is made again is another one, and its reals are the same: what passed is counted from
/// nothing, and what stands counts on, for limits too.
#[test]
fn a_service_that_is_made_again_finds_its_reals_connections() {
    let mut rig = Rig::new(|service| {
        service.scheduler = Scheduler::RoundRobin;
        service.reals.retain(|real| real.address != real_address(3));
        service.reals.iter_mut().for_each(|real| real.upper = 2);
    });
    let full = [Err(Verdict::Answer(Answer::PortUnreachable))];
    assert_eq!(rig.connect(1..=4), [2, 1, 2, 1].map(Ok));
    assert_eq!(rig.connect(5..=5), full);
    assert_eq!(rig.passed(), ((4, 4), [(2, 2), (2, 2)]));
    let both = rig.config.services[0].clone();
    rig.edit(|service| service.reals.truncate(1));
    rig.config.services[0] = both.clone();
    rig.compose();
    assert_eq!(rig.passed(), ((4, 4), [(2, 2), (2, 2)]), "a real that comes back to its service counts on");
    rig.edit(|service| service.reals.truncate(1));
    let one = rig.config.services.remove(0);
    rig.compose();
    assert_eq!((rig.send(tcp(6, SYN)), rig.standing(1)), (RESET, (2, 0)));
    rig.config.services.insert(0, one);
    rig.compose();
    assert_eq!((rig.passed(), rig.standing(1)), (((0, 0), [(0, 0), (2, 2)]), (2, 0)));
    rig.config.services[0] = both;
    rig.compose();
    assert_eq!((rig.passed(), rig.standing(2)), (((0, 0), [(0, 0), (0, 0)]), (2, 0)));
    assert_eq!(rig.connect(7..=7), full, "both are at their limit still");
    (0..2).for_each(|_| rig.wait(61));
    assert_eq!((rig.standing(1), rig.standing(2)), ((0, 0), (0, 0)));
    assert_eq!(rig.connect(8..=9).iter().filter(|sent| sent.is_ok()).count(), 2);
    assert_eq!(rig.passed(), ((2, 2), [(1, 1), (1, 1)]));
}

/// What another worker's connections are is known ten milliseconds later at most.
#[test]
fn other_workers_connections_count() {
    let mut rig = Rig::new(|service| service.scheduler = Scheduler::LeastConnection);
    let peer = Arc::new(Ledger::new(rig.config.limits.services, rig.config.limits.reals));
    rig.director.set_peers(vec![peer.clone()]);
    let theirs = |counts: [u64; 3]| peer.reals.iter().zip(counts).for_each(|(real, count)| real.active.set(count));
    theirs([0, 9, 9]);
    assert_eq!(rig.connect(1..=2), [Ok(1); 2]);
    theirs([9, 9, 0]);
    rig.now = rig.now + Duration::from_micros(9_999);
    assert_eq!(rig.connect(3..=3), [Ok(1)]);
    rig.now = rig.now + Duration::from_micros(1);
    assert_eq!(rig.connect(4..=4), [Ok(3)]);
}

#[test]
fn a_client_comes_back_to_its_real() {
    let mut rig = Rig::new(|service| {
        service.scheduler = Scheduler::RoundRobin;
        service.settings.persistence = Some(Persistence { seconds: 60, prefix: 32 });
    });
    assert_eq!(rig.connect(1..=4), [Ok(3); 4]);
    let other = |port| FrameBuilder { source: (Ipv4Addr::new(10, 9, 0, 77), port), ..tcp(0, SYN) };
    assert_eq!([1, 2].map(|port| rig.send(other(port))), [Ok(2); 2]);
    // A drained real keeps its clients.
    rig.edit(|service| service.reals[2].weight = 0);
    assert_eq!(rig.connect(5..=5), [Ok(3)]);
    // All connections time out, and then the template does.
    (0..20).for_each(|_| rig.wait(30));
    assert_eq!(rig.director.templates().len(), 0);
    assert_ne!(rig.connect(6..=6), [Ok(3)]);
}

fn remembers_clients(service: &mut ServiceConfig) {
    service.scheduler = Scheduler::RoundRobin;
    service.settings.persistence = Some(Persistence { seconds: 360, prefix: 32 });
}

fn from(client: u32, port: u16, flags: u8) -> FrameBuilder {
    FrameBuilder { source: (Ipv4Addr::from_bits(client), port), ..tcp(0, flags) }
}

/// SYNs from so many addresses that nobody has, at a service that remembers its clients. Those who are connected keep
/// their real, for new connections too, whether these get an entry or not; and soon after the flood, not 360 seconds later,
/// new clients are remembered again.
#[test]
fn a_flood_leaves_room_to_remember_clients() {
    const KNOWN: u32 = 0x0a01_0001;
    const SPOOFED: u32 = 0x0a02_0001;
    const NEW: u32 = 0x0a03_0001;
    // With few half-open connections before they are in a hurry, and with so many that only the templates are scarce.
    for half_open in [400, usize::MAX] {
        let mut rig = Rig::with_half_open(half_open, remembers_clients);
        let reals: Vec<u8> = (0..20).map(|client| rig.establish(KNOWN + client, 1)).collect();
        let room = rig.director.templates().room() as u32;
        for second in 0..12 {
            for spoofed in 0..room / 4 {
                rig.send(from(SPOOFED + second * room + spoofed, 1, SYN)).unwrap();
            }
            let goes_on = (0..20).map(|client| rig.send(from(KNOWN + client, 1, ACK)).unwrap());
            assert_eq!(goes_on.collect::<Vec<_>>(), reals, "{half_open}: in the flood's second {second}");
            let again: Vec<_> = (0..20).map(|client| rig.establish(KNOWN + client, 2 + second as u16)).collect();
            assert_eq!(again, reals, "{half_open}: in the flood's second {second}");
            rig.wait(1);
        }
        let (refused, during) = (rig.refused(), rig.director.templates().len());
        assert_eq!(refused > 0, half_open == usize::MAX, "{half_open}: {refused}");
        (0..3).for_each(|_| rig.wait(10));
        let left = rig.director.templates().len();
        let patient = 20 + (room as usize / 2).min(half_open / 2) + 1;
        assert!(left <= patient && left < during, "{half_open}: {left} of {during} are left, {patient} may be");
        for client in 0..room / 3 {
            let real = rig.establish(NEW + client, 1);
            assert_eq!(rig.establish(NEW + client, 2), real, "{half_open}: client {client} is remembered");
        }
        assert_eq!(rig.refused(), refused, "{half_open}");
        let again = (0..20).map(|client| rig.establish(KNOWN + client, 99));
        assert_eq!(again.collect::<Vec<_>>(), reals, "{half_open}: after the flood");
    }
}

/// Spoofed clients who send their SYNs again and again do not keep the room that others want to be remembered in.
#[test]
fn a_syn_that_is_repeated_keeps_no_template() {
    const SPOOFED: u32 = 0x0a02_0001;
    for (share, left) in [(4, true), (1, false)] {
        let mut rig = Rig::new(remembers_clients);
        let spoofed = SPOOFED..SPOOFED + rig.director.templates().room() as u32 * 3 / 4 / share;
        let room = spoofed.len();
        for _ in 0..8 {
            spoofed.clone().for_each(|client| _ = rig.send(from(client, 1, SYN)).unwrap());
            rig.now = rig.now + Duration::from_secs(1);
        }
        (0..3).for_each(|_| rig.wait(10));
        let there = rig.director.templates().len();
        assert_eq!(there == room, left, "one in {share}: {there} of {room} are left");
        assert!(left || there <= rig.director.templates().room() / 2 + 1, "{there}");
    }
}

/// As many connections are half open as may be, so that a client who is not known gets neither an entry nor a template:
/// its connections go to one real all the same, then and later.
#[test]
fn who_comes_while_nobody_can_be_remembered_goes_to_one_real() {
    const SPOOFED: u32 = 0x0a02_0001;
    const NEW: u32 = 0x0a03_0001;
    let mut rig = Rig::with_half_open(100, remembers_clients);
    (0..200).for_each(|spoofed| _ = rig.send(from(SPOOFED + spoofed, 1, SYN)).unwrap());
    let clients = NEW..NEW + 40;
    let reals: Vec<u8> = clients.clone().map(|client| rig.establish(client, 1)).collect();
    assert!((1..=3).all(|real| reals.contains(&real)), "{reals:?}");
    assert_eq!(rig.director.templates().iter().filter(|template| template.assured).count(), 0);
    assert_eq!(clients.clone().map(|client| rig.establish(client, 2)).collect::<Vec<_>>(), reals, "of another port");
    rig.wait(30);
    assert_eq!(clients.clone().map(|client| rig.establish(client, 3)).collect::<Vec<_>>(), reals, "after the flood");
    let assured = rig.director.templates().iter().filter(|template| template.assured).count();
    assert_eq!(assured, 40, "now they are remembered");
    let goes_on = clients.map(|client| [1, 2, 3].map(|port| rig.send(from(client, port, ACK)).unwrap()));
    assert!(goes_on.zip(&reals).all(|(went, real)| went == [*real; 3]), "and the first connections go on");
}

/// Two directors with our own Maglev, one of which takes over: it has seen nothing of the clients.
#[test]
fn a_director_that_takes_over_sends_persistent_clients_where_they_were() {
    let maglev = |service: &mut ServiceConfig| {
        remembers_clients(service);
        service.scheduler = Scheduler::Maglev;
        service.settings.on_miss = OnMiss::Hash;
    };
    let (mut first, mut second) = (Rig::new(maglev), Rig::new(maglev));
    for client in 0x0a01_0001..0x0a01_0101 {
        let real = first.establish(client, 1);
        assert_eq!((second.send(from(client, 1, ACK)), second.establish(client, 2)), (Ok(real), real));
    }
}

/// Who completes a connection while templates are scarce is remembered as ever, also if the first SYN's three seconds
/// were over when the next one came.
#[test]
fn a_client_that_comes_in_a_flood_is_remembered() {
    const SPOOFED: u32 = 0x0a02_0001;
    let (prompt, slow) = (0x0a03_0001..0x0a03_0006, 0x0a04_0001..0x0a04_0006);
    let mut rig = Rig::new(remembers_clients);
    let room = rig.director.templates().room() as u32;
    (0..room * 3 / 4).for_each(|spoofed| _ = rig.send(from(SPOOFED + spoofed, 1, SYN)).unwrap());
    let mut reals: Vec<u8> = slow.clone().map(|client| rig.send(from(client, 1, SYN)).unwrap()).collect();
    rig.now = rig.now + Duration::from_secs(4);
    let again: Vec<u8> = slow.clone().map(|client| rig.establish(client, 1)).collect();
    assert_eq!(again, reals, "its template goes only with its connection");
    reals.extend(prompt.clone().map(|client| rig.establish(client, 1)));
    let clients = slow.chain(prompt);
    clients.clone().for_each(|client| _ = rig.send(from(client, 1, RST)).unwrap());
    rig.wait(10);
    rig.wait(300);
    assert_eq!(rig.ledger.frames.flows.get(), 0);
    assert_eq!(clients.map(|client| rig.establish(client, 2)).collect::<Vec<_>>(), reals);
}

#[test]
fn one_packet_at_a_time() {
    let mut rig = Rig::new(|_| ());
    let mut dns = (*rig.config.services[1]).clone();
    dns.settings.one_packet = true;
    rig.config.services[1] = Arc::new(dns);
    rig.compose();
    let to: Vec<Sent> = (0..6).map(|_| rig.send(udp(5))).collect();
    assert_eq!(to, [3, 2, 1, 3, 2, 1].map(Ok));
    assert_eq!((rig.ledger.frames.flows.get(), rig.ledger.services[1].connections.get()), (0, 6));
    let used_up = FrameBuilder { ttl: 1, ..udp(5) };
    assert_eq!(rig.send(used_up), Err(Verdict::Answer(Answer::TimeExceeded)));
    let traffic = &rig.ledger.services[1];
    assert_eq!((traffic.packets.get(), traffic.answers.get()), (7, 0), "that is about no connection any more");
}

#[test]
fn an_icmp_error_about_a_flow_goes_to_its_real_and_changes_nothing() {
    let mut rig = Rig::new(|_| ());
    assert_eq!(rig.send(udp(9)), Ok(3));
    let error = |port: u16| {
        let mut quoted = udp(port).build()[14..42].to_vec();
        // As the real sent it: from the virtual address to the client.
        let (source, destination) = (quoted[12..16].to_vec(), quoted[16..20].to_vec());
        quoted[12..16].copy_from_slice(&destination);
        quoted[16..20].copy_from_slice(&source);
        let ports = [quoted[22], quoted[23], quoted[20], quoted[21]];
        quoted[20..24].copy_from_slice(&ports);
        let mut message = vec![3, 3, 0, 0, 0, 0, 0, 0];
        message.extend(quoted);
        let sum = checksum::checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
        let mut frame = FrameBuilder { protocol: ipv4::ICMP, ..tcp(0, 0) }.build()[..34].to_vec();
        frame.extend(message);
        let length = (frame.len() as u16 - 14).to_be_bytes();
        frame[16..18].copy_from_slice(&length);
        frame[24..26].fill(0);
        let sum = checksum::checksum(&frame[14..34]).to_be_bytes();
        frame[24..26].copy_from_slice(&sum);
        frame
    };
    let before = rig.director.flows().len();
    assert_eq!(rig.send_frame(error(9)), Ok(3));
    assert!(matches!(rig.send_frame(error(10)), Err(Verdict::Drop(_) | Verdict::Manage)), "about no flow");
    assert_eq!(rig.director.flows().len(), before);
    let real = rig.snapshot.reals.iter().position(|real| real.address == real_address(3) && real.port == 53).unwrap();
    let mtu = std::mem::replace(&mut rig.snapshot.reals[real].mtu, 40);
    assert_eq!(rig.send_frame(error(9)), Err(Verdict::Drop(DropReason::LongerThanMtu)), "and nobody is told of that");
    assert_eq!(rig.ledger.reals[real].answers.get(), 0);
    rig.snapshot.reals[real].mtu = mtu;
    rig.wait(299);
    assert_eq!(rig.send_frame(error(9)), Ok(3));
    rig.wait(2);
    assert!(rig.send_frame(error(9)).is_err(), "the error has not made its flow live longer");
}

/// The coarse clock over more than a year: flows live as long as they should on every day of it.
#[test]
fn four_hundred_days() {
    let mut rig = Rig::new(|service| service.scheduler = Scheduler::RoundRobin);
    rig.now = Now::from_secs(1);
    for day in 0..400u64 {
        let port = day as u16 + 1;
        let real = rig.send(tcp(port, SYN)).expect("a new connection");
        assert_eq!(rig.send(tcp(port, ACK)), Ok(real));
        rig.wait(890);
        assert_eq!(rig.send(tcp(port, ACK)), Ok(real), "day {day}");
        rig.wait(901);
        assert_eq!(rig.send(tcp(port, ACK)), RESET, "day {day}");
        rig.wait(86_400 - 890 - 901);
        assert_eq!(rig.ledger.frames.flows.get(), 0, "day {day}");
    }
}

/// The 32 bits of coarse time come round after 17 years of running.
#[test]
fn the_coarse_clock_comes_round() {
    let mut rig = Rig::new(|service| service.scheduler = Scheduler::RoundRobin);
    rig.now = Now::from_secs((1 << 29) - 450);
    let real = rig.send(tcp(1, SYN)).unwrap();
    assert_eq!(rig.send(tcp(1, ACK)), Ok(real));
    rig.wait(800);
    assert_eq!(rig.send(tcp(1, ACK)), Ok(real));
    rig.wait(800);
    assert_eq!(rig.send(tcp(1, ACK)), Ok(real));
    rig.wait(901);
    assert_eq!(rig.send(tcp(1, ACK)), RESET);
}

/// So many reals come and go that their numbers are needed again: flows of the old holder are not the new one's, before
/// the sweep has cleared them and after.
#[test]
fn a_number_that_means_another_real_is_not_mistaken_for_it() {
    let mut rig = Rig::new(|service| {
        service.scheduler = Scheduler::RoundRobin;
        service.settings.on_removed = OnRemoved::Drop;
    });
    assert_eq!(rig.connect(1..=4), [Ok(3), Ok(2), Ok(1), Ok(3)]);
    let number = rig.snapshot.reals.iter().position(|real| real.address == real_address(3)).unwrap();
    let generation = rig.snapshot.reals[number].generation;
    let mut comer = 0u32;
    while rig.snapshot.reals[number].generation == generation {
        comer += 1;
        let address = Ipv4Addr::from_bits(u32::from(real_address(0)) + 100 + comer % 100);
        rig.edit(|service| service.reals[2].address = address);
        let count = rig.snapshot.reals.len();
        assert!(comer < 100_000, "{count} numbers are never needed again");
        rig.composer.release(rig.snapshot.epoch);
        if comer.is_multiple_of(100) {
            rig.edit(|service| service.reals[2].port += 1);
        }
    }
    assert_eq!(rig.send(tcp(1, ACK)), RESET, "its flow is not the new holder's");
    assert_eq!(rig.ledger.frames.flows.get(), 3);
    rig.wait(20);
    assert_eq!(rig.ledger.frames.flows.get(), 2, "and the sweep clears it before its time");
}

/// A service of TCP for the virtual address with these ports, and one real.
fn service_of(ports: Ports, real: u8, on_removed: OnRemoved) -> Arc<ServiceConfig> {
    let mut service = (*config().services[0]).clone();
    service.takes = Takes::one_address(Protocol::Tcp, VIP, ports);
    service.reals.retain(|other| other.address == real_address(real));
    service.settings.on_removed = on_removed;
    Arc::new(service)
}

fn with_services(services: &[Arc<ServiceConfig>]) -> Rig {
    let mut rig = Rig::new(|_| ());
    rig.config.services = services.to_vec();
    rig.compose();
    rig
}

#[test]
fn a_connection_stays_where_it_is_when_another_service_takes_its_packets() {
    for on_removed in [OnRemoved::Reschedule, OnRemoved::Reset, OnRemoved::Drop] {
        let (any, web) = (service_of(Ports::ANY, 1, on_removed), service_of(Ports::one(80), 2, on_removed));
        let mut rig = with_services(std::slice::from_ref(&any));
        assert_eq!((rig.send(tcp(1, SYN)), rig.send(tcp(1, ACK))), (Ok(1), Ok(1)));
        rig.config.services.push(web.clone());
        rig.compose();
        assert_eq!((rig.send(tcp(1, ACK)), rig.send(tcp(2, SYN))), (Ok(1), Ok(2)), "the new one is for the new only");
        assert_eq!((rig.send(tcp(2, ACK)), rig.active(1), rig.active(2)), (Ok(2), 1, 1));
        // The other way round: the exact service goes, and its port is the first one's again.
        rig.config.services.pop();
        rig.compose();
        assert_eq!(rig.send(tcp(1, ACK)), Ok(1));
        let gone = match on_removed {
            OnRemoved::Reschedule => Ok(1),
            OnRemoved::Reset => RESET,
            OnRemoved::Drop => Err(Verdict::Drop(DropReason::RealRemoved)),
        };
        assert_eq!(rig.send(tcp(2, ACK)), gone, "{on_removed:?}: the deleted service's choice");
        assert_eq!(rig.send(tcp(3, SYN)), Ok(1));
    }
}

#[test]
fn what_a_deleted_service_s_connections_meet() {
    let choices = [
        (OnRemoved::Reschedule, RESET, RESET, 0),
        (OnRemoved::Reset, RESET, RESET, 0),
        (OnRemoved::Drop, Err(Verdict::Drop(DropReason::RealRemoved)), RESET, 1),
    ];
    for (on_removed, mid_flow, of_nobody, left) in choices {
        let other = service_of(Ports::one(81), 3, on_removed);
        let mut rig = with_services(&[service_of(Ports::one(80), 1, on_removed), other]);
        assert_eq!((rig.send(tcp(1, SYN)), rig.send(tcp(1, ACK))), (Ok(1), Ok(1)));
        let web = rig.config.services.remove(0);
        rig.compose();
        assert_eq!((rig.send(tcp(1, ACK)), rig.send(tcp(2, ACK))), (mid_flow, of_nobody), "{on_removed:?}");
        assert_eq!(rig.active(1), left, "{on_removed:?}");
        rig.config.services.insert(0, web);
        rig.compose();
        let again = if on_removed == OnRemoved::Drop { Ok(1) } else { RESET };
        assert_eq!(rig.send(tcp(1, ACK)), again, "{on_removed:?}: it came back");
    }
    // The address goes with its last service: it is the host's, but for connections that are to be silent.
    let mut rig = with_services(&[service_of(Ports::one(80), 1, OnRemoved::Drop)]);
    rig.config.services.push(config().services[1].clone());
    let mut elsewhere = (*rig.config.services[1]).clone();
    elsewhere.takes = Takes::exact(Protocol::Udp, [10, 9, 0, 101], 53);
    rig.config.services[1] = Arc::new(elsewhere);
    rig.compose();
    assert_eq!((rig.send(tcp(1, SYN)), rig.send(tcp(1, ACK))), (Ok(1), Ok(1)));
    rig.config.services.remove(0);
    rig.compose();
    let silence = Err(Verdict::Drop(DropReason::RealRemoved));
    assert_eq!((rig.send(tcp(1, ACK)), rig.send(tcp(2, SYN)), rig.send(udp(2))), (silence, HOST, HOST));
    rig.config.services.clear();
    rig.compose();
    assert_eq!(rig.send(tcp(1, ACK)), HOST, "a director without services leaves all to the host");
}

/// A connection that is over would begin anew; where nobody takes its packets it stays as it is.
#[test]
fn a_connection_that_nobody_could_take_over_stays_as_it_is() {
    let (web, other) = (service_of(Ports::one(80), 1, OnRemoved::Drop), service_of(Ports::one(81), 3, OnRemoved::Drop));
    let mut rig = with_services(&[web.clone(), other]);
    assert_eq!([SYN, FIN | ACK].map(|flags| rig.send(tcp(1, flags))), [Ok(1), Ok(1)], "TIME_WAIT");
    rig.config.services.remove(0);
    rig.compose();
    assert_eq!((rig.send(tcp(1, SYN)), rig.ledger.frames.flows.get()), (RESET, 1));
    rig.config.services.insert(0, web);
    rig.compose();
    assert_eq!(rig.send(tcp(1, ACK)), Ok(1), "it is there when its service comes back");
}

/// A scheduler that remembers reals knows one again whose connections were ended, as the kernel's does.
#[test]
fn who_comes_back_without_its_connections_is_no_stranger_to_its_scheduler() {
    let mut rig = Rig::new(|service| {
        service.scheduler = Scheduler::LocalityReplicated;
        service.settings.on_removed = OnRemoved::Reset;
        service.reals.truncate(2);
    });
    let whole = rig.config.services[0].clone();
    let first = rig.send(tcp(1, SYN)).unwrap();
    rig.edit(|service| service.reals.retain(|real| real.address != real_address(first)));
    let second = rig.send(tcp(2, SYN)).unwrap();
    assert_ne!(first, second);
    // Two are in the address's set again, and the one without connections is chosen.
    rig.edit(|service| *service = (*whole).clone());
    assert_eq!(rig.send(tcp(3, SYN)), Ok(first));
}

#[test]
fn a_mark_that_comes_and_goes_leaves_connections_where_they_are() {
    let mut marked = (*service_of(Ports::one(80), 2, OnRemoved::Drop)).clone();
    marked.takes = Takes::Mark(7);
    let mut rig = with_services(&[service_of(Ports::one(80), 1, OnRemoved::Drop), Arc::new(marked)]);
    let any = "0.0.0.0/0".parse().unwrap();
    let rule = MatchRule {
        mark: 7,
        source: any,
        destination: any,
        ports: Ports::one(80),
        protocol: None,
        ingress: None,
        source_mac: None,
    };
    assert_eq!((rig.send(tcp(1, SYN)), rig.send(tcp(1, ACK))), (Ok(1), Ok(1)));
    rig.config.matches.push(rule);
    rig.compose();
    assert_eq!((rig.send(tcp(1, ACK)), rig.send(tcp(2, SYN)), rig.send(tcp(2, ACK))), (Ok(1), Ok(2), Ok(2)));
    rig.config.matches.clear();
    rig.compose();
    assert_eq!((rig.send(tcp(1, ACK)), rig.send(tcp(2, ACK)), rig.send(tcp(3, SYN))), (Ok(1), Ok(2), Ok(1)));
    assert_eq!((rig.active(1), rig.active(2)), (2, 1));
}

#[test]
fn with_reset_a_removal_ends_connections_at_once() {
    let mut rig = Rig::new(|service| service.settings.on_removed = OnRemoved::Reset);
    let whole = rig.config.services[0].clone();
    assert_eq!((rig.send(tcp(1, SYN)), rig.send(tcp(1, ACK)), rig.send(tcp(2, SYN))), (Ok(3), Ok(3), Ok(2)));
    rig.edit(remove_all_but(2));
    assert_eq!((rig.standing(3), rig.standing(2)), ((0, 0), (1, 0)), "nothing is left of it, though nobody has sent");
    rig.edit(|service| *service = (*whole).clone());
    assert_eq!((rig.send(tcp(1, ACK)), rig.send(tcp(1, ACK))), (RESET, RESET), "it came back, its connections do not");
    assert_eq!(rig.send(tcp(2, ACK)), Ok(2));
    let active: u64 = rig.ledger.services[0].active.get();
    assert_eq!((active, rig.ledger.frames.flows.get()), (1, 1));
    // Also on a worker that no packet comes to.
    rig.config.services[0] = Arc::new({
        let mut fewer = (*whole).clone();
        remove_all_but(1)(&mut fewer);
        fewer
    });
    rig.snapshot = rig.composer.compose(100, &rig.config, &|_, address| reach(&[], address)).snapshot;
    rig.director.sweep(rig.now, &rig.snapshot, 1);
    assert_eq!(rig.standing(2), (0, 0));
    // More often than there are generations, and without a sweep in between.
    let there = |rig: &mut Rig| rig.edit(|service| *service = (*whole).clone());
    for _ in 0..300 {
        let before = rig.connect(100..106);
        assert!(before.iter().all(Result::is_ok), "{before:?}");
        rig.edit(remove_all_but(2));
        for (port, to) in (100..106).zip(&before).filter(|(_, to)| **to != Ok(2)) {
            assert_eq!(rig.send(tcp(port, ACK)), RESET, "{port} was with {to:?}");
        }
        there(&mut rig);
    }
    // A connection that nobody heard of since is not taken for one of now.
    assert_eq!(rig.send(tcp(1, ACK)), RESET);
}

/// The director's ICMP errors about a connection are counted with what its real got; one that is about none is not.
#[test]
fn errors_about_a_connection_are_counted_as_its_real_s_and_its_service_s() {
    let mut rig = Rig::new(|service| service.reals.truncate(1));
    let told = |rig: &Rig| {
        [&rig.ledger.reals[0], &rig.ledger.services[0]].map(|line| (line.answers.get(), line.answer_bytes.get()))
    };
    assert_eq!(rig.send(tcp(1, SYN)), Ok(1));
    assert_eq!(told(&rig), [(0, 0); 2], "nothing was told");
    let used_up = Err(Verdict::Answer(Answer::TimeExceeded));
    assert_eq!(rig.send(FrameBuilder { ttl: 1, ..tcp(1, ACK) }), used_up);
    assert_eq!(told(&rig), [(1, 68); 2], "of a connection that is known: 20 + 8 + 40 bytes");
    assert_eq!(rig.send(FrameBuilder { ttl: 1, ..tcp(2, SYN) }), used_up);
    assert_eq!(told(&rig), [(2, 136); 2], "of one that has just begun");
    rig.snapshot.reals[0].mtu = 800;
    let long = FrameBuilder { payload: vec![7; 900], ..tcp(1, ACK) };
    assert_eq!(rig.send(long.clone()), Err(Verdict::Answer(Answer::FragmentationNeeded { egress: 0 })));
    assert_eq!(told(&rig), [(3, 136 + 576); 2], "no error is longer than 576 bytes");
    assert_eq!(rig.send(FrameBuilder { fragment: 0, ..long }), Err(Verdict::Drop(DropReason::LongerThanMtu)));
    assert_eq!(rig.send(tcp(3, ACK)), RESET);
    assert_eq!(told(&rig), [(3, 712); 2], "neither what is dropped nor a reset");
    rig.edit(|service| service.settings.on_removed = OnRemoved::Reset);
    rig.edit(|service| service.reals.iter_mut().for_each(|real| real.weight = 0));
    let nobody = Err(Verdict::Answer(Answer::PortUnreachable));
    assert_eq!(rig.send(tcp(4, SYN)), nobody);
    assert_eq!(told(&rig), [(3, 712); 2], "there is no connection");
    assert_eq!(rig.send(tcp(1, SYN)), nobody);
    assert_eq!(told(&rig), [(4, 780); 2], "the old one is still there for the kernel");
}
