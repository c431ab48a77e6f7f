//! Ports: how many a director has, and what each counts itself, the judge of what the workers count.

use serde::{Deserialize, Serialize};

/// The most ports that a director has.
pub const MAX_PORTS: usize = 16;

/// The port's own statistics, as its driver counts them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStats {
    /// Of the port in the configuration; until the operator's word for it is put here, the driver's device.
    pub name: String,
    pub received: u64,
    pub received_bytes: u64,
    pub sent: u64,
    pub sent_bytes: u64,
    /// Lost in the port: no descriptor or no buffer was free.
    pub missed: u64,
    pub errors: u64,
    pub send_errors: u64,
    pub no_buffer: u64,
}
