//! The operator's command. Needs no DPDK where it runs.

use std::process::ExitCode;

fn main() -> ExitCode {
    drover::cli::main()
}
