//! `pair`: the whole system. testpmd on one core makes packets and counts those that come back, droverd on another
//! forwards them, and net_memif is the wire between the two processes. Beside it a second testpmd in droverd's place.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::bench::{Bench, Outcome, config_text};
use crate::forward::{PCAP_FLOWS, write_pcap};
use crate::measure::{Probe, probe};
use crate::testpmd::{self, Testpmd};
use crate::traffic::STATION;

const DROVERD: &str = env!("CARGO_BIN_EXE_droverd");
const BUFFERS: u32 = 16_383;

/// The director in a network namespace of its own; ended when dropped.
struct Droverd(Child);

impl Droverd {
    fn start(bench: &Bench, socket: &Path) -> Result<Droverd, Box<dyn Error>> {
        let directory = bench.directory.path();
        let config = directory.join("pair.toml");
        fs::write(&config, configuration(bench, socket))?;
        let log = fs::File::create(directory.join("droverd.log"))?;
        // This thread is bound to one core, and what it starts would be too.
        let mut command = Command::new("taskset");
        command.args(["-c", &format!("{},{}", bench.other_core(), bench.core), "unshare"]);
        command.args(if rustix::process::getuid().is_root() { "--net" } else { "-Urn" }.split(' '));
        command.args([DROVERD, "--config"]).arg(&config);
        Ok(Droverd(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?))
    }
}

impl Drop for Droverd {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.0.id() as i32) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

fn configuration(bench: &Bench, socket: &Path) -> String {
    let (memory_mb, hugepages) = (256, bench.hugepages);
    let head = format!("hugepages = {hugepages}\nmemory_mb = {memory_mb}\nidle = \"poll\"\n");
    let cores = format!("[cores]\nmanagement = {}\nworkers = [{}]\n", bench.other_core(), bench.core);
    let control = format!("[control]\nsocket = \"{}\"\n", bench.directory.path().join("control").display());
    // net_memif takes its address at the start only.
    let device = format!("vdev = \"{},mac={STATION}\"", memif("server", socket));
    head + &cores + &control + &config_text(&device, 0)
}

fn memif(role: &str, socket: &Path) -> String {
    format!("net_memif0,role={role},socket={},socket-abstract=no,id=0", socket.display())
}

/// What comes back to the generator through `other`, packets a second. `other` is ended first: when the generator went
/// first, a droverd on net_memif was seen to crash (the cause has not been looked for).
fn returned<T>(bench: &Bench, file: &Path, socket: &Path, seconds: usize, other: T) -> Result<f64, Box<dyn Error>> {
    let vdevs = [format!("net_pcap0,rx_pcap={},infinite_rx=1", file.display()), memif("client", socket)];
    let generator = Testpmd {
        name: "generator",
        bench,
        core: bench.other_core(),
        vdevs: &vdevs,
        buffers: BUFFERS,
        arguments: &["--forward-mode=io"],
    };
    let running = generator.start()?;
    let mut best = 0f64;
    for second in 0..=seconds {
        let rates = running.next_rates()?;
        // The first account covers its start and the wire's.
        if second > 0 {
            best = best.max(rates.get(1).copied().unwrap_or(0.0));
        }
    }
    drop(other);
    let _ = fs::remove_file(socket);
    Ok(best)
}

pub fn run(bench: &mut Bench) -> Outcome {
    if !testpmd::is_installed() {
        bench.report.note("pair: dpdk-testpmd is not installed (Debian: dpdk-dev)");
        return Ok(());
    }
    if bench.other_core() == bench.core {
        bench.report.note("pair: generator and director need a core each, and this process has one");
        return Ok(());
    }
    let file = bench.directory.path().join("pair.pcap");
    write_pcap(&file, bench.scale.pick(256, PCAP_FLOWS, PCAP_FLOWS))?;
    let socket = bench.directory.path().join("memif.sock");
    let seconds = bench.scale.pick(1, 3, 4);
    let (mut ours, mut theirs) = (0f64, 0f64);
    let before = probe(bench.hertz);
    for _ in 0..bench.scale.pick(1, 1, 3) {
        let droverd = Droverd::start(bench, &socket)?;
        ours = ours.max(returned(bench, &file, &socket, seconds, droverd)?);
        let vdevs = [memif("server", &socket)];
        let echo = Testpmd {
            name: "echo",
            bench,
            core: bench.core,
            vdevs: &vdevs,
            buffers: BUFFERS,
            arguments: &["--forward-mode=macswap", "--port-topology=loop"],
        };
        let echo = echo.start()?;
        theirs = theirs.max(returned(bench, &file, &socket, seconds, echo)?);
    }
    if ours < 1_000.0 {
        let log = fs::read_to_string(bench.directory.path().join("droverd.log")).unwrap_or_default();
        return Err(format!("nothing came back through droverd:\n{log}").into());
    }
    let probe = Probe { before, after: probe(bench.hertz) };
    let mut section = bench.report.section("pair", bench.dpdk_pages());
    section.ratio("net_memif/4K", "packets_per_second", ours, ("testpmd_macswap/net_memif", theirs), probe);
    section.row("testpmd_macswap/net_memif/4K", "packets_per_second", theirs, probe);
    Ok(())
}
