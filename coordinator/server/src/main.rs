//! `owm-coordinator`.

use std::process::ExitCode;

fn main() -> ExitCode {
    owm_coordinator::cli::main()
}
