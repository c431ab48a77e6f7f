//! Round robin, and weighted round robin.

use super::Member;
use crate::service::RealId;

/// The last choice and its place in the list; none before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Walk {
    last: Option<(RealId, usize)>,
}

/// The kernel's interleaved weighted round robin: each pass serves the reals whose weight reaches the level, and each
/// pass's level is one step lower, from the greatest weight down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WeightedWalk {
    walk: Walk,
    level: u32,
    top: u32,
    step: u32,
}

impl Walk {
    /// The next one that will do before the end of the list; it becomes the last.
    fn rest<'m>(&mut self, members: &'m [Member], will_do: impl Fn(&Member) -> bool) -> Option<&'m Member> {
        let from = self.last.map_or(0, |(_, place)| place + 1);
        let (place, found) = members.iter().enumerate().skip(from).find(|(_, member)| will_do(member))?;
        self.last = Some((found.id, place));
        Some(found)
    }

    pub fn next<'m>(&mut self, members: &'m [Member], usable: impl Fn(&Member) -> bool) -> Option<&'m Member> {
        self.rest(members, &usable).or_else(|| {
            let mut from_the_top = Walk::default();
            let found = from_the_top.rest(members, &usable)?;
            *self = from_the_top;
            Some(found)
        })
    }

    /// Goes on behind the last choice; if that is gone, behind the one that stood before it, or from the top.
    pub fn changed(&mut self, members: &[Member]) {
        let Some((last, place)) = self.last else { return };
        let now = members.iter().position(|member| member.id == last);
        let now = now.or_else(|| place.min(members.len()).checked_sub(1));
        self.last = now.and_then(|now| Some((members.get(now)?.id, now)));
    }
}

impl WeightedWalk {
    /// As if the reals had been added one by one, oldest first.
    pub fn grown(members: &[Member]) -> WeightedWalk {
        let mut walk = WeightedWalk { walk: Walk::default(), level: 0, top: 0, step: 1 };
        let (mut greatest, mut divisor) = (0, 0);
        for member in members.iter().rev() {
            greatest = greatest.max(u32::from(member.weight));
            divisor = common_divisor(divisor, member.weight.into());
            walk.settle(greatest, divisor);
        }
        walk
    }

    /// Over a list that is there.
    pub fn over(members: &[Member]) -> WeightedWalk {
        let mut walk = WeightedWalk { walk: Walk::default(), level: 0, top: 0, step: 1 };
        walk.changed(members);
        walk
    }

    /// From the top of the list, at about the level where it was.
    pub fn changed(&mut self, members: &[Member]) {
        self.walk = Walk::default();
        let weights = members.iter().map(|member| u32::from(member.weight));
        self.settle(weights.clone().max().unwrap_or(0), weights.fold(0, common_divisor));
    }

    fn settle(&mut self, greatest: u32, divisor: u32) {
        self.step = divisor.max(1);
        self.top = greatest.saturating_sub(self.step - 1);
        if self.level > self.top || self.level == 0 {
            self.level = self.top;
        } else if self.step > 1 {
            self.level = self.level / self.step * self.step + 1;
        }
    }

    /// `waiting` are those that would be usable if they answered: while there is one, nobody was searched for in vain.
    pub fn next<'m>(
        &mut self,
        members: &'m [Member],
        usable: impl Fn(&Member) -> bool,
        waiting: impl Fn(&Member) -> bool,
    ) -> Option<&'m Member> {
        if self.top == 0 {
            return None;
        }
        let level = self.level;
        if let Some(found) = self.walk.rest(members, |member| reaches(member, level) && usable(member)) {
            return Some(found);
        }
        let weights = members.iter().filter(|member| usable(member)).map(|member| u32::from(member.weight));
        let Some(greatest) = weights.max().filter(|greatest| *greatest > 0) else {
            if !members.iter().any(waiting) {
                self.search_in_vain();
            }
            return None;
        };
        self.walk.last = None;
        self.level = self.lower(greatest);
        let level = self.level;
        self.walk.rest(members, |member| reaches(member, level) && usable(member))
    }

    /// The next level that a usable real reaches; from the top again below the lowest.
    fn lower(&self, greatest: u32) -> u32 {
        let next = match self.level.saturating_sub(self.step) {
            0 => self.top,
            next => next,
        };
        next - next.saturating_sub(greatest).next_multiple_of(self.step)
    }

    /// Nobody can be had: the kernel's search ends where it began if it began on the lowest level within the list, and
    /// otherwise at the top of both.
    fn search_in_vain(&mut self) {
        if self.walk.last.is_none() || self.level > self.step {
            self.walk.last = None;
            self.level = self.top;
        }
    }
}

fn reaches(member: &Member, level: u32) -> bool {
    u32::from(member.weight) >= level
}

/// Zero has no part in it.
pub(super) fn common_divisor(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
