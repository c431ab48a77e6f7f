//! The names of schedulers and their flags, as ipvsadm has them.

use std::fmt;

/// How a service chooses a real for a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduler {
    RoundRobin,
    WeightedRoundRobin,
    LeastConnection,
    WeightedLeastConnection,
    LocalityLeastConnection,
    LocalityReplicated,
    DestinationHash,
    SourceHash(HashFlags),
    ShortestDelay,
    NeverQueue,
    FailOver,
    Overflow,
    /// The kernel's Maglev, `mh`: 4,093 places.
    KernelMaglev(HashFlags),
    TwoChoices,
    /// Our own, which the kernel does not have: 65,537 places.
    Maglev,
}

/// What `sh-port`, `sh-fallback` and their like for mh say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HashFlags {
    /// The client's port is hashed too.
    pub port: bool,
    /// Who would get a real that takes nothing gets another.
    pub fallback: bool,
}

/// Why a name with its flags is no scheduler, and what would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoScheduler {
    Name(String),
    Flag { scheduler: &'static str, flag: String, allowed: &'static [&'static str] },
    FlagTwice(String),
}

const NONE: HashFlags = HashFlags { port: false, fallback: false };
const SH_FLAGS: &[&str] = &["sh-fallback", "sh-port"];
const MH_FLAGS: &[&str] = &["mh-fallback", "mh-port"];

impl Scheduler {
    /// All of them, without flags.
    pub const ALL: [Scheduler; 15] = [
        Scheduler::RoundRobin,
        Scheduler::WeightedRoundRobin,
        Scheduler::LeastConnection,
        Scheduler::WeightedLeastConnection,
        Scheduler::LocalityLeastConnection,
        Scheduler::LocalityReplicated,
        Scheduler::DestinationHash,
        Scheduler::SourceHash(NONE),
        Scheduler::ShortestDelay,
        Scheduler::NeverQueue,
        Scheduler::FailOver,
        Scheduler::Overflow,
        Scheduler::KernelMaglev(NONE),
        Scheduler::TwoChoices,
        Scheduler::Maglev,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Scheduler::RoundRobin => "rr",
            Scheduler::WeightedRoundRobin => "wrr",
            Scheduler::LeastConnection => "lc",
            Scheduler::WeightedLeastConnection => "wlc",
            Scheduler::LocalityLeastConnection => "lblc",
            Scheduler::LocalityReplicated => "lblcr",
            Scheduler::DestinationHash => "dh",
            Scheduler::SourceHash(_) => "sh",
            Scheduler::ShortestDelay => "sed",
            Scheduler::NeverQueue => "nq",
            Scheduler::FailOver => "fo",
            Scheduler::Overflow => "ovf",
            Scheduler::KernelMaglev(_) => "mh",
            Scheduler::TwoChoices => "twos",
            Scheduler::Maglev => "maglev",
        }
    }

    /// The flags that it can have: the fallback's, then the port's.
    pub const fn allowed_flags(self) -> &'static [&'static str] {
        match self {
            Scheduler::SourceHash(_) => SH_FLAGS,
            Scheduler::KernelMaglev(_) => MH_FLAGS,
            _ => &[],
        }
    }

    /// Those that it has, in the order in which ipvsadm prints them.
    pub fn flags(self) -> impl Iterator<Item = &'static str> {
        let set = match self {
            Scheduler::SourceHash(flags) | Scheduler::KernelMaglev(flags) => flags,
            _ => NONE,
        };
        self.allowed_flags().iter().copied().zip([set.fallback, set.port]).filter(|(_, set)| *set).map(|(name, _)| name)
    }

    pub fn parse<'t>(name: &str, flags: impl IntoIterator<Item = &'t str>) -> Result<Scheduler, NoScheduler> {
        let found = Scheduler::ALL.into_iter().find(|scheduler| scheduler.name() == name);
        let scheduler = found.ok_or_else(|| NoScheduler::Name(name.to_owned()))?;
        let allowed = scheduler.allowed_flags();
        let mut set = [false; 2];
        for flag in flags {
            let place = allowed.iter().position(|allowed| *allowed == flag);
            let refused = || NoScheduler::Flag { scheduler: scheduler.name(), flag: flag.to_owned(), allowed };
            let seen = &mut set[place.ok_or_else(refused)?];
            if std::mem::replace(seen, true) {
                return Err(NoScheduler::FlagTwice(flag.to_owned()));
            }
        }
        let flags = HashFlags { fallback: set[0], port: set[1] };
        Ok(match scheduler {
            Scheduler::SourceHash(_) => Scheduler::SourceHash(flags),
            Scheduler::KernelMaglev(_) => Scheduler::KernelMaglev(flags),
            other => other,
        })
    }
}

impl fmt::Display for NoScheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoScheduler::Name(name) => {
                let names: Vec<_> = Scheduler::ALL.iter().map(|scheduler| scheduler.name()).collect();
                write!(f, "there is no scheduler {name:?}: use one of {}", names.join(", "))
            }
            NoScheduler::Flag { scheduler, flag, allowed: [] } => {
                write!(f, "{flag:?} does not belong to {scheduler}, which has no flags: leave it out")
            }
            NoScheduler::Flag { scheduler, flag, allowed } => {
                write!(f, "{flag:?} does not belong to {scheduler}: its flags are {}", allowed.join(" and "))
            }
            NoScheduler::FlagTwice(flag) => write!(f, "{flag:?} is there twice: once is enough"),
        }
    }
}

impl std::error::Error for NoScheduler {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_comes_back() {
        for scheduler in Scheduler::ALL {
            assert_eq!(Scheduler::parse(scheduler.name(), []), Ok(scheduler));
            let full = Scheduler::parse(scheduler.name(), scheduler.allowed_flags().iter().copied()).unwrap();
            assert_eq!(full.flags().collect::<Vec<_>>(), scheduler.allowed_flags());
            assert_eq!(Scheduler::parse(full.name(), full.flags()), Ok(full));
        }
        let port = Scheduler::parse("mh", ["mh-port"]).unwrap();
        assert_eq!(port, Scheduler::KernelMaglev(HashFlags { port: true, fallback: false }));
        assert_eq!(port.flags().collect::<Vec<_>>(), ["mh-port"]);
    }

    #[test]
    fn what_does_not_belong_is_refused_with_the_remedy() {
        let reason =
            |name: &str, flags: &[&'static str]| Scheduler::parse(name, flags.to_vec()).unwrap_err().to_string();
        assert_eq!(
            reason("wlcr", &[]),
            "there is no scheduler \"wlcr\": use one of rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh, \
             twos, maglev"
        );
        assert_eq!(reason("wrr", &["sh-port"]), "\"sh-port\" does not belong to wrr, which has no flags: leave it out");
        assert_eq!(
            reason("sh", &["sh-port", "mh-port"]),
            "\"mh-port\" does not belong to sh: its flags are sh-fallback and sh-port"
        );
        assert_eq!(reason("mh", &["mh-port", "mh-port"]), "\"mh-port\" is there twice: once is enough");
    }
}
