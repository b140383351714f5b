//! What the swarm hears, on its way to Postgres: taken as it comes ([`listen`]), written in batches once a second
//! ([`run`]). `serve` starts both.
//!
//! Must stay true: the swarm never waits for the database; what waits is bounded and what is lost is counted;
//! nothing here changes a status.

use std::{collections::HashMap, time::Duration};

use owm_coordinator_domain::gossip::{Gathered, Gathering, Heard};
use owm_coordinator_store::{
    StoreError,
    gossip::{Announced, Announcement, announcements_fold, heartbeats_fold},
};
use owm_p2p::{Documents, Multiaddr, News};
use owm_proto::{PublicKey, UnixMillis, wire::gossip::CapabilityBody};
use owm_service::CancellationToken;
use tokio::{sync::mpsc, time::MissedTickBehavior};

use super::addresses;
use crate::app::App;

/// Between two writes.
const PERIOD: Duration = Duration::from_secs(1);

/// Heartbeats of one statement: some 100 ms of Postgres' time, 1 MB of parameters.
const HEARTBEATS_MAX: usize = 8_192;

/// Announcements of one statement: each has some hundred bytes, at worst four thousand.
const ANNOUNCEMENTS_MAX: usize = 1_024;

/// Nodes whose announcement waits to be written: all of sixteen shards. They say it again.
const ANNOUNCED_MAX: usize = 16_384;

/// News taken at once.
const NEWS_MAX: usize = 1_024;

/// Characters of a version or role that are kept.
const WORD_CHARS_MAX: usize = 64;

/// Roles that are kept; there are three.
const ROLES_MAX: usize = 8;

/// Between two looks at who else can be named to newcomers.
const OTHERS_EVERY: Duration = Duration::from_secs(30);

/// What was heard and is not written yet.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    heartbeats: Gathering,
    announced: HashMap<PublicKey, Announced>,
}

/// The root key has revoked this process's key: whatever it signs from now on counts for nothing.
#[derive(Debug, thiserror::Error)]
#[error(
    "the root key has revoked this coordinator's instance key (a peer told of it, and the signature holds): it \
     stops. Make a new instance key, delegate it with the root key, and start again"
)]
pub struct Revoked;

/// Takes the swarm's news until it ends.
///
/// # Errors
/// When it says that our own key is revoked.
pub async fn listen(
    app: App,
    mut news: mpsc::Receiver<News>,
    stop: CancellationToken,
) -> Result<(), Revoked> {
    let mut some = Vec::with_capacity(NEWS_MAX);
    loop {
        let taken = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            taken = news.recv_many(&mut some, NEWS_MAX) => taken,
        };
        if taken == 0 {
            return Ok(());
        }
        if let Some(documents) = take(&app, some.drain(..)) {
            let app = app.clone();
            let learning = tokio::task::spawn_blocking(move || learn(&app, &documents));
            if let Ok(learnt) = learning.await {
                learnt?;
            }
        }
    }
}

/// Keeps what the root key has said since. Blocks on the disk.
fn learn(app: &App, documents: &Documents) -> Result<(), Revoked> {
    let learnt = match app.authority.learn(documents, app.wall()) {
        Ok(learnt) => learnt,
        Err(error) => {
            tracing::error!(%error, "newer documents of the network are not used");
            return Ok(());
        }
    };
    let (delegations, revocations) = (learnt.delegations, learnt.revocations);
    if delegations + revocations > 0 {
        tracing::warn!(
            delegations,
            revocations,
            "a peer told of newer statements of the root key: this coordinator goes by them from now on and has put them into its folder"
        );
    }
    if let Some(error) = learnt.not_kept {
        tracing::error!(%error, "they could not be written: after a restart this coordinator does not know them until a peer tells of them again");
    }
    if learnt.we_are_revoked {
        return Err(Revoked);
    }
    Ok(())
}

/// Takes note of news; gives the newest documents among them.
pub(super) fn take(app: &App, news: impl Iterator<Item = News>) -> Option<Box<Documents>> {
    let mut newer = None;
    let now = app.now();
    let metrics = &app.metrics.swarm;
    let mut hearing = app.swarm.hearing();
    for one in news {
        match one {
            News::Heartbeat { node, body } => {
                let heard = Heard {
                    node,
                    sequence: body.sequence,
                    at: now,
                };
                match hearing.heartbeats.hear(heard) {
                    Gathered::Kept => {}
                    Gathered::Known => metrics.heartbeats("known", 1),
                    Gathered::Dropped => metrics.heartbeats("dropped", 1),
                }
            }
            News::Capability { node, body } => {
                if !hearing.announce(announced(node, &body, now)) {
                    metrics.capabilities("dropped", 1);
                }
            }
            News::Checkpoint(newest) => {
                let version = newest.checkpoint.version.as_str();
                let sequence = newest.checkpoint.sequence;
                tracing::info!(
                    version,
                    sequence,
                    "a peer told of a newer checkpoint than this coordinator has announced: another coordinator published it, or this database is an old copy"
                );
            }
            // Each has all that those before it had.
            News::Documents(documents) => newer = Some(documents),
        }
    }
    newer
}

impl Hearing {
    /// Keeps the newer one of each node; `false`: there is no room.
    fn announce(&mut self, said: Announced) -> bool {
        if let Some(known) = self.announced.get(&said.node) {
            if known.sequence >= said.sequence {
                return true;
            }
        } else if self.announced.len() >= ANNOUNCED_MAX {
            return false;
        }
        self.announced.insert(said.node, said);
        true
    }

    fn announcements(&mut self, max: usize) -> Vec<Announced> {
        let keys: Vec<PublicKey> = self.announced.keys().take(max).copied().collect();
        keys.iter()
            .filter_map(|key| self.announced.remove(key))
            .collect()
    }
}

/// Foreign words become ours here: without control characters (Postgres takes no NUL), and short.
fn announced(node: PublicKey, body: &CapabilityBody, at: UnixMillis) -> Announced {
    let word = |text: &String| -> String {
        let plain = text.chars().filter(|c| !c.is_control());
        plain.take(WORD_CHARS_MAX).collect()
    };
    let address = |bytes: &Vec<u8>| {
        let address = Multiaddr::try_from(bytes.clone()).ok()?.to_string();
        (!address.contains(char::is_control)).then_some(address)
    };
    Announced {
        node,
        sequence: body.sequence,
        at,
        says: Announcement {
            software_version: word(&body.software_version),
            roles: body.roles.iter().take(ROLES_MAX).map(word).collect(),
            addresses: body
                .addresses
                .iter()
                .take(owm_proto::limits::ADDRESSES_MAX)
                .filter_map(address)
                .collect(),
            holds: u32::try_from(body.holds.len()).unwrap_or(u32::MAX),
            checkpoint_sequence: body.checkpoint_sequence,
            relay: body.relay,
        },
    }
}

/// Writes what was heard until `stop`, and once more then.
pub async fn run(app: App, stop: CancellationToken) -> Result<(), StoreError> {
    let mut seconds = tokio::time::interval(PERIOD);
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut away = false;
    let mut others_due = Duration::ZERO;
    loop {
        let stopping = tokio::select! {
            () = stop.cancelled() => true,
            _ = seconds.tick() => false,
        };
        let mut done = write(&app).await;
        if done.is_ok() && !stopping && app.clock.monotonic() >= others_due {
            others_due = app.clock.monotonic() + OTHERS_EVERY;
            done = look_for_others(&app).await;
        }
        // Once per outage, not once a second.
        match (&done, away) {
            (Err(error), false) => {
                tracing::warn!(%error, "what was heard by gossip waits to be written");
            }
            (Ok(()), true) => tracing::info!("what was heard by gossip is written again"),
            _ => {}
        }
        away = done.is_err();
        if stopping {
            return Ok(());
        }
    }
}

/// Writes all that waits. What can't be written waits on.
pub(crate) async fn write(app: &App) -> Result<(), StoreError> {
    loop {
        let heard = app.swarm.hearing().heartbeats.batch(HEARTBEATS_MAX);
        if heard.is_empty() {
            break;
        }
        if let Err(error) = write_heartbeats(app, &heard).await {
            let mut hearing = app.swarm.hearing();
            for one in heard {
                if hearing.heartbeats.hear(one) == Gathered::Dropped {
                    app.metrics.swarm.heartbeats("dropped", 1);
                }
            }
            return Err(error);
        }
    }
    loop {
        let announced = app.swarm.hearing().announcements(ANNOUNCEMENTS_MAX);
        if announced.is_empty() {
            return Ok(());
        }
        if let Err(error) = write_announcements(app, &announced).await {
            let mut hearing = app.swarm.hearing();
            for one in announced {
                if !hearing.announce(one) {
                    app.metrics.swarm.capabilities("dropped", 1);
                }
            }
            return Err(error);
        }
    }
}

async fn write_heartbeats(app: &App, heard: &[Heard]) -> Result<(), StoreError> {
    let mut tx = app.store.begin("gossip.heartbeats").await?;
    let folded = heartbeats_fold(&mut tx, heard).await?;
    tx.commit().await?;
    let metrics = &app.metrics.swarm;
    metrics.heartbeats("fresh", folded.fresh);
    metrics.heartbeats("known", folded.of_nodes.saturating_sub(folded.fresh));
    let strangers = (heard.len() as u64).saturating_sub(folded.of_nodes);
    metrics.heartbeats("stranger", strangers);
    Ok(())
}

async fn write_announcements(app: &App, announced: &[Announced]) -> Result<(), StoreError> {
    let mut tx = app.store.begin("gossip.announcements").await?;
    let kept = announcements_fold(&mut tx, announced).await?;
    tx.commit().await?;
    app.metrics.swarm.capabilities("kept", kept);
    let ignored = (announced.len() as u64).saturating_sub(kept);
    app.metrics.swarm.capabilities("ignored", ignored);
    Ok(())
}

async fn look_for_others(app: &App) -> Result<(), StoreError> {
    let others = addresses::others(&app.store, app.config.p2p.network, app.now()).await?;
    app.swarm.set_others(others);
    Ok(())
}
