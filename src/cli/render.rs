//! What people read. Whoever knows `ipvsadm` finds their way in the listings.

use std::fmt::{self, Write};

use super::table::{Column, Table};
use crate::control::wire::{
    Changed, ConnEntry, FrameStats, ManageStats, PortStats, PortStatus, RealEntry, RealState, ServiceEntry, Stats,
    Status, Steering, TimeoutsEntry, WorkerStatus,
};
use crate::packet::BURST;
use crate::verdict::DropReason;

/// How to print.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    pub colour: bool,
}

#[derive(Clone, Copy)]
enum Paint {
    Good,
    Bad,
    Uncertain,
    Heading,
}

impl Style {
    fn paint(self, paint: Paint, text: &str) -> String {
        let code = match paint {
            Paint::Good => 32,
            Paint::Bad => 31,
            Paint::Uncertain => 33,
            Paint::Heading => 1,
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    pub(super) fn heading(self, text: &str) -> String {
        self.paint(Paint::Heading, text)
    }
}

/// Text of the director's, of which nothing can steer the terminal.
struct Plain<'a>(&'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|letter| out.write_char(if letter.is_control() { '?' } else { letter }))
    }
}

fn plain(text: &str) -> String {
    Plain(text).to_string()
}

/// Joins sections with an empty line between them.
fn page(sections: impl IntoIterator<Item = String>) -> String {
    sections.into_iter().filter(|section| !section.is_empty()).collect::<Vec<_>>().join("\n")
}

pub fn status(status: &Status, services: &[ServiceEntry], style: Style) -> String {
    page([
        director(status),
        format!("{}\n{}", style.heading("Ports"), ports(&status.ports, style)),
        format!("{}\n{}", style.heading("Workers"), workers(&status.workers, status.epoch, style)),
        unresolved(services, style),
        warnings(&status.warnings, style),
    ])
}

fn director(status: &Status) -> String {
    format!(
        "droverd {} (commit {}), DPDK {}, pid {}, up {}\nconfiguration {}, epoch {}; management on core {}{}\n",
        plain(&status.version),
        plain(&status.commit),
        plain(&status.dpdk),
        status.pid,
        duration(status.uptime_seconds),
        plain(&status.config),
        status.epoch,
        status.management_core,
        match status.steering {
            Steering::OneWorker => "",
            Steering::Nic => "; flows come to their workers by the NIC",
            Steering::Software => "; flows come to their workers by software",
        },
    )
}

fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

fn ports(ports: &[PortStatus], style: Style) -> String {
    let width = ports.iter().map(|port| port.name.chars().count()).max().unwrap_or(0);
    ports.iter().map(|port| format!("  {:<width$}  {}", plain(&port.name), one_port(port, width, style))).collect()
}

fn one_port(port: &PortStatus, indent: usize, style: Style) -> String {
    let vlan = port.vlan.map_or(String::new(), |vlan| format!(" in VLAN {vlan}"));
    let queues = if port.queues == 1 { "queue" } else { "queues" };
    format!(
        "{} ({}), {}, MTU {}, {} {queues}\n  {:indent$}  {}{vlan}, MAC {}, {}; the host's TAP is {}\n",
        plain(&port.device),
        plain(&port.driver),
        link(port, style),
        port.mtu,
        port.queues,
        "",
        plain(&port.address),
        plain(&port.mac),
        gateway(port, style),
        plain(&port.host_tap),
    )
}

fn link(port: &PortStatus, style: Style) -> String {
    match (port.link_up, port.speed) {
        (false, _) => style.paint(Paint::Bad, "link down"),
        (true, 0) => "link up".into(),
        (true, speed) if speed % 1000 == 0 => format!("link up at {} Gbit/s", speed / 1000),
        (true, speed) => format!("link up at {speed} Mbit/s"),
    }
}

fn gateway(port: &PortStatus, style: Style) -> String {
    match (port.gateway, &port.gateway_mac) {
        (None, _) => "no gateway".into(),
        (Some(gateway), Some(mac)) => format!("gateway {gateway} at {}", plain(mac)),
        (Some(gateway), None) => style.paint(Paint::Bad, &format!("gateway {gateway} does not answer ARP")),
    }
}

fn workers(workers: &[WorkerStatus], epoch: u64, style: Style) -> String {
    let mut table = Table::new([
        Column::right("Worker"),
        Column::right("Core"),
        Column::right("Flows"),
        Column::right("Room for"),
        Column::left("Table in"),
        Column::left("Configuration"),
    ]);
    for worker in workers {
        table.row([
            worker.id.to_string(),
            worker.core.to_string(),
            worker.flows.to_string(),
            worker.flow_capacity.to_string(),
            plain(&worker.flow_memory),
            if worker.epoch == epoch { "current".into() } else { format!("behind: epoch {}", worker.epoch) },
        ]);
    }
    table.render(|text| match text.starts_with("behind") {
        true => style.paint(Paint::Uncertain, text),
        false => text.to_string(),
    })
}

/// Each real that gets no traffic because it has not answered.
fn unresolved(services: &[ServiceEntry], style: Style) -> String {
    let mut text = String::new();
    for service in services {
        for real in service.reals.iter().filter(|real| mac_is_missing(real.state)) {
            let state = style.paint(colour_of(real.state), state_name(real.state));
            text +=
                &format!("  {} of {} {}: {state}\n", real.address, plain(&service.protocol), plain(&service.address));
        }
    }
    if text.is_empty() { text } else { format!("{}\n{text}", style.heading("Reals without a MAC address")) }
}

fn mac_is_missing(state: RealState) -> bool {
    matches!(state, RealState::Resolving | RealState::Unreachable)
}

fn warnings(warnings: &[String], style: Style) -> String {
    let lines: String = warnings.iter().map(|warning| format!("  {}\n", plain(warning))).collect();
    if lines.is_empty() { lines } else { format!("{}\n{lines}", style.paint(Paint::Uncertain, "Warnings")) }
}

fn state_name(state: RealState) -> &'static str {
    match state {
        RealState::Resolved => "resolved",
        RealState::Resolving => "resolving",
        RealState::Unreachable => "unreachable",
        RealState::Fixed => "fixed",
    }
}

fn colour_of(state: RealState) -> Paint {
    match state {
        RealState::Resolved | RealState::Fixed => Paint::Good,
        RealState::Resolving => Paint::Uncertain,
        RealState::Unreachable => Paint::Bad,
    }
}

pub fn services(services: &[ServiceEntry], style: Style) -> String {
    let mut text = String::from(
        "Prot LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn  \
         State       MAC\n",
    );
    for service in services {
        let how = [&service.scheduler, &service.flags, &service.manners].map(|words| plain(words));
        let how = how.into_iter().filter(|words| !words.is_empty()).collect::<Vec<_>>().join(" ");
        text += &format!("{:<4} {} {how}\n", plain(&service.protocol), plain(&service.address));
        for real in &service.reals {
            text += &real_line(real, style);
        }
    }
    text
}

fn real_line(real: &RealEntry, style: Style) -> String {
    let state = format!("{:<11}", state_name(real.state));
    format!(
        "  -> {:<28} {:<7} {:<6} {:<10} {:<10} {} {}{}\n",
        real.address,
        plain(&real.forward),
        real.weight,
        real.traffic.active,
        real.traffic.inactive,
        style.paint(colour_of(real.state), &state),
        real.mac.as_deref().map_or("-".into(), plain),
        thresholds(real),
    )
}

fn thresholds(real: &RealEntry) -> String {
    if real.upper == 0 { String::new() } else { format!(" upper {} lower {}", real.upper, real.lower) }
}

/// What was done, or would be.
pub fn changed(changed: &Changed) -> String {
    let mut text: String = changed.changes.iter().map(|line| format!("{}\n", plain(line))).collect();
    text.extend(changed.notes.iter().map(|note| format!("note: {}\n", plain(note))));
    let epoch = changed.epoch;
    text + &match (changed.changes.is_empty(), changed.dry_run, changed.workers_behind) {
        (true, ..) => format!("nothing to change: it is so already, epoch {epoch}\n"),
        (_, true, _) => format!("a dry run: nothing was changed, epoch {epoch} is in force\n"),
        (_, _, 0) => format!("done: epoch {epoch} is in force on all workers\n"),
        (_, _, behind) => format!("done: epoch {epoch}, but workers that have not taken it up yet: {behind}\n"),
    }
}

pub fn timeouts(timeouts: &TimeoutsEntry) -> String {
    let TimeoutsEntry { tcp, tcp_fin, udp } = timeouts;
    format!("Timeout (tcp tcpfin udp): {tcp} {tcp_fin} {udp}\n")
}

pub const CONNECTIONS_HEAD: &str =
    "pro expire state       source                virtual               destination           worker\n";

pub fn connection(connection: &ConnEntry) -> String {
    format!(
        "{:<3} {:02}:{:02}  {:<11} {:<21} {:<21} {:<21} {}\n",
        plain(&connection.protocol),
        connection.expires_seconds / 60,
        connection.expires_seconds % 60,
        plain(&connection.state),
        connection.client,
        connection.virtual_address,
        connection.real,
        connection.worker,
    )
}

pub fn stats(stats: &Stats, style: Style) -> String {
    page([
        frames(stats, style),
        drops(&stats.total, style),
        flows(&stats.total, style),
        per_worker(stats, style),
        port_statistics(&stats.ports, style),
        manage(&stats.manage, style),
    ])
}

/// What has come in and what became of it, with the sums that must be equal.
fn frames(stats: &Stats, style: Style) -> String {
    let total = &stats.total;
    let mut table = Table::new([Column::left(""), Column::right("Frames"), Column::right("Bytes")]);
    table.row(["received".into(), total.received.to_string(), total.received_bytes.to_string()]);
    table.row(["forwarded".into(), total.forwarded.to_string(), total.forwarded_bytes.to_string()]);
    let underway = stats.workers.len().max(1) as u64 * BURST as u64;
    let in_line = Sum {
        whole: &[("received", total.received), ("handed in", total.handed_in)],
        parts: &[
            ("forwarded", total.forwarded),
            ("management", total.to_manage),
            ("host", total.to_host),
            ("handed out", total.handed_out),
            ("dropped", dropped(total)),
        ],
        underway,
    };
    let out_line = Sum {
        whole: &[("originated", total.originated)],
        parts: &[("sent", total.originated_sent), ("dropped", total.originated_dropped)],
        underway,
    };
    format!(
        "{}\n{}{}{}",
        style.heading("Frames"),
        table.render(str::to_string),
        in_line.show(style),
        out_line.show(style)
    )
}

/// Saturating, because the numbers are the director's and nothing a peer says may stop us.
fn dropped(frames: &FrameStats) -> u64 {
    frames.dropped.values().fold(0, |sum, count| sum.saturating_add(*count))
}

/// An identity between counters: the whole is counted apart from its parts.
struct Sum<'a> {
    whole: &'a [(&'a str, u64)],
    parts: &'a [(&'a str, u64)],
    /// So many frames can be between two counters while they are read.
    underway: u64,
}

impl Sum<'_> {
    fn show(&self, style: Style) -> String {
        let sum = |side: &[(&str, u64)]| side.iter().fold(0u64, |sum, (_, count)| sum.saturating_add(*count));
        let off = sum(self.whole).abs_diff(sum(self.parts));
        let verdict = match off {
            0 => style.paint(Paint::Good, "adds up"),
            off if off <= self.underway => {
                style.paint(Paint::Uncertain, &format!("off by {off}: a burst under way; a fault if it stays so"))
            }
            off => {
                style.paint(Paint::Bad, &format!("DOES NOT ADD UP, off by {off}: a fault of drover, please report it"))
            }
        };
        format!("  {} = {}: {verdict}\n", added(self.whole), added(self.parts))
    }
}

/// Between workers nothing is handed over unless it has to be, and then nothing is said of it.
fn added(side: &[(&str, u64)]) -> String {
    let said = side.iter().filter(|(name, count)| *count > 0 || !name.starts_with("handed"));
    said.map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(" + ")
}

fn drops(total: &FrameStats, style: Style) -> String {
    if total.dropped.is_empty() {
        return String::new();
    }
    let mut table = Table::new([Column::left("Dropped"), Column::right("Frames"), Column::left("Meaning")]);
    for (name, count) in &total.dropped {
        let known = DropReason::ALL.iter().find(|reason| reason.name() == name);
        let meaning = known.map_or("(not known to this drover; the director is newer)", |reason| reason.meaning());
        table.row([format!("  {}", plain(name)), count.to_string(), meaning.into()]);
    }
    table.render_headed(style)
}

fn flows(total: &FrameStats, style: Style) -> String {
    let stateless = match total.stateless {
        0 => String::new(),
        packets => {
            format!("  {packets} packets forwarded without an entry: a table, or its half-open part, was full\n")
        }
    };
    let unremembered = match total.templates_refused {
        0 => String::new(),
        times => format!("  {times} times there was no room to remember a client of a persistent service\n"),
    };
    format!(
        "{}\n  {} in the tables; {} entered, {} ended\n{stateless}{unremembered}",
        style.heading("Flows"),
        total.flows,
        total.flows_created,
        total.flows_expired
    )
}

fn per_worker(stats: &Stats, style: Style) -> String {
    let mut table = Table::new([
        Column::left("Worker"),
        Column::right("Received"),
        Column::right("Forwarded"),
        Column::right("Management"),
        Column::right("Host"),
        Column::right("Dropped"),
        Column::right("Flows"),
        Column::right("Turns"),
        Column::right("Waits"),
    ]);
    for (id, worker) in stats.workers.iter().enumerate() {
        let numbers = [
            worker.received,
            worker.forwarded,
            worker.to_manage,
            worker.to_host,
            dropped(worker),
            worker.flows,
            worker.turns,
            worker.waits,
        ];
        table.row(named(&id.to_string(), numbers));
    }
    table.render_headed(style)
}

/// As the drivers count them: nothing here is computed from the workers' counters.
fn port_statistics(ports: &[PortStats], style: Style) -> String {
    let mut table = Table::new([
        Column::left("Port"),
        Column::right("Received"),
        Column::right("Bytes"),
        Column::right("Sent"),
        Column::right("Bytes"),
        Column::right("Missed"),
        Column::right("Errors"),
        Column::right("Send errors"),
        Column::right("No buffer"),
    ]);
    for port in ports {
        let numbers = [
            port.received,
            port.received_bytes,
            port.sent,
            port.sent_bytes,
            port.missed,
            port.errors,
            port.send_errors,
            port.no_buffer,
        ];
        table.row(named(&port.name, numbers));
    }
    table.render_headed(style)
}

fn named<const N: usize, const M: usize>(name: &str, numbers: [u64; N]) -> [String; M] {
    const { assert!(M == N + 1, "one cell for the name") };
    std::array::from_fn(|cell| match cell {
        0 => format!("  {}", plain(name)),
        number => numbers[number - 1].to_string(),
    })
}

fn manage(manage: &ManageStats, style: Style) -> String {
    let mut table = Table::new([Column::left("Management core"), Column::right("")]);
    for (what, count) in [
        ("ARP replies sent", manage.arp_replies),
        ("ARP requests sent", manage.arp_requests),
        ("gratuitous ARPs sent", manage.gratuitous_arps),
        ("pings answered", manage.echo_replies),
        ("ARP and pings not answered: rate limit", manage.rate_limited),
        ("TCP resets sent", manage.resets),
        ("TCP resets not sent: rate limit", manage.resets_limited),
        ("port unreachable sent", manage.port_unreachable),
        ("port unreachable not sent: rate limit", manage.port_unreachable_limited),
        ("time exceeded sent", manage.time_exceeded),
        ("time exceeded not sent: rate limit", manage.time_exceeded_limited),
        ("fragmentation needed sent", manage.fragmentation_needed),
        ("fragmentation needed not sent: rate limit", manage.fragmentation_needed_limited),
        ("ignored", manage.ignored),
        ("address conflicts seen", manage.conflicts),
        ("frames that the host received", manage.host_received),
        ("frames that the host sent", manage.host_sent),
        ("frames of the host that were dropped", manage.host_dropped),
    ] {
        table.row([format!("  {what}"), count.to_string()]);
    }
    table.render_headed(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        for (seconds, text) in [(0, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3723, "1 h 2 min"), (90000, "1 d 1 h")] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn a_sum_that_is_wrong_is_loud_and_a_burst_under_way_is_not() {
        let show =
            |whole| Sum { whole: &[("all", whole)], parts: &[("a", 3), ("b", 4)], underway: 32 }.show(Style::default());
        assert_eq!(show(7), "  all 7 = a 3 + b 4: adds up\n");
        assert!(show(39).contains("off by 32: a burst under way"));
        assert!(show(40).contains("DOES NOT ADD UP, off by 33"));
        let huge = Sum { whole: &[("all", 0)], parts: &[("a", u64::MAX), ("b", 1)], underway: 32 };
        assert!(huge.show(Style::default()).contains("DOES NOT ADD UP"));
    }

    #[test]
    fn the_directors_words_cannot_steer_the_terminal() {
        assert_eq!(plain("real 1\x1b[31m\nis gone"), "real 1?[31m?is gone");
    }

    #[test]
    fn a_port_without_link_or_gateway_says_so() {
        let port = PortStatus {
            name: "lab".into(),
            device: "tap dtap0".into(),
            driver: "net_tap".into(),
            mac: "02:00:00:00:00:01".into(),
            address: "10.9.0.10/24".into(),
            vlan: None,
            gateway: None,
            gateway_mac: None,
            mtu: 1500,
            link_up: false,
            speed: 0,
            queues: 1,
            host_tap: "drover0".into(),
        };
        let expected = "  lab  tap dtap0 (net_tap), link down, MTU 1500, 1 queue\n       10.9.0.10/24, MAC 02:00:00:00:00:01, \
                        no gateway; the host's TAP is drover0\n";
        assert_eq!(ports(std::slice::from_ref(&port), Style::default()), expected);
        let silent = PortStatus { gateway: Some([10, 9, 0, 1].into()), link_up: true, ..port };
        let text = ports(&[silent], Style { colour: true });
        assert!(text.contains("link up, MTU") && text.contains("\x1b[31mgateway 10.9.0.1 does not answer ARP\x1b[0m"));
    }

    #[test]
    fn colour_is_only_added_when_asked_for() {
        assert_eq!(Style { colour: true }.paint(Paint::Bad, "down"), "\x1b[31mdown\x1b[0m");
        assert_eq!(Style { colour: false }.paint(Paint::Bad, "down"), "down");
    }
}
