//! Persistence: which real a client's next connections go to, for a while after the last of them began.
//!
//! A template lives as long as its service says after the last connection that used it, and as long as one of these
//! connections does. There is room for so many, allocated at the start; a client beyond that is scheduled like any other.

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Template {
    pub key: TemplateKey,
    pub real: RealId,
    /// Of the real's number.
    pub generation: u8,
    /// One of its connections was established.
    pub assured: bool,
    /// Its real was of no use when a client came back: another template has taken its place.
    pub spent: bool,
    /// How long it lives after a connection has used it.
    patience: u32,
    ends: u32,
    /// Connections that used it and are there.
    connections: u32,
}

impl Template {
    /// Ticks until its time is over; zero: it lives because connections do.
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

    /// The living template of a client. One whose time is over gets its grace or goes.
    pub fn find(&mut self, key: TemplateKey, tick: u32) -> Option<Template> {
        let place = *self.places.get(&key)?;
        self.expire(place as usize, tick);
        *self.templates.get(place as usize)?
    }

    /// A connection of the client begins with its template's real.
    pub fn use_again(&mut self, key: TemplateKey, tick: u32) {
        if let Some(template) = self.get(key) {
            template.ends = tick.wrapping_add(template.patience);
            template.connections += 1;
        }
    }

    /// A connection of the client begins with a real of the scheduler's choice, which is remembered if there is room.
    pub fn bind(&mut self, key: TemplateKey, real: RealId, generation: u8, patience: u32, tick: u32) -> bool {
        if let Some(old) = self.places.remove(&key)
            && let Some(old) = self.templates.get_mut(old as usize).and_then(Option::as_mut)
        {
            old.spent = true;
        }
        let Some(place) = self.free.pop() else { return false };
        let ends = tick.wrapping_add(patience);
        let template = Template { key, real, generation, assured: false, spent: false, patience, ends, connections: 1 };
        self.templates[place as usize] = Some(template);
        self.places.insert(key, place);
        true
    }

    /// A connection of the client is established.
    pub fn assure(&mut self, key: TemplateKey) {
        if let Some(template) = self.get(key) {
            template.assured = true;
        }
    }

    /// A connection of the client has ended.
    pub fn release(&mut self, key: TemplateKey) {
        if let Some(template) = self.get(key) {
            template.connections = template.connections.saturating_sub(1);
        }
    }

    fn get(&mut self, key: TemplateKey) -> Option<&mut Template> {
        self.templates.get_mut(*self.places.get(&key)? as usize)?.as_mut()
    }

    /// Goes on with at most `count` templates, round and round.
    pub fn sweep(&mut self, tick: u32, count: usize) {
        if self.is_empty() {
            return;
        }
        for _ in 0..count.min(self.templates.len()) {
            let place = self.swept;
            self.swept = if place + 1 == self.templates.len() { 0 } else { place + 1 };
            self.expire(place, tick);
        }
    }

    fn expire(&mut self, place: usize, tick: u32) {
        let Some(template) = self.templates.get_mut(place).and_then(Option::as_mut) else { return };
        while template.left(tick) == 0 {
            if template.connections == 0 || template.spent {
                let gone = *template;
                self.templates[place] = None;
                self.free.push(place as u32);
                if !gone.spent {
                    self.places.remove(&gone.key);
                }
                return;
            }
            template.patience = GRACE;
            template.ends = template.ends.wrapping_add(GRACE);
        }
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
        assert!(templates.bind(key(1), RealId(3), 0, 5 * MINUTE, 0));
        assert_eq!(templates.find(key(1), 5 * MINUTE - 1).map(|found| found.real), Some(RealId(3)));
        assert!(templates.find(key(1), 5 * MINUTE).is_some(), "its connection is still there");
        templates.release(key(1));
        assert_eq!(templates.find(key(1), 6 * MINUTE - 1).map(|found| found.left(6 * MINUTE - 1)), Some(1));
        assert_eq!(templates.find(key(1), 6 * MINUTE), None);
        assert!(templates.is_empty());
        assert!(templates.bind(key(1), RealId(4), 0, 5 * MINUTE, 0));
        templates.release(key(1));
        templates.use_again(key(1), 4 * MINUTE);
        templates.release(key(1));
        templates.sweep(9 * MINUTE - 1, 100);
        assert_eq!(templates.len(), 1);
        templates.sweep(9 * MINUTE, 100);
        assert_eq!((templates.len(), templates.iter().count()), (0, 0));
    }

    #[test]
    fn another_real_takes_the_place_of_one_that_is_of_no_use() {
        let mut templates = Templates::new(2);
        assert!(templates.bind(key(1), RealId(3), 0, MINUTE, 0));
        assert!(templates.bind(key(1), RealId(4), 0, MINUTE, 5));
        assert_eq!(templates.iter().filter(|template| template.spent).count(), 1);
        assert!(!templates.bind(key(2), RealId(4), 0, MINUTE, 5), "there is no room");
        assert_eq!(templates.find(key(2), 6), None);
        templates.assure(key(1));
        assert_eq!(templates.find(key(1), 6).map(|found| (found.real, found.assured)), Some((RealId(4), true)));
        templates.sweep(MINUTE, 2);
        assert_eq!(templates.len(), 1, "the spent one is not kept alive by anything");
    }
}
