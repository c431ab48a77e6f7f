//! Asking for a cache line ahead of need.

use super::memory::Line;

/// Starts loading the line into the first cache.
#[inline(always)]
pub fn line(line: &Line) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing into the program, and the address is that of a live reference. For speed: it
    // hides the one cache miss that a packet cannot avoid behind the rest of its burst.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(line).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}
