//! Which worker owns a flow, where the NIC's own spread cannot be relied on.
//!
//! By the client's address and port and nothing else: that is what both directions of a flow know, and an ICMP error
//! about it. Keyed, so that nobody outside can aim at one core.

/// The rule that all workers of a director share, and which of them we are.
#[derive(Clone, Copy, Debug)]
pub struct Owners {
    own: u8,
    workers: u8,
    secret: [u64; 2],
}

impl Owners {
    /// `own` is less than `workers`; the secret is the same for all of them, and not the flow tables'.
    pub const fn new(own: u8, workers: u8, secret: [u64; 2]) -> Owners {
        Owners { own, workers, secret }
    }

    /// Which of them we are.
    pub const fn own(&self) -> u8 {
        self.own
    }

    /// The owner of all flows of this client's port, both given as a flow key's `client_bits`.
    pub fn of(&self, client: u64) -> u8 {
        let once = fold(client ^ self.secret[0], self.secret[1] | 1);
        let hash = fold(once ^ self.secret[1], 0xd6e8_feb8_6659_fd93);
        ((u128::from(hash) * u128::from(self.workers)) >> 64) as u8
    }

    /// The owner, if it is another worker than this one.
    pub fn other(&self, client: u64) -> Option<u8> {
        Some(self.of(client)).filter(|owner| *owner != self.own)
    }
}

const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: [u64; 2] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344];

    /// Ports in a row of one client, and clients in a row with one port.
    fn clients() -> impl Iterator<Item = u64> {
        let ports = (0..32_768).map(|port| 0x0a09_0001 << 16 | port);
        ports.chain((0..32_768).map(|host| (0x0a00_0000 + host) << 16 | 40_000))
    }

    #[test]
    fn every_worker_gets_its_share_and_they_agree() {
        for workers in 1..=64 {
            let mut shares = vec![0u32; workers.into()];
            for client in clients() {
                let owner = Owners::new(0, workers, SECRET).of(client);
                shares[usize::from(owner)] += 1;
                assert_eq!(Owners::new(owner, workers, SECRET).other(client), None);
                assert_eq!(Owners::new(workers, workers, SECRET).other(client), Some(owner));
            }
            // Six standard deviations of a fair die.
            let fair = 65_536.0 / f64::from(workers);
            let far = shares.iter().find(|share| (f64::from(**share) - fair).abs() > 6.0 * fair.sqrt());
            assert_eq!(far, None, "{workers} workers: {shares:?}");
        }
    }

    /// Whoever knows which clients meet on one core of one director knows nothing about the next.
    #[test]
    fn another_secret_spreads_otherwise() {
        let (one, other) = (Owners::new(0, 8, SECRET), Owners::new(0, 8, [SECRET[1], SECRET[0]]));
        let mut shares = [0u32; 8];
        for client in clients().filter(|client| one.of(*client) == 0) {
            shares[usize::from(other.of(client))] += 1;
        }
        assert!(shares.iter().all(|share| (800..1250).contains(share)), "{shares:?}");
    }
}
