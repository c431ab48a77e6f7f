//! What an operator changes while the director runs: done as asked, refused as the file is, and felt by nobody else.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use drover::control::wire::{Stats, TrafficEntry};
use drover::sim::frames::FrameBuilder;

use crate::director::eventually;
use crate::live::{ACK, CLIENT, FILE, Live, SYN, VIP};

const WEB: (Ipv4Addr, u16) = (VIP, 80);

fn live() -> Live {
    let live = Live::start(FILE);
    live.resolves("10.9.0.11");
    live.resolves("10.9.0.12");
    live
}

#[test]
fn a_real_comes_and_goes_and_connections_stay_where_they_are() {
    let live = live();
    let before: Vec<u8> = (0..20).map(|port| live.server_of(2000 + port, WEB, SYN)).collect();
    assert!(before.contains(&11) && before.contains(&12) && !before.contains(&13), "{before:?}");
    let said = live.does("real add tcp 10.9.0.100:80 10.9.0.13 --weight 2");
    assert!(said.starts_with("add real 10.9.0.13 of TCP 10.9.0.100:80: weight 2\ndone: epoch "), "{said}");
    assert!(said.ends_with(" is in force on all workers\n"), "{said}");
    live.resolves("10.9.0.13");
    let after: Vec<u8> = (0..30).map(|port| live.server_of(3000 + port, WEB, SYN)).collect();
    assert!([11, 12, 13].iter().all(|server| after.contains(server)), "{after:?}");
    let again: Vec<u8> = (0..20).map(|port| live.server_of(2000 + port, WEB, ACK)).collect();
    assert_eq!(again, before);

    live.does("real delete tcp 10.9.0.100:80 10.9.0.13");
    let at_thirteen = live.served(13);
    let later: Vec<u8> = (0..20).map(|port| live.server_of(4000 + port, WEB, SYN)).collect();
    assert!(!later.contains(&13), "{later:?}");
    assert_eq!((live.served(13), live.dropped()), (at_thirteen, 0));
    assert_eq!(live.services()[0].reals.len(), 2);
    live.ledgers_add_up();
}

#[test]
fn a_service_comes_is_announced_answered_for_and_goes() {
    let live = live();
    let address = Ipv4Addr::new(10, 9, 0, 101);
    assert!(!live.answers_for(address));
    let said = live.does("service add tcp 10.9.0.101:8080 -s wrr --persistent 300 -M 255.255.255.0 --on-removed reset");
    assert!(
        said.starts_with("add service TCP 10.9.0.101:8080 wrr persistent 300 mask 255.255.255.0 on_removed reset\n"),
        "{said}"
    );
    assert!(live.answers_for(address));
    eventually("it is announced", || live.announced(address) > 0);
    live.does("real add tcp 10.9.0.101:8080 10.9.0.14 -x 100 -y 80");
    live.resolves("10.9.0.14");
    assert_eq!(live.server_of(2000, (address, 8080), SYN), 14);
    let listing = live.does("service list");
    let lines: Vec<&str> = listing.lines().skip(5).collect();
    assert_eq!(lines[0], "TCP  10.9.0.101:8080 wrr persistent 300 mask 255.255.255.0 on_removed reset");
    assert!(lines[1].contains("10.9.0.14:8080") && lines[1].ends_with(" upper 100 lower 80"), "{listing}");
    let template = live.connections().into_iter().find(|entry| entry.client.port() == 0).expect("a template");
    assert_eq!((template.client.to_string().as_str(), template.state.as_str()), ("10.9.0.0:0", "NONE"));

    live.does("service edit tcp 10.9.0.101:8080 --scheduler sh -b sh-port");
    assert!(live.does("service list").contains("TCP  10.9.0.101:8080 sh (sh-port)\n"));
    live.does("service delete tcp 10.9.0.101:8080");
    assert!(!live.answers_for(address));
    assert_eq!(live.services().len(), 1);
    assert!(live.answers_for(VIP), "the other one is still there");
}

#[test]
fn what_is_wrong_is_refused_in_the_files_words_and_changes_nothing() {
    let live = live();
    let before = live.does("config show");
    for (line, why) in [
        ("service add tcp 10.9.0.100:80", "service: TCP 10.9.0.100:80 is not allowed twice"),
        ("service add tcp 10.9.0.11:80", "10.9.0.11 is a server's own address"),
        ("service add tcp 10.9.0.10:80", "port \"lan\" has this one for itself"),
        ("service add tcp nonsense", "\"nonsense\" is not allowed: a virtual address with its port"),
        ("service add tcp 10.9.0.101:0", "persistent = 360, or a service by mark"),
        ("service add tcp 10.9.0.101:80 -s wlcr", "there is no scheduler \"wlcr\": use one of rr, wrr"),
        ("service add tcp 10.9.0.101:80 -s rr -b sh-port", "does not belong to rr, which has no flags"),
        ("service add tcp 10.9.0.101:80 -o", "service.one_packet: true is not allowed: only for udp and mark"),
        ("service add mark 0", "service.mark: 0 is not allowed: 1 to 4294967295"),
        ("service edit tcp 10.9.0.101:80", "there is no service TCP 10.9.0.101:80: add it first"),
        ("service delete mark 7", "there is no service FWM 7: add it first"),
        ("real add tcp 10.9.0.100:80 10.9.0.11", "10.9.0.11 is not allowed twice"),
        ("real add tcp 10.9.0.100:80 192.0.2.1", "direct routing reaches only servers in a port's own network"),
        ("real add tcp 10.9.0.100:80 10.9.0.13 -w 65536", "real.weight: 65536 is not allowed: 0 to 65535"),
        ("real add tcp 10.9.0.100:80 10.9.0.13 -x 5 -y 6", "6 is not allowed: at most upper, 5"),
        ("real edit tcp 10.9.0.100:80 10.9.0.13", "TCP 10.9.0.100:80 has no real 10.9.0.13: add it first"),
        ("real delete tcp 10.9.0.101:80 10.9.0.11", "there is no service TCP 10.9.0.101:80: add it first"),
        ("timeouts 2147484 0 0", "timeouts.tcp: 2147484 is not allowed: 1 to 2147483"),
    ] {
        let said = live.refuses(line);
        assert!(said.starts_with("drover: the director refused: ") && said.contains(why), "{line}: {said}");
        assert!(live.refuses(&format!("{line} --dry-run")).contains(why), "{line} --dry-run");
    }
    assert_eq!(live.drover("service add mark seven").status.code(), Some(2));
    assert_eq!(live.does("config show"), before);
    assert!(live.does("--json status").contains("\"epoch\":"));
}

#[test]
fn a_dry_run_says_what_would_be_and_does_nothing() {
    let live = live();
    let before = live.does("config show");
    for line in [
        "service add udp 10.9.0.101:53",
        "service edit tcp 10.9.0.100:80 -s wlc",
        "service delete tcp 10.9.0.100:80",
        "real add tcp 10.9.0.100:80 10.9.0.13",
        "real edit tcp 10.9.0.100:80 10.9.0.11 -w 5",
        "real delete tcp 10.9.0.100:80 10.9.0.11",
        "timeouts 10 20 30",
    ] {
        let said = live.does(&format!("{line} --dry-run"));
        assert!(said.contains("a dry run: nothing was changed"), "{line}: {said}");
    }
    live.write_file(&FILE.replace("rr", "wrr").replace("10.9.0.12", "10.9.0.15"));
    let said = live.does("reload --dry-run");
    let plan: Vec<&str> = said.lines().collect();
    assert_eq!(
        plan[..3],
        [
            "delete real 10.9.0.12 of TCP 10.9.0.100:80",
            "edit service TCP 10.9.0.100:80 wrr",
            "add real 10.9.0.15 of TCP 10.9.0.100:80: weight 1"
        ]
    );
    assert!(plan[3].starts_with("a dry run: nothing was changed, epoch "), "{said}");
    assert_eq!(live.does("config show"), before);
    assert!(live.does("reload").contains("done: epoch "));
    let reals: Vec<String> = live.services()[0].reals.iter().map(|real| real.address.to_string()).collect();
    assert_eq!(reals, ["10.9.0.11:80", "10.9.0.15:80"]);
    assert!(live.does("reload").starts_with("nothing to change: it is so already, epoch "));
}

#[test]
fn a_file_that_will_not_do_is_refused_with_its_lines() {
    let live = live();
    let before = live.does("config show");
    live.write_file(&FILE.replace("\"rr\"", "\"wlcr\""));
    let said = live.refuses("reload");
    assert!(said.contains("drover.toml:12:13: service[0].scheduler: there is no scheduler \"wlcr\""), "{said}");
    live.write_file(&FILE.replace("10.9.0.10/24", "10.9.0.9/24"));
    let said = live.refuses("reload");
    assert!(said.contains("drover.toml: port: not as they were at the start"), "{said}");
    for deep in ["a = ".to_owned() + &"[".repeat(100_000), "a.".repeat(100_000) + "b = 1", "\u{0}".into()] {
        live.write_file(&deep);
        assert!(live.refuses("reload").contains("drover.toml:1:"), "{}", &deep[..1]);
    }
    std::fs::remove_file(live.path().with_extension("toml")).unwrap();
    assert!(live.refuses("reload").contains("cannot be read"));
    assert_eq!(live.does("config show"), before);

    live.write_file(&FILE.replace("per_worker = 20000", "per_worker = 30000"));
    let said = live.does("reload");
    assert!(said.starts_with("note: [flows] has changed in the file: it takes effect at the next start\n"), "{said}");
}

#[test]
fn timeouts_are_set_and_shown_as_ipvsadm_does() {
    let live = live();
    assert_eq!(live.does("timeouts"), "Timeout (tcp tcpfin udp): 900 120 300\n");
    let said = live.does("timeouts 60 0 30");
    assert!(said.starts_with("set timeouts: tcp 60, tcp_fin 120, udp 30\ndone: epoch "), "{said}");
    assert_eq!(live.does("timeouts --json"), "{\"tcp\":60,\"tcp_fin\":120,\"udp\":30}\n");
    live.server_of(2000, WEB, SYN);
    live.server_of(2000, WEB, ACK);
    let expires = live.connections()[0].expires_seconds;
    assert!((50..=60).contains(&expires), "{expires}");
}

/// What `config show` prints is a file that means the same.
#[test]
fn the_running_configuration_is_shown_as_a_file() {
    let live = live();
    live.does("service add udp 10.9.0.102:5000-5099 -s mh -b mh-port --on-miss drop -o");
    let said = live.does("service add tcp 10.9.0.103:0 -p -M 255.255.0.0 --expire-quiescent");
    assert!(said.contains("TCP 10.9.0.103:0 wlc persistent 360 mask 255.255.0.0 expire_quiescent\n"), "{said}");
    live.does("service add mark 7");
    live.does("real add mark 7 10.9.0.20 -w 0 -x 9 -y 3 --mac 02:00:00:00:00:77");
    let shown = live.does("config show");
    live.write_file(&shown);
    let said = live.does("reload");
    assert!(said.contains("no [[match]] gives mark 7") && said.contains("nothing to change"), "{said}\n{shown}");
}

#[test]
fn connections_of_several_ports_and_of_marks_are_listed_as_they_are() {
    let rule = "[[match]]\nmark = 7\ndestination = \"10.9.0.105\"\n[[service]]\nmark = 7\nscheduler = \"rr\"\n\
        [[service.real]]\naddress = \"10.9.0.11\"\n";
    let live = Live::start(&format!("{FILE}{rule}"));
    live.does("service add tcp 10.9.0.104:8000-8099 -s rr");
    live.does("real add tcp 10.9.0.104:8000-8099 10.9.0.12");
    live.resolves("10.9.0.11");
    live.resolves("10.9.0.12");
    assert_eq!(live.server_of(2000, (Ipv4Addr::new(10, 9, 0, 104), 8042), SYN), 12);
    assert_eq!(live.server_of(2001, (Ipv4Addr::new(10, 9, 0, 105), 443), SYN), 11);
    let mut listed: Vec<String> = live
        .connections()
        .iter()
        .map(|entry| format!("{} {} {} {}", entry.protocol, entry.client, entry.virtual_address, entry.real))
        .collect();
    listed.sort();
    assert_eq!(
        listed,
        ["TCP 10.9.0.1:2000 10.9.0.104:8042 10.9.0.12:8042", "TCP 10.9.0.1:2001 10.9.0.105:443 10.9.0.11:443"]
    );
}

/// Whichever worker had to refuse, the listing tells how many ICMP errors its clients were due.
#[test]
fn the_listing_tells_what_the_director_said_about_connections() {
    let live = live();
    for port in 1..=20 {
        let used_up = FrameBuilder { ttl: 1, ..FrameBuilder::tcp((CLIENT, port), (VIP, 80), SYN) };
        live.send(used_up.build());
    }
    let told = |entry: &TrafficEntry| [entry.packets, entry.bytes, entry.answers, entry.answer_bytes];
    eventually("the service has them all", || told(&live.services()[0].traffic) == [20, 20 * 40, 20, 20 * 68]);
    let of_reals = || live.services()[0].reals.iter().map(|real| told(&real.traffic)[3]).sum::<u64>();
    eventually("and its reals too", || of_reals() == 20 * 68);
    live.ledgers_add_up();
}

/// Numbers of services and reals that went are used again, once no table can name them.
#[test]
fn more_reals_come_and_go_than_there_are_numbers() {
    let live = Live::fast(&format!("max_reals = 8\nmax_services = 3\n{FILE}"));
    live.resolves("10.9.0.11");
    let mut waited = false;
    for round in 0..12u8 {
        let real = 20 + round;
        live.does(&format!("service add tcp 10.9.0.{}:80 -s rr", 110 + round));
        live.does(&format!("real add tcp 10.9.0.{}:80 10.9.0.{real}", 110 + round));
        // It waits for a number if there is none; then it comes by itself.
        waited |=
            live.does("status --json").contains("wait for a number: all 3 are in use or named by old connections");
        live.resolves(&format!("10.9.0.{real}"));
        let at = (Ipv4Addr::new(10, 9, 0, 110 + round), 80);
        eventually("the new service serves", || {
            live.tcp(5000, at, SYN);
            thread::sleep(std::time::Duration::from_millis(5));
            live.served(real) > 0
        });
        let its = live.services();
        assert_eq!(its[1].reals[0].traffic.packets, live.served(real), "counted from nothing: {its:?}");
        live.does(&format!("service delete tcp 10.9.0.{}:80", 110 + round));
    }
    assert!(waited, "there were numbers enough");
}

/// Every verb at once from many clients, under traffic: the first service does not lose a packet, and what is in force
/// at the end is what the last of each said.
#[test]
fn all_verbs_at_once_under_load_disturb_nobody() {
    let live = live();
    let ended = AtomicBool::new(false);
    let flows: Vec<u8> = (0..50).map(|port| live.server_of(2000 + port, WEB, SYN)).collect();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..6u8)
            .map(|number| {
                let live = &live;
                scope.spawn(move || {
                    let (at, real) = (format!("tcp 10.9.0.{}:80", 110 + number), 30 + number);
                    for round in 0..8 {
                        live.does(&format!("service add {at} -s rr"));
                        live.does(&format!("real add {at} 10.9.0.{real} -w {}", round + 1));
                        live.does(&format!("real edit {at} 10.9.0.{real} -w {}", round + 2));
                        live.does(&format!("service edit {at} -s wlc -p 60"));
                        live.does(&format!("timeouts {} 0 0", 900 + round));
                        live.does("service list");
                        live.does("conn list");
                        live.does("config show");
                        live.does("reload --dry-run");
                        live.does(&format!("real delete {at} 10.9.0.{real}"));
                        live.does(&format!("service delete {at}"));
                    }
                })
            })
            .collect();
        let load = scope.spawn(|| {
            let mut packets = 0u64;
            while !ended.load(Ordering::Relaxed) {
                (0..50).for_each(|port| live.tcp(2000 + port, WEB, ACK));
                packets += 50;
                thread::sleep(std::time::Duration::from_millis(2));
            }
            packets
        });
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        ended.store(true, Ordering::Relaxed);
        let packets = load.join().unwrap() + 50;
        eventually("every packet has reached a server", || live.served(11) + live.served(12) == packets);
    });
    let after: Vec<u8> = (0..50).map(|port| live.server_of(2000 + port, WEB, ACK)).collect();
    assert_eq!(after, flows, "an established connection has moved");
    assert_eq!((live.dropped(), live.services().len()), (0, 1));
    assert_eq!(live.does("timeouts"), "Timeout (tcp tcpfin udp): 907 120 300\n");
    live.ledgers_add_up();
    live.does("reload");
    assert_eq!(live.does("timeouts"), "Timeout (tcp tcpfin udp): 900 120 300\n");
}

#[test]
fn clients_that_were_not_remembered_are_shown() {
    let live = live();
    live.does("service edit tcp 10.9.0.100:80 -s rr -p 360");
    for client in 0..6_000 {
        let client = Ipv4Addr::from_bits(0x0a01_0001 + client);
        live.send(FrameBuilder::tcp((client, 1), WEB, SYN).build());
    }
    eventually("all have reached a server", || live.served(11) + live.served(12) == 6_000);
    let stats: Stats = serde_json::from_str(&live.does("--json stats")).unwrap();
    let refused: Vec<u64> = stats.workers.iter().map(|worker| worker.templates_refused).collect();
    assert!(refused.iter().all(|count| (1..3_000).contains(count)), "{refused:?}");
    assert_eq!(stats.total.templates_refused, refused.iter().sum::<u64>());
    let said = format!("  {} times there was no room to remember a client", stats.total.templates_refused);
    let shown = live.does("stats");
    assert!(shown.contains(&said), "{shown}");
}

#[test]
fn a_service_that_is_made_again_counts_anew_what_passes_and_not_what_stands() {
    let live = live();
    let servers: Vec<u8> = (0..10).map(|port| live.server_of(2000 + port, WEB, SYN)).collect();
    let eleven = servers.iter().filter(|server| **server == 11).count() as u64;
    let traffic = || {
        let services = live.services();
        let of = |entry: &TrafficEntry| (entry.connections, entry.packets, entry.bytes, entry.active);
        (of(&services[0].traffic), of(&services[0].reals[0].traffic))
    };
    assert_eq!(traffic(), ((10, 10, 400, 10), (eleven, eleven, 40 * eleven, eleven)));
    live.does("service delete tcp 10.9.0.100:80");
    live.does("service add tcp 10.9.0.100:80 -s rr");
    live.does("real add tcp 10.9.0.100:80 10.9.0.11");
    assert_eq!(traffic(), ((0, 0, 0, 10), (0, 0, 0, eleven)));
}
