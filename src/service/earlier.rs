//! The services whose flows a look into the hot table does not lead to: those that are gone, and those that rules come
//! before. Only who is not found where he would begin asks here.

use std::net::{IpAddr, Ipv4Addr};

use super::ServiceId;
use super::lookup::ServiceLookup;
use crate::config::Takes;

/// Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Earlier {
    /// Those of one address and port. None: the hot table has all services, and none is gone.
    exact: Option<ServiceLookup>,
    /// A mark, or several addresses or ports that were a service's: flows may be to any address.
    anywhere: bool,
}

impl Earlier {
    /// Of all services that are known, each with whether it is in force, those that are not `hot`.
    pub fn build(known: impl Iterator<Item = (Takes, ServiceId, bool)>, hot: &ServiceLookup) -> Earlier {
        let mut exact = Vec::new();
        let (mut any, mut anywhere) = (false, false);
        for (takes, id, held) in known {
            match takes.as_exact() {
                Some((protocol, address, port)) if hot.find(address, port, protocol.number()) == Some(id) => continue,
                Some((protocol, address, port)) => exact.push((address, port, protocol.number(), id)),
                None => anywhere |= !held || matches!(takes, Takes::Mark(_)),
            }
            any = true;
        }
        Earlier { exact: any.then(|| ServiceLookup::build(exact.into_iter())), anywhere }
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.exact.is_none()
    }

    /// The service of one address and port that has these, or had them.
    pub fn find(&self, address: Ipv4Addr, port: u16, protocol: u8) -> Option<ServiceId> {
        self.exact.as_ref()?.find_v4(address, port, protocol)
    }

    /// Whether there may be flows to an address that is nobody's now.
    pub fn may_have_been(&self, address: IpAddr) -> bool {
        self.anywhere || self.exact.as_ref().is_some_and(|exact| exact.is_virtual(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Ports, Protocol};

    #[test]
    fn only_flows_that_there_may_be_are_looked_for() {
        let id = |number| ServiceId::from_number(number).unwrap();
        let (vip, other) = (Ipv4Addr::new(10, 9, 0, 100), Ipv4Addr::new(10, 9, 0, 101));
        let (web, dns) = (Takes::exact(Protocol::Tcp, vip, 80), Takes::exact(Protocol::Udp, other, 53));
        let any = Takes::one_address(Protocol::Tcp, vip, Ports::ANY);
        let hot = ServiceLookup::build([(IpAddr::from(vip), 80, 6, id(1))].into_iter());
        let build = |known: &[(Takes, ServiceId, bool)]| Earlier::build(known.iter().copied(), &hot);
        assert!(build(&[(web, id(1), true)]).is_empty(), "everybody is hot");
        let gone = build(&[(web, id(1), true), (dns, id(2), false)]);
        assert_eq!((gone.find(other, 53, 17), gone.find(vip, 80, 6)), (Some(id(2)), None));
        assert!(!gone.is_empty() && gone.may_have_been(other.into()));
        assert!(!gone.may_have_been(Ipv4Addr::new(10, 9, 0, 10).into()), "the host's own is left alone");
        let wide = build(&[(web, id(1), true), (any, id(3), true)]);
        assert!(!wide.is_empty() && !wide.may_have_been(other.into()), "its address is known");
        assert!(build(&[(any, id(3), false)]).may_have_been(other.into()));
        assert!(build(&[(Takes::Mark(7), id(4), true)]).may_have_been(other.into()));
    }
}
