//! Flows: which real a client's conversation is pinned to, in what state it is, and when it ends.

pub mod owner;
pub mod spread;
pub mod state;
pub mod table;
pub mod template;

pub use template::{Pinned, Template, TemplateKey, Templates};

pub use crate::sys::probe::{Lanes, Work};
pub use owner::Owners;
pub use spread::NicSpread;
pub use state::{Event, FlowState, Timeouts, timeout_ticks};
pub use table::{ClientKey, FlowKey, FlowTable, Hash, Hint, Pin, Slot, Table, TableFull, WideKey, WideTable};
