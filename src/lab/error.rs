//! What can go wrong in the lab, in words for the person at the terminal, and running commands with such errors.

use std::fmt;
use std::process::Command;
use std::time::{Duration, Instant};

pub type Result<T> = std::result::Result<T, LabError>;

#[derive(Debug)]
pub struct LabError(String);

impl LabError {
    pub fn new(message: impl Into<String>) -> LabError {
        LabError(message.into())
    }
}

impl fmt::Display for LabError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for LabError {}

/// Adds to an I/O error what was being done.
pub fn doing<E: fmt::Display>(what: impl fmt::Display) -> impl FnOnce(E) -> LabError {
    move |error| LabError(format!("{what}: {error}"))
}

/// What the command printed; what it complained about, if it failed.
pub fn output(command: &mut Command, what: &str) -> Result<String> {
    let output = command.output().map_err(doing(format_args!("{what}: cannot start {:?}", command.get_program())))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(LabError(format!("{what}: {} ({})", complaint.trim_end(), output.status)))
}

/// Asks `condition` again and again until it has something, or the time is over.
pub fn wait_for<T>(
    patience: Duration,
    what: &str,
    mut condition: impl FnMut() -> std::result::Result<T, String>,
) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        match condition() {
            Ok(found) => return Ok(found),
            Err(last) if Instant::now() >= deadline => {
                return Err(LabError(format!("waited {} s in vain for {what}: {last}", patience.as_secs())));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}
