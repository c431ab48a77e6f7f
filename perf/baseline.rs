//! `make bench-check`: ratios against those of `perf/baseline.json`. Cycles differ from machine to machine and from hour
//! to hour; how much more one thing costs than another, measured in the same minute, does not.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::report::{self, Row};

/// How much worse a ratio may be before it counts, unless its line says otherwise.
const TOLERANCE: f64 = 0.25;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    pub suite: String,
    pub case: String,
    pub metric: String,
    pub ratio: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
}

impl Line {
    fn is_for(&self, row: &Row) -> bool {
        row.key() == (self.suite.as_str(), self.case.as_str(), self.metric.as_str())
    }

    /// How much worse the row is than the line: 0.1 is a tenth. Of some numbers more is better.
    fn worse_by(&self, ratio: f64) -> f64 {
        let more_is_better = ["per_second", "kept"].iter().any(|word| self.metric.contains(word));
        if more_is_better { self.ratio / ratio - 1.0 } else { ratio / self.ratio - 1.0 }
    }
}

/// What is worse than the baseline allows, in words. A ratio of the baseline that was not measured is worse, too.
pub fn complaints(lines: &[Line], rows: &[Row]) -> Vec<String> {
    let complaint = |line: &Line| {
        let name = format!("{} {} {}", line.suite, line.case, line.metric);
        let Some(ratio) = rows.iter().find(|row| line.is_for(row)).and_then(|row| row.ratio) else {
            return Some(format!("{name}: was not measured"));
        };
        let (worse, tolerance) = (line.worse_by(ratio), line.tolerance.unwrap_or(TOLERANCE));
        // A ratio that is no number is worse than any.
        let good = worse <= tolerance;
        (!good).then(|| {
            format!(
                "{name}: {ratio} instead of {}, {:.0} % worse, {:.0} % allowed",
                line.ratio,
                worse * 100.0,
                tolerance * 100.0
            )
        })
    };
    lines.iter().filter_map(complaint).collect()
}

pub fn read(path: &Path) -> std::io::Result<Vec<Line>> {
    Ok(serde_json::from_str(&std::fs::read_to_string(path)?)?)
}

/// The ratios of `rows` as the new baseline; the tolerances stay.
pub fn write(path: &Path, rows: &[Row]) -> std::io::Result<()> {
    let old = read(path).unwrap_or_default();
    let line = |row: &Row| {
        Some(Line {
            suite: row.suite.clone(),
            case: row.case.clone(),
            metric: row.metric.clone(),
            ratio: row.ratio?,
            tolerance: old.iter().find(|line| line.is_for(row)).and_then(|line| line.tolerance).or(usual(row)),
        })
    };
    let lines: Vec<Line> = rows.iter().filter(|row| is_steady(row)).filter_map(line).collect();
    std::fs::write(path, serde_json::to_string_pretty(&lines)? + "\n")
}

/// Medians and the far tail tell more about the neighbours than about the program.
fn is_steady(row: &Row) -> bool {
    !["_p50", "_p99", "_p999"].iter().any(|end| row.metric.ends_with(end)) && row.suite != "pair"
}

/// What is known to be steadier or less steady than most: a flow kept is kept; `rte_hash` by Zipf has its good and its
/// bad minutes, and so has a rate that another process measures.
fn usual(row: &Row) -> Option<f64> {
    match row.metric.as_str() {
        "established_kept" => Some(0.0),
        "hit_cycles_p10" if row.case.ends_with("/zipf") => Some(0.7),
        "packets_per_second" if row.suite == "forward" => Some(0.5),
        _ => None,
    }
}

/// Run as a test: that it can say no.
pub fn try_out() {
    let line = |metric: &str, ratio| Line {
        suite: "a".into(),
        case: "b".into(),
        metric: metric.into(),
        ratio,
        tolerance: None,
    };
    let row = |metric: &str, ratio| report::Row {
        suite: "a".into(),
        case: "b".into(),
        metric: metric.into(),
        value: 1.0,
        against: Some("c".into()),
        ratio: Some(ratio),
        probe: 1.0,
        quiet: true,
        pages: String::new(),
    };
    let bad = |metric: &str, before, after| complaints(&[line(metric, before)], &[row(metric, after)]).len();
    assert_eq!((bad("cycles_p10", 2.0, 2.4), bad("cycles_p10", 2.0, 2.6), bad("cycles_p10", 2.0, 1.0)), (0, 1, 0));
    let throughput = "packets_per_second";
    assert_eq!((bad(throughput, 0.9, 0.8), bad(throughput, 0.9, 0.6), bad(throughput, 0.9, 1.5)), (0, 1, 0));
    assert_eq!((bad(throughput, 0.9, f64::NAN), bad("cycles_p10", 2.0, f64::NAN)), (1, 1));
    assert_eq!(complaints(&[line("cycles_p10", 2.0)], &[row("other", 2.0)]).len(), 1);
}
