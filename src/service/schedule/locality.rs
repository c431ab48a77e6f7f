//! lblc and lblcr: an address that was asked for keeps its real, or its group of reals, as long as they can take it.
//! They are meant for caches, each of which should have its part of the addresses.

use std::net::IpAddr;

use super::cache::{Cache, DAY};
use super::least::{is_lighter, overhead, weighted};
use super::{Load, Member, Scene};
use crate::service::RealId;

/// A real that was chosen once. It may be gone, and come back.
#[derive(Clone, Copy, Debug)]
struct Chosen {
    id: RealId,
    holder: u8,
    /// Where in the list it was last.
    place: u16,
}

/// lblc: one real an address.
#[derive(Clone, Debug)]
pub(super) struct Locality(Cache<Chosen>);

/// lblcr: a group of reals an address.
#[derive(Clone, Debug)]
pub(super) struct Replicated {
    groups: Cache<Group>,
    links: Box<[Link]>,
    /// The first of the links that are in no group.
    free: Option<u32>,
}

/// The reals that an address has, the last added first.
#[derive(Clone, Copy, Debug)]
struct Group {
    first: Option<u32>,
    size: u32,
    /// When somebody last joined or left.
    changed: u32,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    chosen: Chosen,
    next: Option<u32>,
}

impl Chosen {
    fn new(scene: &Scene<'_, impl Fn(RealId) -> Load>, member: &Member) -> Chosen {
        let place = scene.roster.members().iter().position(|other| other.id == member.id).unwrap_or(0);
        Chosen { id: member.id, holder: member.holder, place: place as u16 }
    }

    fn is(self, member: &Member) -> bool {
        member.id == self.id && member.holder == self.holder
    }

    fn find<'r>(&mut self, members: &'r [Member]) -> Option<&'r Member> {
        if let Some(member) = members.get(usize::from(self.place)).filter(|member| self.is(member)) {
            return Some(member);
        }
        let place = members.iter().position(|member| self.is(member))?;
        self.place = place as u16;
        members.get(place)
    }
}

/// It has more active connections than weight while another has less than half of its own.
fn is_overloaded<L: Fn(RealId) -> Load>(scene: &Scene<'_, L>, member: &Member) -> bool {
    let is_idle = |other: &Member| other.ready && u64::from(scene.load(other).active) * 2 < u64::from(other.weight);
    scene.load(member).active > u32::from(member.weight) && scene.roster.members().iter().any(is_idle)
}

impl Locality {
    pub fn new(addresses: usize, seed: u64, tick: u32) -> Locality {
        Locality(Cache::new(addresses, seed, tick))
    }

    /// Here, unlike everywhere else, a real keeps its address when it is at its upper limit.
    pub fn choose<'s, L: Fn(RealId) -> Load>(
        &mut self,
        scene: &'s Scene<'_, L>,
        address: IpAddr,
        tick: u32,
    ) -> Option<&'s Member> {
        let known = self.0.touch(address, tick).and_then(|chosen| chosen.find(scene.roster.members()));
        let can_take = |member: &&Member| member.weight > 0 && member.ready && !is_overloaded(scene, member);
        if let Some(member) = known.filter(can_take) {
            return Some(member);
        }
        let member = weighted(scene)?;
        self.0.put(address, tick, Chosen::new(scene, member));
        Some(member)
    }
}

impl Replicated {
    /// With room for two reals an address, and for all of `reals` once; who finds none is not remembered.
    pub fn new(addresses: usize, reals: usize, seed: u64, tick: u32) -> Replicated {
        const SPARE: usize = 16;
        let groups = Cache::new(addresses, seed, tick);
        let room = groups.most() * 2 + reals + SPARE;
        let nobody = Chosen { id: RealId(0), holder: 0, place: 0 };
        let link = |number: u32| Link { chosen: nobody, next: Some(number + 1).filter(|next| *next < room as u32) };
        Replicated { groups, links: (0..room as u32).map(link).collect(), free: Some(0) }
    }

    pub fn choose<'s, L: Fn(RealId) -> Load>(
        &mut self,
        scene: &'s Scene<'_, L>,
        address: IpAddr,
        tick: u32,
    ) -> Option<&'s Member> {
        let Some(mut group) = self.groups.touch(address, tick).copied() else {
            let member = weighted(scene)?;
            let mut group = Group { first: None, size: 0, changed: tick };
            self.join(&mut group, Chosen::new(scene, member), tick);
            self.remember(address, tick, group);
            return Some(member);
        };
        let lightest = self.lightest(scene, group);
        if group.size > 1 && tick.wrapping_sub(group.changed) > DAY {
            self.dismiss_heaviest(scene, &mut group, tick);
        }
        let chosen = lightest.filter(|member| !is_overloaded(scene, member)).or_else(|| {
            let member = weighted(scene)?;
            if !self.has(group, member) {
                self.join(&mut group, Chosen::new(scene, member), tick);
            }
            Some(member)
        });
        if let Some(remembered) = self.groups.touch(address, tick) {
            *remembered = group;
        }
        chosen
    }

    fn remember(&mut self, address: IpAddr, tick: u32, group: Group) {
        if let Some(gone) = self.groups.put(address, tick, group) {
            let mut next = gone.first;
            while let Some(link) = next {
                next = self.links[link as usize].next;
                self.release(link);
            }
        }
    }

    fn join(&mut self, group: &mut Group, chosen: Chosen, tick: u32) {
        let Some(link) = self.free else { return };
        self.free = self.links[link as usize].next;
        self.links[link as usize] = Link { chosen, next: group.first };
        *group = Group { first: Some(link), size: group.size + 1, changed: tick };
    }

    fn release(&mut self, link: u32) {
        self.links[link as usize].next = self.free;
        self.free = Some(link);
    }

    fn has(&self, group: Group, member: &Member) -> bool {
        self.chain(group).any(|link| self.links[link as usize].chosen.is(member))
    }

    fn chain(&self, group: Group) -> impl Iterator<Item = u32> {
        std::iter::successors(group.first, |link| self.links[*link as usize].next)
    }

    #[cfg(test)]
    pub fn assert_all_links_are_somewhere(&self) {
        let free = std::iter::successors(self.free, |link| self.links[*link as usize].next).count();
        let grouped: usize = self.groups.values().map(|group| self.chain(*group).count()).sum();
        let sizes: u32 = self.groups.values().map(|group| group.size).sum();
        assert_eq!((free + grouped, sizes as usize), (self.links.len(), grouped));
    }

    /// Of those that can be chosen.
    fn lightest<'s, L: Fn(RealId) -> Load>(&mut self, scene: &'s Scene<'_, L>, group: Group) -> Option<&'s Member> {
        let mut best: Option<(&Member, u64)> = None;
        let mut next = group.first;
        while let Some(link) = next {
            let link = &mut self.links[link as usize];
            next = link.next;
            let member = link.chosen.find(scene.roster.members());
            if let Some(member) = member.filter(|member| scene.is_usable(member)) {
                let cost = overhead(scene.load(member));
                if best.is_none_or(|best| is_lighter((member, cost), best)) {
                    best = Some((member, cost));
                }
            }
        }
        best.map(|(member, _)| member)
    }

    /// An address that nobody joined for a day does with one real less: one that is gone, or the one with the most load
    /// for its weight.
    fn dismiss_heaviest<L: Fn(RealId) -> Load>(&mut self, scene: &Scene<'_, L>, group: &mut Group, tick: u32) {
        let member_of = |link: u32| {
            let mut chosen = self.links[link as usize].chosen;
            chosen.find(scene.roster.members())
        };
        let gone = self.chain(*group).find(|link| member_of(*link).is_none());
        let weighing = self.chain(*group).filter_map(|link| {
            let member = member_of(link).filter(|member| member.weight > 0)?;
            Some((link, (member, overhead(scene.load(member)))))
        });
        let heaviest = weighing.reduce(|most, next| if is_lighter(most.1, next.1) { next } else { most });
        let Some(leaver) = gone.or(heaviest.map(|(link, _)| link)) else { return };
        let before = self.chain(*group).find(|link| self.links[*link as usize].next == Some(leaver));
        let after = self.links[leaver as usize].next;
        match before {
            Some(before) => self.links[before as usize].next = after,
            None => group.first = after,
        }
        self.release(leaver);
        *group = Group { size: group.size - 1, changed: tick, ..*group };
    }
}
