//! The schedulers that look at all reals and take the best; of several, the newest.

use super::{Load, Member, Scene};
use crate::service::RealId;

/// What a connection costs: an active one as much as 256 inactive ones.
pub(super) fn overhead(load: Load) -> u64 {
    u64::from(load.active) * 256 + u64::from(load.inactive)
}

/// The least cost for its weight. Of weights and costs only ratios are compared, in whole numbers.
pub(super) fn lightest<'m>(members: impl Iterator<Item = (&'m Member, u64)>) -> Option<&'m Member> {
    let better = |best: (&'m Member, u64), next: (&'m Member, u64)| {
        if is_lighter(next, best) { next } else { best }
    };
    members.reduce(better).map(|(member, _)| member)
}

/// For its weight it has less to do.
pub(super) fn is_lighter(one: (&Member, u64), other: (&Member, u64)) -> bool {
    u128::from(one.1) * u128::from(other.0.weight) < u128::from(other.1) * u128::from(one.0.weight)
}

/// lc
pub(super) fn connections<'s, L: Fn(RealId) -> Load>(scene: &'s Scene<'_, L>) -> Option<&'s Member> {
    let costs = scene.loaded().map(|(member, load)| (member, overhead(load)));
    costs.reduce(|best, next| if next.1 < best.1 { next } else { best }).map(|(member, _)| member)
}

/// wlc
pub(super) fn weighted<'s, L: Fn(RealId) -> Load>(scene: &'s Scene<'_, L>) -> Option<&'s Member> {
    lightest(scene.loaded().map(|(member, load)| (member, overhead(load))))
}

/// sed: with the new connection counted.
pub(super) fn delay<'s, L: Fn(RealId) -> Load>(scene: &'s Scene<'_, L>) -> Option<&'s Member> {
    lightest(scene.loaded().map(|(member, load)| (member, u64::from(load.active) + 1)))
}

/// nq: whoever is idle; else sed.
pub(super) fn never_queue<'s, L: Fn(RealId) -> Load>(scene: &'s Scene<'_, L>) -> Option<&'s Member> {
    let idle = scene.loaded().find(|(_, load)| load.active == 0);
    idle.map(|(member, _)| member).or_else(|| delay(scene))
}

/// fo: the greatest weight.
pub(super) fn fail_over<'s, L: Fn(RealId) -> Load>(scene: &'s Scene<'_, L>) -> Option<&'s Member> {
    heaviest(scene.usable())
}

/// ovf: the greatest weight of those that have not more active connections than weight.
pub(super) fn overflow<'s, L: Fn(RealId) -> Load>(scene: &'s Scene<'_, L>) -> Option<&'s Member> {
    let has_room = |(member, load): &(&Member, Load)| load.active <= u32::from(member.weight);
    heaviest(scene.loaded().filter(has_room).map(|(member, _)| member))
}

/// The first of them, where `max_by_key` has the last.
fn heaviest<'m>(members: impl Iterator<Item = &'m Member>) -> Option<&'m Member> {
    members.reduce(|best, next| if next.weight > best.weight { next } else { best })
}
