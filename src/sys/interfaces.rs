//! The kernel's network interfaces and their addresses, in this network namespace. `/sys/class/net` will not do: it
//! shows those of the namespace that mounted it.

use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub up: bool,
    /// It has Ethernet's frames; a loopback or a tunnel has not.
    pub ethernet: bool,
    /// With the lengths of their prefixes.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// Frees what `getifaddrs` allocated.
struct List(*mut libc::ifaddrs);

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: the pointer came from getifaddrs, and nobody else frees it.
        unsafe { libc::freeifaddrs(self.0) }
    }
}

pub fn list() -> io::Result<Vec<Interface>> {
    let mut first = std::ptr::null_mut();
    // SAFETY: getifaddrs writes one pointer to where it is told.
    if unsafe { libc::getifaddrs(&mut first) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let list = List(first);
    let mut interfaces: Vec<Interface> = Vec::new();
    let mut next = list.0;
    // SAFETY: the list's nodes live until `list` is dropped, and its last `ifa_next` is null.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        // SAFETY: `ifa_name` is a string that ends in zero and lives as long as the list.
        let name = unsafe { CStr::from_ptr(entry.ifa_name) }.to_string_lossy();
        add(&mut interfaces, &name, entry);
    }
    Ok(interfaces)
}

fn add(interfaces: &mut Vec<Interface>, name: &str, entry: &libc::ifaddrs) {
    // An address may carry a label of its own, such as `eth0:1`; it is still eth0's.
    let name = name.split(':').next().unwrap_or(name);
    let position = interfaces.iter().position(|interface| interface.name == name).unwrap_or_else(|| {
        let up = entry.ifa_flags & libc::IFF_UP as u32 != 0;
        interfaces.push(Interface { name: name.to_owned(), up, ethernet: false, addresses: Vec::new() });
        interfaces.len() - 1
    });
    let interface = &mut interfaces[position];
    if link_type(entry.ifa_addr) == Some(libc::ARPHRD_ETHER) {
        interface.ethernet = true;
    }
    if let Some(address) = ip_address(entry.ifa_addr) {
        let prefix = ip_address(entry.ifa_netmask).map_or(0, prefix_length);
        interface.addresses.push((address, prefix));
    }
}

/// The type of link, where the address is one of the link layer.
fn link_type(address: *const libc::sockaddr) -> Option<u16> {
    // SAFETY: null, or a socket address that begins with its family and lives as long as the list.
    let family = unsafe { address.as_ref() }?.sa_family;
    // SAFETY: the family AF_PACKET says that this is a sockaddr_ll; getifaddrs aligns its addresses for all kinds.
    (i32::from(family) == libc::AF_PACKET).then(|| unsafe { (*address.cast::<libc::sockaddr_ll>()).sll_hatype })
}

fn ip_address(address: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: null, or a socket address that begins with its family and lives as long as the list.
    let family = unsafe { address.as_ref() }?.sa_family;
    match i32::from(family) {
        libc::AF_INET => {
            // SAFETY: the family says that this is a sockaddr_in.
            let address = unsafe { (*address.cast::<libc::sockaddr_in>()).sin_addr };
            Some(Ipv4Addr::from(u32::from_be(address.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that this is a sockaddr_in6.
            let address = unsafe { (*address.cast::<libc::sockaddr_in6>()).sin6_addr };
            Some(Ipv6Addr::from(address.s6_addr).into())
        }
        _ => None,
    }
}

fn prefix_length(mask: IpAddr) -> u8 {
    match mask {
        IpAddr::V4(mask) => u32::from(mask).leading_ones() as u8,
        IpAddr::V6(mask) => u128::from(mask).leading_ones() as u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_there_and_is_no_ethernet() {
        let interfaces = list().unwrap();
        let loopback = interfaces.iter().find(|interface| interface.name == "lo").unwrap();
        assert!(!loopback.ethernet);
        if loopback.up {
            assert!(loopback.addresses.contains(&(Ipv4Addr::LOCALHOST.into(), 8)), "{loopback:?}");
        }
    }
}
