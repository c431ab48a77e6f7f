//! A core's flow tables, and what one connection is called in each of them.
//!
//! A connection is its client and where that wanted to go, whoever takes such packets now. Which table it is in depends
//! on the service that took its first packet; so who does not find it in the one looks for it in the other.

use std::net::IpAddr;

use super::burst::Scene;
use crate::flow::{ClientKey, FlowKey, FlowTable, Pin, Slot, Table, WideKey, WideTable};
use crate::service::Snapshot;

/// IPv4's, where a bucket is one cache line, and that of IPv6 and of services that take several addresses or ports.
pub struct Tables {
    pub narrow: FlowTable,
    pub wide: WideTable,
}

/// The table in which a packet's flow begins, and the other one.
pub struct Pair<'t, K: ClientKey<Q>, O: ClientKey<P>, const Q: usize, const P: usize> {
    pub own: &'t mut Table<K, Q>,
    pub other: &'t mut Table<O, P>,
}

/// A flow that there is, in one of them.
#[derive(Clone, Copy)]
pub struct Flow<K> {
    pub key: K,
    pub slot: Slot,
    pub pin: Pin,
}

impl<K: Twin<O, Q, P>, O: ClientKey<P>, const Q: usize, const P: usize> Pair<'_, K, O, Q, P> {
    /// The same connection as it is in the other table.
    pub fn find_elsewhere(&self, key: K, scene: Scene<'_>) -> Option<Flow<O>> {
        let key = key.twin(scene.snapshot).filter(|_| !self.other.is_empty())?;
        let (slot, pin) = self.other.find(key, self.other.hash(key), scene.tick)?;
        Some(Flow { key, slot, pin })
    }
}

/// A key of one table, for those who look in the other as well.
pub trait Twin<O: ClientKey<P>, const Q: usize, const P: usize>: ClientKey<Q> {
    fn own(tables: &mut Tables) -> &mut Table<Self, Q>;

    fn both(tables: &mut Tables) -> Pair<'_, Self, O, Q, P>;

    /// What the same connection is called in the other table.
    fn twin(self, snapshot: &Snapshot) -> Option<O>;
}

impl Twin<WideKey, 2, 4> for FlowKey {
    #[inline(always)]
    fn own(tables: &mut Tables) -> &mut FlowTable {
        &mut tables.narrow
    }

    fn both(tables: &mut Tables) -> Pair<'_, FlowKey, WideKey, 2, 4> {
        Pair { own: &mut tables.narrow, other: &mut tables.wide }
    }

    /// Another service may have taken its packets before this one came.
    fn twin(self, snapshot: &Snapshot) -> Option<WideKey> {
        let takes = snapshot.service(self.service()?).filter(|_| !snapshot.earlier().is_empty())?.takes;
        let (protocol, address, port) = takes.as_exact()?;
        let (IpAddr::V4(address), (client, source)) = (address, self.client()) else { return None };
        Some(WideKey::ipv4(client, source, address).to(protocol.number(), port))
    }
}

impl Twin<FlowKey, 4, 2> for WideKey {
    #[inline(always)]
    fn own(tables: &mut Tables) -> &mut WideTable {
        &mut tables.wide
    }

    fn both(tables: &mut Tables) -> Pair<'_, WideKey, FlowKey, 4, 2> {
        Pair { own: &mut tables.wide, other: &mut tables.narrow }
    }

    /// A service of just this address and port may have taken its packets, and be gone or set aside by a mark.
    fn twin(self, snapshot: &Snapshot) -> Option<FlowKey> {
        let ((Some(address), protocol, port), (IpAddr::V4(client), source)) = (self.destination(), self.client())
        else {
            return None;
        };
        let service = snapshot.earlier().find(address, port, protocol)?;
        Some(FlowKey::new(client, source, service))
    }
}
