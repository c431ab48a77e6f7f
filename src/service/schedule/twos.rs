//! twos: two reals are drawn by lot, by weight, and the lighter one is taken.

use super::least::{lightest, overhead};
use super::{Load, Member, Scene};
use crate::service::RealId;
use crate::service::maglev::mix;

/// A generator of random numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draw(u64);

impl Draw {
    pub fn new(seed: u64, worker: usize) -> Draw {
        Draw(mix(seed ^ mix(worker as u64 + 1)))
    }

    /// Evenly 0 to `most`.
    fn up_to(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        ((u128::from(mix(self.0)) * (u128::from(most) + 1)) >> 64) as u64
    }

    pub fn choose<'s, L: Fn(RealId) -> Load>(&mut self, scene: &'s Scene<'_, L>) -> Option<&'s Member> {
        let total = scene.usable().map(|member| u64::from(member.weight)).sum();
        let lots = [self.up_to(total), self.up_to(total)];
        lighter_of(scene, lots)
    }
}

/// A lot is 0 to the sum of all weights, both included: the newest real has one chance more, as in the kernel.
pub(super) fn lighter_of<'s, L: Fn(RealId) -> Load>(scene: &'s Scene<'_, L>, lots: [u64; 2]) -> Option<&'s Member> {
    let drawn = |lot: u64| {
        let mut sum = 0;
        scene.usable().find(|member| {
            sum += u64::from(member.weight);
            sum >= lot
        })
    };
    lightest(lots.into_iter().filter_map(drawn).map(|member| (member, overhead(scene.load(member)))))
}
