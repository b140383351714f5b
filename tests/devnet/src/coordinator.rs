//! The coordinator of a devnet: its keys made, its configuration written, its process run.
//!
//! Must stay true: what a devnet relaxes (open API, CPU nodes, tiny minima, no stake) stands in its
//! configuration file in plain sight and nowhere else.

use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use toml::Value;

use crate::{
    api::{self, Api},
    paths,
    ports::Port,
    process::{self, Process, Spawn},
    settings::{self, Setting},
};

/// Migrations and first connections; a machine under load takes its time.
const READY_LIMIT: Duration = Duration::from_mins(3);
/// Answers under way are finished.
const STOP_GRACE: Duration = Duration::from_secs(20);

/// Instead of 16 GB: what the real model takes while it is loaded, and the system beside it.
const T1_RAM_BYTES_MIN: i64 = 1_000_000_000;
/// As everywhere (spec §6): a node without a GPU comes in through `allow_cpu` and is marked as such.
const T1_VRAM_BYTES_MIN: i64 = 8_000_000_000;

/// What people see in the genesis document.
const NETWORK_NAME: &str = "devnet";

/// Said at the top of the configuration file.
const COMMENT: &str = "\
#
# This is a DEVNET: it relaxes what a real network insists on.
#   [api] open             no API key is asked for; works on loopback only
#   [policy] allow_cpu     nodes without a GPU may work, in tier t1
#   [policy] stake         no Lightning channel is asked for
#   [policy.minima.t1]     a laptop passes for a t1 machine
#   [scheduler] heartbeat  every 5 s instead of every minute, so that one sees it move
#   [p2p] network          peers on this machine only
";

/// Where a coordinator listens.
#[derive(Debug)]
pub struct CoordinatorPorts {
    /// gRPC, for nodes.
    pub rpc: Port,
    /// The public API.
    pub api: Port,
    /// Health and metrics.
    pub health: Port,
    /// The swarm.
    pub p2p: Port,
}

/// A coordinator with its folder; running or not.
#[derive(Debug)]
pub struct Coordinator {
    dir: PathBuf,
    config: PathBuf,
    program: PathBuf,
    log: PathBuf,
    ports: CoordinatorPorts,
    environment: Vec<(String, String)>,
    filter: Option<String>,
    process: Option<Process>,
}

impl Coordinator {
    /// Makes keys and genesis document if `dir` has none, writes the configuration (a devnet's, then
    /// `settings`), applies migrations. Does not start it.
    pub async fn prepare(
        dir: &Path,
        log: &Path,
        ports: CoordinatorPorts,
        database_url: &str,
        settings: Vec<Setting>,
    ) -> Result<Self> {
        let coordinator = Self {
            dir: dir.to_owned(),
            config: dir.join("coordinator.toml"),
            program: paths::program("owm-coordinator")?,
            log: log.to_owned(),
            ports,
            environment: Vec::new(),
            filter: None,
            process: None,
        };
        if !dir.join("genesis.json").exists() {
            fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
            let dir = dir.to_string_lossy();
            coordinator
                .output(&[
                    "init",
                    "--dir",
                    &dir,
                    "--name",
                    NETWORK_NAME,
                    "--chain",
                    "regtest",
                ])
                .await?;
        }
        coordinator.write_database_url(database_url)?;
        let all = [coordinator.settings(), settings].concat();
        settings::set(&coordinator.config, COMMENT, all)?;
        coordinator.command(&["migrate"]).await?;
        Ok(coordinator)
    }

    fn database_url_file(&self) -> PathBuf {
        self.dir.join("database.url")
    }

    /// The URL has a password in it, so it gets a file that only we can read.
    fn write_database_url(&self, url: &str) -> Result<()> {
        let path = self.database_url_file();
        if path.exists() {
            fs::remove_file(&path).context("cannot replace the database's URL")?;
        }
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(url.as_bytes()))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn settings(&self) -> Vec<Setting> {
        let text = |value: &str| Value::String(value.to_owned());
        vec![
            ("identity", "dir", settings::path(&self.dir)),
            (
                "database",
                "url_file",
                settings::path(&self.database_url_file()),
            ),
            ("rpc", "listen", text(&self.ports.rpc.address())),
            ("api", "listen", text(&self.ports.api.address())),
            ("api", "open", true.into()),
            ("blobs", "dir", settings::path(&self.dir.join("blobs"))),
            ("health", "listen", text(&self.ports.health.address())),
            (
                "invite",
                "addresses",
                settings::strings([self.ports.rpc.address()]),
            ),
            ("invite", "web_seed", text(&self.api_url())),
            ("policy", "allow_cpu", true.into()),
            ("policy", "stake", text("not required")),
            ("policy", "minima", minima()),
            ("scheduler", "heartbeat", text("5s")),
            ("p2p", "network", text(settings::LOOPBACK_ONLY)),
            ("p2p", "listen", settings::peer_addresses(&self.ports.p2p)),
        ]
    }

    /// Variables of its environment from the next start on, instead of those set before.
    pub fn set_environment(&mut self, variables: &[(&str, &str)]) {
        self.environment = process::variables(variables);
    }

    /// Starts it without waiting.
    pub fn spawn(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the coordinator runs already");
        let process = Spawn::new("the coordinator", &self.program, &self.log)
            .arg("serve")
            .arg("--config")
            .arg(&self.config)
            .envs(&self.environment)
            .logging(self.filter.as_deref())
            .start()?;
        self.process = Some(process);
        Ok(())
    }

    /// Waits until it is ready.
    pub async fn ready(&mut self) -> Result<()> {
        let url = self.health_url();
        let process = self.process.as_mut();
        let process = process.context("the coordinator does not run")?;
        process
            .wait_until("readiness", READY_LIMIT, || api::is_ready(&url))
            .await
    }

    /// Starts it and waits until it is ready.
    pub async fn start(&mut self) -> Result<()> {
        self.spawn()?;
        let ready = self.ready().await;
        if ready.is_err() {
            self.process = None;
        }
        ready
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

    /// What it logs from its next start on (`OWM_LOG`).
    pub fn set_log(&mut self, filter: Option<String>) {
        self.filter = filter;
    }

    /// Runs a subcommand with `--config` and gives its standard output.
    pub async fn command(&self, args: &[&str]) -> Result<String> {
        let config = self.config.to_string_lossy();
        self.output(&[args, &["--config", &config]].concat()).await
    }

    async fn output(&self, args: &[&str]) -> Result<String> {
        process::output("owm-coordinator", &self.program, args).await
    }

    /// Publishes `source` (a GGUF file, a directory, `tiny`) as `version`.
    pub async fn import_model(&self, source: &str, version: &str) -> Result<()> {
        let args = ["model", "import", source, "--version", version];
        let split = ["--sub-models", "owm-code,owm-geo", "--default", "owm-geo"];
        self.command(&[&args[..], &split[..]].concat()).await?;
        Ok(())
    }

    /// The string that a node joins with.
    pub async fn invite(&self) -> Result<String> {
        let printed = self.command(&["invite"]).await?;
        let line = printed.lines().next().unwrap_or_default().trim();
        ensure!(!line.is_empty(), "`owm-coordinator invite` printed nothing");
        Ok(line.to_owned())
    }

    /// `http://127.0.0.1:8080`
    pub fn api_url(&self) -> String {
        format!("http://{}", self.ports.api.address())
    }

    /// A client for its public API.
    pub fn api(&self) -> Api {
        Api::new(self.api_url())
    }

    /// Where nodes connect.
    pub fn rpc_address(&self) -> String {
        self.ports.rpc.address()
    }

    /// Its health port's URL, without a path.
    pub fn health_url(&self) -> String {
        format!("http://{}", self.ports.health.address())
    }

    /// Where its peer listens, TCP and UDP.
    pub fn p2p_address(&self) -> String {
        self.ports.p2p.address()
    }

    /// Its folder: keys, genesis document, blobs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Its process while it runs.
    pub fn process(&mut self) -> Option<&mut Process> {
        self.process.as_mut()
    }
}

/// What a devnet asks of a t1 machine: memory for the model, any network.
fn minima() -> Value {
    let t1: toml::Table = [
        ("vram_bytes".to_owned(), Value::Integer(T1_VRAM_BYTES_MIN)),
        ("ram_bytes".to_owned(), Value::Integer(T1_RAM_BYTES_MIN)),
        ("bandwidth_kbps".to_owned(), Value::Integer(0)),
    ]
    .into_iter()
    .collect();
    Value::Table([("t1".to_owned(), Value::Table(t1))].into_iter().collect())
}
