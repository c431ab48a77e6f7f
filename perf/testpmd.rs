//! `dpdk-testpmd` as a measure and as a generator: started, read by its own statistics, stopped.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use crate::bench::Bench;
use rustix::process::{Pid, Signal, kill_process};

const PROGRAM: &str = "dpdk-testpmd";
/// Its start, and then a line a second.
const PATIENCE: Duration = Duration::from_secs(20);

pub fn is_installed() -> bool {
    Command::new(PROGRAM).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// One run of it.
pub struct Testpmd<'a> {
    pub name: &'static str,
    pub bench: &'a Bench,
    /// Where it forwards.
    pub core: usize,
    pub vdevs: &'a [String],
    pub buffers: u32,
    /// Its own, behind `--`.
    pub arguments: &'a [&'a str],
}

impl Testpmd<'_> {
    /// Its other thread only prints.
    fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.env("RUNTIME_DIRECTORY", self.bench.directory.path());
        command.arg(format!("--lcores=0@{},1@{}", self.bench.other_core(), self.core));
        command.arg(format!("--file-prefix=drover-{}-{}", self.name, std::process::id()));
        command.args(["--no-pci", "--no-telemetry", "--log-level=error"]);
        match self.bench.hugepages {
            true => command.arg("--in-memory"),
            false => command.args(["--no-huge", "--no-shconf", "-m", "256"]),
        };
        command.args(self.vdevs.iter().map(|vdev| format!("--vdev={vdev}")));
        command.args(["--", "--nb-cores=1", "--stats-period=1", "--mbuf-size=384"]);
        command.arg(format!("--total-num-mbufs={}", self.buffers)).args(self.arguments);
        command
    }

    /// Its best second of `seconds`, by what its first port received.
    pub fn packets_per_second(&self, seconds: usize) -> Result<f64, Box<dyn Error>> {
        let running = Running::start(self.command(), self.vdevs.len())?;
        let mut best = 0f64;
        // Its first line covers its start.
        for second in 0..=seconds {
            let rate = running.next_rate()?;
            if second > 0 {
                best = best.max(rate);
            }
        }
        Ok(best)
    }

    pub fn start(&self) -> Result<Running, Box<dyn Error>> {
        Running::start(self.command(), self.vdevs.len())
    }
}

/// Stopped when dropped.
pub struct Running {
    child: Child,
    ports: usize,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Running {
    fn start(mut command: Command, ports: usize) -> Result<Running, Box<dyn Error>> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let output = child.stdout.take().ok_or("testpmd has an output")?;
        let (send, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Running { child, ports, lines })
    }

    /// What its first port receives a second, by its next account of it.
    pub fn next_rate(&self) -> Result<f64, Box<dyn Error>> {
        self.next_rates().map(|rates| rates[0])
    }

    /// Of all its ports, by its next account.
    pub fn next_rates(&self) -> Result<Vec<f64>, Box<dyn Error>> {
        let mut rates = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    if let Some(rest) = line.trim().strip_prefix("Rx-pps:") {
                        let digits = rest.split_whitespace().next().unwrap_or("0");
                        rates.push(digits.parse()?);
                    }
                    if rates.len() == self.ports {
                        return Ok(rates);
                    }
                }
                Err(RecvTimeoutError::Timeout) => return Err("testpmd says nothing".into()),
                Err(RecvTimeoutError::Disconnected) => return Err("testpmd ended early".into()),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            let _ = kill_process(pid, Signal::INT);
        }
        let _ = self.child.wait();
    }
}

/// Runs the operator's scripts, on devices that every machine has.
pub fn try_out_scripts() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let packets = root.join("tests/data/trex.pcap");
    let repeated = format!("net_pcap0,rx_pcap={},infinite_rx=1", packets.display());
    let cores: Vec<String> =
        core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id.to_string()).collect();
    let two = [cores.first(), cores.last()].into_iter().flatten().cloned().collect::<Vec<_>>().join(",");
    for (script, device, file) in [("ceiling", repeated.as_str(), None), ("generate", "net_ring0", Some(&packets))] {
        let mut command = Command::new(root.join("perf/testpmd").join(script));
        command.args(file).env("DEVICE", device).env("HUGEPAGES", "0").env("DURATION", "1").env("CORES", &two);
        let output = command.stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() || !said.contains("packets a second") {
            let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("perf/testpmd/{script}: {said}{complaint}").into());
        }
        println!("perf/testpmd/{script}: {}", said.trim());
    }
    Ok(())
}
