//! Link and network addresses, as people write them.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    pub const BROADCAST: Mac = Mac([0xff; 6]);
    pub const ZERO: Mac = Mac([0; 6]);

    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether a single station can have it.
    pub fn is_unicast(self) -> bool {
        !self.is_multicast() && self != Mac::ZERO
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = String;
    fn from_str(text: &str) -> Result<Mac, String> {
        let wrong = || format!("\"{text}\" is not a MAC address such as 02:00:00:00:00:01");
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let digits = |part: &&str| part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit());
            let part = parts.next().filter(digits).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() { Err(wrong()) } else { Ok(Mac(bytes)) }
    }
}

/// An address with the length of its network's prefix: `10.9.0.10/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ipv4Net {
    pub address: Ipv4Addr,
    pub prefix: u8,
}

impl Ipv4Net {
    pub fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }

    pub fn contains(self, other: Ipv4Addr) -> bool {
        (u32::from(self.address) ^ u32::from(other)) & self.mask() == 0
    }

    /// The network's own address: without the host.
    pub fn network(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.address) & self.mask())
    }

    /// Whether all addresses of the other network are in this one.
    pub fn covers(self, other: Ipv4Net) -> bool {
        self.prefix <= other.prefix && self.contains(other.address)
    }

    pub fn overlaps(self, other: Ipv4Net) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// Whether this is the network's broadcast address or its name; networks of two or one addresses have neither.
    pub fn is_whole(self, address: Ipv4Addr) -> bool {
        let host_bits = u32::from(address) & !self.mask();
        self.prefix < 31 && self.contains(address) && (host_bits == 0 || host_bits == !self.mask())
    }
}

impl fmt::Display for Ipv4Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Ipv4Net {
    type Err = String;
    fn from_str(text: &str) -> Result<Ipv4Net, String> {
        let wrong = || format!("\"{text}\" is not an address with a prefix length such as 10.9.0.10/24");
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address = address.parse().map_err(|_| wrong())?;
        let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32).ok_or_else(wrong)?;
        Ok(Ipv4Net { address, prefix })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_reads_what_it_prints_and_nothing_else() {
        let mac: Mac = "02:00:00:ab:cd:ef".parse().unwrap();
        assert_eq!(mac, Mac([2, 0, 0, 0xab, 0xcd, 0xef]));
        assert_eq!(mac.to_string(), "02:00:00:ab:cd:ef");
        for wrong in
            ["", "02:00:00:ab:cd", "02:00:00:ab:cd:ef:00", "2:0:0:0:0:1", "02-00-00-ab-cd-ef", "+2:00:00:ab:cd:ef"]
        {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn network_contains_its_own_and_no_other() {
        let net: Ipv4Net = "10.9.0.10/24".parse().unwrap();
        assert!(net.contains("10.9.0.255".parse().unwrap()));
        assert!(!net.contains("10.9.1.0".parse().unwrap()));
        let all: Ipv4Net = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("255.1.2.3".parse().unwrap()));
        let host: Ipv4Net = "10.0.0.1/32".parse().unwrap();
        assert!(!host.contains("10.0.0.2".parse().unwrap()));
        assert!("10.0.0.1/33".parse::<Ipv4Net>().is_err());
        assert!("10.0.0.1".parse::<Ipv4Net>().is_err());
    }

    #[test]
    fn addresses_of_a_whole_network_are_known() {
        let net: Ipv4Net = "10.9.0.10/24".parse().unwrap();
        for (last, whole) in [(0, true), (255, true), (1, false), (254, false)] {
            assert_eq!(net.is_whole(Ipv4Addr::new(10, 9, 0, last)), whole);
        }
        assert!(!net.is_whole(Ipv4Addr::new(10, 9, 1, 255)));
        let pair: Ipv4Net = "10.9.0.10/31".parse().unwrap();
        assert!(!pair.is_whole(Ipv4Addr::new(10, 9, 0, 11)));
    }
}
