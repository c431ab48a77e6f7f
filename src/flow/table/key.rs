//! What a flow is known by, exactly, and where its hash sends it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::service::{Opening, ServiceId};

/// A key of as many words as its table's buckets have quads; the word at the place of the values is zero and means
/// nothing. The first word of a key is never zero: that is an empty entry's.
pub trait Key<const QUADS: usize>: Copy + Eq {
    fn words(self) -> [u64; QUADS];
    fn from_words(words: [u64; QUADS]) -> Self;
    fn hash(self, secret: [u64; 2]) -> Hash;
}

/// A key of a client's conversation with a service.
pub trait ClientKey<const QUADS: usize>: Key<QUADS> {
    /// Whether it can be of IPv6.
    const MAY_BE_V6: bool;
    /// The client's address.
    fn source(self) -> IpAddr;
    /// Whose flow it is, where the key itself says so.
    fn service(self) -> Option<ServiceId>;
    /// The client's address and port, told apart from every other client's of this family (IPv4) or nearly so (IPv6).
    fn client_bits(self) -> u64;
    /// What its scheduler is told, for a service whose address is `address`, unless the key knows a closer one.
    fn opening(self, address: IpAddr) -> Opening;
}

/// A key's hash: one half for each of its buckets.
#[derive(Clone, Copy, Debug)]
pub struct Hash(u64);

impl Hash {
    pub(super) const fn first(self) -> u32 {
        self.0 as u32
    }

    pub(super) const fn both(self) -> u64 {
        self.0
    }

    pub(super) const fn second(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The second half, or the first, without a branch: which one is wanted cannot be predicted.
    #[inline(always)]
    pub(super) const fn half(self, second: bool) -> u32 {
        (self.0 >> (second as u32 * 32)) as u32
    }

    /// Its last round: one round alone leaves clients in a row in a lattice.
    const fn of(once: u64, secret: [u64; 2]) -> Hash {
        Hash(fold(once ^ secret[1], 0x9fb2_1c65_1e98_df25))
    }
}

const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

/// Client address, client port and service: exactly a flow, in 64 bits, never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey(u64);

impl FlowKey {
    pub const fn new(client: Ipv4Addr, port: u16, service: ServiceId) -> FlowKey {
        FlowKey((client.to_bits() as u64) << 32 | (port as u64) << 16 | service.number() as u64)
    }

    pub fn client(self) -> (Ipv4Addr, u16) {
        (Ipv4Addr::from_bits((self.0 >> 32) as u32), (self.0 >> 16) as u16)
    }
}

impl ClientKey<2> for FlowKey {
    const MAY_BE_V6: bool = false;

    #[inline(always)]
    fn source(self) -> IpAddr {
        self.client().0.into()
    }

    #[inline(always)]
    fn service(self) -> Option<ServiceId> {
        ServiceId::from_number(self.0 as u16)
    }

    #[inline(always)]
    fn client_bits(self) -> u64 {
        self.0 >> 16
    }

    fn opening(self, address: IpAddr) -> Opening {
        let (client, client_port) = self.client();
        Opening { client: client.into(), client_port, address }
    }
}

impl Key<2> for FlowKey {
    #[inline(always)]
    fn words(self) -> [u64; 2] {
        [self.0, 0]
    }

    #[inline(always)]
    fn from_words(words: [u64; 2]) -> FlowKey {
        FlowKey(words[0])
    }

    #[inline(always)]
    fn hash(self, secret: [u64; 2]) -> Hash {
        Hash::of(fold(self.0 ^ secret[0], secret[1] | 1), secret)
    }
}

/// What 64 bits cannot hold: an IPv6 client; or a client of a service that takes several ports or addresses, whose flows
/// differ by what the client asked for. That, and no service, is what such a flow is known by: it stays the same when
/// another service takes its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WideKey {
    /// Service (of IPv6 alone), client port, destination port, protocol, and whether the addresses are of IPv4.
    what: u64,
    /// The client's address; for IPv4 it is the lower half, and the upper is the destination's.
    address: [u64; 2],
}

const PORT: u32 = 16;
const DESTINATION_PORT: u32 = 32;
const PROTOCOL: u32 = 48;
const IS_IPV4: u64 = 1 << 63;

impl WideKey {
    pub const fn ipv6(client: Ipv6Addr, port: u16, service: ServiceId) -> WideKey {
        let address = client.to_bits();
        let what = (port as u64) << PORT | service.number() as u64;
        WideKey { what, address: [(address >> 64) as u64, address as u64] }
    }

    /// A client of a service that takes several addresses (a firewall mark) or several ports.
    pub const fn ipv4(client: Ipv4Addr, port: u16, destination: Ipv4Addr) -> WideKey {
        let what = IS_IPV4 | (port as u64) << PORT;
        WideKey { what, address: [destination.to_bits() as u64, client.to_bits() as u64] }
    }

    /// Of a service that takes several ports or protocols: told apart by them too.
    pub const fn to(self, protocol: u8, port: u16) -> WideKey {
        WideKey { what: self.what | (protocol as u64) << PROTOCOL | (port as u64) << DESTINATION_PORT, ..self }
    }

    pub fn client(self) -> (IpAddr, u16) {
        let [upper, lower] = self.address;
        let address = match self.what & IS_IPV4 {
            0 => Ipv6Addr::from_bits((upper as u128) << 64 | lower as u128).into(),
            _ => Ipv4Addr::from_bits(lower as u32).into(),
        };
        (address, (self.what >> PORT) as u16)
    }

    /// Where the client wanted to go, of what `ipv4` and `to` were told: address, protocol, port.
    pub fn destination(self) -> (Option<Ipv4Addr>, u8, u16) {
        let address = (self.what & IS_IPV4 != 0).then(|| Ipv4Addr::from_bits(self.address[0] as u32));
        (address, (self.what >> PROTOCOL) as u8, (self.what >> DESTINATION_PORT) as u16)
    }
}

impl ClientKey<4> for WideKey {
    const MAY_BE_V6: bool = true;

    #[inline(always)]
    fn source(self) -> IpAddr {
        self.client().0
    }

    #[inline(always)]
    fn service(self) -> Option<ServiceId> {
        ServiceId::from_number(self.what as u16)
    }

    #[inline(always)]
    fn client_bits(self) -> u64 {
        let port = self.what >> PORT & 0xffff;
        if self.what & IS_IPV4 != 0 {
            return (self.address[1] & 0xffff_ffff) << 16 | port;
        }
        fold(self.address[0] ^ 0x8a5c_d789_635d_2dff, self.address[1] ^ 0x1218_95c2_7a6f_8b01) ^ port
    }

    fn opening(self, address: IpAddr) -> Opening {
        let (client, client_port) = self.client();
        Opening { client, client_port, address: self.destination().0.map_or(address, IpAddr::from) }
    }
}

impl Key<4> for WideKey {
    #[inline(always)]
    fn words(self) -> [u64; 4] {
        [self.what, 0, self.address[0], self.address[1]]
    }

    #[inline(always)]
    fn from_words(words: [u64; 4]) -> WideKey {
        WideKey { what: words[0], address: [words[2], words[3]] }
    }

    #[inline(always)]
    fn hash(self, secret: [u64; 2]) -> Hash {
        let client = fold(self.address[0] ^ secret[0], self.address[1] ^ secret[1]);
        Hash::of(fold(client ^ self.what, secret[1] | 1) ^ secret[0], secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_exact() {
        let service = ServiceId::from_number(7).unwrap();
        let key = FlowKey::new(Ipv4Addr::new(10, 1, 2, 3), 54321, service);
        assert_eq!((key.client(), key.service()), ((Ipv4Addr::new(10, 1, 2, 3), 54321), Some(service)));
        assert_eq!(FlowKey::from_words(key.words()), key);
    }

    #[test]
    fn wide_keys_are_exact() {
        let service = ServiceId::from_number(u16::MAX).unwrap();
        let client: Ipv6Addr = "2001:db8:ffff:1:8000::1".parse().unwrap();
        let plain = WideKey::ipv6(client, 65535, service);
        let marked = plain.to(136, 8080);
        for (key, destination) in [(plain, (None, 0, 0)), (marked, (None, 136, 8080))] {
            assert_eq!((key.client(), key.service()), ((client.into(), 65535), Some(service)));
            assert_eq!((key.destination(), WideKey::from_words(key.words())), (destination, key));
        }
        let (client, virtual_address) = (Ipv4Addr::new(10, 1, 2, 3), Ipv4Addr::new(192, 0, 2, 255));
        let elsewhere = WideKey::ipv4(client, 54321, virtual_address).to(6, 80);
        assert_eq!(
            elsewhere.client_bits(),
            FlowKey::new(client, 54321, service).client_bits(),
            "one owner in both tables"
        );
        let key = WideKey::ipv4(client, 0, virtual_address).to(255, 65535);
        assert_eq!((key.client(), key.service()), ((client.into(), 0), None));
        assert_eq!(key.destination(), (Some(virtual_address), 255, 65535));
        let looks_alike = Ipv6Addr::from_bits(key.address[0] as u128 * (1 << 64) + key.address[1] as u128);
        assert_ne!(WideKey::ipv6(looks_alike, 0, service).to(255, 65535), key);
    }
}
