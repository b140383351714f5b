//! The first thing a node does: find out whom it may believe. The coordinator, a peer or the disk: whoever
//! gives verified documents first is enough.

use std::{pin::Pin, sync::Arc};

use owm_proto::{
    UnixMillis,
    genesis::NetworkId,
    invite::Invite,
    wire::coordinator::{RegisterNodeBody, SignedEnvelope},
};
use owm_service::{RunError, backoff::Backoff, report::Chain};
use prost::Message as _;
use tokio::sync::watch;

use super::{Frame, JoinError, Parts, fetch_network};
use crate::{
    config::P2pSection,
    home::{Home, read_small},
    link::Coordinator,
    network::{Known, Network, NetworkBook, NetworkError},
    orders::OrderBook,
    status::{Origin, Status},
};

/// Two envelopes around some hundred bytes.
const OWNER_BINDING_BYTES_MAX: u64 = 64 << 10;

/// A question under way.
type Asking<'a> = Pin<Box<dyn Future<Output = Result<(), JoinError>> + Send + 'a>>;

/// Waits until the network is known; `None`: told to stop or to drain meanwhile.
pub(super) async fn join(
    frame: &Frame,
    parts: &Parts,
    coordinator: &Coordinator,
    book: &NetworkBook,
    status: &watch::Sender<Status>,
    orders: &OrderBook,
) -> Result<Option<Arc<Known>>, RunError> {
    let mut orders = orders.follow();
    let section = &parts.config.coordinator;
    let mut backoff = Backoff::new(section.reconnect_min.get(), section.reconnect_max.get(), 2);
    let mut rng = frame.seed.rng("join");
    let mut following = book.follow();
    let has_peers = has_peers(&parts.config.p2p, &parts.invite, &parts.home);
    let mut asking: Asking<'_> = Box::pin(ask(coordinator, parts, frame, book));
    loop {
        if let Some(known) = book.known() {
            let (name, from) = (&known.network.trust.genesis().name, known.from.as_str());
            tracing::info!(network.name = %name, network.id = %known.network.trust.id(), %from, "network verified");
            return Ok(Some(known));
        }
        tokio::select! {
            Ok(()) = following.changed() => {}
            answer = &mut asking => match answer {
                Ok(()) => {}
                // Nobody else could know better.
                Err(JoinError::Network(error)) if !has_peers => return Err(RunError::failed(error)),
                Err(error) => {
                    let error = Chain(&error).to_string();
                    let wait = backoff.next(&mut rng);
                    let wait_ms = wait.as_millis() as u64;
                    tracing::warn!(%error, wait_ms, "the network cannot be verified yet");
                    status.send_modify(|status| status.link_error = Some(error));
                    asking = Box::pin(async move {
                        tokio::time::sleep(wait).await;
                        ask(coordinator, parts, frame, book).await
                    });
                }
            },
            () = frame.lifecycle.shutdown_requested() => return Ok(None),
            Ok(_) = orders.wait_for(|orders| orders.drain.is_some()) => return Ok(None),
        }
    }
}

/// Whether a peer could tell of the network while the coordinator says nothing that holds.
pub(crate) fn has_peers(p2p: &P2pSection, invite: &Invite, home: &Home) -> bool {
    let is_named = [&invite.peers, &p2p.peers, &p2p.dns];
    let is_named = is_named.iter().any(|names| !names.is_empty());
    p2p.enabled && (is_named || p2p.mdns || home.peers().exists())
}

/// Asks the coordinator once; what it says is in the book then.
async fn ask(
    coordinator: &Coordinator,
    parts: &Parts,
    frame: &Frame,
    book: &NetworkBook,
) -> Result<(), JoinError> {
    let network = fetch_network(coordinator, &parts.invite, &frame.clock).await?;
    let now = UnixMillis(frame.clock.now_ms());
    learn(book.clone(), network, now).await
}

/// Puts the coordinator's documents into the book.
pub(super) async fn learn(
    book: NetworkBook,
    network: Network,
    now: UnixMillis,
) -> Result<(), JoinError> {
    let learn = move || book.learn(network, Origin::Coordinator, now);
    let learning = tokio::task::spawn_blocking(learn);
    match learning.await {
        Ok(learnt) => Ok(learnt.map(drop)?),
        // The process stops.
        Err(_) => Ok(()),
    }
}

/// Puts what the disk has into the book. Blocks.
pub(crate) fn from_disk(book: &NetworkBook, home: &Home, invited: NetworkId, now: UnixMillis) {
    let learnt = Network::load(&home.network(), Some(invited))
        .and_then(|network| book.learn(network, Origin::Disk, now));
    match learnt {
        Ok(_) | Err(NetworkError::Missing { .. }) => {}
        Err(error) => {
            let error = Chain(&error).to_string();
            tracing::warn!(%error, "the network documents on the disk are not used");
        }
    }
}

/// What `init --owner-key` has left.
pub(super) fn owner_binding(home: &Home) -> Result<Vec<SignedEnvelope>, RunError> {
    let Some(bytes) = read_small(&home.owner_binding(), OWNER_BINDING_BYTES_MAX)? else {
        return Ok(Vec::new());
    };
    Ok(RegisterNodeBody::decode(bytes.as_slice())?.owner_binding)
}
