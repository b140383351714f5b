//! `owm-node models fetch`: a version's files, now. Works beside a running node and without one: whoever
//! fetches holds the shelf's lock.

use std::{collections::BTreeSet, time::Duration};

use clap::Args;
use owm_proto::{
    NodeKey, Sha256, SubModelId, UnixMillis, VersionId, invite::Invite, manifest::ManifestFile,
    wire::coordinator::GetModelVersionRequest,
};
use owm_service::{
    RunError,
    backoff::Backoff,
    clock::SystemClock,
    dialer::{Dialer, NetworkPolicy},
    progress::Progress,
    report::Chain,
    rng::Seed,
    tls::Identity,
};
use serde_json::json;

use super::{ConfigArg, Output, block_on};
use crate::{
    caps::Caps,
    config::NodeConfig,
    control,
    daemon::fetch_network,
    home::{Home, Lock},
    link::Coordinator,
    models::{DownloadError, Fetcher, Limits, SEQUENCE, Shelf, SignedManifest, files_of, wanted},
    network::{Network, NetworkBook},
    status::Origin,
    tasklog::TaskLog,
};

/// Attempts at one file: a download that broke off goes on from its last byte.
const TRIES: u32 = 5;
/// First and longest wait between them.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Between two looks whether another process has finished with the shelf.
const LOCK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  owm-node models fetch\n  owm-node models fetch owm-v0.1.0\n\n\
    What is there already is hashed first; a damaged file is fetched again, a download that broke off \
    goes on from its last byte. A running node loads the newest version by itself."
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
    block_on(fetch(&config, &home, arguments.version.as_ref(), output))?
}

/// What a fetch needs of the node's folder and the network.
struct Context<'a> {
    config: &'a NodeConfig,
    home: &'a Home,
    coordinator: Coordinator,
    invite: Invite,
    dialer: Dialer,
}

async fn fetch(
    config: &NodeConfig,
    home: &Home,
    version: Option<&VersionId>,
    output: Output,
) -> Result<(), RunError> {
    let context = Context::new(config, home)?;
    let network = context.network().await?;
    let request = GetModelVersionRequest {
        version: version.map(ToString::to_string).unwrap_or_default(),
    };
    let fetcher = context.fetcher(&network)?;
    let writer = lock(home, &fetcher.shelf, output).await?;
    // Asked under the lock: whoever had it before may have gone on to a newer version.
    let answer = context.coordinator.get_model_version(request).await?;
    let log = TaskLog::open(&home.tasks())?;
    // Who names a version may go back; the newest never does.
    let known = if version.is_none() {
        log.number(SEQUENCE)?
    } else {
        None
    };
    let signed = SignedManifest::verify(answer, &network.trust, now(), known)?;
    let (fetched, damaged) = get_files(&context, &fetcher, &signed, output).await?;
    signed.store(&fetcher.shelf.manifest(&signed.manifest.version))?;
    if version.is_none() {
        signed.store(&fetcher.shelf.newest())?;
        log.raise_number(SEQUENCE, signed.manifest.sequence)?;
    }
    drop(writer);
    show(&signed, fetched, &damaged, output);
    Ok(())
}

fn now() -> UnixMillis {
    use owm_service::clock::Clock as _;
    UnixMillis(SystemClock::new().now_ms())
}

impl<'a> Context<'a> {
    fn new(config: &'a NodeConfig, home: &'a Home) -> Result<Self, RunError> {
        let invite: Invite = config.coordinator.invite.parse().map_err(RunError::usage)?;
        let key = NodeKey::load(&home.key())?;
        let identity = Identity::from_pkcs8_der(&key.to_pkcs8_der())?;
        let dialer = Dialer::new(NetworkPolicy::Clearnet);
        let timeout = config.coordinator.call_timeout.get();
        let coordinator = Coordinator::new(&dialer, &identity, &invite, timeout);
        Ok(Self {
            config,
            home,
            coordinator: coordinator.map_err(RunError::usage)?,
            invite,
            dialer,
        })
    }

    /// As the coordinator says, at whichever of the invite's addresses answers.
    async fn network(&self) -> Result<Network, RunError> {
        let mut asked = 0;
        loop {
            asked += 1;
            match fetch_network(&self.coordinator, &self.invite, &SystemClock::shared()).await {
                Ok(network) => {
                    return self.learn(network);
                }
                // The next call goes to the next address.
                Err(_) if asked < self.invite.addresses.len() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Adds it to what this node knows, which may take the coordinator's key back.
    fn learn(&self, said: Network) -> Result<Network, RunError> {
        let web_seed = said.web_seed.clone();
        let book = NetworkBook::new(self.home.network());
        let known = book.learn(said, Origin::Coordinator, now())?;
        let mut network = known.network.clone();
        network.check_instance(&self.invite, now())?;
        // The coordinator's or the invite's before that of some peer.
        let named = [Some(web_seed), self.invite.web_seed.clone()];
        let named = named.into_iter().flatten().find(|url| !url.is_empty());
        network.web_seed = named.unwrap_or(network.web_seed);
        Ok(network)
    }

    fn fetcher(&self, network: &Network) -> Result<Fetcher, RunError> {
        let caps = Caps::parse(&self.config.caps).map_err(RunError::usage)?;
        let web_seed = Some(network.web_seed.clone())
            .filter(|url| !url.is_empty())
            .or_else(|| self.invite.web_seed.clone())
            .ok_or_else(|| {
                RunError::failed(
                    "the coordinator names no web seed to fetch models from; its operator sets one \
                     ([blobs] in coordinator.toml)",
                )
            })?;
        Ok(Fetcher {
            http: self.dialer.http(),
            web_seed,
            shelf: Shelf::new(self.home.models(), caps.disk),
            limits: Limits {
                stall: self.config.model.stall.get(),
            },
        })
    }

    fn wanted(&self, signed: &SignedManifest) -> Result<Vec<SubModelId>, RunError> {
        let configured = self.config.model.sub_models.iter();
        let configured: Vec<_> = configured
            .map(|id| id.parse())
            .collect::<Result<_, _>>()
            .map_err(RunError::usage)?;
        Ok(wanted(&signed.manifest, &configured)?)
    }
}

/// Files that a quota must not push out: those of the version the node works with.
fn in_use(network: &Network, shelf: &Shelf) -> BTreeSet<Sha256> {
    let newest = SignedManifest::load(&shelf.newest(), &network.trust).ok();
    let files = newest.flatten().map(|signed| signed.manifest.files);
    let files = files.into_iter().flatten();
    files.map(|file| file.sha256).collect()
}

async fn lock(home: &Home, shelf: &Shelf, output: Output) -> Result<Lock, RunError> {
    let mut said = String::new();
    loop {
        if let Some(lock) = shelf.writer()? {
            return Ok(lock);
        }
        // Who gives how much, if it says so.
        let asked = control::ask(&home.control()).await.ok();
        let how_far = asked.and_then(|answer| answer.status.model_state);
        let how_far = how_far.unwrap_or_default();
        let line = "the running node fetches into this folder already; waiting for it";
        let line = format!("{line}\n{how_far}");
        if line != said {
            output.say(line.trim_end());
            said = line;
        }
        tokio::time::sleep(LOCK_EVERY).await;
    }
}

/// How many bytes are there now, and what was damaged before.
async fn get_files(
    context: &Context<'_>,
    fetcher: &Fetcher,
    signed: &SignedManifest,
    output: Output,
) -> Result<(u64, Vec<String>), RunError> {
    let files = files_of(&signed.manifest, &context.wanted(signed)?);
    let network = Network::load(&context.home.network(), None)?;
    let mut keep = in_use(&network, &fetcher.shelf);
    keep.extend(files.iter().map(|file| file.sha256));
    fetcher.shelf.make_room(&files, &keep)?;
    let total: u64 = files.iter().map(|file| file.size).sum();
    let bar = Progress::bytes(total, format!("fetching {}", signed.manifest.version));
    let mut rng = Seed::from_os().rng("models fetch");
    let (mut before, mut damaged) = (0, Vec::new());
    for file in files {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1, 2);
        let mut tries = 1;
        while let Err(error) = get_file(fetcher, file, &bar, before, &mut damaged).await {
            if tries == TRIES || !may_help(&error) {
                return Err(error.into());
            }
            tries += 1;
            output.say(&format!("{}; trying again", Chain(&error)));
            tokio::time::sleep(backoff.next(&mut rng)).await;
        }
        before += file.size;
    }
    bar.clear();
    Ok((total, damaged))
}

async fn get_file(
    fetcher: &Fetcher,
    file: &ManifestFile,
    bar: &Progress,
    before: u64,
    damaged: &mut Vec<String>,
) -> Result<(), DownloadError> {
    let progress = |got| bar.set(before + got);
    let mut tell = |what| damaged.push(what);
    fetcher.repair(file, &progress, &mut tell).await
}

/// Whether trying again soon may help.
fn may_help(error: &DownloadError) -> bool {
    matches!(
        error,
        DownloadError::Http { .. }
            | DownloadError::Truncated { .. }
            | DownloadError::Stalled { .. }
            | DownloadError::WrongHash { .. }
            | DownloadError::WrongPiece { .. }
            | DownloadError::TooLong { .. }
    )
}

fn show(signed: &SignedManifest, bytes: u64, damaged: &[String], output: Output) {
    let version = &signed.manifest.version;
    let mut lines = damaged.to_vec();
    lines.push(format!(
        "{version} is here: {bytes} bytes, every file as its signed manifest says"
    ));
    if !signed.note.is_empty() {
        lines.push(signed.note.clone());
    }
    let value = json!({
        "version": version,
        "sequence": signed.manifest.sequence,
        "bytes": bytes,
        "damaged": damaged,
        "note": signed.note,
    });
    output.answer(&value, &lines);
}
