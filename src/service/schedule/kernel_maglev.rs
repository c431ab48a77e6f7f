//! The kernel's mh: Maglev with 4,093 places. The same table and the same places for clients as in a 64-bit kernel.

use std::net::IpAddr;

use super::hash::{first_usable, folded};
use super::walk::common_divisor;
use super::{Load, Member, Opening, Scene};
use crate::config::HashFlags;
use crate::service::RealId;

const PLACES: usize = 4093;
/// Weights are cut to so many bits, or the heaviest would take half the table in its first turn.
const WEIGHT_BITS: u32 = 6;
/// Each is both halves of a key.
const FIRST_KEY: u64 = 2_654_435_761;
const SECOND_KEY: u64 = 2_654_446_892;

/// Every real takes places in its own order, as many a turn as its weight says, until none is left.
pub(super) fn table(members: &[Member]) -> Box<[u16]> {
    let divisor = members.iter().map(|member| u32::from(member.last_weight)).fold(0, common_divisor);
    if divisor == 0 {
        return Box::default();
    }
    let heaviest = members.iter().map(|member| u32::from(member.last_weight)).max().unwrap_or(0) / divisor;
    let bits = (u32::BITS - heaviest.leading_zeros()).saturating_sub(WEIGHT_BITS);
    let taking = (0..).zip(members).filter(|(_, member)| member.last_weight > 0);
    let mut walks: Vec<(u16, u32, usize, usize)> = taking
        .map(|(place, member)| {
            let turns = ((u32::from(member.last_weight) / divisor) >> bits).max(1);
            let at = hash(member.address, member.port, 0, FIRST_KEY) as usize % PLACES;
            let step = hash(member.address, member.port, 0, SECOND_KEY) as usize % (PLACES - 1) + 1;
            (place, turns, at, step)
        })
        .collect();
    let mut places: Vec<Option<u16>> = vec![None; PLACES];
    let mut left = PLACES;
    while left > 0 {
        for (place, turns, at, step) in &mut walks {
            for _ in 0..left.min(*turns as usize) {
                while places[*at].is_some() {
                    *at = (*at + *step) % PLACES;
                }
                places[*at] = Some(*place);
                left -= 1;
            }
        }
    }
    places.into_iter().flatten().collect()
}

pub(super) fn choose<'s, L: Fn(RealId) -> Load>(
    scene: &'s Scene<'_, L>,
    flags: HashFlags,
    opening: &Opening,
) -> Option<&'s Member> {
    let port = if flags.port { opening.client_port } else { 0 };
    let place = |offset: usize| hash(opening.client, port, offset as u32, FIRST_KEY) as usize % PLACES;
    let home = place(0);
    first_usable(scene, flags, home, PLACES, |step| place((home + step) % PLACES))
}

fn hash(address: IpAddr, port: u16, offset: u32, key: u64) -> u32 {
    let word = folded(address).wrapping_add(port.into()).wrapping_add(offset);
    sip13(word, key) as u32
}

/// SipHash-1-3 of four bytes, with a key of two equal halves.
fn sip13(word: u32, key: u64) -> u64 {
    // Its constants are "somepseudorandomlygeneratedbytes".
    let mut v = [
        key ^ 0x736f_6d65_7073_6575,
        key ^ 0x646f_7261_6e64_6f6d,
        key ^ 0x6c79_6765_6e65_7261,
        key ^ 0x7465_6462_7974_6573,
    ];
    let last = 4 << 56 | u64::from(word);
    v[3] ^= last;
    sip_round(&mut v);
    v[0] ^= last;
    v[2] ^= 0xff;
    for _ in 0..3 {
        sip_round(&mut v);
    }
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn sip_round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[2] = v[2].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[1]);
    v[0] = v[0].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use std::hash::Hasher;

    /// Its `DefaultHasher::new()` is SipHash-1-3 with a key of zeros.
    #[test]
    fn sip13_is_the_standard_library_s() {
        for word in [0u32, 1, 0x0a09_0001, u32::MAX] {
            let mut hasher = std::collections::hash_map::DefaultHasher::new();
            hasher.write(&word.to_le_bytes());
            assert_eq!(super::sip13(word, 0), hasher.finish());
        }
    }
}
