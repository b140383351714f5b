//! Where programs, state and caches lie.
//!
//! Must stay true: nothing is written outside the data folder (and Postgres's stand-in for it, see
//! [`crate::postgres`]).

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// The folder of `owm-devnet up`: `OWM_HOME`, else `owm/devnet` in the user's data folder.
pub fn data_dir() -> Result<PathBuf> {
    if let Some(home) = env::var_os("OWM_HOME") {
        return std::path::absolute(home).context("OWM_HOME is no path");
    }
    if let Some(data) = env::var_os("XDG_DATA_HOME") {
        return Ok(PathBuf::from(data).join("owm/devnet"));
    }
    let home = env::var_os("HOME").context("neither OWM_HOME nor HOME is set")?;
    Ok(PathBuf::from(home).join(".local/share/owm/devnet"))
}

/// The path of one of our programs: in `OWM_BIN_DIR`, else beside the running program (a test's own
/// binary lies in `deps`, one folder below).
pub fn program(name: &str) -> Result<PathBuf> {
    let folders = if let Some(folder) = env::var_os("OWM_BIN_DIR") {
        vec![PathBuf::from(folder)]
    } else {
        let own = env::current_exe().context("the system does not tell our own path")?;
        let above = own.ancestors().skip(1).take(2);
        above.map(Path::to_owned).collect()
    };
    for folder in &folders {
        let path = folder.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    bail!(
        "the program {name} is not in {}: build it (`make build`), or name its folder in OWM_BIN_DIR",
        folders
            .iter()
            .map(|folder| folder.display().to_string())
            .collect::<Vec<_>>()
            .join(" or ")
    )
}
