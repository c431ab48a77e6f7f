//! droverd: puts the parts together, runs them, and takes them apart again in order.

mod crew;
mod memory;
mod ports;

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use crossbeam::channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use crate::clock::Now;
use crate::config::{Config, Device};
use crate::control::desk::{Desk, PortFacts, WorkerFacts};
use crate::control::server::{Options, Server};
use crate::control::wire::Steering;
use crate::counters::Ledger;
use crate::director::Sharing;
use crate::dpdk::{self, Eal, EalOptions, Mbuf, Mempool, PortQueue};
use crate::flow::{NicSpread, Owners};
use crate::manage::host::HostState;
use crate::manage::run::{Call, Management, Snapshots};
use crate::manage::{ManageConfig, Manager};
use crate::preflight::{self, InstanceLock, Machine, Plan};
use crate::service::{Snapshot, Station};
use crate::sys::epoch::{self, Reader};
use crate::sys::signals::EndingSignals;
use crate::worker::exchange::{Inbox, Outbox};
use crate::worker::handover;
use crew::{Crew, Post};
use memory::Pools;
use ports::OpenPort;

/// Frames that may wait between the cores, in each direction.
const EXCHANGE: usize = 1024;
/// Calls that clients of the config socket may have open.
const CALLS: usize = 64;

/// The machine's clock: it never goes back, and stands still only with the machine.
pub fn clock() -> Now {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Now(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// A private directory for DPDK's own files; gone with us.
struct RuntimeDir(PathBuf);

impl RuntimeDir {
    /// Beside the socket, whose lock we hold: what a killed instance left there is nobody's any more.
    fn create(socket: &Path) -> Result<RuntimeDir> {
        let path = socket.with_extension("dpdk");
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| format!("{}", path.display()))?;
        }
        fs::DirBuilder::new().mode(0o700).create(&path).with_context(|| format!("{}", path.display()))?;
        Ok(RuntimeDir(path))
    }
}

impl Drop for RuntimeDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            log::warn!("{} stays behind: {error}", self.0.display());
        }
    }
}

/// Runs the director until it is told to stop. Preflight has found the machine fit.
pub fn run(config: Config, path: &Path, machine: &Machine, plan: &Plan, lock: InstanceLock) -> Result<()> {
    let signals = EndingSignals::block()?;
    let runtime = RuntimeDir::create(&config.control.socket)?;
    let mut host = prepare_host(&config)?;
    let eal = start_eal(&config, plan, &runtime)?;
    let mut remarks = Vec::new();
    let nodes = ports::nodes(&eal, &config)?;
    remarks.extend(preflight::distant_workers(machine, plan, &config, &nodes));
    let pools = Pools::create(&eal, &config, plan.worker_cores.len(), &nodes, &mut remarks)?;
    let (ports, queues) = ports::open_all(&eal, &config, plan.worker_cores.len(), &pools)?;
    let steering = ports::steering(&ports, &mut remarks);
    host.redirects_off(&ports::kernel_interfaces(&config)).context("ICMP redirects cannot be turned off")?;

    let config = Arc::new(config);
    let stations: Vec<Station> = ports.iter().map(|port| port.station.clone()).collect();
    let macs: Vec<_> = stations.iter().map(|station| station.mac).collect();
    let manager = Manager::new(&ManageConfig::new(&config, &macs, getrandom::u64()?), clock());
    let (composer, first) = Snapshots::first(&config, &stations, plan.worker_cores.len(), &manager);
    let (publisher, readers) = epoch::publish(first, plan.worker_cores.len());
    let outbox = Arc::new(Outbox::new(EXCHANGE)?);
    let stop = Arc::new(AtomicBool::new(false));

    let mut crew = hire_all(
        &config,
        machine,
        plan,
        &eal,
        readers,
        queues,
        (steering, ports::nic_spread(&ports)),
        &outbox,
        &stop,
        &mut remarks,
    )?;

    let (callers, calls) = bounded(CALLS);
    let facts = ports.iter().map(OpenPort::facts).collect();
    let workers = crew.muster()?;
    remarks.iter().for_each(|remark| log::warn!("{remark}"));
    let inboxes: Vec<_> = workers.iter().map(|worker| worker.inbox.clone()).collect();
    let ledgers = workers.iter().map(|worker| worker.ledger.clone()).collect();
    let server = open_desk(&config, path, plan, facts, workers, steering, remarks, callers, &outbox, &stop)?;
    let watch = watch_signals(signals, &outbox, &stop)?;

    let snapshots = Snapshots::new(publisher, config.clone(), composer, stations, ledgers);
    let mut management = manage(manager, snapshots, ports, outbox, inboxes, pools.any().clone(), calls)?;
    log::info!("ready: {}", config.control.socket.display());
    management.run(clock, &stop);

    log::info!("stopping");
    crew.dismiss();
    drop(management);
    watch.join().ok();
    drop(eal);
    drop(runtime);
    host.restore().map_err(anyhow::Error::msg)?;
    // The last but the lock: `drover stop` waits for the socket to go.
    drop(server);
    drop(lock);
    Ok(())
}

/// Puts back what a killed instance has left, and makes the kernel behind packet sockets deaf before they hear anything.
fn prepare_host(config: &Config) -> Result<HostState> {
    let journal = config.control.socket.with_extension("journal");
    let mut host = HostState::prepare(&journal, Path::new("/proc"))
        .with_context(|| format!("what an earlier instance changed cannot be put back ({})", journal.display()))?;
    if host.recovered() {
        log::warn!("an earlier instance was killed: what it had changed on this host has been put back");
    }
    for port in &config.ports {
        if let Device::AfPacket(interface) = &port.device {
            host.silence(interface).with_context(|| format!("the kernel cannot be kept off {interface}"))?;
        }
    }
    Ok(host)
}

fn start_eal(config: &Config, plan: &Plan, runtime: &RuntimeDir) -> Result<Eal> {
    let options = EalOptions {
        management_core: plan.management_core,
        hugepages: config.hugepages,
        memory_mb: config.memory_mb,
        pci: ports::pci_devices(config),
        vdevs: ports::virtual_devices(config, plan.worker_cores.len()),
        runtime_dir: runtime.0.clone(),
        file_prefix: format!("drover-{}", std::process::id()),
    };
    Ok(Eal::start(&options)?)
}

#[allow(clippy::too_many_arguments)] // A worker is given everything it will ever have.
/// Every worker at its post, with its ways to the others where there are any.
fn hire_all(
    config: &Config,
    machine: &Machine,
    plan: &Plan,
    eal: &Eal,
    readers: Vec<Reader<Snapshot>>,
    queues: Vec<Vec<PortQueue>>,
    (steering, nic): (Steering, Option<NicSpread>),
    outbox: &Arc<Outbox<Mbuf>>,
    stop: &Arc<AtomicBool>,
    remarks: &mut Vec<String>,
) -> Result<Crew> {
    let workers = plan.worker_cores.len();
    let inboxes = (0..workers).map(|_| Ok(Arc::new(Inbox::new(EXCHANGE)?))).collect::<Result<Vec<_>>>()?;
    let software = steering == Steering::Software;
    // Of persistent services every packet goes to its client's worker, whatever the NIC does.
    let mut links = if workers > 1 { handover::mesh(&inboxes) } else { Vec::new() }.into_iter();
    let ledgers: Vec<Arc<Ledger>> =
        (0..workers).map(|_| Arc::new(Ledger::new(config.limits.services, config.limits.reals))).collect();
    let secret = [getrandom::u64()?, getrandom::u64()?];
    let mut crew = Crew::new(stop.clone());
    let places = plan.worker_cores.iter().zip(inboxes).zip(readers).zip(queues);
    for (id, (((core, inbox), reader), queues)) in places.enumerate() {
        let owners = Owners::new(id as u8, workers as u8, secret);
        let sharing = links.next().map(|links| (Sharing { owners, all: software, nic: nic.clone() }, links));
        let node = preflight::node_of(machine, *core);
        let post =
            Post { id, core: *core, node, queues, reader, inbox, ledgers: ledgers.clone(), sharing, eal: eal.clone() };
        crew.hire(post, config, plan, outbox, remarks)?;
    }
    Ok(crew)
}

fn pin(core: usize) {
    if !core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        log::warn!("this thread cannot be pinned to core {core}");
    }
}

#[allow(clippy::too_many_arguments)] // The desk knows a little of everything.
fn open_desk(
    config: &Arc<Config>,
    path: &Path,
    plan: &Plan,
    ports: Vec<PortFacts>,
    workers: Vec<WorkerFacts<Mbuf>>,
    steering: Steering,
    remarks: Vec<String>,
    calls: Sender<Call>,
    outbox: &Arc<Outbox<Mbuf>>,
    stop: &Arc<AtomicBool>,
) -> Result<Server> {
    let desk = Desk {
        config: config.clone(),
        config_path: path.to_owned(),
        dpdk: dpdk::version().trim_start_matches("DPDK ").to_owned(),
        started: clock(),
        clock,
        management_core: plan.management_core,
        ports,
        workers,
        steering,
        remarks,
        calls,
        writing: Mutex::default(),
        outbox: outbox.clone(),
        stop: stop.clone(),
    };
    let core = plan.management_core;
    let options = Options { on_thread_start: Arc::new(move || pin(core)), ..Options::default() };
    let socket = &config.control.socket;
    Server::start_with(socket, Arc::new(desk), options).with_context(|| format!("{}", socket.display()))
}

/// A signal that asks for an end is the same as `drover stop`.
fn watch_signals(signals: EndingSignals, outbox: &Arc<Outbox<Mbuf>>, stop: &Arc<AtomicBool>) -> Result<JoinHandle<()>> {
    let (outbox, stop) = (outbox.clone(), stop.clone());
    let watch = move || {
        while !stop.load(Ordering::Relaxed) {
            if signals.wait(Duration::from_millis(500)).is_some() {
                stop.store(true, Ordering::Relaxed);
                outbox.bell.ring();
            }
        }
    };
    Ok(thread::Builder::new().name("signals".into()).spawn(watch)?)
}

fn manage(
    manager: Manager,
    snapshots: Snapshots,
    mut ports: Vec<OpenPort>,
    outbox: Arc<Outbox<Mbuf>>,
    workers: Vec<Arc<Inbox<Mbuf>>>,
    pool: Mempool,
    calls: Receiver<Call>,
) -> Result<Management<Mbuf>> {
    let taps = ports.iter_mut().map(|port| port.tap.take()).collect();
    Ok(Management {
        manager,
        snapshots,
        taps,
        lost: Vec::new(),
        outbox,
        sender: workers[0].clone(),
        workers,
        make: Box::new(move |bytes| pool.from_bytes(bytes)),
        ports: Box::new(move || ports.iter().map(OpenPort::view).collect()),
        calls,
    })
}

/// Checks the machine and starts, or says everything that is in the way.
pub fn start(config: Config, path: &Path) -> std::process::ExitCode {
    let machine = match Machine::this() {
        Ok(machine) => machine,
        Err(error) => {
            eprintln!("droverd: this machine's interfaces cannot be read: {error}");
            return std::process::ExitCode::FAILURE;
        }
    };
    match preflight::start(&config, &machine) {
        Err(problems) => {
            for problem in problems {
                eprintln!("droverd: {problem}");
            }
            std::process::ExitCode::from(crate::config::EXIT_REFUSED)
        }
        Ok((plan, lock)) => match run(config, path, &machine, &plan, lock) {
            Ok(()) => std::process::ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("droverd: {error:#}");
                std::process::ExitCode::FAILURE
            }
        },
    }
}
