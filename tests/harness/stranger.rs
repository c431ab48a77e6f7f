//! One more host on the switch, of which the test is the kernel: it sends any bytes, with any MAC, and sees what
//! comes back, with VLAN tags that this kernel may not know.
//!
//! It is a TAP, held by the test's own program, run once more on the switch.

use std::io::{BufReader, BufWriter, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::Arc;

use drover::lab::SWITCH;
use drover::packet::Mac;
use drover::sys::netdev::{Tap, kernel_end_mac, set_up};
use rustix::event::{PollFd, PollFlags, poll};

use super::capture::{Frames, collect, read_frame, write_frame};
use super::{Bench, until};

const MARKER: &str = "DROVER_TEST_IS_A_STRANGER";
const NAME: &str = "stranger";
pub const MAC: Mac = Mac([2, 0, 10, 9, 0, 0x66]);

pub struct Stranger {
    child: Child,
    input: BufWriter<ChildStdin>,
    frames: Frames,
}

impl Stranger {
    pub fn plug(bench: &Bench) -> Stranger {
        let mut command = bench.lab.command(SWITCH, std::env::current_exe().unwrap());
        command.args(["--exact", "harness::stranger::a_stranger_can_be_played", "--nocapture"]).env(MARKER, "yes");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut reader = BufReader::new(child.stderr.take().unwrap());
        assert_eq!(read_frame(&mut reader).as_deref(), Some(&[][..]), "the stranger has no TAP");
        let frames = collect(reader, |_| true);
        bench.sh(SWITCH, &format!("ip link set {NAME} master br0"));
        let input = BufWriter::new(child.stdin.take().unwrap());
        Stranger { child, input, frames }
    }

    pub fn send(&mut self, frame: &[u8]) {
        write_frame(&mut self.input, frame).unwrap();
        self.input.flush().unwrap();
    }

    /// All of them are on the wire when this returns.
    pub fn send_all(&mut self, frames: impl Iterator<Item = Vec<u8>>) {
        let echoes = |frames: &Frames| frames.lock().unwrap().iter().filter(|frame| frame.is_empty()).count();
        let before = echoes(&self.frames);
        frames.for_each(|frame| write_frame(&mut self.input, &frame).unwrap());
        self.send(&[]);
        until("the stranger to have sent all", || match echoes(&self.frames) {
            now if now > before => Ok(()),
            _ => Err("more".into()),
        });
    }

    /// What came so far.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        self.frames.lock().unwrap().clone()
    }

    /// Sends the frame until a frame comes that `wanted` likes: the switch may lose any.
    pub fn ask(&mut self, frame: &[u8], wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        until("an answer to the stranger", || {
            self.send(frame);
            let frames = self.frames.lock().unwrap();
            frames.iter().find(|frame| wanted(frame)).cloned().ok_or_else(|| format!("only {frames:02x?}"))
        })
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The other process of [`Stranger`]; run by itself it is nobody.
#[test]
fn a_stranger_can_be_played() {
    if std::env::var_os(MARKER).is_none() {
        return;
    }
    // A bridge keeps what is for its ports' own MACs: this end's is another one.
    let tap = Arc::new(Tap::create(NAME, kernel_end_mac(MAC), 1500).unwrap());
    set_up(NAME, true).unwrap();
    let reader = tap.clone();
    write_frame(&mut std::io::stderr(), b"").unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        loop {
            poll(&mut [PollFd::new(&reader, PollFlags::IN)], None).unwrap();
            let Ok(length) = reader.read(&mut buffer) else { continue };
            write_frame(&mut std::io::stderr().lock(), &buffer[..length]).unwrap();
        }
    });
    let mut input = BufReader::new(std::io::stdin());
    while let Some(frame) = read_frame(&mut input) {
        if frame.is_empty() {
            write_frame(&mut std::io::stderr().lock(), &frame).unwrap();
        }
        // What no wire would carry, the TAP refuses.
        let _ = tap.write(&frame);
    }
}
