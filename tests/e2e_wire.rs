//! What droverd puts on the wire, and what it never does.
//! Runs as root or, through user namespaces, as anybody.
#![cfg(feature = "dpdk")]

mod harness;

use drover::lab::network::{DIRECTOR_ADDRESS, mac};
use drover::lab::{CLIENT, DIRECTOR, LabPort, REALS, VIP, run};
use harness::capture::{Capture, is_arp_of, is_packet, mac_text, ones_complement_sum};
use harness::{Bench, until};

const ICMP: u8 = 1;
const TCP: u8 = 6;

/// One request, seen where it leaves the client and where it arrives at the server.
fn only_the_macs_ttl_and_checksum_change(port: LabPort) {
    let bench = Bench::new();
    // The client's own capture would show checksums that are still to be filled in.
    bench.sh(CLIENT, "ethtool -K eth0 tx off >/dev/null");
    let _droverd = bench.direct(port);
    let director = bench.director_mac();
    let left = Capture::start(&bench, CLIENT, |frame| is_packet(frame, TCP, VIP));
    let arrivals = REALS.map(|real| Capture::start(&bench, real, |frame| is_packet(frame, TCP, VIP)));
    assert_eq!(run::requests(&bench.lab, 6).unwrap().failed, 0);
    let (sent, arrived) = until("every frame to be captured twice", || {
        let sent = left.frames();
        let arrived: Vec<_> = REALS.iter().zip(&arrivals).map(|(real, capture)| (real, capture.frames())).collect();
        let frames: Vec<&Vec<u8>> = arrived.iter().flat_map(|(_, frames)| frames).collect();
        // The two ends are captured one after the other, and so are not always of the same moment.
        let stranger = frames.iter().find(|frame| !sent.iter().any(|original| same_but_for_ttl(original, frame)));
        // At least SYN, ACK, the request and FIN of each.
        let complete = frames.len() >= 6 * 4 && frames.len() == sent.len() && stranger.is_none();
        let missing = || format!("{} sent, {} arrived; nobody sent {stranger:02x?}", sent.len(), frames.len());
        if complete { Ok((sent.clone(), arrived.clone())) } else { Err(missing()) }
    });
    for (real, frames) in arrived {
        for frame in frames {
            assert_eq!(mac_text(&frame[0..6]), mac(real));
            assert_eq!(mac_text(&frame[6..12]), director);
        }
    }
    for original in sent {
        assert_eq!(mac_text(&original[0..6]), director);
        assert_eq!(mac_text(&original[6..12]), mac(CLIENT));
    }
}

/// The IP packets are the same byte for byte, but for the TTL, one less, and a header checksum that is right.
fn same_but_for_ttl(sent: &[u8], arrived: &[u8]) -> bool {
    const TTL: usize = 14 + 8;
    let mut expected = sent[12..].to_vec();
    expected[TTL - 12] -= 1;
    expected[TTL - 12 + 2..TTL - 12 + 4].copy_from_slice(&arrived[TTL + 2..TTL + 4]);
    expected == arrived[12..] && ones_complement_sum(&arrived[14..34]) == 0xffff
}

#[test]
fn a_forwarded_frame_keeps_its_packet_on_a_tap() {
    only_the_macs_ttl_and_checksum_change(LabPort::Tap);
}

#[test]
fn a_forwarded_frame_keeps_its_packet_on_af_packet() {
    only_the_macs_ttl_and_checksum_change(LabPort::AfPacket);
}

/// The seed with droverd in the kernel's place: the same client, the same settings, and no redirect ever.
fn never_redirected(port: LabPort) {
    let bench = Bench::new();
    bench.kernel_forwards();
    bench.route_by_director_with_a_stale_neighbour();
    let _droverd = bench.direct(port);
    let icmp = Capture::start(&bench, CLIENT, |frame| is_packet(frame, ICMP, "10.9.0.1"));
    bench.sh(CLIENT, &format!("ping -c 3 -i 0.1 -W 2 {VIP}"));
    assert_eq!(run::requests(&bench.lab, 120).unwrap().failed, 0);
    bench.sh(CLIENT, &format!("ping -c 3 -i 0.1 -W 2 {VIP}"));
    // A way round that only the host's own kernel goes, through the TAP: it too keeps its advice to itself.
    bench.sh(CLIENT, &format!("ip route add 10.9.0.11/32 via {DIRECTOR_ADDRESS}"));
    bench.sh(CLIENT, "ping -c 3 -i 0.1 10.9.0.11");
    for address in [VIP, "10.9.0.11"] {
        let route = bench.sh(CLIENT, &format!("ip route get {address}"));
        assert!(route.contains("via 10.9.0.10") && !route.contains("redirected"), "{route}");
    }
    // The answers to the pings, and nothing else.
    for frame in icmp.wait_for(9) {
        assert_eq!(frame[14 + 20], 0, "{frame:02x?}");
    }
}

#[test]
fn the_seed_with_drover_on_a_tap_the_client_keeps_the_virtual_address() {
    never_redirected(LabPort::Tap);
}

#[test]
fn the_seed_with_drover_on_af_packet_the_client_keeps_the_virtual_address() {
    never_redirected(LabPort::AfPacket);
}

#[test]
fn the_virtual_address_is_the_directors_and_stays_it() {
    let bench = Bench::new();
    let _droverd = bench.direct(LabPort::Tap);
    let director = bench.director_mac();
    for _ in 0..3 {
        assert_eq!(run::requests(&bench.lab, 60).unwrap().failed, 0);
        assert_eq!(bench.neighbour(CLIENT, VIP).as_deref(), Some(&*director));
        // The servers talk too: to each other, and to the client, by their own addresses.
        bench.sh(REALS[0], "ping -c 1 -W 2 10.9.0.1; ping -c 1 -W 2 10.9.0.12");
        bench.sh(CLIENT, "ip neigh flush dev eth0");
    }
    assert!(bench.lab.status().unwrap().warnings.is_empty());
}

#[test]
fn somebody_else_who_claims_the_virtual_address_is_reported() {
    let bench = Bench::new();
    let _droverd = bench.direct(LabPort::Tap);
    // A server with the VIP on its card, which says so to everybody when it gets another MAC.
    let thief = "02:00:0a:09:00:cc";
    bench.sh(REALS[1], &format!("ip addr add {VIP}/32 dev eth0; echo 1 > /proc/sys/net/ipv4/conf/eth0/arp_notify"));
    bench.sh(REALS[1], &format!("ip link set eth0 address {thief}"));
    until("a warning", || {
        let warnings = bench.lab.status().map_err(|error| error.to_string())?.warnings;
        let named = warnings.iter().any(|warning| warning.contains(VIP) && warning.contains(thief));
        if named { Ok(()) } else { Err(format!("{warnings:?}")) }
    });
}

/// The first classic: a real server that answers ARP for the virtual address. It answers whoever asks, and so the
/// director asks.
#[test]
fn a_real_server_that_answers_for_the_virtual_address_is_reported() {
    let bench = Bench::new();
    bench.sh(REALS[1], "sysctl -qw net.ipv4.conf.all.arp_ignore=0 net.ipv4.conf.eth0.arp_ignore=0");
    let _droverd = bench.direct(LabPort::Tap);
    let culprit = mac(REALS[1]);
    until("a warning", || {
        let warnings = bench.lab.status().map_err(|error| error.to_string())?.warnings;
        let named = warnings.iter().any(|warning| warning.contains(VIP) && warning.contains(&culprit));
        if named { Ok(()) } else { Err(format!("{warnings:?}")) }
    });
}

/// Every ping is answered once: not by the kernel and by droverd.
fn pings_are_answered_once(port: LabPort) {
    let bench = Bench::new();
    let _droverd = bench.direct(port);
    for address in [VIP, "10.9.0.10"] {
        bench.pings_are_answered_once(address);
    }
}

#[test]
fn pings_are_answered_once_on_a_tap() {
    pings_are_answered_once(LabPort::Tap);
}

#[test]
fn pings_are_answered_once_on_af_packet() {
    pings_are_answered_once(LabPort::AfPacket);
}

/// Nobody on the wire ever saw a wrong TCP checksum.
fn checksums_are_right(port: LabPort) {
    let bench = Bench::new();
    let _droverd = bench.direct(port);
    bench.serve_from_director();
    assert_eq!(run::requests(&bench.lab, 120).unwrap().failed, 0);
    for _ in 0..5 {
        assert_eq!(bench.get(CLIENT, "http://10.9.0.10:8080/").unwrap().trim(), DIRECTOR);
    }
    for host in [CLIENT, DIRECTOR, REALS[0], REALS[1], REALS[2]] {
        assert_eq!(bench.kernel_counter(host, "Tcp", "InCsumErrors"), 0, "{host}");
        assert_eq!(bench.kernel_counter(host, "Icmp", "InCsumErrors"), 0, "{host}");
    }
    assert!(bench.kernel_counter(DIRECTOR, "Tcp", "InSegs") > 0);
}

#[test]
fn checksums_are_right_on_a_tap() {
    checksums_are_right(LabPort::Tap);
}

#[test]
fn checksums_are_right_on_af_packet() {
    checksums_are_right(LabPort::AfPacket);
}

#[test]
fn the_director_says_what_it_holds_when_it_starts() {
    let bench = Bench::new();
    let announcements = Capture::start(&bench, CLIENT, |frame| is_arp_of(frame, VIP));
    let _droverd = bench.direct(LabPort::Tap);
    let director = bench.director_mac();
    for frame in announcements.wait_for(1) {
        assert_eq!(mac_text(&frame[6..12]), director);
    }
}
