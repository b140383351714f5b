//! Model files from other nodes, with the web seed as one more source. `keeper` calls it before it asks the web
//! seed alone.
//! Must stay true: a fetch in which nothing moves is given up and begun again later, so that a newer version or
//! another web seed gets its turn.

use std::{
    collections::BTreeSet,
    fmt, io,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use owm_p2p::exchange::{
    driver::{FetchError, Progress, WebSeed},
    machine::Source,
};
use owm_proto::{FileSpec, Sha256, VersionId, manifest::ManifestFile};
use owm_service::{clock::SharedClock, dialer::HttpClient};

use crate::{metrics::Downloads, swarm::PeerFiles};

/// Between two looks for more peers and at what has come.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a peer is waited for before the web seed is asked alone.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// A file of a manifest without pieces comes from one source and is proved at its end: not from peers above this.
const UNPIECED_BYTES_MAX: u64 = 16 << 20;

/// Between two lines in the log while something is fetched.
const LOG_EVERY: Duration = Duration::from_secs(3);
/// Sources in one line.
const SOURCES_SHOWN: usize = 8;

/// Why peers have not brought everything.
#[derive(Debug, thiserror::Error)]
pub(super) enum PeersError {
    /// Nothing moves.
    #[error(
        "no peer has brought anything for {} s: {missing} bytes are missing, {peers} peers were asked; it goes on \
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

/// Whether a peer says that it holds one of `files`; a node that has just started gets [`FIRST_LOOK`] to hear of one.
pub(super) async fn somebody(peers: &PeerFiles, files: &[FileSpec]) -> bool {
    let names: BTreeSet<Sha256> = files.iter().map(FileSpec::sha256).collect();
    let heard = async {
        while peers.peers(&names).is_empty() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(FIRST_LOOK, heard).await.is_ok()
}

/// Fetches `files`; `progress` hears of it a few times a second.
pub(super) async fn fetch(
    peers: &PeerFiles,
    files: Vec<FileSpec>,
    web: Option<Arc<dyn WebSeed>>,
    patience: Duration,
    progress: &(dyn Fn(&Progress) + Sync),
) -> Result<(), PeersError> {
    let names: BTreeSet<Sha256> = files.iter().map(FileSpec::sha256).collect();
    let total: u64 = files.iter().map(FileSpec::size).sum();
    let mut fetch = peers.fetch(files, peers.peers(&names), web);
    let seen = fetch.progress();
    let (mut got, mut moved) = (0, tokio::time::Instant::now());
    loop {
        match tokio::time::timeout(LOOK_EVERY, fetch.done()).await {
            Ok(done) => {
                progress(&seen.borrow());
                return Ok(done?);
            }
            Err(_) => fetch.add_peers(peers.peers(&names)),
        }
        let now = Arc::clone(&seen.borrow());
        progress(&now);
        // What is under way counts: a piece is long on a slow line.
        let sum: u64 = now.sources.iter().map(|source| source.bytes).sum();
        let proved: u64 = now.files.iter().map(|file| file.proved_bytes).sum();
        if sum + proved != got {
            (got, moved) = (sum + proved, tokio::time::Instant::now());
        } else if moved.elapsed() > patience {
            return Err(PeersError::Stalled {
                after: patience,
                missing: total.saturating_sub(proved),
                peers: now.sources.len(),
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
            if response.status() != expected {
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

/// Bytes from peers and from the web, as the exchange counts them since its start.
pub(super) type Counted = Mutex<(u64, u64)>;

/// Counts what comes from whom and says it, for `status` and the log.
pub(super) struct PeersTeller<'a> {
    version: String,
    clock: &'a SharedClock,
    counts: Option<&'a Downloads>,
    /// Bytes from peers and from the web that are counted already, also by former fetches.
    counted: &'a Counted,
    logged: Mutex<Duration>,
}

impl<'a> PeersTeller<'a> {
    pub(super) fn new(
        version: &VersionId,
        clock: &'a SharedClock,
        counts: Option<&'a Downloads>,
        counted: &'a Counted,
    ) -> Self {
        Self {
            version: version.to_string(),
            clock,
            counts,
            counted,
            logged: Mutex::new(clock.monotonic()),
        }
    }

    /// Counts; a line when there is something new to say.
    pub(super) fn take(&self, progress: &Progress) -> Option<String> {
        let of = |is_peer: bool| {
            let sources = progress.sources.iter();
            let some = sources.filter(|s| matches!(s.source, Source::Peer(_)) == is_peer);
            some.map(|source| source.bytes).sum::<u64>()
        };
        let now = (of(true), of(false));
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *counted, now);
        drop(counted);
        if let Some(counts) = self.counts {
            counts.peer_bytes.inc_by(now.0.saturating_sub(before.0));
            counts.bytes.inc_by(now.1.saturating_sub(before.1));
        }
        if before == now {
            return None;
        }
        let line = self.line(progress);
        let at = self.clock.monotonic();
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if at >= *logged + LOG_EVERY {
            *logged = at;
            tracing::info!("{line}");
        }
        Some(line)
    }

    fn line(&self, progress: &Progress) -> String {
        let total: u64 = progress.files.iter().map(|file| file.size).sum();
        let got: u64 = progress.files.iter().map(|file| file.proved_bytes).sum();
        let mut fastest: Vec<_> = progress.sources.iter().filter(|s| s.bytes > 0).collect();
        fastest.sort_by_key(|source| std::cmp::Reverse(source.bytes_per_s));
        let each = fastest.iter().take(SOURCES_SHOWN).map(|source| {
            let rate = HumanRate(source.bytes_per_s);
            match source.source {
                Source::Peer(peer) => format!("{peer} {rate}"),
                Source::Web(_) => format!("the web seed {rate}"),
            }
        });
        let each: Vec<String> = each.collect();
        let (version, from) = (&self.version, each.join(", "));
        format!("fetching {version}: {got} of {total} bytes are proved; from {from}")
    }
}

/// Bytes a second, for people.
struct HumanRate(u64);

impl fmt::Display for HumanRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} MB/s", self.0 as f64 / 1e6)
    }
}
