//! `forward`: the real worker over DPDK's ports, beside loops on the same kind of port that do less, and beside
//! `dpdk-testpmd` on the same device with the same packets.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use drover::dpdk::{Mempool, Port, PortQueue};

use crate::bench::{self, Bench, Engine, Outcome, ROOM, Size};
use crate::measure::{CHUNK, Contender, Probe, interleave, probe, timed};
use crate::source::{Control, NET_NULL, NullSource, Order, Source, io_only, mac_write};
use crate::testpmd::{self, Testpmd};
use crate::traffic::{ACK, Mix, SYN, Sequence, Template};

/// Flows in the file that net_pcap repeats.
pub const PCAP_FLOWS: u32 = 4096;
/// The same for ours and for testpmd's.
const PCAP_BUFFERS: u32 = 8191;

pub fn run(bench: &mut Bench) -> Outcome {
    over_net_null(bench)?;
    over_net_pcap(bench)?;
    Ok(())
}

/// A source of packets of established flows over a queue of net_null.
fn source(queue: PortQueue, flows: u32) -> (NullSource, Control) {
    Source::new(queue, Template::tcp(ACK), Order::Mixed(Sequence::new(Mix::Uniform, flows, 3)))
}

/// A worker over net_null with all its flows established, which is about to see them mixed.
pub fn established(
    bench: &Bench,
    queue: PortQueue,
    flows: u32,
) -> Result<(Engine<NullSource>, Control), Box<dyn std::error::Error>> {
    let (queue, control) = source(queue, flows);
    let mut engine = Engine::new(queue, bench.tables(flows)?, bench::snapshot(0))?;
    for flags in [SYN, ACK] {
        control.play(Template::tcp(flags), Order::InTurn { next: 0, flows });
        (0..(flows as usize).div_ceil(CHUNK)).for_each(|_| engine.chunk());
    }
    control.play(Template::tcp(ACK), Order::Mixed(Sequence::new(Mix::Uniform, flows, 3)));
    Ok((engine, control))
}

fn over_net_null(bench: &mut Bench) -> Outcome {
    for size in bench.scale.sizes().iter().filter(|size| size.name != "64M") {
        for mix in Mix::ALL {
            net_null_at(bench, *size, mix)?;
        }
    }
    Ok(())
}

fn net_null_at(bench: &mut Bench, size: Size, mix: Mix) -> Outcome {
    let device = format!("net_null_{}_{mix:?}", size.name);
    let (_port, queues) = bench.port(&device, NET_NULL, 3)?;
    let [io, mac, worker]: [PortQueue; 3] = queues.try_into().map_err(|_| "net_null has three queues")?;
    let ((mut io, io_control), (mut mac, mac_control)) = (source(io, size.flows), source(mac, size.flows));
    let (mut engine, control) = established(bench, worker, size.flows)?;
    control.play(Template::tcp(ACK), Order::Mixed(Sequence::new(mix, size.flows, 3)));
    let pages = engine.backing.to_string();
    let mut contenders = [
        Contender::new(|| io_control.timed(|| io_only(&mut io))),
        Contender::new(|| mac_control.timed(|| mac_write(&mut mac))),
        Contender::new(|| control.timed(|| engine.chunk())),
    ];
    let measured = interleave(bench.hertz, bench.scale.effort(), &mut contenders);
    let [io, mac, forward] = &measured.samples[..] else { unreachable!("three contenders") };
    let case = format!("net_null/{}{}", size.name, mix.suffix());
    let mut section = bench.report.section("forward", pages);
    let probe = measured.probe;
    section.ratio(&case, "cycles_p10", forward.p10(), ("mac_write/net_null", mac.p10()), probe);
    section.ratio(&case, "cycles_p50", forward.p50(), ("mac_write/net_null", mac.p50()), probe);
    section.row(&format!("mac_write/{case}"), "cycles_p10", mac.p10(), probe);
    section.row(&format!("io_only/{case}"), "cycles_p10", io.p10(), probe);
    Ok(())
}

/// The file for net_pcap: datagrams of 4096 clients, 64 bytes each, in an order that is no order.
pub fn write_pcap(path: &Path, flows: u32) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 1] {
        bytes.extend(word.to_le_bytes());
    }
    let template = Template::udp();
    for number in 0..flows {
        // Odd, so that every flow comes up once.
        let frame = template.whole(number.wrapping_mul(2_654_435_761) % flows);
        for word in [0, number, frame.len() as u32, frame.len() as u32] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(frame);
    }
    fs::write(path, bytes)
}

fn pcap_port(bench: &Bench, name: &str, file: &Path) -> Result<(Port, PortQueue, Mempool), Box<dyn std::error::Error>> {
    let pool = Mempool::with_room(&bench.eal, name, PCAP_BUFFERS, ROOM, None)?;
    let arguments = format!("rx_pcap={},infinite_rx=1", file.display());
    let (port, mut queues) = bench.port_on(&format!("net_pcap_{name}"), &arguments, 1, &pool)?;
    let queue = queues.pop().ok_or("net_pcap has a queue")?;
    Ok((port, queue, pool))
}

fn over_net_pcap(bench: &mut Bench) -> Outcome {
    let flows = bench.scale.pick(256, PCAP_FLOWS, PCAP_FLOWS);
    let file = bench.directory.path().join("flows.pcap");
    write_pcap(&file, flows)?;
    let (_io_port, mut io, _io_pool) = pcap_port(bench, "io", &file)?;
    let (_mac_port, mut mac, _mac_pool) = pcap_port(bench, "mac", &file)?;
    let (_port, queue, _pool) = pcap_port(bench, "worker", &file)?;
    let mut engine = Engine::new(queue, bench.tables(PCAP_FLOWS)?, bench::snapshot(0))?;
    engine.chunk();
    let mut contenders = [
        Contender::new(|| timed(|| io_only(&mut io))),
        Contender::new(|| timed(|| mac_write(&mut mac))),
        Contender::new(|| timed(|| engine.chunk())),
    ];
    let measured = interleave(bench.hertz, bench.scale.effort(), &mut contenders);
    drop(contenders);
    let [io, macs, forward] = &measured.samples[..] else { unreachable!("three contenders") };
    let pages = format!("{} (packet buffers: {})", engine.backing, bench.dpdk_pages());
    let mut section = bench.report.section("forward", pages);
    let probe = measured.probe;
    section.ratio("net_pcap/4K", "cycles_p10", forward.p10(), ("mac_write/net_pcap", macs.p10()), probe);
    section.ratio("net_pcap/4K", "cycles_p50", forward.p50(), ("mac_write/net_pcap", macs.p50()), probe);
    section.row("mac_write/net_pcap/4K", "cycles_p10", macs.p10(), probe);
    section.row("io_only/net_pcap/4K", "cycles_p10", io.p10(), probe);
    beside_testpmd(bench, &file, &mut engine, &mut mac)
}

/// Seconds of ours and seconds of testpmd's, in turns; the best second of each counts, because only one of the two can
/// be measured at a time and whatever else runs here only takes away.
fn beside_testpmd(bench: &mut Bench, file: &Path, engine: &mut Engine<PortQueue>, mac: &mut PortQueue) -> Outcome {
    if !testpmd::is_installed() {
        bench.report.note("forward beside testpmd: dpdk-testpmd is not installed (Debian: dpdk-dev)");
        return Ok(());
    }
    let second = bench.scale.pick(Duration::from_millis(50), Duration::from_secs(1), Duration::from_secs(1));
    let (mut ours, mut macs, mut theirs) = (0f64, 0f64, 0f64);
    let before = probe(bench.hertz);
    for _ in 0..bench.scale.pick(1, 2, 6) {
        let device = format!("net_pcap0,rx_pcap={},infinite_rx=1", file.display());
        let testpmd = Testpmd {
            name: "macswap",
            bench,
            core: bench.core,
            vdevs: &[device],
            buffers: PCAP_BUFFERS,
            arguments: &["--forward-mode=macswap", "--port-topology=loop"],
        };
        theirs = theirs.max(testpmd.packets_per_second(bench.scale.pick(1, 2, 2))?);
        for _ in 0..2 {
            ours = ours.max(rate(second, || engine.chunk()));
            macs = macs.max(rate(second, || mac_write(mac)));
        }
    }
    let probe = Probe { before, after: probe(bench.hertz) };
    let pages = format!("{} (packet buffers: {})", engine.backing, bench.dpdk_pages());
    let mut section = bench.report.section("forward", pages);
    let against = ("testpmd_macswap/net_pcap", theirs);
    section.ratio("net_pcap/4K", "packets_per_second", ours, against, probe);
    section.ratio("mac_write/net_pcap/4K", "packets_per_second", macs, against, probe);
    section.row("testpmd_macswap/net_pcap/4K", "packets_per_second", theirs, probe);
    Ok(())
}

/// Packets a second, over about this long.
fn rate(time: Duration, mut chunk: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut packets = 0u64;
    while start.elapsed() < time {
        chunk();
        packets += CHUNK as u64;
    }
    packets as f64 / start.elapsed().as_secs_f64()
}
