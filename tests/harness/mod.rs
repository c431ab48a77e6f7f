//! One laboratory for one test: its own namespaces, gone when the test is, however it ends.

#![allow(dead_code, reason = "every test file uses its own part")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use drover::lab::error::{output, wait_for};
use drover::lab::{CLIENT, DIRECTOR, Droverd, Lab, LabDir, LabPort, Life, Start, VIP};
use tempfile::TempDir;

pub mod capture;
pub mod stranger;

/// How long a condition may take to come true on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Bench {
    // Taken down before its directory.
    pub lab: Lab,
    directory: TempDir,
}

impl Bench {
    /// A network with servers, without a director.
    pub fn new() -> Bench {
        let directory = tempfile::Builder::new().prefix("drover-test-").tempdir().unwrap();
        let place = LabDir::under(directory.path(), "lab").unwrap().create().unwrap();
        let lab = Lab::build(place, Life::WithUs).unwrap();
        Bench { lab, directory }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs a line of shell on a host and answers what it printed.
    pub fn sh(&self, host: &str, line: &str) -> String {
        self.lab.sh(host, line).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The same, where failing is an answer too.
    pub fn try_sh(&self, host: &str, line: &str) -> Output {
        self.lab.command(host, "sh").arg("-c").arg(line).output().unwrap()
    }

    pub fn get(&self, host: &str, url: &str) -> Result<String, String> {
        let mut curl = self.lab.command(host, "curl");
        curl.args(["-sS", "--max-time", "5", url]);
        output(&mut curl, "curl").map_err(|error| error.to_string())
    }

    pub fn sysctl(&self, host: &str, name: &str, value: &str) {
        self.sh(host, &format!("echo {value} > /proc/sys/net/ipv4/{name}"));
    }

    /// The director's kernel as the seeds have it: it forwards, and tells others of shorter ways.
    pub fn kernel_forwards(&self) {
        for setting in ["ip_forward", "conf/all/send_redirects", "conf/eth0/send_redirects"] {
            self.sysctl(DIRECTOR, setting, "1");
        }
    }

    /// A client that was told to reach the VIP by the director's own address, and that believes, from earlier, that the
    /// VIP itself is at a card which is no longer there. It would follow a redirect.
    pub fn route_by_director_with_a_stale_neighbour(&self) {
        self.sh(CLIENT, &format!("ip route add {VIP}/32 via 10.9.0.10"));
        self.sh(CLIENT, &format!("ip neigh replace {VIP} lladdr 02:00:0a:09:00:63 dev eth0 nud permanent"));
        for setting in ["accept_redirects", "secure_redirects", "shared_media"] {
            self.sysctl(CLIENT, &format!("conf/all/{setting}"), "1");
            self.sysctl(CLIENT, &format!("conf/eth0/{setting}"), "1");
        }
    }

    /// A counter of the host's kernel, from /proc/net/snmp.
    pub fn kernel_counter(&self, host: &str, protocol: &str, name: &str) -> u64 {
        let text = self.sh(host, "cat /proc/net/snmp");
        let rows: Vec<Vec<&str>> = text
            .lines()
            .filter(|line| line.starts_with(&format!("{protocol}: ")))
            .map(|line| line.split_whitespace().collect())
            .collect();
        let column = rows[0].iter().position(|title| *title == name).unwrap();
        rows[1][column].parse().unwrap()
    }

    /// The client pings the address; every ping is answered, and once. Counted by its kernel, because ping itself does
    /// not wait for answers that are a little late.
    pub fn pings_are_answered_once(&self, address: &str) {
        let count = |name: &str| self.kernel_counter(CLIENT, "Icmp", name);
        let open = || i128::from(count("OutEchos")) - i128::from(count("InEchoReps"));
        let before = open();
        let text = self.sh(CLIENT, &format!("ping -c 20 -i 0.02 {address}"));
        assert!(!text.contains("DUP"), "{text}");
        until("all answers", || if open() == before { Ok(()) } else { Err(text.clone()) });
        // Whatever was still on its way has overtaken or been overtaken by this one.
        self.sh(CLIENT, &format!("ping -c 1 {address}"));
        until("the last answer", || if open() == before { Ok(()) } else { Err(format!("{} open", open())) });
    }

    /// Starts droverd and waits until it knows every real server.
    pub fn direct(&self, port: LabPort) -> Droverd {
        self.direct_with(port, drover::lab::director::CONFIGURATION)
    }

    pub fn direct_with(&self, port: LabPort, configuration: &str) -> Droverd {
        let droverd = self.start(port, configuration).unwrap_or_else(|error| panic!("{error}"));
        self.lab.wait_for_reals().unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
        droverd
    }

    pub fn start(&self, port: LabPort, configuration: &str) -> drover::lab::Result<Droverd> {
        let start = Start { program: droverd(), port, configuration: configuration.to_owned() };
        Droverd::start(&self.lab, &start)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.lab.path().join("droverd.log")).unwrap_or_default()
    }

    pub fn director_mac(&self) -> String {
        self.lab.status().unwrap().ports[0].mac.to_lowercase()
    }

    /// `drover`, speaking to this lab's director.
    pub fn drover(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_drover"));
        command.env("DROVER_SOCKET", self.lab.socket());
        command
    }

    /// Ends droverd as its operator does, and waits until it has ended.
    pub fn stop(&self, mut droverd: Droverd) {
        let stop = self.drover().arg("stop").output().unwrap();
        assert!(stop.status.success(), "{}", String::from_utf8_lossy(&stop.stderr));
        until("droverd to end", || match droverd.exit_code().unwrap() {
            Some(status) if status.success() => Ok(()),
            other => Err(format!("{other:?}: {}", self.log())),
        });
    }

    /// Kills droverd as the kernel does when memory is short.
    pub fn kill(&self, mut droverd: Droverd) {
        let pid = self.lab.status().unwrap().pid;
        self.sh(DIRECTOR, &format!("kill -9 {pid}"));
        until("droverd to die", || droverd.exit_code().unwrap().ok_or("still there".into()));
    }

    /// The MAC that a host knows for an address.
    pub fn neighbour(&self, host: &str, address: &str) -> Option<String> {
        let line = self.sh(host, &format!("ip neigh show {address}"));
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "lladdr")?;
        Some(words[at + 1].to_owned())
    }

    pub fn spawn(&self, host: &str, line: &str) -> Running {
        let mut command = self.lab.command(host, "sh");
        command.arg("-c").arg(line).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Running(command.spawn().unwrap())
    }

    /// A web server in the kernel of the director's host, on port 8080 of the port's own address.
    pub fn serve_from_director(&self) {
        drover::lab::servers::serve(&self.lab, DIRECTOR, &["10.9.0.10:8080"]).unwrap();
        until("the director's web server", || self.get(DIRECTOR, "http://10.9.0.10:8080/"));
    }

    /// Requests without end to the VIP, until dropped.
    pub fn flood(&self) -> Running {
        self.spawn(
            CLIENT,
            &format!("while :; do curl -s0Z --parallel-max 16 -o /dev/null 'http://{VIP}/[1-500]'; done"),
        )
    }
}

/// A process that ends with the test.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(feature = "dpdk")]
pub fn droverd() -> PathBuf {
    env!("CARGO_BIN_EXE_droverd").into()
}

#[cfg(not(feature = "dpdk"))]
pub fn droverd() -> PathBuf {
    panic!("a test without DPDK asked for droverd")
}

pub fn until<T>(what: &str, condition: impl FnMut() -> Result<T, String>) -> T {
    wait_for(PATIENCE, what, condition).unwrap_or_else(|error| panic!("{error}"))
}

/// The lab's configuration with another scheduler.
pub fn with_scheduler(scheduler: &str) -> String {
    let text = drover::lab::director::CONFIGURATION;
    assert!(text.contains("scheduler = \"wrr\""));
    text.replace("scheduler = \"wrr\"", &format!("scheduler = \"{scheduler}\""))
}

/// Runs a command that must succeed.
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

/// Makes a directory and what is in it anybody's to read.
pub fn for_everybody(path: &Path) {
    succeed(Command::new("chmod").arg("-R").arg("a+rX").arg(path));
}
