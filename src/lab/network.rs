//! The lab's wires: a switch, and on it the client, the director and the three real servers.
//!
//! ```text
//!  client 10.9.0.1 ──┐                ┌── real1 10.9.0.11
//!                    ├─── switch ─────┼── real2 10.9.0.12     the VIP 10.9.0.100 on each lo
//!  director 10.9.0.10┘                └── real3 10.9.0.13
//! ```

use super::error::{LabError, Result};
use super::{Lab, LabPort};

pub const CLIENT: &str = "client";
pub const DIRECTOR: &str = "director";
pub const SWITCH: &str = "switch";
pub const REALS: [&str; 3] = ["real1", "real2", "real3"];
pub const HOSTS: [&str; 6] = [CLIENT, DIRECTOR, SWITCH, REALS[0], REALS[1], REALS[2]];
pub const VIP: &str = "10.9.0.100";
pub const DIRECTOR_ADDRESS: &str = "10.9.0.10";

/// The last byte of a host's address, and of the MAC on its end of the wire.
fn number(host: &str) -> u8 {
    match host {
        CLIENT => 1,
        DIRECTOR => 10,
        "real1" => 11,
        "real2" => 12,
        "real3" => 13,
        _ => 250,
    }
}

pub fn address(host: &str) -> String {
    format!("10.9.0.{}", number(host))
}

/// Fixed, so that two runs show the same.
pub fn mac(host: &str) -> String {
    format!("02:00:0a:09:00:{:02x}", number(host))
}

pub fn known_host(host: &str) -> Result<()> {
    if HOSTS.contains(&host) {
        return Ok(());
    }
    Err(LabError::new(format!("no host {host:?} in the lab; there are {}", HOSTS.join(", "))))
}

pub fn build(lab: &Lab) -> Result<()> {
    for host in HOSTS {
        let mut add = lab.holder.inside(lab.path());
        super::error::output(add.args(["ip", "netns", "add", host]), "ip netns add")?;
        lab.sh(host, QUIET)?;
        if host != DIRECTOR {
            lab.sh(host, DISCREET)?;
        }
    }
    lab.sh(
        SWITCH,
        "ip link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0 ageing_time 30000; ip link set br0 up",
    )?;
    for host in HOSTS.into_iter().filter(|host| *host != SWITCH) {
        lab.sh(SWITCH, &cable(host))?;
        lab.sh(host, "ip link set eth0 up")?;
    }
    for host in [CLIENT].into_iter().chain(REALS) {
        lab.sh(host, &format!("ip addr add {}/24 dev eth0", address(host)))?;
    }
    for real in REALS {
        lab.sh(real, &format!("ip addr add {VIP}/32 dev lo"))?;
    }
    Ok(())
}

/// A host that sends nothing by itself, and settings that do not depend on the machine's own.
const QUIET: &str = "
    cd /proc/sys/net
    [ ! -d ipv6 ] || for name in all default; do echo 1 > ipv6/conf/$name/disable_ipv6; done
    echo 0 > ipv4/ip_forward
    # A switch passes on whatever comes, and does not judge IP packets by the machine's iptables.
    for name in bridge/bridge-nf-call-*; do [ ! -w $name ] || echo 0 > $name; done
    for name in all default; do
        echo 0 > ipv4/conf/$name/rp_filter
        echo 0 > ipv4/conf/$name/arp_ignore
        echo 0 > ipv4/conf/$name/arp_announce
        echo 1 > ipv4/conf/$name/send_redirects
    done
    ip link set lo up";

/// As every real server in direct routing needs it: it does not say that the VIP is its own (arp_ignore), nor ask for
/// others in the VIP's name (arp_announce). The director is left as a machine comes: drover has to be right there.
const DISCREET: &str = "
    cd /proc/sys/net/ipv4/conf
    for name in all default; do echo 1 > $name/arp_ignore; echo 2 > $name/arp_announce; done";

fn cable(host: &str) -> String {
    format!(
        "ip link add {host} type veth peer name eth0 netns {host} address {mac};
         ip link set {host} master br0 up",
        mac = mac(host)
    )
}

/// Prepares the director's end of the wire for a port of this kind, before droverd starts.
pub fn prepare_port(lab: &Lab, port: LabPort) -> Result<()> {
    match port {
        // The bridge's own interface answers nothing: no addresses, and no ARP for those of other interfaces.
        LabPort::Tap => lab.sh(
            DIRECTOR,
            "ip link show wire >/dev/null 2>&1 || {
                 ip link add wire type bridge stp_state 0 forward_delay 0 mcast_snooping 0
                 ip link set wire arp off
                 ip link set eth0 master wire
             }
             ip link set wire up",
        ),
        // A veth's peer leaves checksums and segmentation to a card that is not there; droverd would see the halves.
        LabPort::AfPacket => lab.sh(SWITCH, &format!("ethtool -K {DIRECTOR} tx off >/dev/null")),
    }?;
    Ok(())
}

/// After droverd has made its TAP: plugs the kernel's end into the wire.
pub fn plug_tap(lab: &Lab, tap: &str) -> Result<()> {
    lab.sh(DIRECTOR, &format!("ip link set {tap} master wire up")).map(drop)
}
