//! The kernel's recorded answers (tests/data/ipvs/traces.txt), replayed through the pure director on any machine.

mod ipvs;

use ipvs::compare::{self, Difference};
use ipvs::generate;
use ipvs::scenario::{self, Capability, Step};
use ipvs::subject::{Pure, Subject};
use ipvs::trace;

/// Groups of scenarios that need what the director does not do yet. This list only gets shorter.
const NOT_YET: &[&str] = &[];

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
fn the_director_is_asked_everything() {
    assert!(Capability::ALL.into_iter().all(Pure::can));
}

/// The director, but for one fault: it drops what is long.
struct Faulty;

impl Subject for Faulty {
    fn run(&mut self, steps: &[Step]) -> Vec<Vec<String>> {
        let mut answers = Pure.run(steps);
        for (step, answer) in steps.iter().zip(&mut answers) {
            if matches!(step, Step::Packet(packet) if packet.payload > 150) {
                *answer = vec!["drop".into()];
            }
        }
        answers
    }
}

#[test]
fn a_difference_is_found_and_made_short() {
    // Nothing but packets of every state: each that is long goes to a real, or is reset.
    let steps = generate::scenario(1, 400, &|_| false);
    let found = compare::differences(&steps, &Pure.run(&steps), &Faulty.run(&steps), &Pure::can);
    assert!(!found.is_empty());
    for Difference { step, kernel, ours, .. } in &found {
        assert!(step.contains("payload=1") && kernel[0] != "drop" && ours == &["drop"], "{found:?}");
    }
    let short = compare::minimised(&steps, &mut Pure, &mut Faulty, &Pure::can);
    // A service of UDP, its real, and the datagram.
    assert!(matches!(short[..], [Step::Edit(_), Step::Edit(_), Step::Packet(_)]), "{short:?}");
}
