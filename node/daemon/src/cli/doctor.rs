//! `owm-node doctor`: what is wrong with this node and what to do about it.

use std::process::ExitCode;

use clap::Args;
use owm_service::{
    clock::SystemClock,
    doctor::{self, Subject},
};

use super::{ConfigArg, Output, finish};
use crate::doctor::{Options, examine};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  owm-node doctor\n  owm-node doctor --config ./node-a/owm.toml --quick --json\n\n\
    Changes nothing; runs beside a running node as well. Exit codes: 0 healthy or warnings only, 1 broken."
)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Leave out what reads large files: the weights' hashes.
    #[arg(long)]
    quick: bool,
}

pub(super) fn run(arguments: &DoctorArgs, output: Output) -> ExitCode {
    let path = match arguments.config.path() {
        Ok(path) => path,
        Err(error) => return finish(Err(error), output),
    };
    let subject = Subject {
        program: "owm-node",
        version: crate::VERSION,
        config: path.display().to_string(),
    };
    let options = Options {
        config: path,
        quick: arguments.quick,
    };
    doctor::run(&subject, output.json, || {
        examine(options, SystemClock::shared())
    })
}
