//! The config socket's language: one JSON object a line, in both directions.
//!
//! ```text
//! → {"v":1,"verb":"status"}
//! ← {"v":1,"ok":{"status":{…}}}
//! ← {"v":1,"error":"…"}
//! ```
//! A server refuses a line longer than [`MAX_REQUEST`] and a version it does not speak; it never grows past that.
//! Requests are read strictly: a field that the director does not know is an error, because ignoring it could do
//! something else than was asked. Answers are read leniently: a client ignores fields that it does not know.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::edit::Edit;
pub use crate::config::edit::{RealWords, ServiceWords};
pub use crate::packet::PortStats;

pub const VERSION: u32 = 1;
/// The longest request line, with its newline.
pub const MAX_REQUEST: usize = 64 * 1024;
/// The longest answer that a client reads.
pub const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// The most connections in one answer; the client asks on from `next`.
pub const CONN_PAGE: usize = 4096;

/// A request as it goes over the socket; [`parse_request`] is the way back.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Envelope {
    pub v: u32,
    #[serde(flatten)]
    pub request: Request,
}

impl Envelope {
    pub fn new(request: Request) -> Envelope {
        Envelope { v: VERSION, request }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verb")]
pub enum Request {
    #[serde(rename = "status")]
    Status,
    #[serde(rename = "service list")]
    ServiceList,
    /// One page of connections, from where the last one ended.
    #[serde(rename = "conn list")]
    ConnList {
        #[serde(default)]
        from: ConnCursor,
    },
    #[serde(rename = "stats")]
    Stats,
    #[serde(rename = "service add")]
    ServiceAdd {
        service: ServiceWords,
        /// Only says what would be done.
        #[serde(default, skip_serializing_if = "is_false")]
        dry_run: bool,
    },
    /// Everything but its reals is as said from now on.
    #[serde(rename = "service edit")]
    ServiceEdit {
        service: ServiceWords,
        #[serde(default, skip_serializing_if = "is_false")]
        dry_run: bool,
    },
    #[serde(rename = "service delete")]
    ServiceDelete {
        service: ServiceName,
        #[serde(default, skip_serializing_if = "is_false")]
        dry_run: bool,
    },
    #[serde(rename = "real add")]
    RealAdd {
        service: ServiceName,
        real: RealWords,
        #[serde(default, skip_serializing_if = "is_false")]
        dry_run: bool,
    },
    /// As said from now on, but a MAC address that was given stays.
    #[serde(rename = "real edit")]
    RealEdit {
        service: ServiceName,
        real: RealWords,
        #[serde(default, skip_serializing_if = "is_false")]
        dry_run: bool,
    },
    #[serde(rename = "real delete")]
    RealDelete {
        service: ServiceName,
        real: RealName,
        #[serde(default, skip_serializing_if = "is_false")]
        dry_run: bool,
    },
    /// Seconds; what is not said stays as it is.
    #[serde(rename = "timeouts")]
    Timeouts {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tcp: Option<i64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tcp_fin: Option<i64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        udp: Option<i64>,
        #[serde(default, skip_serializing_if = "is_false")]
        dry_run: bool,
    },
    /// Reads the file again.
    #[serde(rename = "reload")]
    Reload {
        #[serde(default, skip_serializing_if = "is_false")]
        dry_run: bool,
    },
    #[serde(rename = "config show")]
    ConfigShow,
    #[serde(rename = "stop")]
    Stop,
}

fn is_false(value: &bool) -> bool {
    !*value
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// Every verb, with the fields it takes.
const VERBS: &[(&str, &[&str])] = &[
    ("status", &[]),
    ("service list", &[]),
    ("conn list", &["from"]),
    ("stats", &[]),
    ("service add", &["service", "dry_run"]),
    ("service edit", &["service", "dry_run"]),
    ("service delete", &["service", "dry_run"]),
    ("real add", &["service", "real", "dry_run"]),
    ("real edit", &["service", "real", "dry_run"]),
    ("real delete", &["service", "real", "dry_run"]),
    ("timeouts", &["tcp", "tcp_fin", "udp", "dry_run"]),
    ("reload", &["dry_run"]),
    ("config show", &[]),
    ("stop", &[]),
];

/// Which service: exactly one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceName {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<i64>,
}

/// Which of its reals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RealName {
    pub address: String,
}

impl Request {
    /// What it wants changed of services, reals or timeouts, and whether only to hear what that would do.
    pub fn as_edit(&self) -> Option<(Edit, bool)> {
        Some(match self.clone() {
            Request::ServiceAdd { service, dry_run } => (Edit::AddService(service), dry_run),
            Request::ServiceEdit { service, dry_run } => (Edit::EditService(service), dry_run),
            Request::ServiceDelete { service, dry_run } => (Edit::DeleteService(service.into()), dry_run),
            Request::RealAdd { service, real, dry_run } => (Edit::AddReal(service.into(), real), dry_run),
            Request::RealEdit { service, real, dry_run } => (Edit::EditReal(service.into(), real), dry_run),
            Request::RealDelete { service, real, dry_run } => {
                let real = RealWords { address: real.address, ..RealWords::default() };
                (Edit::DeleteReal(service.into(), real), dry_run)
            }
            Request::Timeouts { tcp: None, tcp_fin: None, udp: None, .. } => return None,
            Request::Timeouts { tcp, tcp_fin, udp, dry_run } => (Edit::SetTimeouts { tcp, tcp_fin, udp }, dry_run),
            _ => return None,
        })
    }
}

impl From<ServiceName> for ServiceWords {
    fn from(ServiceName { tcp, udp, mark }: ServiceName) -> ServiceWords {
        ServiceWords { tcp, udp, mark, ..ServiceWords::default() }
    }
}

/// Why a line is no request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestError {
    NotUtf8,
    NotJson(String),
    NoVersion,
    OtherVersion(String),
    NoVerb,
    UnknownVerb(String),
    UnknownField { verb: &'static str, field: String },
    BadField { verb: &'static str, why: String },
}

impl fmt::Display for RequestError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestError::NotUtf8 => write!(out, "the request is not UTF-8"),
            RequestError::NotJson(why) => write!(out, "the request is not a JSON object on one line: {why}"),
            RequestError::NoVersion => write!(out, "the request has no version: put \"v\":{VERSION} in it"),
            RequestError::OtherVersion(theirs) => {
                write!(out, "the request is of version {theirs}; this director speaks version {VERSION}")
            }
            RequestError::NoVerb => write!(out, "the request has no \"verb\"; there are {}", verbs()),
            RequestError::UnknownVerb(verb) => write!(out, "unknown verb {verb}; there are {}", verbs()),
            RequestError::UnknownField { verb, field } => write!(out, "\"{verb}\" has no field {field}"),
            RequestError::BadField { verb, why } => write!(out, "\"{verb}\": {why}"),
        }
    }
}

impl std::error::Error for RequestError {}

fn verbs() -> String {
    VERBS.iter().map(|(verb, _)| format!("\"{verb}\"")).collect::<Vec<_>>().join(", ")
}

/// What a peer wrote, short enough to be quoted back.
fn quoted(what: impl fmt::Display) -> String {
    const LONGEST: usize = 80;
    let text = what.to_string();
    if text.chars().count() <= LONGEST { text } else { text.chars().take(LONGEST).chain(['…']).collect() }
}

/// One line of the socket, whatever its bytes, to a request.
pub fn parse_request(line: &[u8]) -> Result<Request, RequestError> {
    let text = str::from_utf8(line).map_err(|_| RequestError::NotUtf8)?;
    let mut object: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| RequestError::NotJson(quoted(error)))?;
    let version = object.remove("v").ok_or(RequestError::NoVersion)?;
    if version.as_u64() != Some(u64::from(VERSION)) {
        return Err(RequestError::OtherVersion(quoted(version)));
    }
    let asked = object.get("verb").ok_or(RequestError::NoVerb)?;
    let known = VERBS.iter().find(|(verb, _)| asked.as_str() == Some(verb));
    let (verb, fields) = known.ok_or_else(|| RequestError::UnknownVerb(quoted(asked)))?;
    if let Some(field) = object.keys().find(|key| *key != "verb" && !fields.contains(&key.as_str())) {
        return Err(RequestError::UnknownField { verb, field: quoted(Value::from(field.as_str())) });
    }
    serde_json::from_value(Value::Object(object)).map_err(|error| RequestError::BadField { verb, why: quoted(error) })
}

/// Goes up from page to page: the client stops at a cursor that does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnCursor {
    pub worker: usize,
    pub bucket: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    pub v: u32,
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Reply {
    pub fn new(outcome: Outcome) -> Reply {
        Reply { v: VERSION, outcome }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "one at a time, on its way to the socket")]
pub enum Outcome {
    Ok(Answer),
    Error(String),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Status(Status),
    Services(Vec<ServiceEntry>),
    Connections(ConnPage),
    Stats(Stats),
    Changed(Changed),
    Timeouts(TimeoutsEntry),
    /// As a file would have it.
    Config(String),
    Stopping,
}

/// What became of a change that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Nothing was changed: this is what would be.
    pub dry_run: bool,
    /// One line each, in the order in which they were made; none: all was so already.
    pub changes: Vec<String>,
    /// What else the operator should know.
    pub notes: Vec<String>,
    /// The epoch of the configuration in force.
    pub epoch: u64,
    /// Workers that had not taken it up when the director's patience ended.
    pub workers_behind: usize,
}

/// Seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeoutsEntry {
    pub tcp: u32,
    pub tcp_fin: u32,
    pub udp: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub commit: String,
    pub dpdk: String,
    pub pid: u32,
    pub uptime_seconds: u64,
    pub config: String,
    /// The epoch of the configuration in force.
    pub epoch: u64,
    pub management_core: usize,
    #[serde(default)]
    pub steering: Steering,
    pub ports: Vec<PortStatus>,
    pub workers: Vec<WorkerStatus>,
    /// What the operator should know: a real that does not answer, somebody else with our address.
    pub warnings: Vec<String>,
}

/// Who sees to it that all packets of a flow come to the worker that owns it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Steering {
    #[default]
    OneWorker,
    /// By its hash, of which key and table were read back.
    Nic,
    /// The workers themselves, who hand over what came to the wrong one.
    Software,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PortStatus {
    pub name: String,
    /// As configured: `tap dtap0`, `pci 0000:3b:00.0`.
    pub device: String,
    pub driver: String,
    pub mac: String,
    pub address: String,
    pub vlan: Option<u16>,
    pub gateway: Option<Ipv4Addr>,
    pub gateway_mac: Option<String>,
    pub mtu: u16,
    pub link_up: bool,
    /// Megabits a second, 0 when the port does not know.
    pub speed: u32,
    pub queues: usize,
    pub host_tap: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    pub id: usize,
    pub core: usize,
    pub flows: u64,
    pub flow_capacity: u64,
    /// What backs the flow table, e.g. "2 MB pages" or "4 KB pages".
    pub flow_memory: String,
    /// The epoch that it has passed.
    pub epoch: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceEntry {
    /// `TCP`, `UDP`, or `FWM` for a service by firewall mark.
    pub protocol: String,
    /// `10.9.0.100:80`, `10.9.0.100:8000-8099`, `192.0.2.0/28:80`; port 0 is any. Of a service by mark, the mark.
    pub address: String,
    pub scheduler: String,
    /// As ipvsadm prints them behind the scheduler: `(sh-port) persistent 300 ops`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub flags: String,
    /// Seconds; none: not persistent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent: Option<u32>,
    /// Of the clients that persistence takes for one; none: each for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netmask: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub expire_quiescent: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub one_packet: bool,
    /// `reschedule`, `reset` or `drop`.
    #[serde(default)]
    pub on_removed: String,
    /// `hash`, `reset` or `drop`.
    #[serde(default)]
    pub on_miss: String,
    /// Those of these that no flag says, where they are not the default, for listings.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub manners: String,
    pub traffic: TrafficEntry,
    pub reals: Vec<RealEntry>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RealEntry {
    pub address: SocketAddrV4,
    /// `Route`, as ipvsadm says.
    pub forward: String,
    pub weight: u16,
    /// New connections end at so many, and begin again below so many; 0: never.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub upper: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lower: u32,
    pub state: RealState,
    pub mac: Option<String>,
    pub traffic: TrafficEntry,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RealState {
    Resolved,
    Resolving,
    Unreachable,
    /// The MAC was given by hand.
    Fixed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficEntry {
    pub connections: u64,
    pub packets: u64,
    pub bytes: u64,
    pub active: u64,
    pub inactive: u64,
    /// The director's ICMP errors about these connections, also those that a limit held back.
    #[serde(default)]
    pub answers: u64,
    #[serde(default)]
    pub answer_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnPage {
    pub connections: Vec<ConnEntry>,
    /// Where to go on; none: that was all.
    pub next: Option<ConnCursor>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnEntry {
    pub protocol: String,
    pub client: SocketAddrV4,
    pub virtual_address: SocketAddrV4,
    pub real: SocketAddrV4,
    pub state: String,
    pub expires_seconds: u64,
    pub worker: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    pub total: FrameStats,
    pub workers: Vec<FrameStats>,
    pub ports: Vec<PortStats>,
    pub manage: ManageStats,
}

/// A worker's counters, as `crate::counters` names them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FrameStats {
    pub received: u64,
    pub received_bytes: u64,
    pub forwarded: u64,
    pub forwarded_bytes: u64,
    pub to_manage: u64,
    pub to_host: u64,
    /// Of flows that another worker owns: given to it, and taken from others.
    #[serde(default)]
    pub handed_out: u64,
    #[serde(default)]
    pub handed_in: u64,
    /// By name, only those that are not zero.
    pub dropped: std::collections::BTreeMap<String, u64>,
    pub originated: u64,
    pub originated_sent: u64,
    pub originated_dropped: u64,
    pub flows: u64,
    pub flows_created: u64,
    pub flows_expired: u64,
    /// Of the forwarded: without an entry, because the table or the half-open connections are at their limit.
    #[serde(default)]
    pub stateless: u64,
    /// Clients of persistent services that there was no room to remember.
    #[serde(default)]
    pub templates_refused: u64,
    pub turns: u64,
    pub waits: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ManageStats {
    pub arp_replies: u64,
    pub arp_requests: u64,
    pub gratuitous_arps: u64,
    pub echo_replies: u64,
    /// ARP and pings, not answered because of the rate limit.
    pub rate_limited: u64,
    /// What senders of packets that go nowhere were told, and what they were not because of the rate limit of its kind.
    #[serde(default)]
    pub resets: u64,
    #[serde(default)]
    pub resets_limited: u64,
    #[serde(default)]
    pub port_unreachable: u64,
    #[serde(default)]
    pub port_unreachable_limited: u64,
    #[serde(default)]
    pub time_exceeded: u64,
    #[serde(default)]
    pub time_exceeded_limited: u64,
    #[serde(default)]
    pub fragmentation_needed: u64,
    #[serde(default)]
    pub fragmentation_needed_limited: u64,
    /// Handed to the management core, and nothing to be done about them.
    pub ignored: u64,
    /// Somebody else claimed a virtual address or the port's own.
    pub conflicts: u64,
    pub host_received: u64,
    pub host_sent: u64,
    pub host_dropped: u64,
}
