//! Large, zeroed memory of its own for the flow tables, in whole cache lines, on huge pages where there are any and on
//! the memory node that is wanted.

use std::fmt;
use std::fs;
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;

use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap_anonymous, mprotect, munmap};

/// Four entries in whole cache lines: `QUADS` words of each, one word of all four side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Bucket<const QUADS: usize>(pub [[u64; 4]; QUADS]);

impl<const QUADS: usize> Bucket<QUADS> {
    pub const EMPTY: Bucket<QUADS> = Bucket([[0; 4]; QUADS]);
}

const _: () = assert!(size_of::<Bucket<2>>() == 64 && size_of::<Bucket<4>>() == 128);

/// What pages a region stands on; huge ones make a lookup in a large table about twice as fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Reserved pages of 1 GB.
    Gigabyte,
    /// Reserved pages of 2 MB.
    Hugetlb,
    /// Ordinary memory of which the kernel has put so many of the bytes on 2 MB pages, as it says itself.
    Transparent { huge: usize, bytes: usize },
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Backing::Gigabyte => f.write_str("1 GB pages (reserved)"),
            Backing::Hugetlb => f.write_str("2 MB pages (reserved)"),
            Backing::Transparent { huge: 0, .. } => f.write_str("4 KB pages"),
            Backing::Transparent { huge, bytes } if huge >= bytes => f.write_str("2 MB pages (transparent)"),
            Backing::Transparent { huge, bytes } => {
                write!(f, "2 MB pages (transparent) for {} of {} MB, the rest on 4 KB pages", huge / MB, bytes / MB)
            }
        }
    }
}

/// get_mempolicy's MPOL_F_NODE | MPOL_F_ADDR, which the libc crate does not have.
const NODE_OF_ADDRESS: libc::c_int = 1 | 2;
const MB: usize = 1 << 20;
const HUGE_PAGE: usize = 2 * MB;
const GIGABYTE: usize = 1 << 30;

/// A mapping of whole buckets, owned; unmapped when dropped. Never empty.
pub struct Region<const QUADS: usize> {
    start: NonNull<Bucket<QUADS>>,
    buckets: usize,
    /// Of these, the first so many are what hashes choose from.
    chosen: u32,
    mapping: Mapping,
    backing: Backing,
}

// SAFETY: the region is plain memory with one owner, like a Box<[Bucket]>.
unsafe impl<const QUADS: usize> Send for Region<QUADS> {}

impl<const QUADS: usize> Region<QUADS> {
    /// `chosen` buckets that hashes choose from and `others` behind them, zeroed and touched, so that no page fault is
    /// left for the packet path; on memory of `node` as far as it has some.
    pub fn allocate(chosen: u32, others: usize, hugepages: bool, node: Option<u32>) -> io::Result<Region<QUADS>> {
        let buckets = (chosen.max(1) as usize).saturating_add(others);
        let bytes = buckets.checked_mul(size_of::<Bucket<QUADS>>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let reserved = || [GIGABYTE, HUGE_PAGE].into_iter().find_map(|page| reserved(bytes, page, page / 8, node));
        // A page that is mostly unused is still better than small ones.
        let wasteful = || reserved_at_any_cost(bytes, node);
        let (mapping, backing) = match hugepages.then(|| reserved().or_else(wasteful)).flatten() {
            Some(found) => found,
            None => ordinary(bytes, node)?,
        };
        let start = mapping.start.cast();
        let mut region = Region { start, buckets, chosen: chosen.max(1), mapping, backing };
        region.fill(Bucket::EMPTY);
        if let Backing::Transparent { huge, bytes } = &mut region.backing {
            *huge = region.mapping.huge_bytes().min(*bytes);
        }
        Ok(region)
    }

    pub fn backing(&self) -> Backing {
        self.backing
    }

    /// The memory node that the region's first byte really is on, where the kernel tells.
    pub fn node(&self) -> Option<u32> {
        let mut node: libc::c_int = -1;
        // SAFETY: the kernel writes one int to `node`, reads no mask (null, 0), and only looks at the address.
        let result = unsafe {
            libc::syscall(
                libc::SYS_get_mempolicy,
                &raw mut node,
                std::ptr::null_mut::<libc::c_ulong>(),
                0,
                self.start.as_ptr(),
                NODE_OF_ADDRESS,
            )
        };
        (result == 0).then_some(node).and_then(|node| u32::try_from(node).ok())
    }

    /// The place that a 32-bit hash chooses: a multiplication instead of a mask, so that any number will do.
    #[inline(always)]
    pub const fn place(&self, hash: u32) -> usize {
        ((hash as u64 * self.chosen as u64) >> 32) as usize
    }

    /// The bucket at `place(hash)`.
    #[inline(always)]
    pub fn choose(&self, hash: u32) -> &Bucket<QUADS> {
        // SAFETY: hash < 2^32, so the product shifted right by 32 is less than `chosen`, which is at most `buckets`.
        // For speed: a packet pays for this line twice (prefetch and probe), and the check cannot fail.
        unsafe { self.start.add(self.place(hash)).as_ref() }
    }
}

impl<const QUADS: usize> Deref for Region<QUADS> {
    type Target = [Bucket<QUADS>];
    #[inline(always)]
    fn deref(&self) -> &[Bucket<QUADS>] {
        // SAFETY: the mapping holds `buckets` buckets, page-aligned and initialised (the kernel zeroes them, and any
        // bits are a Bucket); it lives as long as `self`, and `&self` keeps writers out.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.buckets) }
    }
}

impl<const QUADS: usize> DerefMut for Region<QUADS> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [Bucket<QUADS>] {
        // SAFETY: as above, and `&mut self` keeps everybody else out.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.buckets) }
    }
}

/// What was mapped: more than is used, because a huge page has to begin at a multiple of its size.
struct Mapping {
    base: NonNull<u8>,
    mapped: usize,
    start: NonNull<u8>,
    used: usize,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, whole, and no reference into it outlives its owner. A failure would leave it
        // mapped, which harms nobody.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.mapped) };
    }
}

impl Mapping {
    /// Address space alone, with nothing behind it yet.
    fn new(used: usize, flags: MapFlags, guard: usize, protection: ProtFlags) -> io::Result<Mapping> {
        let mapped = used.checked_add(2 * guard).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice; nobody else knows it.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), mapped, protection, MapFlags::PRIVATE | flags)? };
        let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let offset = if guard == 0 { 0 } else { guard - base.addr().get() % guard };
        // SAFETY: 0 < offset <= guard when there is a guard, so `start` and the `used` bytes after it lie within the
        // mapping.
        let start = unsafe { base.add(offset) };
        Ok(Mapping { base, mapped, start, used })
    }

    /// Asks the kernel for memory of `node`. It is a wish: a node that is not there, or full, is not a reason to stop.
    fn prefer(&self, node: Option<u32>) {
        let Some(mask) = node.and_then(|node| 1u64.checked_shl(node)) else { return };
        // SAFETY: the range is the mapping's, nothing has touched it yet; the kernel reads the 64 bits of the mask.
        unsafe {
            libc::syscall(
                libc::SYS_mbind,
                self.start.as_ptr(),
                self.used,
                libc::MPOL_PREFERRED,
                &raw const mask,
                u64::BITS + 1,
                0,
            )
        };
    }

    /// Has the kernel put memory behind it now: what it does not have is an error here, and a signal later.
    fn populate(&self) -> io::Result<()> {
        // SAFETY: the range is the mapping's; the advice changes no contents.
        match unsafe { madvise(self.start.as_ptr().cast(), self.used, Advice::LinuxPopulateWrite) } {
            // A kernel before 5.14 does not know it: the first write will do it.
            Err(rustix::io::Errno::INVAL) => Ok(()),
            other => Ok(other?),
        }
    }

    /// How much of it is on transparent huge pages, as the kernel says. It is a mapping of its own between its guards,
    /// so the numbers of its entry are its own.
    fn huge_bytes(&self) -> usize {
        let entry = format!("{:x}-", self.start.addr());
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
        let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&entry));
        number_of(&mut lines, "AnonHugePages:").unwrap_or(0)
    }
}

/// Bytes, of the first line that begins with `name` and goes on in kB.
fn number_of<'t>(lines: &mut impl Iterator<Item = &'t str>, name: &str) -> Option<usize> {
    let rest = lines.find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse::<usize>().ok()?.checked_mul(1024)
}

/// Memory on reserved pages, if there are enough and at most `waste` bytes of them stay unused.
fn reserved(bytes: usize, page: usize, waste: usize, node: Option<u32>) -> Option<(Mapping, Backing)> {
    let used = bytes.checked_next_multiple_of(page).filter(|used| used - bytes <= waste.max(HUGE_PAGE))?;
    let (size, backing) = match page {
        GIGABYTE => (MapFlags::HUGE_1GB, Backing::Gigabyte),
        _ => (MapFlags::HUGE_2MB, Backing::Hugetlb),
    };
    let mapping = Mapping::new(used, MapFlags::HUGETLB | size, 0, ProtFlags::READ | ProtFlags::WRITE).ok()?;
    mapping.prefer(node);
    mapping.populate().ok()?;
    Some((mapping, backing))
}

fn reserved_at_any_cost(bytes: usize, node: Option<u32>) -> Option<(Mapping, Backing)> {
    reserved(bytes, GIGABYTE, GIGABYTE, node)
}

/// Ordinary memory, transparently huge if the kernel will.
fn ordinary(bytes: usize, node: Option<u32>) -> io::Result<(Mapping, Backing)> {
    let used = bytes.checked_next_multiple_of(HUGE_PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
    let free = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|meminfo| number_of(&mut meminfo.lines(), "MemAvailable:"))
        .unwrap_or(usize::MAX);
    if used > free {
        let what = format!("{} MB are needed, {} MB are free", used.div_ceil(MB), free / MB);
        return Err(io::Error::new(io::ErrorKind::OutOfMemory, what));
    }
    let mapping = Mapping::new(used, MapFlags::NORESERVE, HUGE_PAGE, ProtFlags::empty())?;
    let writable = MprotectFlags::READ | MprotectFlags::WRITE;
    // SAFETY: the range is within the mapping just made, and nothing else knows it.
    unsafe { mprotect(mapping.start.as_ptr().cast(), used, writable)? };
    mapping.prefer(node);
    // SAFETY: as above; the advice changes no contents. Refused, it is ordinary pages, and `Backing` says so.
    let _ = unsafe { madvise(mapping.start.as_ptr().cast(), used, Advice::LinuxHugepage) };
    mapping.populate()?;
    Ok((mapping, Backing::Transparent { huge: 0, bytes: used }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_zero_and_keeps_what_is_written() {
        let mut region = Region::<2>::allocate(99_984, 16, true, None).unwrap();
        assert_eq!(region.len(), 100_000);
        assert!(region.iter().all(|bucket| *bucket == Bucket::EMPTY));
        region[99_999].0[1][3] = 42;
        assert_eq!(region[99_999].0[1][3], 42);
        assert_eq!(std::ptr::from_ref(&region[0]).align_offset(64), 0);
    }

    #[test]
    fn hashes_choose_evenly_and_never_what_is_behind() {
        let region = Region::<4>::allocate(1_000, 16, false, None).unwrap();
        assert_eq!((region.place(0), region.place(u32::MAX)), (0, 999));
        assert!(std::ptr::eq(region.choose(u32::MAX), &region[999]));
        let mut chosen = [0; 1_000];
        (0..100_000u32).for_each(|step| chosen[region.place(step.wrapping_mul(42_950))] += 1);
        assert!(chosen.iter().all(|count| (99..=101).contains(count)), "{chosen:?}");
    }

    #[test]
    fn what_cannot_be_had_is_refused_with_the_numbers() {
        assert!(Region::<4>::allocate(u32::MAX, usize::MAX / 64, false, None).is_err());
        let error = Region::<4>::allocate(u32::MAX, 1 << 40, true, None).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("134742016 MB are needed, ") && error.ends_with(" MB are free"), "{error}");
    }

    /// What `Backing` says of transparent pages is what the kernel says of the page under a byte.
    #[test]
    fn the_pages_are_said_as_they_are() {
        let region = Region::<2>::allocate(1 << 17, 0, false, None).unwrap();
        let Backing::Transparent { huge, bytes } = region.backing() else { panic!("{}", region.backing()) };
        assert_eq!((bytes, huge % HUGE_PAGE), (8 * MB, 0));
        let mode = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
        if !mode.contains("[madvise]") && !mode.contains("[always]") {
            assert_eq!((huge, region.backing().to_string().as_str()), (0, "4 KB pages"));
        } else if huge < bytes {
            let counts = fs::read_to_string("/proc/vmstat").unwrap();
            let refused = counts.lines().find_map(|line| line.strip_prefix("thp_fault_fallback ")).unwrap();
            assert_ne!(refused, "0", "the kernel never refused a huge page, and still they are not here");
        }
        let some = Backing::Transparent { huge: 2 * MB, bytes: 8 * MB };
        assert_eq!(some.to_string(), "2 MB pages (transparent) for 2 of 8 MB, the rest on 4 KB pages");
    }

    #[test]
    fn a_node_is_a_wish() {
        let wished = Region::<2>::allocate(64, 0, false, Some(0)).unwrap();
        assert!(wished.node().is_none_or(|node| node == 0), "{:?}", wished.node());
        assert!(Region::<2>::allocate(64, 0, false, Some(4_000)).is_ok());
    }
}
