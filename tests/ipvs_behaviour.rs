//! What the kernel does with one packet (tests/data/ipvs/behaviour.txt), case by case through the pure director.

mod ipvs;

use ipvs::compare;
use ipvs::scenario::{self, Capability};
use ipvs::subject::{Pure, Subject};
use ipvs::trace::{self, Trace};

#[test]
fn one_packet_at_a_time() {
    let cases = trace::parse(include_str!("data/ipvs/behaviour.txt"));
    assert!(cases.len() >= 25, "{} cases", cases.len());
    let fails = |case: &Trace| passes(case).err().map(|reason| format!("{}: {reason}", case.name));
    let fails: Vec<String> = cases.iter().filter_map(fails).collect();
    assert!(fails.is_empty(), "{}", fails.join("\n"));
}

fn passes(case: &Trace) -> Result<(), String> {
    // Nothing is lowered here: the whole answer is wanted.
    let missing: Vec<Capability> =
        scenario::needs(&case.steps).into_iter().filter(|need| !Pure::can(*need) && !is_judged(*need)).collect();
    if !missing.is_empty() {
        return Err(format!("needs {missing:?}"));
    }
    let ours = Pure.run(&case.steps);
    let wanted: Vec<Vec<String>> = case.answers.iter().map(|answer| uncut(answer)).collect();
    let differences = compare::differences(&case.steps, &wanted, &ours, &|_| true);
    differences.first().map_or(Ok(()), |difference| Err(format!("{difference:?}")))
}

/// What the kernel cuts, the director drops (docs/ipvs-differences.md). All else about it is the same.
fn uncut(answer: &[String]) -> Vec<String> {
    let lower = |line: &String| if line.contains(" piece ") { "drop".to_owned() } else { line.clone() };
    answer.iter().map(lower).collect()
}

/// Such packets can be sent in any case; whether the answer is right is seen.
fn is_judged(need: Capability) -> bool {
    use Capability::*;
    matches!(need, Echo | ErrorsIn | Reuse | UsedUp)
}
