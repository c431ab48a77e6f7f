//! Every packet that the TRex profile in perf/trex describes is forwarded. `perf/trex/check.py` has built them, without
//! TRex: some of each stream are in tests/data, and `DROVER_TREX_PCAP` names a file with more of them.

mod common;

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::PathBuf;

use drover::clock::Now;
use drover::packet::{BURST, Burst};
use drover::sim::SimFrame;
use drover::verdict::Verdict;

/// A pcap file's frames, one after the other. The file is in the byte order of x86.
struct Pcap(BufReader<File>);

impl Pcap {
    fn open(path: &PathBuf) -> Pcap {
        let mut file = BufReader::new(File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
        let mut header = [0; 24];
        file.read_exact(&mut header).unwrap();
        assert_eq!(header[..4], 0xa1b2_c3d4u32.to_le_bytes(), "{} is no pcap file", path.display());
        Pcap(file)
    }
}

impl Iterator for Pcap {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut header = [0; 16];
        self.0.read_exact(&mut header).ok()?;
        let length = u32::from_le_bytes(*header[8..].first_chunk().unwrap());
        let mut frame = vec![0; length as usize];
        self.0.read_exact(&mut frame).expect("the file is whole");
        Some(frame)
    }
}

#[test]
fn every_packet_of_the_profile_is_forwarded() {
    let fixture = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/trex.pcap");
    let path = std::env::var_os("DROVER_TREX_PCAP").map_or(fixture, PathBuf::from);
    let snapshot = common::snapshot();
    let (mut director, ledger) = common::director(&snapshot, 2_000_000);
    let mut frames = Pcap::open(&path).map(SimFrame).peekable();
    let mut forwarded = 0;
    let mut lengths = std::collections::BTreeSet::new();
    while frames.peek().is_some() {
        let mut burst: Burst<SimFrame> = frames.by_ref().take(BURST).collect();
        let verdicts = director.decide(Now::from_secs(1000), &snapshot.stations[0], &snapshot, &mut burst);
        for (frame, verdict) in burst.iter().zip(&verdicts) {
            assert_eq!(*verdict, Verdict::Forward { port: 0 }, "packet {forwarded}: {:02x?}", frame.0);
            lengths.insert(frame.0.len());
            forwarded += 1;
        }
    }
    // 64 bytes and IMIX without the checksum, and the latency stream.
    assert_eq!(Vec::from_iter(lengths), [60, 64, 590, 1514]);
    assert!(forwarded >= 60 && ledger.frames.stateless.get() == 0, "{forwarded} packets, all of them remembered");
}
