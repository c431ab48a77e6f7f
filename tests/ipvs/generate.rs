//! A scenario from one seed: a configuration, then packets of all states with edits, listings and pauses between them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::packet::{Fault, Kind, Packet};
use super::scenario::{
    Capability, Edit, Key, Listing, MARK_OF_NETWORK, MARK_OF_PORTS, MARKED_PORT, RealSpec, SCHEDULERS, ServiceSpec,
    Step, Sysctl, TIMEOUTS, TIMEOUTS_OF_CONNECTIONS, VIPS, what_ends_connections,
};

const SYN: u8 = 2;
const ACK: u8 = 16;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Of the way to some reals; packets are a little shorter, a little longer, or much shorter.
const MTUS: [u16; 3] = [600, 1000, 1480];
/// How many conversations are remembered to go on with.
const CONVERSATIONS: usize = 40;

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// In a hundred.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn one<'t, T>(&mut self, of: &'t [T]) -> &'t T {
        &of[self.below(of.len())]
    }
}

type Conversation = ((Ipv4Addr, u16), (Ipv4Addr, u16), u8);

struct Generator<'c> {
    random: Random,
    can: &'c dyn Fn(Capability) -> bool,
    /// What is configured now.
    services: BTreeMap<Key, (ServiceSpec, Vec<RealSpec>)>,
    conversations: Vec<Conversation>,
    /// Reals that were removed, and whether time has passed since.
    removed: BTreeMap<(Key, u8), bool>,
    /// Services that were deleted once.
    again: BTreeSet<Key>,
    /// A real came back so late that the kernel may have forgotten what it counted, or to a service that is another one:
    /// then the kernel forgets it unless the new one happens to lie where the old one lay.
    came_back_late: bool,
    steps: Vec<Step>,
}

/// The steps of a seed: the configuration's, and `count` more.
pub fn scenario(seed: u64, count: usize, can: &dyn Fn(Capability) -> bool) -> Vec<Step> {
    let mut generator = Generator {
        random: Random(seed),
        can,
        services: BTreeMap::new(),
        conversations: Vec::new(),
        removed: BTreeMap::new(),
        again: BTreeSet::new(),
        came_back_late: false,
        steps: Vec::new(),
    };
    generator.configure();
    let configured = generator.steps.len();
    while generator.steps.len() < configured + count {
        generator.step();
    }
    if can(Capability::Listings) {
        let asked =
            [(Listing::Services, true), (Listing::Connections, true), (Listing::Stats, !generator.came_back_late)];
        generator.steps.extend(asked.into_iter().filter(|(_, asked)| *asked).map(|(listing, _)| Step::List(listing)));
    }
    generator.steps
}

impl Generator<'_> {
    fn can(&self, capability: Capability) -> bool {
        (self.can)(capability)
    }

    fn configure(&mut self) {
        for _ in 0..=self.random.below(4) {
            self.add_service();
        }
        if self.can(Capability::Timeouts) && self.random.chance(20) {
            self.set_timeouts();
        }
        if self.can(Capability::ErrorsOut) && self.random.chance(50) {
            (0..4).for_each(|_| self.steps.push(Step::Mtu(1 + self.random.below(8) as u8, *self.random.one(&MTUS))));
        }
        if self.can(Capability::Sysctls) {
            for which in [Sysctl::ExpireNodestConn, Sysctl::ExpireQuiescentTemplate] {
                if self.random.chance(30) {
                    self.set_sysctl(which, true);
                }
            }
        }
    }

    fn step(&mut self) {
        if self.has_gone_on_for_long() {
            self.pause();
        }
        let edits = self.can(Capability::Edits);
        match self.random.below(1000) {
            0..80 if edits => self.edit(),
            80..88 => self.pause(),
            88..92 if self.can(Capability::Listings) => {
                let listing = *self.random.one(&[Listing::Services, Listing::Connections]);
                self.steps.push(Step::List(listing));
            }
            92..400 => self.begin_conversation(),
            400..480 => self.odd_packet(),
            _ => self.go_on(),
        }
    }

    fn pause(&mut self) {
        self.removed.values_mut().for_each(|passed| *passed = true);
        self.steps.push(Step::Pause);
    }

    /// Each step that may end a connection takes the kernel's time a little further; after so many a pause puts it back
    /// in step.
    fn has_gone_on_for_long(&self) -> bool {
        const MOST: usize = 200;
        let ends = what_ends_connections(&self.steps);
        let since = self.steps.iter().rposition(|step| *step == Step::Pause).unwrap_or(0);
        ends[since..].iter().filter(|ends| **ends).count() >= MOST
    }

    fn keys(&self) -> Vec<Key> {
        let [first, second] = VIPS;
        let mut keys = vec![
            Key::Tcp(first, 80),
            Key::Tcp(first, 443),
            Key::Udp(first, 53),
            Key::Tcp(second, 80),
            Key::Udp(second, 443),
        ];
        if self.can(Capability::AnyPort) && self.can(Capability::Persistence) {
            keys.extend([Key::Tcp(first, 0), Key::Udp(second, 0)]);
        }
        if self.can(Capability::Marks) {
            keys.extend([Key::Mark(MARK_OF_NETWORK), Key::Mark(MARK_OF_PORTS)]);
        }
        keys
    }

    fn service_spec(&mut self, key: Key) -> ServiceSpec {
        let schedulers = if self.can(Capability::Schedulers) { &SCHEDULERS[..] } else { &SCHEDULERS[..2] };
        let scheduler = *self.random.one(schedulers);
        let flags = match scheduler {
            "sh" | "mh" => *self.random.one(&["", "port", "fallback", "both"]),
            _ => "",
        };
        let flags = match flags {
            "" => String::new(),
            "both" => format!("{scheduler}-port,{scheduler}-fallback"),
            one => format!("{scheduler}-{one}"),
        };
        let any_port = !matches!(key, Key::Mark(_)) && key.port() == 0;
        let one_packet =
            self.can(Capability::OnePacket) && matches!(key, Key::Udp(..)) && !any_port && self.random.chance(25);
        let persists = any_port || self.can(Capability::Persistence) && !one_packet && self.random.chance(30);
        let persistent = persists.then(|| *self.random.one(&TIMEOUTS));
        let mask = if persists { *self.random.one(&[32, 32, 24, 16]) } else { 32 };
        ServiceSpec { key, scheduler: scheduler.into(), flags, persistent, mask, one_packet }
    }

    fn real_spec(&mut self, number: u8) -> RealSpec {
        let weight = *self.random.one(&[1, 1, 1, 1, 1, 0, 2, 3, 4, 6, 10, 100, 65_535]);
        let limited = self.can(Capability::Thresholds) && self.random.chance(20);
        let upper = if limited { 1 + self.random.below(6) as u32 } else { 0 };
        let lower = if limited { self.random.below(upper as usize + 1) as u32 } else { 0 };
        RealSpec { number, weight, upper, lower }
    }

    fn push(&mut self, edit: Edit) {
        self.steps.push(Step::Edit(edit));
    }

    fn add_service(&mut self) {
        let keys = self.keys();
        let key = *self.random.one(&keys);
        if self.services.contains_key(&key) {
            return;
        }
        let service = self.service_spec(key);
        self.services.insert(key, (service.clone(), Vec::new()));
        self.push(Edit::AddService(service));
        for _ in 0..self.random.below(6) {
            self.add_real(key);
        }
    }

    fn add_real(&mut self, key: Key) {
        let number = 1 + self.random.below(8) as u8;
        let real = self.real_spec(number);
        let reals = &mut self.services.get_mut(&key).unwrap().1;
        if reals.iter().all(|real| real.number != number) {
            reals.push(real);
            let passed = self.removed.remove(&(key, number));
            self.came_back_late |= passed.is_some_and(|passed| passed || self.again.contains(&key));
            self.push(Edit::AddReal(key, real));
        }
    }

    /// What becomes of the connections of a removed real is one setting for the kernel and one of each service for us;
    /// a service that was deleted keeps its own. And where it comes into force for connections that stand, the kernel takes
    /// its own reset for a packet of the connection, which it keeps for that.
    fn set_sysctl(&mut self, which: Sysctl, on: bool) {
        let is_gone = |key: &Key| !self.services.contains_key(key);
        let stands = self.again.iter().any(is_gone) || on && !self.removed.is_empty();
        if which != Sysctl::ExpireNodestConn || !stands {
            self.push(Edit::Sysctl(which, on));
        }
    }

    fn remove_real(&mut self, key: Key, number: u8) {
        self.services.get_mut(&key).unwrap().1.retain(|real| real.number != number);
        self.removed.insert((key, number), false);
        self.push(Edit::DeleteReal(key, number));
    }

    fn remove_service(&mut self, key: Key) {
        let (_, reals) = self.services.remove(&key).unwrap();
        self.removed.extend(reals.iter().map(|real| ((key, real.number), false)));
        self.again.insert(key);
        self.push(Edit::DeleteService(key));
    }

    fn set_timeouts(&mut self) {
        let mut one = || if self.random.chance(30) { 0 } else { *self.random.one(&TIMEOUTS_OF_CONNECTIONS) };
        let timeouts = Edit::Timeouts(one(), one(), one());
        // All zeros is refused.
        if timeouts != Edit::Timeouts(0, 0, 0) {
            self.push(timeouts);
        }
    }

    fn edit(&mut self) {
        let keys: Vec<Key> = self.services.keys().copied().collect();
        let kind = self.random.below(100);
        if keys.is_empty() || kind < 8 {
            return self.add_service();
        }
        let key = *self.random.one(&keys);
        let numbers: Vec<u8> = self.services[&key].1.iter().map(|real| real.number).collect();
        match kind {
            8..28 => self.add_real(key),
            28..45 if !numbers.is_empty() => {
                let number = *self.random.one(&numbers);
                self.remove_real(key, number);
            }
            45..85 if !numbers.is_empty() => {
                let number = *self.random.one(&numbers);
                let real = self.real_spec(number);
                let reals = &mut self.services.get_mut(&key).unwrap().1;
                reals.iter_mut().filter(|real| real.number == number).for_each(|old| *old = real);
                self.push(Edit::ChangeReal(key, real));
            }
            85..92 => {
                let service = self.service_spec(key);
                self.services.get_mut(&key).unwrap().0 = service.clone();
                self.push(Edit::ChangeService(service));
            }
            92..95 => self.remove_service(key),
            95..97 if self.can(Capability::Timeouts) => self.set_timeouts(),
            97..99 if self.can(Capability::Sysctls) => {
                let which = *self.random.one(&[Sysctl::ExpireNodestConn, Sysctl::ExpireQuiescentTemplate]);
                let on = self.random.chance(50);
                self.set_sysctl(which, on);
            }
            _ => (),
        }
    }

    fn client(&mut self) -> (Ipv4Addr, u16) {
        let random = &mut self.random;
        let address = if random.chance(70) {
            Ipv4Addr::new(10, 1, random.below(3) as u8, 1 + random.below(6) as u8)
        } else {
            Ipv4Addr::new(11 + random.below(100) as u8, random.below(256) as u8, random.below(256) as u8, 7)
        };
        (address, 1024 + random.below(60_000) as u16)
    }

    /// An address, port and protocol that a service has, or almost.
    fn destination(&mut self) -> ((Ipv4Addr, u16), u8) {
        let keys: Vec<Key> = self.services.keys().copied().collect();
        if keys.is_empty() || self.random.chance(4) {
            let vip = *self.random.one(&VIPS);
            let port = *self.random.one(&[80, 443, 53, 81, 9]);
            return ((vip, port), *self.random.one(&[TCP, UDP]));
        }
        let other = 2000 + self.random.below(5) as u16;
        let any = |port: u16| if port == 0 { other } else { port };
        match *self.random.one(&keys) {
            Key::Tcp(vip, port) => ((vip, any(port)), TCP),
            Key::Udp(vip, port) => ((vip, any(port)), UDP),
            Key::Mark(MARK_OF_PORTS) => {
                ((VIPS[1], MARKED_PORT + self.random.below(10) as u16), *self.random.one(&[TCP, TCP, UDP]))
            }
            Key::Mark(_) => {
                let address = Ipv4Addr::new(10, 9, 1, 1 + self.random.below(20) as u8);
                ((address, *self.random.one(&[80, 443])), *self.random.one(&[TCP, TCP, UDP]))
            }
        }
    }

    fn send(&mut self, (source, destination, protocol): Conversation, flags: u8) -> &mut Packet {
        let kind = if protocol == TCP { Kind::Tcp(flags) } else { Kind::Udp };
        self.steps.push(Step::Packet(Packet::new(source, destination, kind)));
        match self.steps.last_mut() {
            Some(Step::Packet(packet)) => packet,
            _ => unreachable!("it was pushed just now"),
        }
    }

    fn begin_conversation(&mut self) {
        let (destination, protocol) = self.destination();
        let conversation = (self.client(), destination, protocol);
        if self.conversations.len() < CONVERSATIONS {
            self.conversations.push(conversation);
        } else {
            let place = self.random.below(CONVERSATIONS);
            self.conversations[place] = conversation;
        }
        self.send(conversation, SYN);
    }

    /// Another packet of a conversation that may be in any state.
    fn go_on(&mut self) {
        if self.conversations.is_empty() {
            return self.begin_conversation();
        }
        let conversations = std::mem::take(&mut self.conversations);
        let conversation = *self.random.one(&conversations);
        self.conversations = conversations;
        let all = [ACK, ACK, ACK, ACK, 24, 24, 17, 17, 17, 4, 20, 1, 0, 41, SYN, SYN, SYN, 18, 3];
        let flags = *self.random.one(if self.can(Capability::Reuse) { &all } else { &all[..14] });
        let payload = match flags {
            24 => self.random.below(200) as u16,
            _ if self.can(Capability::ErrorsOut) && self.random.chance(8) => 400 + self.random.below(1050) as u16,
            _ => 0,
        };
        let options = self.random.chance(3);
        let fewest = if self.can(Capability::UsedUp) { 1 } else { 2 };
        let hops = if self.random.chance(2) { fewest } else { 64 };
        let packet = self.send(conversation, flags);
        packet.payload = payload;
        packet.options = options;
        packet.ttl = hops;
    }

    /// What belongs to no conversation, or is damaged, or is about one.
    fn odd_packet(&mut self) {
        let client = self.client();
        let (destination, protocol) = self.destination();
        match self.random.below(8) {
            0 | 1 => {
                let flags = *self.random.one(&[ACK, 17, 4, 18, 1, 20, 0]);
                self.send((client, destination, protocol), flags);
            }
            2 => {
                self.send((client, destination, protocol), SYN).ttl = 1;
            }
            3 => {
                let fault = *self.random.one(&[Fault::Checksum, Fault::HeaderChecksum, Fault::Cut]);
                self.send((client, destination, protocol), SYN).fault = Some(fault);
            }
            4 => {
                self.send((client, destination, protocol), SYN).options = true;
            }
            5 if self.can(Capability::Echo) => {
                let packet = Packet::new((client.0, 0), (*self.random.one(&VIPS), 0), Kind::Echo);
                self.steps.push(Step::Packet(packet));
            }
            6 | 7 if self.can(Capability::ErrorsIn) => self.error_about_a_conversation(),
            _ => self.begin_conversation(),
        }
    }

    fn error_about_a_conversation(&mut self) {
        if self.conversations.is_empty() {
            return;
        }
        let place = self.random.below(self.conversations.len());
        let (source, destination, protocol) = self.conversations[place];
        let (kind, code) = *self.random.one(&[(3, 3), (3, 4), (3, 1), (11, 0)]);
        let packet = Packet::new(source, destination, Kind::Error(kind, code, protocol));
        self.steps.push(Step::Packet(packet));
    }
}
