//! `owm-devnet`: see [`owm_devnet::cli`].

use std::process::ExitCode;

use clap::Parser;
use owm_devnet::cli::{self, Cli};
use owm_service::{
    run::{Program, run},
    telemetry::TelemetryOptions,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let program = Program {
        name: "owm-devnet",
        version: env!("CARGO_PKG_VERSION"),
        // What a person should see is printed; logs are for warnings, and the last error is a plain line.
        telemetry: TelemetryOptions {
            default_filter: "warn,owm_service::run=off".to_owned(),
            ..Default::default()
        },
    };
    run(program, |context| cli::run(cli, context.lifecycle))
}
