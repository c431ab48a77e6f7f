//! What the kernel does with one packet (tests/data/ipvs/behaviour.txt), case by case through the pure director.

mod ipvs;

use std::collections::BTreeSet;

use ipvs::compare;
use ipvs::scenario::{self, Capability};
use ipvs::subject::{Pure, Subject};
use ipvs::trace::{self, Trace};

/// Cases in which the director does not answer as the kernel does, yet. This list only gets shorter: a case that begins
/// to pass has to leave it.
const NOT_YET: &[&str] = &[
    "a mark wins over an exact service, and its connections go silent with it",
    "a packet whose time to live is used up has its connection and is counted",
    "a removed real, expire_nodest_conn: reset, and a new SYN goes elsewhere",
    "a template of a removed real is put aside for ever, its connections are not",
    "a weight of zero and persistence, with and without expire_quiescent_template",
    "an exact service after a port 0 service",
    "expire_nodest_conn: UDP moves at once, a SYN leaves a real of weight zero",
    "ping of the virtual address",
    "port 0 beside an exact service",
];

#[test]
fn one_packet_at_a_time() {
    let cases = trace::parse(include_str!("data/ipvs/behaviour.txt"));
    assert!(cases.len() >= 25, "{} cases", cases.len());
    let (mut fails, mut why) = (BTreeSet::new(), Vec::new());
    for case in &cases {
        if let Err(reason) = passes(case) {
            fails.insert(case.name.as_str());
            why.push(format!("{}: {reason}", case.name));
        }
    }
    let known: BTreeSet<&str> = NOT_YET.iter().copied().collect();
    assert_eq!(fails, known, "left: what fails; right: what is known to\n{}", why.join("\n"));
}

fn passes(case: &Trace) -> Result<(), String> {
    // Nothing is lowered here: the whole answer is wanted.
    let missing: Vec<Capability> =
        scenario::needs(&case.steps).into_iter().filter(|need| !Pure::can(*need) && !is_judged(*need)).collect();
    if !missing.is_empty() {
        return Err(format!("needs {missing:?}"));
    }
    let ours = Pure.run(&case.steps);
    let differences = compare::differences(&case.steps, &case.answers, &ours, &|_| true);
    differences.first().map_or(Ok(()), |difference| Err(format!("{difference:?}")))
}

/// Such packets can be sent in any case; whether the answer is right is seen.
fn is_judged(need: Capability) -> bool {
    use Capability::*;
    matches!(need, Echo | ErrorsIn | Reuse | UsedUp)
}
