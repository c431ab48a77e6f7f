//! Asking for cache lines ahead of need.

use super::memory::Bucket;

/// Starts loading the bucket's lines into the first cache.
#[inline(always)]
pub fn bucket<const QUADS: usize>(bucket: &Bucket<QUADS>) {
    #[cfg(target_arch = "x86_64")]
    for quad in bucket.0.iter().step_by(2) {
        // SAFETY: a prefetch reads nothing into the program, and the address is that of a live reference. For speed:
        // it hides the one cache miss that a packet cannot avoid behind the rest of its burst.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(quad).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bucket;
}
