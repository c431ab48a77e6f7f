//! The states of a flow as a director in direct routing sees them: only the client's half. The transitions and the
//! timeouts are the kernel's.

use crate::clock::TICKS_PER_SECOND;
use crate::packet::transport::TcpFlags;

macro_rules! states {
    ($($state:ident = $name:literal, $seconds:literal, $active:literal;)+) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum FlowState {
            $($state,)+
        }

        /// Every state; as a number, each is its place here.
        const STATES: &[FlowState] = &[$(FlowState::$state),+];
        const COUNT: usize = STATES.len();
        const NAMES: [&str; COUNT] = [$($name),+];
        const TIMEOUTS: [u32; COUNT] = [$($seconds * TICKS_PER_SECOND),+];
        const ACTIVE: [bool; COUNT] = [$($active),+];

        impl FlowState {
            /// The state of this number; a number that is none's is `None`.
            #[inline]
            pub const fn from_number(number: u8) -> FlowState {
                $(if number == FlowState::$state as u8 { return FlowState::$state; })+
                FlowState::None
            }
        }
    };
}

// Each with its name in listings, its timeout in seconds, and whether LVS counts it as active.
states! {
    None = "NONE", 2, false;
    Established = "ESTABLISHED", 900, true;
    SynSent = "SYN_SENT", 120, true;
    SynRecv = "SYN_RECV", 60, true;
    FinWait = "FIN_WAIT", 120, false;
    TimeWait = "TIME_WAIT", 120, false;
    Close = "CLOSE", 10, false;
    CloseWait = "CLOSE_WAIT", 60, false;
    LastAck = "LAST_ACK", 30, false;
    Listen = "LISTEN", 120, false;
    SynAck = "SYNACK", 120, true;
    Udp = "UDP", 300, false;
}

use FlowState::*;

/// What a packet tells about its flow: of TCP the first that is set of rst, syn, fin and ack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Event {
    Rst,
    Syn,
    Fin,
    Ack,
    /// TCP with none of them.
    Blank,
    Datagram,
}

impl Event {
    #[inline]
    pub const fn of_tcp(flags: TcpFlags) -> Event {
        if flags.has(TcpFlags::RST) {
            Event::Rst
        } else if flags.has(TcpFlags::SYN) {
            Event::Syn
        } else if flags.has(TcpFlags::FIN) {
            Event::Fin
        } else if flags.has(TcpFlags::ACK) {
            Event::Ack
        } else {
            Event::Blank
        }
    }

    /// Whether it may begin a flow: SYN, with ACK or without, as the kernel has it; any datagram.
    #[inline]
    pub const fn opens(self) -> bool {
        matches!(self, Event::Syn | Event::Datagram)
    }
}

/// Where each event leads from each state, in the order of both.
const NEXT: [[FlowState; COUNT]; 6] = [
    [Close, Close, Close, SynRecv, Close, Close, Close, Close, LastAck, Listen, Close, Udp],
    [SynRecv, Established, Established, SynRecv, SynRecv, SynRecv, SynRecv, SynRecv, SynRecv, SynRecv, SynRecv, Udp],
    [Close, FinWait, SynSent, TimeWait, FinWait, TimeWait, Close, CloseWait, LastAck, Listen, TimeWait, Udp],
    [
        Established,
        Established,
        SynSent,
        Established,
        FinWait,
        TimeWait,
        Close,
        CloseWait,
        Close,
        Listen,
        Established,
        Udp,
    ],
    [Close, Close, Close, Close, Close, Close, Close, Close, Close, Close, Close, Udp],
    [Udp; COUNT],
];

impl FlowState {
    #[inline]
    pub const fn name(self) -> &'static str {
        NAMES[self as usize]
    }

    /// Counts as an active connection in LVS's listings.
    #[inline]
    pub const fn is_active(self) -> bool {
        ACTIVE[self as usize]
    }

    #[inline]
    pub const fn on(self, event: Event) -> FlowState {
        NEXT[event as usize][self as usize]
    }
}

/// How long a flow in this state lives after its last packet.
#[inline]
pub const fn timeout_ticks(state: FlowState) -> u32 {
    TIMEOUTS[state as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_their_own_numbers() {
        for (index, state) in STATES.iter().enumerate() {
            assert_eq!(*state as usize, index);
            assert_eq!(FlowState::from_number(index as u8), *state);
        }
        assert_eq!(FlowState::from_number(200), None);
    }

    #[test]
    fn a_connection_s_life() {
        let on = |flags| Event::of_tcp(TcpFlags(flags));
        let (syn, ack, fin) = (on(TcpFlags::SYN), on(TcpFlags::ACK), on(TcpFlags::FIN | TcpFlags::ACK));
        let mut state = None;
        let life = [(syn, SynRecv), (syn, SynRecv), (ack, Established), (fin, FinWait), (ack, FinWait), (syn, SynRecv)];
        for (event, expected) in life {
            state = state.on(event);
            assert_eq!(state, expected);
        }
        assert_eq!(Established.on(on(TcpFlags::RST | TcpFlags::SYN)), Close);
        assert_eq!(Established.on(on(0)), Close);
        assert_eq!(SynRecv.on(on(TcpFlags::RST)), SynRecv);
        assert_eq!(None.on(Event::Datagram), Udp);
    }
}
