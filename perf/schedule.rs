//! `schedule`: what a new connection costs, by scheduler, with few reals and with many: the SYN's whole decision, with
//! the schedule and the entry into the table.

use std::time::Duration;

use crate::bench::{Bench, Outcome, Scale, snapshot_of};
use crate::decide::Stage;
use crate::measure::{CHUNK, Contender, Effort, interleave, timed};
use crate::traffic::{SYN, Template};

const SCHEDULERS: [&str; 15] =
    ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "twos", "maglev"];
const REALS: [usize; 2] = [10, 1_000];
/// Room for some chunks: it never gets full, because every chunk's connections are over before the next.
const FLOWS: u32 = 3 << 14;
/// Longer than a SYN is waited for.
const OVER: Duration = Duration::from_secs(61);

pub fn run(bench: &mut Bench) -> Outcome {
    if bench.scale == Scale::Quick {
        // It has no ratios to check, and takes most of the minute.
        return Ok(());
    }
    let effort = Effort { turns: bench.scale.pick(1, 3, 12), chunks: bench.scale.pick(1, 2, 4) };
    for reals in bench.scale.pick(&REALS[..1], &REALS, &REALS) {
        for scheduler in SCHEDULERS {
            one(bench, effort, scheduler, *reals)?;
        }
    }
    Ok(())
}

fn one(bench: &mut Bench, effort: Effort, scheduler: &str, reals: usize) -> Outcome {
    let mut stage = Stage::new(bench, snapshot_of(scheduler, reals), bench.tables(FLOWS)?, usize::MAX)?;
    let template = Template::tcp(SYN);
    let mut next = 0u32;
    let mut chunk = || {
        stage.prepare(&template, || {
            next = next.wrapping_add(1);
            next
        });
        let mut sent = 0;
        let cycles = timed(|| sent = stage.decide(CHUNK));
        assert_eq!(sent, CHUNK, "every connection has a real");
        stage.forget(OVER);
        cycles
    };
    let measured = interleave(bench.hertz, effort, &mut [Contender::new(&mut chunk)]);
    let samples = &measured.samples[0];
    let case = format!("{scheduler}/{reals}-reals");
    let mut section = bench.report.section("schedule", &stage.pages);
    section.row(&case, "cycles_p10", samples.p10(), measured.probe);
    section.row(&case, "cycles_p50", samples.p50(), measured.probe);
    Ok(())
}
