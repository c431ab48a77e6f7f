//! `flood`: ten times the table's capacity of spoofed SYNs, and what becomes of 10,000 connections meanwhile.

use crate::bench::{self, Bench, Outcome};
use crate::decide::Stage;
use crate::measure::{CHUNK, Probe, Samples, probe, timed};
use crate::traffic::{ACK, SYN, Template};

const ESTABLISHED: u32 = 10_000;
/// Spoofed packets a second: a full gigabit of them.
const RATE: f64 = 1.5e6;

/// The destination address of a forwarded frame: which real got it.
fn reals_of(stage: &Stage, count: usize) -> impl Iterator<Item = [u8; 6]> + '_ {
    stage.frames().take(count).map(|frame| frame.first_chunk().copied().unwrap_or_default())
}

/// One packet of every established flow; none: it was not forwarded.
fn ask_each(stage: &mut Stage, flags: u8, established: u32) -> Vec<Option<[u8; 6]>> {
    let template = Template::tcp(flags);
    let mut reals = Vec::new();
    for first in (0..established).step_by(CHUNK) {
        let count = CHUNK.min((established - first) as usize);
        let mut flow = first..;
        stage.prepare(&template, || flow.next().unwrap_or(first));
        let before = stage.clock.now();
        stage.decide(count);
        debug_assert!(before == stage.clock.now());
        let unchanged = crate::traffic::STATION.0;
        reals.extend(reals_of(stage, count).map(|real| (real != unchanged).then_some(real)));
    }
    reals
}

pub fn run(bench: &mut Bench) -> Outcome {
    let established = bench.scale.pick(500, ESTABLISHED, ESTABLISHED);
    let slots: u32 = bench.scale.pick(1 << 12, 1 << 16, 1 << 20);
    let capacity = slots / 4 * 3;
    // As the configuration has it unless it is told otherwise.
    let half_open = capacity as usize / 4;
    let mut stage = Stage::new(bench, bench::snapshot(0), bench.tables(capacity)?, half_open)?;
    let pages = stage.director.flows().backing().to_string();
    ask_each(&mut stage, SYN, established);
    let before = ask_each(&mut stage, ACK, established);
    assert!(before.iter().all(Option::is_some), "all are established");
    let (start, mut cycles, mut forwarded) = (probe(bench.hertz), Vec::new(), 0usize);
    let template = Template::tcp(SYN);
    let chunks = (slots as usize * 10).div_ceil(CHUNK);
    for chunk in 0..chunks {
        let mut flow = established + (chunk * CHUNK) as u32..;
        stage.prepare(&template, || flow.next().unwrap_or(established));
        cycles.push(timed(|| forwarded += stage.decide(CHUNK)) as f64 / CHUNK as f64);
        stage.clock.pass_seconds(CHUNK as f64 / RATE);
    }
    let after = ask_each(&mut stage, ACK, established);
    let kept = before.iter().zip(&after).filter(|(before, after)| before == after).count();
    let probe = Probe { before: start, after: probe(bench.hertz) };
    let samples = Samples::new(cycles);
    let case = "10-capacities";
    let mut section = bench.report.section("flood", pages);
    section.ratio(case, "established_kept", kept as f64, ("established", f64::from(established)), probe);
    section.row(case, "spoofed_packets", (chunks * CHUNK) as f64, probe);
    section.row(case, "spoofed_forwarded", forwarded as f64, probe);
    // By the hash alone, and without a place in the table.
    section.row(case, "spoofed_stateless", stage.ledger.frames.stateless.get() as f64, probe);
    section.row(case, "spoofed_cycles_p10", samples.p10(), probe);
    section.row(case, "spoofed_cycles_p50", samples.p50(), probe);
    Ok(())
}
