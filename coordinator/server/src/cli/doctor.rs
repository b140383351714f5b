//! `owm-coordinator doctor`: what is wrong with this coordinator and what to do about it.

use std::process::ExitCode;

use clap::Args;
use owm_service::{
    clock::SystemClock,
    doctor::{self, Subject},
};

use super::ConfigArg;
use crate::doctor::{Options, examine};

/// What to look at.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Where the configuration is.
    #[command(flatten)]
    pub config: ConfigArg,
    /// Leave out what reads large files: the published files' hashes.
    #[arg(long)]
    pub quick: bool,
}

/// Without logs: its findings are what there is to say.
pub(super) fn run(arguments: DoctorArgs, json: bool) -> ExitCode {
    let path = arguments.config.config;
    let subject = Subject {
        program: "owm-coordinator",
        version: env!("CARGO_PKG_VERSION"),
        config: path.display().to_string(),
    };
    let options = Options {
        config: path,
        quick: arguments.quick,
    };
    doctor::run(&subject, json, || examine(options, SystemClock::shared()))
}
