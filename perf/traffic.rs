//! Many flows, made outside the timed region: who they are, in what order their packets come, and the packets.

use std::net::{Ipv4Addr, Ipv6Addr};

use drover::packet::checksum::{checksum, fold, sum};
use drover::packet::{Frame, Mac, ethernet, ipv4};
use drover::sim::frames::FrameBuilder;

pub const STATION: Mac = Mac([2, 0, 0, 0, 0, 0x10]);
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);
pub const TCP_PORT: u16 = 80;
pub const UDP_PORT: u16 = 53;
/// A frame of 64 bytes without its checksum, which the hardware keeps to itself.
pub const FRAME: usize = 60;
/// The shortest TCP segment over IPv6 is longer than that.
pub const FRAME_V6: usize = 74;
pub const VIP_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100);
pub const SYN: u8 = 0x02;
pub const ACK: u8 = 0x10;
pub const FIN_ACK: u8 = 0x11;

/// Where the services begin that are beside the one of `VIP`.
pub const FIRST_OTHER: u32 = 0x0a0a_0000;
pub const OTHERS_PORT: u16 = 443;
const FIRST_CLIENT: u32 = 0x1400_0000;
/// Its last 32 bits are the flow's, as the whole address is with IPv4.
const FIRST_CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 3, 4, 0, 0);
const PORTS_A_CLIENT: u32 = 32;
const FIRST_PORT: u16 = 1024;

/// The client of a flow by its number: every number another address and port, 32 ports an address.
pub fn client(flow: u32) -> (u32, u16) {
    // 7 is prime to 32768, so that the ports of a client are apart and all different.
    (FIRST_CLIENT + flow / PORTS_A_CLIENT, FIRST_PORT + (flow % PORTS_A_CLIENT) as u16 * 7)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// Every flow as often as any other: the cache's worst case.
    Uniform,
    /// The flow of rank r has a share of 1/r.
    Zipf,
}

impl Mix {
    pub const ALL: [Mix; 2] = [Mix::Uniform, Mix::Zipf];

    /// What it adds to the name of a case.
    pub fn suffix(self) -> &'static str {
        match self {
            Mix::Uniform => "",
            Mix::Zipf => "/zipf",
        }
    }
}

/// An endless sequence of flow numbers below `flows`.
pub struct Sequence {
    mix: Mix,
    flows: u32,
    state: u64,
}

impl Sequence {
    pub fn new(mix: Mix, flows: u32, seed: u64) -> Sequence {
        Sequence { mix, flows, state: seed | 1 }
    }

    pub fn draw(&mut self) -> u32 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let random = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d);
        match self.mix {
            Mix::Uniform => (((random >> 32) * u64::from(self.flows)) >> 32) as u32,
            Mix::Zipf => {
                // The inverse of the distribution, taken as continuous.
                let share = (random >> 11) as f64 / (1u64 << 53) as f64;
                let rank = ((f64::from(self.flows) + 1.0).ln() * share).exp() as u32;
                rank.clamp(1, self.flows) - 1
            }
        }
    }
}

/// A frame for the virtual address, of which only the client changes from flow to flow.
#[derive(Clone)]
pub struct Template {
    frame: [u8; FRAME_V6],
    /// Of the header; none for IPv6, whose header has no checksum.
    header_sum: Option<u64>,
    /// Not zero: flows are for so many services in turn, those that are beside the one of `VIP`.
    services: u32,
}

impl Template {
    pub fn tcp(flags: u8) -> Template {
        Template::of(FrameBuilder::tcp((Ipv4Addr::UNSPECIFIED, 0), (VIP, TCP_PORT), flags))
    }

    /// To each of so many services, the flow's number by turns.
    pub fn tcp_to_many(flags: u8, services: u32) -> Template {
        let mut template = Template::tcp(flags);
        template.frame[30..34].fill(0);
        template.frame[36..38].copy_from_slice(&OTHERS_PORT.to_be_bytes());
        template.header_sum = Some(sum(&template.frame[14..34]));
        Template { services, ..template }
    }

    pub fn udp() -> Template {
        Template::of(FrameBuilder::udp((Ipv4Addr::UNSPECIFIED, 0), (VIP, UDP_PORT)))
    }

    /// TCP over IPv6: the same segment behind the longer header.
    pub fn tcp_v6(flags: u8) -> Template {
        let v4 = Template::tcp(flags);
        let mut frame = [0; FRAME_V6];
        frame[..12].copy_from_slice(&v4.frame[..12]);
        frame[12..14].copy_from_slice(&ethernet::IPV6.to_be_bytes());
        // Version 6, 20 bytes of TCP, hop limit 64.
        frame[14..22].copy_from_slice(&[0x60, 0, 0, 0, 0, 20, ipv4::TCP, 64]);
        frame[22..38].copy_from_slice(&FIRST_CLIENT_V6.octets());
        frame[38..54].copy_from_slice(&VIP_V6.octets());
        frame[54..].copy_from_slice(&v4.frame[34..54]);
        Template { frame, header_sum: None, services: 0 }
    }

    fn of(builder: FrameBuilder) -> Template {
        let bytes = FrameBuilder { destination_mac: STATION, ..builder }.build();
        let mut frame = [0; FRAME_V6];
        frame[..bytes.len()].copy_from_slice(&bytes);
        frame[24..26].fill(0);
        Template { frame, header_sum: Some(sum(&frame[14..34])), services: 0 }
    }

    /// How long its frames are.
    pub fn length(&self) -> usize {
        if self.header_sum.is_some() { FRAME } else { FRAME_V6 }
    }

    /// The whole frame of this flow, into the first bytes of a longer or equally long buffer.
    #[inline(always)]
    pub fn write(&self, flow: u32, into: &mut [u8]) {
        let (address, port) = client(flow);
        let Some(sum) = self.header_sum else { return self.write_v6(address, port, into) };
        let Some(frame) = into.first_chunk_mut::<FRAME>() else { return };
        frame.copy_from_slice(&self.frame[..FRAME]);
        frame[26..30].copy_from_slice(&address.to_be_bytes());
        frame[34..36].copy_from_slice(&port.to_be_bytes());
        let mut sum = sum + u64::from(address >> 16) + u64::from(address & 0xffff);
        if self.services > 0 {
            let destination = FIRST_OTHER + flow % self.services;
            frame[30..34].copy_from_slice(&destination.to_be_bytes());
            sum += u64::from(destination >> 16) + u64::from(destination & 0xffff);
        }
        let check = !fold(sum);
        frame[24..26].copy_from_slice(&check.to_be_bytes());
    }

    #[inline(always)]
    fn write_v6(&self, address: u32, port: u16, into: &mut [u8]) {
        let Some(frame) = into.first_chunk_mut::<FRAME_V6>() else { return };
        *frame = self.frame;
        frame[34..38].copy_from_slice(&address.to_be_bytes());
        frame[54..56].copy_from_slice(&port.to_be_bytes());
    }

    /// The frame of this flow with a right checksum in its segment too, for files that others read.
    pub fn whole(&self, flow: u32) -> Vec<u8> {
        let mut frame = vec![0; FRAME];
        self.write(flow, &mut frame);
        debug_assert_eq!(checksum(&frame[14..34]), 0);
        frame
    }
}

/// A frame in memory that somebody else keeps.
pub struct View<'a>(pub &'a mut [u8]);

impl Frame for View<'_> {
    fn bytes(&self) -> &[u8] {
        self.0
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.0
    }

    fn wire_len(&self) -> usize {
        self.0.len()
    }

    fn copy_to(&self, into: &mut [u8]) -> usize {
        let length = self.0.len().min(into.len());
        into[..length].copy_from_slice(&self.0[..length]);
        length
    }
}
