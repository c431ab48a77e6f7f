//! What the director reads of TCP and UDP: ports, and TCP's flags.

pub const TCP_HEADER: usize = 20;
pub const UDP_HEADER: usize = 8;

/// TCP's flag bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;

    pub const fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }
}

/// Source and destination port, which both protocols have in the same place.
#[inline(always)]
pub fn ports(segment: &[u8]) -> Option<(u16, u16)> {
    let [s0, s1, d0, d1] = *segment.first_chunk::<4>()?;
    Some((u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1])))
}

/// None: shorter than a TCP header.
#[inline(always)]
pub fn tcp_flags(segment: &[u8]) -> Option<TcpFlags> {
    segment.first_chunk::<TCP_HEADER>().map(|header| TcpFlags(header[13]))
}

#[inline(always)]
pub fn is_udp(segment: &[u8]) -> bool {
    segment.len() >= UDP_HEADER
}
