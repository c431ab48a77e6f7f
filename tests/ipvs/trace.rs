//! The kernel's answers in a file: a step a line, and below it, indented, what it answered; a heading before each
//! scenario.

use super::scenario::Step;

pub struct Trace {
    pub name: String,
    pub steps: Vec<Step>,
    pub answers: Vec<Vec<String>>,
}

impl Trace {
    pub fn text(&self) -> String {
        let mut text = format!("## {}\n", self.name);
        for (step, answer) in self.steps.iter().zip(&self.answers) {
            match (step, answer.as_slice()) {
                // A packet has one answer, which stands beside it.
                (Step::Packet(_), [answer]) => text += &format!("{step} => {answer}\n"),
                _ => {
                    text += &format!("{step}\n");
                    answer.iter().for_each(|line| text += &format!("    {line}\n"));
                }
            }
        }
        text
    }
}

/// All traces of a file. Lines that begin with `# ` say something to the reader.
pub fn parse(text: &str) -> Vec<Trace> {
    let mut traces: Vec<Trace> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with("# ")) {
        if let Some(name) = line.strip_prefix("## ") {
            traces.push(Trace { name: name.into(), steps: Vec::new(), answers: Vec::new() });
            continue;
        }
        let trace = traces.last_mut().expect("a heading before the first step");
        if let Some(said) = line.strip_prefix("    ") {
            trace.answers.last_mut().expect("a step before its answer").push(said.into());
            continue;
        }
        let (step, answer) = line.split_once(" => ").map_or((line, None), |(step, answer)| (step, Some(answer)));
        trace.steps.push(step.parse().unwrap_or_else(|what| panic!("{}: {what}", trace.name)));
        trace.answers.push(answer.map(str::to_owned).into_iter().collect());
    }
    traces
}
