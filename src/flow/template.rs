//! Persistence: which real a client's next connections go to, for a while after the last of them began.
//!
//! A template lives as long as its service says after the last connection that used it, and as long as one of these
//! connections does. There is room for so many, allocated at the start; a client beyond that is scheduled like any other.
//!
//! Spoofed clients must not keep that room. A connection that begins half open while such connections, or templates, are
//! scarce is *hurried*; a template that none but hurried connections have used goes with the last of them, unless one of
//! them was established: from then on it is like any other.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::clock::TICKS_PER_SECOND;
use crate::service::{RealId, ServiceId};

/// How much longer a template lives whose time is over while connections of it are there.
const GRACE: u32 = 60 * TICKS_PER_SECOND;

/// A client, as far as its service tells clients apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TemplateKey {
    pub service: ServiceId,
    network: IpAddr,
}

impl TemplateKey {
    /// Of a client's address the first `prefix` bits count.
    pub fn new(service: ServiceId, client: IpAddr, prefix: u8) -> TemplateKey {
        let network = match client {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32u32.saturating_sub(prefix.into())).unwrap_or(0);
                IpAddr::V4((address.to_bits() & mask).into())
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128u32.saturating_sub(prefix.into())).unwrap_or(0);
                IpAddr::V6((address.to_bits() & mask).into())
            }
        };
        TemplateKey { service, network }
    }

    /// Told apart from other clients, nearly.
    pub fn bits(&self) -> u64 {
        match self.network {
            IpAddr::V4(address) => address.to_bits().into(),
            IpAddr::V6(address) => (address.to_bits() >> 64) as u64 ^ (address.to_bits() as u64).rotate_left(32),
        }
    }

    /// The first address of those that it stands for.
    pub fn client(&self) -> IpAddr {
        self.network
    }
}

/// The real that a client's connections have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pinned {
    pub real: RealId,
    /// Of the real's number.
    pub generation: u8,
    /// A client's templates take turns: by that, those with the same real are told apart.
    pub turn: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Template {
    pub key: TemplateKey,
    pub pinned: Pinned,
    /// One of its connections was established.
    pub assured: bool,
    /// Its real was of no use when a client came back: another template has taken its place.
    pub spent: bool,
    /// It goes with the last of its connections: all of them were hurried, and none has been established yet.
    hurried: bool,
    /// How long it lives after a connection has used it.
    patience: u32,
    ends: u32,
    /// Connections that used it and are there.
    connections: u32,
    /// The one that the client had before, which is spent.
    older: Option<u32>,
}

impl Template {
    /// Ticks until its time is over; zero: it lives because connections do, or the sweep has not come by.
    pub fn left(&self, tick: u32) -> u32 {
        u32::try_from(self.ends.wrapping_sub(tick) as i32).unwrap_or(0)
    }
}

/// A core's templates.
pub struct Templates {
    places: HashMap<TemplateKey, u32>,
    templates: Box<[Option<Template>]>,
    free: Vec<u32>,
    swept: usize,
}

impl Templates {
    pub fn new(room: usize) -> Templates {
        Templates {
            // Twice, so that it cleans up in place and never grows.
            places: HashMap::with_capacity(2 * room),
            templates: vec![None; room].into(),
            free: (0..room as u32).rev().collect(),
            swept: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.templates.len() - self.free.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether more than half of the room is taken.
    pub fn are_scarce(&self) -> bool {
        self.len() > self.room() / 2
    }

    pub fn room(&self) -> usize {
        self.templates.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Template> {
        self.templates.iter().flatten()
    }

    /// One of `room` places.
    pub fn at(&self, place: usize) -> Option<&Template> {
        self.templates.get(place)?.as_ref()
    }

    /// The living template of a client that can still be used. One whose time is over gets its grace or goes.
    pub fn find(&mut self, key: TemplateKey, tick: u32) -> Option<Template> {
        let place = *self.places.get(&key)?;
        self.expire(place, tick);
        self.get(*self.places.get(&key)?).copied().filter(|template| !template.spent)
    }

    /// A connection of the client begins with its template's real.
    pub fn use_again(&mut self, key: TemplateKey, hurried: bool, tick: u32) {
        if let Some(template) = self.places.get(&key).copied().and_then(|place| self.get_mut(place)) {
            template.hurried &= hurried;
            template.ends = tick.wrapping_add(template.patience);
            template.connections += 1;
        }
    }

    /// The real of the client's template is of no use any more: the template only waits for its connections to end.
    pub fn spend(&mut self, key: TemplateKey) {
        if let Some(template) = self.places.get(&key).copied().and_then(|place| self.get_mut(place)) {
            template.spent = true;
        }
    }

    /// A connection of the client begins with a real of the scheduler's choice, which is remembered if there is room.
    pub fn bind(&mut self, key: TemplateKey, pinned: Pinned, patience: u32, hurried: bool, tick: u32) -> bool {
        self.spend(key);
        let Some(place) = self.free.pop() else { return false };
        let ends = tick.wrapping_add(patience);
        let older = self.places.insert(key, place);
        let (assured, spent, connections) = (false, false, 1);
        let template = Template { key, pinned, assured, spent, hurried, patience, ends, connections, older };
        self.templates[place as usize] = Some(template);
        true
    }

    /// A connection of the client is established; false: it is of no template with this key.
    pub fn assure(&mut self, key: TemplateKey, pinned: Pinned) -> bool {
        let Some(template) = self.of_connection(key, pinned).and_then(|place| self.get_mut(place)) else {
            return false;
        };
        (template.assured, template.hurried) = (true, false);
        true
    }

    /// A connection of the client ended at `tick`; false: it was of no template with this key.
    pub fn release(&mut self, key: TemplateKey, pinned: Pinned, tick: u32) -> bool {
        let Some(place) = self.of_connection(key, pinned) else { return false };
        // It was there until then.
        self.expire(place, tick);
        let Some(template) = self.get_mut(place) else { return false };
        template.connections = template.connections.saturating_sub(1);
        if template.hurried && template.connections == 0 {
            // Over, but not removed: the connection may be in the way of the one for which it was just found.
            template.ends = tick;
        }
        true
    }

    /// The turn of the client's next template that leads to this real.
    pub fn next_turn(&self, key: TemplateKey, real: RealId) -> bool {
        let mut before = self.chain(key).filter_map(|place| self.get(place));
        before.find(|template| template.pinned.real == real).is_some_and(|last| !last.pinned.turn)
    }

    /// The template by which a connection got its real: of all that the client has, the first with this one.
    fn of_connection(&self, key: TemplateKey, pinned: Pinned) -> Option<u32> {
        let is_its = |template: &Template| template.pinned == pinned && template.connections > 0;
        self.chain(key).filter(|place| self.get(*place).is_some_and(is_its)).last()
    }

    /// All templates of a client, the last one first. Only that can be one that is not spent.
    fn chain(&self, key: TemplateKey) -> impl Iterator<Item = u32> {
        std::iter::successors(self.places.get(&key).copied(), |place| self.get(*place)?.older)
    }

    fn get(&self, place: u32) -> Option<&Template> {
        self.templates.get(place as usize)?.as_ref()
    }

    fn get_mut(&mut self, place: u32) -> Option<&mut Template> {
        self.templates.get_mut(place as usize)?.as_mut()
    }

    /// The client's template goes at once, with all that used it.
    pub fn end(&mut self, key: TemplateKey) {
        if let Some(place) = self.places.get(&key) {
            self.remove(*place);
        }
    }

    /// Goes on with at most `count` templates, round and round. One that does not stay goes at once.
    pub fn sweep(&mut self, tick: u32, count: usize, stays: impl Fn(Pinned) -> bool) {
        if self.is_empty() {
            return;
        }
        for _ in 0..count.min(self.templates.len()) {
            let place = self.swept;
            self.swept = if place + 1 == self.templates.len() { 0 } else { place + 1 };
            match self.at(place).is_none_or(|template| stays(template.pinned)) {
                true => self.expire(place as u32, tick),
                false => self.remove(place as u32),
            }
        }
    }

    fn expire(&mut self, place: u32, tick: u32) {
        while let Some(template) = self.get_mut(place).filter(|template| template.left(tick) == 0) {
            if template.connections == 0 {
                return self.remove(place);
            }
            template.patience = GRACE;
            template.ends = template.ends.wrapping_add(GRACE);
        }
    }

    fn remove(&mut self, place: u32) {
        let Some(Template { key, older, .. }) = self.get(place).copied() else { return };
        let newer = self.chain(key).find(|newer| self.get(*newer).is_some_and(|newer| newer.older == Some(place)));
        match (newer.and_then(|newer| self.get_mut(newer)), older) {
            (Some(newer), older) => newer.older = older,
            (None, Some(older)) => _ = self.places.insert(key, older),
            (None, None) => _ = self.places.remove(&key),
        }
        self.templates[place as usize] = None;
        self.free.push(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    const MINUTE: u32 = 60 * TICKS_PER_SECOND;

    fn key(client: u32) -> TemplateKey {
        TemplateKey::new(ServiceId::from_number(1).unwrap(), Ipv4Addr::from_bits(client).into(), 32)
    }

    fn to(real: u16) -> Pinned {
        Pinned { real: RealId(real), generation: 0, turn: false }
    }

    fn of(templates: &mut Templates, client: u32, tick: u32) -> Option<u16> {
        templates.find(key(client), tick).map(|found| found.pinned.real.0)
    }

    #[test]
    fn clients_of_one_network_are_one() {
        let service = ServiceId::from_number(7).unwrap();
        let of = |text: &str, prefix| TemplateKey::new(service, text.parse().unwrap(), prefix);
        assert_eq!(of("10.1.2.3", 24), of("10.1.2.200", 24));
        assert_ne!(of("10.1.2.3", 24), of("10.1.3.3", 24));
        assert_eq!(of("10.1.2.3", 0), of("200.1.2.3", 0));
        assert_eq!(of("10.1.2.3", 32).client(), Ipv4Addr::new(10, 1, 2, 3));
        assert_eq!(of("2001:db8::1", 64).client(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0));
    }

    #[test]
    fn a_template_lives_as_long_as_it_is_used_or_a_connection_of_it_lives() {
        let mut templates = Templates::new(4);
        assert!(templates.bind(key(1), to(3), 5 * MINUTE, false, 0));
        assert_eq!(of(&mut templates, 1, 5 * MINUTE - 1), Some(3));
        assert_eq!(of(&mut templates, 1, 5 * MINUTE), Some(3), "its connection is still there");
        assert!(templates.release(key(1), to(3), 5 * MINUTE));
        assert_eq!(templates.find(key(1), 6 * MINUTE - 1).map(|found| found.left(6 * MINUTE - 1)), Some(1));
        assert_eq!(of(&mut templates, 1, 6 * MINUTE), None);
        assert!(templates.is_empty());
        assert!(templates.bind(key(1), to(4), 5 * MINUTE, false, 0));
        assert!(templates.release(key(1), to(4), MINUTE));
        templates.use_again(key(1), false, 4 * MINUTE);
        assert!(templates.release(key(1), to(4), 5 * MINUTE));
        templates.sweep(9 * MINUTE - 1, 100, |_| true);
        assert_eq!(templates.len(), 1);
        templates.sweep(9 * MINUTE, 100, |_| true);
        assert_eq!((templates.len(), templates.iter().count()), (0, 0));
    }

    /// The sweep finds a connection's end later than it was: what counts is when it was.
    #[test]
    fn a_template_lives_until_the_minute_after_its_last_connection() {
        let mut templates = Templates::new(1);
        assert!(templates.bind(key(1), to(3), MINUTE, false, 0));
        assert!(templates.release(key(1), to(3), 3 * MINUTE / 2));
        templates.sweep(2 * MINUTE - 1, 1, |_| true);
        assert_eq!(templates.len(), 1, "it was there when the template's time was over first");
        templates.sweep(2 * MINUTE, 1, |_| true);
        assert_eq!(templates.len(), 0);
    }

    #[test]
    fn a_spent_template_lives_as_long_as_the_connections_that_began_by_it() {
        let mut templates = Templates::new(3);
        assert!(templates.bind(key(1), to(3), MINUTE, false, 0));
        templates.spend(key(1));
        assert_eq!(of(&mut templates, 1, 1), None);
        assert_eq!(templates.iter().filter(|template| template.spent).count(), 1);
        assert!(templates.bind(key(1), to(4), MINUTE, false, 5));
        assert!(templates.assure(key(1), to(3)), "its connection goes on");
        assert!(!templates.assure(key(2), to(3)) && !templates.assure(key(1), to(5)));
        assert_eq!(templates.find(key(1), 6).map(|found| (found.pinned, found.assured)), Some((to(4), false)));
        assert!(templates.release(key(1), to(4), 10) && !templates.release(key(1), to(4), 10));
        templates.sweep(MINUTE + 5, 3, |_| true);
        assert_eq!(of(&mut templates, 1, MINUTE + 5), None);
        assert_eq!(templates.iter().map(|left| left.pinned).collect::<Vec<_>>(), [to(3)]);
        assert!(templates.release(key(1), to(3), MINUTE + 6));
        templates.sweep(2 * MINUTE, 3, |_| true);
        assert!(templates.is_empty() && templates.places.is_empty());
    }

    #[test]
    fn a_hurried_template_goes_with_its_last_connection() {
        let mut templates = Templates::new(2);
        assert!(templates.bind(key(1), to(3), MINUTE, true, 0));
        templates.use_again(key(1), true, 10);
        assert!(templates.release(key(1), to(3), 24));
        templates.sweep(30, 2, |_| true);
        assert_eq!(of(&mut templates, 1, 30), Some(3), "its second connection is still there");
        assert!(templates.release(key(1), to(3), 34));
        assert_eq!(templates.at(0).or(templates.at(1)).map(|over| over.left(34)), Some(0));
        templates.sweep(34, 2, |_| true);
        assert!(templates.is_empty());
        // Found when its connection had run out, which is cleared to make room for the one that it was found for.
        assert!(templates.bind(key(1), to(3), MINUTE, true, 100));
        assert_eq!(of(&mut templates, 1, 130), Some(3));
        assert!(templates.release(key(1), to(3), 124));
        templates.use_again(key(1), true, 130);
        assert_eq!(of(&mut templates, 1, 130), Some(3), "it is used again");
        // The end of its connection is noticed late, when the template has had its grace: it goes all the same.
        templates.sweep(130 + MINUTE, 2, |_| true);
        assert!(templates.release(key(1), to(3), 154));
        templates.sweep(131 + MINUTE, 2, |_| true);
        assert!(templates.is_empty(), "no minute more for a connection that was half open");
    }

    #[test]
    fn a_hurried_template_is_like_any_other_as_soon_as_a_connection_is_more_than_half_open() {
        let left = |templates: &mut Templates| templates.find(key(1), 30).map(|found| (found.assured, found.left(30)));
        let mut templates = Templates::new(1);
        assert!(templates.bind(key(1), to(3), MINUTE, true, 7));
        assert!(templates.assure(key(1), to(3)) && templates.release(key(1), to(3), 24));
        assert_eq!(left(&mut templates), Some((true, MINUTE + 7 - 30)), "established");
        templates.sweep(MINUTE + 7, 1, |_| true);
        assert!(templates.is_empty());
        assert!(templates.bind(key(1), to(3), MINUTE, true, 7));
        templates.use_again(key(1), false, 8);
        assert!(templates.release(key(1), to(3), 24) && templates.release(key(1), to(3), 24));
        assert_eq!(left(&mut templates), Some((false, MINUTE + 8 - 30)), "used when there was no hurry");
        templates.use_again(key(1), true, 25);
        assert!(templates.release(key(1), to(3), 28));
        assert_eq!(left(&mut templates), Some((false, MINUTE + 25 - 30)), "and in a hurry after that");
    }

    #[test]
    fn templates_are_scarce_when_half_are_taken() {
        let mut templates = Templates::new(4);
        for (client, scarce) in [(1, false), (2, false), (3, true)] {
            assert!(templates.bind(key(client), to(3), MINUTE, false, 0));
            assert_eq!(templates.are_scarce(), scarce, "{client} of 4");
        }
    }

    #[test]
    fn templates_of_one_real_are_told_apart() {
        let mut templates = Templates::new(3);
        assert!(!templates.next_turn(key(1), RealId(3)) && templates.bind(key(1), to(3), MINUTE, false, 0));
        assert!(templates.bind(key(1), to(4), MINUTE, false, 0));
        let again = Pinned { turn: templates.next_turn(key(1), RealId(3)), ..to(3) };
        assert!(again.turn && templates.bind(key(1), again, MINUTE, false, 0));
        assert!(templates.release(key(1), to(3), 1) && !templates.release(key(1), to(3), 1));
        assert!(templates.release(key(1), again, 1));
    }

    #[test]
    fn there_is_room_for_so_many() {
        let mut templates = Templates::new(2);
        assert!(templates.bind(key(1), to(3), MINUTE, false, 0) && templates.bind(key(1), to(4), MINUTE, false, 5));
        assert!(!templates.bind(key(2), to(4), MINUTE, false, 5), "there is no room");
        assert_eq!((of(&mut templates, 2, 6), of(&mut templates, 1, 6)), (None, Some(4)));
    }

    /// Whatever happens, each template is in its client's chain once, and only the first of a chain can be used.
    #[test]
    fn chains_hold_every_template_once() {
        let mut templates = Templates::new(8);
        let mut state = 1u64;
        for tick in 0..20_000 {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let (client, real) = ((state >> 33) as u32 % 4, (state >> 40) as u16 % 3);
            let hurried = state >> 60 & 1 == 0;
            match (state >> 50) % 5 {
                0 => _ = templates.bind(key(client), to(real), 40, hurried, tick),
                1 if templates.find(key(client), tick).is_some() => templates.use_again(key(client), hurried, tick),
                2 => templates.spend(key(client)),
                3 => _ = templates.release(key(client), to(real), tick),
                _ => templates.sweep(tick, 3, |_| true),
            }
            let mut chained: Vec<u32> = (0..4).flat_map(|client| templates.chain(key(client))).collect();
            chained.sort();
            let there = (0..8).filter(|place| templates.get(*place).is_some());
            assert_eq!(chained, there.collect::<Vec<_>>());
            let second: Vec<u32> = (0..4).flat_map(|client| templates.chain(key(client)).skip(1)).collect();
            assert!(second.iter().all(|place| templates.get(*place).unwrap().spent));
        }
    }
}
