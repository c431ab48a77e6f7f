//! Packet buffers, on the NUMA node of the ports that fill them.

use anyhow::{Context, Result};

use super::{EXCHANGE, ports};
use crate::config::Config;
use crate::dpdk::{Eal, Mempool};
use crate::worker::handover;

/// One pool for each node that has a port.
pub struct Pools(Vec<(Option<u32>, Mempool)>);

impl Pools {
    /// `nodes` are the ports', in their order. A node without memory to spare gets it from another, and that is told.
    pub fn create(
        eal: &Eal,
        config: &Config,
        workers: usize,
        nodes: &[Option<u32>],
        remarks: &mut Vec<String>,
    ) -> Result<Pools> {
        let longest = config.ports.iter().map(|port| port.mtu).max().unwrap_or_default();
        let room = ports::frame_length(longest).max(2048);
        let mut pools = Vec::new();
        for (node, its_ports) in by_node(nodes) {
            let buffers = u32::try_from(buffers(workers, its_ports)).context("too many packet buffers")?;
            let name = node.map_or("drover_frames".into(), |node| format!("drover_frames_{node}"));
            let pool = match Mempool::with_room(eal, &name, buffers, room, node) {
                Err(error) if node.is_some() => {
                    remarks.push(format!("packet buffers are not on their port's NUMA node: {error}"));
                    Mempool::with_room(eal, &name, buffers, room, None)?
                }
                made => made?,
            };
            pools.push((node, pool));
        }
        Ok(Pools(pools))
    }

    /// What a port of this node receives into.
    pub fn of(&self, node: Option<u32>) -> &Mempool {
        let exact = self.0.iter().find(|(at, _)| *at == node);
        &exact.unwrap_or(&self.0[0]).1
    }

    /// For frames that the management core makes.
    pub fn any(&self) -> &Mempool {
        &self.0[0].1
    }
}

/// Each node, and how many ports it has; ports of no node are counted with the first one. Never empty.
fn by_node(nodes: &[Option<u32>]) -> Vec<(Option<u32>, usize)> {
    let mut counts: Vec<(Option<u32>, usize)> = Vec::new();
    for node in nodes.iter().filter(|node| node.is_some()) {
        match counts.iter_mut().find(|(known, _)| known == node) {
            Some((_, count)) => *count += 1,
            None => counts.push((*node, 1)),
        }
    }
    let nowhere = nodes.iter().filter(|node| node.is_none()).count();
    match counts.first_mut() {
        Some((_, count)) => *count += nowhere,
        None => counts.push((None, nowhere)),
    }
    counts
}

/// For all descriptors, for what waits between the cores, and for the bursts and caches of each worker.
fn buffers(workers: usize, ports: usize) -> usize {
    let descriptors = usize::from(ports::DESCRIPTORS) * 2 * workers * ports;
    descriptors + 4 * EXCHANGE + handover::most_waiting(workers) + workers * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_with_a_port_has_a_pool() {
        assert_eq!(by_node(&[]), [(None, 0)]);
        assert_eq!(by_node(&[None, None]), [(None, 2)]);
        assert_eq!(by_node(&[None, Some(1), Some(0), Some(1)]), [(Some(1), 3), (Some(0), 1)]);
    }
}
