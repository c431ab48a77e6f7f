//! Where a NIC puts a flow: the hash and the indirection table that it was told, and that were read back from it.

use std::net::Ipv4Addr;

/// Receive side scaling: a flow's worker is `table[hash(key, flow) % table.len()]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicSpread {
    pub key: Vec<u8>,
    pub table: Vec<u16>,
    /// Whether ports are hashed too, of TCP and of UDP.
    pub tcp_ports: bool,
    pub udp_ports: bool,
}

impl NicSpread {
    /// The worker that has the flow's packets from the client.
    pub fn worker_of(&self, client: (Ipv4Addr, u16), to: (Ipv4Addr, u16), is_tcp: bool) -> Option<u8> {
        let mut input = [0; 12];
        input[..4].copy_from_slice(&client.0.octets());
        input[4..8].copy_from_slice(&to.0.octets());
        input[8..10].copy_from_slice(&client.1.to_be_bytes());
        input[10..].copy_from_slice(&to.1.to_be_bytes());
        let with_ports = if is_tcp { self.tcp_ports } else { self.udp_ports };
        let hash = toeplitz(&self.key, &input[..if with_ports { 12 } else { 8 }]);
        let queue = self.table.get(hash as usize % self.table.len().max(1))?;
        u8::try_from(*queue).ok()
    }
}

/// For each bit of the input that is set, the 32 bits of the key that begin there.
fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let byte = |place: usize| u64::from(key.get(place).copied().unwrap_or(0));
    let mut hash = 0;
    for (place, bits) in input.iter().enumerate() {
        let window = (0..5).fold(0, |window, ahead| window << 8 | byte(place + ahead));
        for bit in (0..8).filter(|bit| bits & (0x80 >> bit) != 0) {
            hash ^= (window >> (8 - bit)) as u32;
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca,
        0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b,
        0xbe, 0xac, 0x01, 0xfa,
    ];

    /// The vectors that the RSS specification publishes.
    #[test]
    fn the_published_vectors() {
        let vectors = [
            ("66.9.149.187:2794", "161.142.100.80:1766", 0x323e_8fc2, 0x51cc_c178),
            ("199.92.111.2:14230", "65.69.140.83:4739", 0xd718_262a, 0xc626_b0ea),
            ("24.19.198.95:12898", "12.22.207.184:38024", 0xd2d0_a5de, 0x5c2b_394a),
        ];
        for (source, destination, addresses, ports) in vectors {
            let split = |text: &str| {
                let socket: std::net::SocketAddrV4 = text.parse().unwrap();
                (*socket.ip(), socket.port())
            };
            let (from, to) = (split(source), split(destination));
            let spread = |tcp_ports| NicSpread {
                key: KEY.to_vec(),
                table: (0..128).map(|entry| entry % 16).collect(),
                tcp_ports,
                udp_ports: false,
            };
            let mut input = [from.0.octets(), to.0.octets()].concat();
            assert_eq!(toeplitz(&KEY, &input), addresses);
            input.extend(from.1.to_be_bytes());
            input.extend(to.1.to_be_bytes());
            assert_eq!(toeplitz(&KEY, &input), ports);
            assert_eq!(spread(true).worker_of(from, to, true), Some((ports % 128 % 16) as u8));
            assert_eq!(spread(true).worker_of(from, to, false), Some((addresses % 128 % 16) as u8));
        }
    }
}
