//! Model files from other nodes, with the web seed as one more source. `bring` calls it before it asks the web
//! seed alone.
//! Must stay true: a fetch in which nothing moves is given up and begun again later, so that a newer version or
//! another web seed gets its turn.

use std::{collections::BTreeSet, io, ops::Range, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use owm_p2p::{
    PeerId,
    exchange::driver::{FetchError, Progress, WebSeed},
};
use owm_proto::{FileSpec, Sha256, manifest::ManifestFile};
use owm_service::dialer::HttpClient;
use tokio::time::Instant;

use super::movement::Movement;
use crate::swarm::PeerFiles;

/// Between two looks for more peers and at what has come.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a peer is waited for before the web seed is asked alone.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// Everybody has said that there is nothing, and the web seed brings nothing beside them: it is asked alone after so
/// long, which does not wait for peers and tries the other web seeds.
const NOBODY_LEFT: Duration = Duration::from_secs(5);
/// A file of a manifest without pieces comes from one source and is proved at its end: not from peers above this.
const UNPIECED_BYTES_MAX: u64 = 16 << 20;

/// Why peers have not brought everything.
#[derive(Debug, thiserror::Error)]
pub(super) enum PeersError {
    /// Nothing moves.
    #[error(
        "peers have brought next to nothing for {} s: {missing} bytes are missing, {peers} peers were asked; it goes on \
         from there", after.as_secs()
    )]
    Stalled {
        /// How long.
        after: Duration,
        /// Bytes to come.
        missing: u64,
        /// Who was asked.
        peers: usize,
    },
    /// Nobody has it.
    #[error("none of {peers} peers has the {missing} bytes that are missing")]
    NobodyHas {
        /// Bytes to come.
        missing: u64,
        /// Who was asked.
        peers: usize,
    },
    /// It cannot be kept, or the process ends.
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

/// How peers can fetch a file: `None`: they can't, or not well.
pub(super) fn spec(file: &ManifestFile) -> Option<FileSpec> {
    let spec = FileSpec::of(file).ok()?;
    let is_small = spec.size() <= UNPIECED_BYTES_MAX;
    (is_small || spec.piece_len().is_some()).then_some(spec)
}

/// Waits for a peer that may have one of `files` and is none of `known`.
pub(super) async fn somebody(
    peers: &PeerFiles,
    files: &[FileSpec],
    known: &BTreeSet<PeerId>,
) -> PeerId {
    let names = names(files);
    loop {
        let there = peers.peers(&names);
        if let Some(peer) = there.into_iter().find(|peer| !known.contains(peer)) {
            return peer;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// As [`somebody`], for a node that has just started and not yet heard of any; `false`: there is none in time.
pub(super) async fn somebody_soon(
    peers: &PeerFiles,
    files: &[FileSpec],
    known: &BTreeSet<PeerId>,
) -> bool {
    let heard = somebody(peers, files, known);
    tokio::time::timeout(FIRST_LOOK, heard).await.is_ok()
}

fn names(files: &[FileSpec]) -> BTreeSet<Sha256> {
    files.iter().map(FileSpec::sha256).collect()
}

/// Fetches `files`; `progress` hears of it a few times a second, `asked` gets everybody who was asked.
pub(super) async fn fetch(
    peers: &PeerFiles,
    files: Vec<FileSpec>,
    web: Option<Arc<dyn WebSeed>>,
    patience: Duration,
    asked: &mut BTreeSet<PeerId>,
    progress: &(dyn Fn(&Progress) + Sync),
) -> Result<(), PeersError> {
    let names = names(&files);
    let total: u64 = files.iter().map(FileSpec::size).sum();
    let first = peers.peers(&names);
    asked.extend(&first);
    let has_web = web.is_some();
    let mut fetch = peers.fetch(files, first, web);
    let seen = fetch.progress();
    let (mut got, mut movement) = (0, Movement::new(Instant::now()));
    loop {
        if let Ok(done) = tokio::time::timeout(LOOK_EVERY, fetch.done()).await {
            progress(&seen.borrow());
            return Ok(done?);
        }
        let more = peers.peers(&names);
        asked.extend(&more);
        fetch.add_peers(more);
        let now = Arc::clone(&seen.borrow());
        progress(&now);
        // What is under way counts: a piece is long on a slow line.
        let sum: u64 = now.sources.iter().map(|source| source.bytes).sum();
        let proved: u64 = now.files.iter().map(|file| file.proved_bytes).sum();
        // A source that is forgotten takes its bytes along.
        let came = (sum + proved).saturating_sub(got);
        got = sum + proved;
        let (missing, asked) = (total.saturating_sub(proved), asked.len());
        let is_hopeless = now.hopes == 0 && has_web;
        let patience = if is_hopeless {
            patience.min(NOBODY_LEFT)
        } else {
            patience
        };
        if movement.stands_still(came, Instant::now(), patience) {
            let after = patience;
            return Err(if is_hopeless {
                let peers = asked;
                PeersError::NobodyHas { missing, peers }
            } else {
                let peers = now.sources.len();
                PeersError::Stalled {
                    after,
                    missing,
                    peers,
                }
            });
        }
    }
}

/// The coordinator's server as a source of the exchange.
#[derive(Debug)]
pub(super) struct Web {
    pub(super) http: HttpClient,
    pub(super) base: String,
}

impl Web {
    fn get(
        &self,
        sha256: Sha256,
        range: Option<Range<u64>>,
        most: u64,
    ) -> BoxFuture<'static, io::Result<Vec<u8>>> {
        let url = format!("{}/v1/blobs/{sha256}", self.base.trim_end_matches('/'));
        let http = self.http.clone();
        Box::pin(async move {
            let mut headers = HeaderMap::new();
            let expected = match &range {
                None => StatusCode::OK,
                Some(range) => {
                    let text = format!("bytes={}-{}", range.start, range.end - 1);
                    let text = HeaderValue::from_str(&text).expect("digits are a header value");
                    headers.insert(header::RANGE, text);
                    StatusCode::PARTIAL_CONTENT
                }
            };
            let response = http.get(&url, headers).await.map_err(io::Error::other)?;
            // A server without ranges gives the whole, which is what is wanted of a small file. Of any other it is
            // too long, and refused below.
            let is_from_start = range.is_none_or(|range| range.start == 0);
            let is_whole = is_from_start && response.status() == StatusCode::OK;
            if response.status() != expected && !is_whole {
                let text = format!("{url}: the server answered {}", response.status());
                return Err(io::Error::other(text));
            }
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            let body = Limited::new(response.into_body(), most).collect().await;
            Ok(body.map_err(io::Error::other)?.to_bytes().into())
        })
    }
}

impl WebSeed for Web {
    fn range(&self, file: Sha256, range: Range<u64>) -> BoxFuture<'static, io::Result<Vec<u8>>> {
        let length = range.end - range.start;
        self.get(file, Some(range), length)
    }

    fn ladder(&self, file: &FileSpec) -> BoxFuture<'static, io::Result<Vec<u8>>> {
        match file.ladder_sha256() {
            Some(ladder) => self.get(ladder, None, file.ladder_bytes()),
            None => Box::pin(async { Err(io::ErrorKind::NotFound.into()) }),
        }
    }
}
