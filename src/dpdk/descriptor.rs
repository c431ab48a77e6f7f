//! The descriptors behind a port. Drivers do not say which they are; the process's own table does.

use std::ffi::{c_int, c_void};
use std::fs;
use std::mem::size_of;
use std::os::fd::RawFd;

/// All descriptors of this process whose name begins so, in the order of their numbers.
fn named(prefix: &str) -> Vec<RawFd> {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let descriptor = |entry: fs::DirEntry| {
        let target = fs::read_link(entry.path()).ok()?;
        target.to_str()?.starts_with(prefix).then(|| entry.file_name().to_str()?.parse().ok())?
    };
    let mut found: Vec<RawFd> = entries.flatten().filter_map(descriptor).collect();
    found.sort_unstable();
    found
}

/// The queues of TAP interfaces.
pub(super) fn tun() -> Vec<RawFd> {
    named("/dev/net/tun")
}

/// The packet sockets that are bound to an interface.
pub(super) fn packet_sockets(interface: u32) -> Vec<RawFd> {
    let mut sockets = named("socket:");
    sockets.retain(|socket| domain(*socket) == Some(libc::AF_PACKET) && bound_to(*socket) == Some(interface));
    sockets
}

fn domain(socket: RawFd) -> Option<c_int> {
    let mut value: c_int = 0;
    let mut size = size_of::<c_int>() as libc::socklen_t;
    let into = (&raw mut value).cast::<c_void>();
    // SAFETY: writes at most `size` bytes, the size of the value.
    let result = unsafe { libc::getsockopt(socket, libc::SOL_SOCKET, libc::SO_DOMAIN, into, &mut size) };
    (result == 0).then_some(value)
}

fn bound_to(socket: RawFd) -> Option<u32> {
    // SAFETY: all zeroes is a valid address of this kind.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: writes at most `size` bytes, the size of the address.
    let result = unsafe { libc::getsockname(socket, (&raw mut address).cast(), &mut size) };
    (result == 0).then_some(address.sll_ifindex as u32)
}
