//! The holder: one process in mount, network and PID namespaces of its own (and a user namespace, unless we are root).
//!
//! Everything in the lab lives inside them: the hosts' network namespaces are named in a private /run, the servers and
//! the director run in the PID namespace. When the holder ends, however it ends, the kernel ends all of it. Nothing can
//! be left behind on the machine.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, geteuid, kill_process};

use super::error::{LabError, Result, doing, wait_for};
use super::state::LabDir;

/// How long the lab lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Until `down`.
    Detached,
    /// As long as the process that built it, whatever ends that one.
    WithUs,
}

pub struct Holder {
    pid: u32,
    start_time: u64,
    user_namespace: bool,
    /// Ours to wait for, and the pipe whose end is the holder's end.
    owned: Option<(Child, Option<ChildStdin>)>,
}

/// What the holder does as process 1 of the lab. The lab's directory may lie in /run, which is covered by a private
/// one: it is still reached as the working directory, and bound to its old place. The shell stays (it is not replaced
/// by its last command) because process 1 must collect the lab's dead.
const SCRIPT: &str = r#"
set -eu
dir=$1 life=$2
cd "$dir"
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns "$dir"
case $dir in /run/*) mount --no-canonicalize --bind . "$dir" ;; esac
ip link set lo up
echo ready
exec >/dev/null
if [ "$life" = detached ]; then sleep infinity; else cat; fi
exit 0
"#;

/// The directories where Debian keeps the tools; an ordinary user's PATH often lacks the first ones.
const TOOLS: &str = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";

impl Holder {
    pub fn start(dir: &LabDir, life: Life) -> Result<Holder> {
        let log_path = dir.path().join("holder.log");
        let log = File::create(&log_path).map_err(doing(log_path.display()))?;
        let user_namespace = !geteuid().is_root();
        let mut command = Command::new("unshare");
        command.env("PATH", tool_path()).args(["--fork", "--pid", "--kill-child", "--mount-proc", "--net", "--mount"]);
        if user_namespace {
            command.args(["--user", "--map-root-user"]);
        }
        let (input, word) = match life {
            Life::Detached => (Stdio::null(), "detached"),
            Life::WithUs => (Stdio::piped(), "with-us"),
        };
        command.args(["--", "sh", "-c", SCRIPT, "holder"]).arg(dir.path()).arg(word);
        // A group of its own: Ctrl-C at the terminal is for us, and we take the lab down in order.
        command.process_group(0).stdin(input).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().map_err(doing("unshare (package util-linux) does not start"))?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line).map_err(doing("the lab's holder"))?;
        }
        if line != "ready\n" {
            let _ = child.wait();
            let complaint = fs::read_to_string(&log_path).unwrap_or_default();
            return Err(LabError::new(refusal(complaint.trim_end(), user_namespace)));
        }
        let pid = child.id();
        let start_time = start_time(pid).ok_or_else(|| LabError::new("the lab's holder ended at once"))?;
        let stdin = child.stdin.take();
        Ok(Holder { pid, start_time, user_namespace, owned: Some((child, stdin)) })
    }

    /// The holder with this process id, if it is still the one that was started then.
    pub fn find(pid: u32, started: u64) -> Option<Holder> {
        (start_time(pid)? == started).then(|| Holder {
            pid,
            start_time: started,
            user_namespace: !geteuid().is_root(),
            owned: None,
        })
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn start_time(&self) -> u64 {
        self.start_time
    }

    pub fn is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }

    pub fn life(&self) -> Life {
        match self.owned {
            Some((_, Some(_))) => Life::WithUs,
            _ => Life::Detached,
        }
    }

    /// `program` in the lab's namespaces and the network of `host`. `ip netns exec` would mount /sys anew, which an
    /// ordinary user may not everywhere.
    pub fn on(&self, host: &str, program: &OsStr, directory: &Path) -> Command {
        let mut command = self.inside(directory);
        command.arg("nsenter").arg(format!("--net=/run/netns/{host}")).arg("--").arg(program);
        command
    }

    /// A command in the lab's own namespaces, to which the program is still to be added.
    pub fn inside(&self, directory: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.env("PATH", tool_path()).arg("-t").arg(self.pid.to_string());
        if self.user_namespace {
            command.args(["-U", "--preserve-credentials"]);
        }
        // The process we name made the PID namespace for its children and is itself outside.
        command.args(["-m", "-n"]).arg(format!("--pid=/proc/{}/ns/pid_for_children", self.pid));
        command.arg(format!("--wd={}", directory.display())).arg("--");
        command
    }

    /// Ends the lab and waits until the kernel has cleared it away.
    pub fn stop(&mut self) -> Result<()> {
        self.kill();
        if let Some((child, _)) = &mut self.owned {
            child.wait().map_err(doing("the lab's holder"))?;
            return Ok(());
        }
        wait_for(Duration::from_secs(10), "the lab's holder to end", || match self.is_alive() {
            true => Err(format!("process {} is still there", self.pid)),
            false => Ok(()),
        })
    }

    /// The first process of the PID namespace dies with the one that made it, and with it all others.
    fn kill(&self) {
        if !self.is_alive() {
            return;
        }
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Our own directory first, so that `drover` inside the lab is this one.
fn tool_path() -> String {
    let us = std::env::current_exe().ok();
    let ours = us.as_deref().and_then(Path::parent).map(|path| path.display().to_string());
    let inherited = std::env::var("PATH").ok();
    let parts: Vec<String> = ours.into_iter().chain(inherited).chain([TOOLS.to_owned()]).collect();
    parts.join(":")
}

/// When the process started, in clock ticks since boot: with the process id it names one process for ever.
fn start_time(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name, in parentheses, may itself hold spaces and parentheses.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let dead = matches!(*fields.first()?, "Z" | "X");
    if dead { None } else { fields.get(19)?.parse().ok() }
}

fn refusal(complaint: &str, user_namespace: bool) -> String {
    let remedy = if user_namespace {
        "This kernel does not let an ordinary user make namespaces. Run it as root, or allow it:\n  \
         sudo sysctl -w user.max_user_namespaces=16384\n  \
         sudo sysctl -w kernel.unprivileged_userns_clone=1                 (older Debian)\n  \
         sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0     (Ubuntu)"
    } else {
        "Root without the right to make namespaces: in a container it needs --privileged."
    };
    format!("cannot make the lab's namespaces: {complaint}\n{remedy}")
}
