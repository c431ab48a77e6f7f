//! The part of perf/README.md that is measured: between its two marks, written anew by every full run.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

use crate::bench::Bench;
use crate::report::{Row, in_digits};

const BEGIN: &str = "<!-- measured: begin -->";
const END: &str = "<!-- measured: end -->";

/// What the project set out to reach, and where the number is found.
struct Goal {
    what: &'static str,
    reach: &'static str,
    row: (&'static str, &'static str, &'static str),
    /// The ratio counts, not the value.
    ratio: bool,
    good: fn(f64) -> bool,
}

const fn goal(
    what: &'static str,
    reach: &'static str,
    row: (&'static str, &'static str, &'static str),
    ratio: bool,
    good: fn(f64) -> bool,
) -> Goal {
    Goal { what, reach, row, ratio, good }
}

const GOALS: &[Goal] = &[
    goal("decide, DR IPv4, 1 K flows, cycles p10", "≤ 45", ("decide", "dr4/1K", "cycles_p10"), false, |v| v <= 45.0),
    goal("decide, DR IPv4, 1 M flows, cycles p10", "≤ 80", ("decide", "dr4/1M", "cycles_p10"), false, |v| v <= 80.0),
    goal("decide, DR IPv4, 10 M flows, cycles p10", "≤ 100", ("decide", "dr4/10M", "cycles_p10"), false, |v| {
        v <= 100.0
    }),
    goal("decide, DR IPv4, 64 M flows, cycles p10", "≤ 190", ("decide", "dr4/64M", "cycles_p10"), false, |v| {
        v <= 190.0
    }),
    goal("forward ÷ MAC write on net_null, 1 K", "≤ 2.2", ("forward", "net_null/1K", "cycles_p10"), true, |v| {
        v <= 2.2
    }),
    goal("forward ÷ MAC write on net_null, 1 M", "≤ 3.0", ("forward", "net_null/1M", "cycles_p10"), true, |v| {
        v <= 3.0
    }),
    goal("forward ÷ MAC write on net_null, 10 M", "≤ 3.5", ("forward", "net_null/10M", "cycles_p10"), true, |v| {
        v <= 3.5
    }),
    goal(
        "forward ÷ testpmd macswap on net_pcap, packets a second",
        "≥ 0.65",
        ("forward", "net_pcap/4K", "packets_per_second"),
        true,
        |v| v >= 0.65,
    ),
    goal(
        "one core, 10 M flows, I/O included, cycles",
        "≤ 168",
        ("forward", "net_null/10M", "cycles_p10"),
        false,
        |v| v <= 168.0,
    ),
    goal("table hit ÷ rte_hash bulk hit, 1 M", "≤ 0.5", ("table", "1M", "hit_cycles_p10"), true, |v| v <= 0.5),
    goal("table hit ÷ rte_hash bulk hit, 10 M", "≤ 0.5", ("table", "10M", "hit_cycles_p10"), true, |v| v <= 0.5),
    goal("table insert at load 0.75, 1 M, cycles", "≤ 250", ("table", "1M", "insert_cycles_p10"), false, |v| {
        v <= 250.0
    }),
    goal("table insert at load 0.75, 10 M, cycles", "≤ 250", ("table", "10M", "insert_cycles_p10"), false, |v| {
        v <= 250.0
    }),
    goal("bytes an IPv4 connection at load 0.75", "≤ 22", ("table", "10M", "bytes_per_connection"), false, |v| {
        v <= 22.0
    }),
    goal(
        "new connections a second, complete life, one core",
        "≥ 2.5 M",
        ("connect", "dr4/life", "connections_per_second"),
        false,
        |v| v >= 2.5e6,
    ),
    goal("2 workers ÷ 1 worker", "≥ 1.9", ("scale", "2-workers", "packets_per_second"), true, |v| v >= 1.9),
    goal(
        "1,000 swaps a second ÷ none, packets a second",
        "≥ 0.98",
        ("swap", "1000/s", "packets_per_second"),
        true,
        |v| v >= 0.98,
    ),
    goal(
        "flood of 10 × capacity: established flows kept",
        "all",
        ("flood", "10-capacities", "established_kept"),
        true,
        |v| v == 1.0,
    ),
    goal("decide, IPv6 ÷ IPv4, 1 M flows", "≤ 1.5", ("decide", "dr6/1M/beside-dr4", "cycles_p10"), true, |v| {
        v <= 1.5
    }),
];

/// What the README says about the numbers to reach.
pub fn goals(rows: &[Row]) -> String {
    let mut text = String::from("| what | reach | measured | |\n|---|---|---|---|\n");
    for goal in GOALS {
        let value = rows.iter().find(|row| row.key() == goal.row).and_then(|row| match goal.ratio {
            true => row.ratio,
            false => Some(row.value),
        });
        let (measured, verdict) = match value {
            Some(value) => (in_digits(value), if (goal.good)(value) { "reached" } else { "not reached" }),
            None => ("not measured".to_owned(), ""),
        };
        let _ = writeln!(text, "| {} | {} | {measured} | {verdict} |", goal.what, goal.reach);
    }
    text
}

pub fn update(path: &Path, bench: &Bench, plots: &[String]) -> io::Result<()> {
    let old = fs::read_to_string(path)?;
    let (Some(begin), Some(end)) = (old.find(BEGIN), old.find(END)) else {
        return Err(io::Error::other(format!("{} has lost its marks", path.display())));
    };
    let text = format!("{}{BEGIN}\n\n{}{}", &old[..begin], measured(bench, plots), &old[end..]);
    fs::write(path, text)
}

fn measured(bench: &Bench, plots: &[String]) -> String {
    let rows = &bench.report.rows;
    let mut text = format!("Machine: {}.\n\n{}\n", machine(bench), goals(rows));
    for plot in plots {
        let _ = writeln!(text, "![{plot}](plots/{plot})\n");
    }
    for note in &bench.report.notes {
        let _ = writeln!(text, "Not measured: {note}.\n");
    }
    text += "Every row, as in `target/bench/results.json` (probe: rounds of a spin loop, thousands a millisecond; `!`: the \
             probes before and after disagree):\n\n";
    text += "| suite | case | metric | value | ratio | against | probe | pages |\n|---|---|---|---|---|---|---|---|\n";
    for row in rows {
        let ratio = row.ratio.map(|ratio| format!("{ratio:.3}")).unwrap_or_default();
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {ratio} | {} | {}{} | {} |",
            row.suite,
            row.case,
            row.metric,
            in_digits(row.value),
            row.against.as_deref().unwrap_or_default(),
            row.probe,
            if row.quiet { "" } else { "!" },
            row.pages
        );
    }
    text + "\n"
}

/// What the kernel tells about the processor, and what EAL measured.
pub fn machine(bench: &Bench) -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpu.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let model = field("model name").unwrap_or_else(|| "an unknown processor".to_owned());
    let (family, number) = (field("cpu family").unwrap_or_default(), field("model\t").unwrap_or_default());
    format!(
        "{model} (family {family}, model {number}), {} cores, time stamp counter {:.2} GHz, {}, {}",
        bench.cores.len(),
        bench.hertz as f64 / 1e9,
        drover::dpdk::version(),
        probe_speeds(&bench.report.rows)
    )
}

fn probe_speeds(rows: &[Row]) -> String {
    let speeds = rows.iter().map(|row| row.probe);
    let (least, most) = speeds.fold((f64::INFINITY, 0f64), |(least, most), speed| (least.min(speed), most.max(speed)));
    format!("spin probe between {least} and {most}")
}
