//! What changes a running director: the words of the command line, as requests.

use clap::{Args, Subcommand, ValueEnum};

use crate::control::wire::{RealName, RealWords, Request, ServiceName, ServiceWords};

#[derive(Debug, Subcommand)]
pub(super) enum ServiceVerb {
    /// As `ipvsadm -Ln` shows them, with each real's state and MAC address.
    List,
    /// Add a service, without reals for the time being.
    Add(Service),
    /// Everything but the reals is as said from now on, the rest as by default.
    Edit(Service),
    /// Delete a service with its reals.
    Delete {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        how: How,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum RealVerb {
    /// Add a real to a service.
    Add(Real),
    /// Its weight and limits are as said from now on; a MAC address that was given stays.
    Edit(Real),
    /// Delete a real of a service. What becomes of its connections, the service's on_removed says.
    Delete {
        #[command(flatten)]
        service: Name,
        /// The server's address.
        address: String,
        #[command(flatten)]
        how: How,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Tcp,
    Udp,
    Mark,
}

/// Which service: `tcp 10.9.0.100:80`, `udp 192.0.2.0/28:53`, `mark 7`.
#[derive(Debug, Args)]
pub(super) struct Name {
    #[arg(value_name = "tcp|udp|mark", hide_possible_values = true)]
    kind: Kind,
    /// Address and port as in the file: 10.9.0.100:80, 10.9.0.100:8000-8099, 192.0.2.0/28:80; a mark is a number.
    #[arg(value_name = "SERVICE")]
    place: String,
}

#[derive(Debug, Args)]
pub(super) struct How {
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct Service {
    #[command(flatten)]
    name: Name,
    /// Default: wlc.
    #[arg(long, short = 's')]
    scheduler: Option<String>,
    /// Of the scheduler, with commas between them: sh-port, sh-fallback, mh-port, mh-fallback.
    #[arg(long, short = 'b')]
    flags: Option<String>,
    /// Clients stay with their real for so long after their last connection began; without a number 360.
    #[arg(long, short, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "360")]
    persistent: Option<i64>,
    /// Clients in one such network are one client to --persistent.
    #[arg(long, short = 'M')]
    netmask: Option<String>,
    /// Clients leave a real that is drained (weight 0) with their next connection
    #[arg(long, requires = "persistent")]
    expire_quiescent: bool,
    /// Every datagram is scheduled by itself.
    #[arg(long, short)]
    one_packet: bool,
    /// What becomes of the connections of a real that is removed: reschedule, reset or drop.
    #[arg(long)]
    on_removed: Option<String>,
    /// What becomes of a TCP packet of no connection: hash, reset or drop.
    #[arg(long)]
    on_miss: Option<String>,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
pub(super) struct Real {
    #[command(flatten)]
    service: Name,
    /// The server's address.
    address: String,
    /// Default: 1. With 0 it gets no new connections.
    #[arg(long, short)]
    weight: Option<i64>,
    /// New connections end at so many (ipvsadm's --u-threshold).
    #[arg(long, short = 'x', visible_alias = "u-threshold", value_name = "CONNECTIONS")]
    upper: Option<i64>,
    /// They begin again below so many (ipvsadm's --l-threshold).
    #[arg(long, short = 'y', visible_alias = "l-threshold", value_name = "CONNECTIONS")]
    lower: Option<i64>,
    /// The server's MAC address; without it ARP is asked.
    #[arg(long)]
    mac: Option<String>,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
pub(super) struct Timeouts {
    /// Seconds of established connections, of those that end, and of UDP, as `ipvsadm --set` has them; 0 leaves one as
    /// it is. Without them, those in force are shown.
    #[arg(num_args = 3, value_names = ["TCP", "FIN", "UDP"])]
    seconds: Vec<i64>,
    #[command(flatten)]
    how: How,
}

/// A mark that is no number: wrong usage, by whom and why.
#[derive(Debug)]
pub(super) struct NoMark(pub String);

impl Name {
    fn words(&self) -> Result<ServiceName, NoMark> {
        let place = || Some(self.place.clone());
        Ok(match self.kind {
            Kind::Tcp => ServiceName { tcp: place(), ..ServiceName::default() },
            Kind::Udp => ServiceName { udp: place(), ..ServiceName::default() },
            Kind::Mark => {
                let mark = self.place.parse().map_err(|_| NoMark(self.place.clone()))?;
                ServiceName { mark: Some(mark), ..ServiceName::default() }
            }
        })
    }
}

impl ServiceVerb {
    /// None: it only asks for the list.
    pub(super) fn request(&self) -> Result<Option<Request>, NoMark> {
        Ok(Some(match self {
            ServiceVerb::List => return Ok(None),
            ServiceVerb::Add(service) => {
                Request::ServiceAdd { service: service.words()?, dry_run: service.how.dry_run }
            }
            ServiceVerb::Edit(service) => {
                Request::ServiceEdit { service: service.words()?, dry_run: service.how.dry_run }
            }
            ServiceVerb::Delete { name, how } => {
                Request::ServiceDelete { service: name.words()?, dry_run: how.dry_run }
            }
        }))
    }
}

impl Service {
    fn words(&self) -> Result<ServiceWords, NoMark> {
        let ServiceName { tcp, udp, mark } = self.name.words()?;
        Ok(ServiceWords {
            tcp,
            udp,
            mark,
            scheduler: self.scheduler.clone(),
            flags: self.flags.clone(),
            persistent: self.persistent,
            netmask: self.netmask.clone(),
            expire_quiescent: self.expire_quiescent,
            one_packet: self.one_packet,
            on_removed: self.on_removed.clone(),
            on_miss: self.on_miss.clone(),
        })
    }
}

impl RealVerb {
    pub(super) fn request(&self) -> Result<Request, NoMark> {
        Ok(match self {
            RealVerb::Add(real) => {
                Request::RealAdd { service: real.service.words()?, real: real.words(), dry_run: real.how.dry_run }
            }
            RealVerb::Edit(real) => {
                Request::RealEdit { service: real.service.words()?, real: real.words(), dry_run: real.how.dry_run }
            }
            RealVerb::Delete { service, address, how } => {
                let real = RealName { address: address.clone() };
                Request::RealDelete { service: service.words()?, real, dry_run: how.dry_run }
            }
        })
    }
}

impl Real {
    fn words(&self) -> RealWords {
        RealWords {
            address: self.address.clone(),
            weight: self.weight,
            upper: self.upper,
            lower: self.lower,
            mac: self.mac.clone(),
        }
    }
}

impl Timeouts {
    pub(super) fn request(&self) -> Request {
        let said = |place: usize| self.seconds.get(place).copied().filter(|seconds| *seconds != 0);
        Request::Timeouts { tcp: said(0), tcp_fin: said(1), udp: said(2), dry_run: self.how.dry_run }
    }
}

impl How {
    pub(super) fn reload(&self) -> Request {
        Request::Reload { dry_run: self.dry_run }
    }
}
