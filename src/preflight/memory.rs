//! Whether packet buffers and flow tables fit, with the arithmetic.

use std::fs;

use super::machine::number_in;
use super::{Machine, Problem};
use crate::config::{Config, FlowsConfig};

const MB: u64 = 1 << 20;

pub(super) fn check(config: &Config, machine: &Machine, problems: &mut Vec<Problem>) {
    let need = Need::of(config);
    if let Some(total) = machine.meminfo("MemTotal").filter(|total| need.bytes() > *total) {
        let what = format!("{}, but this machine has {} MB in all", need.arithmetic, total / MB);
        problems.push(Problem::new(what, need.less()));
    } else if config.hugepages {
        hugepages(&need, machine, problems);
    } else if let Some(free) = machine.meminfo("MemAvailable").filter(|free| need.bytes() > *free) {
        let what = format!("{}, but only {} MB are free", need.arithmetic, free / MB);
        problems.push(Problem::new(what, need.less()));
    }
}

struct Need {
    buffers: u64,
    tables: u64,
    /// The wide table is the larger one.
    mostly_wide: bool,
    arithmetic: String,
}

impl Need {
    fn of(config: &Config) -> Need {
        let workers = config.cores.workers.count();
        // Each table has pages of its own.
        let narrow = FlowsConfig::narrow_bytes(config.flows.per_worker).next_multiple_of(2 * MB);
        let wide = match config.flows.wide_is_least() {
            true => 0,
            false => FlowsConfig::wide_bytes(config.flows.wide_per_worker).next_multiple_of(2 * MB),
        };
        let each = narrow.saturating_add(wide);
        let buffers = u64::from(config.memory_mb) * MB;
        let tables = each.saturating_mul(workers as u64);
        let wide_ones = match wide {
            0 => String::new(),
            _ => format!(", and {} wide ones at about 42.7", config.flows.wide_per_worker),
        };
        let arithmetic = format!(
            "{} MB are needed: memory_mb = {} and {workers} × {} MB for the connections ({} per worker at about 21.3 \
             bytes{wide_ones})",
            buffers.saturating_add(tables).div_ceil(MB),
            config.memory_mb,
            each.div_ceil(MB),
            config.flows.per_worker
        );
        Need { buffers, tables, mostly_wide: wide > narrow, arithmetic }
    }

    fn bytes(&self) -> u64 {
        self.buffers.saturating_add(self.tables)
    }

    fn less(&self) -> String {
        let key = match self.tables > self.buffers {
            true if self.mostly_wide => "wide_per_worker under [flows]",
            true => "per_worker under [flows]",
            false => "memory_mb",
        };
        format!("lower {key}, or use fewer workers")
    }
}

/// Pages of one size.
struct Pages {
    size: u64,
    total: u64,
    free: u64,
}

fn hugepages(need: &Need, machine: &Machine, problems: &mut Vec<Problem>) {
    let all = pages(machine);
    let free: u64 = all.iter().map(|pages| pages.free.saturating_mul(pages.size)).sum();
    if free >= need.bytes() {
        return;
    }
    let default_size = machine.meminfo("Hugepagesize").filter(|size| *size > 0);
    let Some(size) = default_size.filter(|_| !all.is_empty()) else {
        let remedy = "set hugepages = false, and ordinary pages are used";
        problems.push(Problem::new("hugepages = true, but this kernel has no huge pages", remedy));
        return;
    };
    let default = all.iter().find(|pages| pages.size == size);
    let in_use = default.map_or(0, |pages| pages.total.saturating_sub(pages.free));
    let of_other_sizes = free - default.map_or(0, |pages| pages.free.saturating_mul(pages.size));
    let wanted = in_use + (need.bytes() - of_other_sizes).div_ceil(size);
    let found = if free == 0 { "none is free".to_owned() } else { format!("only {} MB are free", free / MB) };
    let what = format!("hugepages = true, but {found}; {}", need.arithmetic);
    problems.push(Problem::new(what, format!("sysctl vm.nr_hugepages={wanted} (or set hugepages = false)")));
}

fn pages(machine: &Machine) -> Vec<Pages> {
    let Ok(directories) = fs::read_dir(machine.sys.join("kernel/mm/hugepages")) else {
        return Vec::new();
    };
    let mut all = Vec::new();
    for directory in directories.flatten() {
        let name = directory.file_name();
        let size =
            name.to_str().and_then(|name| name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<u64>().ok());
        let count = |file: &str| number_in(&directory.path().join(file)).unwrap_or(0);
        if let Some(size) = size {
            // Promised to somebody who has not touched them yet: free by count, and not for us.
            let free = count("free_hugepages").saturating_sub(count("resv_hugepages"));
            all.push(Pages { size: size.saturating_mul(1024), total: count("nr_hugepages"), free });
        }
    }
    all
}
