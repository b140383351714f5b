//! Getting a file's ladder: one source is asked, the next one only when that has no answer or lets wait. Only a ladder
//! that hashes to the signed manifest's value is taken; who sends another one is not spoken with any more. Called by
//! [`super::fetch`].

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use libp2p::PeerId;
use owm_proto::{FileSpec, Ladder, ladder::LadderError};
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use super::{Shared, WebSeed, link::Order, search::Search};

/// Who has not sent it within this time is not the only one asked any more.
const LADDER_TIMEOUT: Duration = Duration::from_secs(3);

/// Sources that are asked at the same time, those that let wait included.
const LADDER_SOURCES: usize = 3;

/// How long one is waited for: this, and what the bytes take at [`LADDER_BYTES_PER_S`].
const LADDER_PATIENCE: Duration = Duration::from_secs(15);

/// A slow line.
const LADDER_BYTES_PER_S: u64 = 16 << 10;

/// So many peers are asked before the web seed is.
const PEERS_BEFORE_WEB: usize = 2;

/// Nobody had it: asked again after so long.
const LADDER_AGAIN: Duration = Duration::from_secs(1);

/// Who was asked, and the bytes that came; `None`: the web seed.
type Answer = (Option<PeerId>, Option<Vec<u8>>);

/// Whose turn it has been.
#[derive(Debug, Default)]
struct Round {
    peers: BTreeSet<PeerId>,
    has_web: bool,
}

/// The ladder, as soon as somebody has it.
///
/// # Errors
/// When the signed manifest contradicts itself.
pub(super) async fn get(
    shared: &Arc<Shared>,
    spec: FileSpec,
    web: Option<&Arc<dyn WebSeed>>,
    search: &Search,
) -> Result<Ladder, LadderError> {
    let mut round = Round::default();
    let mut asked: FuturesUnordered<BoxFuture<'static, Answer>> = FuturesUnordered::new();
    loop {
        if asked.len() < LADDER_SOURCES
            && let Some(question) = next(shared, spec, web, &mut round)
        {
            asked.push(question);
        }
        if asked.is_empty() {
            round = Round::default();
            sleep(LADDER_AGAIN).await;
            continue;
        }
        let (from, bytes) = tokio::select! {
            Some(answer) = asked.next() => answer,
            () = sleep(LADDER_TIMEOUT) => continue,
        };
        if let (Some(peer), Some([])) = (from, bytes.as_deref()) {
            // It has none: who waits for a place may have it.
            search.lacks(peer);
            continue;
        }
        let Some(bytes) = bytes else { continue };
        let wrong = match Ladder::parse(spec, bytes) {
            Ok(ladder) => return Ok(ladder),
            Err(wrong @ LadderError::WrongEnd { .. }) => return Err(wrong),
            Err(wrong) => wrong,
        };
        if let Some(peer) = from {
            tracing::warn!(%peer, "a wrong ladder; its sender is left alone: {wrong}");
            shared.leave(peer);
        }
    }
}

/// The next source's question.
fn next(
    shared: &Arc<Shared>,
    spec: FileSpec,
    web: Option<&Arc<dyn WebSeed>>,
    round: &mut Round,
) -> Option<BoxFuture<'static, Answer>> {
    let patience = LADDER_PATIENCE + Duration::from_secs(spec.ladder_bytes() / LADDER_BYTES_PER_S);
    let core = shared.core();
    let mut links = core.links.iter();
    let peer = links.find(|(peer, _)| !round.peers.contains(peer));
    let is_webs_turn = round.peers.len() >= PEERS_BEFORE_WEB || peer.is_none();
    if let Some(seed) = web.filter(|_| is_webs_turn && !round.has_web) {
        round.has_web = true;
        let answered = timeout(patience, seed.ladder(&spec));
        let answered = answered.map(|got| (None, got.ok().and_then(Result::ok)));
        return Some(answered.boxed());
    }
    let (peer, orders) = peer?;
    let (peer, (answer, answered)) = (*peer, oneshot::channel());
    orders.give(Order::Ladder(spec, answer));
    round.peers.insert(peer);
    let answered = timeout(patience, answered);
    let answered = answered.map(move |got| (Some(peer), got.ok().and_then(Result::ok)));
    Some(answered.boxed())
}
