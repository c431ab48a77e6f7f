//! The director.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use drover::{config, daemon};

/// The director: takes packets for virtual addresses and gives them to real servers.
#[derive(Parser)]
#[command(name = "droverd", version)]
struct Arguments {
    /// The configuration; conf/drover.toml explains every key.
    #[arg(long, value_name = "FILE", default_value = "/etc/drover/drover.toml")]
    config: PathBuf,
    /// Check this configuration and start nothing.
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    if let Some(file) = arguments.check {
        return config::run_check(&file);
    }
    match config::examine(&arguments.config) {
        Ok((config, warnings)) => {
            warnings.lines().for_each(|warning| log::warn!("{warning}"));
            daemon::start(config, &arguments.config)
        }
        Err(errors) => {
            eprintln!("{errors}");
            ExitCode::from(config::EXIT_REFUSED)
        }
    }
}
