//! The processor's time stamp: what a cycle is counted by.

use super::eal::Eal;

/// The time stamp counter now. Reading it waits for nothing: what was begun before may still go on.
#[inline]
pub fn now() -> u64 {
    // SAFETY: reads a register.
    unsafe { dpdk_sys::rte_rdtsc() }
}

/// Its cycles a second, as EAL has measured them at the start.
pub fn per_second(_eal: &Eal) -> u64 {
    // SAFETY: EAL runs (`_eal`).
    unsafe { dpdk_sys::rte_get_tsc_hz() }
}
