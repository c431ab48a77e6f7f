//! Addresses and ports as people write them.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::config::Ports;
use crate::packet::Ipv4Net;

/// `10.9.0.100:80`, `10.9.0.100:8000-8099`, `192.0.2.0/28:80`; port 0 is any. Or why not, where there is more to say
/// than what is allowed.
pub(super) fn parse_place(text: &str) -> Result<(Ipv4Net, Ports), Option<String>> {
    let (address, ports) = text.rsplit_once(':').ok_or(None)?;
    let net = parse_net(address).ok_or(None)?;
    Ok((net, parse_ports(ports)?))
}

/// An address alone is a network of one.
pub(super) fn parse_net(text: &str) -> Option<Ipv4Net> {
    match text.parse() {
        Ok(address) => Some(Ipv4Net { address, prefix: 32 }),
        Err(_) => text.parse().ok(),
    }
}

/// `80`, `8000-8099`; 0 is any. Or why not, where there is more to say.
pub(super) fn parse_ports(text: &str) -> Result<Ports, Option<String>> {
    let Some((first, last)) = text.split_once('-') else {
        let port = parse_port(text).ok_or(None)?;
        return Ok(if port == 0 { Ports::ANY } else { Ports::one(port) });
    };
    let (first, last) = (parse_port(first).ok_or(None)?, parse_port(last).ok_or(None)?);
    if first == 0 || first >= last {
        return Err(Some("ports from the first to a later one, such as \"8000-8099\"; from 1 on".into()));
    }
    Ok(Ports { first, last })
}

fn parse_port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|_| text.bytes().all(|digit| digit.is_ascii_digit()))
}

/// A real's address, and its port if there is one.
pub(super) fn parse_real_address(text: &str) -> Option<(Ipv4Addr, Option<u16>)> {
    match text.parse::<SocketAddrV4>() {
        Ok(address) => Some((*address.ip(), Some(address.port()))),
        Err(_) => text.parse().ok().map(|address| (address, None)),
    }
}
