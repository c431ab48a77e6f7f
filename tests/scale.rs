//! As many services and reals as one director is to have, from the file to the snapshot. `--nocapture` prints what it
//! takes; in a release build the times mean something.

mod common;

use std::collections::HashSet;
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use common::DIRECTOR;
use drover::config;
use drover::packet::Mac;
use drover::service::{Composer, Reach, Station};
use drover::sys::allocations::{CountingAllocator, held};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const SERVICES: usize = 10_000;
const REALS: usize = 64_000;

/// Six or seven of 6,000 servers for each service; every tenth takes a range of ports.
fn file() -> String {
    let mut text = "[[port]]\ntap = \"t\"\naddress = \"10.0.0.10/8\"\n".to_owned();
    let mut reals = 0;
    for service in 0..SERVICES {
        let port = if service % 10 == 0 { "8000-8099" } else { "443" };
        let _ = writeln!(text, "[[service]]\ntcp = \"10.128.{}.{}:{port}\"", service >> 8, service & 255);
        let _ = writeln!(text, "scheduler = \"rr\"");
        while reals < (service + 1) * REALS / SERVICES {
            let server = reals % 6_000 + 256;
            let _ = writeln!(text, "[[service.real]]\naddress = \"10.1.{}.{}\"", server >> 8, server & 255);
            reals += 1;
        }
    }
    text
}

struct Told(Instant, i64);

impl Told {
    fn start() -> Told {
        Told(Instant::now(), held())
    }

    /// What was done since the last time: how long it took, and what stays of it in memory.
    fn say(&mut self, what: &str) {
        let time = self.0.elapsed();
        println!("{what:<44} {:>8.1} ms {:>+8} KB", time.as_secs_f64() * 1e3, (held() - self.1) / 1024);
        *self = Told::start();
    }
}

fn known(_: usize, address: Ipv4Addr) -> Reach {
    let [_, _, high, low] = address.octets();
    Reach::At(Mac([2, 0, 0, 0, high, low]))
}

#[test]
fn ten_thousand_services_with_sixty_four_thousand_reals() {
    let text = file();
    println!("{} KB of text; {} KB of counters a worker", text.len() / 1024, (SERVICES + REALS) * 64 / 1024);
    let mut told = Told::start();
    let config = config::parse(&text, "x.toml").unwrap();
    told.say("the file, read and checked");
    assert_eq!(config.summary(), "1 port, 10000 services, 64000 reals");
    let station = Station { mac: DIRECTOR, network: config.ports[0].address, vlan: None, mtu: 1500 };
    let mut composer = Composer::new(config.limits, vec![station]);
    told = Told::start();
    let first = composer.compose(1, &config, &|_, _| Reach::Unknown);
    told.say("the first snapshot");
    assert!(first.waiting.is_empty());
    let all = composer.compose(2, &config, &known).snapshot;
    told.say("all servers have answered");
    let one = Ipv4Addr::new(10, 1, 1, 7);
    let lost = composer.refresh(3, &[one], &|port, address| match known(port, address) {
        Reach::At(mac) if address == one => Reach::Lost(mac),
        other => other,
    });
    told.say("one of them does not any more");
    let changed = all
        .services
        .iter()
        .zip(&lost.services)
        .filter(|(before, after)| !Arc::ptr_eq(before.as_ref().unwrap(), after.as_ref().unwrap()));
    assert_eq!(changed.count(), 11, "each server is behind ten or eleven services");
    let mut fewer = config.clone();
    fewer.services.remove(5_000);
    told = Told::start();
    let without = composer.compose(4, &fewer, &known).snapshot;
    told.say("a service is deleted");
    assert_eq!(without.services.iter().flatten().count(), SERVICES - 1);
    let ids: HashSet<_> = all.services.iter().flatten().flat_map(|service| &service.reals).collect();
    assert_eq!(ids.len(), REALS, "no two reals have one number");
    for (service, id) in all.services.iter().flatten().zip(1u16..) {
        assert_eq!(service.id.number(), id);
        assert!((6..=7).contains(&service.reals.len()));
    }
}
