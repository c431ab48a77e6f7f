//! Which service a packet is for, judged by a model that looks at every service and every rule; and how the services of
//! one snapshot become those of the next.

mod common;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use common::*;
use drover::config::edit::{self, Edit, RealWords, ServiceWords};
use drover::config::{
    Config, MacMatch, MatchRule, OnRemoved, Ports, Protocol, RealConfig, Scheduler, ServiceConfig, Takes,
};
use drover::packet::{Ipv4Net, Mac};
use drover::service::{Asked, Composer, Found, Reach, ServiceId, Snapshot, Station};
use proptest::prelude::*;

fn station() -> Station {
    Station { mac: DIRECTOR, network: "10.9.0.10/24".parse().unwrap(), vlan: None, mtu: 1500 }
}

fn with(services: Vec<Takes>, matches: Vec<MatchRule>) -> Config {
    let service = |takes| Arc::new(ServiceConfig::new(takes, Scheduler::RoundRobin, Vec::new()));
    Config { services: services.into_iter().map(service).collect(), matches, ..config() }
}

fn snapshot_with(config: &Config) -> Snapshot {
    Snapshot::build(1, config, vec![station()], |_, _| Reach::Unknown)
}

/// Few addresses and ports, so that things meet.
fn address() -> impl Strategy<Value = Ipv4Addr> {
    (0u8..16).prop_map(|last| Ipv4Addr::new(10, 0, 0, last))
}

fn net() -> impl Strategy<Value = Ipv4Net> {
    (address(), prop_oneof![Just(32u8), 27u8..32, Just(0)]).prop_map(|(address, prefix)| {
        let net = Ipv4Net { address, prefix };
        Ipv4Net { address: net.network(), prefix }
    })
}

fn ports() -> impl Strategy<Value = Ports> {
    let range = (1u16..10, 1u16..5).prop_map(|(first, more)| Ports { first, last: first + more });
    prop_oneof![3 => (1u16..12).prop_map(Ports::one), 2 => range, 1 => Just(Ports::ANY)]
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)]
}

fn takes() -> impl Strategy<Value = Takes> {
    let one = (protocol(), address(), ports())
        .prop_map(|(protocol, address, ports)| Takes::one_address(protocol, address, ports));
    let several = (protocol(), net().prop_filter("a network", |net| net.prefix > 0), ports());
    let several = several.prop_map(|(protocol, net, ports)| Takes::network(protocol, net, ports));
    prop_oneof![3 => one, 2 => several, 1 => (1u32..5).prop_map(Takes::Mark)]
}

fn mac() -> impl Strategy<Value = Mac> {
    (0u8..3).prop_map(|last| Mac([2, 0, 0, 0, 0, last]))
}

fn rule() -> impl Strategy<Value = MatchRule> {
    let mac = prop_oneof![mac().prop_map(MacMatch::Is), mac().prop_map(MacMatch::IsNot)];
    let optional = (prop::option::of(protocol()), prop::option::of(0usize..2), prop::option::of(mac));
    (1u32..6, net(), net(), ports(), optional).prop_map(|(mark, source, destination, ports, optional)| {
        let (protocol, ingress, source_mac) = optional;
        MatchRule { mark, source, destination, ports, protocol, ingress, source_mac }
    })
}

fn asked() -> impl Strategy<Value = Asked> {
    let from = (address(), mac(), 0u8..2);
    (from, address(), 0u16..16, protocol()).prop_map(|((source, source_mac, ingress), destination, port, protocol)| {
        let (source, destination, protocol) = (source.into(), destination.into(), protocol.number());
        Asked { source, destination, port, protocol, ingress, source_mac }
    })
}

/// None of two that are equally exact, as the configuration has it.
fn without_clashes(services: Vec<Takes>) -> Vec<Takes> {
    let mut kept: Vec<Takes> = Vec::new();
    for takes in services {
        let clash = |other: &Takes| match (takes, *other) {
            (
                Takes::Address { protocol, address, prefix, ports },
                Takes::Address { protocol: p, address: a, prefix: x, ports: q },
            ) => {
                let range = |ports: Ports| ports.single().is_none() && !ports.is_any();
                (protocol, address, prefix) == (p, a, x)
                    && (ports == q || range(ports) && range(q) && ports.first <= q.last && q.first <= ports.last)
            }
            _ => takes == *other,
        };
        if !kept.iter().any(clash) {
            kept.push(takes);
        }
    }
    kept
}

fn v4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => unreachable!(),
    }
}

/// The rule in words: the first match rule that fits and whose mark has a service; else, of the services that fit, the
/// one with the longest prefix, and of those the one with one port, with several, with any.
fn model(services: &[Takes], rules: &[MatchRule], asked: &Asked) -> Option<usize> {
    let fits = |rule: &&MatchRule| {
        rule.source.contains(v4(asked.source))
            && rule.destination.contains(v4(asked.destination))
            && (rule.ports.first..=rule.ports.last).contains(&asked.port)
            && (rule.protocol.is_none() || rule.protocol.map(Protocol::number) == Some(asked.protocol))
            && (rule.ingress.is_none() || rule.ingress == Some(asked.ingress.into()))
            && match rule.source_mac {
                None => true,
                Some(MacMatch::Is(mac)) => asked.source_mac == mac,
                Some(MacMatch::IsNot(mac)) => asked.source_mac != mac,
            }
    };
    let marked =
        rules.iter().filter(fits).find_map(|rule| services.iter().position(|takes| *takes == Takes::Mark(rule.mark)));
    let exactness = |takes: &Takes| match takes {
        Takes::Address { protocol, address, prefix, ports }
            if protocol.number() == asked.protocol
                && Ipv4Net { address: v4(*address), prefix: *prefix }.contains(v4(asked.destination))
                && (ports.first..=ports.last).contains(&asked.port) =>
        {
            let by_port = if ports.first == ports.last { 2 } else { i32::from(ports.last < u16::MAX) };
            Some((*prefix, by_port))
        }
        _ => None,
    };
    let fitting = services.iter().enumerate().filter_map(|(place, takes)| Some((exactness(takes)?, place)));
    marked.or(fitting.max_by_key(|(exactness, _)| *exactness).map(|(_, place)| place))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn finds_what_the_model_finds(
        services in prop::collection::vec(takes(), 0..24).prop_map(without_clashes),
        rules in prop_oneof![Just(Vec::new()), prop::collection::vec(rule(), 0..6)],
        packets in prop::collection::vec(asked(), 50),
    ) {
        let snapshot = snapshot_with(&with(services.clone(), rules.clone()));
        for asked in packets {
            let expected = model(&services, &rules, &asked);
            let wide = expected.is_some_and(|place| services[place].as_exact().is_none());
            let expected = expected.map(|place| Found { service: ServiceId::from_number(place as u16 + 1).unwrap(), wide });
            prop_assert_eq!(snapshot.find(&asked), expected, "{:?} of {:?} with {:?}", asked, services, rules);
            if let Some(service) = snapshot.find_v4(v4(asked.destination), asked.port, asked.protocol) {
                prop_assert_eq!(expected, Some(Found { service, wide: false }), "the hot table never says more");
            }
            let live = |rule: &&MatchRule| services.contains(&Takes::Mark(rule.mark));
            let known = services.iter().filter_map(|takes| takes.net())
                .chain(rules.iter().filter(live).map(|rule| rule.destination).filter(|net| net.prefix == 32));
            let is_virtual = known.into_iter().any(|net| net.contains(v4(asked.destination)));
            prop_assert_eq!(snapshot.is_virtual(asked.destination), is_virtual);
        }
    }
}

#[test]
fn what_no_rule_can_touch_stays_in_the_hot_table() {
    let web = Takes::exact(Protocol::Tcp, VIP, 80);
    let (other_port, other_address) = (Takes::exact(Protocol::Tcp, VIP, 81), Takes::exact(Protocol::Tcp, CLIENT, 80));
    let rule =
        MatchRule { ports: Ports::one(80), destination: Ipv4Net { address: VIP, prefix: 32 }, ..MatchRule::any(7) };
    let config = with(vec![web, other_port, other_address, Takes::Mark(7)], vec![rule.clone()]);
    let snapshot = snapshot_with(&config);
    let hot = |address, port| snapshot.find_v4(address, port, 6).map(ServiceId::number);
    assert_eq!((hot(VIP, 80), hot(VIP, 81), hot(CLIENT, 80)), (None, Some(2), Some(3)));
    let unmarked = with(vec![web, other_port], vec![rule]);
    assert_eq!(snapshot_with(&unmarked).find_v4(VIP, 80, 6).map(ServiceId::number), Some(1), "no service has the mark");
}

fn real(last: u8, weight: u16) -> RealConfig {
    RealConfig { address: [10, 9, 0, last].into(), weight, ..config().services[0].reals[0].clone() }
}

fn web(reals: Vec<RealConfig>) -> Arc<ServiceConfig> {
    Arc::new(ServiceConfig::new(Takes::exact(Protocol::Tcp, VIP, 80), Scheduler::RoundRobin, reals))
}

fn everybody(_: usize, address: Ipv4Addr) -> Reach {
    Reach::At(real_mac(address.octets()[3]))
}

#[test]
fn the_dead_are_looked_for_until_every_table_was_gone_through() {
    let mut config = config();
    let mut web = (*config.services[0]).clone();
    web.settings.on_removed = OnRemoved::Reset;
    config.services[0] = Arc::new(web.clone());
    let mut composer = Composer::new(config.limits, vec![station()]);
    assert!(!composer.compose(1, &config, &everybody).snapshot.clearing);
    web.reals.pop();
    config.services[0] = Arc::new(web);
    assert!(composer.compose(2, &config, &everybody).snapshot.clearing, "its connections have ended");
    composer.release(1);
    assert!(composer.refresh(3, &[], &everybody).clearing, "not yet since the second");
    composer.release(2);
    assert!(!composer.refresh(4, &[], &everybody).clearing);
}

#[test]
fn a_removed_real_keeps_its_number_and_its_mac_until_it_comes_again() {
    let mut composer = Composer::new(config().limits, vec![station()]);
    let before = Config { services: vec![web(vec![real(11, 1), real(12, 2)])], ..config() };
    let first = composer.compose(1, &before, &everybody).snapshot;
    let id = first.find_v4(VIP, 80, 6).unwrap();
    let numbers = |snapshot: &Snapshot| snapshot.service(id).unwrap().reals.iter().map(|id| id.0).collect::<Vec<_>>();
    assert_eq!(numbers(&first), [1, 0], "newest first");

    let after = Config { services: vec![web(vec![real(12, 2), real(13, 1)])], ..config() };
    let second = composer.compose(2, &after, &everybody).snapshot;
    assert_eq!(numbers(&second), [2, 1]);
    let removed = &second.reals[0];
    assert!(removed.removed && removed.has_mac && !removed.answers && removed.service == Some(id), "{removed:?}");
    assert_eq!(removed.link[..6], real_mac(11).0);

    let drained = Config { services: vec![web(vec![real(12, 0), real(13, 1)])], ..config() };
    let drained = composer.compose(3, &drained, &everybody).snapshot;
    assert_eq!(
        (drained.reals[1].weight, drained.reals[1].last_weight, drained.service(id).unwrap().roster.edits()),
        (0, 2, 2)
    );
    let again = Config { services: vec![web(vec![real(12, 2), real(13, 1), real(11, 5)])], ..config() };
    let third = composer.compose(3, &again, &everybody).snapshot;
    assert_eq!(numbers(&third), [0, 2, 1], "it is the newest now");
    assert!(!third.reals[0].removed && third.reals[0].answers && third.reals[0].weight == 5);
    assert_eq!(third.reals[0].generation, first.reals[0].generation);
    let gone = composer.compose(4, &Config { services: Vec::new(), ..config() }, &everybody).snapshot;
    assert!(
        gone.service(id).is_none() && gone.find_v4(VIP, 80, 6).is_none() && gone.reals.iter().all(|real| real.removed)
    );
    assert!(gone.reals.iter().all(|real| real.has_mac), "flows may still name them");
    assert!(gone.real(drover::service::RealId(u16::MAX)).service.is_none(), "a number that nobody ever had");
}

/// What a real counted goes with its service, and stays with its real.
#[test]
fn who_comes_to_a_new_service_counts_anew() {
    let mut composer = Composer::new(config().limits, vec![station()]);
    let both = Config { services: vec![web(vec![real(11, 1), real(12, 1)])], ..config() };
    let one = Config { services: vec![web(vec![real(11, 1)])], ..config() };
    let none = Config { services: Vec::new(), ..config() };
    let mut came = |config: &Config| {
        let came = composer.compose(1, config, &everybody).came;
        (came.services.len(), came.reals.iter().map(|id| id.0).collect::<Vec<_>>())
    };
    assert_eq!(came(&both), (1, vec![]), "nobody was there before");
    assert_eq!((came(&one), came(&both)), ((0, vec![]), (0, vec![])), "the same service");
    assert_eq!((came(&one), came(&none), came(&one)), ((0, vec![]), (0, vec![]), (1, vec![0])));
    assert_eq!((came(&both), came(&both)), ((0, vec![1]), (0, vec![])), "it went before its service did");

    let ledger = drover::counters::Ledger::new(1, 1);
    ledger.reals[0].count_packet(40);
    ledger.reals[0].active.add(1);
    ledger.restart(&[], &[drover::service::RealId(0)]);
    assert_eq!((ledger.reals[0].packets.get(), ledger.reals[0].active.get()), (0, 1));
}

/// The kernel's wrr begins again at every edit of a real, also one that changes nothing, and at no edit of the service.
#[test]
fn only_edits_of_reals_are_counted() {
    let words = |scheduler: &str, persistent| ServiceWords {
        tcp: Some(format!("{VIP}:80")),
        scheduler: Some(scheduler.into()),
        persistent,
        ..ServiceWords::default()
    };
    let of = |last| RealWords { address: real_address(last).to_string(), ..RealWords::default() };
    let again = |weight| RealWords { weight: Some(weight), ..of(1) };
    let mut composer = Composer::new(config().limits, vec![station()]);
    let mut config = Config { services: Vec::new(), ..config() };
    let edits = [
        (Edit::AddService(words("wrr", None)), 0),
        (Edit::AddReal(words("wrr", None), of(1)), 1),
        (Edit::EditService(words("wrr", None)), 1),
        (Edit::EditReal(words("wrr", None), of(1)), 2),
        (Edit::EditService(words("wrr", Some(60))), 2),
        (Edit::EditService(words("rr", None)), 2),
        (Edit::EditReal(words("rr", None), again(7)), 3),
        (Edit::DeleteReal(words("rr", None), of(1)), 4),
    ];
    for (epoch, (edit, expected)) in (1..).zip(edits) {
        edit::apply(&mut config, &edit).unwrap();
        let snapshot = composer.compose(epoch, &config, &everybody).snapshot;
        assert_eq!(snapshot.services[0].as_ref().unwrap().roster.edits(), expected, "{edit:?}");
    }
}

#[test]
fn an_answer_to_arp_makes_nothing_again_that_it_does_not_change() {
    let config = config();
    let mut composer = Composer::new(config.limits, vec![station()]);
    let unknown = |_: usize, _: Ipv4Addr| Reach::Unknown;
    let first = composer.compose(1, &config, &unknown).snapshot;
    let second = composer.refresh(2, &[real_address(1)], &everybody);
    let same = |place: usize, one: &Snapshot, two: &Snapshot| {
        Arc::ptr_eq(one.services[place].as_ref().unwrap(), two.services[place].as_ref().unwrap())
    };
    assert_eq!([0, 1, 2].map(|place| same(place, &first, &second)), [false, false, true]);
    let answers = |snapshot: &Snapshot| snapshot.reals.iter().map(|real| real.answers).collect::<Vec<_>>();
    assert_eq!(answers(&second), [true, false, false, true, false, false]);
    let third = composer.refresh(3, &[real_address(1)], &everybody);
    assert!([0, 1, 2].iter().all(|place| same(*place, &second, &third)), "it was known");
    let fourth = composer.compose(4, &config, &everybody).snapshot;
    assert_eq!(answers(&fourth), [true; 6]);
    let twice = Config { services: vec![web(vec![real(11, 1), real(12, 2)]), elsewhere(81), elsewhere(82)], ..config };
    let fifth = composer.compose(5, &twice, &everybody).snapshot;
    let tables: Vec<_> = fifth.services.iter().flatten().map(|service| service.roster.stateless()).collect();
    assert_eq!(tables.len(), 3);
    assert!(tables.iter().all(|table| Arc::ptr_eq(table, tables[0])), "the same reals, the same table");
}

fn elsewhere(port: u16) -> Arc<ServiceConfig> {
    let reals = [real(11, 1), real(12, 2)].map(|real| RealConfig { port, ..real });
    Arc::new(ServiceConfig::new(Takes::exact(Protocol::Tcp, VIP, port), Scheduler::RoundRobin, reals.into()))
}

/// A number's next holder has another generation, nothing counted, and comes only when no worker can have a flow of the
/// one before.
#[test]
fn a_number_changes_hands_with_its_generation_and_its_counters() {
    let limits = drover::config::Limits { services: 8, reals: 2 };
    let mut composer = Composer::new(limits, vec![station()]);
    let with = |reals| Config { services: vec![web(reals)], ..config() };
    composer.compose(1, &with(vec![real(11, 1), real(12, 1)]), &everybody);
    let full = composer.compose(2, &with(vec![real(13, 1), real(12, 1)]), &everybody);
    assert_eq!((full.waiting.len(), full.waiting[0].what, full.snapshot.reals[0].generation), (1, "reals", 1));
    assert_eq!((full.snapshot.reals[0].service, full.snapshot.services[0].as_ref().unwrap().reals.len()), (None, 1));
    composer.release(1);
    let still = composer.compose(3, &with(vec![real(13, 1), real(12, 1)]), &everybody);
    assert_eq!(still.waiting.len(), 1);
    composer.release(2);
    let there = composer.compose(4, &with(vec![real(13, 1), real(12, 1)]), &everybody);
    assert_eq!((there.waiting.len(), there.recycled.reals.len(), there.snapshot.reals[0].generation), (0, 1, 1));
    assert_eq!(there.snapshot.reals[0].address, IpAddr::from([10, 9, 0, 13]));

    let ledger = drover::counters::Ledger::new(8, 2);
    ledger.reals[0].count_packet(40);
    ledger.reals[1].count_packet(40);
    ledger.clear(&there.recycled.services, &there.recycled.reals);
    assert_eq!((ledger.reals[0].packets.get(), ledger.reals[1].packets.get()), (0, 1));
}
