//! A node of a devnet: joined with an invite string, as any stranger's would be.
//!
//! Must stay true: nothing but the invite goes from the coordinator to a node.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value as Json;
use toml::Value;

use crate::{
    api, paths,
    ports::Port,
    process::{self, Process, Spawn},
    settings,
};

/// Fetching, checking and loading 270 MB three times at once on two cores.
const READY_LIMIT: Duration = Duration::from_mins(5);
/// A node finishes or hands back its work.
const STOP_GRACE: Duration = Duration::from_secs(20);

/// Where a node listens.
#[derive(Debug)]
pub struct NodePorts {
    /// Health and metrics.
    pub health: Port,
    /// The swarm, TCP and UDP.
    pub p2p: Port,
}

/// A node with its folder; running or not.
#[derive(Debug)]
pub struct Node {
    name: String,
    dir: PathBuf,
    config: PathBuf,
    program: PathBuf,
    log: PathBuf,
    ports: NodePorts,
    environment: Vec<(String, String)>,
    filter: Option<String>,
    process: Option<Process>,
}

impl Node {
    /// Joins with `invite` if `dir` is new, else takes the invite as the newer one (the
    /// coordinator's ports may have changed). Does not start it.
    pub async fn prepare(
        name: &str,
        dir: &Path,
        log: &Path,
        ports: NodePorts,
        invite: &str,
    ) -> Result<Self> {
        let node = Self {
            name: name.to_owned(),
            dir: dir.to_owned(),
            config: dir.join("owm.toml"),
            program: paths::program("owm-node")?,
            log: log.to_owned(),
            ports,
            environment: Vec::new(),
            filter: None,
            process: None,
        };
        if !node.config.exists() {
            if let Some(parent) = dir.parent() {
                fs::create_dir_all(parent)
                    .with_context(|| format!("cannot make {}", parent.display()))?;
            }
            let dir = dir.to_string_lossy();
            node.output(&["init", "--join", invite, "--dir", &dir])
                .await?;
        }
        let text = |value: &str| Value::String(value.to_owned());
        let changes = vec![
            ("coordinator", "invite", text(invite)),
            ("health", "listen", text(&node.ports.health.address())),
            ("p2p", "network", text(settings::LOOPBACK_ONLY)),
            ("p2p", "listen", settings::peer_addresses(&node.ports.p2p)),
        ];
        settings::set(&node.config, "", changes)?;
        Ok(node)
    }

    /// Variables of its environment from the next start on, instead of those set before.
    pub fn set_environment(&mut self, variables: &[(&str, &str)]) {
        self.environment = process::variables(variables);
    }

    /// Starts it without waiting.
    pub fn spawn(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "{} runs already", self.name);
        let process = Spawn::new(&self.name, &self.program, &self.log)
            .arg("start")
            .arg("--config")
            .arg(&self.config)
            .envs(&self.environment)
            .logging(self.filter.as_deref())
            .start()?;
        self.process = Some(process);
        Ok(())
    }

    /// Waits until it is registered and its model is loaded.
    pub async fn ready(&mut self) -> Result<()> {
        let url = self.health_url();
        let process = self.process.as_mut().context("the node does not run")?;
        process
            .wait_until("readiness", READY_LIMIT, || api::is_ready(&url))
            .await
    }

    /// Starts it and waits until it is ready.
    pub async fn start(&mut self) -> Result<()> {
        self.spawn()?;
        self.ready().await
    }

    /// Sends the stop signal without waiting, so that several stop at the same time.
    pub fn ask_to_stop(&self) {
        if let Some(process) = &self.process {
            process.signal(Signal::SIGTERM);
        }
    }

    /// A process that has ended is no longer this node's.
    pub(crate) fn forget_dead(&mut self) {
        if self
            .process
            .as_mut()
            .is_some_and(|process| process.check_running().is_err())
        {
            self.process = None;
        }
    }

    /// Ends it in order.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.stop(STOP_GRACE).await?;
        }
        Ok(())
    }

    /// Ends it as a crash would.
    pub async fn kill(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill().await?;
        }
        Ok(())
    }

    /// Sets a key of its configuration, for its next start.
    pub fn set(
        &self,
        section: &'static str,
        key: &'static str,
        value: impl Into<Value>,
    ) -> Result<()> {
        settings::set(&self.config, "", vec![(section, key, value.into())])
    }

    /// What it logs from its next start on (`OWM_LOG`).
    pub fn set_log(&mut self, filter: Option<String>) {
        self.filter = filter;
    }

    /// Runs a subcommand with `--config` and gives its standard output.
    pub async fn command(&self, args: &[&str]) -> Result<String> {
        let config = self.config.to_string_lossy();
        self.output(&[args, &["--config", &config]].concat()).await
    }

    /// `owm-node status --json`.
    pub async fn status(&self) -> Result<Json> {
        let printed = self.command(&["status", "--json"]).await?;
        serde_json::from_str(&printed).context("`owm-node status --json` printed no JSON")
    }

    async fn output(&self, args: &[&str]) -> Result<String> {
        process::output("owm-node", &self.program, args).await
    }

    /// `node1`
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder: key, configuration, models, task log.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Its health port's URL, without a path.
    pub fn health_url(&self) -> String {
        format!("http://{}", self.ports.health.address())
    }

    /// Where its peer listens, TCP and UDP.
    pub fn p2p_address(&self) -> String {
        self.ports.p2p.address()
    }

    /// Its process while it runs.
    pub fn process(&mut self) -> Option<&mut Process> {
        self.process.as_mut()
    }
}
