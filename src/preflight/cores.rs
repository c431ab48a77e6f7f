//! Who runs where.

use super::{Machine, Plan, Problem};
use crate::config::{Config, Device, Idle, WorkerCores};

pub(super) fn plan(config: &Config, machine: &Machine, problems: &mut Vec<Problem>) -> Option<Plan> {
    let allowed = machine.allowed_cores();
    if allowed.is_empty() {
        problems.push(Problem::new("the cores of this process are not to be seen in /proc/self/status", "mount /proc"));
        return None;
    }
    let before = problems.len();
    // Who has nothing to sleep on never lets go of a core.
    let polls = config.idle == Idle::Poll || config.ports.iter().any(|port| matches!(port.device, Device::Pci(_)));
    let may_share = !polls;
    let config = &config.cores;
    if let Some(core) = config.management {
        core_is_allowed(core, "cores.management", &allowed, problems);
    }
    let plan = match &config.workers {
        WorkerCores::Count(count) => count_plan(*count, config.management, may_share, &allowed, problems),
        WorkerCores::These(cores) => these_plan(cores, config.management, may_share, &allowed, problems),
    };
    if problems.len() == before { plan } else { None }
}

fn core_is_allowed(core: usize, key: &str, allowed: &[usize], problems: &mut Vec<Problem>) {
    if !allowed.contains(&core) {
        let what = format!("{key}: core {core} is not one that this process may run on: {}", listed(allowed));
        problems.push(Problem::new(what, "choose from these, or start droverd with a wider taskset or cpuset"));
    }
}

fn count_plan(
    count: usize,
    management: Option<usize>,
    may_share: bool,
    allowed: &[usize],
    problems: &mut Vec<Problem>,
) -> Option<Plan> {
    let management_core = management.unwrap_or(allowed[0]);
    if allowed.len() == 1 && count == 1 {
        // The one core there is: management and the worker take turns.
        return Some(Plan { management_core, worker_cores: allowed.to_vec() });
    }
    let worker_cores: Vec<_> = allowed.iter().copied().filter(|core| *core != management_core).take(count).collect();
    if worker_cores.len() < count {
        let most = worker_cores.len().max(1);
        let what = format!(
            "{count} workers, but this process has {} (cores {}), and management takes one",
            if allowed.len() == 1 { "one core".to_owned() } else { format!("{} cores", allowed.len()) },
            listed(allowed)
        );
        let mut remedy = format!("set workers = {most} under [cores]");
        if may_share && count == allowed.len() {
            remedy += &format!(", or let management share a core: {}", shared(management_core, allowed));
        }
        problems.push(Problem::new(what, remedy));
        return None;
    }
    Some(Plan { management_core, worker_cores })
}

fn these_plan(
    cores: &[usize],
    management: Option<usize>,
    may_share: bool,
    allowed: &[usize],
    problems: &mut Vec<Problem>,
) -> Option<Plan> {
    for core in cores {
        core_is_allowed(*core, "cores.workers", allowed, problems);
    }
    let free = allowed.iter().copied().find(|core| !cores.contains(core));
    let the_only = (allowed.len() == 1).then_some(allowed[0]);
    let Some(management_core) = management.or(free).or(the_only) else {
        let what = format!("the workers take all {} cores, and none is left for management", allowed.len());
        let mut remedy = "take one core out of workers under [cores]".to_owned();
        if may_share {
            remedy += &format!(", or let management share one: {}", shared(allowed[0], cores));
        }
        problems.push(Problem::new(what, remedy));
        return None;
    };
    Some(Plan { management_core, worker_cores: cores.to_vec() })
}

/// What to write under `[cores]` for management to share a core with a worker.
fn shared(management: usize, workers: &[usize]) -> String {
    format!("management = {management}, workers = [{}]", listed(workers))
}

fn listed(cores: &[usize]) -> String {
    cores.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}
