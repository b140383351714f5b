//! Compiles `proto/owm/**.proto` to the Rust code checked in under `proto/src/gen`.
//!
//! Called by `make protos` (writes) and by this crate's test (compares), so that nobody needs `protoc`
//! and the checked-in code can't drift from the contract.

use std::path::Path;

use anyhow::{Context, Result};

/// The files that are compiled, relative to `proto/`.
const FILES: &[&str] = &[
    "owm/coordinator/v1/coordinator.proto",
    "owm/gossip/v1/gossip.proto",
];

/// Packages that later files use, and where their types are.
const KNOWN: &[(&str, &str)] = &[(".owm.coordinator.v1", "crate::wire::coordinator")];

/// Generates into `out`; `proto_dir` is the folder that holds `owm/`.
pub fn generate(proto_dir: &Path, out: &Path) -> Result<()> {
    // Backwards: a file writes an empty module for each package that it only uses, and the package's own
    // file comes later.
    for (number, file) in FILES.iter().enumerate().rev() {
        let descriptors = protox::compile([proto_dir.join(file)], [proto_dir]).context("protox")?;
        let mut builder = tonic_prost_build::configure()
            .out_dir(out)
            .server_mod_attribute(".", "#[cfg(feature = \"grpc\")]")
            .client_mod_attribute(".", "#[cfg(feature = \"grpc\")]");
        for (package, path) in &KNOWN[..number.min(KNOWN.len())] {
            builder = builder.extern_path(*package, *path);
        }
        builder
            .compile_fds(descriptors)
            .context("tonic-prost-build")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checked_in_code_is_what_the_proto_files_say() {
        let proto_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let fresh = tempfile::tempdir().unwrap();
        generate(&proto_dir, fresh.path()).unwrap();
        for entry in std::fs::read_dir(fresh.path()).unwrap() {
            let path = entry.unwrap().path();
            let kept = proto_dir.join("src/gen").join(path.file_name().unwrap());
            assert_eq!(
                std::fs::read_to_string(&path).unwrap(),
                std::fs::read_to_string(&kept).unwrap_or_default(),
                "{} is stale: run `make protos`",
                kept.display()
            );
        }
    }
}
