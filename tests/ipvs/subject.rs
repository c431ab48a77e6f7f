//! Who can be asked, and the director among them.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use drover::clock::Now;
use drover::config::{self, Config, edit};
use drover::counters::Ledger;
use drover::director::{Director, Tables};
use drover::flow::{FlowTable, WideTable};
use drover::manage::echo;
use drover::packet::{Burst, answer, ethernet, ipv4};
use drover::service::{Composer, Reach, Snapshot, Station};
use drover::sim::SimFrame;
use drover::verdict::Verdict;

use super::listing::Known;
use super::packet::{self, DIRECTOR, real_mac};
use super::scenario::{
    Capability, Edit, Key, Listing, MARK_OF_NETWORK, MARK_OF_PORTS, MARKED_PORT, PAUSE, RealSpec, ServiceSpec, Step,
    Sysctl, VIPS, mask_bits, real_address,
};

pub trait Subject {
    /// Answers each step in turn; what went before is forgotten.
    fn run(&mut self, steps: &[Step]) -> Vec<Vec<String>>;
}

/// The pure director, one worker.
pub struct Pure;

impl Pure {
    /// What it does not do yet is not asked of it: this list gets shorter until it is empty.
    pub fn can(capability: Capability) -> bool {
        use Capability::*;
        match capability {
            Edits | Reuse | UsedUp | Schedulers | Persistence | OnePacket | Thresholds | AnyPort | Marks | Timeouts
            | Sysctls | Listings | Echo | ErrorsIn | Resets | ErrorsOut => true,
        }
    }
}

impl Subject for Pure {
    fn run(&mut self, steps: &[Step]) -> Vec<Vec<String>> {
        let mut course = Course::begin();
        steps.iter().map(|step| course.take(step)).collect()
    }
}

const MTU: u16 = 1500;

/// One run of the director.
struct Course {
    config: Config,
    composer: Composer,
    epoch: u64,
    snapshot: Snapshot,
    director: Director,
    ledger: Arc<Ledger>,
    now: Now,
    paused: bool,
    /// What the kernel has as sysctls and the director as settings of a service.
    expire_nodest_conn: bool,
    expire_quiescent_template: bool,
    services: Vec<ServiceSpec>,
    /// Reals that have a port of their own, by their numbers, which are the ports' too; and its MTU.
    narrow: HashMap<u8, u16>,
}

impl Course {
    fn begin() -> Course {
        let config = config::parse(&file(), "conformance").unwrap_or_else(|errors| panic!("{errors}"));
        let network = config.ports[0].address;
        let station = Station { mac: DIRECTOR, network, vlan: None, mtu: MTU };
        let mut composer = Composer::new(config.limits, vec![station]);
        let snapshot = composer.compose(1, &config, &reach).snapshot;
        let ledger = Arc::new(Ledger::new(config.limits.services, config.limits.reals));
        let narrow = FlowTable::new(4096, false, [0x2b7e_1516_28ae_d2a6, 0xabf7_1588_09cf_4f3c]).unwrap();
        let wide = WideTable::new(4096, false, [0x4528_21e6_38d0_1377, 0xbe54_66cf_34e9_0c6c]).unwrap();
        let half_open = narrow.slots();
        let director = Director::new(Tables { narrow, wide }, half_open, &snapshot, 0, ledger.clone());
        Course {
            config,
            composer,
            epoch: 1,
            snapshot,
            director,
            ledger,
            now: Now::from_secs(PAUSE),
            paused: false,
            expire_nodest_conn: false,
            expire_quiescent_template: false,
            services: Vec::new(),
            narrow: HashMap::new(),
        }
    }

    fn take(&mut self, step: &Step) -> Vec<String> {
        match step {
            Step::Packet(packet) => vec![self.packet(packet.frame())],
            Step::Pause => {
                self.now = Now::from_secs((self.now.0 / 1_000_000_000 / PAUSE + 1) * PAUSE);
                // The worker sweeps all the time, and comes round in ten seconds.
                self.paused = true;
                self.director.sweep(self.now, &self.snapshot, usize::MAX);
                Vec::new()
            }
            Step::Edit(edit) => self.edit(edit),
            Step::Mtu(real, mtu) => {
                self.narrow.insert(*real, *mtu);
                self.lay_narrow_ways();
                Vec::new()
            }
            Step::List(listing) => self.list(*listing),
        }
    }

    fn packet(&mut self, frame: Vec<u8>) -> String {
        let mut burst = Burst::new();
        burst.push(SimFrame(frame.clone()));
        let verdicts = self.director.decide(self.now, &self.snapshot.stations[0], &self.snapshot, &mut burst);
        let came = burst.remove(0).0;
        let sent = match verdicts[0] {
            Verdict::Forward { .. } => Some(came),
            Verdict::Drop(_) => None,
            Verdict::Answer(answer) => {
                let mtu = |egress| Some(self.narrow.get(&egress).copied().unwrap_or(MTU));
                answer::answer(&came, answer, mtu).map(without_padding)
            }
            // What else could be for management is not in any scenario.
            Verdict::Manage => echo_reply(&came).map(without_padding),
            Verdict::Host => return "host".into(),
            Verdict::Hand { worker } => panic!("there is no worker {worker}"),
        };
        packet::answer(&frame, sent.as_slice())
    }

    fn list(&mut self, listing: Listing) -> Vec<String> {
        let known = Known {
            config: &self.config,
            registry: self.composer.registry(),
            ledger: &self.ledger,
            flows: self.director.flows(),
            wide: self.director.wide_flows(),
            templates: self.director.templates(),
            tick: self.now.tick(),
            paused: self.paused,
        };
        match listing {
            Listing::Services => known.services(),
            Listing::Connections => known.connections(),
            Listing::Stats => known.stats(),
        }
    }

    /// Each edit is an epoch of its own.
    fn edit(&mut self, edit: &Edit) -> Vec<String> {
        match edit {
            Edit::AddService(service) => self.services.push(service.clone()),
            Edit::ChangeService(service) => {
                let there = self.services.iter_mut().find(|there| there.key == service.key);
                there.into_iter().for_each(|there| *there = service.clone());
            }
            Edit::DeleteService(key) => self.services.retain(|service| service.key != *key),
            Edit::Sysctl(which, on) => {
                *match which {
                    Sysctl::ExpireNodestConn => &mut self.expire_nodest_conn,
                    Sysctl::ExpireQuiescentTemplate => &mut self.expire_quiescent_template,
                } = *on;
                let services: Vec<_> = self.services.iter().map(|service| self.service_words(service)).collect();
                return services.into_iter().flat_map(|words| self.apply(&edit::Edit::EditService(words))).collect();
            }
            _ => (),
        }
        let edit = match edit {
            Edit::AddService(service) => edit::Edit::AddService(self.service_words(service)),
            Edit::ChangeService(service) => edit::Edit::EditService(self.service_words(service)),
            Edit::DeleteService(key) => edit::Edit::DeleteService(key_words(*key)),
            Edit::AddReal(key, real) => edit::Edit::AddReal(key_words(*key), real_words(*real)),
            Edit::ChangeReal(key, real) => edit::Edit::EditReal(key_words(*key), real_words(*real)),
            Edit::DeleteReal(key, number) => {
                let address = real_address(*number).to_string();
                edit::Edit::DeleteReal(key_words(*key), edit::RealWords { address, ..edit::RealWords::default() })
            }
            Edit::Timeouts(tcp, tcp_fin, udp) => {
                let seconds = |seconds: u32| (seconds > 0).then_some(seconds.into());
                edit::Edit::SetTimeouts { tcp: seconds(*tcp), tcp_fin: seconds(*tcp_fin), udp: seconds(*udp) }
            }
            Edit::Sysctl(..) => unreachable!("it was made above"),
        };
        self.apply(&edit)
    }

    fn apply(&mut self, edit: &edit::Edit) -> Vec<String> {
        if let Err(mistakes) = edit::apply(&mut self.config, edit) {
            return mistakes.iter().map(|mistake| format!("refused: {mistake}")).collect();
        }
        self.epoch += 1;
        let composition = self.composer.compose(self.epoch, &self.config, &reach);
        self.snapshot = composition.snapshot;
        self.lay_narrow_ways();
        self.ledger.restart(&composition.came.services, &composition.came.reals);
        self.director.adopt(self.now, &self.snapshot);
        Vec::new()
    }

    fn lay_narrow_ways(&mut self) {
        for (number, mtu) in &self.narrow {
            let there = self.snapshot.reals.iter_mut().filter(|real| real.address == real_address(*number));
            there.for_each(|real| (real.egress, real.mtu) = (*number, *mtu));
        }
    }

    fn service_words(&self, service: &ServiceSpec) -> edit::ServiceWords {
        edit::ServiceWords {
            scheduler: Some(service.scheduler.clone()),
            flags: Some(service.flags.clone()).filter(|flags| !flags.is_empty()),
            persistent: service.persistent.map(i64::from),
            netmask: service.persistent.map(|_| Ipv4Addr::from_bits(mask_bits(service.mask)).to_string()),
            one_packet: service.one_packet,
            expire_quiescent: service.persistent.is_some() && self.expire_quiescent_template,
            on_removed: Some(if self.expire_nodest_conn { "reset" } else { "drop" }.into()),
            on_miss: Some("reset".into()),
            ..key_words(service.key)
        }
    }
}

/// The director's wire, and what the kernel's iptables mark.
fn file() -> String {
    let (network, ports) = (MARK_OF_NETWORK, MARK_OF_PORTS);
    format!(
        "[[port]]\nname = \"lan\"\ntap = \"dtap0\"\naddress = \"10.9.0.10/24\"\n\
         [[match]]\nmark = {network}\ndestination = \"10.9.1.0/24\"\n\
         [[match]]\nmark = {ports}\ndestination = \"{}\"\nports = \"{MARKED_PORT}-{}\"\n",
        VIPS[1],
        MARKED_PORT + 9
    )
}

fn echo_reply(frame: &[u8]) -> Option<Vec<u8>> {
    let link = ethernet::parse(frame)?;
    let packet = &frame[link.payload..];
    echo::reply(&link, &ipv4::parse(packet, packet.len()).ok()?, packet, DIRECTOR)
}

/// Padding is Ethernet's, and the kernel leaves it to its driver.
fn without_padding(mut frame: Vec<u8>) -> Vec<u8> {
    let length = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    frame.truncate(ethernet::HEADER + length);
    frame
}

/// All reals answer at once.
fn reach(_: usize, address: Ipv4Addr) -> Reach {
    Reach::At(real_mac(address.octets()[3] - 10))
}

fn key_words(key: Key) -> edit::ServiceWords {
    let words = edit::ServiceWords::default();
    match key {
        Key::Tcp(address, port) => edit::ServiceWords { tcp: Some(format!("{address}:{port}")), ..words },
        Key::Udp(address, port) => edit::ServiceWords { udp: Some(format!("{address}:{port}")), ..words },
        Key::Mark(mark) => edit::ServiceWords { mark: Some(mark.into()), ..words },
    }
}

fn real_words(real: RealSpec) -> edit::RealWords {
    edit::RealWords {
        address: real_address(real.number).to_string(),
        weight: Some(real.weight.into()),
        upper: Some(real.upper.into()),
        lower: Some(real.lower.into()),
        mac: None,
    }
}
