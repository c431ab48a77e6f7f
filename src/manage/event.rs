//! What happened, for whoever writes the log, who also knows the port's name.

use std::fmt;
use std::net::Ipv4Addr;

use super::conflict::Conflict;
use super::neighbour::{Neighbour, NeighbourState};
use crate::packet::Mac;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    LinkUp {
        port: usize,
    },
    LinkDown {
        port: usize,
    },
    /// Somebody else claims an address of ours. At most once a minute for each claimant.
    Conflict(Conflict),
    /// A neighbour answered with a MAC that no other station can have.
    AnswerRefused {
        port: usize,
        address: Ipv4Addr,
        mac: Mac,
    },
}

impl Event {
    pub fn port(&self) -> usize {
        match self {
            Event::LinkUp { port } | Event::LinkDown { port } | Event::AnswerRefused { port, .. } => *port,
            Event::Conflict(conflict) => conflict.port,
        }
    }

    pub fn level(&self) -> log::Level {
        match self {
            Event::LinkUp { .. } => log::Level::Info,
            _ => log::Level::Warn,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::LinkUp { .. } => write!(f, "link is up"),
            Event::LinkDown { .. } => write!(f, "link is down"),
            Event::Conflict(conflict) => conflict.fmt(f),
            Event::AnswerRefused { address, mac, .. } => {
                write!(f, "{address} answers with {mac}, which is no other station's MAC: not used")
            }
        }
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Conflict { address, mac, .. } = self;
        write!(f, "{mac} claims {address}, which is ours")
    }
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Neighbour { address, .. } = self;
        match (self.state, self.mac) {
            (NeighbourState::Unreachable, Some(mac)) => {
                write!(f, "{address} does not answer ARP; it was at {mac}")
            }
            (NeighbourState::Resolved | NeighbourState::Fixed, Some(mac)) => {
                write!(f, "{address} is at {mac}")
            }
            (NeighbourState::Resolving, _) => write!(f, "asking who has {address}"),
            (_, None) => write!(f, "{address} does not answer ARP"),
        }
    }
}
