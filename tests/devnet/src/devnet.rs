//! The network as a whole: what starts after what, and stops before what.
//!
//! `cli::up` and the end-to-end tests build one. Must stay true: dropping a [`Devnet`] leaves no
//! process; a temporary one leaves no file.

mod places;

use std::{
    fmt, fs,
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    task::Poll,
    time::{Duration, Instant, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use tempfile::TempDir;

use self::places::{Diary, Places, temporary_folder};
use crate::{
    api::Api,
    coordinator::{Coordinator, CoordinatorPorts},
    node::Node,
    postgres::{Postgres, PostgresOptions},
    settings::Setting,
    state::{Kept, KeptModel, Lock, Running},
};

/// The ports that a person's network asks for first (spec §4); tests take any.
const API_PORT: u16 = 8080;
const RPC_PORT: u16 = 9000;
const HEALTH_PORT: u16 = 9090;
const P2P_PORT: u16 = 4001;

/// Nodes that are ready are connected already; this is for the coordinator's side of it.
const CONNECT_LIMIT: Duration = Duration::from_mins(2);

/// What the network serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Model {
    /// The stand-in: seeded weights, answers without meaning, loaded in no time.
    Tiny,
    /// A GGUF file or a Hugging Face directory.
    Weights(PathBuf),
}

impl Model {
    /// `tiny`, or a path.
    pub fn parse(text: &str) -> Self {
        match text {
            "tiny" => Self::Tiny,
            path => Self::Weights(path.into()),
        }
    }

    fn source(&self) -> Result<String> {
        match self {
            Self::Tiny => Ok("tiny".to_owned()),
            Self::Weights(path) => {
                let path = std::path::absolute(path).context("the weights' path is no path")?;
                Ok(path.to_string_lossy().into_owned())
            }
        }
    }

    /// Changes when the file does.
    fn fingerprint(&self) -> Result<String> {
        let Self::Weights(path) = self else {
            return Ok("tiny".to_owned());
        };
        let found = fs::metadata(path)
            .with_context(|| format!("cannot read the weights {}", path.display()))?;
        let changed = found
            .modified()
            .ok()
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Ok(format!(
            "{} bytes, {} s",
            found.len(),
            changed.map_or(0, |time| time.as_secs())
        ))
    }
}

/// Told what a start is doing: the part, and how long it took once it is done.
type Reporter = Box<dyn FnMut(&str, Option<Duration>) + Send>;

/// How a network is to be.
pub struct Builder {
    nodes: u16,
    dir: Option<PathBuf>,
    model: Model,
    durable: bool,
    settings: Vec<Setting>,
    log: Option<String>,
    report: Reporter,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("nodes", &self.nodes)
            .field("dir", &self.dir)
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// How many nodes.
    #[must_use]
    pub fn nodes(mut self, nodes: u16) -> Self {
        self.nodes = nodes;
        self
    }

    /// Keeps state and ports in `dir`; without it the network is temporary, on any free ports, and
    /// its database does without fsync.
    #[must_use]
    pub fn data_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// What is served.
    #[must_use]
    pub fn model(mut self, model: Model) -> Self {
        self.model = model;
        self
    }

    /// Whether a temporary network's database keeps its commits when it is killed; one with a data
    /// folder always does.
    #[must_use]
    pub fn durable(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }

    /// Sets one more key in the coordinator's configuration.
    #[must_use]
    pub fn coordinator_setting(
        mut self,
        section: &'static str,
        key: &'static str,
        value: impl Into<toml::Value>,
    ) -> Self {
        self.settings.push((section, key, value.into()));
        self
    }

    /// What coordinator and nodes log (`OWM_LOG`); by default what they log by themselves.
    #[must_use]
    pub fn log_filter(mut self, filter: impl Into<String>) -> Self {
        self.log = Some(filter.into());
        self
    }

    /// Who is told of progress.
    #[must_use]
    pub fn report(mut self, report: impl FnMut(&str, Option<Duration>) + Send + 'static) -> Self {
        self.report = Box::new(report);
        self
    }

    /// Starts everything; returns when all parts are ready. What was started is ended on an error.
    pub async fn start(mut self) -> Result<Devnet> {
        let temporary = match self.dir {
            Some(_) => None,
            None => Some(temporary_folder()?),
        };
        let dir = match (&self.dir, &temporary) {
            (Some(dir), _) => std::path::absolute(dir).context("the data folder is no path")?,
            (None, Some(folder)) => folder.path().to_owned(),
            (None, None) => unreachable!("one of the two is set above"),
        };
        let lock = Lock::take(&dir)?;
        Running::clear(&dir);
        let mut places = Places {
            kept: Kept::read(&dir)?,
            fixed: self.dir.is_some(),
            log: self.log.take(),
            dir,
        };
        let postgres = self.start_postgres(&mut places).await?;
        let mut coordinator = self.start_coordinator(&mut places, &postgres).await?;
        let invite = coordinator.invite().await?;
        let nodes = self.start_nodes(&mut places, &invite).await?;
        places.kept.write(&places.dir)?;
        let mut running = Running {
            api: coordinator.api_url(),
            rpc: coordinator.rpc_address(),
            invite,
            processes: std::collections::BTreeMap::new(),
            logs: places.logs(),
        };
        if let Some(process) = coordinator.process() {
            running
                .processes
                .insert("coordinator".to_owned(), process.pid());
        }
        let mut devnet = Devnet {
            _diary: Diary(places.logs()),
            nodes,
            coordinator,
            postgres,
            places,
            running,
            lock,
            temporary,
        };
        devnet.publish()?;
        devnet.wait_connected().await?;
        Ok(devnet)
    }

    /// Runs one step of a start and tells about it.
    async fn step<T>(&mut self, what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        (self.report)(what, None);
        let start = Instant::now();
        let made = work.await.with_context(|| format!("{what}: failed"))?;
        (self.report)(what, Some(start.elapsed()));
        Ok(made)
    }

    async fn start_postgres(&mut self, places: &mut Places) -> Result<Postgres> {
        let options = PostgresOptions {
            dir: places.dir.join("postgres"),
            log: places.log("postgres"),
            port: Some(places.reserve("postgres", None)?),
            durable: places.fixed || self.durable,
        };
        self.step("database", Postgres::start(&options)).await
    }

    async fn start_coordinator(
        &mut self,
        places: &mut Places,
        postgres: &Postgres,
    ) -> Result<Coordinator> {
        let ports = CoordinatorPorts {
            rpc: places.port("rpc", Some(RPC_PORT))?,
            api: places.port("api", Some(API_PORT))?,
            health: places.port("health", Some(HEALTH_PORT))?,
            p2p: places.port("p2p", Some(P2P_PORT))?,
        };
        let (dir, log) = (places.dir.join("coordinator"), places.log("coordinator"));
        let prepare =
            Coordinator::prepare(&dir, &log, ports, postgres.url(), self.settings.clone());
        let mut coordinator = self.step("coordinator's keys and tables", prepare).await?;
        coordinator.set_log(places.log.clone());
        // Kept before the import, so that an interrupted one is done again under the same name.
        places.kept.write(&places.dir)?;
        self.import(places, &coordinator).await?;
        self.step("coordinator", coordinator.start()).await?;
        Ok(coordinator)
    }

    /// Publishes the model unless the same file was published before; another file becomes the next
    /// version.
    async fn import(&mut self, places: &mut Places, coordinator: &Coordinator) -> Result<()> {
        let (source, fingerprint) = (self.model.source()?, self.model.fingerprint()?);
        let before = places.kept.model.clone();
        if before
            .as_ref()
            .is_some_and(|kept| kept.source == source && kept.fingerprint == fingerprint)
        {
            return Ok(());
        }
        let sequence = before.map_or(0, |kept| kept.sequence + 1);
        let version = format!("owm-v0.1.{sequence}");
        self.step("model", coordinator.import_model(&source, &version))
            .await?;
        places.kept.model = Some(KeptModel {
            source,
            fingerprint,
            version,
            sequence,
        });
        places.kept.write(&places.dir)
    }

    /// All at once: they load at the same time.
    async fn start_nodes(&mut self, places: &mut Places, invite: &str) -> Result<Vec<Node>> {
        let mut nodes = Vec::new();
        for number in 1..=self.nodes {
            let mut node = places.node(number, invite).await?;
            node.spawn()?;
            nodes.push(node);
        }
        for node in &mut nodes {
            let name = node.name().to_owned();
            self.step(&name, node.ready()).await?;
        }
        Ok(nodes)
    }
}

/// The end of one part.
type Death<'a> = Pin<Box<dyn Future<Output = anyhow::Error> + Send + 'a>>;

/// A running network. Fields are dropped in this order: nodes first, the database last.
#[derive(Debug)]
pub struct Devnet {
    _diary: Diary,
    nodes: Vec<Node>,
    coordinator: Coordinator,
    postgres: Postgres,
    places: Places,
    running: Running,
    lock: Lock,
    temporary: Option<TempDir>,
}

impl Devnet {
    /// A temporary network of three nodes with the tiny model, unless told otherwise.
    pub fn builder() -> Builder {
        Builder {
            nodes: 3,
            dir: None,
            model: Model::Tiny,
            durable: false,
            settings: Vec::new(),
            log: None,
            report: Box::new(|_, _| {}),
        }
    }

    /// A client for the public API.
    pub fn api(&self) -> Api {
        self.coordinator.api()
    }

    /// The string that nodes join with.
    pub fn invite(&self) -> &str {
        &self.running.invite
    }

    /// The network's folder.
    pub fn dir(&self) -> &Path {
        &self.places.dir
    }

    /// Where the logs are.
    pub fn logs(&self) -> PathBuf {
        self.places.logs()
    }

    /// The coordinator.
    pub fn coordinator(&mut self) -> &mut Coordinator {
        &mut self.coordinator
    }

    /// The coordinator, to ask it something while something else goes on.
    pub fn coordinator_ref(&self) -> &Coordinator {
        &self.coordinator
    }

    /// The nodes, as [`Self::coordinator_ref`].
    pub fn nodes_ref(&self) -> &[Node] {
        &self.nodes
    }

    /// The nodes, `node1` first.
    pub fn nodes(&mut self) -> &mut [Node] {
        &mut self.nodes
    }

    /// The database.
    pub fn postgres(&mut self) -> &mut Postgres {
        &mut self.postgres
    }

    /// Starts one more node and waits until it is ready.
    pub async fn add_node(&mut self) -> Result<&mut Node> {
        let invite = self.running.invite.clone();
        self.new_node(&invite).await?.start().await?;
        self.publish()?;
        self.wait_connected().await?;
        self.nodes.last_mut().context("a node was just added")
    }

    /// Makes one more node with an invite of the caller's, and does not start it; works without a
    /// coordinator.
    pub async fn new_node(&mut self, invite: &str) -> Result<&mut Node> {
        let number = u16::try_from(self.nodes.len() + 1).context("too many nodes")?;
        let node = self.places.node(number, invite).await?;
        self.nodes.push(node);
        self.nodes.last_mut().context("a node was just added")
    }

    /// Until the coordinator has seen what the nodes say of themselves.
    async fn wait_connected(&mut self) -> Result<()> {
        let nodes = self.nodes.len() as u64;
        let api = self.api();
        let process = self.coordinator.process();
        let process = process.context("the coordinator does not run")?;
        process
            .wait_until("all nodes' connections", CONNECT_LIMIT, async || {
                let stats = api.get("/v1/network/stats").await;
                let stats = stats.and_then(|answer| answer.ok()).unwrap_or_default();
                stats["nodes"]["connected"].as_u64() >= Some(nodes)
            })
            .await
    }

    /// Writes what `status` reads.
    fn publish(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            let name = node.name().to_owned();
            if let Some(process) = node.process() {
                self.running.processes.insert(name, process.pid());
            }
        }
        self.running
            .processes
            .insert("database".to_owned(), self.postgres.process().pid());
        self.running.write(&self.places.dir)
    }

    /// Resolves when a part ends that should not: its error, and whether the network can go on
    /// without it (a node). Parts that are already down are not waited for.
    pub async fn death(&mut self) -> (anyhow::Error, bool) {
        let mut waits: Vec<(Death<'_>, bool)> =
            vec![(Box::pin(self.postgres.process().died()), false)];
        if let Some(process) = self.coordinator.process() {
            waits.push((Box::pin(process.died()), false));
        }
        for process in self.nodes.iter_mut().filter_map(Node::process) {
            waits.push((Box::pin(process.died()), true));
        }
        let (error, is_node) = std::future::poll_fn(|context| {
            for (wait, is_node) in &mut waits {
                if let Poll::Ready(error) = wait.as_mut().poll(context) {
                    return Poll::Ready((error, *is_node));
                }
            }
            Poll::Pending
        })
        .await;
        drop(waits);
        for node in &mut self.nodes {
            node.forget_dead();
        }
        (error, is_node)
    }

    /// Stops everything in order and waits for it: nodes, coordinator, database. A temporary network's
    /// files go too.
    pub async fn stop(mut self) -> Result<()> {
        Running::clear(&self.places.dir);
        for node in &mut self.nodes {
            node.ask_to_stop();
        }
        for node in &mut self.nodes {
            node.stop().await?;
        }
        self.coordinator.stop().await?;
        self.postgres.stop().await?;
        drop(self.lock);
        if let Some(folder) = self.temporary {
            folder
                .close()
                .context("cannot delete the temporary network's folder")?;
        }
        Ok(())
    }
}
