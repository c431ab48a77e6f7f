//! A port: configured, started, and closed after its last queue.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int, c_uint};
use std::marker::PhantomData;
use std::os::fd::RawFd;
use std::sync::Arc;

use dpdk_sys::{rte_eth_conf, rte_eth_dev_info, rte_eth_stats, rte_ether_addr};

use super::descriptor;
use super::eal::Eal;
use super::error::{Error, check, text};
use super::mempool::Mempool;
use super::queue::PortQueue;
use super::spread::{self, Spread, Wish};
use crate::packet::{Mac, PortStats};

/// Around an IP packet: MAC addresses and type, and up to two VLAN tags.
const FRAME_OVERHEAD: u32 = 22;

#[derive(Clone, Debug)]
pub struct PortOptions {
    /// Pairs of a receive and a transmit queue.
    pub queues: u16,
    /// Wishes: the port's own limits go before. A receive descriptor keeps a buffer of the pool, so the pool must have
    /// more free than all queues have descriptors.
    pub rx_descriptors: u16,
    pub tx_descriptors: u16,
    pub mtu: u16,
    /// None: the port keeps its own.
    pub mac: Option<Mac>,
    /// Spread flows over the queues by their hash, where the port can.
    pub rss: bool,
    pub promiscuous: bool,
    pub all_multicast: bool,
}

impl Default for PortOptions {
    fn default() -> PortOptions {
        PortOptions {
            queues: 1,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            mtu: 1500,
            mac: None,
            rss: true,
            promiscuous: false,
            all_multicast: false,
        }
    }
}

/// What a port is and can do, before it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInfo {
    pub driver: String,
    /// Pairs of queues.
    pub max_queues: u16,
    pub max_mtu: u16,
    /// The NUMA node; none: unknown, or it does not matter.
    pub socket: Option<u32>,
    /// The kernel's interface over the same wire (af_packet, some NICs), or at its other end (tap).
    pub kernel_interface: Option<String>,
    /// Whether the port itself can spread IPv4 flows over queues.
    pub rss: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    pub up: bool,
    /// Megabits a second, 0 when the port does not know.
    pub speed: u32,
}

/// The management's handle: one thread at a time, any thread.
pub struct Port {
    opened: Arc<Opened>,
    info: PortInfo,
    spread: Spread,
    name: String,
    /// Not `Sync`: DPDK's control functions for one port are for one thread at a time.
    _alone: PhantomData<Cell<()>>,
}

/// A port that is ours; closed when neither handle nor queues are left.
pub(super) struct Opened {
    number: u16,
    eal: Eal,
    /// What the driver receives into.
    _pool: Mempool,
}

impl Opened {
    pub(super) fn number(&self) -> u16 {
        self.number
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // SAFETY: ours alone (`Eal::claim`), and no queue refers to it any more. A port that was never started or
        // configured takes both calls.
        let result = unsafe {
            dpdk_sys::rte_eth_dev_stop(self.number);
            dpdk_sys::rte_eth_dev_close(self.number)
        };
        if let Err(error) = check(result, || format!("port {} does not close", self.number)) {
            log::warn!("{error}");
        }
        self.eal.give_back(self.number);
    }
}

impl Port {
    /// Looks at a port without changing it: `0000:3b:00.0`, `net_tap0`.
    pub fn info_of(_eal: &Eal, name: &str) -> Result<PortInfo, Error> {
        Ok(information(&device_information(find(name)?, name)?, find(name)?))
    }

    /// Configures and starts a port; `pool` is what it receives into. Options that the driver does not support (MAC,
    /// MTU, promiscuous and multicast modes) are logged and left; [`Port::mac`] says what holds.
    pub fn open(eal: &Eal, name: &str, options: &PortOptions, pool: &Mempool) -> Result<(Port, Vec<PortQueue>), Error> {
        let number = find(name)?;
        let device = device_information(number, name)?;
        let info = information(&device, number);
        if options.queues == 0 || options.queues > info.max_queues {
            let max = info.max_queues;
            return Err(Error::plain(format!("port {name} has {max} queues, {} are asked for", options.queues)));
        }
        if !eal.claim(number) {
            return Err(Error::refused(format!("port {name} is already open"), libc::EBUSY));
        }
        let opened = Arc::new(Opened { number, eal: eal.clone(), _pool: pool.clone() });
        let spread = Spread::OneQueue;
        let mut port = Port { opened, info, spread, name: name.to_owned(), _alone: PhantomData };
        port.configure(&device, options, pool)?;
        let tap_descriptors = port.set_up_queues(options, pool)?;
        port.apply_before_start(options)?;
        // SAFETY: ours, configured, with all its queues set up.
        check(unsafe { dpdk_sys::rte_eth_dev_start(number) }, || format!("port {name} does not start"))?;
        port.apply_after_start(options)?;
        // What the driver says of its table may depend on the number of queues.
        let device = device_information(number, name)?;
        port.spread = match options.rss || options.queues == 1 {
            true => spread::establish(number, &device, options.queues),
            false => Spread::Unknown("it was not asked to spread".into()),
        };
        let queues = port.queues(&device, tap_descriptors);
        Ok((port, queues))
    }

    fn configure(&self, device: &rte_eth_dev_info, options: &PortOptions, pool: &Mempool) -> Result<(), Error> {
        let mut conf = rte_eth_conf::default();
        conf.rxmode.mtu = u32::from(options.mtu);
        let mut wish = Wish::of(device).filter(|_| options.rss && options.queues > 1);
        if let Some(wish) = &mut wish {
            conf.rxmode.mq_mode = dpdk_sys::RTE_ETH_MQ_RX_RSS;
            conf.rx_adv_conf.rss_conf = wish.conf();
        }
        if u32::from(options.mtu) + FRAME_OVERHEAD > u32::from(pool.room()) {
            if device.rx_offload_capa & dpdk_sys::DROVER_RX_OFFLOAD_SCATTER == 0 {
                let (name, mtu, room) = (&self.name, options.mtu, pool.room());
                return Err(Error::plain(format!(
                    "port {name} needs buffers for an MTU of {mtu}; these hold {room} bytes"
                )));
            }
            conf.rxmode.offloads |= dpdk_sys::DROVER_RX_OFFLOAD_SCATTER;
            conf.txmode.offloads |= device.tx_offload_capa & dpdk_sys::DROVER_TX_OFFLOAD_MULTI_SEGS;
        }
        // SAFETY: ours; `conf` and the key it points to are read during the call.
        let result = unsafe { dpdk_sys::rte_eth_dev_configure(self.number(), options.queues, options.queues, &conf) };
        check(result, || format!("port {} cannot be configured", self.name))
    }

    /// Answers with the TAP descriptors that each receive queue opened.
    fn set_up_queues(&self, options: &PortOptions, pool: &Mempool) -> Result<Vec<Vec<RawFd>>, Error> {
        let (mut receive, mut transmit) = (options.rx_descriptors, options.tx_descriptors);
        // SAFETY: ours; writes the two numbers.
        let result = unsafe { dpdk_sys::rte_eth_dev_adjust_nb_rx_tx_desc(self.number(), &mut receive, &mut transmit) };
        check(result, || format!("port {} has no such numbers of descriptors", self.name))?;
        let kept = u32::from(options.queues) * u32::from(receive);
        if pool.available() <= kept {
            let (name, free) = (&self.name, pool.available());
            return Err(Error::plain(format!("port {name} keeps {kept} buffers for receiving, {free} are free")));
        }
        let mut opened = Vec::new();
        for queue in 0..options.queues {
            let before = descriptor::tun();
            self.set_up_receive(queue, receive, pool)?;
            opened.push(descriptor::tun().into_iter().filter(|open| !before.contains(open)).collect());
            self.set_up_transmit(queue, transmit)?;
        }
        Ok(opened)
    }

    fn set_up_receive(&self, queue: u16, descriptors: u16, pool: &Mempool) -> Result<(), Error> {
        let node = self.info.socket.map_or(dpdk_sys::DROVER_SOCKET_ANY as c_uint, |socket| socket);
        // SAFETY: ours and configured with this queue; no thresholds of our own; `Opened` keeps the pool.
        let result = unsafe {
            let defaults = std::ptr::null();
            dpdk_sys::rte_eth_rx_queue_setup(self.number(), queue, descriptors, node, defaults, pool.raw())
        };
        check(result, || format!("receive queue {queue} of port {} cannot be set up", self.name))
    }

    fn set_up_transmit(&self, queue: u16, descriptors: u16) -> Result<(), Error> {
        let node = self.info.socket.map_or(dpdk_sys::DROVER_SOCKET_ANY as c_uint, |socket| socket);
        // SAFETY: ours and configured with this queue; no thresholds of our own.
        let result =
            unsafe { dpdk_sys::rte_eth_tx_queue_setup(self.number(), queue, descriptors, node, std::ptr::null()) };
        check(result, || format!("transmit queue {queue} of port {} cannot be set up", self.name))
    }

    fn apply_before_start(&self, options: &PortOptions) -> Result<(), Error> {
        // SAFETY: ours and stopped.
        self.tolerate(unsafe { dpdk_sys::rte_eth_dev_set_mtu(self.number(), options.mtu) }, "set an MTU")?;
        match options.mac.map(|mac| self.set_mac(mac)) {
            Some(Err(error)) if error.number() == libc::ENOTSUP => {
                log::warn!("{error}");
                Ok(())
            }
            Some(result) => result,
            None => Ok(()),
        }
    }

    fn apply_after_start(&self, options: &PortOptions) -> Result<(), Error> {
        if options.promiscuous {
            // SAFETY: ours and started.
            self.tolerate(unsafe { dpdk_sys::rte_eth_promiscuous_enable(self.number()) }, "be made promiscuous")?;
        }
        if options.all_multicast {
            // SAFETY: ours and started.
            self.tolerate(unsafe { dpdk_sys::rte_eth_allmulticast_enable(self.number()) }, "take all multicast")?;
        }
        Ok(())
    }

    /// Most virtual drivers lack some of these, and work without.
    fn tolerate(&self, result: c_int, what: &str) -> Result<(), Error> {
        if result == -libc::ENOTSUP {
            log::debug!("port {} ({}) does not support it to {what}", self.name, self.info.driver);
            return Ok(());
        }
        check(result, || format!("port {} cannot {what}", self.name))
    }

    fn queues(&self, device: &rte_eth_dev_info, tap_descriptors: Vec<Vec<RawFd>>) -> Vec<PortQueue> {
        let is_packet_socket = self.info.driver == "net_af_packet";
        let sockets = if is_packet_socket { descriptor::packet_sockets(device.if_index) } else { Vec::new() };
        let exact = self.own_sockets(&sockets, tap_descriptors.len());
        let queue = |(index, tap): (usize, Vec<RawFd>)| {
            // Without knowing which socket is whose, each queue waits for all of them: it may wake for nothing.
            let descriptors = match &exact {
                _ if !is_packet_socket => tap,
                Some(exact) => vec![exact[index]],
                None => sockets.clone(),
            };
            PortQueue::new(&self.opened, index as u16, descriptors)
        };
        tap_descriptors.into_iter().enumerate().map(queue).collect()
    }

    /// Each af_packet queue's own socket. The driver's queue begins with it; that is not promised anywhere, so it is
    /// believed only if every queue names another one of the sockets that are known to be this port's.
    fn own_sockets(&self, sockets: &[RawFd], queues: usize) -> Option<Vec<RawFd>> {
        let mut own = Vec::new();
        for queue in 0..queues {
            if sockets.is_empty() {
                return None;
            }
            // SAFETY: started with this queue: null, or the driver's structure, which is larger than one number.
            let first = unsafe { dpdk_sys::drover_rx_queue(self.number(), queue as u16).cast::<RawFd>().as_ref() }?;
            if !sockets.contains(first) || own.contains(first) {
                return None;
            }
            own.push(*first);
        }
        Some(own)
    }

    fn number(&self) -> u16 {
        self.opened.number
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn info(&self) -> &PortInfo {
        &self.info
    }

    /// The driver's name, such as `net_tap`.
    pub fn driver(&self) -> &str {
        &self.info.driver
    }

    pub fn max_queues(&self) -> u16 {
        self.info.max_queues
    }

    /// Which of its queues a flow comes in by.
    pub fn spread(&self) -> &Spread {
        &self.spread
    }

    /// The NUMA node; none: unknown, or it does not matter.
    pub fn socket(&self) -> Option<u32> {
        self.info.socket
    }

    /// The kernel's interface over the same wire (af_packet, some NICs), or at its other end (tap). A tap's has the
    /// port's MAC; a bridge wants another one there.
    pub fn kernel_interface(&self) -> Option<&str> {
        self.info.kernel_interface.as_deref()
    }

    pub fn mac(&self) -> Mac {
        let mut address = rte_ether_addr::default();
        // SAFETY: ours; writes the address. It fails only for a port that does not exist.
        unsafe { dpdk_sys::rte_eth_macaddr_get(self.number(), &mut address) };
        Mac(address.addr_bytes)
    }

    pub fn mtu(&self) -> u16 {
        let mut mtu = 0;
        // SAFETY: ours; writes the number. It fails only for a port that does not exist.
        unsafe { dpdk_sys::rte_eth_dev_get_mtu(self.number(), &mut mtu) };
        mtu
    }

    pub fn set_mac(&self, mac: Mac) -> Result<(), Error> {
        if mac == self.mac() {
            return Ok(());
        }
        let mut address = rte_ether_addr { addr_bytes: mac.0 };
        // SAFETY: ours; the address is copied.
        let result = unsafe { dpdk_sys::rte_eth_dev_default_mac_addr_set(self.number(), &mut address) };
        check(result, || format!("port {} cannot have the MAC address {mac}", self.name))
    }

    pub fn link(&self) -> Link {
        let (mut speed, mut up) = (0, 0);
        // SAFETY: ours; writes the two numbers.
        let result = unsafe { dpdk_sys::drover_link(self.number(), &mut speed, &mut up) };
        // All ones: unknown.
        let speed = if speed == u32::MAX { 0 } else { speed };
        if result < 0 { Link { up: false, speed: 0 } } else { Link { up: up != 0, speed } }
    }

    pub fn stats(&self) -> PortStats {
        let mut stats = rte_eth_stats::default();
        // SAFETY: ours; writes the structure. A driver without statistics leaves it zero.
        unsafe { dpdk_sys::rte_eth_stats_get(self.number(), &mut stats) };
        PortStats {
            name: self.name.clone(),
            received: stats.ipackets,
            received_bytes: stats.ibytes,
            sent: stats.opackets,
            sent_bytes: stats.obytes,
            missed: stats.imissed,
            errors: stats.ierrors,
            send_errors: stats.oerrors,
            no_buffer: stats.rx_nombuf,
        }
    }
}

/// DPDK's number for a device.
pub(super) fn number(device: &CStr) -> Option<u16> {
    let mut number = 0;
    // SAFETY: a C string, and a number to write.
    let result = unsafe { dpdk_sys::rte_eth_dev_get_port_by_name(device.as_ptr(), &mut number) };
    (result == 0).then_some(number)
}

fn find(name: &str) -> Result<u16, Error> {
    let device = CString::new(name).ok();
    let what = || format!("DPDK has no port {name} (RUST_LOG=trace shows why)");
    device.and_then(|device| number(&device)).ok_or_else(|| Error::refused(what(), libc::ENODEV))
}

fn device_information(number: u16, name: &str) -> Result<rte_eth_dev_info, Error> {
    let mut device = rte_eth_dev_info::default();
    // SAFETY: the port exists; writes the structure.
    let result = unsafe { dpdk_sys::rte_eth_dev_info_get(number, &mut device) };
    check(result, || format!("port {name} does not say what it is"))?;
    Ok(device)
}

fn information(device: &rte_eth_dev_info, number: u16) -> PortInfo {
    // SAFETY: the driver's name is static. The port exists.
    let (driver, socket) = unsafe { (text(device.driver_name), dpdk_sys::rte_eth_dev_socket_id(number)) };
    PortInfo {
        driver,
        max_queues: device.max_rx_queues.min(device.max_tx_queues),
        max_mtu: device.max_mtu,
        socket: u32::try_from(socket).ok(),
        kernel_interface: interface_name(device.if_index),
        rss: Wish::of(device).is_some(),
    }
}

fn interface_name(index: u32) -> Option<String> {
    let mut name: [c_char; libc::IF_NAMESIZE] = [0; libc::IF_NAMESIZE];
    // SAFETY: room for the longest name.
    let found = unsafe { libc::if_indextoname(index, name.as_mut_ptr()) };
    // SAFETY: null, or the name just written, with its end.
    (!found.is_null()).then(|| unsafe { text(found) })
}
