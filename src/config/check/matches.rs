//! The rules of `[[match]]`.

use std::collections::HashSet;
use std::sync::Arc;

use super::ports::{Ports as Stations, network};
use super::services::virtual_fault;
use super::words::{parse_net, parse_ports};
use super::{choice, number, place, station};
use crate::config::error::Mistakes;
use crate::config::raw::{RawMatch, RawService, Text, shown};
use crate::config::{MacMatch, MatchRule, Ports, Protocol, ServiceConfig, Takes};
use crate::packet::Ipv4Net;

/// They are tried one after the other.
const MOST: usize = 1_024;

pub(super) fn check(raw: &[RawMatch], ports: &Stations, mistakes: &mut Mistakes) -> Vec<MatchRule> {
    if let Some(first_too_many) = raw.get(MOST) {
        let message = format!("{} match rules are not allowed: at most {MOST}", raw.len());
        mistakes.add(first_too_many.at, "match", message);
        return Vec::new();
    }
    let checked: Vec<_> = raw.iter().enumerate().map(|(index, rule)| check_one(index, rule, ports, mistakes)).collect();
    for (index, rule) in checked.iter().enumerate() {
        who_wins(index, rule, &checked[..index], raw, mistakes);
    }
    checked
}

fn check_one(index: usize, raw: &RawMatch, ports: &Stations, mistakes: &mut Mistakes) -> MatchRule {
    let key = |name: &str| format!("match[{index}].{name}");
    if raw.mark.is_none() {
        mistakes.add(raw.at, key("mark"), "missing: the mark of a service, such as 7");
    }
    let any = MatchRule::any(number(&raw.mark, &key("mark"), 1..=u32::MAX.into(), 1, mistakes) as u32);
    let destination = net(&raw.destination, &key("destination"), mistakes).unwrap_or(any.destination);
    if destination.prefix == 32
        && let Some(fault) = virtual_fault(destination, ports)
    {
        let message = format!("{} is not allowed: {fault}", destination.address);
        mistakes.add(place(&raw.destination), key("destination"), message);
    }
    let protocols = [("tcp", Some(Protocol::Tcp)), ("udp", Some(Protocol::Udp))];
    MatchRule {
        source: net(&raw.source, &key("source"), mistakes).unwrap_or(any.source),
        destination,
        ports: port_range(&raw.ports, &key("ports"), mistakes).unwrap_or(any.ports),
        protocol: choice(&raw.protocol, &key("protocol"), &protocols, None, mistakes),
        ingress: ingress(&raw.ingress, &key("ingress"), ports, mistakes),
        source_mac: source_mac(index, raw, mistakes),
        ..any
    }
}

fn net(raw: &Text, key: &str, mistakes: &mut Mistakes) -> Option<Ipv4Net> {
    let text = raw.as_ref()?.get_ref();
    let found = parse_net(text);
    let fault = match found {
        None => "an address or a network, such as \"10.9.0.100\" or \"10.0.0.0/8\"".to_owned(),
        Some(net) if net.network() != net.address => {
            format!("a network is written with its first address, {}", network(net))
        }
        Some(_) => return found,
    };
    mistakes.add(place(raw), key, format!("{} is not allowed: {fault}", shown(text)));
    found
}

fn port_range(raw: &Text, key: &str, mistakes: &mut Mistakes) -> Option<Ports> {
    let text = raw.as_ref()?.get_ref();
    let found = parse_ports(text);
    if let Err(reason) = &found {
        let reason = reason.as_deref().unwrap_or("a port or several in a row, such as \"80\" or \"8000-8099\"");
        mistakes.add(place(raw), key, format!("{} is not allowed: {reason}", shown(text)));
    }
    found.ok()
}

fn ingress(raw: &Text, key: &str, ports: &Stations, mistakes: &mut Mistakes) -> Option<usize> {
    let name = raw.as_ref()?.get_ref();
    let found = ports.all.iter().position(|port| port.name == *name);
    if found.is_none() && ports.complete {
        let names: Vec<_> = ports.all.iter().map(|port| shown(&port.name)).collect();
        let message = format!("{} is not allowed: the name of a port, {}", shown(name), names.join(" or "));
        mistakes.add(place(raw), key, message);
    }
    found
}

fn source_mac(index: usize, raw: &RawMatch, mistakes: &mut Mistakes) -> Option<MacMatch> {
    let key = |name: &str| format!("match[{index}].{name}");
    let is = station(&raw.source_mac, &key("source_mac"), mistakes);
    let is_not = station(&raw.not_source_mac, &key("not_source_mac"), mistakes);
    if raw.source_mac.is_some() && raw.not_source_mac.is_some() {
        let message = "not allowed beside source_mac: at most one of them";
        mistakes.add(place(&raw.not_source_mac), key("not_source_mac"), message);
    }
    is.map(MacMatch::Is).or(is_not.map(MacMatch::IsNot))
}

/// Of rules that the same packet can match, the first one decides; who wrote the later one may not know.
fn who_wins(index: usize, rule: &MatchRule, earlier: &[MatchRule], raw: &[RawMatch], mistakes: &mut Mistakes) {
    let line = |rule: usize| mistakes.line(raw[rule].at);
    let warning = if let Some(winner) = earlier.iter().position(|first| first.covers(rule)) {
        let (line, mark) = (line(winner), earlier[winner].mark);
        Some(format!("never reached: all its packets get mark {mark} by the rule on line {line}, which comes first"))
    } else {
        let winner = earlier.iter().position(|first| first.mark != rule.mark && first.overlaps(rule));
        winner.map(|winner| {
            let (line, mark) = (line(winner), earlier[winner].mark);
            format!("packets that match the rule on line {line} too get its mark {mark}: the first rule wins")
        })
    };
    if let Some(warning) = warning {
        mistakes.warn(raw[index].at, format!("match[{index}]"), warning);
    }
}

/// Marks that lead nowhere, and services that nobody is led to.
pub(super) fn marks_meet(
    raw: &[RawMatch],
    rules: &[MatchRule],
    raw_services: &[RawService],
    services: &[Arc<ServiceConfig>],
    mistakes: &mut Mistakes,
) {
    let given: HashSet<u32> = rules.iter().map(|rule| rule.mark).collect();
    let mark_of = |service: &Arc<ServiceConfig>| match service.takes {
        Takes::Mark(mark) => Some(mark),
        Takes::Address { .. } => None,
    };
    let wanted: HashSet<u32> = services.iter().filter_map(mark_of).collect();
    for ((index, rule), raw) in rules.iter().enumerate().zip(raw) {
        if !wanted.contains(&rule.mark) {
            let warning = format!("no service has mark {}: its packets go as if they had none", rule.mark);
            mistakes.warn(raw.at, format!("match[{index}].mark"), warning);
        }
    }
    for (index, raw) in raw_services.iter().enumerate() {
        let mark = raw.mark.as_ref().and_then(|mark| u32::try_from(*mark.get_ref()).ok());
        if let Some(mark) = mark.filter(|mark| !given.contains(mark)) {
            let warning = format!("no [[match]] gives mark {mark}: nothing comes to this service");
            mistakes.warn(raw.at, format!("service[{index}].mark"), warning);
        }
    }
}
