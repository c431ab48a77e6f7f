//! The kernel's network interfaces: TAPs, addresses, routes and the offloads that glue frames together. All of it is
//! in the network namespace of the caller.

use std::ffi::{CString, c_char, c_int, c_short, c_uint, c_ulong, c_ushort, c_void};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;

use libc::{ifreq, sockaddr};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::packet::{Ipv4Net, Mac};

/// Of `linux/ethtool.h`.
const GET_FLAGS: u32 = 0x25;
const SET_FLAGS: u32 = 0x26;
const GET_GRO: u32 = 0x2b;
const SET_GRO: u32 = 0x2c;
const FLAG_LRO: u32 = 1 << 15;
/// Of `linux/if_tun.h`: fail if the interface exists.
const IFF_TUN_EXCL: c_int = 0x8000;
/// Of `linux/route.h`.
const ROUTE_UP: c_ushort = 1;
const ROUTE_GATEWAY: c_ushort = 2;

/// A kernel TAP: what is written here the host's kernel receives, what the kernel sends is read here. It goes away
/// when this is dropped, and with the process however that ends.
#[derive(Debug)]
pub struct Tap {
    name: String,
    file: OwnedFd,
}

impl Tap {
    /// Creates the interface; it must not exist. It is down, and has no address.
    pub fn create(name: &str, mac: Mac, mtu: u16) -> io::Result<Tap> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open("/dev/net/tun", flags, Mode::empty())
            .map_err(|error| about("cannot open /dev/net/tun", error.into()))?;
        let mut request = named(name)?;
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | IFF_TUN_EXCL) as c_short;
        ioctl(file.as_raw_fd(), libc::TUNSETIFF as c_ulong, &mut request)
            .map_err(|error| about(&format!("cannot create TAP {name}"), exists(error)))?;
        set_mac(name, mac)?;
        set_mtu(name, mtu)?;
        Ok(Tap { name: name.to_owned(), file })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// For `poll`: readable when the kernel has something to send.
    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// One frame that the kernel sends; `WouldBlock` when there is none.
    pub fn read(&self, frame: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.file, frame)?)
    }

    /// Gives the kernel one frame to receive; `WouldBlock` when it has no room, an error while the interface is down.
    pub fn write(&self, frame: &[u8]) -> io::Result<()> {
        rustix::io::write(&self.file, frame)?;
        Ok(())
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The interface's number, none if there is no such interface.
pub fn index(name: &str) -> io::Result<Option<u32>> {
    match rustix::net::netdevice::name_to_index(control()?, name) {
        Ok(index) => Ok(Some(index)),
        Err(rustix::io::Errno::NODEV) => Ok(None),
        Err(error) => Err(about(name, error.into())),
    }
}

pub fn mac(name: &str) -> io::Result<Mac> {
    let request = ask(name, libc::SIOCGIFHWADDR, |_| {}, "read the MAC")?;
    // SAFETY: the kernel has filled in this member, and every bit pattern of it is a value.
    let data = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
    let mut mac = [0; 6];
    mac.iter_mut().zip(data).for_each(|(to, from)| *to = from as u8);
    Ok(Mac(mac))
}

/// Also when the interface is up: drivers that cannot are taken down for a moment.
pub fn set_mac(name: &str, mac: Mac) -> io::Result<()> {
    let attempt = || {
        let fill = |request: &mut ifreq| {
            let mut address = sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: [0; 14] };
            address.sa_data.iter_mut().zip(mac.0).for_each(|(to, from)| *to = from as c_char);
            request.ifr_ifru.ifru_hwaddr = address;
        };
        ask(name, libc::SIOCSIFHWADDR, fill, "set the MAC").map(|_| ())
    };
    match attempt() {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            set_up(name, false)?;
            let outcome = attempt();
            set_up(name, true)?;
            outcome
        }
        outcome => outcome,
    }
}

/// A MAC for the kernel's end of a net_tap port: a bridge keeps to itself what is for a MAC of one of its own ports,
/// so it must not be the director's. Locally administered, and far from the port's neighbours in numbering.
pub fn kernel_end_mac(port: Mac) -> Mac {
    let mut mac = port.0;
    mac[0] = (mac[0] & 0xfe) | 0x02;
    mac[1] ^= 0xd0;
    mac[2] ^= 0x0e;
    Mac(mac)
}

pub fn set_mtu(name: &str, mtu: u16) -> io::Result<()> {
    ask(name, libc::SIOCSIFMTU, |request| request.ifr_ifru.ifru_mtu = c_int::from(mtu), "set the MTU").map(|_| ())
}

pub fn is_up(name: &str) -> io::Result<bool> {
    Ok(flags(name)? & libc::IFF_UP as c_short != 0)
}

/// Whether it is up and its wire carries something.
pub fn is_running(name: &str) -> io::Result<bool> {
    let both = (libc::IFF_UP | libc::IFF_RUNNING) as c_short;
    Ok(flags(name)? & both == both)
}

pub fn set_up(name: &str, up: bool) -> io::Result<()> {
    let now = flags(name)?;
    let bit = libc::IFF_UP as c_short;
    let wanted = if up { now | bit } else { now & !bit };
    ask(name, libc::SIOCSIFFLAGS, |request| request.ifr_ifru.ifru_flags = wanted, "set up").map(|_| ())
}

/// The interface's first IPv4 address, with the route to its network once it is up.
pub fn set_address(name: &str, net: Ipv4Net) -> io::Result<()> {
    let address = |address: Ipv4Addr| move |request: &mut ifreq| request.ifr_ifru.ifru_addr = internet(address);
    ask(name, libc::SIOCSIFADDR, address(net.address), "set the address")?;
    let mask = address(Ipv4Addr::from(net.mask()));
    ask(name, libc::SIOCSIFNETMASK, mask, "set the network mask").map(|_| ())
}

/// A default route through the interface, which must be up. It goes away with the interface.
pub fn add_default_route(name: &str, gateway: Ipv4Addr, metric: u16) -> io::Result<()> {
    let device = CString::new(name).map_err(io::Error::other)?;
    let route = Route {
        destination: internet(Ipv4Addr::UNSPECIFIED),
        gateway: internet(gateway),
        mask: internet(Ipv4Addr::UNSPECIFIED),
        flags: ROUTE_UP | ROUTE_GATEWAY,
        // The kernel takes one off.
        metric: metric.saturating_add(1).min(i16::MAX as u16) as c_short,
        device: device.as_ptr(),
        ..Route::EMPTY
    };
    let socket = control()?;
    // SAFETY: `route` is laid out as the kernel's rtentry (asserted below), the kernel only reads it, and `device`
    // outlives the call.
    let outcome = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT as _, &route) };
    succeeded(outcome).map_err(|error| about(&format!("cannot add a default route via {gateway} on {name}"), error))
}

/// What glues received frames together before anybody sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloads {
    pub gro: bool,
    pub lro: bool,
}

/// What the driver cannot tell is off.
pub fn offloads(name: &str) -> io::Result<Offloads> {
    let unsupported_is_off = |value: io::Result<u32>| match value {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(0),
        other => other,
    };
    Ok(Offloads {
        gro: unsupported_is_off(ethtool(name, GET_GRO, 0))? != 0,
        lro: unsupported_is_off(ethtool(name, GET_FLAGS, 0))? & FLAG_LRO != 0,
    })
}

/// Changes only what is not as wanted.
pub fn set_offloads(name: &str, wanted: Offloads) -> io::Result<()> {
    let now = offloads(name)?;
    if now.gro != wanted.gro {
        ethtool(name, SET_GRO, u32::from(wanted.gro))?;
    }
    if now.lro != wanted.lro {
        let flags = ethtool(name, GET_FLAGS, 0)? & !FLAG_LRO;
        ethtool(name, SET_FLAGS, if wanted.lro { flags | FLAG_LRO } else { flags })?;
    }
    Ok(())
}

fn ethtool(name: &str, command: u32, value: u32) -> io::Result<u32> {
    /// `struct ethtool_value`.
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    let mut value = Value { command, data: value };
    let data: *mut Value = &mut value;
    // `value` outlives the call that uses the pointer, and is large enough for the commands above.
    ask(name, libc::SIOCETHTOOL, |request| request.ifr_ifru.ifru_data = data.cast(), "ask ethtool")?;
    // SAFETY: `data` points to `value`, which lives, and which the kernel has finished writing.
    Ok(unsafe { ptr::read(data) }.data)
}

fn flags(name: &str) -> io::Result<c_short> {
    let request = ask(name, libc::SIOCGIFFLAGS, |_| {}, "read the flags")?;
    // SAFETY: the kernel has filled in this member, and every bit pattern of it is a value.
    Ok(unsafe { request.ifr_ifru.ifru_flags })
}

/// One question to the kernel about the interface; gives back what it answered.
fn ask(name: &str, number: c_ulong, fill: impl FnOnce(&mut ifreq), what: &str) -> io::Result<ifreq> {
    let mut request = named(name)?;
    fill(&mut request);
    ioctl(control()?.as_raw_fd(), number, &mut request)
        .map_err(|error| about(&format!("cannot {what} of {name}"), error))?;
    Ok(request)
}

/// Only for the numbers used here: each takes an `ifreq`, and one member of it holds a pointer only for ethtool.
fn ioctl(file: RawFd, number: c_ulong, request: &mut ifreq) -> io::Result<()> {
    // SAFETY: the kernel reads and writes one `ifreq`, which `request` is; callers that put a pointer into it keep
    // what it points to alive until this returns.
    succeeded(unsafe { libc::ioctl(file, number as _, ptr::from_mut(request)) })
}

fn succeeded(outcome: c_int) -> io::Result<()> {
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn named(name: &str) -> io::Result<ifreq> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(['\0', '/', '%']) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("\"{name}\" is no name for an interface")));
    }
    // SAFETY: an `ifreq` is plain data, and all zeros is a value of it.
    let mut request: ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from as c_char);
    Ok(request)
}

/// Any socket will do to speak about interfaces.
fn control() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?)
}

/// A `sockaddr_in` without a port.
fn internet(address: Ipv4Addr) -> sockaddr {
    let mut data = [0; 14];
    data[2..6].iter_mut().zip(address.octets()).for_each(|(to, from)| *to = from as c_char);
    sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}

fn exists(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => {
            io::Error::new(io::ErrorKind::AlreadyExists, "an interface of this name exists already")
        }
        _ => error,
    }
}

/// Keeps the number of the system's error out of sight but its kind in place.
fn about(what: &str, error: io::Error) -> io::Error {
    match error.raw_os_error() {
        // The callers of ethtool look at it.
        Some(libc::EOPNOTSUPP) => error,
        _ => io::Error::new(error.kind(), format!("{what}: {error}")),
    }
}

/// `struct rtentry` of `linux/route.h`, which the libc crate does not have.
#[repr(C)]
struct Route {
    pad1: c_ulong,
    destination: sockaddr,
    gateway: sockaddr,
    mask: sockaddr,
    flags: c_ushort,
    pad2: c_short,
    pad3: c_ulong,
    pad4: *const c_void,
    metric: c_short,
    device: *const c_char,
    mtu: c_ulong,
    window: c_ulong,
    round_trip: c_ushort,
}

const _: () = assert!(size_of::<Route>() == 120 || size_of::<c_ulong>() != 8);
const _: () = assert!(std::mem::offset_of!(Route, device) == 88 || size_of::<c_ulong>() != 8);
const _: () = assert!(size_of::<c_uint>() == 4);

impl Route {
    const NOWHERE: sockaddr = sockaddr { sa_family: 0, sa_data: [0; 14] };
    const EMPTY: Route = Route {
        pad1: 0,
        destination: Route::NOWHERE,
        gateway: Route::NOWHERE,
        mask: Route::NOWHERE,
        flags: 0,
        pad2: 0,
        pad3: 0,
        pad4: ptr::null(),
        metric: 0,
        device: ptr::null(),
        mtu: 0,
        window: 0,
        round_trip: 0,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_exists_and_another_does_not() {
        assert_eq!(index("lo").unwrap(), Some(1));
        assert_eq!(index("no-such-one").unwrap(), None);
        assert_eq!(mac("lo").unwrap(), Mac::ZERO);
    }

    #[test]
    fn names_that_no_interface_can_have_are_refused() {
        for name in ["", "sixteen-is-a-lot", "a/b", "tap%d", "a\0b"] {
            assert_eq!(mac(name).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name:?}");
        }
        let error = set_mtu("no-such-one", 1500).unwrap_err();
        assert!(error.to_string().contains("cannot set the MTU of no-such-one"), "{error}");
    }

    #[test]
    fn the_kernels_end_gets_another_mac_of_its_own() {
        for port in [Mac([2, 0, 0, 0, 0, 0x10]), Mac([0xd2, 0x0e, 0, 0, 0, 0]), Mac([0, 0x1b, 0x21, 1, 2, 3])] {
            let mac = kernel_end_mac(port);
            assert!(mac != port && mac.is_unicast() && mac.0[0] & 2 != 0, "{mac}");
        }
    }
}
