//! Edits and plans: refused with the file's own words and nothing half applied, or made; and a plan leads from any
//! configuration to any other.

use std::sync::Arc;

use drover::config::edit::{self, Change, Edit, RealWords, ServiceWords};
use drover::config::{self, Config, OnMiss, Persistence, Scheduler, ServiceConfig, Takes, Timeouts};
use proptest::prelude::*;

const FILE: &str = "[[port]]\nname = \"lan\"\ntap = \"dtap0\"\naddress = \"10.9.0.10/24\"\n\
    [[service]]\ntcp = \"10.9.0.100:80\"\nscheduler = \"wrr\"\n[[service.real]]\naddress = \"10.9.0.11\"\nweight = 3\n\
    mac = \"02:00:00:00:00:11\"\n[[service.real]]\naddress = \"10.9.0.12\"\n\
    [[service]]\nudp = \"10.9.0.100:5000-5099\"\n[[match]]\nmark = 7\ndestination = \"10.9.0.101\"\n[[service]]\nmark = 7\n";

fn good(text: &str) -> Config {
    config::parse(text, "x.toml").unwrap_or_else(|errors| panic!("{text}\n{errors}"))
}

fn tcp(place: &str) -> ServiceWords {
    ServiceWords { tcp: Some(place.into()), ..ServiceWords::default() }
}

fn udp(place: &str) -> ServiceWords {
    ServiceWords { udp: Some(place.into()), ..ServiceWords::default() }
}

fn real(address: &str) -> RealWords {
    RealWords { address: address.into(), ..RealWords::default() }
}

/// Makes an edit that is sound, or gives what is said against it, which has changed nothing.
fn apply(config: &mut Config, edit: Edit) -> Result<Change, String> {
    let before = config.clone();
    edit::apply(config, &edit).map_err(|mistakes| {
        assert_eq!(*config, before, "half applied: {edit:?}");
        assert!(mistakes.iter().all(|mistake| mistake.place.is_none()));
        mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n").trim_start().to_owned()
    })
}

fn service<'c>(config: &'c Config, name: &str) -> &'c Arc<ServiceConfig> {
    config.services.iter().find(|service| service.takes.to_string() == name).expect(name)
}

#[test]
fn what_is_sound_is_made() {
    let mut config = good(FILE);
    let words = ServiceWords {
        scheduler: Some("mh".into()),
        flags: Some("mh-port".into()),
        persistent: Some(300),
        netmask: Some("255.255.255.0".into()),
        ..tcp("10.9.0.102:0")
    };
    apply(&mut config, Edit::AddService(words.clone())).unwrap();
    let added = service(&config, "TCP 10.9.0.102:0");
    assert_eq!(
        (added.flags().as_str(), added.settings.on_miss),
        ("(mh-port) persistent 300 mask 255.255.255.0", OnMiss::Hash)
    );
    apply(&mut config, Edit::AddReal(words.clone(), real("10.9.0.13"))).unwrap();
    assert_eq!(service(&config, "TCP 10.9.0.102:0").reals[0].port, 0);

    let edited = ServiceWords { scheduler: None, flags: None, persistent: Some(10), netmask: None, ..words.clone() };
    apply(&mut config, Edit::EditService(edited)).unwrap();
    let edited = service(&config, "TCP 10.9.0.102:0");
    assert_eq!((edited.scheduler, edited.reals.len()), (Scheduler::WeightedLeastConnection, 1));
    assert_eq!(edited.settings.persistence, Some(Persistence { seconds: 10, prefix: 32 }));

    let heavier = RealWords { weight: Some(9), upper: Some(20), ..real("10.9.0.11:80") };
    apply(&mut config, Edit::EditReal(tcp("10.9.0.100:80"), heavier)).unwrap();
    let web = service(&config, "TCP 10.9.0.100:80");
    assert_eq!((web.reals[0].weight, web.reals[0].upper, web.reals[0].mac.is_some()), (9, 20, true));
    apply(&mut config, Edit::DeleteReal(tcp("10.9.0.100:80"), real("10.9.0.11"))).unwrap();
    assert_eq!(service(&config, "TCP 10.9.0.100:80").reals.len(), 1);
    apply(&mut config, Edit::DeleteService(tcp("10.9.0.100:80"))).unwrap();
    assert_eq!(config.services.len(), 3);
    apply(&mut config, Edit::SetTimeouts { tcp: Some(60), tcp_fin: None, udp: Some(5) }).unwrap();
    assert_eq!(config.timeouts, Timeouts { tcp: 60, tcp_fin: 120, udp: 5 });
}

#[test]
fn what_is_not_is_refused_in_the_files_words() {
    let mut config = good(FILE);
    let web = || tcp("10.9.0.100:80");
    let cases = [
        (Edit::AddService(web()), "service: TCP 10.9.0.100:80 is not allowed twice: the configuration has it already"),
        (
            Edit::AddService(udp("10.9.0.100:5050-5200")),
            "service: UDP 10.9.0.100:5050-5200 is not allowed: the configuration has UDP 10.9.0.100:5000-5099, and ports \
             in both would be for either; ranges apart",
        ),
        (
            Edit::AddService(tcp("10.9.0.11:80")),
            "service: 10.9.0.11:80 is not allowed: 10.9.0.11 is a server's own address, and no virtual address can be",
        ),
        (
            Edit::AddService(ServiceWords {
                scheduler: Some("rr".into()),
                flags: Some("sh-port".into()),
                ..tcp("10.9.0.103:80")
            }),
            "service.flags: \"sh-port\" does not belong to rr, which has no flags: leave it out",
        ),
        (Edit::EditService(tcp("10.9.0.103:80")), "service: there is no service TCP 10.9.0.103:80: add it first"),
        (Edit::DeleteService(udp("10.9.0.100:5000")), "service: there is no service UDP 10.9.0.100:5000: add it first"),
        (
            Edit::AddReal(web(), real("10.9.0.11")),
            "real.address: 10.9.0.11 is not allowed twice: TCP 10.9.0.100:80 has it already",
        ),
        (
            Edit::AddReal(web(), RealWords { weight: Some(65_536), ..real("10.9.0.13") }),
            "real.weight: 65536 is not allowed: 0 to 65535",
        ),
        (
            Edit::AddReal(web(), RealWords { upper: Some(5), lower: Some(6), ..real("10.9.0.13") }),
            "real.lower: 6 is not allowed: at most upper, 5; new connections begin again below lower",
        ),
        (
            Edit::AddReal(web(), real("10.9.0.101")),
            "real.address: 10.9.0.101 is not allowed: a server's own address, and a match rule for mark 7 has it as its destination",
        ),
        (
            Edit::EditReal(web(), real("10.9.0.13")),
            "real.address: TCP 10.9.0.100:80 has no real 10.9.0.13: add it first",
        ),
        (Edit::SetTimeouts { tcp: Some(0), tcp_fin: None, udp: None }, "timeouts.tcp: 0 is not allowed: 1 to 2147483"),
    ];
    for (edit, expected) in cases {
        assert_eq!(apply(&mut config, edit.clone()).expect_err(expected), expected, "{edit:?}");
    }
    config.limits = config::Limits { services: 3, reals: 2 };
    assert_eq!(
        apply(&mut config, Edit::AddService(tcp("10.9.0.104:80"))).unwrap_err(),
        "service: TCP 10.9.0.104:80 is one too many: max_services is 3"
    );
    assert_eq!(
        apply(&mut config, Edit::AddReal(web(), real("10.9.0.13"))).unwrap_err(),
        "real: 10.9.0.13 is one too many: max_reals is 2"
    );
}

#[test]
fn a_plan_goes_before_it_comes() {
    let old = good(FILE);
    assert_eq!(edit::plan(&old, &old.clone()), []);
    let text = FILE
        .replace("5000-5099", "5050-5200")
        .replace("weight = 3", "weight = 4")
        .replace("\"10.9.0.12\"", "\"10.9.0.13\"");
    let new = good(&text.replace("scheduler = \"wrr\"", "scheduler = \"rr\""));
    let words: Vec<String> = edit::plan(&old, &new).iter().map(brief).collect();
    assert_eq!(
        words,
        [
            "delete UDP 10.9.0.100:5000-5099",
            "delete 10.9.0.12",
            "edit TCP 10.9.0.100:80",
            "edit 10.9.0.11",
            "add 10.9.0.13",
            "add UDP 10.9.0.100:5050-5200"
        ]
    );
}

fn brief(change: &Change) -> String {
    match change {
        Change::DeleteService(takes) => format!("delete {takes}"),
        Change::DeleteReal(_, address) => format!("delete {address}"),
        Change::AddService(service) => format!("add {}", service.takes),
        Change::EditService(service) => format!("edit {}", service.takes),
        Change::AddReal(_, real) => format!("add {}", real.address),
        Change::EditReal(_, real) => format!("edit {}", real.address),
        Change::SetTimeouts(_) => "timeouts".into(),
        Change::SetMatches(_) => "matches".into(),
    }
}

/// Services and reals of few names, so that many stay.
fn text() -> impl Strategy<Value = String> {
    let real = (11u8..18, 0u16..4, 0u32..3).prop_map(|(last, weight, upper)| {
        (last, format!("[[service.real]]\naddress = \"10.9.0.{last}\"\nweight = {weight}\nupper = {upper}\n"))
    });
    let reals = prop::collection::vec(real, 0..5).prop_map(|mut reals| {
        reals.sort();
        reals.dedup_by_key(|(last, _)| *last);
        reals.into_iter().map(|(_, text)| text).collect::<String>()
    });
    let how = prop_oneof![Just("rr"), Just("wlc"), Just("sh\"\nflags = \"sh-port")];
    let service = (0u8..4, prop_oneof![Just("80"), Just("8000-8099"), Just("8050-8060")], how, reals);
    let services = prop::collection::vec(service, 0..5).prop_map(|mut services| {
        services.sort();
        // Of overlapping ranges one only.
        services.dedup_by_key(|(last, ports, ..)| (*last, ports.contains('-')));
        let text = |(last, ports, how, reals): (u8, &str, &str, String)| {
            format!("[[service]]\ntcp = \"10.9.0.{}:{ports}\"\nscheduler = \"{how}\"\n{reals}", 100 + last)
        };
        services.into_iter().map(text).collect::<String>()
    });
    (services, 1u32..3, any::<bool>()).prop_map(|(services, tcp, rule)| {
        let rule = if rule { "[[match]]\nmark = 7\n" } else { "" };
        format!("[[port]]\ntap = \"t\"\naddress = \"10.9.0.10/24\"\n[timeouts]\ntcp = {tcp}\n{rule}{services}")
    })
}

fn in_order(config: &Config) -> Config {
    let mut config = config.clone();
    config.services.sort_by_key(|service| service.takes);
    for service in &mut config.services {
        Arc::make_mut(service).reals.sort_by_key(|real| real.address);
    }
    config
}

/// The same, as an operator would say it.
fn as_edit(change: &Change) -> Option<Edit> {
    let words = |takes: &Takes| tcp(&takes.place());
    let full = |service: &ServiceConfig| ServiceWords {
        scheduler: Some(service.scheduler.name().into()),
        flags: Some(service.scheduler.flags().collect::<Vec<_>>().join(",")),
        ..words(&service.takes)
    };
    let real_words = |real: &config::RealConfig| RealWords {
        weight: Some(real.weight.into()),
        upper: Some(real.upper.into()),
        ..self::real(&real.address.to_string())
    };
    Some(match change {
        Change::DeleteService(takes) => Edit::DeleteService(words(takes)),
        Change::DeleteReal(takes, address) => Edit::DeleteReal(words(takes), self::real(&address.to_string())),
        Change::AddService(service) => Edit::AddService(full(service)),
        Change::EditService(service) => Edit::EditService(full(service)),
        Change::AddReal(takes, real) => Edit::AddReal(words(takes), real_words(real)),
        Change::EditReal(takes, real) => Edit::EditReal(words(takes), real_words(real)),
        Change::SetTimeouts(timeouts) => Edit::SetTimeouts { tcp: Some(timeouts.tcp.into()), tcp_fin: None, udp: None },
        Change::SetMatches(_) => return None,
    })
}

/// A service comes with its reals in a plan, and without from an operator.
fn without_reals(change: Change) -> Change {
    let bare =
        |service: Arc<ServiceConfig>| Arc::new(ServiceConfig { reals: Vec::new(), ..ServiceConfig::clone(&service) });
    match change {
        Change::AddService(service) => Change::AddService(bare(service)),
        Change::EditService(service) => Change::EditService(bare(service)),
        other => other,
    }
}

proptest! {
    /// From any configuration to any other, and every step is one that an operator could have made.
    #[test]
    fn a_plan_leads_there(old in text(), new in text()) {
        let (old, new) = (good(&old), good(&new));
        let mut config = Config { limits: new.limits, flows: new.flows.clone(), ..old.clone() };
        for change in edit::plan(&old, &new) {
            if let Some(edit) = as_edit(&change) {
                let found = edit::check(&config, &edit).map(without_reals);
                prop_assert_eq!(found, Ok(without_reals(change.clone())), "{:?}", edit);
            }
            edit::make(&mut config, &change);
        }
        prop_assert_eq!(in_order(&config), in_order(&new));
        prop_assert_eq!(edit::plan(&config, &new), []);
    }
}

#[test]
fn many_changes_at_once_are_what_they_are_one_by_one() {
    let other = "[[port]]\nname = \"lan\"\ntap = \"dtap0\"\naddress = \"10.9.0.10/24\"\n\
        [[service]]\ntcp = \"10.9.0.103:80\"\n[[service.real]]\naddress = \"10.9.0.13\"\n\
        [[service]]\ntcp = \"10.9.0.100:80\"\nscheduler = \"lc\"\n[[service.real]]\naddress = \"10.9.0.12\"\nweight = 9\n\
        [[service.real]]\naddress = \"10.9.0.14\"\n";
    let (one, two) = (good(FILE), good(other));
    for (from, to) in [(&one, &two), (&two, &one)] {
        let changes = edit::plan(from, to);
        let (mut together, mut singly) = (from.clone(), from.clone());
        edit::make_all(&mut together, &changes);
        changes.iter().for_each(|change| edit::make(&mut singly, change));
        assert_eq!(together, singly);
        assert_eq!(edit::plan(&together, to), []);
    }
    // Who goes and comes again has left no trace of the first time.
    let takes = one.services[0].takes;
    let again = Arc::new(ServiceConfig::new(takes, Scheduler::RoundRobin, Vec::new()));
    let mut config = one.clone();
    edit::make_all(&mut config, &[Change::DeleteService(takes), Change::AddService(again.clone())]);
    assert_eq!((config.services.len(), config.services.last()), (one.services.len(), Some(&again)));
}

#[test]
fn what_is_most_likely_not_meant_is_remarked() {
    let config = good("[[port]]\ntap = \"dtap0\"\naddress = \"10.9.0.10/24\"\n");
    let remarks = |words| edit::remarks(&config, &[edit::check(&config, &Edit::AddService(words)).unwrap()]);
    assert_eq!(remarks(tcp("10.9.0.100:80")), Vec::<String>::new());
    let room = "there is room for 1024 connections of services of several addresses or ports a worker: \
                flows.wide_per_worker, at the next start";
    assert_eq!(remarks(tcp("10.9.0.100:80-81")), [room]);
    let mark = ServiceWords { mark: Some(7), ..ServiceWords::default() };
    assert_eq!(remarks(mark), ["no [[match]] gives mark 7: nothing comes to FWM 7", room]);
}

#[test]
fn a_file_read_again_changes_what_it_can_and_says_what_it_cannot() {
    let running = good(FILE);
    assert_eq!(edit::reload(&running, &running.clone()).unwrap(), edit::Reload { changes: vec![], notes: vec![] });
    let file = |from: &str, to: &str| {
        assert!(FILE.contains(from));
        good(&FILE.replacen(from, to, 1))
    };
    let later = good(&format!("idle = \"poll\"\nmax_reals = 99\ncontrol.socket = \"/x\"\n{FILE}"));
    let edit::Reload { changes, notes } = edit::reload(&running, &later).unwrap();
    assert_eq!((changes, notes.len()), (vec![], 3));
    assert_eq!(notes[0], "idle has changed in the file: it takes effect at the next start");
    let moved = edit::reload(&running, &file("10.9.0.10/24", "10.9.0.9/24")).unwrap_err();
    assert!(moved[0].to_string().contains("port: not as they were at the start"), "{moved:?}");
    let small = good(&format!("max_reals = 2\nmax_services = 3\n{FILE}"));
    let more = file("address = \"10.9.0.12\"", "address = \"10.9.0.12\"\n[[service.real]]\naddress = \"10.9.0.13\"");
    let refused = edit::reload(&small, &more).unwrap_err();
    assert_eq!(refused.len(), 1);
    let said = refused[0].to_string();
    assert!(said.contains("max_reals: 3 reals are too many for the running director, which has room for 2"), "{said}");
}
