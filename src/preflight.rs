//! What only this machine can tell, found before EAL does and with its remedy. All of it at once: whoever mends one
//! thing does not want to be told of the next one afterwards.

mod cores;
mod devices;
mod instance;
mod machine;
mod memory;
mod nodes;
mod rights;

use std::fmt;

use crate::config::Config;

pub use instance::InstanceLock;
pub use machine::Machine;
pub use nodes::{distant_workers, node_of};

/// What is in the way, and the one line that mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub what: String,
    pub remedy: String,
}

impl Problem {
    fn new(what: impl Into<String>, remedy: impl Into<String>) -> Problem {
        Problem { what: what.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  remedy: {}", self.what, self.remedy)
    }
}

impl std::error::Error for Problem {}

/// Which core does what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub management_core: usize,
    pub worker_cores: Vec<usize>,
}

/// Takes the instance's lock and checks everything else. With another instance running, that is the only problem told:
/// the names that it has taken are no problems of their own.
pub fn start(config: &Config, machine: &Machine) -> Result<(Plan, InstanceLock), Vec<Problem>> {
    let lock = InstanceLock::attempt(&config.control.socket);
    if let Err(running @ instance::Refusal::Running(_)) = lock {
        return Err(vec![running.into_problem()]);
    }
    let plan = check(config, machine);
    match (plan, lock) {
        (Ok(plan), Ok(lock)) => Ok((plan, lock)),
        (Ok(_), Err(refusal)) => Err(vec![refusal.into_problem()]),
        (Err(problems), _) => Err(problems),
    }
}

/// Changes nothing on the machine.
pub fn check(config: &Config, machine: &Machine) -> Result<Plan, Vec<Problem>> {
    let mut problems = Vec::new();
    let plan = cores::plan(config, machine, &mut problems);
    memory::check(config, machine, &mut problems);
    devices::check(config, machine, &mut problems);
    rights::check(config, machine, &mut problems);
    match plan {
        Some(plan) if problems.is_empty() => Ok(plan),
        _ => Err(problems),
    }
}

/// Only the port itself knows how many queues it has: to be asked once EAL is up and before anything is configured.
pub fn check_queues(workers: usize, port_name: &str, max_queues: usize) -> Result<(), Problem> {
    if workers <= max_queues {
        return Ok(());
    }
    let what =
        format!("{workers} workers, but port \"{port_name}\" has {max_queues} queues, and each worker needs its own");
    Err(Problem::new(what, format!("set workers = {max_queues} under [cores]")))
}
