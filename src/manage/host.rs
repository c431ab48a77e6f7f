//! What droverd changes on its host, and puts back: ICMP redirects, the kernel behind an `af_packet` interface, and the
//! offloads of that interface. Every change is written down before it is made, so that whoever starts after a
//! `kill -9` puts back what the killed one could not.

mod journal;
mod redirects;
mod silence;

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use journal::Record;
use redirects::Conf;

use crate::packet::{Ipv4Net, Mac};
use crate::sys::netdev::{self, Tap};

/// A default route of another interface is preferred.
const ROUTE_METRIC: u16 = 1_000;

/// The host as droverd found it. Dropping it puts everything back.
pub struct HostState {
    journal: PathBuf,
    conf: Conf,
    record: Record,
    recovered: bool,
}

impl HostState {
    /// Opens the journal, and first puts back what an instance that was killed has left in it. `proc` is `/proc`.
    pub fn prepare(journal: &Path, proc: &Path) -> io::Result<HostState> {
        let fresh = Record::new(proc);
        let conf = Conf::new(proc);
        let mut state = HostState { journal: journal.to_owned(), conf, record: fresh.clone(), recovered: false };
        let Some(left) = journal::load(journal)? else { return Ok(state) };
        if left.is_of_same_place(&fresh) {
            state.record = left;
            state.put_back().map_err(io::Error::other)?;
            state.record = fresh;
            state.recovered = true;
        } else {
            // Another boot or another network namespace: what was changed is gone, or out of reach.
            journal::remove(journal)?;
        }
        Ok(state)
    }

    /// Whether the last instance was killed and has just been cleaned up after.
    pub fn recovered(&self) -> bool {
        self.recovered
    }

    /// No ICMP redirects leave by these interfaces any more; all others go on as before.
    pub fn redirects_off(&mut self, interfaces: &[&str]) -> io::Result<()> {
        let plan = self.conf.plan(interfaces)?;
        for change in &plan {
            self.record.note_redirect(&change.interface, change.original);
        }
        self.save()?;
        self.conf.apply(&plan)
    }

    /// The kernel hears nothing from this interface any more (a packet socket still does), and nothing on it glues
    /// frames together.
    pub fn silence(&mut self, interface: &str) -> io::Result<()> {
        check_name(interface)?;
        let Some(index) = netdev::index(interface)? else {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no interface {interface}")));
        };
        self.record.note_table(&silence::table(interface));
        self.record.note_offloads(interface, index, netdev::offloads(interface)?);
        self.save()?;
        if let Err(error) = silence::drop_all(interface) {
            // nft does all or nothing; where it cannot work it could not remove either.
            self.record.forget_table(&silence::table(interface));
            self.save()?;
            return Err(error);
        }
        netdev::set_offloads(interface, netdev::Offloads { gro: false, lro: false })
    }

    /// Puts everything back. What failed is told, and stays in the journal for the next start.
    pub fn restore(mut self) -> Result<(), String> {
        self.put_back()
    }

    fn put_back(&mut self) -> Result<(), String> {
        if self.record.is_empty() {
            return Ok(());
        }
        let mut failures = self.conf.restore(self.record.redirects());
        for (interface, index, original) in self.record.offloads() {
            failures.extend(restore_offloads(interface, index, original).err());
        }
        for table in self.record.tables() {
            failures.extend(silence::remove(table).err());
        }
        if failures.is_empty() {
            failures.extend(journal::remove(&self.journal).err());
        }
        if failures.is_empty() {
            self.record.clear();
            return Ok(());
        }
        let failures: Vec<String> = failures.iter().map(io::Error::to_string).collect();
        Err(format!("cannot put back all that was changed: {}", failures.join("; ")))
    }

    fn save(&self) -> io::Result<()> {
        if self.record.is_empty() { Ok(()) } else { journal::save(&self.journal, &self.record) }
    }
}

impl Drop for HostState {
    fn drop(&mut self) {
        if let Err(why) = self.put_back() {
            log::error!("{why}");
        }
    }
}

/// Creates the host's TAP of a port, ready for use: with the port's MAC and address, and a default route if the port
/// has a gateway. The kernel speaks ARP on it only in that interface's own name.
pub fn create_tap(
    name: &str,
    mac: Mac,
    mtu: u16,
    address: Ipv4Net,
    gateway: Option<Ipv4Addr>,
    proc: &Path,
) -> io::Result<Tap> {
    check_name(name)?;
    let tap = Tap::create(name, mac, mtu)?;
    let conf = Conf::new(proc);
    conf.write(name, "send_redirects", 0)?;
    conf.write(name, "arp_ignore", 1)?;
    conf.write(name, "arp_announce", 2)?;
    netdev::set_address(name, address)?;
    netdev::set_up(name, true)?;
    if let Some(gateway) = gateway {
        netdev::add_default_route(name, gateway, ROUTE_METRIC)?;
    }
    Ok(tap)
}

/// An interface that has gone, or another one of the same name, is left alone.
fn restore_offloads(interface: &str, index: u32, original: netdev::Offloads) -> io::Result<()> {
    match netdev::index(interface)? {
        Some(now) if now == index => netdev::set_offloads(interface, original),
        _ => Ok(()),
    }
}

/// Names become paths below `/proc` and words of an nft script.
fn check_name(interface: &str) -> io::Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:@".contains(&byte);
    let fits = (1..16).contains(&interface.len()) && interface.bytes().all(plain);
    if fits && !interface.bytes().all(|byte| byte == b'.') && !["all", "default"].contains(&interface) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("\"{interface}\" is no name for an interface")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use tempfile::TempDir;

    struct Fake {
        dir: TempDir,
    }

    impl Fake {
        fn new(values: &[(&str, &str)]) -> Fake {
            let fake = Fake { dir: TempDir::new().unwrap() };
            fs::create_dir_all(fake.proc().join("sys/kernel/random")).unwrap();
            fs::write(fake.proc().join("sys/kernel/random/boot_id"), "one\n").unwrap();
            values.iter().for_each(|(name, value)| fake.set(name, value));
            fake
        }

        fn proc(&self) -> PathBuf {
            self.dir.path().join("proc")
        }

        fn journal(&self) -> PathBuf {
            self.dir.path().join("host.json")
        }

        fn set(&self, name: &str, value: &str) {
            let conf = self.proc().join("sys/net/ipv4/conf").join(name);
            fs::create_dir_all(&conf).unwrap();
            fs::write(conf.join("send_redirects"), format!("{value}\n")).unwrap();
        }

        fn remove(&self, name: &str) {
            fs::remove_dir_all(self.proc().join("sys/net/ipv4/conf").join(name)).unwrap();
        }

        fn values(&self) -> BTreeMap<String, String> {
            let conf = fs::read_dir(self.proc().join("sys/net/ipv4/conf")).unwrap();
            conf.map(|entry| {
                let entry = entry.unwrap();
                let value = fs::read_to_string(entry.path().join("send_redirects")).unwrap();
                (entry.file_name().into_string().unwrap(), value.trim().to_owned())
            })
            .collect()
        }

        fn is(&self, expected: &[(&str, &str)]) {
            let expected: BTreeMap<_, _> =
                expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            assert_eq!(self.values(), expected);
        }

        fn prepare(&self) -> HostState {
            HostState::prepare(&self.journal(), &self.proc()).unwrap()
        }
    }

    const KERNELS_DEFAULT: &[(&str, &str)] =
        &[("all", "1"), ("default", "1"), ("eth0", "1"), ("eth1", "0"), ("drover0", "1")];

    #[test]
    fn others_go_on_as_before_and_all_is_put_back() {
        let fake = Fake::new(KERNELS_DEFAULT);
        let mut state = fake.prepare();
        state.redirects_off(&["drover0"]).unwrap();
        // eth1 sent redirects because `all` said so: now it says so itself.
        fake.is(&[("all", "0"), ("default", "1"), ("eth0", "1"), ("eth1", "1"), ("drover0", "0")]);
        assert_eq!(fs::metadata(fake.journal()).unwrap().permissions().mode() & 0o777, 0o600);
        state.restore().unwrap();
        fake.is(KERNELS_DEFAULT);
        assert!(!fake.journal().exists());
    }

    #[test]
    fn new_interfaces_begin_as_they_would_have() {
        let before = &[("all", "1"), ("default", "0"), ("drover0", "0")];
        let fake = Fake::new(before);
        let mut state = fake.prepare();
        state.redirects_off(&["drover0"]).unwrap();
        fake.is(&[("all", "0"), ("default", "1"), ("drover0", "0")]);
        drop(state);
        fake.is(before);
    }

    #[test]
    fn where_all_is_off_only_ours_is_changed() {
        let before = &[("all", "0"), ("default", "0"), ("eth0", "1"), ("eth1", "0"), ("drover0", "1")];
        let fake = Fake::new(before);
        let mut state = fake.prepare();
        state.redirects_off(&["drover0"]).unwrap();
        fake.is(&[("all", "0"), ("default", "0"), ("eth0", "1"), ("eth1", "0"), ("drover0", "0")]);
        drop(state);
        fake.is(before);
    }

    #[test]
    fn where_all_is_off_already_nothing_is_written() {
        let fake = Fake::new(&[("all", "0"), ("default", "0"), ("drover0", "0")]);
        let mut state = fake.prepare();
        state.redirects_off(&["drover0"]).unwrap();
        assert!(!fake.journal().exists());
    }

    #[test]
    fn a_killed_one_is_cleaned_up_after_at_the_next_start() {
        let fake = Fake::new(KERNELS_DEFAULT);
        let mut killed = fake.prepare();
        killed.redirects_off(&["drover0"]).unwrap();
        std::mem::forget(killed);
        let next = fake.prepare();
        assert!(next.recovered());
        fake.is(KERNELS_DEFAULT);
        drop(next);
        fake.is(KERNELS_DEFAULT);
        assert!(!fake.prepare().recovered());
    }

    #[test]
    fn the_journal_is_written_before_anything_is_changed() {
        let fake = Fake::new(KERNELS_DEFAULT);
        let mut state = fake.prepare();
        state.journal = fake.dir.path().join("no/such/directory/host.json");
        assert!(state.redirects_off(&["drover0"]).is_err());
        fake.is(KERNELS_DEFAULT);
        std::mem::forget(state);
    }

    #[test]
    fn killed_between_the_journal_and_the_changes_or_within_them() {
        for changed in 0..4 {
            let fake = Fake::new(KERNELS_DEFAULT);
            let mut killed = fake.prepare();
            let plan = killed.conf.plan(&["drover0"]).unwrap();
            plan.iter().for_each(|change| killed.record.note_redirect(&change.interface, change.original));
            killed.save().unwrap();
            killed.conf.apply(&plan[..changed.min(plan.len())]).unwrap();
            std::mem::forget(killed);
            assert!(fake.prepare().recovered());
            fake.is(KERNELS_DEFAULT);
        }
    }

    #[test]
    fn interfaces_come_and_go_meanwhile() {
        let fake = Fake::new(KERNELS_DEFAULT);
        let mut state = fake.prepare();
        state.redirects_off(&["drover0"]).unwrap();
        fake.remove("drover0");
        fake.remove("eth1");
        fake.set("eth9", "1");
        state.restore().unwrap();
        fake.is(&[("all", "1"), ("default", "1"), ("eth0", "1"), ("eth9", "1")]);
    }

    #[test]
    fn a_second_call_keeps_the_first_originals() {
        let fake = Fake::new(KERNELS_DEFAULT);
        let mut state = fake.prepare();
        state.redirects_off(&["drover0"]).unwrap();
        state.redirects_off(&["drover0", "eth1"]).unwrap();
        fake.is(&[("all", "0"), ("default", "1"), ("eth0", "1"), ("eth1", "0"), ("drover0", "0")]);
        drop(state);
        fake.is(KERNELS_DEFAULT);
    }

    #[test]
    fn the_journal_of_another_boot_changes_nothing() {
        let fake = Fake::new(KERNELS_DEFAULT);
        let mut killed = fake.prepare();
        killed.redirects_off(&["drover0"]).unwrap();
        std::mem::forget(killed);
        fs::write(fake.proc().join("sys/kernel/random/boot_id"), "two\n").unwrap();
        let running = fake.values();
        assert!(!fake.prepare().recovered());
        assert_eq!(fake.values(), running);
        assert!(!fake.journal().exists());
    }

    #[test]
    fn a_journal_that_cannot_be_read_is_told_and_kept() {
        let fake = Fake::new(KERNELS_DEFAULT);
        for text in ["", "{", "{\"version\":2}", "[]"] {
            fs::write(fake.journal(), text).unwrap();
            let Err(error) = HostState::prepare(&fake.journal(), &fake.proc()) else { panic!("read {text:?}") };
            assert!(error.to_string().contains("host.json"), "{error}");
            assert!(fake.journal().exists());
        }
    }

    #[test]
    fn a_journal_does_not_reach_outside_the_interfaces() {
        let fake = Fake::new(&[("all", "1"), ("default", "1")]);
        let outside = fake.proc().join("sys/net/ipv4/send_redirects");
        fs::write(&outside, "untouched").unwrap();
        let record = r#"{"version":1,"boot":"one","namespace":"","redirects":[["..",1]],"offloads":[],"tables":[]}"#;
        fs::write(fake.journal(), record).unwrap();
        assert!(HostState::prepare(&fake.journal(), &fake.proc()).is_err());
        assert_eq!(fs::read_to_string(outside).unwrap(), "untouched");
    }

    #[test]
    fn an_interface_that_does_not_exist_is_no_reason_to_change_anything() {
        let fake = Fake::new(KERNELS_DEFAULT);
        let mut state = fake.prepare();
        for name in ["nobody", "..", "all", "", "a/b"] {
            assert!(state.redirects_off(&[name]).is_err(), "{name}");
        }
        fake.is(KERNELS_DEFAULT);
    }
}
