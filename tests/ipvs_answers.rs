//! What a sender is told (tests/data/ipvs/answers.txt, and the same in behaviour.txt): the frames that we would send,
//! beside the kernel's; and the same cases through the pure director.

mod ipvs;

use std::collections::BTreeSet;

use drover::packet::answer::answer;
use drover::packet::{ethernet, icmp, ipv4};
use drover::verdict::Answer;
use ipvs::compare;
use ipvs::packet::{self, Fault, Kind, Packet};
use ipvs::scenario::{Key, Step};
use ipvs::subject::{Pure, Subject};
use ipvs::trace::{self, Trace};

/// Cases in which the director does not answer as the kernel does, yet. This list only gets shorter: a case that begins
/// to pass has to leave it.
const NOT_YET: &[&str] = &[];

fn recorded() -> Vec<Trace> {
    [include_str!("data/ipvs/answers.txt"), include_str!("data/ipvs/behaviour.txt")]
        .into_iter()
        .flat_map(trace::parse)
        .collect()
}

/// What the director has to say for the kernel's answer to come out.
fn told(answered: &str, asked: &Packet, has_service: bool) -> Option<Answer> {
    match answered.split_whitespace().take(2).collect::<Vec<_>>()[..] {
        ["tcp", "R" | "RA"] => Some(Answer::Reset),
        ["icmp", "11.0"] => Some(Answer::TimeExceeded),
        ["icmp", "3.4"] => Some(Answer::FragmentationNeeded { egress: 0 }),
        ["icmp", "3.3"] if asked.kind == Kind::Udp && !has_service => Some(Answer::ClosedPort),
        ["icmp", "3.3"] => Some(Answer::PortUnreachable),
        _ => None,
    }
}

/// The MTU that the kernel tells.
fn mtu(answered: &str) -> Option<u16> {
    answered.split_whitespace().find_map(|word| word.strip_prefix("rest=")?.parse().ok())
}

/// The services that are there at each step.
fn services(steps: &[Step]) -> impl Iterator<Item = Vec<Key>> + '_ {
    use ipvs::scenario::Edit::*;
    steps.iter().scan(Vec::new(), |services: &mut Vec<Key>, step| {
        match step {
            Step::Edit(AddService(service)) => services.push(service.key),
            Step::Edit(DeleteService(key)) => services.retain(|other| other != key),
            _ => (),
        }
        Some(services.clone())
    })
}

fn is_for(packet: &Packet, key: &Key) -> bool {
    let (address, port) = packet.destination;
    let fits = |of: &(std::net::Ipv4Addr, u16)| *of == (address, port) || *of == (address, 0);
    match (key, &packet.kind) {
        (Key::Tcp(address, port), Kind::Tcp(_)) | (Key::Udp(address, port), Kind::Udp) => fits(&(*address, *port)),
        (Key::Mark(_), _) => true,
        _ => false,
    }
}

#[test]
fn the_frames_are_the_kernel_s() {
    let mut compared = [0; 4];
    for Trace { name, steps, answers } in recorded() {
        for ((step, kernel), services) in steps.iter().zip(&answers).zip(services(&steps)) {
            let Step::Packet(asked) = step else { continue };
            let has_service = services.iter().any(|key| is_for(asked, key));
            let Some(kind) = told(&kernel[0], asked, has_service) else { continue };
            let frame = asked.frame();
            let ours: Vec<Vec<u8>> = answer(&frame, kind, |_| mtu(&kernel[0])).into_iter().collect();
            let ours: Vec<Vec<u8>> = ours.into_iter().map(packet::without_padding).collect();
            assert_eq!(packet::answer(&frame, &ours), kernel[0], "{name}: {step}");
            compared[match kind {
                Answer::Reset => 0,
                Answer::TimeExceeded => 1,
                Answer::FragmentationNeeded { .. } => 2,
                _ => 3,
            }] += 1;
        }
    }
    let least = [25, 14, 8, 20];
    assert!(compared.iter().zip(least).all(|(compared, least)| *compared >= least), "{compared:?}");
}

/// Where the kernel is silent although no service and no connection takes the packet, so are we.
#[test]
fn where_the_kernel_is_silent_so_are_we() {
    let mut compared = 0;
    for Trace { name, steps, answers } in recorded() {
        for ((step, kernel), services) in steps.iter().zip(&answers).zip(services(&steps)) {
            let Step::Packet(asked) = step else { continue };
            let alone = !services.iter().any(|key| is_for(asked, key));
            let kind = match asked.kind {
                Kind::Tcp(_) => Answer::Reset,
                Kind::Udp => Answer::ClosedPort,
                _ => continue,
            };
            // Resets, and what is broken; half a header never comes as far as here, but would not be answered either.
            let silent = kernel[..] == ["drop"] && (alone || asked.fault == Some(Fault::Cut));
            if silent && (kind == Answer::Reset || name.starts_with("nobody")) {
                assert_eq!(answer(&asked.frame(), kind, |_| None), None, "{name}: {step}");
                compared += 1;
            }
        }
    }
    assert!(compared >= 11, "{compared}");
}

/// The errors that the kernel sends on are about a flow by our reading too, and no others are.
#[test]
fn the_errors_that_are_sent_on_are_the_kernel_s() {
    let mut compared = 0;
    for Trace { name, steps, answers } in recorded().into_iter().filter(|trace| trace.name.starts_with("errors about"))
    {
        for (step, kernel) in steps.iter().zip(&answers) {
            let Step::Packet(asked @ Packet { kind: Kind::Error(_, _, protocol), .. }) = step else { continue };
            let frame = asked.frame();
            let found = ipv4::parse(&frame[ethernet::HEADER..], frame.len()).ok().and_then(|ip| {
                icmp::quoted(ip.destination, &frame[ethernet::HEADER + ip.header_len..ethernet::HEADER + ip.total_len])
            });
            let flow = icmp::Conversation {
                client: asked.source.0,
                client_port: asked.source.1,
                address: asked.destination.0,
                port: asked.destination.1,
                protocol: *protocol,
            };
            let sent_on = kernel[0].starts_with("real ");
            assert_eq!(found, sent_on.then_some(flow), "{name}: {step}");
            compared += 1;
        }
    }
    assert!(compared >= 10, "{compared}");
}

#[test]
fn the_director_tells_what_the_kernel_tells() {
    let cases = trace::parse(include_str!("data/ipvs/answers.txt"));
    let differs = |case: &&Trace| {
        let ours = Pure.run(&case.steps);
        !compare::differences(&case.steps, &case.answers, &ours, &|_| true).is_empty()
    };
    let fails: BTreeSet<&str> = cases.iter().filter(differs).map(|case| case.name.as_str()).collect();
    assert_eq!(fails, NOT_YET.iter().copied().collect(), "left: what fails; right: what is known to");
}
