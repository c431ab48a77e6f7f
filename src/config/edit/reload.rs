//! A file that is read again while the director runs: what of it can change now, what only at a start, and what not.

use super::{Change, plan};
use crate::config::error::{Mistake, Mistakes};
use crate::config::{Config, FlowsConfig, Limits};

/// What a file that was read again asks of a running director.
#[derive(Clone, Debug, PartialEq)]
pub struct Reload {
    pub changes: Vec<Change>,
    /// What it says besides, which takes effect with the next start.
    pub notes: Vec<String>,
}

/// What leads from the configuration in force to the file's, or why it cannot while the director runs.
pub fn reload(running: &Config, file: &Config) -> Result<Reload, Vec<Mistake>> {
    let mut mistakes = Mistakes::new("");
    if running.ports != file.ports {
        let message = "not as they were at the start: a running director cannot change its ports; put them back, or \
                       start it again";
        mistakes.add(0, "port", message);
    }
    let reals = file.services.iter().map(|service| service.reals.len()).sum();
    let most = running.limits;
    for (key, what, count, most) in
        [("max_services", "services", file.services.len(), most.services), ("max_reals", "reals", reals, most.reals)]
    {
        if count > most {
            let message = format!("{count} {what} are too many for the running director, which has room for {most}");
            mistakes.add(0, key, format!("{message}: start it again"));
        }
    }
    if !mistakes.is_empty() {
        return Err(mistakes.into_unplaced());
    }
    Ok(Reload { changes: plan(running, file), notes: notes(running, file) })
}

/// Room in the wide table that follows from the services is remarked on where they are added.
fn flows_have_changed(running: &Config, file: &Config) -> bool {
    let by_default = file.flows.wide_per_worker == FlowsConfig::wide_for(file.flows.per_worker, &file.services);
    let wide = if by_default { running.flows.wide_per_worker } else { file.flows.wide_per_worker };
    running.flows != FlowsConfig { wide_per_worker: wide, ..file.flows.clone() }
}

fn notes(running: &Config, file: &Config) -> Vec<String> {
    let reals = file.services.iter().map(|service| service.reals.len()).sum();
    let default = Limits::for_file(file.services.len(), reals);
    // What follows from the file's own length nobody has changed.
    let limit = |running: usize, file: usize, default: usize| running != file && file != default;
    let changed = [
        ("[cores]", running.cores != file.cores),
        ("hugepages", running.hugepages != file.hugepages),
        ("memory_mb", running.memory_mb != file.memory_mb),
        ("idle", running.idle != file.idle),
        ("[flows]", flows_have_changed(running, file)),
        ("[control]", running.control != file.control),
        ("max_services", limit(running.limits.services, file.limits.services, default.services)),
        ("max_reals", limit(running.limits.reals, file.limits.reals, default.reals)),
    ];
    let changed = changed.into_iter().filter(|(_, changed)| *changed);
    changed.map(|(key, _)| format!("{key} has changed in the file: it takes effect at the next start")).collect()
}
