//! The management core's network duties: it answers ARP and ping for the virtual addresses, knows the reals' MACs
//! ahead of need, announces our addresses, and decides what the host's kernel gets to see.
//!
//! [`Manager`] is a pure state machine: frames and the time go in, [`Out`] comes out. It does no I/O, reads no clock,
//! and whatever a peer sends, it stays as large as its configuration made it.

pub mod announce;
pub mod conflict;
pub mod echo;
pub mod egress;
mod event;
pub mod host;
pub mod limit;
pub mod neighbour;
mod random;
mod refuse;
pub mod run;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use announce::Announcer;
use conflict::{Conflict, Conflicts};
use egress::{Egress, EgressDrop};
pub use event::Event;
use limit::{Limit, Rate};
use neighbour::{Claim, Neighbours, Step};
pub use neighbour::{Neighbour, NeighbourState, Wanted};
use random::Random;
use refuse::Refusals;

use crate::clock::Now;
use crate::config::{Config, PortConfig};
use crate::control::wire::ManageStats;
use crate::packet::arp::{self, Arp, Operation};
use crate::packet::ethernet::{self, Ethernet};
use crate::packet::{Ipv4Net, Mac, ipv4};

/// Networks of virtual addresses are announced address by address from this prefix length on.
const ANNOUNCED: u8 = 24;
/// Answers to ping, each port.
pub const ECHO_RATE: Rate = Rate { per_second: 1_000, burst: 250 };
/// Answers to ARP, each port: a whole network may ask at once after a take-over.
pub const ARP_RATE: Rate = Rate { per_second: 5_000, burst: 1_000 };
/// TCP resets, each port. One costs no more than a ping, and who waits for it is a user.
pub const RESET_RATE: Rate = Rate { per_second: 10_000, burst: 1_000 };
/// ICMP errors, each kind and port: as many as the kernel sends in all.
pub const ERROR_RATE: Rate = Rate { per_second: 1_000, burst: 250 };
/// Our own questions, and our announcements: 64,000 reals are asked within 13 seconds, not in one breath.
const QUESTION_RATE: Rate = Rate { per_second: 5_000, burst: 256 };
const ANNOUNCEMENT_RATE: Rate = Rate { per_second: 2_500, burst: 128 };
const REFUSAL_REPORT_RATE: Rate = Rate { per_second: 1, burst: 8 };
/// When one of these is used up, the rest waits so long.
const PACE: Duration = Duration::from_millis(10);
/// The most unreachable neighbours that are listed by name.
const WARNINGS: usize = 32;

#[derive(Clone, Debug)]
pub struct ManageConfig {
    pub ports: Vec<ManagePort>,
    pub virtual_addresses: Vec<Ipv4Addr>,
    /// Those that are too many to be announced one by one.
    pub virtual_networks: Vec<Ipv4Net>,
    pub wanted: Vec<Wanted>,
    /// Directors of the same group: what they claim is no conflict.
    pub peers: Vec<Mac>,
    pub echo_rate: Rate,
    pub arp_rate: Rate,
    pub reset_rate: Rate,
    pub error_rate: Rate,
    /// For the jitter.
    pub seed: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagePort {
    /// As the operator calls it.
    pub name: String,
    pub mac: Mac,
    pub address: Ipv4Net,
    pub mtu: u16,
}

impl ManageConfig {
    /// `macs` are the ports' own, in their order.
    pub fn new(config: &Config, macs: &[Mac], seed: u64) -> ManageConfig {
        let ports = config.ports.iter().zip(macs);
        let reals = config.services.iter().flat_map(|service| &service.reals);
        let real = |address, mac| {
            let port = config.ports.iter().position(|port| port.address.contains(address))?;
            Some(Wanted { port, address, mac })
        };
        let manage_port = |(port, mac): (&PortConfig, &Mac)| {
            let PortConfig { name, address, mtu, .. } = port;
            ManagePort { name: name.clone(), mac: *mac, address: *address, mtu: *mtu }
        };
        let gateways = config.ports.iter().enumerate();
        let gateways = gateways.filter_map(|(port, at)| Some(Wanted { port, address: at.gateway?, mac: None }));
        ManageConfig {
            ports: ports.map(manage_port).collect(),
            virtual_addresses: config.virtual_networks().flat_map(announced).collect(),
            virtual_networks: config.virtual_networks().filter(|net| net.prefix < ANNOUNCED).collect(),
            wanted: reals.filter_map(|each| real(each.address, each.mac)).chain(gateways).collect(),
            peers: Vec::new(),
            echo_rate: ECHO_RATE,
            arp_rate: ARP_RATE,
            reset_rate: RESET_RATE,
            error_rate: ERROR_RATE,
            seed,
        }
    }
}

/// The addresses of a network, if it is small enough for all of them to be announced.
fn announced(net: Ipv4Net) -> impl Iterator<Item = Ipv4Addr> {
    let few = net.prefix >= ANNOUNCED;
    let last = u32::from(net.network()) | !net.mask();
    (u32::from(net.network())..=last).take(if few { 1 << (32 - ANNOUNCED) } else { 0 }).map(Ipv4Addr::from)
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Out {
    /// Send this frame, untagged as it is, on the port.
    Send {
        port: usize,
        frame: Vec<u8>,
    },
    /// The host's kernel gets the frame that was handed in, on this port's TAP.
    Host {
        port: usize,
    },
    /// A neighbour's state or MAC is another one now.
    Neighbour(Neighbour),
    Event(Event),
}

pub struct Manager {
    ports: Vec<Port>,
    /// Our own MACs: no neighbour can have one of them.
    macs: Vec<Mac>,
    peers: Vec<Mac>,
    virtual_addresses: HashSet<Ipv4Addr>,
    virtual_networks: Vec<Ipv4Net>,
    neighbours: Neighbours,
    conflicts: Conflicts,
    questions: Limit,
    announcements: Limit,
    refusal_reports: Limit,
    /// Work is due, but its limit is used up until then.
    held_back: Option<Now>,
    stats: ManageStats,
}

struct Port {
    name: String,
    mac: Mac,
    address: Ipv4Net,
    /// The virtual addresses that we answer for here.
    held: HashSet<Ipv4Addr>,
    /// The same, where they are too many to be announced; those in another port's network are that one's.
    held_networks: Vec<Ipv4Net>,
    elsewhere: Vec<Ipv4Net>,
    link: bool,
    announcer: Announcer,
    mtu: u16,
    echo: Limit,
    arp: Limit,
    refusals: Refusals,
}

/// A virtual address is held where its network is; one of no port's network is routed to us, and held everywhere.
fn held(config: &ManageConfig, port: &ManagePort) -> HashSet<Ipv4Addr> {
    let nowhere = |address: Ipv4Addr| !config.ports.iter().any(|any| any.address.contains(address));
    let here =
        |address: &Ipv4Addr| port.address.contains(*address) && !port.address.is_whole(*address) || nowhere(*address);
    config.virtual_addresses.iter().copied().filter(here).collect()
}

/// With the port's own address.
fn announced_by(port: &ManagePort, held: &HashSet<Ipv4Addr>) -> Vec<Ipv4Addr> {
    let mut announced: Vec<_> = held.iter().copied().chain([port.address.address]).collect();
    announced.sort();
    announced.dedup();
    announced
}

impl Port {
    fn new(config: &ManageConfig, port: &ManagePort) -> Port {
        let held = held(config, port);
        let announcer = Announcer::new(announced_by(port, &held));
        Port {
            name: port.name.clone(),
            mac: port.mac,
            address: port.address,
            held,
            held_networks: config.virtual_networks.clone(),
            elsewhere: config.ports.iter().map(|any| any.address).filter(|any| *any != port.address).collect(),
            link: false,
            announcer,
            echo: Limit::new(config.echo_rate),
            mtu: port.mtu,
            arp: Limit::new(config.arp_rate),
            refusals: Refusals::new(config.reset_rate, config.error_rate),
        }
    }

    fn reconfigure(&mut self, now: Now, config: &ManageConfig, port: &ManagePort) {
        self.held = held(config, port);
        self.held_networks.clone_from(&config.virtual_networks);
        self.announcer.readdress(now, &announced_by(port, &self.held));
    }

    fn answers_for(&self, address: Ipv4Addr) -> bool {
        let is_in = |nets: &[Ipv4Net]| nets.iter().any(|net| net.contains(address));
        let in_network = || is_in(&self.held_networks) && !is_in(&self.elsewhere) && !self.address.is_whole(address);
        address == self.address.address || self.held.contains(&address) || in_network()
    }

    /// Whether a host can speak to us from there.
    fn is_sane(&self, address: Ipv4Addr) -> bool {
        ipv4::is_host(address) && !self.address.is_whole(address)
    }
}

impl Manager {
    pub fn new(config: &ManageConfig, now: Now) -> Manager {
        Manager {
            ports: config.ports.iter().map(|port| Port::new(config, port)).collect(),
            macs: config.ports.iter().map(|port| port.mac).collect(),
            peers: config.peers.clone(),
            virtual_addresses: config.virtual_addresses.iter().copied().collect(),
            virtual_networks: config.virtual_networks.clone(),
            neighbours: Neighbours::new(config.wanted.iter().copied(), now, Random::new(config.seed)),
            conflicts: Conflicts::default(),
            questions: Limit::new(QUESTION_RATE),
            announcements: Limit::new(ANNOUNCEMENT_RATE),
            refusal_reports: Limit::new(REFUSAL_REPORT_RATE),
            held_back: None,
            stats: ManageStats::default(),
        }
    }

    /// Other virtual addresses and neighbours from now on, by the same ports. New addresses are announced, new neighbours
    /// asked for, and what is gone is answered for no more.
    pub fn reconfigure(&mut self, now: Now, config: &ManageConfig) {
        for (port, its_config) in self.ports.iter_mut().zip(&config.ports) {
            port.reconfigure(now, config, its_config);
        }
        self.virtual_addresses = config.virtual_addresses.iter().copied().collect();
        self.virtual_networks.clone_from(&config.virtual_networks);
        self.neighbours.want(config.wanted.iter().copied(), now);
        let (addresses, networks, ports) = (&self.virtual_addresses, &self.virtual_networks, &self.ports);
        self.conflicts.retain(|address| {
            addresses.contains(&address)
                || networks.iter().any(|net| net.contains(address))
                || ports.iter().any(|port| port.address.address == address)
        });
    }

    /// The ports' own.
    pub fn macs(&self) -> &[Mac] {
        &self.macs
    }

    /// Takes a frame that a worker gave to the management core, without its VLAN tag.
    pub fn handle(&mut self, now: Now, port: usize, frame: &[u8], out: &mut Vec<Out>) {
        let link = ethernet::parse(frame).filter(|_| port < self.ports.len());
        let done = link.map_or(Done::Ignored, |link| {
            let payload = &frame[link.payload..];
            match link.ether_type {
                ethernet::ARP => self.arp(now, port, &link, payload, out),
                ethernet::IPV4 => self.ipv4(now, port, &link, payload, out),
                _ => to_host(port, out),
            }
        });
        match done {
            Done::Acted => {}
            Done::Ignored => self.stats.ignored += 1,
            Done::Limited => self.stats.rate_limited += 1,
        }
    }

    /// Does what is due: announcements, questions, neighbours that fell silent. `links` tells which ports have a link.
    pub fn tick(&mut self, now: Now, links: &[bool], out: &mut Vec<Out>) {
        self.held_back = None;
        for port in 0..self.ports.len() {
            self.notice_link(now, port, links.get(port).copied().unwrap_or(false), out);
            self.announce(now, port, out);
        }
        self.ask(now, links, out);
    }

    /// When [`Manager::tick`] next has something to do; a change of a link is to be told at once.
    pub fn next_deadline(&self) -> Now {
        let announcements = self.ports.iter().filter_map(|port| port.announcer.next_deadline());
        let due = announcements.chain(self.neighbours.next_deadline()).min().unwrap_or(Now(u64::MAX));
        self.held_back.map_or(due, |until| due.max(until))
    }

    /// Judges a frame that the host wants to send on this port; an ARP request in a virtual address's name is put right.
    pub fn host_egress(&mut self, port: usize, frame: &mut [u8]) -> Egress {
        let verdict = match self.ports.get(port) {
            Some(at) => egress::judge(frame, at.mac, at.address, |ip| self.is_virtual(ip)),
            None => Egress::Drop(EgressDrop::Truncated),
        };
        if verdict != Egress::Send {
            self.stats.host_dropped += 1;
        }
        verdict
    }

    fn is_virtual(&self, address: Ipv4Addr) -> bool {
        self.virtual_addresses.contains(&address) || self.virtual_networks.iter().any(|net| net.contains(address))
    }

    /// What the operator calls this port.
    pub fn port_name(&self, port: usize) -> &str {
        self.ports.get(port).map_or("", |port| &port.name)
    }

    pub fn neighbours(&self) -> impl Iterator<Item = &Neighbour> {
        self.neighbours.iter()
    }

    pub fn neighbour(&self, port: usize, address: Ipv4Addr) -> Option<&Neighbour> {
        self.neighbours.get(port, address)
    }

    /// Who claims an address of ours, now.
    pub fn conflicts(&self, now: Now) -> impl Iterator<Item = &Conflict> {
        self.conflicts.iter(now)
    }

    /// What the operator should know.
    pub fn warnings(&self, now: Now) -> Vec<String> {
        let since = |since: Now| format!(" (for {} s)", now.since(since).as_secs());
        let on = |port| format!("port {}: ", self.port_name(port));
        let conflict = |each: &Conflict| format!("{}{each}{}", on(each.port), since(each.since));
        let mut warnings: Vec<String> = self.conflicts(now).map(conflict).collect();
        let silent = || self.neighbours().filter(|each| each.state == NeighbourState::Unreachable);
        warnings.extend(silent().take(WARNINGS).map(|each| format!("{}{each}{}", on(each.port), since(each.since))));
        match silent().skip(WARNINGS).count() {
            0 => {}
            more => warnings.push(format!("{more} more addresses do not answer ARP")),
        }
        warnings
    }

    pub fn stats(&self) -> &ManageStats {
        &self.stats
    }

    /// For what the loop around us counts: frames to and from the host.
    pub fn stats_mut(&mut self) -> &mut ManageStats {
        &mut self.stats
    }

    fn notice_link(&mut self, now: Now, port: usize, up: bool, out: &mut Vec<Out>) {
        let at = &mut self.ports[port];
        if at.link != up {
            at.link = up;
            out.push(Out::Event(if up { Event::LinkUp { port } } else { Event::LinkDown { port } }));
        }
        if at.announcer.link(now, up) {
            self.neighbours.link_up(now, port);
        }
    }

    fn announce(&mut self, now: Now, port: usize, out: &mut Vec<Out>) {
        let at = &mut self.ports[port];
        while at.announcer.next_deadline().is_some_and(|due| due <= now) {
            if !self.announcements.take(now) {
                self.held_back = Some(now + PACE);
                return;
            }
            let Some(address) = at.announcer.step(now) else { return };
            self.stats.gratuitous_arps += 1;
            out.push(Out::Send { port, frame: arp::announcement(at.mac, address) });
            if address != at.address.address {
                // Nobody should answer this. A real that does, answers the clients too, and they would not tell us.
                self.stats.arp_requests += 1;
                out.push(Out::Send { port, frame: arp::request(at.mac, at.address.address, address, None) });
            }
        }
    }

    fn ask(&mut self, now: Now, links: &[bool], out: &mut Vec<Out>) {
        while self.neighbours.next_deadline().is_some_and(|due| due <= now) {
            if !self.questions.take(now) {
                self.held_back = Some(now + PACE);
                return;
            }
            match self.neighbours.step(now, links) {
                None => return,
                Some(Step::Changed(neighbour)) => out.push(Out::Neighbour(neighbour)),
                Some(Step::Ask { port, address, station }) => {
                    let Some(at) = self.ports.get(port) else { continue };
                    self.stats.arp_requests += 1;
                    out.push(Out::Send { port, frame: arp::request(at.mac, at.address.address, address, station) });
                }
            }
        }
    }

    fn ipv4(&mut self, now: Now, port: usize, link: &Ethernet, packet: &[u8], out: &mut Vec<Out>) -> Done {
        let Ok(ip) = ipv4::parse(packet, packet.len()) else { return Done::Ignored };
        if !self.is_virtual(ip.destination) {
            return to_host(port, out);
        }
        let ours = self.is_ours(port, ip.source);
        let at = &mut self.ports[port];
        if ours || !at.is_sane(ip.source) {
            return Done::Ignored;
        }
        let Some(frame) = echo::reply(link, &ip, packet, at.mac) else { return Done::Ignored };
        if !at.echo.take(now) {
            return Done::Limited;
        }
        self.stats.echo_replies += 1;
        out.push(Out::Send { port, frame });
        Done::Acted
    }

    fn arp(&mut self, now: Now, port: usize, link: &Ethernet, payload: &[u8], out: &mut Vec<Out>) -> Done {
        let Some(arp) = Arp::parse(payload) else { return Done::Ignored };
        let mac = self.ports[port].mac;
        let to_us = link.destination == mac || link.destination == Mac::BROADCAST;
        if !to_us || !link.source.is_unicast() || self.macs.contains(&link.source) {
            return Done::Ignored;
        }
        let claims_ours = self.is_ours(port, arp.sender);
        if claims_ours && !self.macs.contains(&arp.sender_mac) {
            self.claimed(now, port, &arp, out);
        }
        match arp.operation {
            Operation::Request => self.request(now, port, &arp, claims_ours, out),
            Operation::Reply if claims_ours || self.is_virtual(arp.target) => Done::Ignored,
            Operation::Reply => self.answer(now, port, link, &arp, out),
        }
    }

    fn request(&mut self, now: Now, port: usize, arp: &Arp, claims_ours: bool, out: &mut Vec<Out>) -> Done {
        let possible = self.is_possible(arp.sender_mac);
        let at = &mut self.ports[port];
        if !possible || !(arp.sender.is_unspecified() || at.is_sane(arp.sender)) {
            return Done::Ignored;
        }
        if at.answers_for(arp.target) && !arp.is_gratuitous() {
            if !at.arp.take(now) {
                return Done::Limited;
            }
            self.stats.arp_replies += 1;
            out.push(Out::Send { port, frame: arp::reply(arp, at.mac) });
            return Done::Acted;
        }
        if claims_ours || self.is_virtual(arp.target) {
            return Done::Ignored;
        }
        self.neighbours.hint(now, port, arp.sender, arp.sender_mac);
        to_host(port, out)
    }

    fn answer(&mut self, now: Now, port: usize, link: &Ethernet, arp: &Arp, out: &mut Vec<Out>) -> Done {
        let at = &self.ports[port];
        let asked = link.destination == at.mac && arp.target == at.address.address;
        let claim = match asked {
            true => self.neighbours.answer(now, port, arp.sender, arp.sender_mac, &self.macs),
            false => Claim::Unasked,
        };
        match claim {
            Claim::Confirmed => {}
            Claim::Changed(neighbour) => out.push(Out::Neighbour(neighbour)),
            Claim::Unasked if !self.is_possible(arp.sender_mac) => return Done::Ignored,
            Claim::Unasked => self.neighbours.hint(now, port, arp.sender, arp.sender_mac),
            Claim::Refused(neighbour) => {
                if self.refusal_reports.take(now) {
                    let Neighbour { port, address, .. } = neighbour;
                    out.push(Out::Event(Event::AnswerRefused { port, address, mac: arp.sender_mac }));
                }
                return Done::Ignored;
            }
        }
        to_host(port, out)
    }

    fn claimed(&mut self, now: Now, port: usize, arp: &Arp, out: &mut Vec<Out>) {
        if self.peers.contains(&arp.sender_mac) {
            return;
        }
        self.stats.conflicts += 1;
        if let Some(conflict) = self.conflicts.claim(now, port, arp.sender, arp.sender_mac) {
            out.push(Out::Event(Event::Conflict(conflict)));
        }
    }

    /// Whether another station can have this MAC.
    fn is_possible(&self, mac: Mac) -> bool {
        mac.is_unicast() && !self.macs.contains(&mac)
    }

    fn is_ours(&self, port: usize, address: Ipv4Addr) -> bool {
        address == self.ports[port].address.address || self.is_virtual(address)
    }
}

/// What became of a frame, for the counters.
enum Done {
    Acted,
    Ignored,
    Limited,
}

fn to_host(port: usize, out: &mut Vec<Out>) -> Done {
    out.push(Out::Host { port });
    Done::Acted
}
