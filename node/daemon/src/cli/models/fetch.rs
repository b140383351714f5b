//! `owm-node models fetch`: a version's files, now. The running daemon fetches, with its swarm; where none runs this
//! process does, with a visit to the swarm for as long as it takes.

mod show;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use owm_proto::{NodeKey, UnixMillis, VersionId, invite::Invite};
use owm_service::{
    CancellationToken, RunError,
    clock::SystemClock,
    dialer::{Dialer, NetworkPolicy},
    rng::Seed,
    tls::Identity,
};
use show::Show;
use tokio::sync::watch;

use super::{ConfigArg, Output};
use crate::{
    caps::Caps,
    config::NodeConfig,
    control::{self, ControlError},
    daemon,
    home::Home,
    link::Coordinator,
    models::{FetchPicture, Getter, Shelf},
    network::NetworkBook,
    swarm::{Settings, Visit, Visitor},
    tasklog::TaskLog,
};

/// Between two looks how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Time for what is under way on the disk when it is over.
const END_TIME: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  owm-node models fetch\n  owm-node models fetch owm-v0.1.0\n  owm-node models fetch --json | jq -c .sources\n\n\
    It comes from other nodes, piece by piece, each proved; the coordinator's server is asked for what they lack. \
    If the coordinator is away, peers tell which version is the newest. What is there already is hashed first; a \
    damaged file is fetched again. Ctrl-C stops it, and the next fetch goes on from there. A running node fetches \
    and loads the newest version by itself.\n\nWith --json: a line of JSON whenever something has come, the last one \
    with `done` or `error`. Exit codes: 0 it is here, 1 it is not, 2 usage."
)]
pub(super) struct FetchArgs {
    /// The version [default: the newest of the network].
    version: Option<VersionId>,
    #[command(flatten)]
    config: ConfigArg,
}

pub(super) fn run(arguments: &FetchArgs, output: Output) -> Result<(), RunError> {
    let (path, config) = arguments.config.load()?;
    let home = Home::open(&config.data_folder(&path))?;
    // Not the small one: hashing and the swarm work beside each other.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let fetched = runtime.block_on(fetch(&config, &home, arguments.version.clone(), output));
    // What is proved reaches the disk; a file that is being hashed is not waited for.
    runtime.shutdown_timeout(END_TIME);
    fetched
}

async fn fetch(
    config: &NodeConfig,
    home: &Home,
    version: Option<VersionId>,
    output: Output,
) -> Result<(), RunError> {
    let mut show = Show::new(output);
    let socket = home.control();
    let picture = match control::begin_fetch(&socket, version.clone()).await {
        Ok(Ok(id)) => of_daemon(home, id, &mut show).await?,
        Ok(Err(why)) => return Err(RunError::failed(why)),
        Err(ControlError::NotRunning { .. }) => alone(config, home, version, &mut show).await?,
        Err(error) => return Err(RunError::failed(error)),
    };
    show.end(&picture)
}

/// The daemon fetches; what it says is shown.
async fn of_daemon(home: &Home, id: u64, show: &mut Show) -> Result<FetchPicture, RunError> {
    let socket = home.control();
    let mut stopping = std::pin::pin!(tokio::signal::ctrl_c());
    let mut asked_to_end: Option<Instant> = None;
    loop {
        let picture = control::fetch_so_far(&socket, id).await;
        let picture = picture.map_err(RunError::failed)?;
        let picture = picture.ok_or_else(|| {
            RunError::failed("the running node no longer works on this fetch; run it again")
        })?;
        show.show(&picture);
        if picture.ended.is_some() {
            return Ok(picture);
        }
        if asked_to_end.is_some_and(|asked| asked.elapsed() > END_TIME) {
            show.clear();
            return Err(RunError::failed(
                "stopped here; the running node goes on with it, since somebody else waits for it too",
            ));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            _ = &mut stopping, if asked_to_end.is_none() => {
                asked_to_end = Some(Instant::now());
                control::end_fetch(&socket, id).await.map_err(RunError::failed)?;
            }
        }
    }
}

/// This process fetches.
async fn alone(
    config: &NodeConfig,
    home: &Home,
    version: Option<VersionId>,
    show: &mut Show,
) -> Result<FetchPicture, RunError> {
    let (visit, getter) = prepare(config, home).await?;
    let (shows, mut shown) = watch::channel(FetchPicture::default());
    let stop = CancellationToken::new();
    let got = {
        let getting = getter.get(version.as_ref(), &shows, &stop);
        let mut getting = std::pin::pin!(getting);
        let mut look = tokio::time::interval(LOOK_EVERY);
        // One for all turns, and asked first: a signal that comes between two would be lost.
        let mut stopping = std::pin::pin!(tokio::signal::ctrl_c());
        loop {
            tokio::select! {
                biased;
                _ = &mut stopping, if !stop.is_cancelled() => stop.cancel(),
                got = &mut getting => break got,
                _ = look.tick() => show.show(&shown.borrow_and_update()),
            }
        }
    };
    if let Some(visit) = visit {
        visit.leave().await;
    }
    let mut picture = shown.borrow().clone();
    match got {
        Ok(fetched) => picture.ended = Some(Ok(fetched)),
        Err(error) => {
            show.clear();
            return Err(RunError::failed(error));
        }
    }
    Ok(picture)
}

/// What fetching takes where no daemon runs.
async fn prepare(config: &NodeConfig, home: &Home) -> Result<(Option<Visit>, Getter), RunError> {
    if config.coordinator.invite.is_empty() {
        return Err(RunError::usage(
            "[coordinator] invite is empty; run owm-node init --join <invite>",
        ));
    }
    let invite: Invite = config.coordinator.invite.parse().map_err(RunError::usage)?;
    let caps = Caps::parse(&config.caps).map_err(RunError::usage)?;
    let key = NodeKey::load(&home.key())?;
    let identity = Identity::from_pkcs8_der(&key.to_pkcs8_der())?;
    let dialer = Dialer::new(NetworkPolicy::Clearnet);
    let timeout = config.coordinator.call_timeout.get();
    let coordinator = Coordinator::new(&dialer, &identity, &invite, timeout);
    let coordinator = coordinator.map_err(RunError::usage)?;
    let wanted = daemon::wanted(config)?;
    let clock = SystemClock::shared();
    let book = NetworkBook::new(home.network());
    daemon::from_disk(&book, home, invite.genesis, UnixMillis(clock.now_ms()));
    let shelf = Shelf::new(home.models(), caps.disk);
    let seed = Seed::from_os();
    let visitor = Visitor {
        settings: Settings::parse(&config.p2p).map_err(|wrong| {
            let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
            RunError::usage(wrong.join("; "))
        })?,
        exchange: config.exchange.clone(),
        key: &key,
        network: invite.genesis,
        invited: &invite.peers,
        book: book.clone(),
        shelf: shelf.clone(),
        checkpoint_file: &home.newest_checkpoint(),
        peers_file: &home.peers(),
        clock: Arc::clone(&clock),
        seed: seed.child("visit"),
    };
    let visit = if config.p2p.enabled {
        Visit::start(visitor).await
    } else {
        None
    };
    let heard = visit.as_ref().map(|visit| visit.heard.clone());
    let peers = visit.as_ref().filter(|_| config.exchange.fetch);
    let peers = peers.map(|visit| visit.files.clone());
    let getter = Getter {
        coordinator,
        has_peers: visit.is_some() && daemon::has_peers(&config.p2p, &invite, home),
        heard: heard.unwrap_or_else(|| watch::channel(None).1),
        peers: peers.unwrap_or_else(|| watch::channel(None).1),
        fetcher: daemon::fetcher(config, &dialer, shelf),
        wanted,
        log: TaskLog::open(&home.tasks())?,
        invite,
        book,
        clock,
        seed: seed.child("fetching"),
        metrics: None,
        status: None,
    };
    Ok((visit, getter))
}
