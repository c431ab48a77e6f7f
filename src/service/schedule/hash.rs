//! The kernel's hashes of addresses, sh and dh: 256 places.

use std::net::IpAddr;

use super::{Load, Member, Opening, Scene};
use crate::config::HashFlags;
use crate::service::RealId;

const PLACES: usize = 256;

/// sh: each real as many places in a row as its weight says, at least one, round and round.
pub(super) fn source_table(members: &[Member]) -> Box<[u16]> {
    deal(members, |member| usize::from(member.weight).max(1))
}

/// dh: weights do not count.
pub(super) fn destination_table(members: &[Member]) -> Box<[u16]> {
    deal(members, |_| 1)
}

fn deal(members: &[Member], turns: impl Fn(&Member) -> usize) -> Box<[u16]> {
    let round = (0..).zip(members).flat_map(|(place, member): (u16, _)| std::iter::repeat_n(place, turns(member)));
    round.cycle().take(PLACES).collect()
}

/// An address in 32 bits.
pub(super) fn folded(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(address) => address.to_bits(),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            (bits >> 96) as u32 ^ (bits >> 64) as u32 ^ (bits >> 32) as u32 ^ bits as u32
        }
    }
}

/// The upper eight bits of a multiplication by the golden ratio.
fn place_of(address: IpAddr, port: u16) -> usize {
    (folded(address).wrapping_add(port.into()).wrapping_mul(0x61c8_8647) >> 24) as usize
}

pub(super) fn by_source<'s, L: Fn(RealId) -> Load>(
    scene: &'s Scene<'_, L>,
    flags: HashFlags,
    opening: &Opening,
) -> Option<&'s Member> {
    let port = if flags.port { opening.client_port } else { 0 };
    let home = place_of(opening.client, port);
    first_usable(scene, flags, home, PLACES, |step| (home + step + home) % PLACES)
}

pub(super) fn by_destination<'s, L: Fn(RealId) -> Load>(
    scene: &'s Scene<'_, L>,
    address: IpAddr,
) -> Option<&'s Member> {
    let flags = HashFlags { port: false, fallback: false };
    first_usable(scene, flags, place_of(address, 0), 0, |_| 0)
}

/// Whose home it is; with fallback, if that one can take nothing, the first that can in the order of `other`.
pub(super) fn first_usable<'s, L: Fn(RealId) -> Load>(
    scene: &'s Scene<'_, L>,
    flags: HashFlags,
    home: usize,
    places: usize,
    other: impl Fn(usize) -> usize,
) -> Option<&'s Member> {
    let owner = scene.roster.in_place(home)?;
    if scene.is_usable(owner) {
        return Some(owner);
    }
    // A table is long: nobody goes through it for nothing.
    if !flags.fallback || scene.usable().next().is_none() {
        return None;
    }
    (0..places).filter_map(|step| scene.roster.in_place(other(step))).find(|member| scene.is_usable(member))
}
