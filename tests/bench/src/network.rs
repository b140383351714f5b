//! The coordinator under load: its own process (the build beside this one), its own Postgres that
//! survives a power cut (fsync on), API keys on, the tiny model published.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use owm_devnet::{
    coordinator::{Coordinator, CoordinatorPorts},
    ports::Port,
    postgres::{Postgres, PostgresOptions},
};
use owm_proto::invite::Invite;
use owm_service::{
    clock::{SharedClock, SystemClock},
    dialer::{Dialer, NetworkPolicy},
    rng::Seed,
};
use tempfile::TempDir;
use toml::Value;

/// Requests in work at once: enough that the load generator's own bound is never the coordinator's.
const REQUESTS_MAX: i64 = 4_096;

/// Connections of askers: an open loop that falls behind opens more and more of them.
const CONNECTIONS_MAX: i64 = 16_384;

/// Questions of one key: so many that what is measured is not the rate limiter's "no".
const QUESTIONS_PER_SECOND: i64 = 1_000_000;

/// A coordinator with its database, ready.
pub(crate) struct Network {
    pub(crate) coordinator: Coordinator,
    pub(crate) postgres: Postgres,
    pub(crate) world: World,
    folder: TempDir,
}

/// What nodes and askers need to know. Cheap to clone.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) invite: Arc<Invite>,
    pub(crate) api_key: Arc<str>,
    pub(crate) api: Arc<str>,
    pub(crate) dialer: Dialer,
    pub(crate) clock: SharedClock,
    pub(crate) seed: Seed,
}

impl Network {
    /// Starts Postgres and coordinator in a folder that is gone after a good end.
    pub(crate) async fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("owm-bench-").tempdir()?;
        let options = PostgresOptions {
            dir: folder.path().join("postgres"),
            log: folder.path().join("postgres.log"),
            port: None,
            durable: true,
        };
        let postgres = Postgres::start(&options).await?;
        let ports = CoordinatorPorts {
            rpc: Port::take(None)?,
            api: Port::take(None)?,
            health: Port::take(None)?,
            p2p: Port::take(None)?,
        };
        let settings = vec![
            ("api", "open", false.into()),
            ("api", "requests_max", REQUESTS_MAX.into()),
            ("api", "connections_max", CONNECTIONS_MAX.into()),
            ("api", "questions_burst", QUESTIONS_PER_SECOND.into()),
            ("api", "questions_per_second", QUESTIONS_PER_SECOND.into()),
            // As by default on a real network; a devnet's 5 s are for people who watch.
            ("scheduler", "heartbeat", Value::from("60s")),
        ];
        let log = folder.path().join("coordinator.log");
        let dir = folder.path().join("coordinator");
        let mut coordinator =
            Coordinator::prepare(&dir, &log, ports, postgres.url(), settings).await?;
        coordinator.import_model("tiny", "owm-v0.0.1").await?;
        let printed = coordinator
            .command(&["--json", "api-key", "create", "bench"])
            .await?;
        let printed: serde_json::Value = serde_json::from_str(&printed)?;
        let api_key = printed["key"].as_str().context("no API key was made")?;
        let invite: Invite = coordinator.invite().await?.parse()?;
        coordinator.start().await?;
        let world = World {
            invite: Arc::new(invite),
            api_key: api_key.into(),
            api: coordinator.api_url().trim_start_matches("http://").into(),
            dialer: Dialer::new(NetworkPolicy::LoopbackOnly),
            clock: SystemClock::shared(),
            seed: Seed::from_os(),
        };
        Ok(Self {
            coordinator,
            postgres,
            world,
            folder,
        })
    }

    /// Process ids of the coordinator and of Postgres.
    pub(crate) fn pids(&mut self) -> Result<(i32, i32)> {
        let coordinator = self
            .coordinator
            .process()
            .context("the coordinator is down")?;
        Ok((coordinator.pid(), self.postgres.process().pid()))
    }

    /// Ends both. After a scenario that failed the folder with the logs stays.
    pub(crate) async fn end(mut self, scenario: Result<()>) -> Result<()> {
        if scenario.is_err() {
            self.folder.disable_cleanup(true);
            println!("logs are kept in {}", self.folder.path().display());
        }
        let stopped = self.stop().await;
        scenario.and(stopped)
    }

    /// Ends both.
    async fn stop(mut self) -> Result<()> {
        self.coordinator.stop().await?;
        self.postgres.stop().await
    }
}
