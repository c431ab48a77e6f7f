//! The states of a flow as a director in direct routing sees them: only the client's half. The transitions and the
//! timeouts are the kernel's.

use crate::clock::TICKS_PER_SECOND;
use crate::packet::transport::TcpFlags;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FlowState {
    None,
    Established,
    SynSent,
    SynRecv,
    FinWait,
    TimeWait,
    Close,
    CloseWait,
    LastAck,
    Listen,
    SynAck,
    Udp,
}

use FlowState::*;

/// Every state, its name in listings, its timeout in seconds, and whether LVS counts it as active.
const STATES: [(FlowState, &str, u32, bool); 12] = [
    (None, "NONE", 2, false),
    (Established, "ESTABLISHED", 900, true),
    (SynSent, "SYN_SENT", 120, true),
    (SynRecv, "SYN_RECV", 60, true),
    (FinWait, "FIN_WAIT", 120, false),
    (TimeWait, "TIME_WAIT", 120, false),
    (Close, "CLOSE", 10, false),
    (CloseWait, "CLOSE_WAIT", 60, false),
    (LastAck, "LAST_ACK", 30, false),
    (Listen, "LISTEN", 120, false),
    (SynAck, "SYNACK", 120, true),
    (Udp, "UDP", 300, false),
];

/// Where an event leads from each state, in the order of `STATES` up to `SynAck`.
type Transitions = [FlowState; 11];

const ON_SYN: Transitions =
    [SynRecv, Established, Established, SynRecv, SynRecv, SynRecv, SynRecv, SynRecv, SynRecv, SynRecv, SynRecv];
const ON_FIN: Transitions =
    [Close, FinWait, SynSent, TimeWait, FinWait, TimeWait, Close, CloseWait, LastAck, Listen, TimeWait];
const ON_ACK: Transitions =
    [Established, Established, SynSent, Established, FinWait, TimeWait, Close, CloseWait, Close, Listen, Established];
const ON_RST: Transitions = [Close, Close, Close, SynRecv, Close, Close, Close, Close, LastAck, Listen, Close];

impl FlowState {
    /// The state that `as u8` gave this number; a number that is none's is `None`.
    pub fn from_number(number: u8) -> FlowState {
        STATES.get(usize::from(number)).map_or(None, |row| row.0)
    }

    pub const fn name(self) -> &'static str {
        STATES[self as usize].1
    }

    /// Counts as an active connection in LVS's listings.
    pub const fn is_active(self) -> bool {
        STATES[self as usize].3
    }

    /// The next state on a TCP segment of the client. The first of rst, syn, fin, ack that is set decides; none: CLOSE.
    pub fn on_tcp(self, flags: TcpFlags) -> FlowState {
        let transitions = if flags.has(TcpFlags::RST) {
            &ON_RST
        } else if flags.has(TcpFlags::SYN) {
            &ON_SYN
        } else if flags.has(TcpFlags::FIN) {
            &ON_FIN
        } else if flags.has(TcpFlags::ACK) {
            &ON_ACK
        } else {
            return Close;
        };
        transitions.get(self as usize).copied().unwrap_or(self)
    }
}

/// How long a flow in this state lives after its last packet.
pub const fn timeout_ticks(state: FlowState) -> u32 {
    STATES[state as usize].2 * TICKS_PER_SECOND
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_their_own_rows() {
        for (index, (state, ..)) in STATES.iter().enumerate() {
            assert_eq!(*state as usize, index);
            assert_eq!(FlowState::from_number(index as u8), *state);
        }
        assert_eq!(FlowState::from_number(200), None);
    }

    #[test]
    fn a_connection_s_life() {
        let (syn, ack, fin) =
            (TcpFlags(TcpFlags::SYN), TcpFlags(TcpFlags::ACK), TcpFlags(TcpFlags::FIN | TcpFlags::ACK));
        let mut state = None;
        for (flags, expected) in
            [(syn, SynRecv), (syn, SynRecv), (ack, Established), (fin, FinWait), (ack, FinWait), (syn, SynRecv)]
        {
            state = state.on_tcp(flags);
            assert_eq!(state, expected);
        }
        assert_eq!(Established.on_tcp(TcpFlags(TcpFlags::RST | TcpFlags::SYN)), Close);
        assert_eq!(Established.on_tcp(TcpFlags(0)), Close);
        assert_eq!(SynRecv.on_tcp(TcpFlags(TcpFlags::RST)), SynRecv);
    }
}
