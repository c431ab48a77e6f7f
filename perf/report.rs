//! What was measured: a table for people, rows for programs.

use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

use crate::measure::Probe;

/// One number. `against` names the case that it is divided by, measured in the same run.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub suite: String,
    pub case: String,
    pub metric: String,
    pub value: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// The spin loop's speed, in thousands of rounds a millisecond: the lower of before and after.
    pub probe: f64,
    /// Whether the probes before and after agree.
    pub quiet: bool,
    pub pages: String,
}

#[derive(Default)]
pub struct Report {
    pub rows: Vec<Row>,
    /// What could not be measured, and why.
    pub notes: Vec<String>,
    /// Of the table's part that is being printed.
    heading: String,
}

const HEADINGS: &str = "case                           metric                            value     ratio against                             probe";

/// A suite's hand at the report: the words that all its rows share.
pub struct Section<'a> {
    report: &'a mut Report,
    suite: &'static str,
    pages: String,
}

impl Report {
    pub fn section(&mut self, suite: &'static str, pages: impl Into<String>) -> Section<'_> {
        let pages = pages.into();
        let heading = format!("{suite}, {pages}");
        if heading != self.heading {
            println!("\n{heading}\n  {HEADINGS}");
            self.heading = heading;
        }
        Section { report: self, suite, pages }
    }

    pub fn note(&mut self, what: impl Into<String>) {
        let what = what.into();
        println!("  note: {what}");
        self.notes.push(what);
    }

    pub fn write(&self, path: &Path) -> io::Result<()> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(path, serde_json::to_string_pretty(&self.rows)? + "\n")
    }
}

impl Section<'_> {
    pub fn row(&mut self, case: &str, metric: &str, value: f64, probe: Probe) {
        self.push(case, metric, value, None, probe);
    }

    /// `against`: the name and the value of what it is compared with.
    pub fn ratio(&mut self, case: &str, metric: &str, value: f64, against: (&str, f64), probe: Probe) {
        self.push(case, metric, value, Some(against), probe);
    }

    fn push(&mut self, case: &str, metric: &str, value: f64, against: Option<(&str, f64)>, probe: Probe) {
        let row = Row {
            suite: self.suite.to_owned(),
            case: case.to_owned(),
            metric: metric.to_owned(),
            value: rounded(value),
            against: against.map(|(name, _)| name.to_owned()),
            ratio: against.map(|(_, other)| rounded(value / other)),
            probe: probe.speed().round(),
            quiet: probe.agrees(),
            pages: self.pages.clone(),
        };
        println!("{}", row.line());
        self.report.rows.push(row);
    }
}

impl Row {
    pub fn key(&self) -> (&str, &str, &str) {
        (&self.suite, &self.case, &self.metric)
    }

    fn line(&self) -> String {
        let ratio = self.ratio.map(|ratio| format!("{ratio:.3}")).unwrap_or_default();
        let against = self.against.as_deref().map(|name| format!("× {name}")).unwrap_or_default();
        let unquiet = if self.quiet { "" } else { "!" };
        format!(
            "  {:<30} {:<24} {:>14}  {ratio:>8} {against:<34} {:>6}{unquiet}",
            self.case,
            self.metric,
            in_digits(self.value),
            self.probe
        )
    }
}

/// As people write it: thousands apart, two decimals below a thousand.
pub fn in_digits(value: f64) -> String {
    if value.abs() < 1000.0 && value.fract() != 0.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 { format!("-{text}") } else { text }
}

/// Four significant decimals are more than any of this is worth.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}
