//! Where a network's parts have their folders, logs and ports.
//!
//! Must stay true: a network that is kept has the same ports in each run as long as they are free.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::{HEALTH_PORT, P2P_PORT};
use crate::{
    node::{Node, NodePorts},
    ports::Port,
    process,
    state::Kept,
};

/// The folder of a network and the ports in it.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) dir: PathBuf,
    pub(super) kept: Kept,
    /// Ports are kept for the next run, and the well-known ones tried.
    pub(super) fixed: bool,
    /// What coordinator and nodes log.
    pub(super) log: Option<String>,
}

impl Places {
    pub(super) fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    /// The port that `name` had, or `default`, or any.
    pub(super) fn port(&mut self, name: &str, default: Option<u16>) -> Result<Port> {
        let wanted = self
            .kept
            .ports
            .get(name)
            .copied()
            .or(default.filter(|_| self.fixed));
        let port = match wanted {
            Some(wanted) => Port::prefer(wanted)?,
            None => Port::take(None)?,
        };
        self.kept.ports.insert(name.to_owned(), port.number());
        Ok(port)
    }

    /// As [`Self::port`], given free again at once for a part that takes it by itself.
    pub(super) fn reserve(&mut self, name: &str, default: Option<u16>) -> Result<u16> {
        Ok(self.port(name, default)?.number())
    }

    pub(super) async fn node(&mut self, number: u16, invite: &str) -> Result<Node> {
        let name = format!("node{number}");
        let p2p = format!("{name}-p2p");
        let ports = NodePorts {
            health: self.port(&name, Some(HEALTH_PORT.saturating_add(number)))?,
            p2p: self.port(&p2p, Some(P2P_PORT.saturating_add(number)))?,
        };
        let (dir, log) = (self.dir.join("nodes").join(&name), self.log(&name));
        let mut node = Node::prepare(&name, &dir, &log, ports, invite).await?;
        node.set_log(self.log.clone());
        Ok(node)
    }
}

/// Shows the ends of the logs when a test fails: the folder goes away with the test.
#[derive(Debug)]
pub(super) struct Diary(pub(super) PathBuf);

impl Drop for Diary {
    #[expect(clippy::print_stderr, reason = "a failing test's output")]
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let path = entry.path();
            eprintln!(
                "--- the end of {}:\n{}",
                path.display(),
                process::tail(&path, 0)
            );
        }
    }
}

/// A folder through which Postgres's account may pass; what is secret in it has a mode of its own.
pub(super) fn temporary_folder() -> Result<TempDir> {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::Builder::new()
        .prefix("owm-net-")
        .permissions(fs::Permissions::from_mode(0o711))
        .tempdir()
        .context("cannot make a temporary folder for the network")?;
    Ok(folder)
}
