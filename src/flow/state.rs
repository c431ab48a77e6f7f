//! The states of a flow as a director in direct routing sees them: only the client's half. The transitions and the
//! timeouts are the kernel's.

use crate::clock::TICKS_PER_SECOND;
use crate::packet::transport::TcpFlags;

/// As many as fit into four bits, so that a table of them needs no check of its bounds.
const STATE_NUMBERS: usize = 16;

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
        const BY_NUMBER: [FlowState; STATE_NUMBERS] = {
            let mut by_number = [FlowState::None; STATE_NUMBERS];
            $(by_number[FlowState::$state as usize] = FlowState::$state;)+
            by_number
        };
        const NAMES: [&str; COUNT] = [$($name),+];
        const TIMEOUTS: [u32; COUNT] = [$($seconds * TICKS_PER_SECOND),+];
        const ACTIVE: [bool; COUNT] = [$($active),+];

        impl FlowState {
            /// The state of this number, of which the lower four bits count; a number that is none's is `None`.
            #[inline(always)]
            pub const fn from_number(number: u8) -> FlowState {
                BY_NUMBER[number as usize % STATE_NUMBERS]
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

/// What a packet tells about its flow: of TCP the first that is set of rst, syn, fin and ack. The last two are those
/// that do not simply go on with a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Event {
    Rst,
    Fin,
    Ack,
    /// TCP with none of them.
    Blank,
    Datagram,
    Syn,
    /// An ICMP error about the flow, which it changes nothing of.
    Error,
}

const EVENTS: usize = Event::Error as usize + 1;

impl Event {
    #[inline(always)]
    pub const fn of_tcp(flags: TcpFlags) -> Event {
        BY_FLAGS[flags.0 as usize % BY_FLAGS.len()]
    }

    const fn of_flags(flags: TcpFlags) -> Event {
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

    /// Whether it goes on with a flow that there is, without more ado.
    #[inline(always)]
    pub const fn goes_on(self) -> bool {
        (self as u8) < Event::Syn as u8
    }

    /// Whether it may begin a flow: SYN, with ACK or without, as the kernel has it; any datagram.
    #[inline]
    pub const fn opens(self) -> bool {
        matches!(self, Event::Syn | Event::Datagram)
    }
}

/// The event of each combination of the lower five flags: FIN, SYN, RST, PSH, ACK.
const BY_FLAGS: [Event; 32] = {
    let mut events = [Event::Blank; 32];
    let mut flags = 0;
    while flags < events.len() {
        events[flags] = Event::of_flags(TcpFlags(flags as u8));
        flags += 1;
    }
    events
};

/// Where each event leads from each state, in the order of both.
const TRANSITIONS: [[FlowState; COUNT]; EVENTS] = [
    [Close, Close, Close, SynRecv, Close, Close, Close, Close, LastAck, Listen, Close, Udp],
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
    [SynRecv, Established, Established, SynRecv, SynRecv, SynRecv, SynRecv, SynRecv, SynRecv, SynRecv, SynRecv, Udp],
    [None, Established, SynSent, SynRecv, FinWait, TimeWait, Close, CloseWait, LastAck, Listen, SynAck, Udp],
];

/// The same in a table that needs no check of its bounds.
const NEXT: [[FlowState; STATE_NUMBERS]; EVENTS.next_power_of_two()] = {
    let mut next = [[None; STATE_NUMBERS]; EVENTS.next_power_of_two()];
    let mut event = 0;
    while event < EVENTS {
        let mut state = 0;
        while state < COUNT {
            next[event][state] = TRANSITIONS[event][state];
            state += 1;
        }
        event += 1;
    }
    next
};

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

    #[inline(always)]
    pub const fn on(self, event: Event) -> FlowState {
        FlowState::after(self as u8, event)
    }

    /// Where an event leads from the state of this number.
    #[inline(always)]
    pub const fn after(number: u8, event: Event) -> FlowState {
        NEXT[event as usize][number as usize % STATE_NUMBERS]
    }
}

/// How long a flow in this state lives after its last packet, where nobody has set it otherwise.
pub const fn timeout_ticks(state: FlowState) -> u32 {
    TIMEOUTS[state as usize]
}

/// How long flows live after their last packet, by their state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts([u32; STATE_NUMBERS]);

impl Default for Timeouts {
    /// The kernel's.
    fn default() -> Timeouts {
        let mut ticks = [0; STATE_NUMBERS];
        ticks[..COUNT].copy_from_slice(&TIMEOUTS);
        Timeouts(ticks)
    }
}

impl Timeouts {
    #[inline(always)]
    pub const fn ticks(&self, state: FlowState) -> u32 {
        self.0[state as usize]
    }

    pub const fn set(&mut self, state: FlowState, ticks: u32) {
        self.0[state as usize] = ticks;
    }
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
        assert_eq!(FlowState::from_number(0xfc), None);
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
