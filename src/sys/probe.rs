//! Comparing a key with the four of a bucket: by AVX2, by SSE4.2, and in plain code for every other machine. Which of
//! them is found out once; each says the same.

use super::memory::Bucket;

/// The quad of a bucket that holds values: every other one is a part of the keys.
pub const VALUES: usize = 1;

/// A way to compare that this CPU has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe(Way);

/// Kept to this module: whoever holds a `Probe` knows that the CPU can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Sse42,
    Portable,
}

/// A way to compare as a type, so that work is compiled for it.
pub trait Lanes: Copy {
    /// The entries of the bucket that have this key, one bit each, without a branch: which one it is cannot be
    /// predicted.
    fn matches<const QUADS: usize>(self, bucket: &Bucket<QUADS>, key: &[u64; QUADS]) -> u32;
}

/// What is done with one of the ways. `run` wants to be `#[inline(always)]`: then all that is inlined into it is
/// compiled for the instructions of the way.
pub trait Work {
    type Answer;
    fn run<L: Lanes>(self, lanes: L) -> Self::Answer;
}

impl Probe {
    pub const PORTABLE: Probe = Probe(Way::Portable);

    /// Every way that this CPU has, the best first.
    pub fn all() -> impl Iterator<Item = Probe> {
        #[cfg(target_arch = "x86_64")]
        let special = [
            (std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("bmi2"))
                .then_some(Probe(Way::Avx2)),
            std::arch::is_x86_feature_detected!("sse4.2").then_some(Probe(Way::Sse42)),
        ];
        #[cfg(not(target_arch = "x86_64"))]
        let special = [];
        special.into_iter().flatten().chain([Probe::PORTABLE])
    }

    pub fn best() -> Probe {
        Probe::all().next().unwrap_or(Probe::PORTABLE)
    }

    pub const fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Way::Avx2 => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Way::Sse42 => "SSE4.2",
            Way::Portable => "portable",
        }
    }

    /// Does some work in this way. The way is decided once for all of it.
    #[inline]
    pub fn run<W: Work>(self, work: W) -> W::Answer {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a Probe of this way is only made where the CPU was found to have it. For speed: a third of the
            // instructions of the portable comparison.
            Way::Avx2 => unsafe { run_avx2(work) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Way::Sse42 => unsafe { run_sse42(work) },
            Way::Portable => work.run(Portable),
        }
    }
}

#[derive(Clone, Copy)]
struct Portable;

impl Lanes for Portable {
    #[inline(always)]
    fn matches<const QUADS: usize>(self, bucket: &Bucket<QUADS>, key: &[u64; QUADS]) -> u32 {
        matches(bucket, key)
    }
}

/// In plain code.
#[inline(always)]
pub fn matches<const QUADS: usize>(bucket: &Bucket<QUADS>, key: &[u64; QUADS]) -> u32 {
    let mut found = 0b1111;
    for quad in (0..QUADS).filter(|quad| *quad != VALUES) {
        let word = key[quad];
        let equal = |entry: usize| u32::from(bucket.0[quad][entry] == word) << entry;
        found &= equal(0) | equal(1) | equal(2) | equal(3);
    }
    found
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi2")]
fn run_avx2<W: Work>(work: W) -> W::Answer {
    work.run(Avx2)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2")]
fn run_sse42<W: Work>(work: W) -> W::Answer {
    work.run(Sse42)
}

/// Made in `run_avx2` alone, where the CPU has it.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Avx2;

#[cfg(target_arch = "x86_64")]
impl Lanes for Avx2 {
    #[inline(always)]
    fn matches<const QUADS: usize>(self, bucket: &Bucket<QUADS>, key: &[u64; QUADS]) -> u32 {
        use std::arch::x86_64::*;
        // SAFETY: whoever has an Avx2 is called by `run_avx2`; the loads are 32 bytes of a live bucket, which is
        // aligned to 64 and has its quads in a row.
        unsafe {
            let mut equal = _mm256_set1_epi64x(-1);
            for quad in (0..QUADS).filter(|quad| *quad != VALUES) {
                let entries = _mm256_load_si256(std::ptr::from_ref(&bucket.0[quad]).cast());
                equal = _mm256_and_si256(equal, _mm256_cmpeq_epi64(entries, _mm256_set1_epi64x(key[quad] as i64)));
            }
            _mm256_movemask_pd(_mm256_castsi256_pd(equal)) as u32
        }
    }
}

/// Made in `run_sse42` alone, where the CPU has it.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Sse42;

#[cfg(target_arch = "x86_64")]
impl Lanes for Sse42 {
    #[inline(always)]
    fn matches<const QUADS: usize>(self, bucket: &Bucket<QUADS>, key: &[u64; QUADS]) -> u32 {
        use std::arch::x86_64::*;
        // SAFETY: whoever has a Sse42 is called by `run_sse42`; the loads are halves of a live bucket's quads, aligned
        // to 16.
        unsafe {
            let mut equal = [_mm_set1_epi64x(-1); 2];
            for quad in (0..QUADS).filter(|quad| *quad != VALUES) {
                let word = _mm_set1_epi64x(key[quad] as i64);
                for (half, equal) in equal.iter_mut().enumerate() {
                    let entries = _mm_load_si128(std::ptr::from_ref(&bucket.0[quad][2 * half]).cast());
                    *equal = _mm_and_si128(*equal, _mm_cmpeq_epi64(entries, word));
                }
            }
            let half = |equal| _mm_movemask_pd(_mm_castsi128_pd(equal)) as u32;
            half(equal[0]) | half(equal[1]) << 2
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Words from a handful, so that whole keys, and parts of them, are often equal.
    fn word() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), Just(1), Just(1 << 32), Just(u64::MAX), Just(1 << 63)]
    }

    struct Ask<const QUADS: usize>(Bucket<QUADS>, [u64; QUADS]);

    impl<const QUADS: usize> Work for Ask<QUADS> {
        type Answer = u32;
        fn run<L: Lanes>(self, lanes: L) -> u32 {
            lanes.matches(&self.0, &self.1)
        }
    }

    fn told<const QUADS: usize>(probe: Probe, bucket: Bucket<QUADS>, key: [u64; QUADS]) -> u32 {
        probe.run(Ask(bucket, key))
    }

    fn by_hand<const QUADS: usize>(bucket: Bucket<QUADS>, key: [u64; QUADS]) -> u32 {
        let same = |entry: usize| (0..QUADS).all(|quad| quad == VALUES || bucket.0[quad][entry] == key[quad]);
        (0..4).map(|entry| u32::from(same(entry)) << entry).sum()
    }

    proptest! {
        #[test]
        fn every_way_says_the_same(
            narrow in prop::array::uniform2(prop::array::uniform4(word())),
            wide in prop::array::uniform4(prop::array::uniform4(word())),
            key in prop::array::uniform4(word()),
        ) {
            for probe in Probe::all() {
                let narrow_key = [key[0], key[1]];
                prop_assert_eq!(told(probe, Bucket(narrow), narrow_key), by_hand(Bucket(narrow), narrow_key));
                prop_assert_eq!(told(probe, Bucket(wide), key), by_hand(Bucket(wide), key), "{}", probe.name());
            }
            prop_assert_eq!(matches(&Bucket(wide), &key), by_hand(Bucket(wide), key));
        }
    }

    #[test]
    fn there_is_always_a_way() {
        assert_eq!(Probe::all().last(), Some(Probe::PORTABLE));
        assert_eq!(Probe::all().next(), Some(Probe::best()));
    }
}
