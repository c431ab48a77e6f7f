//! The kernel beside the director, on the same seeded scenarios. `make conformance` runs many; the test by itself a few.
//!
//! SEEDS=n STEPS=n [FIRST=n]: so many seeds, so many steps each; SEED=n: this one, every step printed. ASK=file: what
//! the kernel says to a scenario written by hand. RECORD=1: writes what is replayed without the kernel.

mod ipvs;

use std::path::Path;
use std::time::Instant;

use ipvs::compare::{self, Difference};
use ipvs::generate;
use ipvs::kernel::Kernel;
use ipvs::scenario::{self, Capability, Step};
use ipvs::subject::{Pure, Subject};
use ipvs::trace::{self, Trace};

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

fn all(_: Capability) -> bool {
    true
}

#[test]
fn the_director_decides_as_the_kernel_does() {
    let steps = number("STEPS").unwrap_or(300) as usize;
    let seeds: Vec<u64> = match number("SEED") {
        Some(seed) => vec![seed],
        None => {
            let first = number("FIRST").unwrap_or(1);
            (first..first + number("SEEDS").unwrap_or(20)).collect()
        }
    };
    let began = Instant::now();
    let mut kernel = Kernel::boot();
    println!("the kernel has booted after {:.1?}", began.elapsed());
    let (mut total, mut found) = (0, Vec::new());
    for seed in &seeds {
        let scenario = generate::scenario(*seed, steps, &Pure::can);
        let answers = kernel.run(&scenario);
        let ours = Pure.run(&scenario);
        if number("SEED").is_some() {
            let name = format!("seed {seed}, {steps} steps");
            print!("{}", Trace { name, steps: scenario.clone(), answers: answers.clone() }.text());
        }
        total += scenario.len();
        let differences = compare::differences(&scenario, &answers, &ours, &Pure::can);
        differences.iter().for_each(|difference| report(*seed, steps, difference));
        if !differences.is_empty() {
            found.push((*seed, scenario, differences.len()));
        }
    }
    let count: usize = found.iter().map(|(.., count)| count).sum();
    println!("{} seeds, {total} steps, {count} differences, {:.1?}", seeds.len(), began.elapsed());
    if let Some((seed, scenario, _)) = found.first() {
        shortest(*seed, scenario, &mut kernel);
        panic!("{count} differences; replay: make conformance SEED={seed} STEPS={steps}");
    }
}

fn report(seed: u64, steps: usize, difference: &Difference) {
    let Difference { at, step, .. } = difference;
    let (kernel, ours) = difference.lines();
    println!("seed {seed} of {steps} steps, step {at}: {step}\n  kernel {kernel:?}\n  ours   {ours:?}");
}

fn shortest(seed: u64, scenario: &[Step], kernel: &mut Kernel) {
    let steps = compare::minimised(scenario, kernel, &mut Pure, &Pure::can);
    let answers = kernel.run(&steps);
    println!("the shortest that differs, {} steps; the kernel's answers:", steps.len());
    print!("{}", Trace { name: format!("from seed {seed}"), answers: answers.clone(), steps: steps.clone() }.text());
    let ours = Pure.run(&steps);
    compare::differences(&steps, &answers, &ours, &Pure::can)
        .iter()
        .for_each(|difference| report(seed, steps.len(), difference));
}

/// ASK=file: the kernel's answers to scenarios written by hand (the form of tests/data/ipvs/behaviour.txt).
#[test]
#[ignore = "answers a question, judges nothing"]
fn the_kernel_is_asked() {
    let file = std::env::var("ASK").expect("ASK=file");
    let asked = trace::parse(&std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}")));
    let mut kernel = Kernel::boot();
    for Trace { name, steps, .. } in asked {
        println!("{}", Trace { name, answers: kernel.run(&steps), steps }.text());
    }
}

/// What is kept under tests/data/ipvs is what the kernel says. RECORD=1 writes it anew; else some of it is compared.
#[test]
fn the_recordings_are_the_kernel_s() {
    let mut kernel = Kernel::boot();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ipvs");
    for (name, sample) in [("behaviour.txt", 2), ("answers.txt", 2), ("traces.txt", 8)] {
        let path = directory.join(name);
        let before = std::fs::read_to_string(&path).unwrap();
        let known = trace::parse(&before);
        if number("RECORD").is_none() {
            for Trace { name, steps, answers } in known.iter().step_by(sample) {
                let differences = compare::differences(steps, &kernel.run(steps), answers, &all);
                assert!(differences.is_empty(), "{name}: the kernel says now, or as kept: {differences:?}");
            }
            continue;
        }
        let steps = match name {
            "traces.txt" => recorded_scenarios(),
            _ => known.into_iter().map(|trace| (trace.name, trace.steps)).collect(),
        };
        let heading = before.lines().take_while(|line| line.starts_with("# ")).map(|line| format!("{line}\n"));
        let traces = steps.into_iter().map(|(name, steps)| Trace { name, answers: kernel.run(&steps), steps });
        let now: String = heading.chain(traces.map(|trace| format!("\n{}", trace.text()))).collect();
        std::fs::write(&path, now).unwrap();
    }
}

/// Some of each kind.
fn recorded_scenarios() -> Vec<(String, Vec<Step>)> {
    use Capability::*;
    let kinds: [(&str, &[Capability], usize, usize); 11] = [
        ("plain", &[], 4, 120),
        ("reuse", &[Reuse, UsedUp], 3, 120),
        ("schedulers", &[Schedulers], 12, 80),
        ("edits", &[Edits, Reuse, Sysctls], 4, 120),
        ("persistence", &[Persistence, AnyPort, Edits, Sysctls, Reuse], 5, 120),
        ("one packet", &[OnePacket], 2, 60),
        ("thresholds", &[Thresholds, Edits, Reuse], 4, 120),
        ("marks", &[Marks, Schedulers], 3, 80),
        ("timeouts", &[Timeouts, Edits], 2, 80),
        ("listings", &[Listings, Edits, Schedulers, Reuse], 5, 80),
        ("everything", &Capability::ALL, 10, 150),
    ];
    let mut scenarios = Vec::new();
    for (at, (name, can, count, steps)) in kinds.into_iter().enumerate() {
        let made = ((at as u64 + 1) * 100..)
            .map(|seed| (seed, generate::scenario(seed, steps, &|capability| can.contains(&capability))))
            // What a kind is named for is the first that it can: only scenarios that have it.
            .filter(|(_, made)| can.first().is_none_or(|first| scenario::needs(made).contains(first)))
            .take(count);
        scenarios.extend(made.map(|(seed, made)| (format!("{name}, seed {seed}"), made)));
    }
    scenarios
}

/// The kernel answers the same steps twice with the same lines: what it is asked depends on nothing else. Every kind of
/// step is in it, also those that the director is not asked yet.
#[test]
fn the_kernel_says_the_same_twice() {
    let mut kernel = Kernel::boot();
    let (mut forwarded, mut other) = (0, 0);
    for seed in 1..=2 {
        let steps = generate::scenario(seed, 300, &all);
        let first = kernel.run(&steps);
        let text = Trace { name: seed.to_string(), steps: steps.clone(), answers: first.clone() }.text();
        assert_eq!(trace::parse(&text)[0].steps, steps, "every step can be written and read");
        assert_eq!(trace::parse(&text)[0].answers, first);
        let again = kernel.run(&steps);
        for ((step, first), again) in steps.iter().zip(&first).zip(&again) {
            assert_eq!(first, again, "seed {seed}: {step}");
        }
        forwarded += first.iter().flatten().filter(|line| line.starts_with("real ")).count();
        other += first.iter().flatten().filter(|line| !line.starts_with("real ")).count();
    }
    assert!(forwarded > 100 && other > 50, "{forwarded} forwarded, {other} otherwise");
}
