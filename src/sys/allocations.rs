//! An allocator that counts, for tests that prove that nothing is allocated any more.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static HELD: Cell<i64> = const { Cell::new(0) };
}

/// To be made the global allocator of a test program.
pub struct CountingAllocator;

// SAFETY: everything is the system allocator's own; counting allocates nothing (a const thread-local without a
// destructor).
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        HELD.with(|held| held.set(held.get() + layout.size() as i64));
        // SAFETY: the caller's own promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        HELD.with(|held| held.set(held.get() - layout.size() as i64));
        // SAFETY: the caller's own promises.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// How often this thread has allocated, growth included.
pub fn count() -> u64 {
    COUNT.with(Cell::get)
}

/// Bytes that this thread has allocated and not freed.
pub fn held() -> i64 {
    HELD.with(Cell::get)
}
