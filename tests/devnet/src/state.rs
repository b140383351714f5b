//! What is remembered between runs of a network in a folder, and that only one runs there.
//!
//! `devnet.rs` takes the lock and keeps the state; `down`, `status` and `reset` look from outside. Must
//! stay true: the lock is a lock of the system, gone with its process, so that no stale file ever
//! blocks a start.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File, OpenOptions},
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use crate::{postgres, process::POLL};

/// Longer than the parts' own grace periods together.
const STOP_LIMIT: Duration = Duration::from_secs(90);

/// The right to run a network in a folder; the folder's other users are refused.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes it, making the folder if need be.
    pub(crate) fn take(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let mut file = open_lock(dir)?;
        if file.try_lock().is_err() {
            bail!(
                "another network already runs in {} (process {}): `make status` shows it, \
                 `make down` stops it, OWM_HOME names another folder",
                dir.display(),
                read_pid(&mut file).map_or_else(|| "unknown".to_owned(), |pid| pid.to_string()),
            );
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| write!(file, "{}", std::process::id()))
            .with_context(|| format!("cannot write the lock in {}", dir.display()))?;
        Ok(Self { _file: file })
    }
}

fn open_lock(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))
}

fn read_pid(file: &mut File) -> Option<i32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok().filter(|pid| *pid > 1)
}

/// The process that runs a network in `dir`, if one does.
fn holder(dir: &Path) -> Result<Option<i32>> {
    if !dir.join("lock").exists() {
        return Ok(None);
    }
    let mut file = open_lock(dir)?;
    if file.try_lock().is_ok() {
        return Ok(None);
    }
    Ok(read_pid(&mut file))
}

/// Asks the network in `dir` to stop and waits until it has; `false` when none runs.
pub(crate) async fn stop_holder(dir: &Path) -> Result<bool> {
    let Some(pid) = holder(dir)? else {
        return Ok(false);
    };
    kill(Pid::from_raw(pid), Signal::SIGTERM)
        .with_context(|| format!("cannot tell process {pid} to stop"))?;
    let start = Instant::now();
    while holder(dir)?.is_some() {
        if start.elapsed() > STOP_LIMIT {
            bail!(
                "process {pid} does not stop within {} s",
                STOP_LIMIT.as_secs()
            );
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(true)
}

/// Deletes the network in `dir`; `false` when there is none.
pub(crate) fn delete(dir: &Path) -> Result<bool> {
    if !dir.exists() {
        postgres::delete_cluster(&dir.join("postgres"))?;
        return Ok(false);
    }
    // Held while deleting, so that nobody starts in a folder that goes away.
    let _lock = Lock::take(dir)?;
    postgres::delete_cluster(&dir.join("postgres"))?;
    fs::remove_dir_all(dir).with_context(|| format!("cannot delete {}", dir.display()))?;
    Ok(true)
}

/// What a network keeps for its next run.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Kept {
    /// Port by the name of its user: `api`, `node1`.
    pub(crate) ports: BTreeMap<String, u16>,
    /// What was imported last.
    pub(crate) model: Option<KeptModel>,
}

/// An import that need not be done again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptModel {
    /// As given to `model import`.
    pub(crate) source: String,
    /// Size and time of the source, so that another file under the same name is noticed.
    pub(crate) fingerprint: String,
    /// The version that it became.
    pub(crate) version: String,
    /// How many versions were made before it.
    pub(crate) sequence: u32,
}

impl Kept {
    /// Of the network in `dir`; nothing yet is fine, nonsense is not.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("devnet.json");
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| {
                format!("{} is damaged: `make reset` starts afresh", path.display())
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// For the next run.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        write_json(&dir.join("devnet.json"), self)
    }
}

/// What `status` tells of a network.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Status {
    /// The network's folder.
    pub(crate) dir: PathBuf,
    /// The process that runs it.
    pub(crate) process: Option<i32>,
    /// What it serves; `None` while it starts and when it is down.
    pub(crate) running: Option<Running>,
}

/// A network that is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Running {
    /// The public API's URL.
    pub(crate) api: String,
    /// The coordinator's address for nodes.
    pub(crate) rpc: String,
    /// What a node joins with.
    pub(crate) invite: String,
    /// Process id by part: `coordinator`, `node1`.
    pub(crate) processes: BTreeMap<String, i32>,
    /// Log folder.
    pub(crate) logs: PathBuf,
}

impl Running {
    /// Tells the world that the network in `dir` is up.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        write_json(&dir.join("running.json"), self)
    }

    /// It is not up any more.
    pub(crate) fn clear(dir: &Path) {
        drop(fs::remove_file(dir.join("running.json")));
    }
}

impl Status {
    /// Of the network in `dir`.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let process = holder(dir)?;
        let running = match (process, fs::read(dir.join("running.json"))) {
            (Some(_), Ok(bytes)) => serde_json::from_slice(&bytes).ok(),
            _ => None,
        };
        Ok(Self {
            dir: dir.to_owned(),
            process,
            running,
        })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dir = self.dir.display();
        match (&self.running, self.process) {
            (Some(running), Some(process)) => {
                writeln!(f, "API          {}", running.api)?;
                writeln!(f, "nodes join   {}", running.rpc)?;
                for (name, pid) in &running.processes {
                    let state = if Path::new(&format!("/proc/{pid}")).exists() {
                        "runs"
                    } else {
                        "GONE"
                    };
                    writeln!(f, "{name:<12} {state}, process {pid}")?;
                }
                writeln!(f, "logs         {}", running.logs.display())?;
                write!(f, "state        {dir} (owm-devnet is process {process})")
            }
            (None, Some(process)) => write!(f, "starting or stopping in {dir}: process {process}"),
            _ if self.dir.join("devnet.json").exists() => {
                write!(
                    f,
                    "down; its state is kept in {dir}: `make up` starts it again"
                )
            }
            _ => write!(
                f,
                "down; there is no state in {dir}: `make up` makes a new network"
            ),
        }
    }
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(value).context("plain data can be written as JSON")?;
    let beside = path.with_extension("new");
    fs::write(&beside, bytes)
        .and_then(|()| fs::rename(&beside, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_network_in_the_same_folder_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let lock = Lock::take(folder.path()).unwrap();
        let error = Lock::take(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        assert_eq!(
            holder(folder.path()).unwrap(),
            i32::try_from(std::process::id()).ok()
        );
        assert!(
            delete(folder.path()).is_err(),
            "a running network was deleted"
        );
        drop(lock);
        assert_eq!(holder(folder.path()).unwrap(), None);
        assert!(delete(folder.path()).unwrap());
        assert!(!folder.path().exists());
    }

    #[test]
    fn what_is_kept_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Kept::read(folder.path()).unwrap(), Kept::default());
        let kept = Kept {
            ports: [("api".to_owned(), 8080)].into(),
            model: None,
        };
        kept.write(folder.path()).unwrap();
        assert_eq!(Kept::read(folder.path()).unwrap(), kept);
        fs::write(folder.path().join("devnet.json"), "{").unwrap();
        assert!(
            Kept::read(folder.path())
                .unwrap_err()
                .to_string()
                .contains("make reset")
        );
    }
}
