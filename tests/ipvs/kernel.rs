//! The kernel: Debian's user-mode build of Linux, an ordinary process of ours. Its one network interface is a pair of
//! sockets, its console another; its clock is ours (kernel/clock.c). It needs neither root nor KVM.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::packet::{self, DIRECTOR, ROUTER, real_mac};
use super::scenario::real_address;
use super::scenario::{
    Edit, Listing, MARK_OF_NETWORK, MARK_OF_PORTS, MARKED_PORT, PAUSE, SCHEDULERS, Step, VIPS, what_ends_connections,
};
use super::subject::Subject;

const PATIENCE: Duration = Duration::from_secs(60);
/// Packets under way at once: few enough for the sockets between us.
const WINDOW: usize = 4;
/// How much slower than ours the kernel's clock goes while nothing waits for it: so slow that it stands still.
const STANDING: u64 = 20;
/// A pause is made of such steps, in nanoseconds, so that timers run in their order.
const STRIDE: u64 = 10_000_000_000;
/// Two of the kernel's ticks.
const TICK: u64 = 20_000_000;
const SECOND: u64 = 1_000_000_000;
/// By five seconds the time that is left to a connection would be rounded otherwise. How often a scenario is run until the
/// machine leaves the kernel that much.
const MOST_MOVED: u64 = 49 * SECOND / 10;
const TRIES: usize = 5;
/// An edit that always fails, and what is said about it: what comes before it is done.
const FAILING: &str = "-D -t 192.0.2.1:9";
const FAILED: &str = "No such service";

pub struct Kernel {
    process: Child,
    console: UnixStream,
    said: BufReader<UnixStream>,
    wire: UnixDatagram,
    clock: Clock,
    commands: u32,
    markers: u16,
    begun: bool,
    /// In this scenario.
    paused: bool,
    /// When its time began to stand still, and for how long it went on all the same, at most.
    stood: u64,
    moved: u64,
    /// Reals that have a route of their own.
    narrow: HashSet<u8>,
    directory: PathBuf,
}

/// The sheet that the kernel reads its time from.
struct Clock {
    sheet: File,
    sequence: u64,
    /// Where the kernel's clock was set to last, and when, in nanoseconds.
    guest: u64,
    host: u64,
    slower: u64,
}

impl Clock {
    fn new(sheet: File) -> Clock {
        let mut clock = Clock { sheet, sequence: 0, guest: 0, host: host_now(), slower: 0 };
        clock.sheet.set_len(4096).unwrap();
        clock.set(SECOND, 0);
        clock
    }

    fn now(&self) -> u64 {
        self.guest + (host_now().saturating_sub(self.host) >> self.slower)
    }

    /// Never back.
    fn set(&mut self, guest: u64, slower: u64) {
        let guest = guest.max(self.now());
        let write = |at: u64, number: u64| self.sheet.write_all_at(&number.to_ne_bytes(), at * 8).unwrap();
        write(0, self.sequence + 1);
        (self.guest, self.host, self.slower) = (guest, host_now(), slower);
        for (at, number) in [self.host, self.guest, self.slower].into_iter().enumerate() {
            write(at as u64 + 1, number);
        }
        write(0, self.sequence + 2);
        self.sequence += 2;
    }

    fn stand(&mut self) {
        self.set(self.now(), STANDING);
    }

    fn go(&mut self) {
        self.set(self.now(), 0);
    }
}

fn host_now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * SECOND + now.tv_nsec as u64
}

/// What the kernel boots: fetched and made if it is not there.
fn image() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ipvs-kernel");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ipvs/kernel/image");
    let made = Command::new(&script).arg(&directory).output().unwrap();
    assert!(
        made.status.success(),
        "{} failed\n{}remedy: .ci/packages cpio",
        script.display(),
        String::from_utf8_lossy(&made.stderr)
    );
    directory
}

impl Kernel {
    pub fn boot() -> Kernel {
        let image = image();
        let directory = tempfile::tempdir().unwrap().keep();
        let sheet = directory.join("clock");
        let clock = Clock::new(File::options().read(true).write(true).create_new(true).open(&sheet).unwrap());
        let (wire, its_wire) = UnixDatagram::pair().unwrap();
        let (console, its_console) = UnixStream::pair().unwrap();
        wire.set_read_timeout(Some(PATIENCE)).unwrap();
        console.set_read_timeout(Some(PATIENCE)).unwrap();
        let process = Command::new("nice")
            .args(["-n", "5"])
            .arg(image.join("linux"))
            .args(["mem=160M", "root=/dev/ram0", "con=null", "con0=fd:1,fd:1", "ssl=null", "quiet"])
            .arg(format!("initrd={}", image.join("initrd").display()))
            .arg(format!("vec0:transport=fd,fd=0,mac={DIRECTOR},depth=64"))
            .env("LD_PRELOAD", image.join("clock.so"))
            .env("DROVER_CLOCK", &sheet)
            .env("HOME", &directory)
            .env("TMPDIR", "/dev/shm")
            .stdin(OwnedFd::from(its_wire))
            .stdout(OwnedFd::from(its_console))
            .stderr(Stdio::from(File::create(directory.join("log")).unwrap()))
            .process_group(0)
            .spawn()
            .unwrap();
        let said = BufReader::new(console.try_clone().unwrap());
        let mut kernel = Kernel {
            process,
            console,
            said,
            wire,
            clock,
            commands: 0,
            markers: 0,
            begun: false,
            paused: false,
            stood: 0,
            moved: 0,
            narrow: HashSet::new(),
            directory,
        };
        kernel.lines_until("kernel ready");
        kernel.settle_in();
        kernel.clock.stand();
        kernel
    }

    /// What stays the same for all scenarios: addresses, neighbours, marks.
    fn settle_in(&mut self) {
        let mut lines = vec!["ip link set lo up; ip addr add 10.9.0.10/24 dev vec0; ip link set vec0 up".to_owned()];
        lines.extend(VIPS.map(|vip| format!("ip addr add {vip}/32 dev vec0")));
        lines.push("ip route add local 10.9.1.0/24 dev lo; ip route add default via 10.9.0.1 dev vec0".into());
        // A packet that waits for others to be merged with would come out after the packet behind it.
        lines.push("ethtool -K vec0 gro off".into());
        let neighbour = |address, mac| format!("arp -s {address} {mac}");
        lines.push(neighbour("10.9.0.1".to_owned(), ROUTER));
        lines.extend((1..=8).map(|number| neighbour(real_address(number).to_string(), real_mac(number))));
        let settings = [("ip_forward", "1"), ("icmp_ratelimit", "0"), ("icmp_msgs_per_sec", "1000000")];
        lines.extend(settings.map(|(name, value)| format!("echo {value} >/proc/sys/net/ipv4/{name}")));
        lines.push("echo 1000000 >/proc/sys/net/ipv4/icmp_msgs_burst; echo 1 >/proc/sys/kernel/printk".into());
        let mark = "iptables -t mangle -A PREROUTING -d";
        lines.push(format!("{mark} 10.9.1.0/24 -j MARK --set-mark {MARK_OF_NETWORK}"));
        let last = MARKED_PORT + 9;
        lines.extend(["tcp", "udp"].map(|protocol| {
            format!("{mark} {} -p {protocol} --dport {MARKED_PORT}:{last} -j MARK --set-mark {MARK_OF_PORTS}", VIPS[1])
        }));
        lines.push("mkfifo /tmp/edits /tmp/complaints /tmp/nothing; exec 5<>/tmp/complaints 6<>/tmp/nothing".into());
        for line in lines {
            let said = self.sh(&line);
            assert!(said.trim().is_empty(), "{line}\n{said}");
        }
    }

    /// As after a boot: no services, no connections, no memory of either.
    fn begin(&mut self) {
        self.clock.go();
        let schedulers = SCHEDULERS.map(|name| format!("ip_vs_{name}")).join(" ");
        let remove =
            if self.begun { format!("exec 4>&-; wait; ipvsadm -C; rmmod {schedulers} ip_vs;") } else { String::new() };
        self.begun = true;
        for real in std::mem::take(&mut self.narrow) {
            let said = self.sh(&format!("ip route del {}/32 dev vec0", real_address(real)));
            assert!(said.trim().is_empty(), "{said}");
        }
        let load = format!("modprobe -a {schedulers}");
        let said = self.sh(&format!(
            "{remove} {load}; (exec 4>&-; ipvsadm -R </tmp/edits >/tmp/complaints 2>&1) & exec 4>/tmp/edits"
        ));
        assert!(said.trim().is_empty(), "{said}");
        self.clock.stand();
    }

    /// Runs a line of shell and answers what it printed.
    pub fn sh(&mut self, line: &str) -> String {
        self.commands += 1;
        // The mark is not in the command, which is therefore never taken for it.
        let command = format!("{{ {line}\n}} 2>&1; echo; echo done $((0 + {}))\n", self.commands);
        self.console.write_all(command.as_bytes()).unwrap();
        let mark = format!("done {}", self.commands);
        self.lines_until(&mark)
    }

    fn lines_until(&mut self, mark: &str) -> String {
        let mut said = String::new();
        loop {
            let mut line = String::new();
            let read = self.said.read_line(&mut line);
            let whole = matches!(read, Ok(1..));
            assert!(whole, "the kernel said no {mark:?} but {said:?}{line:?} ({read:?})\n{}", self.log());
            let text = line.trim_end();
            if text == mark {
                return said;
            }
            said.push_str(text);
            said.push('\n');
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// An edit by the `ipvsadm` that waits for lines; answers its complaint, or nothing.
    fn edit(&mut self, edit: &Edit) -> Vec<String> {
        let line = match edit {
            Edit::Sysctl(which, on) => {
                self.sh(&format!("echo {} >/proc/sys/net/ipv4/vs/{}", u8::from(*on), which.name()));
                return Vec::new();
            }
            _ => edit.to_string(),
        };
        let said = self.sh(&format!(
            "echo '{line}' >&4; echo '{FAILING}' >&4; while read -r said <&5 && [ \"$said\" != '{FAILED}' ]; do echo $said; done"
        ));
        said.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| format!("refused: {line}")).collect()
    }

    fn end_of_pause(&self) -> u64 {
        (self.clock.now() / SECOND / PAUSE + 1) * PAUSE * SECOND
    }

    fn pause(&mut self) {
        let end = self.end_of_pause();
        while self.clock.now() < end {
            let next = (self.clock.now() + STRIDE).min(end);
            self.clock.set(next, 0);
            // When it wakes up, the timers that were due have run.
            self.sh("read -t 0.002 nothing <&6");
        }
        self.clock.stand();
        self.stood = self.clock.now();
    }

    /// Long enough for what ends at once to be gone: the kernel leaves that to a timer.
    fn tick(&mut self) {
        self.clock.set(self.clock.now() + TICK, 0);
        self.sh("read -t 0.001 nothing <&6");
        self.clock.stand();
    }

    fn list(&mut self, listing: Listing) -> Vec<String> {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let command = match listing {
            Listing::Services => "ipvsadm -L -n",
            Listing::Connections => "ipvsadm -L -n -c",
            Listing::Stats => "ipvsadm -L -n --stats --exact",
        };
        if listing == Listing::Stats {
            // The kernel adds up every two seconds.
            self.clock.set(self.clock.now() + 3 * SECOND, 0);
            self.sh("read -t 0.005 nothing <&6");
            self.clock.stand();
            self.stood += 3 * SECOND;
        }
        let said = self.sh(command);
        if listing != Listing::Connections {
            return said.lines().map(words).filter(|line| is_of_a_service(line)).collect();
        }
        let mut lines: Vec<String> = said.lines().skip(2).map(words).filter(|line| !line.is_empty()).collect();
        lines = lines.iter().map(|line| with_round_time(line, self.paused)).collect();
        lines.sort();
        lines
    }

    fn other_step(&mut self, step: &Step) -> Vec<String> {
        match step {
            Step::Edit(edit) => self.edit(edit),
            Step::List(listing) => self.list(*listing),
            Step::Mtu(real, mtu) => {
                self.narrow.insert(*real);
                let said = self.sh(&format!("ip route replace {}/32 dev vec0 mtu {mtu}", real_address(*real)));
                assert!(said.trim().is_empty(), "{step}\n{said}");
                Vec::new()
            }
            Step::Pause | Step::Packet(_) => {
                self.pause();
                self.paused = true;
                Vec::new()
            }
        }
    }

    /// Sends packets in turn, each followed by an echo request from a neighbour that nobody else sends: what comes out
    /// before its answer came for the packet.
    fn packets(&mut self, frames: &[Vec<u8>]) -> Vec<Vec<Vec<u8>>> {
        let first = self.markers;
        let mut came: Vec<Vec<Vec<u8>>> = Vec::with_capacity(frames.len());
        let (mut sent, mut current) = (0, Vec::new());
        let mut buffer = [0; 2048];
        while came.len() < frames.len() {
            while sent < frames.len() && sent < came.len() + WINDOW {
                self.wire.send(&frames[sent]).unwrap();
                self.wire.send(&marker(first.wrapping_add(sent as u16))).unwrap();
                sent += 1;
            }
            let length = self.wire.recv(&mut buffer).unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
            let frame = &buffer[..length];
            match marker_number(frame) {
                Some(number) => {
                    assert_eq!(number, first.wrapping_add(came.len() as u16), "packets keep their order");
                    came.push(std::mem::take(&mut current));
                }
                None if is_of_ours(frame) => current.push(frame.to_vec()),
                None => (),
            }
        }
        self.markers = first.wrapping_add(frames.len() as u16);
        came
    }
}

impl Subject for Kernel {
    /// A machine that is busy with something else lets the kernel's time go on too far between two steps.
    fn run(&mut self, steps: &[Step]) -> Vec<Vec<String>> {
        for _ in 0..TRIES {
            let answers = self.run_once(steps);
            if self.moved < MOST_MOVED {
                return answers;
            }
        }
        panic!("the kernel's time did not stand still: it went on for {} ms", self.moved / 1_000_000);
    }
}

impl Kernel {
    fn run_once(&mut self, steps: &[Step]) -> Vec<Vec<String>> {
        self.begin();
        // All scenarios have the same time, just after the end of a pause. The last strides are short enough that the
        // kernel's own timers are in step again.
        self.clock.set(self.end_of_pause() - 2 * STRIDE, 0);
        self.tick();
        self.pause();
        (self.paused, self.moved) = (false, 0);
        let ends = what_ends_connections(steps);
        let mut answers = Vec::with_capacity(steps.len());
        let mut at = 0;
        while at < steps.len() {
            let first = at;
            let mut frames = Vec::new();
            while let Some(Step::Packet(packet)) = steps.get(at) {
                frames.push(packet.frame());
                at += 1;
                if ends[at - 1] {
                    break;
                }
            }
            let came = self.packets(&frames);
            answers.extend(frames.iter().zip(&came).map(|(sent, came)| vec![packet::answer(sent, came)]));
            if at > first {
                if ends[at - 1] {
                    self.tick();
                }
                self.moved = self.moved.max(self.clock.now() - self.stood);
                continue;
            }
            answers.push(self.other_step(&steps[at]));
            if ends[at] {
                self.tick();
            }
            at += 1;
        }
        answers
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // The kernel's own processes are the host's too: all of its group.
        if let Some(group) = rustix::process::Pid::from_raw(self.process.id() as i32) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.process.wait();
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}

/// A service's line or a real's; not a heading.
fn is_of_a_service(line: &str) -> bool {
    let mut words = line.split(' ');
    match words.next() {
        Some("TCP" | "UDP" | "FWM") => true,
        Some("->") => words.next().is_some_and(|word| word != "RemoteAddress:Port"),
        _ => false,
    }
}

/// The time that is left to a connection, to ten seconds: what the kernel's clock loses between two steps is less. A
/// template's only before the first pause: later it may be one of the minutes by which its connections prolong it, and
/// the kernel's timers are late by different parts of each.
fn with_round_time(line: &str, paused: bool) -> String {
    let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    if let Some((minutes, seconds)) = words.get(1).and_then(|time| time.split_once(':')) {
        let left = minutes.parse::<u32>().unwrap_or(0) * 60 + seconds.parse::<u32>().unwrap_or(0);
        let is_template = words.get(2).is_some_and(|state| state == "NONE" || state == "ASSURED");
        words[1] = if is_template && paused { "-".into() } else { format!("{}s", (left + 5) / 10 * 10) };
    }
    words.join(" ")
}

const MARKER_SOURCE: std::net::Ipv4Addr = std::net::Ipv4Addr::new(10, 255, 255, 254);

/// An echo request to the director's own address, which no service has.
fn marker(number: u16) -> Vec<u8> {
    let message = packet::icmp(8, 0, &[&[0xd2, 0x0e][..], &number.to_be_bytes()].concat(), &[]);
    packet::framed(&packet::ip(MARKER_SOURCE, std::net::Ipv4Addr::new(10, 9, 0, 10), 1, 64, false, &message))
}

fn marker_number(frame: &[u8]) -> Option<u16> {
    let is_marker = frame.len() >= 42 && frame[30..34] == MARKER_SOURCE.octets() && frame[38..40] == [0xd2, 0x0e];
    is_marker.then(|| u16::from_be_bytes([frame[40], frame[41]]))
}

/// IPv4 by unicast; not what an interface says of itself.
fn is_of_ours(frame: &[u8]) -> bool {
    frame.len() > 34 && frame[12..14] == [8, 0] && frame[0] & 1 == 0
}
