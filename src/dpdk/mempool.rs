//! The memory that packet buffers come from.

use std::ffi::{CString, c_int};
use std::ptr::NonNull;
use std::sync::Arc;

use dpdk_sys::rte_mempool;

use super::eal::Eal;
use super::error::Error;
use super::mbuf::Mbuf;

/// Buffers that a registered thread keeps for itself.
const CACHE: u32 = 256;

/// A share in a pool of packet buffers. The last share frees the pool, if all its buffers are back by then; if not, the
/// memory stays, and the buffers stay valid.
#[derive(Clone)]
pub struct Mempool(Arc<Pool>);

struct Pool {
    raw: NonNull<rte_mempool>,
    room: u16,
    eal: Eal,
}

// SAFETY: pools are made for many threads (multi-producer, multi-consumer rings; a cache belongs to one lcore, and an
// lcore to one thread).
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl Mempool {
    /// Room for frames of the usual size: 2048 bytes. `name` is the pool's own, at most 25 bytes; `socket` is where
    /// the memory should be, none: anywhere.
    pub fn create(eal: &Eal, name: &str, buffers: u32, socket: Option<u32>) -> Result<Mempool, Error> {
        Mempool::with_room(eal, name, buffers, dpdk_sys::DROVER_DATA_ROOM, socket)
    }

    /// Room for frames of up to `room` bytes in one piece, for ports with a larger MTU.
    pub fn with_room(eal: &Eal, name: &str, buffers: u32, room: u16, socket: Option<u32>) -> Result<Mempool, Error> {
        let what = || format!("no memory pool of {buffers} packet buffers ({name})");
        let label = CString::new(name).map_err(|_| Error::plain(what()))?;
        let size = room.checked_add(dpdk_sys::DROVER_HEADROOM).ok_or_else(|| Error::plain(what()))?;
        let socket = socket.map_or(dpdk_sys::DROVER_SOCKET_ANY, |socket| socket as c_int);
        let cache = CACHE.min(buffers / 2);
        // SAFETY: EAL runs (`eal`), the name is a C string that is copied.
        let raw = unsafe { dpdk_sys::rte_pktmbuf_pool_create(label.as_ptr(), buffers, cache, 0, size, socket) };
        let raw = NonNull::new(raw).ok_or_else(|| Error::last(what()))?;
        Ok(Mempool(Arc::new(Pool { raw, room, eal: eal.clone() })))
    }

    /// Buffers that somebody holds: mbufs, and what drivers keep ready for receiving.
    pub fn in_use(&self) -> u32 {
        // SAFETY: the pool lives as long as `self`.
        unsafe { dpdk_sys::rte_mempool_in_use_count(self.raw()) }
    }

    pub fn available(&self) -> u32 {
        // SAFETY: the pool lives as long as `self`.
        unsafe { dpdk_sys::rte_mempool_avail_count(self.raw()) }
    }

    /// An empty frame; none when the pool is empty.
    pub fn alloc(&self) -> Option<Mbuf> {
        // SAFETY: the pool lives; what comes is null or a buffer that nobody else holds.
        NonNull::new(unsafe { dpdk_sys::rte_pktmbuf_alloc(self.raw()) }).map(|raw| unsafe { Mbuf::from_raw(raw) })
    }

    /// A frame with these bytes; none when the pool is empty or a buffer too small.
    pub fn from_bytes(&self, bytes: &[u8]) -> Option<Mbuf> {
        let mut mbuf = self.alloc()?;
        mbuf.append(bytes).then_some(mbuf)
    }

    /// The longest frame that fits into one buffer.
    pub fn room(&self) -> u16 {
        self.0.room
    }

    pub(super) fn raw(&self) -> *mut rte_mempool {
        self.0.raw.as_ptr()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: the pool is alive until the next statement.
        let held = unsafe { dpdk_sys::rte_mempool_in_use_count(self.raw.as_ptr()) };
        if held > 0 {
            return self.eal.buffers_remain();
        }
        // SAFETY: nobody can take from it (the last share; ports hold shares), and nobody holds a buffer.
        unsafe { dpdk_sys::rte_mempool_free(self.raw.as_ptr()) };
    }
}
