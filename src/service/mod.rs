//! Services, reals, and the snapshot that holds them: immutable, built by management, read by every worker.

pub mod compose;
pub mod earlier;
pub mod lookup;
pub mod maglev;
pub mod registry;
pub mod rules;
pub mod schedule;
pub mod snapshot;

pub use compose::{Composer, Composition};
pub use registry::Registry;
pub use rules::{Asked, Found};
pub use schedule::{Load, Member, Opening, Roster, Schedule, Start};
pub use snapshot::{Reach, Real, RealId, RealPlan, Service, ServiceId, ServicePlan, Snapshot, Station};
