//! The Internet checksum: whole, and in steps (RFC 1624).

/// The one's complement sum of `bytes`, folded to 16 bits and inverted. Over data that contains its own checksum it is
/// zero.
pub fn checksum(bytes: &[u8]) -> u16 {
    !fold(sum(bytes))
}

/// Whether the sum over a header of 20 bytes is right. The order of bytes does not matter to a one's complement sum
/// (RFC 1071), so this adds up five native words.
#[inline(always)]
pub fn is_right(header: &[u8; 20]) -> bool {
    let (words, _) = header.as_chunks::<4>();
    sums_up(words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum())
}

/// Whether this sum of a header with its checksum is right. Folding is the remainder by 65,535, which is zero when all
/// is well: one multiplication.
#[inline(always)]
pub const fn sums_up(total: u64) -> bool {
    total != 0 && total.is_multiple_of(0xffff)
}

/// Adds up 16-bit words; an odd byte counts as the high half of a last word.
pub fn sum(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(2);
    let mut total: u64 = words.by_ref().map(|word| u64::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    if let [last] = words.remainder() {
        total += u64::from(*last) << 8;
    }
    total
}

#[inline]
pub const fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// The checksum after one 16-bit word under it has changed from `old` to `new`: HC' = ~(~HC + ~m + m').
#[inline(always)]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    // Less than 3 × 65,536: two rounds fold it.
    let total = !checksum as u32 + !old as u32 + new as u32;
    let once = (total & 0xffff) + (total >> 16);
    !(once + (once >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_step_is_the_same_as_starting_over(mut words in proptest::collection::vec(any::<u16>(), 1..40), at in any::<prop::sample::Index>(), new: u16) {
            // A header is never all zeroes, and only then do the two representations of zero differ.
            prop_assume!(words.iter().any(|word| *word != 0) && new != 0);
            let bytes = |words: &[u16]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>();
            let before = checksum(&bytes(&words));
            let at = at.index(words.len());
            let old = std::mem::replace(&mut words[at], new);
            prop_assert_eq!(update(before, old, new), checksum(&bytes(&words)));
        }
    }

    proptest! {
        #[test]
        fn the_short_way_agrees(mut header: [u8; 20], good: bool) {
            if good {
                header[10..12].fill(0);
                let right = checksum(&header).to_be_bytes();
                header[10..12].copy_from_slice(&right);
            }
            prop_assert_eq!(is_right(&header), checksum(&header) == 0);
        }
    }

    #[test]
    fn known_header() {
        let header = [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
        assert_eq!(checksum(&header), 0xb861);
        assert_eq!(checksum(&[0x01]), !0x0100);
    }
}
