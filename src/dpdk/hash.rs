//! DPDK's own hash table, with keys of 64 bits: what the flow table is measured against.

use std::ffi::{CString, c_void};
use std::ptr::NonNull;

use dpdk_sys::{rte_hash, rte_hash_parameters};

use super::eal::Eal;
use super::error::Error;

/// The most keys that one question holds, a limit of DPDK's.
pub const BULK: usize = 64;

/// One user at a time; freed when dropped.
pub struct HashTable {
    raw: NonNull<rte_hash>,
    _eal: Eal,
}

impl HashTable {
    /// A table with `entries` slots, or what DPDK makes of them. `name` is its own.
    pub fn create(eal: &Eal, name: &str, entries: u32) -> Result<HashTable, Error> {
        let what = || format!("no hash table of {entries} entries ({name})");
        let name = CString::new(name).map_err(|_| Error::plain(what()))?;
        let parameters = rte_hash_parameters {
            name: name.as_ptr(),
            entries,
            key_len: size_of::<u64>() as u32,
            ..rte_hash_parameters::default()
        };
        // SAFETY: EAL runs (`eal`), and DPDK copies the parameters and the name.
        let raw = unsafe { dpdk_sys::rte_hash_create(&parameters) };
        let raw = NonNull::new(raw).ok_or_else(|| Error::last(what()))?;
        Ok(HashTable { raw, _eal: eal.clone() })
    }

    /// Enters a key, and answers whether there was room.
    #[inline]
    pub fn add(&mut self, key: u64) -> bool {
        // SAFETY: ours alone, and the key has the length that the table was made for.
        unsafe { dpdk_sys::rte_hash_add_key(self.raw.as_ptr(), (&raw const key).cast()) >= 0 }
    }

    /// Answers whether the key was there.
    pub fn remove(&mut self, key: u64) -> bool {
        // SAFETY: as in `add`.
        unsafe { dpdk_sys::rte_hash_del_key(self.raw.as_ptr(), (&raw const key).cast()) >= 0 }
    }

    /// Where each key is, negative if nowhere; for as many keys as there are places in both, at most `BULK`.
    #[inline]
    pub fn find(&self, keys: &[u64], positions: &mut [i32]) {
        let count = keys.len().min(positions.len()).min(BULK);
        let mut pointers = [std::ptr::null::<c_void>(); BULK];
        for (pointer, key) in pointers.iter_mut().zip(&keys[..count]) {
            *pointer = std::ptr::from_ref(key).cast();
        }
        // SAFETY: `count` pointers to keys that live, and as many positions to write to.
        unsafe {
            dpdk_sys::rte_hash_lookup_bulk(
                self.raw.as_ptr(),
                pointers.as_mut_ptr(),
                count as u32,
                positions.as_mut_ptr(),
            );
        }
    }
}

impl Drop for HashTable {
    fn drop(&mut self) {
        // SAFETY: ours, and nobody refers to it any more.
        unsafe { dpdk_sys::rte_hash_free(self.raw.as_ptr()) };
    }
}
