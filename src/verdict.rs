//! What can become of a frame. `DropReason` is the index of its counter, and the name that every listing prints.

/// Why a frame was dropped. The order is the order of the counters.
macro_rules! drop_reasons {
    ($($(#[doc = $why:literal])+ $variant:ident = $name:literal,)+) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $why])+ $variant,)+
        }

        impl DropReason {
            pub const ALL: &[DropReason] = &[$(DropReason::$variant),+];
            pub const COUNT: usize = Self::ALL.len();

            /// The name in listings, JSON and metrics.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)+ }
            }

            /// What it means, for the operator.
            pub const fn meaning(self) -> &'static str {
                match self { $(DropReason::$variant => concat!($($why),+).trim_ascii(),)+ }
            }
        }
    };
}

drop_reasons! {
    /// The frame was sent to another station's MAC address; switches flood such frames.
    NotOurMac = "not_our_mac",
    /// The frame carries another VLAN tag than the port is configured for.
    OtherVlan = "other_vlan",
    /// The frame is shorter than its headers, or than the length in its IP header.
    Truncated = "truncated",
    /// The IPv4 header is not version 4, or its header length is wrong.
    BadIpHeader = "bad_ip_header",
    /// The IPv4 header checksum is wrong.
    BadIpChecksum = "bad_ip_checksum",
    /// The packet is longer than the port's MTU; an offload (GRO, TSO) on the way glued several together.
    LongerThanMtu = "longer_than_mtu",
    /// The packet's time to live is used up.
    TtlExpired = "ttl_expired",
    /// A fragment for a virtual address; fragments are not reassembled.
    Fragment = "fragment",
    /// The source address is a virtual address or no host's address.
    BadSource = "bad_source",
    /// A virtual address, but no service on this port or protocol.
    NoService = "no_service",
    /// TCP without SYN, and no connection known for it.
    NoConnection = "no_connection",
    /// The connection's real server was removed, and the service says to tell nobody.
    RealRemoved = "real_removed",
    /// No real server of the service can take a new connection: none configured, all weights zero.
    NoReal = "no_real",
    /// Real servers are configured, but none of them has answered ARP.
    RealUnresolved = "real_unresolved",
    /// The management core's queue is full.
    ManageQueueFull = "manage_queue_full",
    /// The queue of packets whose senders are to be told is full.
    AnswerQueueFull = "answer_queue_full",
    /// The queue towards the host's kernel is full.
    HostQueueFull = "host_queue_full",
    /// The port did not take the frame for sending.
    TxQueueFull = "tx_queue_full",
    /// The worker that owns the flow does not keep up with what others hand over to it.
    HandoverQueueFull = "handover_queue_full",
}

/// What a sender is told in the virtual address's name, as the kernel would tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// TCP: there is no such connection, or no such port.
    Reset,
    /// ICMP: nobody is there who could take it.
    PortUnreachable,
    /// UDP: there is no such port. The same ICMP error, but only where the datagram's checksum is right: the kernel has
    /// looked at it by then.
    ClosedPort,
    /// ICMP: the packet's time to live is used up.
    TimeExceeded,
    /// ICMP: the packet is longer than the MTU of the port that leads to its real, and must not be cut.
    FragmentationNeeded { egress: u8 },
}

/// What is to be done with one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Rewritten in place: send it on this port.
    Forward {
        port: u8,
    },
    /// The management core answers it: ARP, and ICMP to a virtual address.
    Manage,
    /// Not forwarded: the management core answers the sender.
    Answer(Answer),
    /// Not ours: the host's kernel gets it.
    Host,
    /// Another worker owns the flow, and decides.
    Hand {
        worker: u8,
    },
    Drop(DropReason),
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_reason_is_its_own_index_and_has_a_name_of_its_own() {
        let names: HashSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), DropReason::COUNT);
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert!(!reason.meaning().is_empty());
        }
    }
}
