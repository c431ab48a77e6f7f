//! drover's benchmarks: `make bench`, `make bench-quick`, `make bench-check`; perf/README.md tells the method.
//!
//! Run as a test (without cargo's `--bench`) every suite does a little of everything, so that none of them rots.

#![deny(unsafe_code)]

mod bench;
mod connect;
mod decide;
mod flood;
mod forward;
mod measure;
mod pair;
mod report;
mod scale;
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
    ("scale", scale::run),
    ("swap", swap::run),
    ("flood", flood::run),
    ("sweep", sweep::run),
    ("pair", pair::run),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let scale = match (has("--bench"), has("--quick")) {
        (false, _) => Scale::Smoke,
        (true, true) => Scale::Quick,
        (true, false) => Scale::Full,
    };
    // `--suite NAME`, as often as you like; none: all.
    let wanted: Vec<&str> = arguments
        .iter()
        .zip(arguments.iter().skip(1))
        .filter_map(|(option, name)| (option == "--suite").then_some(name.as_str()))
        .collect();
    match run(scale, &wanted) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("perf: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(scale: Scale, wanted: &[&str]) -> Outcome {
    let mut bench = Bench::start(scale)?;
    for (name, suite) in SUITES {
        if wanted.is_empty() || wanted.contains(name) {
            suite(&mut bench).map_err(|error| format!("{name}: {error}"))?;
        }
    }
    if scale > Scale::Smoke {
        let path = results_path();
        bench.report.write(&path)?;
        println!("\n{} rows in {}", bench.report.rows.len(), path.display());
    }
    Ok(())
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn results_path() -> PathBuf {
    root().join("target/bench/results.json")
}
