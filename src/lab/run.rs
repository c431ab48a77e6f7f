//! Real HTTP through the director: who answered, and whether it was in proportion.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::cli::render::{self, Style};
use crate::control::wire::{ServiceEntry, Stats};
use crate::verdict::DropReason;

use super::error::{LabError, Result, doing};
use super::network::{self, CLIENT, REALS};
use super::progress::Progress;
use super::{Lab, VIP};

/// Requests that are under way at the same time.
const PARALLEL: u32 = 8;

/// What came of a number of requests.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    pub requests: u32,
    pub connections: u32,
    /// By the name that the server gave.
    pub served: BTreeMap<String, u32>,
    pub failed: u32,
    pub took: Duration,
}

/// Sends `requests` requests from the client to the VIP, each over a connection of its own.
pub fn requests(lab: &Lab, requests: u32) -> Result<Outcome> {
    let mut outcome = Outcome { requests, ..Outcome::default() };
    if requests == 0 {
        return Ok(outcome);
    }
    let parallel = PARALLEL.to_string();
    let url = format!("http://{VIP}/[1-{requests}]");
    let mut curl = lab.command(CLIENT, "curl");
    curl.args(["--silent", "--http1.0", "--parallel", "--parallel-max", &parallel, "--max-time", "10"]).args([
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_code} %{num_connects} %header{x-real}\\n",
        &url,
    ]);
    let started = Instant::now();
    // With --parallel this curl draws its own meter, silent or not.
    let mut child = curl.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(doing("curl"))?;
    let mut progress = Progress::new(requests.into());
    let answers = child.stdout.take().ok_or_else(|| LabError::new("curl has no output"))?;
    for line in BufReader::new(answers).lines() {
        outcome.count(&line.map_err(doing("curl"))?);
        progress.step();
    }
    child.wait().map_err(doing("curl"))?;
    outcome.took = started.elapsed();
    outcome.failed = requests - outcome.served.values().sum::<u32>().min(requests);
    Ok(outcome)
}

impl Outcome {
    /// One line of curl's: status, connections made, the server's name.
    fn count(&mut self, line: &str) {
        let mut words = line.split(' ');
        let status = words.next();
        self.connections += words.next().and_then(|word| word.parse::<u32>().ok()).unwrap_or(0);
        if let (Some("200"), Some(server)) = (status, words.next().filter(|name| !name.is_empty())) {
            *self.served.entry(server.to_owned()).or_default() += 1;
        }
    }
}

/// A real server's due.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    pub server: String,
    pub served: u32,
    pub expected: f64,
    /// How far off a correct director may be.
    pub tolerance: f64,
}

/// What each server should have got. Round-robin is exact but for its last, unfinished round on each worker: in it a
/// server gets anything from nothing to its weight. `again` connections came from a port that an earlier one had used:
/// they went where that one went, as they should.
pub fn shares(outcome: &Outcome, service: &ServiceEntry, workers: usize, again: u32) -> Vec<Share> {
    let weight = |real: u16| if service.scheduler == "rr" { u32::from(real > 0) } else { u32::from(real) };
    let sum: u32 = service.reals.iter().map(|real| weight(real.weight)).sum();
    let answered: u32 = outcome.served.values().sum();
    let share = |server: &str| {
        let found = service.reals.iter().find(|real| real.address.ip().to_string() == network::address(server));
        let weight = found.map_or(0, |real| weight(real.weight));
        let served = outcome.served.get(server).copied().unwrap_or(0);
        let expected = f64::from(answered) * f64::from(weight) / f64::from(sum.max(1));
        Share {
            server: server.to_owned(),
            served,
            expected,
            tolerance: f64::from(weight) * workers as f64 + f64::from(again),
        }
    };
    REALS.iter().map(|server| share(server)).collect()
}

/// Everything that was not as it should be; nothing: all was well.
pub fn complaints(outcome: &Outcome, shares: &[Share], dropped: &BTreeMap<String, u64>) -> Vec<String> {
    let mut complaints = Vec::new();
    if outcome.failed > 0 {
        complaints.push(format!("{} of {} requests failed", outcome.failed, outcome.requests));
    }
    for share in shares {
        if (f64::from(share.served) - share.expected).abs() > share.tolerance {
            complaints.push(format!(
                "{} served {} requests; its weight asks for {:.0}, give or take {:.0}",
                share.server, share.served, share.expected, share.tolerance
            ));
        }
    }
    for (reason, count) in dropped {
        if reason != DropReason::NotOurMac.name() {
            complaints.push(format!("the director dropped {count} frames: {reason}"));
        }
    }
    complaints
}

/// Connections that the director entered no new flow for: the client's kernel had used their port before.
pub fn used_again(outcome: &Outcome, before: &Stats, after: &Stats) -> u32 {
    let entered = after.total.flows_created.saturating_sub(before.total.flows_created);
    outcome.connections.saturating_sub(u32::try_from(entered).unwrap_or(u32::MAX))
}

/// What was dropped between two moments.
pub fn dropped_between(before: &Stats, after: &Stats) -> BTreeMap<String, u64> {
    let earlier = |reason: &String| before.total.dropped.get(reason).copied().unwrap_or(0);
    let now = after.total.dropped.iter();
    now.map(|(reason, count)| (reason.clone(), count.saturating_sub(earlier(reason)))).filter(|(_, n)| *n > 0).collect()
}

/// The whole of `drover lab run`.
pub struct Report {
    pub outcome: Outcome,
    pub shares: Vec<Share>,
    pub dropped: BTreeMap<String, u64>,
    pub complaints: Vec<String>,
    pub services: Vec<ServiceEntry>,
    pub before: Stats,
    pub after: Stats,
}

pub fn report(lab: &Lab, count: u32) -> Result<Report> {
    lab.wait_for_reals()?;
    let before = lab.stats()?;
    let outcome = requests(lab, count)?;
    let (services, after, status) = (lab.services()?, lab.stats()?, lab.status()?);
    let ours = services.iter().find(|service| service.address == format!("{VIP}:80"));
    let ours = ours.ok_or_else(|| LabError::new(format!("the director has no service on {VIP}:80")))?;
    let shares = shares(&outcome, ours, status.workers.len(), used_again(&outcome, &before, &after));
    let dropped = dropped_between(&before, &after);
    let complaints = complaints(&outcome, &shares, &dropped);
    Ok(Report { outcome, shares, dropped, complaints, services, before, after })
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { requests, connections, failed, took, .. } = &self.outcome;
        let seconds = took.as_secs_f64();
        writeln!(out, "{requests} requests over {connections} connections in {seconds:.1} s, {failed} failed\n")?;
        writeln!(out, "{:<8}{:>10}{:>10}{:>10}", "server", "requests", "share", "expected")?;
        let all = f64::from(self.outcome.served.values().sum::<u32>().max(1));
        for share in &self.shares {
            let got = f64::from(share.served) * 100.0 / all;
            let due = share.expected * 100.0 / all;
            writeln!(out, "{:<8}{:>10}{got:>8.1} %{due:>8.1} %", share.server, share.served)?;
        }
        write!(out, "\n{}", render::services(&self.services, Style::default()))?;
        let (before, after) = (&self.before.total, &self.after.total);
        let dropped: u64 = self.dropped.values().sum();
        writeln!(
            out,
            "\nthe director received {} packets: {} forwarded, {} to management, {} to the host, {dropped} dropped",
            after.received.saturating_sub(before.received),
            after.forwarded.saturating_sub(before.forwarded),
            after.to_manage.saturating_sub(before.to_manage),
            after.to_host.saturating_sub(before.to_host),
        )?;
        for (reason, count) in &self.dropped {
            let known = DropReason::ALL.iter().find(|known| known.name() == reason);
            writeln!(out, "  dropped {count} {reason}: {}", known.map_or("", |known| known.meaning()))?;
        }
        for complaint in &self.complaints {
            writeln!(out, "WRONG: {complaint}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::wire::{RealEntry, RealState, TrafficEntry};

    fn service(scheduler: &str, weights: [u16; 3]) -> ServiceEntry {
        let real = |(index, weight): (usize, &u16)| RealEntry {
            address: format!("10.9.0.{}:80", 11 + index).parse().unwrap(),
            forward: "Route".into(),
            weight: *weight,
            upper: 0,
            lower: 0,
            state: RealState::Resolved,
            mac: None,
            traffic: TrafficEntry::default(),
        };
        ServiceEntry {
            protocol: "TCP".into(),
            address: "10.9.0.100:80".into(),
            flags: String::new(),
            persistent: None,
            netmask: None,
            expire_quiescent: false,
            one_packet: false,
            on_removed: "reschedule".into(),
            on_miss: "reset".into(),
            manners: String::new(),
            scheduler: scheduler.into(),
            traffic: TrafficEntry::default(),
            reals: weights.iter().enumerate().map(real).collect(),
        }
    }

    fn served(counts: [u32; 3]) -> Outcome {
        let served = REALS.iter().map(|name| name.to_string()).zip(counts).collect();
        Outcome { requests: 1000, connections: 1000, served, failed: 0, took: Duration::ZERO }
    }

    fn judge(outcome: &Outcome, service: &ServiceEntry) -> usize {
        complaints(outcome, &shares(outcome, service, 1, 0), &BTreeMap::new()).len()
    }

    #[test]
    fn weights_are_kept_to_within_one_round() {
        assert_eq!(judge(&served([501, 333, 166]), &service("wrr", [3, 2, 1])), 0);
        assert_eq!(judge(&served([504, 330, 166]), &service("wrr", [3, 2, 1])), 2);
        assert_eq!(judge(&served([334, 333, 333]), &service("wrr", [3, 2, 1])), 2);
        assert_eq!(judge(&served([334, 333, 333]), &service("rr", [3, 2, 1])), 0);
        assert_eq!(judge(&served([500, 500, 0]), &service("rr", [1, 1, 0])), 0);
    }

    #[test]
    fn a_stranger_on_the_wire_is_no_fault_and_any_other_drop_is() {
        let flooded = BTreeMap::from([("not_our_mac".to_owned(), 7)]);
        assert!(complaints(&Outcome::default(), &[], &flooded).is_empty());
        let lost = BTreeMap::from([("no_real".to_owned(), 1)]);
        assert_eq!(complaints(&Outcome::default(), &[], &lost), ["the director dropped 1 frames: no_real"]);
    }

    #[test]
    fn curls_lines_are_counted() {
        let mut outcome = Outcome::default();
        for line in ["200 1 real2", "200 1 real2", "200 1 ", "503 1 real1", "000 0 ", "", "200"] {
            outcome.count(line);
        }
        assert_eq!(outcome.connections, 4);
        assert_eq!(outcome.served.get("real2"), Some(&2));
        assert_eq!(outcome.served.get("real1"), None);
    }
}
