//! Threads that DPDK did not start.

use std::marker::PhantomData;

use super::eal::Eal;
use super::error::Error;

/// The calling thread has a number with DPDK: only then do mempools keep a cache for it. Dropped on the same thread.
pub struct Registered {
    _eal: Eal,
    /// Not `Send`: it speaks of this thread.
    _here: PhantomData<*const ()>,
}

impl Registered {
    pub fn new(eal: &Eal) -> Result<Registered, Error> {
        // SAFETY: EAL runs (`eal`).
        if unsafe { dpdk_sys::rte_thread_register() } < 0 {
            return Err(Error::last("this thread cannot be registered with DPDK"));
        }
        Ok(Registered { _eal: eal.clone(), _here: PhantomData })
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // SAFETY: registered by `new` on this very thread.
        unsafe { dpdk_sys::rte_thread_unregister() };
    }
}
