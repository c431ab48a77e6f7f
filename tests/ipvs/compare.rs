//! Two answers to one scenario, their differences, and the shortest scenario that still shows one.

use super::scenario::{Capability, Step};
use super::subject::Subject;

#[derive(Clone, Debug)]
pub struct Difference {
    pub at: usize,
    pub step: String,
    pub kernel: Vec<String>,
    pub ours: Vec<String>,
}

/// An answer as far as the subject has to give it yet: who sends nothing of its own drops in silence.
pub fn lowered(answer: &[String], can: &dyn Fn(Capability) -> bool) -> Vec<String> {
    let lower = |line: &String| {
        let silent = line.starts_with("tcp ") && !can(Capability::Resets)
            || line.starts_with("icmp ") && !can(Capability::ErrorsOut);
        if silent { "drop".to_owned() } else { line.clone() }
    };
    answer.iter().map(lower).collect()
}

pub fn differences(
    steps: &[Step],
    kernel: &[Vec<String>],
    ours: &[Vec<String>],
    can: &dyn Fn(Capability) -> bool,
) -> Vec<Difference> {
    assert_eq!((steps.len(), steps.len()), (kernel.len(), ours.len()), "an answer a step");
    let mut found = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        let (kernel, ours) = (lowered(&kernel[at], can), lowered(&ours[at], can));
        if kernel != ours && !is_the_hosts(&kernel, &ours) {
            found.push(Difference { at, step: step.to_string(), kernel, ours });
        }
    }
    found
}

/// An address of no service is the host's, who answers as it likes; the kernel is director and host in one.
fn is_the_hosts(kernel: &[String], ours: &[String]) -> bool {
    ours == ["host"] && kernel.iter().all(|line| !line.starts_with("real "))
}

impl Difference {
    /// The lines that only the kernel has, and those that only we have.
    pub fn lines(&self) -> (Vec<&str>, Vec<&str>) {
        fn only<'l>(these: &'l [String], others: &[String]) -> Vec<&'l str> {
            these.iter().filter(|line| !others.contains(line)).map(String::as_str).collect()
        }
        (only(&self.kernel, &self.ours), only(&self.ours, &self.kernel))
    }
}

/// What kind of a difference it is: the words without the numbers of the first lines that differ.
fn kind(difference: &Difference) -> (String, String) {
    let (kernel, ours) = difference.lines();
    let words = |lines: Vec<&str>| -> String {
        lines.first().unwrap_or(&"").chars().filter(|letter| !letter.is_ascii_digit()).collect()
    };
    (words(kernel), words(ours))
}

/// Drops steps, in halves, quarters and so on down to one by one, while there still is a difference of the kind of the
/// first.
pub fn minimised(
    steps: &[Step],
    kernel: &mut dyn Subject,
    ours: &mut dyn Subject,
    can: &dyn Fn(Capability) -> bool,
) -> Vec<Step> {
    let mut all = |steps: &[Step]| differences(steps, &kernel.run(steps), &ours.run(steps), can);
    let Some(wanted) = all(steps).first().map(kind) else { return steps.to_vec() };
    let mut differs = |steps: &[Step]| all(steps).iter().any(|difference| kind(difference) == wanted);
    let mut steps = steps.to_vec();
    let mut size = steps.len() / 2;
    while size > 0 {
        // From the end: what stands on something goes before it.
        for at in (0..steps.len()).step_by(size).rev() {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + size).min(steps.len()));
            if is_sound(&fewer) && differs(&fewer) {
                steps = fewer;
            }
        }
        size /= 2;
    }
    steps
}

/// Whether every edit is of something that is there: the kernel would refuse it, and a subject need not take it.
fn is_sound(steps: &[Step]) -> bool {
    use super::scenario::Edit::*;
    let mut services = std::collections::HashMap::new();
    steps.iter().all(|step| {
        let Step::Edit(edit) = step else { return true };
        match edit {
            AddService(service) => services.insert(service.key, Vec::new()).is_none(),
            ChangeService(service) => services.contains_key(&service.key),
            DeleteService(key) => services.remove(key).is_some(),
            AddReal(key, real) => services.get_mut(key).is_some_and(|reals| {
                let new = !reals.contains(&real.number);
                reals.push(real.number);
                new
            }),
            ChangeReal(key, real) => services.get(key).is_some_and(|reals| reals.contains(&real.number)),
            DeleteReal(key, number) => services.get_mut(key).is_some_and(|reals| {
                let there = reals.contains(number);
                reals.retain(|other| other != number);
                there
            }),
            Timeouts(..) | Sysctl(..) => true,
        }
    })
}
