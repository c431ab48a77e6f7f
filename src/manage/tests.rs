use super::*;
use etherparse::{ArpOperation, Icmpv4Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use crate::verdict::Answer;

const OURS: Mac = Mac([2, 0, 0, 0, 0, 0x10]);
const CLIENT_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x01]);
const REAL_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x11]);
const LIAR: Mac = Mac([2, 0, 0, 0, 0, 0x66]);
const OWN: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 10);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const REAL: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 11);
const NOW: Now = Now::from_secs(100);

fn config() -> ManageConfig {
    ManageConfig {
        ports: vec![ManagePort {
            name: "lan0".into(),
            mac: OURS,
            address: Ipv4Net { address: OWN, prefix: 24 },
            mtu: 1500,
        }],
        virtual_addresses: vec![VIP],
        virtual_networks: Vec::new(),
        wanted: vec![Wanted { port: 0, address: REAL, mac: None }],
        peers: vec![],
        echo_rate: Rate { per_second: 1_000, burst: 10 },
        arp_rate: Rate { per_second: 1_000, burst: 20 },
        reset_rate: Rate { per_second: 1_000, burst: 30 },
        error_rate: Rate { per_second: 1_000, burst: 5 },
        seed: 1,
    }
}

fn manager() -> Manager {
    Manager::new(&config(), NOW)
}

fn handle(manager: &mut Manager, frame: &[u8]) -> Vec<Out> {
    let mut out = Vec::new();
    manager.handle(NOW, 0, frame, &mut out);
    out
}

fn tick(manager: &mut Manager, now: Now) -> Vec<Out> {
    let mut out = Vec::new();
    manager.tick(now, &[true], &mut out);
    out
}

/// Link up, and the real was asked for at [`NOW`].
fn asking() -> Manager {
    let mut manager = manager();
    tick(&mut manager, NOW);
    manager
}

fn arp_frame(operation: Operation, mac: Mac, sender: Ipv4Addr, target: Ipv4Addr, destination: Mac) -> Vec<u8> {
    Arp { operation, sender_mac: mac, sender, target_mac: OURS, target }.frame(destination, mac)
}

fn question(sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    arp::request(CLIENT_MAC, sender, target, None)
}

fn answer(sender: Ipv4Addr, mac: Mac) -> Vec<u8> {
    arp_frame(Operation::Reply, mac, sender, OWN, OURS)
}

fn ping(destination: Ipv4Addr) -> Vec<u8> {
    ping_from(CLIENT, destination)
}

fn ping_from(source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(CLIENT_MAC.0, OURS.0).ipv4(source.octets(), destination.octets(), 64);
    builder.icmpv4_echo_request(1, 2).write(&mut frame, b"payload").unwrap();
    frame
}

/// What the judge reads in the only frame that was sent: operation, sender, target.
fn sent_arp(out: &[Out]) -> (ArpOperation, Mac, Ipv4Addr, Ipv4Addr, Mac) {
    let [Out::Send { port: 0, frame }] = out else { panic!("not one frame: {out:?}") };
    read_arp(frame)
}

fn read_arp(frame: &[u8]) -> (ArpOperation, Mac, Ipv4Addr, Ipv4Addr, Mac) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(etherparse::LinkSlice::Ethernet2(link)) = &packet.link else { panic!("no Ethernet") };
    assert_eq!(link.source(), OURS.0);
    let Some(NetSlice::Arp(arp)) = &packet.net else { panic!("no ARP") };
    let arp = arp.to_packet().try_eth_ipv4().unwrap();
    let destination = Mac(link.destination());
    (arp.operation, Mac(arp.sender_mac), arp.sender_ipv4.into(), arp.target_ipv4.into(), destination)
}

const TO_HOST: [Out; 1] = [Out::Host { port: 0 }];

#[test]
fn answers_arp_for_virtual_addresses_and_its_own() {
    let mut manager = manager();
    for (asker, target) in [(CLIENT, VIP), (CLIENT, OWN), (Ipv4Addr::UNSPECIFIED, VIP)] {
        let out = handle(&mut manager, &question(asker, target));
        assert_eq!(sent_arp(&out), (ArpOperation::REPLY, OURS, target, asker, CLIENT_MAC));
    }
    assert_eq!(manager.stats().arp_replies, 3);
}

/// A priority tag (VLAN 0) is no VLAN: what is for a virtual address behind one is ours, and never the kernel's.
#[test]
fn a_priority_tag_hides_nothing_from_us() {
    let mut manager = manager();
    let tagged = |frame: Vec<u8>| [&frame[..12], &[0x81, 0, 0xe0, 0], &frame[12..]].concat();
    let out = handle(&mut manager, &tagged(question(CLIENT, VIP)));
    assert_eq!(sent_arp(&out).0, ArpOperation::REPLY);
    let out = handle(&mut manager, &tagged(ping(VIP)));
    assert!(matches!(out.as_slice(), [Out::Send { .. }]), "{out:?}");
    assert_eq!(handle(&mut manager, &tagged(ping(OWN))), TO_HOST);
}

#[test]
fn other_questions_go_to_the_host() {
    let mut manager = manager();
    assert_eq!(handle(&mut manager, &question(CLIENT, REAL)), TO_HOST);
    assert_eq!(handle(&mut manager, &question(CLIENT, CLIENT)), TO_HOST, "an announcement of its own address");
    assert_eq!(manager.stats().ignored, 0);
}

#[test]
fn senders_that_cannot_be_are_not_answered() {
    let mut manager = manager();
    for sender in [Ipv4Addr::BROADCAST, Ipv4Addr::new(224, 0, 0, 1), Ipv4Addr::LOCALHOST, Ipv4Addr::new(10, 9, 0, 255)]
    {
        assert_eq!(handle(&mut manager, &question(sender, VIP)), [], "{sender}");
    }
    for mac in [Mac::ZERO, Mac::BROADCAST, Mac([1, 0, 0x5e, 0, 0, 1]), OURS] {
        let mut frame = question(CLIENT, VIP);
        frame[22..28].copy_from_slice(&mac.0);
        assert_eq!(handle(&mut manager, &frame), [], "{mac}");
    }
    let mut to_another = question(CLIENT, VIP);
    to_another[..6].copy_from_slice(&REAL_MAC.0);
    assert_eq!(handle(&mut manager, &to_another), []);
    assert_eq!(manager.stats().ignored, 9);
}

#[test]
fn answers_a_ping_of_a_virtual_address_and_leaves_its_own_to_the_host() {
    let mut manager = manager();
    let out = handle(&mut manager, &ping(VIP));
    let [Out::Send { port: 0, frame }] = out.as_slice() else { panic!("{out:?}") };
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Icmpv4(icmp)) = packet.transport else { panic!("no ICMP") };
    assert!(matches!(icmp.icmp_type(), Icmpv4Type::EchoReply(_)));
    assert_eq!(icmp.payload(), b"payload");
    assert_eq!(handle(&mut manager, &ping(OWN)), TO_HOST, "once");
    assert_eq!(manager.stats().echo_replies, 1);
}

#[test]
fn nothing_else_for_a_virtual_address_reaches_the_host() {
    let mut manager = manager();
    let mut icmp_error = ping(VIP);
    icmp_error[34] = 3;
    let mut tcp = Vec::new();
    let builder = PacketBuilder::ethernet2(CLIENT_MAC.0, OURS.0).ipv4(CLIENT.octets(), VIP.octets(), 64);
    builder.tcp(1234, 80, 1, 1024).write(&mut tcp, &[]).unwrap();
    let broken = &tcp[..30];
    for frame in [&icmp_error[..], &tcp, broken, &ping_from(VIP, VIP), &ping_from(OWN, VIP), &[0; 13], &[]] {
        assert_eq!(handle(&mut manager, frame), []);
    }
    assert_eq!(handle(&mut manager, &ping_from(Ipv4Addr::new(10, 9, 0, 255), VIP)), [], "smurf");
    assert_eq!(manager.stats().ignored, 8);
}

#[test]
fn what_is_not_ip_goes_to_the_host() {
    let mut frame = vec![0; 60];
    frame[12..14].copy_from_slice(&[0x88, 0xcc]);
    assert_eq!(handle(&mut manager(), &frame), TO_HOST);
}

#[test]
fn an_answer_to_our_question_teaches_and_the_host_hears_it_too() {
    let mut manager = asking();
    let out = handle(&mut manager, &answer(REAL, REAL_MAC));
    let [Out::Neighbour(real), Out::Host { port: 0 }] = out.as_slice() else { panic!("{out:?}") };
    assert_eq!((real.address, real.state, real.mac), (REAL, NeighbourState::Resolved, Some(REAL_MAC)));
    assert_eq!(handle(&mut manager, &answer(REAL, LIAR)), TO_HOST, "nobody asked any more");
    assert_eq!(manager.neighbour(0, REAL).unwrap().mac, Some(REAL_MAC));
    assert_eq!(handle(&mut manager, &answer(CLIENT, CLIENT_MAC)), TO_HOST, "the kernel's own neighbour");
    assert_eq!(manager.neighbours().count(), 1);
}

#[test]
fn an_answer_to_a_virtual_address_is_nobodys() {
    let mut manager = asking();
    assert_eq!(handle(&mut manager, &arp_frame(Operation::Reply, REAL_MAC, REAL, VIP, OURS)), []);
    assert_eq!(manager.neighbour(0, REAL).unwrap().mac, None);
}

#[test]
fn claims_that_nobody_asked_for_teach_nothing() {
    let mut manager = asking();
    for frame in [
        arp_frame(Operation::Reply, LIAR, REAL, OWN, Mac::BROADCAST),
        arp_frame(Operation::Reply, LIAR, REAL, REAL, Mac::BROADCAST),
        arp_frame(Operation::Reply, LIAR, REAL, CLIENT, OURS),
        arp::announcement(LIAR, REAL),
        arp::request(LIAR, REAL, OWN, None),
    ] {
        handle(&mut manager, &frame);
        assert_eq!(manager.neighbour(0, REAL).unwrap().state, NeighbourState::Resolving);
    }
}

#[test]
fn an_answer_with_an_impossible_mac_is_refused_and_reported() {
    for mac in [Mac::BROADCAST, Mac::ZERO, OURS] {
        let mut manager = asking();
        let mut frame = answer(REAL, mac);
        frame[6..12].copy_from_slice(&LIAR.0);
        let refused = Out::Event(Event::AnswerRefused { port: 0, address: REAL, mac });
        assert_eq!(handle(&mut manager, &frame), [refused]);
        assert_eq!(manager.neighbour(0, REAL).unwrap().mac, None);
        frame[28..32].copy_from_slice(&CLIENT.octets());
        assert_eq!(handle(&mut manager, &frame), [], "nor does the host hear it");
    }
}

#[test]
fn somebody_else_with_our_address_is_reported_and_never_reaches_the_host() {
    let claims = [
        arp::announcement(LIAR, VIP),
        arp_frame(Operation::Reply, LIAR, VIP, OWN, OURS),
        arp_frame(Operation::Reply, LIAR, VIP, VIP, Mac::BROADCAST),
        arp::request(LIAR, VIP, CLIENT, None),
        arp::announcement(LIAR, OWN),
        arp_frame(Operation::Reply, LIAR, OWN, OWN, Mac::BROADCAST),
    ];
    for (number, frame) in claims.iter().enumerate() {
        let mut manager = asking();
        let out = handle(&mut manager, frame);
        let [Out::Event(Event::Conflict(conflict))] = out.as_slice() else { panic!("{number}: {out:?}") };
        assert_eq!(conflict.mac, LIAR);
        assert_eq!(handle(&mut manager, frame), [], "reported once");
        assert_eq!(manager.stats().conflicts, 2);
        let warnings = manager.warnings(NOW + Duration::from_secs(7));
        let address = if number < 4 { VIP } else { OWN };
        assert_eq!(warnings, [format!("port lan0: {LIAR} claims {address}, which is ours (for 7 s)")]);
    }
}

#[test]
fn a_real_that_asks_in_the_virtual_addresss_name_is_a_conflict_and_still_gets_its_answer() {
    let out = handle(&mut manager(), &arp::request(REAL_MAC, VIP, OWN, None));
    assert!(matches!(out[0], Out::Event(Event::Conflict(_))));
    assert_eq!(sent_arp(&out[1..]), (ArpOperation::REPLY, OURS, OWN, VIP, REAL_MAC));
}

#[test]
fn peers_and_our_own_words_are_no_conflict() {
    let mut manager = Manager::new(&ManageConfig { peers: vec![LIAR], ..config() }, NOW);
    assert_eq!(handle(&mut manager, &arp::announcement(LIAR, VIP)), []);
    assert_eq!(handle(&mut manager, &arp::announcement(OURS, VIP)), []);
    let mut reflected = arp::announcement(OURS, VIP);
    reflected[6..12].copy_from_slice(&CLIENT_MAC.0);
    assert_eq!(handle(&mut manager, &reflected), [], "it names our MAC");
    let mut virtual_mac = arp::announcement(CLIENT_MAC, VIP);
    virtual_mac[6..12].copy_from_slice(&OURS.0);
    assert_eq!(handle(&mut manager, &virtual_mac), [], "it comes from our port");
    assert_eq!(manager.stats().conflicts, 0);
}

#[test]
fn answers_are_limited() {
    let mut manager = manager();
    let pings = (0..100).filter(|_| !handle(&mut manager, &ping(VIP)).is_empty()).count();
    let questions = (0..100).filter(|_| !handle(&mut manager, &question(CLIENT, VIP)).is_empty()).count();
    assert_eq!((pings, questions), (10, 20));
    assert_eq!(manager.stats().rate_limited, 170);
}

fn tcp_ack(port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(CLIENT_MAC.0, OURS.0).ipv4(CLIENT.octets(), VIP.octets(), 64);
    builder.tcp(port, 80, 1, 1024).ack(77).write(&mut frame, &[]).unwrap();
    frame
}

/// 1,500 bytes that must not be cut.
fn datagram(source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
    let mut ip = etherparse::Ipv4Header::new(0, 64, etherparse::IpNumber::UDP, source.octets(), destination.octets());
    ip.as_mut().unwrap().dont_fragment = true;
    let ip = etherparse::IpHeaders::Ipv4(ip.unwrap(), Default::default());
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC.0, OURS.0).ip(ip).udp(1, 2).write(&mut frame, &[0; 1472]).unwrap();
    frame
}

fn refuse(manager: &mut Manager, kind: Answer, frame: &[u8]) -> Vec<Out> {
    let mut out = Vec::new();
    manager.refuse(NOW, 0, kind, frame, &mut out);
    out
}

/// What the judge reads in the only frame that was sent, in the virtual address's name.
fn sent_answer(out: &[Out]) -> TransportSlice<'_> {
    let [Out::Send { port: 0, frame }] = out else { panic!("not one frame: {out:?}") };
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(etherparse::LinkSlice::Ethernet2(link)) = &packet.link else { panic!("no Ethernet") };
    assert_eq!((link.source(), link.destination()), (OURS.0, CLIENT_MAC.0));
    let Some(NetSlice::Ipv4(ip)) = &packet.net else { panic!("no IPv4") };
    assert_eq!((ip.header().source(), ip.header().destination()), (VIP.octets(), CLIENT.octets()));
    packet.transport.unwrap()
}

#[test]
fn senders_are_told_each_kind_is_limited_and_counted() {
    let mut manager = manager();
    let out = refuse(&mut manager, Answer::Reset, &tcp_ack(1000));
    let TransportSlice::Tcp(tcp) = sent_answer(&out) else { panic!("no TCP") };
    assert!(tcp.rst() && tcp.sequence_number() == 77 && tcp.destination_port() == 1000);
    let datagram = datagram(CLIENT, VIP);
    for (kind, expected) in
        [(Answer::PortUnreachable, (3, 3)), (Answer::ClosedPort, (3, 3)), (Answer::TimeExceeded, (11, 0))]
    {
        let out = refuse(&mut manager, kind, &datagram);
        let TransportSlice::Icmpv4(icmp) = sent_answer(&out) else { panic!("no ICMP") };
        assert_eq!((icmp.type_u8(), icmp.code_u8()), expected);
    }
    for kind in [Answer::Reset, Answer::PortUnreachable, Answer::ClosedPort, Answer::TimeExceeded] {
        let frame = if kind == Answer::Reset { tcp_ack(2000) } else { datagram.clone() };
        (0..100).for_each(|_| drop(refuse(&mut manager, kind, &frame)));
    }
    let stats = manager.stats();
    assert_eq!((stats.resets, stats.resets_limited), (30, 71));
    assert_eq!((stats.port_unreachable, stats.port_unreachable_limited), (5, 197));
    assert_eq!((stats.time_exceeded, stats.time_exceeded_limited), (5, 96));
    assert_eq!((stats.ignored, stats.rate_limited, stats.fragmentation_needed), (0, 0, 0));
    assert!(!handle(&mut manager, &ping(VIP)).is_empty(), "others have limits of their own");
}

#[test]
fn fragmentation_needed_tells_the_mtu_of_the_port_that_leads_to_the_real() {
    let narrow = ManagePort { mac: LIAR, mtu: 1280, ..config().ports[0].clone() };
    let config = ManageConfig { ports: vec![config().ports[0].clone(), narrow], ..config() };
    let mut manager = Manager::new(&config, NOW);
    let frame = datagram(CLIENT, VIP);
    let out = refuse(&mut manager, Answer::FragmentationNeeded { egress: 1 }, &frame);
    let TransportSlice::Icmpv4(icmp) = sent_answer(&out) else { panic!("no ICMP") };
    assert_eq!((icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8()), (3, 4, [0, 0, 5, 0]));
    for egress in [0, 2] {
        assert_eq!(refuse(&mut manager, Answer::FragmentationNeeded { egress }, &frame), [], "it fits; no such port");
    }
    let stats = manager.stats();
    assert_eq!((stats.fragmentation_needed, stats.fragmentation_needed_limited, stats.ignored), (1, 0, 2));
}

#[test]
fn nobody_else_is_told_anything() {
    let mut manager = manager();
    let broadcast = Ipv4Addr::new(10, 9, 0, 255);
    let mut frames: Vec<Vec<u8>> =
        [(VIP, VIP), (OWN, VIP), (broadcast, VIP), (CLIENT, OWN), (CLIENT, broadcast), (Ipv4Addr::LOCALHOST, VIP)]
            .map(|(source, destination)| datagram(source, destination))
            .into();
    for (at, mac) in [(0, REAL_MAC), (0, Mac::BROADCAST), (6, OURS), (6, Mac::BROADCAST), (6, Mac::ZERO)] {
        let mut frame = datagram(CLIENT, VIP);
        frame[at..at + 6].copy_from_slice(&mac.0);
        frames.push(frame);
    }
    frames.extend([vec![], vec![0; 13], datagram(CLIENT, VIP)[..40].to_vec(), question(CLIENT, VIP)]);
    for frame in &frames {
        for kind in [Answer::PortUnreachable, Answer::TimeExceeded, Answer::Reset] {
            assert_eq!(refuse(&mut manager, kind, frame), [], "{frame:02x?}");
        }
    }
    let mut out = Vec::new();
    manager.refuse(NOW, 7, Answer::TimeExceeded, &datagram(CLIENT, VIP), &mut out);
    assert_eq!((out, manager.stats().ignored), (vec![], frames.len() as u64 * 3 + 1));
}

#[test]
fn link_up_announces_and_asks_in_the_ports_name() {
    let mut manager = manager();
    let mut out = Vec::new();
    manager.tick(NOW, &[false], &mut out);
    assert_eq!(out, [], "no link yet");
    let out = tick(&mut manager, NOW);
    let [Out::Event(Event::LinkUp { port: 0 }), rest @ ..] = out.as_slice() else { panic!("{out:?}") };
    let sent: Vec<_> = rest.iter().map(|each| sent_arp(std::slice::from_ref(each))).collect();
    let announced = |address| (ArpOperation::REQUEST, OURS, address, address, Mac::BROADCAST);
    let asked = (ArpOperation::REQUEST, OURS, OWN, REAL, Mac::BROADCAST);
    let who_else = (ArpOperation::REQUEST, OURS, OWN, VIP, Mac::BROADCAST);
    assert_eq!(sent, [announced(OWN), announced(VIP), who_else, asked]);
    assert_eq!((manager.stats().gratuitous_arps, manager.stats().arp_requests), (2, 2));
}

/// A real without `arp_ignore` answers whoever asks for the virtual address, and only him: so we ask.
#[test]
fn a_real_that_answers_for_the_virtual_address_is_found_out() {
    let mut manager = manager();
    let out = tick(&mut manager, NOW);
    let asks =
        |each: &&Out| matches!(each, Out::Send { frame, .. } if read_arp(frame).3 == VIP && read_arp(frame).2 == OWN);
    let Some(Out::Send { frame, .. }) = out.iter().find(asks) else { panic!("{out:?}") };
    let question = arp::Arp::parse(&frame[14..]).unwrap();
    let out = handle(&mut manager, &arp::reply(&question, LIAR));
    let [Out::Event(Event::Conflict(conflict))] = out.as_slice() else { panic!("{out:?}") };
    assert_eq!((conflict.address, conflict.mac), (VIP, LIAR));
    assert_eq!(manager.warnings(NOW), [format!("port lan0: {LIAR} claims {VIP}, which is ours (for 0 s)")]);
}

#[test]
fn whoever_follows_the_deadlines_hears_of_a_silent_real_after_three_questions() {
    let mut manager = manager();
    let mut now = NOW;
    let mut asked = 0;
    let silent = loop {
        let out = tick(&mut manager, now);
        asked += out.iter().filter(|each| matches!(each, Out::Send { frame, .. } if read_arp(frame).3 == REAL)).count();
        let changed = out.into_iter().find_map(|each| match each {
            Out::Neighbour(neighbour) => Some(neighbour),
            _ => None,
        });
        if let Some(neighbour) = changed {
            break neighbour;
        }
        let next = manager.next_deadline();
        assert!(next > now && next < NOW + Duration::from_secs(10), "{next:?}");
        now = next;
    };
    assert_eq!((silent.state, asked, now), (NeighbourState::Unreachable, 3, NOW + Duration::from_secs(3)));
    let warnings = manager.warnings(now + Duration::from_secs(5));
    assert_eq!(warnings, ["port lan0: 10.9.0.11 does not answer ARP (for 5 s)"]);
}

#[test]
fn a_lost_link_is_told_and_asks_nothing() {
    let mut manager = asking();
    let mut out = Vec::new();
    manager.tick(NOW + Duration::from_secs(1), &[false], &mut out);
    assert_eq!(out, [Out::Event(Event::LinkDown { port: 0 })]);
}

#[test]
fn ten_thousand_addresses_and_reals_are_spoken_of_at_a_bounded_pace() {
    let addresses =
        |network: u8| (0..10_000u16).map(move |number| Ipv4Addr::new(10, network, (number >> 8) as u8, number as u8));
    let port = ManagePort {
        name: "lan0".into(),
        mac: OURS,
        address: Ipv4Net { address: Ipv4Addr::new(10, 0, 255, 254), prefix: 8 },
        mtu: 1500,
    };
    let wanted = addresses(2).map(|address| Wanted { port: 0, address, mac: None }).collect();
    let config = ManageConfig { ports: vec![port], virtual_addresses: addresses(1).collect(), wanted, ..config() };
    let mut manager = Manager::new(&config, NOW);
    let mut now = NOW;
    let mut most = 0;
    while now < NOW + Duration::from_secs(13) {
        most = most.max(tick(&mut manager, now).len());
        let next = manager.next_deadline();
        assert!(next > now);
        now = next;
    }
    assert!(most <= 2 * 128 + 256 + 1, "{most} at once");
    assert!(manager.stats().gratuitous_arps >= 30_000, "{:?}", manager.stats());
    assert!(manager.neighbours().all(|each| each.state == NeighbourState::Unreachable));
    assert_eq!(manager.warnings(now).len(), WARNINGS + 1);
}

#[test]
fn a_virtual_address_is_held_where_its_network_is() {
    let second = ManagePort {
        name: "lan1".into(),
        mac: Mac([2, 0, 0, 0, 1, 0x10]),
        address: Ipv4Net { address: Ipv4Addr::new(10, 8, 0, 10), prefix: 24 },
        mtu: 9000,
    };
    let routed = Ipv4Addr::new(192, 0, 2, 1);
    let config = ManageConfig {
        ports: vec![config().ports[0].clone(), second],
        virtual_addresses: vec![VIP, routed],
        ..config()
    };
    let mut manager = Manager::new(&config, NOW);
    let mut answered = |port, target| {
        let mut out = Vec::new();
        manager.handle(NOW, port, &question(Ipv4Addr::UNSPECIFIED, target), &mut out);
        assert!(!out.contains(&Out::Host { port }));
        !out.is_empty()
    };
    assert_eq!((answered(0, VIP), answered(1, VIP)), (true, false));
    assert_eq!((answered(0, routed), answered(1, routed)), (true, true));
}

#[test]
fn another_configuration_is_answered_for_announced_and_asked_for() {
    let mut manager = asking();
    let new = Ipv4Addr::new(10, 9, 0, 101);
    assert!(!handle(&mut manager, &question(CLIENT, new)).iter().any(|out| matches!(out, Out::Send { .. })));
    handle(&mut manager, &arp_frame(Operation::Request, LIAR, VIP, CLIENT, Mac::BROADCAST));
    assert_eq!(manager.conflicts(NOW).count(), 1);
    let real = Ipv4Addr::new(10, 9, 0, 77);
    let wanted = vec![Wanted { port: 0, address: real, mac: None }];
    manager.reconfigure(NOW, &ManageConfig { virtual_addresses: vec![new], wanted, ..config() });
    assert_eq!(sent_arp(&handle(&mut manager, &question(CLIENT, new))).2, new);
    assert!(!handle(&mut manager, &question(CLIENT, VIP)).iter().any(|out| matches!(out, Out::Send { .. })));
    assert_eq!((manager.conflicts(NOW).count(), manager.neighbours().count()), (0, 1), "nobody's any more");
    let told: Vec<_> = (0..70)
        .flat_map(|second| tick(&mut manager, NOW + Duration::from_secs(second)))
        .filter_map(|out| match out {
            Out::Send { frame, .. } => Some(read_arp(&frame)),
            _ => None,
        })
        .collect();
    assert!(told.iter().filter(|(_, _, sender, target, _)| (*sender, *target) == (new, new)).count() >= 3);
    assert!(told.iter().any(|(_, _, _, target, _)| *target == real));
    assert!(told.iter().all(|(_, _, sender, ..)| *sender != VIP), "it speaks of what it has no more");
}

#[test]
fn the_host_is_kept_from_misleading_the_network() {
    let mut manager = manager();
    let mut frame = arp::request(OURS, VIP, CLIENT, None);
    assert_eq!(manager.host_egress(0, &mut frame), Egress::Send);
    assert_eq!(read_arp(&frame).2, OWN);
    let mut claim = arp::announcement(LIAR, VIP);
    assert_eq!(manager.host_egress(0, &mut claim), Egress::Drop(EgressDrop::VirtualAddressClaim));
    assert_eq!(manager.stats().host_dropped, 1);
}

#[test]
fn the_configuration_says_whom_to_know() {
    use crate::config::*;
    let port = |name: &str, address: &str, gateway: Option<&str>| PortConfig {
        name: name.into(),
        device: Device::Tap(name.into()),
        address: address.parse().unwrap(),
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        vlan: None,
        mac: None,
        mtu: 1500,
        host_tap: format!("host-{name}"),
        allow_host_addresses: false,
    };
    let real = |address: &str, mac| RealConfig {
        address: address.parse().unwrap(),
        port: 80,
        weight: 1,
        upper: 0,
        lower: 0,
        forwarding: Forwarding::DirectRouting,
        mac,
    };
    let network = |net: &str| Takes::network(Protocol::Udp, net.parse().unwrap(), Ports::one(53));
    let config = Config {
        ports: vec![port("a", "10.9.0.10/24", None), port("b", "10.8.0.10/24", Some("10.8.0.1"))],
        cores: CoresConfig { management: None, workers: WorkerCores::Count(1) },
        hugepages: false,
        memory_mb: 128,
        idle: Idle::Wait,
        flows: FlowsConfig { per_worker: 1024, half_open: 256, wide_per_worker: 1024 },
        control: ControlConfig { socket: "s".into() },
        limits: Limits::LEAST,
        timeouts: Timeouts::default(),
        matches: vec![
            MatchRule { destination: "10.9.0.101/32".parse().unwrap(), ..MatchRule::any(7) },
            MatchRule { destination: "10.9.0.0/24".parse().unwrap(), ..MatchRule::any(7) },
            MatchRule { destination: "10.9.0.102/32".parse().unwrap(), ..MatchRule::any(8) },
        ],
        services: vec![
            ServiceConfig::new(
                Takes::exact(Protocol::Tcp, VIP, 80),
                Scheduler::RoundRobin,
                vec![real("10.9.0.11", None), real("10.8.0.12", Some(REAL_MAC))],
            )
            .into(),
            ServiceConfig::new(Takes::Mark(7), Scheduler::RoundRobin, Vec::new()).into(),
            ServiceConfig::new(network("10.9.0.112/31"), Scheduler::RoundRobin, Vec::new()).into(),
            ServiceConfig::new(network("198.18.0.0/16"), Scheduler::RoundRobin, Vec::new()).into(),
        ],
    };
    let mut manage = ManageConfig::new(&config, &[OURS, LIAR], 1);
    let want = |port, address: &str, mac| Wanted { port, address: address.parse().unwrap(), mac };
    let wanted = [want(0, "10.9.0.11", None), want(1, "10.8.0.12", Some(REAL_MAC)), want(1, "10.8.0.1", None)];
    assert_eq!(manage.wanted, wanted);
    assert_eq!(
        manage.ports[1],
        ManagePort { name: "b".into(), mac: LIAR, address: "10.8.0.10/24".parse().unwrap(), mtu: 1500 }
    );
    manage.virtual_addresses.sort();
    let small_networks = [VIP, [10, 9, 0, 101].into(), [10, 9, 0, 112].into(), [10, 9, 0, 113].into()];
    assert_eq!(manage.virtual_addresses, small_networks, "and what rules have as their one destination");
    assert_eq!(manage.virtual_networks, ["198.18.0.0/16".parse().unwrap()]);
}

#[test]
fn networks_of_virtual_addresses_are_answered_for_and_too_many_are_not_announced() {
    let config = ManageConfig { virtual_networks: vec!["198.18.0.0/16".parse().unwrap()], ..config() };
    let mut manager = Manager::new(&config, Now(0));
    let mut out = Vec::new();
    for (last, answered) in [([198, 18, 7, 9], true), ([198, 19, 7, 9], false)] {
        out.clear();
        let question = question(CLIENT, last.into());
        manager.handle(Now(1), 0, &question, &mut out);
        assert_eq!(matches!(out[..], [Out::Send { .. }]), answered, "{out:?}");
        assert_eq!(matches!(out[..], [Out::Host { .. }]), !answered, "{out:?}");
    }
}

/// All that a peer could make grow.
fn size(manager: &Manager) -> (usize, usize) {
    (manager.neighbours().count(), manager.conflicts(NOW).count())
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..128), kind in 0usize..3) {
        let mut manager = asking();
        let mut frame = bytes;
        if frame.len() >= 14 {
            frame[..6].copy_from_slice(&OURS.0);
            frame[12..14].copy_from_slice(&[[8, 0], [8, 6], [0x86, 0xdd]][kind]);
        }
        prop_assert!(handle(&mut manager, &frame).len() <= 2);
        manager.host_egress(0, &mut frame);
    }

    #[test]
    fn a_flood_of_arp_grows_nothing_and_is_answered_within_the_limit(
        frames in proptest::collection::vec(
            (any::<bool>(), any::<[u8; 6]>(), 0u8..=255, 0u8..=255, any::<bool>()), 500)
    ) {
        let mut manager = asking();
        let mut sent = 0;
        for (reply, mac, sender, target, broadcast) in frames {
            let operation = if reply { Operation::Reply } else { Operation::Request };
            let destination = if broadcast { Mac::BROADCAST } else { OURS };
            let address = |last| Ipv4Addr::new(10, 9, 0, last);
            let frame = arp_frame(operation, Mac(mac), address(sender), address(target), destination);
            let out = handle(&mut manager, &frame);
            sent += out.iter().filter(|each| matches!(each, Out::Send { .. })).count();
        }
        prop_assert!(sent <= 20, "{} answers", sent);
        let (neighbours, conflicts) = size(&manager);
        prop_assert!(neighbours == 1 && conflicts <= conflict::REMEMBERED);
    }
}

#[test]
fn a_hundred_thousand_liars_grow_nothing() {
    let mut manager = asking();
    let mut out = Vec::new();
    for number in 0..100_000u32 {
        let [_, a, b, c] = number.to_be_bytes();
        let mac = Mac([2, 0, 1, a, b, c]);
        manager.handle(NOW, 0, &arp::announcement(mac, VIP), &mut out);
        manager.handle(NOW, 0, &arp::request(mac, Ipv4Addr::new(10, 9, b, c), VIP, None), &mut out);
        manager.handle(NOW, 0, &answer(Ipv4Addr::new(10, 9, b, c), mac), &mut out);
    }
    let actions = out.iter().filter(|each| !matches!(each, Out::Host { .. })).count();
    assert!(actions <= 20 + 8 + 1, "{actions}");
    assert_eq!(size(&manager), (1, conflict::REMEMBERED));
}
