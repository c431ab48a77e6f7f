//! What went over a host's wires, frame by frame.
//!
//! tcpdump wants to become another user, which an ordinary user's namespace does not have. So this reads the wire
//! itself: the test's own program, run once more on that host.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::num::NonZeroU32;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};

use super::{Bench, until};

const MARKER: &str = "DROVER_TEST_READS_THE_WIRE";
const ETH_P_ALL: u16 = 3;
/// Longer than any frame, also than one that a card would have to cut into segments.
const LONGEST: usize = 1 << 17;

pub type Frames = Arc<Mutex<Vec<Vec<u8>>>>;

/// Reads all that a host sends and receives, until dropped.
pub struct Capture {
    child: Child,
    frames: Frames,
}

impl Capture {
    /// It reads once this returns. Only frames that `wanted` likes are kept.
    pub fn start(bench: &Bench, host: &str, wanted: impl Fn(&[u8]) -> bool + Send + 'static) -> Capture {
        let mut command = bench.lab.command(host, std::env::current_exe().unwrap());
        command.args(["--exact", "harness::capture::the_wire_can_be_read", "--nocapture"]).env(MARKER, "yes");
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut reader = BufReader::new(child.stderr.take().unwrap());
        assert_eq!(read_frame(&mut reader).as_deref(), Some(&[][..]), "the wire of {host} cannot be read");
        Capture { child, frames: collect(reader, wanted) }
    }

    /// The frames so far.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).clone()
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

/// Keeps the frames that come out of the other process, as long as it lives.
pub fn collect(mut reader: impl Read + Send + 'static, wanted: impl Fn(&[u8]) -> bool + Send + 'static) -> Frames {
    let frames = Frames::default();
    let kept = frames.clone();
    std::thread::spawn(move || {
        while let Some(frame) = read_frame(&mut reader) {
            if wanted(&frame) {
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(frame);
            }
        }
    });
    frames
}

/// Each frame goes through the pipe after its length; an empty one says that the wire is being read.
pub fn read_frame(reader: &mut impl Read) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    reader.read_exact(&mut length).ok()?;
    let length = u32::from_le_bytes(length) as usize;
    assert!(length <= LONGEST, "this is no frame, but a message: the wire cannot be read");
    let mut frame = vec![0; length];
    reader.read_exact(&mut frame).ok()?;
    Some(frame)
}

pub fn write_frame(writer: &mut impl Write, frame: &[u8]) -> std::io::Result<()> {
    writer.write_all(&(frame.len() as u32).to_le_bytes())?;
    writer.write_all(frame)
}

/// The other process of [`Capture`]; run by itself it tests the pipe between the two.
#[test]
fn the_wire_can_be_read() {
    if std::env::var_os(MARKER).is_none() {
        let mut pipe = Vec::new();
        write_frame(&mut pipe, b"").unwrap();
        write_frame(&mut pipe, b"frame").unwrap();
        let mut reader = &pipe[..];
        assert_eq!(read_frame(&mut reader).unwrap(), b"");
        assert_eq!(read_frame(&mut reader).unwrap(), b"frame");
        assert_eq!(read_frame(&mut reader), None);
        return;
    }
    let protocol = NonZeroU32::new(ETH_P_ALL.to_be().into()).map(Protocol::from_raw);
    let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, protocol).unwrap();
    let mut socket = File::from(socket);
    let mut out = std::io::stderr();
    let mut buffer = vec![0; LONGEST];
    let mut length = 0;
    while write_frame(&mut out, &buffer[..length]).is_ok() {
        length = socket.read(&mut buffer).unwrap();
    }
}

pub fn mac_text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

/// An IPv4 packet of this protocol to this address, behind an Ethernet header without a tag.
pub fn is_packet(frame: &[u8], protocol: u8, destination: &str) -> bool {
    let destination: std::net::Ipv4Addr = destination.parse().unwrap();
    frame.len() >= 34 && frame[12..14] == [8, 0] && frame[23] == protocol && frame[30..34] == destination.octets()
}

/// An ARP request or answer in which the sender says that this address is his.
pub fn is_arp_of(frame: &[u8], sender: &str) -> bool {
    let sender: std::net::Ipv4Addr = sender.parse().unwrap();
    frame.len() >= 42 && frame[12..14] == [8, 6] && frame[28..32] == sender.octets()
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
