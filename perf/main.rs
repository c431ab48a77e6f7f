//! drover's benchmarks: `make bench`, `make bench-quick`, `make bench-check`; perf/README.md tells the method.
//!
//! Run as a test (without cargo's `--bench`) every suite does a little of everything, so that none of them rots.

#![deny(unsafe_code)]

mod baseline;
mod bench;
mod connect;
mod decide;
mod flood;
mod forward;
mod measure;
mod pair;
mod plot;
mod readme;
mod report;
mod scale;
mod schedule;
mod source;
mod swap;
mod sweep;
mod table;
mod testpmd;
mod traffic;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bench::{Bench, Outcome, Scale};

type Suite = fn(&mut Bench) -> Outcome;

const SUITES: &[(&str, Suite)] = &[
    ("table", table::run),
    ("decide", decide::run),
    ("forward", forward::run),
    ("connect", connect::run),
    ("schedule", schedule::run),
    ("scale", scale::run),
    ("swap", swap::run),
    ("flood", flood::run),
    ("sweep", sweep::run),
    ("pair", pair::run),
];

/// What is asked for behind `cargo bench --bench perf --`.
struct Wishes {
    scale: Scale,
    /// `--suite NAME`, as often as you like; none: all.
    suites: Vec<String>,
    /// `--check`: against the baseline.
    check: bool,
    /// `--write-baseline`.
    write_baseline: bool,
    /// `--profile`: what `perf/profile` runs; with `--quick` with few flows.
    profile: bool,
}

impl Wishes {
    fn read(arguments: &[String]) -> Wishes {
        let has = |name: &str| arguments.iter().any(|argument| argument == name);
        let scale = match (has("--bench"), has("--quick") || has("--check")) {
            (false, _) => Scale::Smoke,
            (true, true) => Scale::Quick,
            (true, false) => Scale::Full,
        };
        let pairs = arguments.iter().zip(arguments.iter().skip(1));
        let suites = pairs.filter(|(option, _)| *option == "--suite").map(|(_, name)| name.clone()).collect();
        Wishes {
            scale,
            suites,
            check: has("--check"),
            write_baseline: has("--write-baseline"),
            profile: has("--profile"),
        }
    }

    fn wants(&self, suite: &str) -> bool {
        self.suites.is_empty() || self.suites.iter().any(|wanted| wanted == suite)
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&Wishes::read(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("perf: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(wishes: &Wishes) -> Outcome {
    if let Some(unknown) = wishes.suites.iter().find(|wanted| SUITES.iter().all(|(name, _)| name != wanted)) {
        return Err(format!("there is no suite \"{unknown}\"").into());
    }
    let mut bench = Bench::start(wishes.scale)?;
    if wishes.profile || wishes.scale == Scale::Smoke {
        decide::for_a_profile(&bench)?;
    }
    if wishes.profile {
        return Ok(());
    }
    for (name, suite) in SUITES {
        if wishes.wants(name) {
            suite(&mut bench).map_err(|error| format!("{name}: {error}"))?;
        }
    }
    if wishes.scale == Scale::Smoke {
        return try_out(&bench);
    }
    publish(&bench, wishes)
}

/// Leaves the numbers where they are looked for.
fn publish(bench: &Bench, wishes: &Wishes) -> Outcome {
    let rows = &bench.report.rows;
    let results = root().join("target/bench/results.json");
    bench.report.write(&results)?;
    println!("\n{}\n{} rows in {}", readme::machine(bench), rows.len(), results.display());
    if wishes.suites.is_empty() && !wishes.check {
        let plots = plot::draw(rows, &root().join("perf/plots"))?;
        println!("{} plots in perf/plots\n\n{}", plots.len(), readme::goals(rows));
        if wishes.scale == Scale::Full {
            readme::update(&root().join("perf/README.md"), bench, &plots)?;
        }
    }
    if wishes.write_baseline {
        baseline::write(&baseline_path(), rows)?;
    }
    if wishes.check { check(wishes, rows) } else { Ok(()) }
}

fn check(wishes: &Wishes, rows: &[report::Row]) -> Outcome {
    let lines = baseline::read(&baseline_path())?;
    let lines: Vec<_> = lines.into_iter().filter(|line| wishes.wants(&line.suite)).collect();
    let complaints = baseline::complaints(&lines, rows);
    if complaints.is_empty() {
        println!("{} ratios are as good as those of the baseline", lines.len());
        return Ok(());
    }
    Err(format!("worse than the baseline:\n  {}", complaints.join("\n  ")).into())
}

/// What only a full run would use otherwise.
fn try_out(bench: &Bench) -> Outcome {
    baseline::try_out();
    if testpmd::is_installed() {
        testpmd::try_out_scripts()?;
    }
    let directory = bench.directory.path().join("plots");
    let plots = plot::draw(&bench.report.rows, &directory)?;
    if bench.report.rows.iter().any(|row| row.suite == "decide") && plots.is_empty() {
        return Err("nothing was drawn".into());
    }
    let page = bench.directory.path().join("README.md");
    std::fs::copy(root().join("perf/README.md"), &page)?;
    readme::update(&page, bench, &plots)?;
    bench.report.write(&directory.join("results.json"))?;
    println!("\nall suites run: {} rows", bench.report.rows.len());
    Ok(())
}

fn baseline_path() -> PathBuf {
    root().join("perf/baseline.json")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
