//! Who can be asked, and the director among them.

use std::net::Ipv4Addr;
use std::sync::Arc;

use drover::clock::Now;
use drover::config::{Protocol, Scheduler, Settings, Takes};
use drover::counters::Ledger;
use drover::director::{Director, Tables};
use drover::flow::{FlowTable, WideTable};
use drover::packet::Burst;
use drover::service::{Reach, RealPlan, ServicePlan, Snapshot, Station};
use drover::sim::SimFrame;
use drover::verdict::Verdict;

use super::packet::{self, DIRECTOR, real_mac};
use super::scenario::{Capability, Edit, Key, PAUSE, Step, real_address};

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
            | Sysctls | Listings | Echo | ErrorsIn | Resets | ErrorsOut => false,
        }
    }
}

impl Subject for Pure {
    fn run(&mut self, steps: &[Step]) -> Vec<Vec<String>> {
        let mut course = Course::begin(steps);
        steps.iter().map(|step| course.take(step)).collect()
    }
}

/// One run of the director.
struct Course {
    snapshot: Snapshot,
    director: Director,
    now: Now,
}

impl Course {
    /// The edits before the first packet are the configuration.
    fn begin(steps: &[Step]) -> Course {
        let edits = steps.iter().map_while(|step| if let Step::Edit(edit) = step { Some(edit) } else { None });
        let mut plans: Vec<(Key, ServicePlan)> = Vec::new();
        for edit in edits {
            match edit {
                Edit::AddService(service) => plans.push((service.key, plan(service.key, &service.scheduler))),
                Edit::AddReal(key, real) => {
                    let reach = Reach::At(real_mac(real.number));
                    let address = real_address(real.number).into();
                    let of = plans.iter_mut().find(|(of, _)| of == key).expect("the service of the real");
                    let weight = u16::try_from(real.weight).expect("a weight of 16 bits");
                    of.1.reals.push(RealPlan {
                        address,
                        port: key.port(),
                        weight,
                        upper: 0,
                        lower: 0,
                        egress: 0,
                        reach,
                    });
                }
                other => panic!("not yet: {other}"),
            }
        }
        let network = "10.9.0.10/24".parse().unwrap();
        let station = Station { mac: DIRECTOR, network, vlan: None, mtu: 1500 };
        let plans: Vec<ServicePlan> = plans.into_iter().map(|(_, plan)| plan).collect();
        let snapshot = Snapshot::lay_out(1, vec![station], &plans);
        let ledger = Arc::new(Ledger::new(snapshot.services.len(), snapshot.reals.len()));
        let narrow = FlowTable::new(4096, false, [0x2b7e_1516_28ae_d2a6, 0xabf7_1588_09cf_4f3c]).unwrap();
        let half_open = narrow.slots();
        let wide = WideTable::new(4096, false, [0x452821e638d01377, 0xbe5466cf34e90c6c]).unwrap();
        let director = Director::new(Tables { narrow, wide }, half_open, &snapshot, 0, ledger);
        Course { snapshot, director, now: Now::from_secs(PAUSE) }
    }

    fn take(&mut self, step: &Step) -> Vec<String> {
        match step {
            Step::Packet(packet) => vec![self.packet(packet.frame())],
            Step::Pause => {
                self.now = Now::from_secs((self.now.0 / 1_000_000_000 / PAUSE + 1) * PAUSE);
                Vec::new()
            }
            Step::Edit(_) => Vec::new(),
            Step::List(_) => panic!("not yet: {step}"),
        }
    }

    fn packet(&mut self, frame: Vec<u8>) -> String {
        let mut burst = Burst::new();
        burst.push(SimFrame(frame.clone()));
        let verdicts = self.director.decide(self.now, &self.snapshot.stations[0], &self.snapshot, &mut burst);
        match verdicts[0] {
            Verdict::Forward { .. } => packet::answer(&frame, &[burst.remove(0).0]),
            Verdict::Drop(_) => "drop".into(),
            Verdict::Host => "host".into(),
            Verdict::Manage => "manage".into(),
            Verdict::Answer(kind) => {
                let told = drover::packet::answer::answer(&frame, kind, |_| Some(1500));
                packet::answer(&frame, &told.map(packet::without_padding).into_iter().collect::<Vec<_>>())
            }
            Verdict::Hand { worker } => format!("worker {worker}"),
        }
    }
}

fn plan(key: Key, scheduler: &str) -> ServicePlan {
    let (protocol, address, port) = match key {
        Key::Tcp(address, port) => (Protocol::Tcp, address, port),
        Key::Udp(address, port) => (Protocol::Udp, address, port),
        Key::Mark(_) => (Protocol::Tcp, Ipv4Addr::UNSPECIFIED, 0),
    };
    let scheduler = match scheduler {
        "rr" => Scheduler::RoundRobin,
        "wrr" => Scheduler::WeightedRoundRobin,
        other => panic!("not yet: {other}"),
    };
    let takes = Takes::exact(protocol, address, port);
    ServicePlan { takes, scheduler, settings: Settings::default(), reals: Vec::new() }
}
