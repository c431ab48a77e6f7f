//! `drover stats --per-core`: how evenly the workers share the work.

use serde::Serialize;

use super::render::Style;
use super::table::{Column, Table};
use crate::control::wire::{FrameStats, Stats, Status, Steering};

/// One worker's part. A share is of the sum over all workers, from 0 to 1.
#[derive(Debug, PartialEq, Serialize)]
pub struct CoreShare {
    pub worker: usize,
    /// None: the worker is not in the status.
    pub core: Option<usize>,
    pub received: u64,
    pub received_share: f64,
    pub handed_out: u64,
    pub handed_in: u64,
    pub forwarded: u64,
    pub forwarded_share: f64,
    pub flows: u64,
    pub flows_share: f64,
}

/// The largest part over the mean one: 1 is even, the number of workers means that one does it all. 0: nothing is done.
#[derive(Debug, PartialEq, Serialize)]
pub struct Skew {
    pub received: f64,
    pub forwarded: f64,
    pub flows: f64,
}

#[derive(Debug, PartialEq, Serialize)]
pub struct PerCore {
    pub steering: Steering,
    pub workers: Vec<CoreShare>,
    pub skew: Skew,
}

impl PerCore {
    pub fn new(status: &Status, stats: &Stats) -> PerCore {
        let column = |of: fn(&FrameStats) -> u64| Shares(stats.workers.iter().map(of).collect());
        let received = column(|worker| worker.received);
        let forwarded = column(|worker| worker.forwarded);
        let flows = column(|worker| worker.flows);
        let share = |(id, worker): (usize, &FrameStats)| CoreShare {
            worker: id,
            core: status.workers.get(id).map(|worker| worker.core),
            received: worker.received,
            received_share: received.share(id),
            handed_out: worker.handed_out,
            handed_in: worker.handed_in,
            forwarded: worker.forwarded,
            forwarded_share: forwarded.share(id),
            flows: worker.flows,
            flows_share: flows.share(id),
        };
        PerCore {
            steering: status.steering,
            workers: stats.workers.iter().enumerate().map(share).collect(),
            skew: Skew { received: received.skew(), forwarded: forwarded.skew(), flows: flows.skew() },
        }
    }

    pub fn render(&self, style: Style) -> String {
        let [core, received, share, out, into, forwarded, flows] =
            ["Core", "Received", "Share", "Handed out", "Handed in", "Forwarded", "Flows"].map(Column::right);
        let worker = Column::left("Worker");
        let mut table = Table::new([worker, core, received, share, out, into, forwarded, share, flows, share]);
        for each in &self.workers {
            table.row([
                format!("  {}", each.worker),
                each.core.map_or("-".into(), |core| core.to_string()),
                each.received.to_string(),
                percent(each.received_share),
                each.handed_out.to_string(),
                each.handed_in.to_string(),
                each.forwarded.to_string(),
                percent(each.forwarded_share),
                each.flows.to_string(),
                percent(each.flows_share),
            ]);
        }
        let empty = String::new;
        let Skew { received, forwarded, flows } = self.skew;
        table.row([
            "  max/mean".into(),
            empty(),
            empty(),
            format!("{received:.2}"),
            empty(),
            empty(),
            empty(),
            format!("{forwarded:.2}"),
            empty(),
            format!("{flows:.2}"),
        ]);
        format!("{}\n{}\n", table.render_headed(style), self.steered())
    }

    fn steered(&self) -> &'static str {
        match self.steering {
            Steering::OneWorker => "One worker has all flows.",
            Steering::Nic => "The NIC brings each flow to its worker.",
            Steering::Software => "A flow's worker follows from its client; what another one receives is handed over.",
        }
    }
}

struct Shares(Vec<u64>);

impl Shares {
    fn sum(&self) -> f64 {
        self.0.iter().map(|part| *part as f64).sum()
    }

    fn share(&self, index: usize) -> f64 {
        let part = self.0.get(index).copied().unwrap_or(0) as f64;
        rounded(part / self.sum().max(1.0))
    }

    fn skew(&self) -> f64 {
        let largest = self.0.iter().copied().max().unwrap_or(0) as f64;
        rounded(largest * self.0.len() as f64 / self.sum().max(1.0))
    }
}

/// To four digits: what more there is says nothing.
fn rounded(number: f64) -> f64 {
    (number * 10_000.0).round() / 10_000.0
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skew_is_the_largest_over_the_mean() {
        assert_eq!(Shares(vec![10, 10, 10, 10]).skew(), 1.0);
        assert_eq!(Shares(vec![0, 40, 0, 0]).skew(), 4.0);
        assert_eq!(Shares(vec![3, 1]).skew(), 1.5);
        assert_eq!((Shares(vec![0, 0]).skew(), Shares(vec![]).skew()), (0.0, 0.0));
        assert_eq!((Shares(vec![1, 2]).share(1), Shares(vec![u64::MAX, u64::MAX]).share(0)), (0.6667, 0.5));
        assert_eq!(Shares(vec![1]).share(7), 0.0);
    }
}
