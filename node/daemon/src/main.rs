//! `owm-node`: parses nothing, decides nothing; all of it is in the library's `cli`.

use std::process::ExitCode;

/// Keeps for a while what was freed. glibc gives the top of its heap back to the kernel each time, and the transport
/// allocates 64 KiB for each frame: a fifth of the time of a fetch went into pages (docs/benchmarks.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    owm_node::cli::main_with(std::env::args_os())
}
