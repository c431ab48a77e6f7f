//! A guest: a machine of QEMU's, with a NIC on PCI that is plugged into the laboratory's switch.
//!
//! It has what no test in a namespace has: PCI devices of its own to bind, an IOMMU, two NUMA nodes, hugepages that may
//! be reserved. QEMU emulates the processor, so that it runs where there is no KVM, and the same everywhere.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use drover::lab::SWITCH;
use serde::de::DeserializeOwned;

use crate::harness::{Bench, droverd, succeed};

/// A NIC with two pairs of queues.
#[derive(Clone, Copy)]
pub struct Nic {
    id: &'static str,
    /// Where it is on PCI.
    pub address: &'static str,
    pub mac: &'static str,
    /// What the kernel calls it.
    pub interface: &'static str,
    /// Whether it spreads flows over its queues by their hash, as it is told.
    pub spreads: bool,
    /// The slot's place for QEMU.
    slot: &'static str,
}

/// It spreads, and belongs to no NUMA node.
pub const SPREADING: Nic = Nic {
    id: "nic0",
    address: "0000:00:05.0",
    mac: "02:00:0a:09:00:20",
    interface: "eth0",
    spreads: true,
    slot: "bus=pcie.0,addr=5",
};
/// It does not, and is at node 1.
pub const PLAIN: Nic = Nic {
    id: "nic1",
    address: "0000:81:00.0",
    mac: "02:00:0a:09:00:21",
    interface: "eth1",
    spreads: false,
    slot: "bus=far_slot",
};
/// All hugepages there are.
pub const PAGES: usize = 160;

/// How long it may take to boot, or to answer.
const PATIENCE: Duration = Duration::from_secs(120);

pub struct Guest {
    qemu: Child,
    shell: ChildStdin,
    lines: Receiver<String>,
    directory: PathBuf,
    commands: u32,
}

impl Guest {
    /// Boots it; it has booted when this returns.
    pub fn boot(bench: &Bench) -> Guest {
        let image = image();
        for Nic { id, .. } in [SPREADING, PLAIN] {
            bench.sh(SWITCH, &format!("ip tuntap add {id} mode tap multi_queue && ip link set {id} master br0 up"));
        }
        let directory = bench.lab.path().to_owned();
        let mut qemu = bench.lab.command(SWITCH, "qemu-system-x86_64");
        qemu.args(machine()).args(plugged(&SPREADING)).args(plugged(&PLAIN));
        qemu.arg("-kernel").arg(image.join("kernel")).arg("-initrd").arg(image.join("initrd"));
        qemu.arg("-serial").arg(format!("file:{}", directory.join("console").display())).args(["-serial", "stdio"]);
        qemu.arg("-monitor").arg(format!("unix:{},server=on,wait=off", directory.join("monitor").display()));
        let log = File::create(directory.join("qemu.log")).unwrap();
        let mut qemu = qemu.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let (shell, output) = (qemu.stdin.take().unwrap(), qemu.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let said = BufReader::new(output).lines().map_while(Result::ok);
            said.map_while(|line| sender.send(line).ok()).for_each(drop);
        });
        let guest = Guest { qemu, shell, lines, directory, commands: 0 };
        guest.lines_until("guest ready");
        guest
    }

    /// Runs lines of shell and answers what they printed, with what they complained about, and whether they succeeded.
    pub fn try_sh(&mut self, lines: &str) -> (String, bool) {
        self.commands += 1;
        let mark = format!("done {}", self.commands);
        // The mark is not in the command, which is therefore never taken for it.
        let command =
            format!("{{\n{lines}\n}} </dev/null 2>&1; code=$?; echo; echo done $((0 + {})) $code\n", self.commands);
        self.shell.write_all(command.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{}", self.console()));
        let (mut said, last) = self.lines_until(&mark);
        said.truncate(said.trim_end().len());
        (said, last == format!("{mark} 0"))
    }

    /// The same, of lines that must succeed.
    pub fn sh(&mut self, lines: &str) -> String {
        let (said, well) = self.try_sh(lines);
        assert!(well, "in the guest: {lines}\n{said}\n{}", self.console());
        said
    }

    /// `drover`, asked for JSON.
    pub fn drover<T: DeserializeOwned>(&mut self, verb: &str) -> Result<T, String> {
        let (said, well) = self.try_sh(&format!("drover --json {verb}"));
        if well { serde_json::from_str(&said).map_err(|error| format!("{error}: {said}")) } else { Err(said) }
    }

    /// Pulls a NIC's cable, or plugs it in.
    pub fn cable(&self, nic: &Nic, plugged: bool) {
        let mut monitor = UnixStream::connect(self.directory.join("monitor")).unwrap();
        let state = if plugged { "on" } else { "off" };
        writeln!(monitor, "set_link {} {state}", nic.id).unwrap();
        monitor.shutdown(std::net::Shutdown::Write).unwrap();
        // It closes when it has read to the end, and done it.
        std::io::copy(&mut monitor, &mut std::io::sink()).unwrap();
    }

    /// Turns it off and waits until it is.
    pub fn power_off(mut self) {
        self.shell.write_all(b"poweroff -f\n").unwrap();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            drop(line);
        }
        assert!(self.qemu.wait().unwrap().success(), "{}", self.console());
    }

    /// What it said until a line that begins with the mark, and that line.
    fn lines_until(&self, mark: &str) -> (String, String) {
        let deadline = Instant::now() + PATIENCE;
        let mut said = String::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            let line = line.unwrap_or_else(|error| panic!("{error} for {mark:?}: {said}\n{}", self.console()));
            let line = line.trim_end_matches('\r');
            if line.starts_with(mark) {
                return (said, line.to_owned());
            }
            said.push_str(line);
            said.push('\n');
        }
    }

    /// The end of what QEMU and the guest's kernel said.
    fn console(&self) -> String {
        let mut end = String::new();
        for name in ["qemu.log", "console"] {
            let text = std::fs::read(self.directory.join(name)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            end += &format!("{name}:\n{}\n", lines[lines.len().saturating_sub(20)..].join("\n"));
        }
        end
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// Made anew from the programs as they are now; the kernel is fetched once.
fn image() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/image");
    succeed(Command::new(script).arg(&directory).arg(droverd()).arg(env!("CARGO_BIN_EXE_drover")));
    directory
}

/// Three cores, the third one on a NUMA node of its own with a PCI bus, and an IOMMU.
fn machine() -> Vec<String> {
    // On a busy machine the emulated timer is late, and the kernel would take it for a broken one.
    let timer = "no_timer_check";
    let kernel = format!("console=ttyS0 panic=-1 mitigations=off {timer} intel_iommu=on iommu=pt hugepages={PAGES}");
    let words = "-machine q35,accel=tcg -cpu max -smp 3 -m 1024 -nodefaults -display none -no-reboot \
                 -object memory-backend-ram,id=memory0,size=512M -numa node,nodeid=0,cpus=0-1,memdev=memory0 \
                 -object memory-backend-ram,id=memory1,size=512M -numa node,nodeid=1,cpus=2,memdev=memory1 \
                 -device intel-iommu,intremap=on,aw-bits=48 \
                 -device pxb-pcie,id=far,bus_nr=128,numa_node=1,bus=pcie.0 \
                 -device pcie-root-port,id=far_slot,bus=far,chassis=1 -append";
    words.split_whitespace().map(str::to_owned).chain([kernel]).collect()
}

/// A NIC, and its wire to the switch.
fn plugged(nic: &Nic) -> Vec<String> {
    let Nic { id, mac, slot, .. } = nic;
    let rss = if nic.spreads { "on" } else { "off" };
    vec![
        "-netdev".to_owned(),
        format!("tap,id=wire_{id},ifname={id},queues=2,script=no,downscript=no,vhost=off"),
        "-device".to_owned(),
        format!(
            "virtio-net-pci,id={id},netdev=wire_{id},mac={mac},{slot},mq=on,rss={rss},vectors=6,romfile=,\
             disable-legacy=on,iommu_platform=on,ats=on"
        ),
    ]
}
