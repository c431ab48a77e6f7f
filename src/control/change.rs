//! Changes of the running configuration. One at a time, and all by the same way: checked as the file is, made in a copy,
//! laid out and published by the management core, and answered when the workers have it.

use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::bounded;

use super::desk::{Desk, PATIENCE};
use super::wire::{Answer, Changed, Request, TimeoutsEntry};
use crate::config::edit::{self, Change};
use crate::config::{self, Config, Mistake};
use crate::manage::run::{Call, Published};
use crate::service::registry::NoNumber;

/// A client waits ten seconds for its answer; whoever waits for others must leave time for the change itself.
const TURN: Duration = Duration::from_secs(4);

/// What is to be made of the configuration in force.
struct Planned {
    changes: Vec<Change>,
    notes: Vec<String>,
}

impl<F: Send> Desk<F> {
    pub(super) fn change(&self, request: &Request) -> Result<Answer, String> {
        if let Request::Reload { dry_run } = request {
            // Reading takes longest, and nobody has to wait for it.
            let (file, warnings) = config::examine(&self.config_path).map_err(|errors| errors.to_string())?;
            let warnings = || warnings.lines().map(str::to_owned);
            return self.publish(*dry_run, |running| {
                let edit::Reload { changes, notes } = edit::reload(running, &file).map_err(|why| {
                    let of_the_file = |why: String| format!("{}: {why}", self.config_path.display());
                    why.iter().map(said).map(of_the_file).collect::<Vec<_>>().join("\n")
                })?;
                Ok(Planned { changes, notes: warnings().chain(notes).collect() })
            });
        }
        match request.as_edit() {
            Some((edit, dry_run)) => self.publish(dry_run, |running| {
                let change = edit::check(running, &edit).map_err(|mistakes| told(&mistakes))?;
                Ok(Planned { changes: vec![change], notes: Vec::new() })
            }),
            None => {
                let config::Timeouts { tcp, tcp_fin, udp } = self.running()?.timeouts;
                Ok(Answer::Timeouts(TimeoutsEntry { tcp, tcp_fin, udp }))
            }
        }
    }

    /// The configuration in force, as a file would have it.
    pub(super) fn show(&self) -> Result<Answer, String> {
        self.running().map(|running| Answer::Config(running.to_toml()))
    }

    fn publish(&self, dry_run: bool, plan: impl FnOnce(&Config) -> Result<Planned, String>) -> Result<Answer, String> {
        let turn = self.writing.try_lock_for(TURN);
        let _turn = turn.ok_or("other changes are being made; try again")?;
        let running = self.running()?;
        let Planned { changes, mut notes } = plan(&running)?;
        notes.extend(edit::remarks(&running, &changes));
        let lines = changes.iter().map(ToString::to_string).collect();
        let changed = |notes, Published { epoch, behind, .. }| {
            Ok(Answer::Changed(Changed { dry_run, changes: lines, notes, epoch, workers_behind: behind }))
        };
        if dry_run || changes.is_empty() {
            return changed(notes, Published { epoch: self.view()?.epoch, behind: 0, waiting: Vec::new() });
        }
        let mut wanted = Config::clone(&running);
        edit::make_all(&mut wanted, &changes);
        let (answer, published) = bounded(1);
        self.call(Call::Publish { base: running, config: Arc::new(wanted), answer })?;
        let gone = |_| "the management core does not answer: `drover config show` says whether the change was made";
        // It waits for the workers as long as we are patient, and then says who is late.
        let published = published.recv_timeout(PATIENCE + PATIENCE).map_err(gone)??;
        notes.extend(NoNumber::told(&published.waiting));
        for line in told_of(&changes) {
            log::info!("epoch {}: {line}", published.epoch);
        }
        changed(notes, published)
    }

    fn running(&self) -> Result<Arc<Config>, String> {
        self.ask_management(Call::Config)
    }
}

/// A large reload is not told line by line.
fn told_of(changes: &[Change]) -> Vec<String> {
    const MOST: usize = 32;
    let mut lines: Vec<String> = changes.iter().take(MOST).map(ToString::to_string).collect();
    if changes.len() > MOST {
        lines.push(format!("and {} more changes", changes.len() - MOST));
    }
    lines
}

fn told(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(said).collect::<Vec<_>>().join("\n")
}

fn said(mistake: &Mistake) -> String {
    mistake.to_string().trim_start().to_owned()
}
