//! How a port spreads flows over its queues: told to it, and read back.

use dpdk_sys::{rte_eth_dev_info, rte_eth_rss_conf, rte_eth_rss_reta_entry64};

/// The longest RSS key of any NIC that DPDK knows.
const LONGEST_KEY: usize = 64;
/// The most entries of an indirection table of any NIC that DPDK knows.
const LARGEST_TABLE: u16 = 2048;
/// What one entry of DPDK's holds.
const GROUP: usize = 64;
/// The key that the RSS specification publishes, with its test vectors: what a flow hashes to can be looked up.
const RSS_KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca, 0x2b,
    0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac,
    0x01, 0xfa,
];
const RSS_FUNCTIONS: u64 = dpdk_sys::DROVER_RSS_IPV4
    | dpdk_sys::DROVER_RSS_FRAG_IPV4
    | dpdk_sys::DROVER_RSS_IPV4_OTHER
    | dpdk_sys::DROVER_RSS_IPV4_TCP
    | dpdk_sys::DROVER_RSS_IPV4_UDP;

/// How a port spreads what it receives over its queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spread {
    /// There is nothing to spread over.
    OneQueue,
    /// By its own hash: functions, key and table were set, and read back as they were set.
    Verified(Rss),
    /// Somehow, and why no more is known.
    Unknown(String),
}

/// Receive side scaling: a flow's queue is `table[hash(key, flow) % table.len()]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rss {
    pub key: Vec<u8>,
    /// DPDK's bits of what is hashed, of those that we ask for.
    pub functions: u64,
    pub table: Vec<u16>,
}

impl Rss {
    /// Whether the ports of TCP are hashed too.
    pub fn hashes_tcp_ports(&self) -> bool {
        self.functions & dpdk_sys::DROVER_RSS_IPV4_TCP != 0
    }

    /// Whether the ports of UDP are hashed too.
    pub fn hashes_udp_ports(&self) -> bool {
        self.functions & dpdk_sys::DROVER_RSS_IPV4_UDP != 0
    }
}

/// What a port is asked to do.
pub(super) struct Wish {
    key: [u8; LONGEST_KEY],
    length: usize,
    functions: u64,
}

impl Wish {
    /// None: the port has no hash for IPv4.
    pub fn of(device: &rte_eth_dev_info) -> Option<Wish> {
        let functions = device.flow_type_rss_offloads & RSS_FUNCTIONS;
        let wanted = if device.hash_key_size == 0 { RSS_KEY.len() } else { usize::from(device.hash_key_size) };
        let mut key = [0; LONGEST_KEY];
        key.iter_mut().zip(RSS_KEY.iter().cycle()).for_each(|(byte, from)| *byte = *from);
        (functions != 0).then_some(Wish { key, length: wanted.min(LONGEST_KEY), functions })
    }

    /// For a call during which `self` stays where it is.
    pub fn conf(&mut self) -> rte_eth_rss_conf {
        rte_eth_rss_conf { rss_key: self.key.as_mut_ptr(), rss_key_len: self.length as u8, rss_hf: self.functions }
    }
}

/// Sets what is not as it is wanted, and reads all of it back. `port` is ours, started, and was configured by
/// [`Wish::of`] the same device.
pub(super) fn establish(port: u16, device: &rte_eth_dev_info, queues: u16) -> Spread {
    if queues <= 1 {
        return Spread::OneQueue;
    }
    let Some(mut wish) = Wish::of(device) else { return unknown("it has no hash for IPv4") };
    let wished = |found: &(Vec<u8>, u64), wish: &Wish| found.0 == wish.key[..wish.length] && found.1 != 0;
    let mut hash = read_hash(port, wish.length);
    if hash.as_ref().is_some_and(|hash| !wished(hash, &wish)) {
        let mut conf = wish.conf();
        // SAFETY: ours; the key that `conf` points to is copied. Whether it worked is read back.
        unsafe { dpdk_sys::rte_eth_dev_rss_hash_update(port, &mut conf) };
        hash = read_hash(port, wish.length);
    }
    let Some((key, functions)) = hash else { return unknown("its hash key cannot be read back") };
    if !wished(&(key.clone(), functions), &wish) {
        return unknown("it keeps a hash key of its own");
    }
    let size = device.reta_size.min(LARGEST_TABLE);
    if size < queues {
        return unknown("its indirection table cannot be read back");
    }
    let table: Vec<u16> = (0..size).map(|entry| entry % queues).collect();
    write_table(port, &table);
    match read_table(port, size) {
        None => unknown("its indirection table cannot be read back"),
        Some(found) if found != table => unknown("it keeps an indirection table of its own"),
        Some(table) => Spread::Verified(Rss { key, functions, table }),
    }
}

fn unknown(why: &str) -> Spread {
    Spread::Unknown(why.to_owned())
}

/// The key and the functions in force.
fn read_hash(port: u16, length: usize) -> Option<(Vec<u8>, u64)> {
    let mut key = vec![0; LONGEST_KEY];
    let mut conf = rte_eth_rss_conf { rss_key: key.as_mut_ptr(), rss_key_len: length as u8, rss_hf: 0 };
    // SAFETY: ours; the driver writes its key, which is no longer than the longest there is.
    let result = unsafe { dpdk_sys::rte_eth_dev_rss_hash_conf_get(port, &mut conf) };
    key.truncate(length);
    (result == 0).then_some((key, conf.rss_hf & RSS_FUNCTIONS))
}

/// Whether it worked is read back.
fn write_table(port: u16, table: &[u16]) {
    let mut groups = groups(table.len());
    for (entry, queue) in table.iter().enumerate() {
        groups[entry / GROUP].reta[entry % GROUP] = *queue;
    }
    // SAFETY: ours; as many groups as the table's size needs.
    unsafe { dpdk_sys::rte_eth_dev_rss_reta_update(port, groups.as_mut_ptr(), table.len() as u16) };
}

fn read_table(port: u16, size: u16) -> Option<Vec<u16>> {
    let mut groups = groups(size.into());
    // SAFETY: ours; the driver writes as many groups as the size needs.
    let result = unsafe { dpdk_sys::rte_eth_dev_rss_reta_query(port, groups.as_mut_ptr(), size) };
    let entries = groups.iter().flat_map(|group| group.reta).take(size.into());
    (result == 0).then(|| entries.collect())
}

/// Room for a table, all of which is meant; a queue that no port has stands where nothing is written.
fn groups(size: usize) -> Vec<rte_eth_rss_reta_entry64> {
    vec![rte_eth_rss_reta_entry64 { mask: u64::MAX, reta: [u16::MAX; GROUP] }; size.div_ceil(GROUP)]
}
