//! Which Postgres programs and which unprivileged account to use.
//!
//! Must stay true: only versions that the schema supports (15 and newer) are taken.

use std::{
    env,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use nix::unistd::{Uid, User};

use crate::process::RunAs;

/// The oldest major version that the migrations are written for (spec §15).
const MAJOR_MIN: u32 = 15;
/// Where Debian puts the server's programs, by version.
const DEBIAN: &str = "/usr/lib/postgresql";
/// Accounts tried, in this order, when we are root.
const ACCOUNTS: [&str; 2] = ["postgres", "nobody"];

/// A folder with Postgres programs.
#[derive(Debug, Clone)]
pub struct Install {
    bin: PathBuf,
    major: u32,
}

impl Install {
    /// `OWM_PG_BIN`, else the newest of Debian's, else the `PATH`.
    pub fn find() -> Result<Self> {
        if let Some(bin) = env::var_os("OWM_PG_BIN") {
            let bin = PathBuf::from(bin);
            return Self::at(&bin).with_context(|| {
                format!(
                    "OWM_PG_BIN={} holds no Postgres {MAJOR_MIN} or newer",
                    bin.display()
                )
            });
        }
        let debian = std::fs::read_dir(DEBIAN).into_iter().flatten().flatten();
        let mut found: Vec<Self> = debian
            .filter_map(|entry| Self::at(&entry.path().join("bin")))
            .collect();
        found.sort_by_key(|install| install.major);
        if let Some(newest) = found.pop() {
            return Ok(newest);
        }
        let path = env::var_os("PATH").unwrap_or_default();
        match env::split_paths(&path).find_map(|folder| Self::at(&folder)) {
            Some(install) => Ok(install),
            None => bail!(
                "no Postgres {MAJOR_MIN} or newer found under {DEBIAN} or on the PATH: \
                 `make setup` installs it, or name its folder in OWM_PG_BIN"
            ),
        }
    }

    fn at(bin: &Path) -> Option<Self> {
        let complete = ["postgres", "initdb", "pg_isready", "psql"];
        if !complete.iter().all(|program| bin.join(program).exists()) {
            return None;
        }
        let output = Command::new(bin.join("postgres"))
            .arg("--version")
            .output()
            .ok()?;
        let major = parse_major(&String::from_utf8_lossy(&output.stdout))?;
        (major >= MAJOR_MIN).then(|| Self {
            bin: bin.to_owned(),
            major,
        })
    }

    /// A program's path.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// The major version: 15.
    pub fn major(&self) -> u32 {
        self.major
    }
}

/// 15 of `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`; betas (`17beta1`) too.
fn parse_major(version: &str) -> Option<u32> {
    let number = version.split("(PostgreSQL)").nth(1)?.trim_start();
    let digits = number
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(number.len());
    number[..digits].parse().ok()
}

/// The account for the server: `None` (our own) unless we are root, whom Postgres refuses.
pub(super) fn account() -> Result<Option<RunAs>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    for name in ACCOUNTS {
        if let Some(user) = User::from_name(name).context("cannot read the user database")? {
            return Ok(Some(RunAs {
                uid: user.uid,
                gid: user.gid,
            }));
        }
    }
    bail!("Postgres refuses to run as root and there is neither a user `postgres` nor `nobody`")
}

/// Whether `account` may pass through every folder above `dir` that exists. By mode bits alone:
/// a wrong no only moves the cluster.
pub(super) fn can_pass(dir: &Path, account: RunAs) -> bool {
    dir.ancestors()
        .skip(1)
        .all(|folder| match folder.metadata() {
            Ok(found) => {
                let mode = found.mode();
                (found.uid() == account.uid.as_raw() && mode & 0o100 != 0)
                    || (found.gid() == account.gid.as_raw() && mode & 0o010 != 0)
                    || mode & 0o001 != 0
            }
            // Will be made by us, with the usual mask.
            Err(_) => true,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_postgres_prints_them() {
        assert_eq!(
            parse_major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"),
            Some(15)
        );
        assert_eq!(parse_major("postgres (PostgreSQL) 17beta1\n"), Some(17));
        assert_eq!(parse_major("postgres (PostgreSQL) 9.6.24"), Some(9));
        assert_eq!(parse_major("psql 15"), None);
    }

    #[test]
    fn a_private_parent_folder_stops_a_stranger() {
        use std::{fs, os::unix::fs::PermissionsExt};
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("private");
        fs::create_dir(&inner).unwrap();
        let stranger = RunAs {
            uid: Uid::from_raw(4_000_001),
            gid: nix::unistd::Gid::from_raw(4_000_001),
        };
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(can_pass(&inner, stranger));
        assert!(!can_pass(&inner.join("cluster"), stranger));
    }
}
