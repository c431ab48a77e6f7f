//! Whether this process may do what it has to.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::fs::Access;

use super::{Machine, Problem};
use crate::config::{Config, Device};

const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;

pub(super) fn check(config: &Config, machine: &Machine, problems: &mut Vec<Problem>) {
    if !machine.capable(CAP_NET_ADMIN) {
        let what = "no permission to make network interfaces (CAP_NET_ADMIN)";
        problems.push(Problem::new(what, "start droverd as root, or in a network namespace of your own: drover lab"));
    }
    let packet_sockets = config.ports.iter().any(|port| matches!(port.device, Device::AfPacket(_)));
    if packet_sockets && !machine.capable(CAP_NET_RAW) {
        let what = "no permission for packet sockets (CAP_NET_RAW), which af_packet ports need";
        problems.push(Problem::new(what, "start droverd as root, or in a network namespace of your own: drover lab"));
    }
    tun(&machine.dev.join("net/tun"), problems);
    socket(&config.control.socket, problems);
}

fn tun(file: &Path, problems: &mut Vec<Problem>) {
    let Err(error) = OpenOptions::new().read(true).write(true).open(file) else {
        return;
    };
    let remedy = match error.kind() {
        ErrorKind::NotFound => "modprobe tun, and in a container pass /dev/net/tun on",
        _ => "start droverd as root, or chmod 0666 /dev/net/tun as most distributions have it",
    };
    problems
        .push(Problem::new(format!("{} cannot be opened, and every port has a TAP: {error}", file.display()), remedy));
}

fn socket(socket: &Path, problems: &mut Vec<Problem>) {
    if socket.symlink_metadata().is_ok_and(|there| !there.file_type().is_socket()) {
        let what = format!("control.socket: {} is there and is no socket", socket.display());
        problems.push(Problem::new(what, "set another path under [control], or move that file away"));
    }
    // What does not exist yet is made; what exists decides.
    let Some(directory) = socket.ancestors().skip(1).find(|directory| directory.symlink_metadata().is_ok()) else {
        return;
    };
    if !directory.is_dir() {
        let what = format!("control.socket: {} is no directory", directory.display());
        problems.push(Problem::new(what, "set another path under [control]"));
    } else if rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        let what = format!("control.socket: no permission to write in {}", directory.display());
        problems.push(Problem::new(what, "start droverd as root, or set a path under [control] that is yours"));
    }
}
