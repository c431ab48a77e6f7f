//! The kernel's recorded answers (tests/data/ipvs/traces.txt), replayed through the pure director on any machine.

mod ipvs;

use ipvs::compare;
use ipvs::scenario::{self, Capability};
use ipvs::subject::{Pure, Subject};
use ipvs::trace;

/// Groups of scenarios that need what the director does not do yet. This list only gets shorter.
const NOT_YET: &[&str] = &[
    "edits",
    "everything",
    "listings",
    "marks",
    "one packet",
    "persistence",
    "reuse",
    "schedulers",
    "thresholds",
    "timeouts",
];

#[test]
fn the_director_answers_as_the_kernel_did() {
    let traces = trace::parse(include_str!("data/ipvs/traces.txt"));
    let (mut not_yet, mut steps, mut found) = (Vec::new(), 0, Vec::new());
    for trace in &traces {
        let group = trace.name.split(',').next().unwrap_or_default();
        if !scenario::needs(&trace.steps).into_iter().all(Pure::can) {
            not_yet.push(group);
            continue;
        }
        let ours = Pure.run(&trace.steps);
        steps += ours.len();
        for difference in compare::differences(&trace.steps, &trace.answers, &ours, &Pure::can) {
            found.push(format!("{}: {difference:?}", trace.name));
        }
    }
    not_yet.sort();
    not_yet.dedup();
    assert!(found.is_empty(), "{} differences\n{}", found.len(), found.join("\n"));
    assert_eq!(not_yet, NOT_YET, "what is not replayed yet, by name");
    assert!(steps >= 400, "only {steps} steps were replayed");
}

#[test]
fn the_document_names_what_is_not_asked_yet() {
    let document = include_str!("../docs/ipvs-differences.md");
    let section = document.split("## Not yet").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap_or_default();
    let named: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("- `")?.split('`').next()).collect();
    let cannot = Capability::ALL.into_iter().filter(|capability| !Pure::can(*capability));
    let cannot: Vec<String> = cannot.map(|capability| format!("{capability:?}")).collect();
    assert_eq!(named, cannot);
}
