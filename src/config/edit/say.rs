//! Changes in words, one line each.

use std::fmt;

use super::Change;
use crate::config::{RealConfig, ServiceConfig, Takes, Timeouts};

impl fmt::Display for Change {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::DeleteService(takes) => write!(out, "delete service {takes}"),
            Change::DeleteReal(takes, address) => write!(out, "delete real {address} of {takes}"),
            Change::AddService(service) => {
                write!(out, "add service {}", Whole(service))?;
                match service.reals.len() {
                    0 => Ok(()),
                    1 => write!(out, ", with 1 real"),
                    reals => write!(out, ", with {reals} reals"),
                }
            }
            Change::EditService(service) => write!(out, "edit service {}", Whole(service)),
            Change::AddReal(takes, real) => write!(out, "add real {}", Of(real, *takes)),
            Change::EditReal(takes, real) => write!(out, "edit real {}", Of(real, *takes)),
            Change::SetTimeouts(Timeouts { tcp, tcp_fin, udp }) => {
                write!(out, "set timeouts: tcp {tcp}, tcp_fin {tcp_fin}, udp {udp}")
            }
            Change::SetMatches(rules) => write!(out, "set match rules: {} in all", rules.len()),
        }
    }
}

/// A service with all its settings.
struct Whole<'c>(&'c ServiceConfig);

impl fmt::Display for Whole<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Whole(service) = self;
        write!(out, "{} {}", service.takes, service.scheduler.name())?;
        for words in [service.flags(), service.manners()].iter().filter(|words| !words.is_empty()) {
            write!(out, " {words}")?;
        }
        Ok(())
    }
}

struct Of<'c>(&'c RealConfig, Takes);

impl fmt::Display for Of<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Of(real, takes) = self;
        write!(out, "{} of {takes}: weight {}", real.address, real.weight)?;
        if real.upper > 0 {
            write!(out, ", upper {}, lower {}", real.upper, real.lower)?;
        }
        match real.mac {
            Some(mac) => write!(out, ", mac {mac}"),
            None => Ok(()),
        }
    }
}
