//! Start and stop of a coordinator: everything is bound before anything is announced, and stopped in
//! the opposite order.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use owm_coordinator_store::Store;
use owm_proto::UnixMillis;
use owm_service::{
    Context, RunError,
    gate::GateMetrics,
    health::Readiness,
    reconcile::{self, Schedule},
    report::Chain,
    secret, supervisor,
};
use tokio::net::TcpListener;

use crate::{
    api,
    app::{App, Ingredients},
    blobs::Blobs,
    config::Config,
    control,
    dispatch::{self, DispatchHandle},
    http,
    identity::{Authority, IdentityError},
    metrics::Metrics,
    page, round,
    rpc::{self, chunks},
    swarm,
    tasks::{alive, announce, database, due, figures, gone, outbox, purge, signs, spool, standing},
};

/// Between two tries to reach a database that is not there yet.
const DATABASE_RETRY: Duration = Duration::from_secs(1);

/// A configuration that can't be served with.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// `api.open` off loopback.
    #[error(
        "api.open = true is for a devnet: it needs api.listen on a loopback address, not {0}; set api.open = false and make keys with `owm-coordinator api-key create`"
    )]
    OpenApi(SocketAddr),
    /// Stake without a treasury.
    #[error(
        "policy.stake = \"required\" needs a treasury, which this release can't connect to yet; set policy.stake = \"not required\""
    )]
    Stake,
    /// A port is taken, or may not be used.
    #[error(
        "cannot listen on {addr} ({what}): {source}; is another coordinator running? Change [{what}] listen in the config"
    )]
    Listen {
        /// Which address.
        addr: SocketAddr,
        /// Which section.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// `[p2p]`.
    #[error(transparent)]
    Swarm(#[from] swarm::SettingsError),
    /// The database URL's file.
    #[error("database.url_file: {0}")]
    UrlFile(#[from] secret::SecretFileError),
    /// The database URL's file holds no text.
    #[error("database.url_file holds no UTF-8 text")]
    UrlText,
}

/// The database's URL, which may hold a password.
pub(crate) fn database_url(config: &Config) -> Result<String, ServeError> {
    let Some(path) = &config.database.url_file else {
        return Ok(config.database.url.clone());
    };
    let bytes = secret::read_file(path)?;
    let text = std::str::from_utf8(bytes.expose()).map_err(|_| ServeError::UrlText)?;
    Ok(text.trim().to_owned())
}

/// Connects (lazily) to the configured database.
pub fn store(config: &Config) -> Result<Store, RunError> {
    let url = database_url(config)?;
    Ok(Store::connect(&url, config.database.connections_max)?)
}

/// Checks what can be checked without starting anything.
pub fn check(config: &Config) -> Result<(), ServeError> {
    if config.api.open && !config.api.listen.ip().is_loopback() {
        return Err(ServeError::OpenApi(config.api.listen));
    }
    if config.policy.stake == crate::config::StakeSetting::Required {
        return Err(ServeError::Stake);
    }
    swarm::check(config)?;
    Ok(())
}

async fn listen(addr: SocketAddr, what: &'static str) -> Result<TcpListener, ServeError> {
    TcpListener::bind(addr)
        .await
        .map_err(|source| ServeError::Listen { addr, what, source })
}

/// Runs a coordinator until it is told to stop.
pub async fn serve(context: Context, config: Config) -> Result<(), RunError> {
    check(&config).map_err(RunError::usage)?;
    let readiness = Readiness::default();
    let (db_ready, rpc_ready, api_ready) = (
        readiness.check("database"),
        readiness.check("rpc"),
        readiness.check("api"),
    );
    // Connections are open files; the limits of [rpc] and [api] need more than the usual 1,024.
    let files = owm_service::files::raise_limit();
    tracing::debug!(files, "open files allowed");
    let rpc_listener = listen(config.rpc.listen, "rpc").await?;
    let api_listener = listen(config.api.listen, "api").await?;
    let _health = context.health(readiness).bind(config.health.listen).await?;
    start_control(&context, &config.control.socket);
    let now = UnixMillis(context.clock.now_ms());
    let authority = Authority::load(&config.identity.dir, now).map_err(identity_error)?;
    let store = store(&config)?;
    let (chunks, chunk_receiver) = chunks::channel();
    let (signs, sign_receiver) = signs::channel();
    let app = App::new(Ingredients {
        vault: authority.vault()?,
        authority: Arc::new(authority),
        blobs: Blobs::in_folder(Path::new(&config.blobs.dir))?,
        config: Arc::new(config),
        store,
        dispatcher: DispatchHandle::default(),
        chunks,
        signs,
        clock: context.clock.clone(),
        seed: context.seed.clone(),
        metrics: Metrics::new(&context.metrics),
    });
    if let Err(error) = app.spool.clear_unfinished() {
        tracing::warn!(%error, "what a former process left of updates stays in the spool");
    }
    // Peers need no database of ours, and a port that is taken is told at once.
    swarm::start(&app, &context.lifecycle)?;
    wait_for_database(&context, &app.store, &db_ready).await?;
    if context.lifecycle.is_shutting_down() {
        return ended(&context, &app);
    }
    // Before anything judges a lease: a silence of all coordinators extends them.
    alive::mark(&app).await?;
    start_loops(&context, &app, chunk_receiver, sign_receiver);
    let watched = database::watch(app.store.clone(), db_ready, context.lifecycle.soft());
    context.lifecycle.spawn("database", watched);
    start_listeners(&context, &app, rpc_listener, api_listener);
    rpc_ready.ready();
    api_ready.ready();
    tracing::info!(
        network = %app.network(),
        rpc = %app.config.rpc.listen,
        api = %app.config.api.listen,
        stake = app.stake_policy_str(),
        "coordinator is up"
    );
    supervisor::ready("serving");
    context.lifecycle.shutdown_requested().await;
    ended(&context, &app)
}

/// Under a revoked key no start does any good; all else may pass.
fn identity_error(error: IdentityError) -> RunError {
    match error {
        IdentityError::Revoked(_) => RunError::do_not_restart(error),
        other => RunError::failed(other),
    }
}

/// How it ended: as it was told to, or because a peer told of our own key's revocation meanwhile.
fn ended(context: &Context, app: &App) -> Result<(), RunError> {
    let now = UnixMillis(context.clock.now_ms());
    app.authority.not_revoked(now).map_err(identity_error)
}

/// A database that is not there yet is waited for; readiness says so.
async fn wait_for_database(
    context: &Context,
    store: &Store,
    ready: &owm_service::health::Check,
) -> Result<(), RunError> {
    let mut told = false;
    while let Err(error) = store.ping().await {
        ready.not_ready(error.to_string());
        if !told {
            tracing::warn!(%error, "waiting for the database");
            supervisor::status("waiting for the database");
            told = true;
        }
        tokio::select! {
            () = context.lifecycle.shutdown_requested() => return Ok(()),
            () = tokio::time::sleep(DATABASE_RETRY) => {}
        }
    }
    store.migrate().await?;
    ready.ready();
    Ok(())
}

fn start_loops(
    context: &Context,
    app: &App,
    chunk_receiver: chunks::ChunkReceiver,
    sign_receiver: signs::SignReceiver,
) {
    let lifecycle = &context.lifecycle;
    let soft = || lifecycle.soft();
    lifecycle.spawn("dispatch", dispatch::run(app.clone(), soft()));
    lifecycle.spawn("chunks", chunks::run(app.clone(), chunk_receiver, soft()));
    lifecycle.spawn("signs", signs::run(app.clone(), sign_receiver, soft()));
    lifecycle.spawn("page", page::run(app.clone(), soft()));
    macro_rules! reconciler {
        ($what:expr, $period_ms:expr) => {{
            let what = $what;
            let rng = context.seed.rng(reconciler_name(&what));
            let schedule = Schedule::every(Duration::from_millis($period_ms));
            reconcile::spawn(lifecycle, context.clock.clone(), rng, schedule, what)
        }};
    }
    let handles = vec![
        reconciler!(alive::Alive(app.clone()), 1_000),
        reconciler!(announce::Announce::new(app.clone()), 1_000),
        reconciler!(due::Due(app.clone()), 500),
        reconciler!(gone::Gone::new(app.clone()), 1_000),
        reconciler!(outbox::Outbox(app.clone()), 500),
        reconciler!(round::driver::Rounds::new(app.clone()), 500),
        reconciler!(standing::Standing::new(app.clone()), 10_000),
        reconciler!(purge::Purge(app.clone()), 30_000),
        reconciler!(spool::Sweep(app.clone()), 60_000),
    ];
    reconciler!(figures::Figures::new(app.clone(), handles), 2_000);
}

/// A folder that may not be written to costs the socket, not the coordinator.
fn start_control(context: &Context, socket: &Path) {
    let serving = match control::serve(socket, context.telemetry.clone()) {
        Ok(serving) => serving,
        Err(error) => {
            let error = Chain(&error).to_string();
            tracing::warn!(%error, "no control socket: `owm-coordinator log-level` will not work; see [control] socket");
            return;
        }
    };
    let soft = context.lifecycle.soft();
    context.lifecycle.spawn("control", async move {
        tokio::select! {
            () = serving => {}
            () = soft.cancelled() => {}
        }
        Ok::<(), std::io::Error>(())
    });
}

fn reconciler_name<R: reconcile::Reconciler>(_: &R) -> &'static str {
    R::NAME
}

fn start_listeners(
    context: &Context,
    app: &App,
    rpc_listener: TcpListener,
    api_listener: TcpListener,
) {
    let soft = context.lifecycle.soft();
    let stop = soft.clone();
    let rpc_app = app.clone();
    let metrics = GateMetrics::register(&context.metrics);
    let rpc_metrics = metrics.clone();
    context.lifecycle.spawn("rpc", async move {
        // Work streams never end by themselves: they are cut at the soft stop, and nodes come back.
        tokio::select! {
            served = rpc::serve(rpc_app, rpc_listener, rpc_metrics, stop.cancelled()) => served,
            () = async { soft.cancelled().await; tokio::time::sleep(RPC_DRAIN).await } => Ok(()),
        }
    });
    let router = api::router(app.clone());
    let stop = context.lifecycle.soft();
    let limits = app.config.api.limits();
    context.lifecycle.spawn("api", async move {
        let ended = stop.clone();
        tokio::select! {
            served = http::serve(api_listener, router, limits, metrics, stop) => served,
            () = async { ended.cancelled().await; tokio::time::sleep(API_DRAIN).await } => Ok(()),
        }
    });
}

/// Unary calls get this long to end after the soft stop.
const RPC_DRAIN: Duration = Duration::from_secs(2);

/// Answers in flight get this long to end after the soft stop; who misses it fetches the answer later.
const API_DRAIN: Duration = Duration::from_secs(10);
