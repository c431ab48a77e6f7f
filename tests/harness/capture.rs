//! What went over a wire, by tcpdump, read back frame by frame.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use super::{Bench, until};

pub struct Capture {
    child: Child,
    path: PathBuf,
}

impl Capture {
    /// Captures what `filter` matches on `interface` of `host`; it runs once this returns.
    pub fn start(bench: &Bench, host: &str, interface: &str, filter: &str) -> Capture {
        let path = bench.lab.path().join(format!("{host}-{interface}.pcap"));
        let mut command = bench.lab.command(host, "tcpdump");
        command.args(["--immediate-mode", "-Z", "root", "-U", "-s", "0", "-n", "-i", interface, "-w"]);
        command.arg(&path).arg(filter).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready = lines.by_ref().map_while(Result::ok).find(|line| line.contains("listening on"));
        assert!(ready.is_some(), "tcpdump did not start");
        // Somebody has to read what it goes on to say, or it dies of a broken pipe.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Capture { child, path }
    }

    /// The frames so far.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        read_pcap(&std::fs::read(&self.path).unwrap_or_default())
    }

    /// Waits until at least so many frames are there.
    pub fn wait_for(&self, count: usize) -> Vec<Vec<u8>> {
        until("frames on the wire", || {
            let frames = self.frames();
            if frames.len() >= count { Ok(frames) } else { Err(format!("{} of {count}", frames.len())) }
        })
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The whole frames of a classic pcap file, little-endian as this machine writes it.
pub fn read_pcap(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut rest = bytes.get(24..).unwrap_or_default();
    while rest.len() >= 16 {
        let length = u32::from_le_bytes(rest[8..12].try_into().unwrap()) as usize;
        let Some(frame) = rest.get(16..16 + length) else { break };
        frames.push(frame.to_vec());
        rest = &rest[16 + length..];
    }
    frames
}

pub fn mac_text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

pub fn ones_complement_sum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
