//! Who chooses addresses and ports, and does not know the secret, cannot fill chosen buckets: whatever the structure of
//! the keys, they load the buckets as random ones do, under every secret.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;
use crate::service::ServiceId;

const BUCKETS: usize = 4_096;
/// Four for each bucket.
const KEYS: u64 = 4 * BUCKETS as u64;
const SECRETS: u64 = 24;
/// Standard deviations from what random keys give. Of some thousand fair samples the worst is about 4.
const FAR: f64 = 6.0;

/// 48 bits that an attacker chooses, of a number.
type Structure = fn(u64) -> u64;

const STRUCTURES: [(&str, Structure); 12] = [
    ("addresses in a row", |number| number << 16 | 80),
    ("addresses in a row, from another service's port", |number| (0xc0a8_0000 + number) << 16 | 443),
    ("one address in each network of 256", |number| number << 24 | 80),
    ("one address in each network of 65,536, and ports", |number| (number & 0xff) << 40 | number >> 8),
    ("ports in a row", |number| number),
    ("ports in a row, addresses in a row", |number| (number >> 7) << 16 | number & 0x7f),
    ("the port follows the address", |number| number << 16 | number),
    ("bits in reverse", |number| number.reverse_bits() >> 16),
    ("gray code", |number| number ^ number >> 1),
    ("every third bit", |number| spread(number, 0x1249_2492_4924)),
    ("the bits of a sparse mask", |number| spread(number, 0x8421_0c63_1086)),
    ("steps of an odd number", |number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16),
];

/// The number's bits, from the lowest on, at the places of the mask's.
fn spread(number: u64, mask: u64) -> u64 {
    let places = (0..64).filter(|place| mask >> place & 1 == 1);
    places.enumerate().map(|(bit, place)| (number >> bit & 1) << place).sum()
}

fn secret(number: u64) -> [u64; 2] {
    let word = |salt: u64| {
        let mixed = (number * 2 + salt + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    };
    [word(0), word(1)]
}

fn service() -> ServiceId {
    ServiceId::from_number(3).unwrap()
}

fn narrow(chosen: u64) -> FlowKey {
    FlowKey::new(Ipv4Addr::from_bits((chosen >> 16) as u32), chosen as u16, service())
}

/// The same 48 bits in other places of a wide key.
const WIDE: [fn(u64) -> WideKey; 4] = [
    |chosen| WideKey::ipv6(Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(chosen >> 16)), chosen as u16, service()),
    |chosen| WideKey::ipv6(Ipv6Addr::from_bits(0x2001 << 112 | u128::from(chosen) << 64), 80, service()),
    |chosen| WideKey::ipv6(Ipv6Addr::from_bits(u128::from(chosen) << 64 | u128::from(chosen)), 80, service()),
    |chosen| {
        let addresses = [(chosen >> 16) as u32, (chosen >> 24) as u32].map(Ipv4Addr::from_bits);
        WideKey::ipv4(addresses[0], chosen as u16, addresses[1]).to(6, chosen as u16)
    },
];

/// How far the loads of the buckets are from those of random keys, in standard deviations: of the first choices, the
/// second ones, and of both together (a key that shares both its buckets with another one is hard to move away).
fn distances<K: Key<QUADS>, const QUADS: usize>(keys: impl Iterator<Item = K>, secret: [u64; 2]) -> [f64; 3] {
    let place = |half: u32| (half as usize * BUCKETS) >> 32;
    let mut loads = [(); 3].map(|()| vec![0u32; BUCKETS]);
    let mut count = 0.0;
    for key in keys {
        let hash = key.hash(secret);
        let (first, second) = (place(hash.first()), place(hash.second()));
        for (loads, place) in loads.iter_mut().zip([first, second, (first + 61 * second) % BUCKETS]) {
            loads[place] += 1;
        }
        count += 1.0;
    }
    let expected = count / BUCKETS as f64;
    loads.map(|loads| {
        let square: f64 = loads.iter().map(|load| (f64::from(*load) - expected).powi(2) / expected).sum();
        let free = BUCKETS as f64 - 1.0;
        (square - free) / (2.0 * free).sqrt()
    })
}

fn assert_near<K: Key<QUADS>, const QUADS: usize>(
    name: &str,
    number: u64,
    secret: [u64; 2],
    keys: impl Iterator<Item = K>,
) {
    let far = distances(keys, secret);
    // Fewer collisions than random keys have are no harm.
    assert!(far.iter().all(|far| *far < FAR), "{name}: {far:?} under secret {number}");
}

#[test]
fn structured_keys_load_buckets_like_random_ones() {
    for (name, structure) in STRUCTURES {
        for number in 0..SECRETS {
            assert_near(name, number, secret(number), (0..KEYS).map(|key| narrow(structure(key))));
        }
    }
}

#[test]
fn structured_wide_keys_do_too() {
    for (name, structure) in STRUCTURES {
        for (number, wide) in (0..SECRETS / 4).flat_map(|number| WIDE.map(|wide| (number, wide))) {
            assert_near(name, number, secret(number), (0..KEYS).map(|key| wide(structure(key))));
        }
    }
}

/// Keys that were found to crowd a 64th of the buckets under one secret, as of a machine that the attacker owns, are
/// like any others under another. (With a linear hash such as CRC32C they crowd under every one.)
#[test]
fn what_collides_under_one_secret_does_not_under_another() {
    let known = secret(1_000);
    let crowding = |hash: Hash| hash.first() >> 26 == 5;
    let narrow: Vec<_> = (0..KEYS * 16).map(|key| narrow(key << 9)).filter(|key| crowding(key.hash(known))).collect();
    let wide: Vec<_> = (0..KEYS * 16).map(WIDE[0]).filter(|key| crowding(key.hash(known))).collect();
    assert!(narrow.len() > 3_000 && wide.len() > 3_000);
    assert!(distances(narrow.iter().copied(), known)[0] > 100.0 * FAR, "these were to collide");
    for number in 0..SECRETS {
        assert_near("narrow", number, secret(number), narrow.iter().copied());
        assert_near("wide", number, secret(number), wide.iter().copied());
    }
}

/// The whole way: a table takes structured keys up to 85 % of its slots, and needs no stash for it.
#[test]
fn structured_keys_find_room() {
    for (number, (name, structure)) in (0..).zip(STRUCTURES) {
        let mut table = FlowTable::new(12_000, false, secret(number)).unwrap();
        for client in 0..table.slots() as u64 * 85 / 100 {
            let key = narrow(structure(client));
            let pin = Pin::new(RealId(1), FlowState::Udp, 100);
            table
                .insert(key, table.hash(key), pin, 1, |_, _| ())
                .unwrap_or_else(|_| panic!("{name}: full at {client}"));
        }
        assert_eq!(table.stashed(), 0, "{name}");
    }
}
