//! Where cores and ports are on a machine with several NUMA nodes.

use std::fs;

use super::machine::core_list;
use super::{Machine, Plan};
use crate::config::Config;

/// A remark for each port and the workers that reach its memory by another node. `nodes` are the ports'.
pub fn distant_workers(machine: &Machine, plan: &Plan, config: &Config, nodes: &[Option<u32>]) -> Vec<String> {
    let mut remarks = Vec::new();
    for (port, node) in config.ports.iter().zip(nodes) {
        let Some(node) = node else { continue };
        let elsewhere = |core: &&usize| node_of(machine, **core).is_some_and(|other| other != *node);
        let cores: Vec<_> = plan.worker_cores.iter().filter(elsewhere).map(usize::to_string).collect();
        if !cores.is_empty() {
            remarks.push(format!(
                "port {} is on NUMA node {node}, and the workers on these cores are not: {}; each of their packets \
                 crosses over. Cores of node {node}: {}",
                port.name,
                cores.join(", "),
                fs::read_to_string(list_of(machine, *node)).unwrap_or_default().trim()
            ));
        }
    }
    remarks
}

fn list_of(machine: &Machine, node: u32) -> std::path::PathBuf {
    machine.sys.join(format!("devices/system/node/node{node}/cpulist"))
}

/// The NUMA node of a core; none: the kernel knows of no nodes.
pub fn node_of(machine: &Machine, core: usize) -> Option<u32> {
    let online = fs::read_to_string(machine.sys.join("devices/system/node/online")).ok()?;
    let has = |node: &usize| {
        let cores = fs::read_to_string(list_of(machine, *node as u32)).unwrap_or_default();
        core_list(cores.trim()).contains(&core)
    };
    core_list(online.trim()).into_iter().find(has).map(|node| node as u32)
}
