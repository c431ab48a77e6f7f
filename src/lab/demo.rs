//! `make run`: everything at once, then time to play.

use std::process::ExitCode;
use std::time::Duration;

use crate::sys::signals::EndingSignals;

use super::error::{Result, doing};
use super::{DIRECTOR, Droverd, Lab, LabDir, LabPort, Life, Start, run};

const THINGS_TO_TRY: &str = "
The lab stays up until Ctrl-C. Things to try in another terminal, in this directory:
  target/release/drover lab run                                    1,000 requests more
  target/release/drover lab exec client -- curl -si http://10.9.0.100/
  target/release/drover lab exec director -- drover service list   the director's table
  target/release/drover lab exec director -- drover conn list      which client is with which server
  target/release/drover lab exec real3 -- ip link set eth0 down    a server dies
  target/release/drover lab exec director -- bash                  look around";

pub fn demo(port: LabPort, requests: u32, once: bool) -> Result<ExitCode> {
    let start = Start::new(port, None)?;
    say!("a client, a switch, three web servers and a director on a DPDK {} port …", port.name());
    let mut lab = Lab::build(LabDir::new("lab")?.create()?, Life::WithUs)?;
    let droverd = Droverd::start(&lab, &start)?;
    let report = run::report(&lab, requests)?;
    say!("{report}");
    let code = if report.complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if !once {
        say!("{THINGS_TO_TRY}");
        play(&lab, droverd)?;
    }
    lab.down()?;
    say!("the lab is down");
    Ok(code)
}

/// Until somebody ends us, or the lab.
fn play(lab: &Lab, mut droverd: Droverd) -> Result<()> {
    lab.dir.release()?;
    let signals = EndingSignals::block().map_err(doing("signals"))?;
    let mut running = true;
    while lab.holder.is_alive() && signals.wait(Duration::from_millis(300)).is_none() {
        if running && let Some(status) = droverd.exit_code()? {
            say!("droverd on {DIRECTOR} has ended ({status}); its log is in {}", lab.path().display());
            running = false;
        }
    }
    say!();
    Ok(())
}
