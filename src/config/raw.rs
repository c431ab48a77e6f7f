//! What a file says, with the place of each value: right keys, right types, nothing yet about their meaning.
//!
//! Read from TOML's spanned tree and not by a derived deserializer, because that one stops at the first mistake.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::Mistakes;

pub(super) type Text = Option<Spanned<String>>;
pub(super) type Number = Option<Spanned<i64>>;
pub(super) type Switch = Option<Spanned<bool>>;

pub(super) struct RawConfig {
    pub hugepages: Switch,
    pub memory_mb: Number,
    pub idle: Text,
    pub management: Number,
    pub workers: Option<Spanned<RawWorkers>>,
    pub ports: Vec<RawPort>,
    pub flows_per_worker: Number,
    pub flows_half_open: Number,
    pub flows_wide: Number,
    pub control_socket: Text,
    pub max_services: Number,
    pub max_reals: Number,
    pub timeouts: RawTimeouts,
    pub matches: Vec<RawMatch>,
    pub services: Vec<RawService>,
}

#[derive(Default)]
pub(super) struct RawTimeouts {
    pub tcp: Number,
    pub tcp_fin: Number,
    pub udp: Number,
}

pub(super) enum RawWorkers {
    Count(i64),
    These(Vec<Spanned<i64>>),
}

pub(super) struct RawPort {
    pub at: usize,
    pub name: Text,
    pub pci: Text,
    pub af_packet: Text,
    pub tap: Text,
    pub vdev: Text,
    pub address: Text,
    pub gateway: Text,
    pub vlan: Number,
    pub mac: Text,
    pub mtu: Number,
    pub host_tap: Text,
    pub allow_host_addresses: Switch,
}

#[derive(Default)]
pub(super) struct RawService {
    pub at: usize,
    pub tcp: Text,
    pub udp: Text,
    pub mark: Number,
    pub scheduler: Text,
    pub flags: Text,
    pub persistent: Option<Spanned<RawPersistence>>,
    pub netmask: Text,
    pub expire_quiescent: Switch,
    pub one_packet: Switch,
    pub on_removed: Text,
    pub on_miss: Text,
    pub forward: Text,
    pub reals: Vec<RawReal>,
}

#[derive(Clone, Copy)]
pub(super) enum RawPersistence {
    Switch(bool),
    Seconds(i64),
}

#[derive(Default)]
pub(super) struct RawReal {
    pub at: usize,
    pub address: Text,
    pub weight: Number,
    pub upper: Number,
    pub lower: Number,
    pub mac: Text,
}

pub(super) struct RawMatch {
    pub at: usize,
    pub mark: Number,
    pub source: Text,
    pub destination: Text,
    pub ports: Text,
    pub protocol: Text,
    pub ingress: Text,
    pub source_mac: Text,
    pub not_source_mac: Text,
}

/// None: the text is not TOML, or something in it is no key or no type of ours.
pub(super) fn read(text: &str, mistakes: &mut Mistakes) -> Option<RawConfig> {
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let at = error.span().map_or(0, |span| span.start);
        mistakes.add(at, "", format!("not TOML: {}", error.message()));
    }
    // What the parser guessed after a syntax error would only add mistakes that nobody made.
    mistakes.is_empty().then(|| read_config(document.get_ref(), mistakes))
}

fn read_config(table: &DeTable<'_>, mistakes: &mut Mistakes) -> RawConfig {
    let mut top = Section::open(String::new(), 0, table, TOP_KEYS, mistakes);
    let hugepages = top.switch("hugepages");
    let memory_mb = top.number("memory_mb");
    let idle = top.text("idle");
    let cores = top.section("cores", &["management", "workers"], |cores| (cores.number("management"), cores.workers()));
    let (management, workers) = cores.unwrap_or_default();
    let ports = top.sections("port", PORT_KEYS, read_port);
    let flows = top.section("flows", &["per_worker", "half_open", "wide_per_worker"], |flows| {
        (flows.number("per_worker"), flows.number("half_open"), flows.number("wide_per_worker"))
    });
    let (flows_per_worker, flows_half_open, flows_wide) = flows.unwrap_or_default();
    let control_socket = top.section("control", &["socket"], |control| control.text("socket")).flatten();
    let (max_services, max_reals) = (top.number("max_services"), top.number("max_reals"));
    let timeouts = top.section("timeouts", &["tcp", "tcp_fin", "udp"], |timeouts| RawTimeouts {
        tcp: timeouts.number("tcp"),
        tcp_fin: timeouts.number("tcp_fin"),
        udp: timeouts.number("udp"),
    });
    let matches = top.sections("match", MATCH_KEYS, read_match);
    let services = top.sections("service", SERVICE_KEYS, read_service);
    RawConfig {
        hugepages,
        memory_mb,
        idle,
        management,
        workers,
        ports,
        flows_per_worker,
        flows_half_open,
        flows_wide,
        control_socket,
        max_services,
        max_reals,
        timeouts: timeouts.unwrap_or_default(),
        matches,
        services,
    }
}

const TOP_KEYS: &[&str] = &[
    "hugepages",
    "memory_mb",
    "idle",
    "cores",
    "port",
    "flows",
    "control",
    "max_services",
    "max_reals",
    "timeouts",
    "match",
    "service",
];

const SERVICE_KEYS: &[&str] = &[
    "tcp",
    "udp",
    "mark",
    "scheduler",
    "flags",
    "persistent",
    "netmask",
    "expire_quiescent",
    "one_packet",
    "on_removed",
    "on_miss",
    "forward",
    "real",
];

const MATCH_KEYS: &[&str] =
    &["mark", "source", "destination", "ports", "protocol", "ingress", "source_mac", "not_source_mac"];

const PORT_KEYS: &[&str] = &[
    "name",
    "pci",
    "af_packet",
    "tap",
    "vdev",
    "address",
    "gateway",
    "vlan",
    "mac",
    "mtu",
    "host_tap",
    "allow_host_addresses",
];

fn read_port(port: &mut Section) -> RawPort {
    RawPort {
        at: port.at,
        name: port.text("name"),
        pci: port.text("pci"),
        af_packet: port.text("af_packet"),
        tap: port.text("tap"),
        vdev: port.text("vdev"),
        address: port.text("address"),
        gateway: port.text("gateway"),
        vlan: port.number("vlan"),
        mac: port.text("mac"),
        mtu: port.number("mtu"),
        host_tap: port.text("host_tap"),
        allow_host_addresses: port.switch("allow_host_addresses"),
    }
}

fn read_service(service: &mut Section) -> RawService {
    RawService {
        at: service.at,
        tcp: service.text("tcp"),
        udp: service.text("udp"),
        mark: service.number("mark"),
        scheduler: service.text("scheduler"),
        flags: service.text("flags"),
        persistent: service.persistence(),
        netmask: service.text("netmask"),
        expire_quiescent: service.switch("expire_quiescent"),
        one_packet: service.switch("one_packet"),
        on_removed: service.text("on_removed"),
        on_miss: service.text("on_miss"),
        forward: service.text("forward"),
        reals: service.sections("real", &["address", "weight", "upper", "lower", "mac"], |real| RawReal {
            at: real.at,
            address: real.text("address"),
            weight: real.number("weight"),
            upper: real.number("upper"),
            lower: real.number("lower"),
            mac: real.text("mac"),
        }),
    }
}

fn read_match(rule: &mut Section) -> RawMatch {
    RawMatch {
        at: rule.at,
        mark: rule.number("mark"),
        source: rule.text("source"),
        destination: rule.text("destination"),
        ports: rule.text("ports"),
        protocol: rule.text("protocol"),
        ingress: rule.text("ingress"),
        source_mac: rule.text("source_mac"),
        not_source_mac: rule.text("not_source_mac"),
    }
}

/// One table of the file, its path, and where its mistakes go.
struct Section<'s, 'd, 'm> {
    path: String,
    at: usize,
    table: &'s DeTable<'d>,
    mistakes: &'s mut Mistakes<'m>,
}

impl<'s, 'd, 'm> Section<'s, 'd, 'm> {
    fn open(
        path: String,
        at: usize,
        table: &'s DeTable<'d>,
        known: &[&str],
        mistakes: &'s mut Mistakes<'m>,
    ) -> Section<'s, 'd, 'm> {
        for key in table.keys() {
            let name: &str = key.get_ref();
            if !known.contains(&name) {
                mistakes.add(key.span().start, join(&path, &shown_key(name)), unknown(name, known));
            }
        }
        Section { path, at, table, mistakes }
    }

    /// The value as `convert` understands it; what it does not is a mistake.
    fn value<T>(
        &mut self,
        key: &str,
        allowed: &str,
        convert: impl FnOnce(&DeValue<'d>) -> Option<T>,
    ) -> Option<Spanned<T>> {
        let value = self.table.get(key)?;
        match convert(value.get_ref()) {
            Some(converted) => Some(Spanned::new(value.span(), converted)),
            None => {
                let message = format!("{} is not allowed: {allowed}", found(value.get_ref()));
                self.mistakes.add(value.span().start, join(&self.path, key), message);
                None
            }
        }
    }

    fn text(&mut self, key: &str) -> Text {
        self.value(key, "a text in quotes", |value| value.as_str().map(str::to_owned))
    }

    fn number(&mut self, key: &str) -> Number {
        self.value(key, "a whole number", whole_number)
    }

    fn switch(&mut self, key: &str) -> Switch {
        self.value(key, "true or false", DeValue::as_bool)
    }

    fn persistence(&mut self) -> Option<Spanned<RawPersistence>> {
        self.value("persistent", "seconds, or true for 360", |value| {
            let seconds = || whole_number(value).map(RawPersistence::Seconds);
            value.as_bool().map(RawPersistence::Switch).or_else(seconds)
        })
    }

    fn workers(&mut self) -> Option<Spanned<RawWorkers>> {
        self.value("workers", "a number of cores, or a list of cores such as [1, 2]", |value| {
            let Some(array) = value.as_array() else {
                return whole_number(value).map(RawWorkers::Count);
            };
            let core = |core: &Spanned<DeValue>| Some(Spanned::new(core.span(), whole_number(core.get_ref())?));
            array.iter().map(core).collect::<Option<Vec<_>>>().map(RawWorkers::These)
        })
    }

    fn section<T>(&mut self, key: &str, known: &[&str], read: impl FnOnce(&mut Section) -> T) -> Option<T> {
        let value = self.table.get(key)?;
        let path = join(&self.path, key);
        let Some(table) = value.get_ref().as_table() else {
            let message = format!("{} is not allowed: a table, [{path}]", found(value.get_ref()));
            self.mistakes.add(value.span().start, path, message);
            return None;
        };
        Some(read(&mut Section::open(path, value.span().start, table, known, self.mistakes)))
    }

    fn sections<T>(&mut self, key: &str, known: &[&str], read: impl Fn(&mut Section) -> T) -> Vec<T> {
        let Some(value) = self.table.get(key) else {
            return Vec::new();
        };
        let path = join(&self.path, key);
        let allowed = format!("one or more tables, each beginning with [[{}]]", without_indices(&path));
        let Some(array) = value.get_ref().as_array() else {
            let message = format!("{} is not allowed: {allowed}", found(value.get_ref()));
            self.mistakes.add(value.span().start, path, message);
            return Vec::new();
        };
        let mut all = Vec::new();
        for (index, element) in array.iter().enumerate() {
            let path = format!("{path}[{index}]");
            let at = element.span().start;
            match element.get_ref().as_table() {
                Some(table) => all.push(read(&mut Section::open(path, at, table, known, self.mistakes))),
                None => {
                    let message = format!("{} is not allowed: {allowed}", found(element.get_ref()));
                    self.mistakes.add(at, path, message);
                }
            }
        }
        all
    }
}

fn whole_number(value: &DeValue) -> Option<i64> {
    let integer = value.as_integer()?;
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn without_indices(path: &str) -> String {
    path.split('.').map(|part| part.split('[').next().unwrap_or(part)).collect::<Vec<_>>().join(".")
}

/// A value as a message shows it: escaped and not too long.
fn found(value: &DeValue) -> String {
    match value {
        DeValue::String(text) => shown(text),
        DeValue::Integer(number) => shortened(&number.to_string()),
        DeValue::Float(number) => shortened(&number.to_string()),
        DeValue::Boolean(switch) => switch.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// A text as a message shows it: in quotes, escaped, and not too long.
pub(super) fn shown(text: &str) -> String {
    format!("{:?}", shortened(text))
}

fn shortened(text: &str) -> String {
    const MOST: usize = 80;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn shown_key(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if bare { shortened(key) } else { shown(key) }
}

fn unknown(key: &str, known: &[&str]) -> String {
    let near = known.iter().map(|name| (distance(key, name), name)).min();
    match near {
        Some((distance, name)) if distance <= 1 + name.len() / 3 => {
            format!("no such key: did you mean \"{name}\"?")
        }
        _ => format!("no such key: allowed here are {}", known.join(", ")),
    }
}

/// Letters to insert, delete or change.
fn distance(from: &str, to: &str) -> usize {
    const LONGEST: usize = 64;
    if from.len() > LONGEST {
        return usize::MAX;
    }
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, letter) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for column in 1..row.len() {
            let changed = diagonal + usize::from(to[column - 1] != letter);
            diagonal = row[column];
            row[column] = changed.min(row[column] + 1).min(row[column - 1] + 1);
        }
    }
    row[to.len()]
}
