//! The workers: each on a core of its own, with what it owns in memory near it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use crossbeam::channel::{Receiver, Sender, bounded};

use super::{clock, pin};
use crate::config::{Config, FlowsConfig, Idle};
use crate::control::desk::WorkerFacts;
use crate::counters::Ledger;
use crate::director::{Director, Sharing, Tables};
use crate::dpdk::{Eal, Mbuf, PortQueue, Registered};
use crate::flow::{FlowTable, WideTable};
use crate::preflight::Plan;
use crate::service::Snapshot;
use crate::sys::epoch::Reader;
use crate::worker::exchange::{Inbox, Outbox};
use crate::worker::handover::Links;
use crate::worker::{self, Worker};

/// A worker's place, before its thread runs.
pub struct Post {
    pub id: usize,
    pub core: usize,
    /// The core's NUMA node, where there are nodes.
    pub node: Option<u32>,
    pub queues: Vec<PortQueue>,
    pub reader: Reader<Snapshot>,
    pub inbox: Arc<Inbox<Mbuf>>,
    /// All workers', its own at its number.
    pub ledgers: Vec<Arc<Ledger>>,
    /// What goes to other workers, and how.
    pub sharing: Option<(Sharing, Links<Mbuf>)>,
    pub eal: Eal,
}

/// What a worker says of its table once it has it.
type Report = Result<String>;

/// The workers' threads.
pub struct Crew {
    threads: Vec<(JoinHandle<()>, Arc<Inbox<Mbuf>>)>,
    facts: Vec<(WorkerFacts<Mbuf>, Receiver<Report>)>,
    stop: Arc<AtomicBool>,
}

impl Crew {
    pub fn new(stop: Arc<AtomicBool>) -> Crew {
        Crew { threads: Vec::new(), facts: Vec::new(), stop }
    }

    /// Starts a worker. All of them prepare their tables at the same time.
    pub fn hire(
        &mut self,
        post: Post,
        config: &Config,
        plan: &Plan,
        outbox: &Arc<Outbox<Mbuf>>,
        remarks: &mut Vec<String>,
    ) -> Result<()> {
        let (id, core, inbox) = (post.id, post.core, post.inbox.clone());
        let ledger = post.ledgers[id].clone();
        let (idle, descriptors) = idle_of(config, &post.queues, id, remarks)?;
        if core == plan.management_core {
            remarks.push(shared_core(id, core, idle));
        }
        let room = (config.flows.clone(), config.hugepages);
        let (outbox, stop, its_ledger) = (outbox.clone(), self.stop.clone(), ledger.clone());
        let (report, reported) = bounded(1);
        let work = move || {
            pin(core);
            let eal = post.eal.clone();
            let _registered = Registered::new(&eal).inspect_err(|error| log::warn!("worker {id}: {error}")).ok();
            let Some(worker) = prepare(post, room, its_ledger, outbox, &report) else { return };
            let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            worker::run(worker, idle, &descriptors, clock, &stop);
        };
        let thread = thread::Builder::new().name(format!("worker {id}")).spawn(work)?;
        self.threads.push((thread, inbox.clone()));
        let flow_memory = String::new();
        let facts = WorkerFacts { core, ledger, inbox, flow_capacity: config.flows.per_worker, flow_memory };
        self.facts.push((facts, reported));
        Ok(())
    }

    /// Waits until every worker has its table, and says what is known of them.
    pub fn muster(&mut self) -> Result<Vec<WorkerFacts<Mbuf>>> {
        let present = |(mut facts, reported): (WorkerFacts<Mbuf>, Receiver<Report>)| {
            facts.flow_memory = reported.recv().context("a worker did not start")??;
            Ok(facts)
        };
        self.facts.drain(..).map(present).collect()
    }

    /// Ends the workers and waits for them.
    pub fn dismiss(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for (thread, inbox) in self.threads.drain(..) {
            inbox.bell.ring();
            if thread.join().is_err() {
                log::error!("a worker panicked");
            }
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.dismiss();
    }
}

/// On the worker's own core, with its tables in memory of that core's NUMA node.
fn prepare(
    mut post: Post,
    (flows, hugepages): (FlowsConfig, bool),
    ledger: Arc<Ledger>,
    outbox: Arc<Outbox<Mbuf>>,
    report: &Sender<Report>,
) -> Option<Worker<PortQueue>> {
    let made = tables(&flows, hugepages, post.node);
    let told =
        made.as_ref().map(|tables| tables.narrow.backing().to_string()).map_err(|error| anyhow::anyhow!("{error:#}"));
    if let Ok(Tables { narrow, .. }) = &made {
        let (backing, probe) = (narrow.backing(), narrow.probe_name());
        log::info!("worker {}: flow table on {backing}, key comparison: {probe}", post.id);
    }
    // Nobody waits for it when the start has failed elsewhere; then we are told to stop.
    let _ = report.send(told);
    let mut director = Director::new(made.ok()?, flows.half_open, post.reader.read(), post.id, ledger.clone());
    post.ledgers.remove(post.id);
    director.set_peers(post.ledgers);
    let mut worker = Worker::new(post.queues, director, post.reader, ledger, post.inbox, outbox);
    if let Some((sharing, links)) = post.sharing {
        worker.share(sharing, links);
    }
    Some(worker)
}

fn tables(flows: &FlowsConfig, hugepages: bool, node: Option<u32>) -> Result<Tables> {
    let secret = || Ok::<_, getrandom::Error>([getrandom::u64()?, getrandom::u64()?]);
    let narrow =
        FlowTable::on_node(flows.per_worker, hugepages, node, secret()?).context("no memory for the flow table")?;
    // A small one is not worth a huge page.
    let hugepages = hugepages && !flows.wide_is_least();
    let wide = WideTable::on_node(flows.wide_per_worker, hugepages, node, secret()?);
    let wide = wide.context("no memory for the wide flow table")?;
    Ok(Tables { narrow, wide })
}

fn shared_core(worker: usize, core: usize, idle: Idle) -> String {
    match idle {
        Idle::Wait => format!("worker {worker} and management share core {core}: they take turns"),
        Idle::Poll => {
            format!("worker {worker} polls on core {core}, which management shares: it answers late, if at all")
        }
    }
}

/// What the worker does with nothing to do. A port without a descriptor to wait on has to be polled.
fn idle_of(
    config: &Config,
    queues: &[PortQueue],
    worker: usize,
    remarks: &mut Vec<String>,
) -> Result<(Idle, Vec<OwnedFd>)> {
    if config.idle == Idle::Poll {
        return Ok((Idle::Poll, Vec::new()));
    }
    let mut descriptors = Vec::new();
    for (queue, port) in queues.iter().zip(&config.ports) {
        let own: Vec<OwnedFd> =
            queue.borrow_descriptors().map(|descriptor| descriptor.try_clone_to_owned()).collect::<Result<_, _>>()?;
        if own.is_empty() {
            let remark = format!(
                "worker {worker} polls although idle = \"wait\": port {} ({}) has nothing to wait on",
                port.name, port.device
            );
            remarks.push(remark);
            return Ok((Idle::Poll, Vec::new()));
        }
        descriptors.extend(own);
    }
    Ok((Idle::Wait, descriptors))
}
