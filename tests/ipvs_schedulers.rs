//! Every scheduler against what the kernel did: its recorded runs, and what it was asked besides.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use drover::config::Scheduler;
use drover::flow::{Event, FlowState};
use drover::packet::transport::TcpFlags;
use drover::service::{Load, Member, Opening, RealId, Roster, Schedule, Start};

const RECORDED: &str = include_str!("data/ipvs/schedulers-recorded.txt");
const ASKED: &str = include_str!("data/ipvs/schedulers-asked.txt");

type Client = (Ipv4Addr, u16, Ipv4Addr);

/// A service as the kernel keeps it, around a scheduler of ours.
#[derive(Default)]
struct World {
    protocol: String,
    mask: Option<Ipv4Addr>,
    /// Newest first.
    members: Vec<Member>,
    edits: u32,
    scheduler: Option<Scheduler>,
    schedule: Option<Schedule>,
    roster: Roster,
    /// By their numbers, also of those that are gone.
    reals: HashMap<u16, Standing>,
    connections: HashMap<Client, (u16, FlowState)>,
    /// By the client's network, if it is persistent.
    templates: HashMap<Ipv4Addr, Option<u16>>,
}

#[derive(Clone, Copy, Default)]
struct Standing {
    load: Load,
    upper: u32,
    lower: u32,
}

impl World {
    fn obey(&mut self, line: &str) -> Result<(), String> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let words: Vec<&str> = rest.split(' ').collect();
        match verb {
            "service" => {
                self.protocol = words[0].into();
                self.begin(&words[1..]);
            }
            "switch" => self.begin(&words),
            "persist" => self.mask = Some(rest.parse().unwrap()),
            "add" | "edit" => self.edit(verb == "add", &words),
            "delete" => {
                let number: u16 = rest.parse().unwrap();
                self.members.retain(|member| member.id.0 != number);
                self.edited();
            }
            "expire" => self.expire(),
            "on" => {
                let client = client_of(&words[1..], 0);
                self.event(client, words[0]);
            }
            "run" => return self.run(&words),
            other => panic!("{other}"),
        }
        Ok(())
    }

    fn begin(&mut self, words: &[&str]) {
        let flags = words.get(1).into_iter().flat_map(|flags| flags.split(','));
        let scheduler = Scheduler::parse(words[0], flags).unwrap();
        self.scheduler = Some(scheduler);
        self.roster = Roster::build(scheduler, self.members.clone().into(), self.edits, 0);
        let start = Start { addresses: 256, ..Start::default() };
        match &mut self.schedule {
            None => self.schedule = Some(Schedule::start(scheduler, &self.roster, start)),
            Some(schedule) => schedule.switch(scheduler, &self.roster, start),
        }
    }

    fn edit(&mut self, adds: bool, words: &[&str]) {
        let (number, weight): (u16, u16) = (words[0].parse().unwrap(), words[1].parse().unwrap());
        let limit =
            |name: &str| words.iter().find_map(|word| word.strip_prefix(name)).map_or(0, |n| n.parse().unwrap());
        if adds {
            let address = Ipv4Addr::new(10, 9, 0, 10 + number as u8).into();
            let port = if self.protocol == "mark" { 0 } else { 80 };
            let id = RealId(number);
            let member = Member { id, holder: 0, ready: true, weight, last_weight: weight, address, port };
            self.members.insert(0, member);
        }
        let member = self.members.iter_mut().find(|member| member.id.0 == number).unwrap();
        member.weight = weight;
        if weight > 0 {
            member.last_weight = weight;
        }
        let real = self.reals.entry(number).or_default();
        if limit("upper=") == 0 || limit("upper=") > real.upper {
            real.load.overloaded = false;
        }
        (real.upper, real.lower) = (limit("upper="), limit("lower="));
        self.edited();
    }

    fn edited(&mut self) {
        self.edits += 1;
        self.roster = Roster::build(self.scheduler.unwrap(), self.members.clone().into(), self.edits, 0);
        self.schedule.as_mut().unwrap().changed(&self.roster);
    }

    fn run(&mut self, words: &[&str]) -> Result<(), String> {
        let (asked, expected) = words.split_at(words.iter().position(|word| *word == "=").unwrap());
        let step = if asked[1].ends_with("+0") { 0 } else { 1 };
        let mut got = Vec::new();
        for number in 0..expected.len() as u16 - 1 {
            let client = client_of(&asked[1..], number * step);
            let real = self.open(client, asked[0]);
            got.push(real.map_or("-".into(), |real| real.to_string()));
        }
        let (got, expected) = (got.join(" "), expected[1..].join(" "));
        if got == expected { Ok(()) } else { Err(format!("{}\n  kernel {expected}\n  ours   {got}", asked.join(" "))) }
    }

    fn open(&mut self, client: Client, events: &str) -> Option<u16> {
        let network = self.mask.map(|mask| Ipv4Addr::from_bits(client.0.to_bits() & mask.to_bits()));
        let known = network.and_then(|network| self.templates.get(&network).copied());
        let real = known.unwrap_or_else(|| self.choose(client));
        self.templates.extend(network.map(|network| (network, real)));
        let real = real?;
        let (first, rest) = events.split_at(1);
        let state = FlowState::None.on(self.event_of(first));
        self.connections.insert(client, (real, state));
        let standing = self.reals.get_mut(&real).unwrap();
        standing.count(state, 1);
        let Load { active, inactive, .. } = standing.load;
        standing.load.overloaded |= standing.upper > 0 && active + inactive >= standing.upper;
        for at in 0..rest.len() {
            self.event(client, &rest[at..=at]);
        }
        Some(real)
    }

    /// All that are closing have run out.
    fn expire(&mut self) {
        let closing = self.connections.extract_if(|_, (_, state)| *state == FlowState::FinWait);
        for (_, (real, state)) in closing {
            let standing = self.reals.get_mut(&real).unwrap();
            standing.count(state, -1);
            let left = standing.load.active + standing.load.inactive;
            let relieved = if standing.lower > 0 { left < standing.lower } else { left * 4 < standing.upper * 3 };
            standing.load.overloaded &= !relieved && standing.upper > 0;
        }
    }

    fn choose(&mut self, (client, client_port, address): Client) -> Option<u16> {
        let opening = Opening { client: client.into(), client_port, address: address.into() };
        let loads = |id: RealId| self.reals[&id.0].load;
        self.schedule.as_mut().unwrap().choose(&self.roster, &opening, loads, 0).map(|id| id.0)
    }

    fn event_of(&self, letter: &str) -> Event {
        match letter {
            _ if self.protocol == "udp" => Event::Datagram,
            "S" => Event::of_tcp(TcpFlags(TcpFlags::SYN)),
            "A" => Event::of_tcp(TcpFlags(TcpFlags::ACK)),
            "F" => Event::of_tcp(TcpFlags(TcpFlags::FIN | TcpFlags::ACK)),
            "R" => Event::of_tcp(TcpFlags(TcpFlags::RST)),
            other => panic!("{other}"),
        }
    }

    fn event(&mut self, client: Client, letter: &str) {
        let event = self.event_of(letter);
        let (real, state) = self.connections.get_mut(&client).unwrap();
        let old = std::mem::replace(state, state.on(event));
        let standing = self.reals.get_mut(real).unwrap();
        standing.count(old, -1);
        standing.count(*state, 1);
    }
}

impl Standing {
    fn count(&mut self, state: FlowState, by: i32) {
        let counter = if state.is_active() { &mut self.load.active } else { &mut self.load.inactive };
        *counter = counter.checked_add_signed(by).unwrap();
    }
}

/// `10.9.0.1:20000[+0] [10.9.1.1]`
fn client_of(words: &[&str], later: u16) -> Client {
    let (address, port) = words[0].split_once(':').unwrap();
    let port: u16 = port.trim_end_matches("+0").parse().unwrap();
    let to = words.get(1).map_or(Ipv4Addr::new(10, 9, 0, 100), |to| to.parse().unwrap());
    (address.parse().unwrap(), port + later, to)
}

/// The name of each case, and where it first went another way than the kernel.
fn replay(text: &str) -> Vec<(&str, Option<String>)> {
    let cases = text.split("\n\n").filter_map(|case| case.trim().strip_prefix("case "));
    let replayed = cases.map(|case| {
        let (name, lines) = case.split_once('\n').unwrap();
        let mut world = World::default();
        let differs = lines
            .lines()
            .enumerate()
            .find_map(|(number, line)| world.obey(line).err().map(|why| format!("{name}, line {}: {why}", number + 1)));
        (name, differs)
    });
    replayed.collect()
}

fn demand(text: &str, cases: usize) {
    let replayed = replay(text);
    let differ: Vec<_> = replayed.iter().filter_map(|(_, differs)| differs.as_deref()).collect();
    assert!(differ.is_empty(), "{} of {} cases differ:\n{}", differ.len(), replayed.len(), differ.join("\n"));
    assert_eq!(replayed.len(), cases);
}

#[test]
fn the_kernel_s_recorded_runs() {
    demand(RECORDED, 25);
}

#[test]
fn what_the_kernel_was_asked() {
    demand(ASKED, 200);
}
