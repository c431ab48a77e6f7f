//! Who answers the config socket: reads the workers' ledgers, asks the workers for their flows, and asks management
//! for what only it knows.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam::channel::{Sender, bounded};
use parking_lot::Mutex;

use super::server::Handler;
use super::wire::{
    Answer, CONN_PAGE, ConnCursor, ConnEntry, ConnPage, FrameStats, Outcome, PortStatus, RealEntry, RealState, Request,
    ServiceEntry, Stats, Status, Steering, TrafficEntry, WorkerStatus,
};
use crate::clock::Now;
use crate::config::{Config, Protocol, RealConfig, ServiceConfig, Takes};
use crate::counters::{Counter, Ledger, Traffic};
use crate::manage::Neighbour;
use crate::manage::run::{Call, View};
use crate::service::registry::RealName;
use crate::service::{RealId, Registry, Station};
use crate::verdict::DropReason;
use crate::worker::exchange::{Entry, Inbox, Outbox, Page, Question};

/// A worker or the management core that takes longer is stuck.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
const NO_ANSWER: &str = "the management core does not answer";

/// What is known of a port from its start on.
pub struct PortFacts {
    pub driver: String,
    pub queues: usize,
    pub station: Station,
}

pub struct WorkerFacts<F> {
    pub core: usize,
    pub ledger: Arc<Ledger>,
    pub inbox: Arc<Inbox<F>>,
    pub flow_capacity: usize,
    pub flow_memory: String,
}

pub struct Desk<F> {
    /// As it was at the start: of its ports nothing changes.
    pub config: Arc<Config>,
    pub config_path: PathBuf,
    pub dpdk: String,
    pub started: Now,
    pub clock: fn() -> Now,
    pub management_core: usize,
    pub ports: Vec<PortFacts>,
    pub workers: Vec<WorkerFacts<F>>,
    pub steering: Steering,
    /// What the start had to say.
    pub remarks: Vec<String>,
    pub calls: Sender<Call>,
    /// Whoever changes the configuration holds it.
    pub writing: Mutex<()>,
    pub outbox: Arc<Outbox<F>>,
    pub stop: Arc<AtomicBool>,
}

impl<F: Send> Handler for Desk<F> {
    fn handle(&self, request: Request) -> Outcome {
        let answer = match request {
            Request::Status => self.status().map(Answer::Status),
            Request::ServiceList => self.services().map(Answer::Services),
            Request::ConnList { from } => self.connections(from).map(Answer::Connections),
            Request::Stats => self.stats().map(Answer::Stats),
            Request::ConfigShow => self.show(),
            Request::ServiceAdd { .. }
            | Request::ServiceEdit { .. }
            | Request::ServiceDelete { .. }
            | Request::RealAdd { .. }
            | Request::RealEdit { .. }
            | Request::RealDelete { .. }
            | Request::Timeouts { .. }
            | Request::Reload { .. } => self.change(&request),
            Request::Stop => {
                self.stop.store(true, Ordering::Relaxed);
                self.outbox.bell.ring();
                Ok(Answer::Stopping)
            }
        };
        answer.map_or_else(Outcome::Error, Outcome::Ok)
    }
}

impl<F: Send> Desk<F> {
    pub(super) fn view(&self) -> Result<View, String> {
        self.ask_management(Call::View)
    }

    pub(super) fn ask_management<T>(&self, call: impl FnOnce(Sender<T>) -> Call) -> Result<T, String> {
        let (asker, answer) = bounded(1);
        self.call(call(asker))?;
        answer.recv_timeout(PATIENCE).map_err(|_| NO_ANSWER.to_owned())
    }

    pub(super) fn call(&self, call: Call) -> Result<(), String> {
        self.calls.send_timeout(call, PATIENCE).map_err(|_| NO_ANSWER.to_owned())?;
        self.outbox.bell.ring();
        Ok(())
    }

    fn status(&self) -> Result<Status, String> {
        let view = self.view()?;
        let ports = self.config.ports.iter().zip(&self.ports).zip(&view.ports).enumerate();
        let ports = ports.map(|(index, ((config, facts), now))| {
            let gateway = |gateway| view.neighbours.iter().find(|each| each.port == index && each.address == gateway);
            PortStatus {
                name: config.name.clone(),
                device: config.device.to_string(),
                driver: facts.driver.clone(),
                mac: facts.station.mac.to_string(),
                address: config.address.to_string(),
                vlan: config.vlan,
                gateway: config.gateway,
                gateway_mac: config.gateway.and_then(gateway).and_then(|found| found.mac).map(|mac| mac.to_string()),
                mtu: facts.station.mtu,
                link_up: now.link_up,
                speed: now.speed,
                queues: facts.queues,
                host_tap: config.host_tap.clone(),
            }
        });
        let workers = self.workers.iter().zip(&view.held).enumerate().map(|(id, (worker, epoch))| WorkerStatus {
            id,
            core: worker.core,
            flows: worker.ledger.frames.flows.get(),
            flow_capacity: worker.flow_capacity as u64,
            flow_memory: worker.flow_memory.clone(),
            epoch: *epoch,
        });
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").into(),
            commit: env!("DROVER_COMMIT").into(),
            dpdk: self.dpdk.clone(),
            pid: std::process::id(),
            uptime_seconds: (self.clock)().since(self.started).as_secs(),
            config: self.config_path.display().to_string(),
            epoch: view.epoch,
            management_core: self.management_core,
            steering: self.steering,
            ports: ports.collect(),
            workers: workers.collect(),
            warnings: self.remarks.iter().cloned().chain(view.warnings).collect(),
        })
    }

    fn services(&self) -> Result<Vec<ServiceEntry>, String> {
        let view = self.view()?;
        let known = view.neighbours.iter().map(|neighbour| (neighbour.address, neighbour)).collect();
        let entry = |service: &Arc<ServiceConfig>| {
            let id = view.numbers.held_service(&service.takes);
            let number = |real: &RealConfig| {
                let name = RealName { service: id?, address: real.address.into(), port: real.port };
                view.numbers.held_real(&name)
            };
            ServiceEntry {
                protocol: service.takes.kind().into(),
                address: service.takes.place(),
                scheduler: service.scheduler.name().into(),
                flags: service.flags(),
                persistent: service.settings.persistence.map(|persistence| persistence.seconds),
                netmask: service.settings.persistence.and_then(|persistence| persistence.mask()),
                expire_quiescent: service.settings.expire_quiescent,
                one_packet: service.settings.one_packet,
                on_removed: service.settings.on_removed.name().into(),
                on_miss: service.settings.on_miss.name().into(),
                manners: service.manners(),
                traffic: self.traffic(|ledger| ledger.services.get(id?.index())),
                reals: service.reals.iter().map(|real| self.real(&known, real, number(real))).collect(),
            }
        };
        Ok(view.config.services.iter().map(entry).collect())
    }

    fn real(&self, known: &HashMap<Ipv4Addr, &Neighbour>, real: &RealConfig, id: Option<RealId>) -> RealEntry {
        let known = known.get(&real.address).filter(|_| real.mac.is_none());
        RealEntry {
            address: SocketAddrV4::new(real.address, real.port),
            forward: real.forwarding.name().into(),
            weight: real.weight,
            upper: real.upper,
            lower: real.lower,
            state: known.map_or(RealState::Fixed, |each| each.state.into()),
            mac: real.mac.or(known.and_then(|each| each.mac)).map(|mac| mac.to_string()),
            traffic: self.traffic(|ledger| ledger.reals.get(id?.index())),
        }
    }

    fn traffic(&self, of: impl Fn(&Ledger) -> Option<&Traffic>) -> TrafficEntry {
        let sum = |counter: fn(&Traffic) -> &Counter| -> u64 {
            // One worker's gauge may for a moment be behind another's.
            let lines = self.workers.iter().filter_map(|worker| of(&worker.ledger));
            lines.map(|traffic| counter(traffic).get()).fold(0, u64::wrapping_add)
        };
        TrafficEntry {
            connections: sum(|traffic| &traffic.connections),
            packets: sum(|traffic| &traffic.packets),
            bytes: sum(|traffic| &traffic.bytes),
            active: sum(|traffic| &traffic.active),
            inactive: sum(|traffic| &traffic.inactive),
            answers: sum(|traffic| &traffic.answers),
            answer_bytes: sum(|traffic| &traffic.answer_bytes),
        }
    }

    /// One page, from where the last one ended.
    fn connections(&self, from: ConnCursor) -> Result<ConnPage, String> {
        let numbers = self.view()?.numbers;
        let mut connections = Vec::new();
        let mut at = from;
        while at.worker < self.workers.len() {
            if CONN_PAGE - connections.len() < 4 {
                return Ok(ConnPage { connections, next: Some(at) });
            }
            let page = self.ask_worker(at, CONN_PAGE - connections.len())?;
            connections.extend(page.entries.iter().filter_map(|entry| connection(&numbers, at.worker, entry)));
            at = match page.next {
                Some(bucket) => ConnCursor { bucket, ..at },
                None => ConnCursor { worker: at.worker + 1, bucket: 0 },
            };
        }
        Ok(ConnPage { connections, next: None })
    }

    fn ask_worker(&self, at: ConnCursor, room: usize) -> Result<Page, String> {
        let inbox = &self.workers[at.worker].inbox;
        let (answer, page) = bounded(1);
        let question = Question { from_bucket: at.bucket, page: Vec::with_capacity(room), answer };
        inbox.questions.push(question).map_err(|_| "too many questions at once; ask again".to_owned())?;
        inbox.bell.ring();
        page.recv_timeout(PATIENCE).map_err(|_| format!("worker {} does not answer", at.worker))
    }

    fn stats(&self) -> Result<Stats, String> {
        let view = self.view()?;
        let workers: Vec<_> = self.workers.iter().map(|worker| frame_stats(&worker.ledger)).collect();
        let mut total = FrameStats::default();
        workers.iter().for_each(|worker| add(&mut total, worker));
        Ok(Stats { total, workers, ports: view.ports.into_iter().map(|port| port.stats).collect(), manage: view.stats })
    }
}

/// What the entry is, by the names that its numbers stand for. What a service of several addresses, ports or protocols
/// leaves open, the entry itself says; its real then has the port that the client asked for.
fn connection(numbers: &Registry, worker: usize, entry: &Entry) -> Option<ConnEntry> {
    let real = numbers.real_name(entry.real).filter(|_| numbers.generation(entry.real) == entry.generation)?;
    let takes = *numbers.service_name(entry.service.unwrap_or(real.service))?;
    let (address, protocol, port) = entry.destination;
    let port = if port == 0 { takes.port() } else { port };
    // The kernel lists a mark in the address's place.
    let first = if let Takes::Mark(mark) = takes { Ipv4Addr::from_bits(mark).into() } else { takes.address() };
    let (IpAddr::V4(client), IpAddr::V4(first), IpAddr::V4(real_address)) = (entry.client.0, first, real.address)
    else {
        return None;
    };
    Some(ConnEntry {
        protocol: protocol_name(protocol, takes).into(),
        client: SocketAddrV4::new(client, entry.client.1),
        virtual_address: SocketAddrV4::new(address.unwrap_or(first), port),
        real: SocketAddrV4::new(real_address, if real.port == 0 { port } else { real.port }),
        state: entry.state.into(),
        expires_seconds: (entry.ticks_left / crate::clock::TICKS_PER_SECOND).into(),
        worker,
    })
}

/// As listings have it; a mark alone says nothing of it, which is `IP` to the kernel.
fn protocol_name(number: u8, takes: Takes) -> &'static str {
    let known = [Protocol::Tcp, Protocol::Udp].into_iter().find(|protocol| protocol.number() == number);
    match (known, takes) {
        (Some(protocol), _) | (None, Takes::Address { protocol, .. }) => protocol.name(),
        (None, Takes::Mark(_)) => "IP",
    }
}

fn frame_stats(ledger: &Ledger) -> FrameStats {
    let frames = &ledger.frames;
    let named = |reason: &DropReason| (reason.name().to_owned(), frames.dropped[*reason as usize].get());
    FrameStats {
        received: frames.received.get(),
        received_bytes: frames.received_bytes.get(),
        forwarded: frames.forwarded.get(),
        forwarded_bytes: frames.forwarded_bytes.get(),
        to_manage: frames.to_manage.get(),
        to_host: frames.to_host.get(),
        handed_out: frames.handed_out.get(),
        handed_in: frames.handed_in.get(),
        dropped: DropReason::ALL.iter().map(named).filter(|(_, count)| *count > 0).collect(),
        originated: frames.originated.get(),
        originated_sent: frames.originated_sent.get(),
        originated_dropped: frames.originated_dropped.get(),
        flows: frames.flows.get(),
        flows_created: frames.flows_created.get(),
        flows_expired: frames.flows_expired.get(),
        stateless: frames.stateless.get(),
        templates_refused: frames.templates_refused.get(),
        turns: frames.turns.get(),
        waits: frames.waits.get(),
    }
}

fn add(total: &mut FrameStats, worker: &FrameStats) {
    // Taken apart, so that a new counter cannot be forgotten here.
    let FrameStats {
        received,
        received_bytes,
        forwarded,
        forwarded_bytes,
        to_manage,
        to_host,
        handed_out,
        handed_in,
        dropped,
        originated,
        originated_sent,
        originated_dropped,
        flows,
        flows_created,
        flows_expired,
        stateless,
        templates_refused,
        turns,
        waits,
    } = worker;
    total.received += received;
    total.received_bytes += received_bytes;
    total.forwarded += forwarded;
    total.forwarded_bytes += forwarded_bytes;
    total.to_manage += to_manage;
    total.to_host += to_host;
    total.handed_out += handed_out;
    total.handed_in += handed_in;
    add_named(&mut total.dropped, dropped);
    total.originated += originated;
    total.originated_sent += originated_sent;
    total.originated_dropped += originated_dropped;
    total.flows += flows;
    total.flows_created += flows_created;
    total.flows_expired += flows_expired;
    total.stateless += stateless;
    total.templates_refused += templates_refused;
    total.turns += turns;
    total.waits += waits;
}

fn add_named(total: &mut BTreeMap<String, u64>, counts: &BTreeMap<String, u64>) {
    for (name, count) in counts {
        *total.entry(name.clone()).or_default() += count;
    }
}
