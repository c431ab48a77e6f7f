//! Which number stands for which service and which real: the same as long as it is known, and never mistaken for the
//! one that had it before.
//!
//! A number is *held* by a service or a real of the configuration. When that goes, it is *gone*: flows may still name
//! it, and who comes again finds its number, as the kernel finds an old destination. When numbers get scarce, those
//! that went first are *condemned*: nobody finds them any more, and the generation of a real's number goes up, by which
//! every flow entry that names it is dead. Only when no entry can be left is such a number *free*, to be held by another.
//!
//! A real's number also gets another generation while it is held or gone, where the real's connections are to end at
//! once: a service's `on_removed = "reset"`.
//!
//! Invariant: a number is given to another only after every worker has gone through its whole table while holding a
//! snapshot in which it was condemned; then no entry, no counter and no listing can mean its last holder. A service's
//! number, which carries no generation of its own, is condemned together with those of all its reals. *Held by*
//! `a_million_services_come_and_go`.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::IpAddr;

use super::snapshot::{RealId, ServiceId};
use crate::config::{Limits, Takes};

/// A real, by what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RealName {
    pub service: ServiceId,
    pub address: IpAddr,
    pub port: u16,
}

/// A number that was just given, or found again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given<I> {
    pub id: I,
    /// Another one had it before: what was counted for that one has to be cleared.
    pub recycled: bool,
}

/// Numbers that nobody has for the moment, but that are not free yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condemned {
    pub services: Vec<ServiceId>,
    pub reals: Vec<RealId>,
}

const SERVICES: &str = "services";
const REALS: &str = "reals";

/// Generations come round, so no entry may be that many behind; one more is for being condemned.
const MOST_RENEWED: u8 = 200;

/// There is no free number now; the limit, and how many are being cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoNumber {
    pub what: &'static str,
    pub most: usize,
    pub clearing: usize,
}

impl NoNumber {
    /// What waits, one line a kind.
    pub fn told(waiting: &[NoNumber]) -> Vec<String> {
        let line = |what| {
            let mut these = waiting.iter().filter(|waits| waits.what == what);
            let NoNumber { what, most, .. } = these.next()?;
            let count = 1 + these.count();
            Some(format!(
                "{count} {what} wait for a number: all {most} are in use or named by old connections; they come by \
                 themselves when these were swept out, some half a minute from now"
            ))
        };
        [SERVICES, REALS].into_iter().filter_map(line).collect()
    }
}

#[derive(Clone, Debug)]
pub struct Registry {
    services: Numbers<Takes>,
    reals: Numbers<RealName>,
    /// By the service's number: the numbers of its reals, those that are gone among them.
    reals_of: Vec<Vec<u16>>,
}

impl Registry {
    pub fn new(limits: Limits) -> Registry {
        Registry {
            services: Numbers::new(SERVICES, limits.services),
            reals: Numbers::new(REALS, limits.reals),
            reals_of: Vec::new(),
        }
    }

    /// The service's number: the one it has or had, or a free one.
    pub fn service(&mut self, takes: Takes) -> Result<Given<ServiceId>, NoNumber> {
        let (place, recycled) = self.services.hold(takes)?;
        if self.reals_of.len() <= usize::from(place) {
            self.reals_of.resize_with(usize::from(place) + 1, Vec::new);
        }
        let id = ServiceId::from_number(place + 1).ok_or(self.services.none_left())?;
        Ok(Given { id, recycled })
    }

    /// The same for a real of a service that holds its number.
    pub fn real(&mut self, name: RealName) -> Result<Given<RealId>, NoNumber> {
        let known = self.reals.known.contains_key(&name);
        let (place, recycled) = self.reals.hold(name)?;
        if !known && let Some(siblings) = self.reals_of.get_mut(name.service.index()) {
            siblings.push(place);
        }
        Ok(Given { id: RealId(place), recycled })
    }

    pub fn remove_real(&mut self, id: RealId) {
        self.reals.let_go(id.0);
    }

    /// With all its reals.
    pub fn remove_service(&mut self, id: ServiceId) {
        self.services.let_go(id.number() - 1);
        for real in self.reals_of.get(id.index()).into_iter().flatten() {
            self.reals.let_go(*real);
        }
    }

    /// The number of a service of the configuration.
    pub fn held_service(&self, takes: &Takes) -> Option<ServiceId> {
        self.services.held(takes).and_then(|place| ServiceId::from_number(place + 1))
    }

    pub fn held_real(&self, name: &RealName) -> Option<RealId> {
        self.reals.held(name).map(RealId)
    }

    /// Who has or had this number; none for one that is condemned or free.
    pub fn service_name(&self, id: ServiceId) -> Option<&Takes> {
        self.services.name(id.index())
    }

    pub fn real_name(&self, id: RealId) -> Option<&RealName> {
        self.reals.name(id.index())
    }

    pub fn generation(&self, id: RealId) -> u8 {
        self.reals.entries.get(id.index()).map_or(0, |entry| entry.generation)
    }

    /// What tells those who had a real's number one after the other apart.
    pub fn holder(&self, id: RealId) -> u8 {
        self.reals.entries.get(id.index()).map_or(0, |entry| entry.holder)
    }

    /// All services that have or had a number which is theirs still.
    pub fn known_services(&self) -> impl Iterator<Item = (Takes, ServiceId)> {
        let known = self.services.known.iter();
        known.filter_map(|(takes, place)| Some((*takes, ServiceId::from_number(place + 1)?)))
    }

    /// All reals of a service whose numbers are theirs still, also those that are gone.
    pub fn reals_of(&self, service: ServiceId) -> impl Iterator<Item = RealId> {
        self.reals_of.get(service.index()).into_iter().flatten().copied().map(RealId)
    }

    /// Gives a real's number another generation, by which every flow that names it is dead; `epoch` is that of the first
    /// snapshot that shows it. False: it was done too often since the tables were last gone through.
    pub fn end_connections(&mut self, id: RealId, epoch: u64) -> bool {
        self.reals.renew(id.0, epoch)
    }

    /// Whether entries are to be swept out that name a number with an older generation than it has.
    pub fn is_clearing(&self) -> bool {
        self.clearing() != (0, 0) || !self.reals.renewed.is_empty()
    }

    /// How many new services and reals there are numbers for now.
    pub fn room(&self) -> (usize, usize) {
        (self.services.room(), self.reals.room())
    }

    /// Condemns what has to make room for others to come; `epoch` is that of the snapshot that will be the first to
    /// show it.
    pub fn make_room(&mut self, epoch: u64) -> Condemned {
        let mut condemned = Condemned::default();
        while let Some(service) = self.services.scarce() {
            self.services.condemn(service, epoch);
            for real in std::mem::take(&mut self.reals_of[usize::from(service)]) {
                self.reals.condemn(real, epoch);
                condemned.reals.push(RealId(real));
            }
            condemned.services.extend(ServiceId::from_number(service + 1));
        }
        while let Some(real) = self.reals.scarce() {
            if let Some(name) = self.reals.name(usize::from(real)) {
                self.reals_of[name.service.index()].retain(|other| *other != real);
            }
            self.reals.condemn(real, epoch);
            condemned.reals.push(RealId(real));
        }
        condemned
    }

    /// Every worker has gone through its whole table since it held the snapshot of `epoch`: what was condemned then or
    /// before is free.
    pub fn release(&mut self, epoch: u64) {
        self.services.release(epoch);
        self.reals.release(epoch);
    }

    /// How many numbers are condemned, of services and of reals.
    pub fn clearing(&self) -> (usize, usize) {
        (self.services.condemned.len(), self.reals.condemned.len())
    }
}

/// One kind's numbers, from zero on.
#[derive(Clone, Debug)]
struct Numbers<N> {
    what: &'static str,
    most: usize,
    /// Keep so many that can be given soon.
    reserve: usize,
    entries: Vec<Entry<N>>,
    known: HashMap<N, u16>,
    /// Those that are gone, oldest first, with the number of their going. Who came again is still in it.
    gone: VecDeque<(u64, u16)>,
    goings: u64,
    /// With the epoch since which nobody finds them.
    condemned: VecDeque<(u64, u16)>,
    /// Those whose holder has another generation since that epoch.
    renewed: VecDeque<(u64, u16)>,
    free: VecDeque<u16>,
}

#[derive(Clone, Debug)]
struct Entry<N> {
    /// Goes up with each condemnation, and when its holder's connections are ended.
    generation: u8,
    /// Goes up with each condemnation alone.
    holder: u8,
    /// How often the latter, while entries with older generations may be left.
    renewed: u8,
    standing: Standing<N>,
}

#[derive(Clone, Debug)]
enum Standing<N> {
    Held(N),
    /// With the number of its going.
    Gone(N, u64),
    /// Condemned or free.
    Nobodys,
}

impl<N: Copy + Eq + Hash> Numbers<N> {
    fn new(what: &'static str, most: usize) -> Numbers<N> {
        let most = most.min(Limits::MOST);
        Numbers {
            what,
            most,
            reserve: most.div_ceil(8),
            entries: Vec::new(),
            known: HashMap::new(),
            gone: VecDeque::new(),
            goings: 0,
            condemned: VecDeque::new(),
            renewed: VecDeque::new(),
            free: VecDeque::new(),
        }
    }

    fn none_left(&self) -> NoNumber {
        NoNumber { what: self.what, most: self.most, clearing: self.condemned.len() }
    }

    fn hold(&mut self, name: N) -> Result<(u16, bool), NoNumber> {
        if let Some(place) = self.known.get(&name) {
            self.entries[usize::from(*place)].standing = Standing::Held(name);
            return Ok((*place, false));
        }
        let (place, recycled) = match self.entries.len() {
            // A number that nobody ever had, before one that somebody had.
            length if length < self.most => {
                self.entries.push(Entry { generation: 0, holder: 0, renewed: 0, standing: Standing::Nobodys });
                (length as u16, false)
            }
            _ => (self.free.pop_front().ok_or(self.none_left())?, true),
        };
        self.entries[usize::from(place)].standing = Standing::Held(name);
        self.known.insert(name, place);
        Ok((place, recycled))
    }

    fn let_go(&mut self, place: u16) {
        let Some(entry) = self.entries.get_mut(usize::from(place)) else { return };
        if let Standing::Held(name) = entry.standing {
            self.goings += 1;
            entry.standing = Standing::Gone(name, self.goings);
            self.gone.push_back((self.goings, place));
        }
        // Those who came again do not pile up.
        if self.gone.len() > 2 * self.entries.len() + 64 {
            let entries = &self.entries;
            self.gone.retain(|(going, place)| entries[usize::from(*place)].is_gone(*going));
        }
    }

    fn held(&self, name: &N) -> Option<u16> {
        let place = *self.known.get(name)?;
        matches!(self.entries[usize::from(place)].standing, Standing::Held(_)).then_some(place)
    }

    fn name(&self, place: usize) -> Option<&N> {
        match &self.entries.get(place)?.standing {
            Standing::Held(name) | Standing::Gone(name, _) => Some(name),
            Standing::Nobodys => None,
        }
    }

    fn room(&self) -> usize {
        self.most - self.entries.len() + self.free.len()
    }

    /// Who is to be condemned next, if too few numbers are left.
    fn scarce(&mut self) -> Option<u16> {
        while self.room() + self.condemned.len() < self.reserve {
            let (going, place) = self.gone.pop_front()?;
            if self.entries[usize::from(place)].is_gone(going) {
                return Some(place);
            }
        }
        None
    }

    fn condemn(&mut self, place: u16, epoch: u64) {
        let entry = &mut self.entries[usize::from(place)];
        if let Standing::Held(name) | Standing::Gone(name, _) = entry.standing {
            self.known.remove(&name);
            entry.standing = Standing::Nobodys;
            entry.generation = entry.generation.wrapping_add(1);
            entry.holder = entry.holder.wrapping_add(1);
            self.condemned.push_back((epoch, place));
        }
    }

    fn renew(&mut self, place: u16, epoch: u64) -> bool {
        let Some(entry) = self.entries.get_mut(usize::from(place)).filter(|entry| entry.renewed < MOST_RENEWED) else {
            return false;
        };
        entry.generation = entry.generation.wrapping_add(1);
        entry.renewed += 1;
        self.renewed.push_back((epoch, place));
        true
    }

    fn release(&mut self, epoch: u64) {
        let swept = self.renewed.partition_point(|(since, _)| *since <= epoch);
        for (_, place) in self.renewed.drain(..swept) {
            self.entries[usize::from(place)].renewed -= 1;
        }
        let freed = self.condemned.partition_point(|(since, _)| *since <= epoch);
        self.free.extend(self.condemned.drain(..freed).map(|(_, place)| place));
    }
}

impl<N> Entry<N> {
    /// Since that going, and not again later.
    fn is_gone(&self, going: u64) -> bool {
        matches!(self.standing, Standing::Gone(_, since) if since == going)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Protocol, Takes};
    use std::rc::Rc;

    fn mark(number: u32) -> Takes {
        Takes::Mark(number)
    }

    fn name(service: ServiceId, last: u8) -> RealName {
        RealName { service, address: [10, 9, 0, last].into(), port: 80 }
    }

    #[test]
    fn who_comes_again_finds_its_numbers() {
        let mut registry = Registry::new(Limits { services: 8, reals: 8 });
        let web = registry.service(Takes::exact(Protocol::Tcp, [10, 9, 0, 100], 80)).unwrap().id;
        let (one, two) = (registry.real(name(web, 11)).unwrap().id, registry.real(name(web, 12)).unwrap().id);
        assert_eq!((web.number(), one, two), (1, RealId(0), RealId(1)));
        registry.remove_real(one);
        assert_eq!((registry.held_real(&name(web, 11)), registry.real_name(one)), (None, Some(&name(web, 11))));
        assert_eq!(registry.real(name(web, 11)), Ok(Given { id: one, recycled: false }));
        registry.remove_service(web);
        assert_eq!((registry.held_real(&name(web, 12)), registry.room()), (None, (7, 6)));
        let again = registry.service(Takes::exact(Protocol::Tcp, [10, 9, 0, 100], 80));
        assert_eq!(again, Ok(Given { id: web, recycled: false }));
        assert_eq!(registry.real(name(web, 12)), Ok(Given { id: two, recycled: false }));
    }

    #[test]
    fn who_waits_is_told_in_a_line() {
        let (service, real) = (
            Registry::new(Limits { services: 2, reals: 4 }).services.none_left(),
            NoNumber { what: "reals", most: 4, clearing: 1 },
        );
        assert!(NoNumber::told(&[]).is_empty());
        let told = NoNumber::told(&[real, service, real]);
        assert!(told[0].starts_with("1 services wait for a number: all 2 are"), "{told:?}");
        assert!(told[1].starts_with("2 reals wait for a number: all 4 are"), "{told:?}");
    }

    #[test]
    fn a_number_is_free_only_after_every_table_was_gone_through() {
        let mut registry = Registry::new(Limits { services: 2, reals: 4 });
        let (one, two) = (registry.service(mark(1)).unwrap().id, registry.service(mark(2)).unwrap().id);
        let real = registry.real(name(one, 1)).unwrap().id;
        assert_eq!(registry.make_room(1), Condemned::default(), "who is held keeps its number");
        registry.remove_service(one);
        assert_eq!(registry.make_room(2), Condemned { services: vec![one], reals: vec![real] });
        assert_eq!((registry.service_name(one), registry.generation(real)), (None, 1));
        let full = NoNumber { what: "services", most: 2, clearing: 1 };
        assert_eq!(registry.service(mark(3)), Err(full));
        registry.release(1);
        assert_eq!(registry.service(mark(1)), Err(full), "what it was has no right to it any more");
        registry.release(2);
        assert_eq!(registry.service(mark(3)), Ok(Given { id: one, recycled: true }));
        assert_eq!(registry.held_service(&mark(2)), Some(two));
    }

    /// What the workers see of one epoch.
    struct View {
        epoch: u64,
        /// Those in force: what it is, its number, its reals.
        services: Vec<(Takes, ServiceId, Vec<RealId>)>,
        /// By number: who has or had it, and the generation.
        reals: Vec<(Option<(Takes, RealName)>, u8)>,
    }

    /// A flow entry: what it says, and what was meant.
    struct Entry {
        real: RealId,
        generation: u8,
        service: Takes,
        name: RealName,
    }

    struct Worker {
        view: Rc<View>,
        entries: HashMap<(u8, ServiceId), Entry>,
        /// Entries by the real's number: what the ledger has.
        counts: Vec<u32>,
        round: Option<u64>,
        swept: u64,
    }

    impl Worker {
        /// A packet for a service in force. An entry that is found must mean this service and a real that was its own.
        fn packet(&mut self, client: u8, pick: usize, seen: &mut [u64; 3]) {
            let view = self.view.clone();
            let Some((takes, id, reals)) = view.services.get(pick % view.services.len().max(1)) else { return };
            if let Some(entry) = self.entries.get(&(client, *id)) {
                let (name, generation) = &view.reals[entry.real.index()];
                if entry.generation == *generation {
                    assert_eq!((entry.service, Some((*takes, entry.name))), (*takes, *name));
                    seen[0] += 1;
                    return;
                }
                seen[1] += 1;
                self.counts[entry.real.index()] -= 1;
                self.entries.remove(&(client, *id));
            }
            let Some(real) = reals.get(usize::from(client) % reals.len().max(1)) else { return };
            let (name, generation) = view.reals[real.index()];
            let entry = Entry { real: *real, generation, service: *takes, name: name.unwrap().1 };
            self.entries.insert((client, *id), entry);
            self.counts[real.index()] += 1;
            seen[2] += 1;
        }

        /// One half of the table: what is dead goes, and some of what has run out.
        fn sweep(&mut self, half: u8, run_out: u8) {
            let (view, counts) = (&self.view, &mut self.counts);
            self.entries.retain(|(client, _), entry| {
                let stays =
                    client % 2 != half || *client != run_out && view.reals[entry.real.index()].1 == entry.generation;
                counts[entry.real.index()] -= u32::from(!stays);
                stays
            });
        }
    }

    /// The configuration's side: who is in it, and who was.
    struct Owner {
        registry: Registry,
        there: Vec<(Takes, ServiceId, Vec<RealId>)>,
        gone: VecDeque<Takes>,
        named: u32,
        added: u32,
    }

    impl Owner {
        fn add(&mut self, again: bool, workers: &[Worker]) {
            let returning = if again { self.gone.pop_back() } else { None };
            let takes = returning.unwrap_or_else(|| {
                self.named += 1;
                mark(self.named)
            });
            let Ok(given) = self.registry.service(takes) else { return };
            let mut reals = Vec::new();
            for last in 0..3 {
                let Ok(real) = self.registry.real(name(given.id, (self.named % 7) as u8 + last)) else { break };
                if real.recycled {
                    let counted = workers.iter().map(|worker| worker.counts[real.id.index()]).sum::<u32>();
                    assert_eq!(counted, 0, "number {:?} is still counted", real.id);
                }
                reals.push(real.id);
            }
            self.there.push((takes, given.id, reals));
            self.added += 1;
        }

        fn remove(&mut self, pick: usize) {
            // One half stays for ever, and only its reals come and go.
            let stay = self.there.len() / 2;
            if stay < 20 {
                return;
            }
            let (takes, id, _) = self.there.swap_remove(stay + pick % (self.there.len() - stay));
            self.registry.remove_service(id);
            self.gone.push_back(takes);
            if self.gone.len() > 100 {
                self.gone.pop_front();
            }
        }

        /// A service that stays gets another real for one of its own.
        fn edit(&mut self, pick: usize) {
            let services = self.there.len().max(1);
            let Some((_, id, reals)) = self.there.get_mut((pick >> 8) % services.min(10)) else { return };
            if !reals.is_empty() {
                self.registry.remove_real(reals.remove(0));
                let real = self.registry.real(name(*id, pick as u8));
                reals.extend(real.map(|given| given.id).ok().filter(|id| !reals.contains(id)));
            }
        }

        fn view(&mut self, epoch: u64) -> Rc<View> {
            self.registry.make_room(epoch);
            let registry = &self.registry;
            let name = |id: RealId| {
                let name = registry.real_name(id)?;
                Some((*registry.service_name(name.service)?, *name))
            };
            let reals = (0..REALS as u16).map(|id| (name(RealId(id)), registry.generation(RealId(id)))).collect();
            Rc::new(View { epoch, services: self.there.clone(), reals })
        }
    }

    const REALS: usize = 900;

    /// Services come, go and come again under the traffic of three workers that are late in different ways, with few
    /// numbers for all of them: a flow entry that is believed is always of the service and the real that it was made for.
    #[test]
    fn a_million_services_come_and_go() {
        let registry = Registry::new(Limits { services: 300, reals: REALS });
        let mut owner = Owner { registry, there: Vec::new(), gone: VecDeque::new(), named: 0, added: 0 };
        let first = owner.view(1);
        let worker =
            |_| Worker { view: first.clone(), entries: HashMap::new(), counts: vec![0; REALS], round: None, swept: 0 };
        let mut workers: Vec<Worker> = (0..3).map(worker).collect();
        let (mut seen, mut epoch, mut seed) = ([0; 3], 1, 0x9e37_79b9_7f4a_7c15u64);
        let mut random = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 11) as usize
        };
        while owner.added < 1_000_000 {
            for _ in 0..100 {
                if random() % 2 == 0 || owner.there.len() > 200 {
                    owner.remove(random());
                } else {
                    owner.add(random() % 4 == 0, &workers);
                }
            }
            (0..20).for_each(|_| owner.edit(random()));
            epoch += 1;
            let view = owner.view(epoch);
            for (lateness, worker) in workers.iter_mut().enumerate() {
                if random() % (lateness + 1) == 0 {
                    worker.view = view.clone();
                }
                for _ in 0..20 {
                    worker.packet((random() % 6) as u8, random(), &mut seen);
                    worker.packet((random() % 6) as u8, random() % 10, &mut seen);
                }
                match worker.round.take() {
                    None => {
                        worker.round = Some(worker.view.epoch);
                        worker.sweep(0, (random() % 32) as u8);
                    }
                    Some(since) => {
                        worker.sweep(1, (random() % 32) as u8);
                        worker.swept = since;
                    }
                }
            }
            owner.registry.release(workers.iter().map(|worker| worker.swept).min().unwrap_or(0));
        }
        let [believed, dead, new] = seen;
        assert!(believed > 100_000 && dead > 20 && new > 100_000, "believed, dead, new: {seen:?}");
    }
}
