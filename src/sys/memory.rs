//! Large, zeroed, cache-line-aligned memory of its own, on huge pages where there are any.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// One cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Line(pub [u64; 8]);

/// What pages a region stands on; huge ones make a lookup in a large table about twice as fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Reserved 2 MB pages.
    Hugetlb,
    /// Ordinary memory that the kernel was asked to put on 2 MB pages.
    TransparentHuge,
    /// Ordinary pages of 4 KB.
    Small,
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backing::Hugetlb => "2 MB pages (reserved)",
            Backing::TransparentHuge => "2 MB pages (transparent, as far as the kernel has them)",
            Backing::Small => "4 KB pages",
        })
    }
}

const HUGE_PAGE: usize = 2 << 20;

/// A mapping of whole lines, owned; unmapped when dropped.
pub struct Region {
    start: NonNull<Line>,
    lines: usize,
    mapped: usize,
    backing: Backing,
}

// SAFETY: the region is plain memory with one owner, like a Box<[Line]>.
unsafe impl Send for Region {}

impl Region {
    /// Zeroed and touched, so that no page fault is left for the packet path.
    pub fn allocate(lines: usize, hugepages: bool) -> io::Result<Region> {
        let bytes = lines
            .checked_mul(size_of::<Line>())
            .and_then(|bytes| bytes.max(1).checked_next_multiple_of(HUGE_PAGE))
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let map = |flags| {
            // SAFETY: a fresh anonymous mapping at an address of the kernel's choice; nobody else knows it.
            unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, flags) }
        };
        let private = MapFlags::PRIVATE | MapFlags::POPULATE;
        let reserved = hugepages.then(|| map(private | MapFlags::HUGETLB | MapFlags::HUGE_2MB).ok()).flatten();
        let (start, backing) = match reserved {
            Some(start) => (start, Backing::Hugetlb),
            None => {
                let start = map(MapFlags::PRIVATE)?;
                // SAFETY: the range is the mapping just made; the advice changes no contents.
                let advised = unsafe { madvise(start, bytes, Advice::LinuxHugepage) };
                (start, if advised.is_ok() { Backing::TransparentHuge } else { Backing::Small })
            }
        };
        let start = NonNull::new(start.cast::<Line>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let mut region = Region { start, lines, mapped: bytes, backing };
        region.fill(Line([0; 8]));
        Ok(region)
    }

    pub fn backing(&self) -> Backing {
        self.backing
    }
}

impl Deref for Region {
    type Target = [Line];
    fn deref(&self) -> &[Line] {
        // SAFETY: the mapping holds `lines` lines, page-aligned and initialised (the kernel zeroes them, and any bits
        // are a Line); it lives as long as `self`, and `&self` keeps writers out.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.lines) }
    }
}

impl DerefMut for Region {
    fn deref_mut(&mut self) -> &mut [Line] {
        // SAFETY: as above, and `&mut self` keeps everybody else out.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.lines) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, whole, and no reference into it outlives `self`. A failure would leave it
        // mapped, which harms nobody.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.mapped) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_zero_and_keeps_what_is_written() {
        let mut region = Region::allocate(100_000, true).unwrap();
        assert_eq!(region.len(), 100_000);
        assert!(region.iter().all(|line| *line == Line([0; 8])));
        region[99_999].0[7] = 42;
        assert_eq!(region[99_999].0[7], 42);
        assert_eq!(std::ptr::from_ref(&region[0]).align_offset(64), 0);
    }

    #[test]
    fn what_cannot_be_had_is_refused() {
        assert!(Region::allocate(usize::MAX / 8, false).is_err());
    }
}
