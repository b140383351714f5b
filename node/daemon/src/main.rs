//! `owm-node`: parses nothing, decides nothing; all of it is in the library's `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    owm_node::cli::main_with(std::env::args_os())
}
