//! droverd in the lab.
pub struct Director;
pub struct Droverd;
