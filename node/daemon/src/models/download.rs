//! One file from the web seed: `GET {web_seed}/v1/blobs/{sha256}`, resumed at any byte after a kill,
//! hashed while it is written, and under its own name only when the hash is right. One whose manifest names
//! a ladder comes piece by piece ([`pieces`]), into the same file that peers fill.
//! Must stay true: a wrong file never gets the right name; a stalled server is left after its time.

mod part;
mod pieces;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use owm_p2p::exchange::{driver::WebSeed, rate::Rate};
use owm_proto::{Sha256, manifest::ManifestFile};
use owm_service::{
    CancellationToken,
    dialer::{HttpClient, HttpError},
};
use part::{Begun, Part};
use tokio::time::Instant;

use super::{Shelf, ShelfError, movement::Movement, peers::Web};

/// Bytes gathered before they are hashed and written on a blocking thread.
const WRITE_BYTES: usize = 1 << 20;

/// How patient a download is.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Without anything of use for so long, it is given up (and resumed later).
    pub stall: Duration,
}

/// How long a server was waited for, and what came of it. What our own cap makes us wait is not the server's fault.
struct Waits {
    begun: Instant,
    waited: Duration,
    movement: Movement,
}

impl Waits {
    fn new() -> Self {
        let begun = Instant::now();
        Self {
            begun,
            waited: Duration::ZERO,
            movement: Movement::new(begun),
        }
    }

    /// So many bytes came after so long; whether for `patience` nothing of use has.
    fn stands_still(&mut self, bytes: usize, after: Duration, patience: Duration) -> bool {
        self.waited += after;
        let now = self.begun + self.waited;
        self.movement.stands_still(bytes as u64, now, patience)
    }
}

/// Why a file is not there yet. Every one of these may be tried again.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// No answer.
    #[error("cannot fetch {file}")]
    Http {
        /// Its name in the manifest.
        file: String,
        /// What happened.
        source: Box<HttpError>,
    },
    /// An answer that is none.
    #[error("{file}: the server answered {status}; is the web seed {url} right?")]
    Status {
        /// Its name in the manifest.
        file: String,
        /// HTTP's status.
        status: StatusCode,
        /// What was asked.
        url: String,
    },
    /// It broke off.
    #[error("{file}: the connection ended after {got} of {size} bytes; it goes on from there")]
    Truncated {
        /// Its name in the manifest.
        file: String,
        /// Bytes there are.
        got: u64,
        /// Bytes there should be.
        size: u64,
    },
    /// Nothing of use came.
    #[error("{file}: next to nothing came for {} s (at byte {got}); it goes on from there", after.as_secs())]
    Stalled {
        /// Its name in the manifest.
        file: String,
        /// Bytes there are.
        got: u64,
        /// How long.
        after: Duration,
    },
    /// More than there should be.
    #[error("{file}: the server sends more than the {size} bytes of the manifest; it starts over")]
    TooLong {
        /// Its name in the manifest.
        file: String,
        /// Bytes there should be.
        size: u64,
    },
    /// Not the file.
    #[error("{file}: what came has SHA-256 {found}, the manifest says {expected}; it starts over")]
    WrongHash {
        /// Its name in the manifest.
        file: String,
        /// From the manifest.
        expected: Sha256,
        /// Of what came.
        found: Sha256,
    },
    /// A piece that is none.
    #[error(
        "{file}: piece {piece} of what the server sends is not the manifest's; it is fetched again"
    )]
    WrongPiece {
        /// Its name in the manifest.
        file: String,
        /// Which, from 0.
        piece: u32,
    },
    /// The disk is full.
    #[error(
        "{file}: the disk is full: {missing} bytes are still to come, {free} are free under {}; make \
         room, or move the data folder ([node] data): the {got} bytes that are there stay, it goes on \
         from there", folder.display()
    )]
    DiskFull {
        /// Its name in the manifest.
        file: String,
        /// Bytes there are.
        got: u64,
        /// Bytes still to come.
        missing: u64,
        /// Bytes there is room for.
        free: u64,
        /// Where.
        folder: PathBuf,
    },
    /// The system allows no file of this size.
    #[error(
        "{file}: this system allows no file of {size} bytes under {} (a limit of the process, see \
         `ulimit -f` and LimitFSIZE=, or of the file system); raise it, or move the data folder \
         ([node] data): the {got} bytes that are there stay, it goes on from there", folder.display()
    )]
    FileTooLarge {
        /// Its name in the manifest.
        file: String,
        /// Bytes there are.
        got: u64,
        /// Bytes there should be.
        size: u64,
        /// Where.
        folder: PathBuf,
    },
    /// The disk.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The shelf.
    #[error(transparent)]
    Shelf(#[from] ShelfError),
    /// Somebody else is asked now.
    #[error("peers may have it; it goes on with them")]
    GivesWay,
    /// The process ends.
    #[error("the process stops")]
    Stopped,
}

/// Fetches files onto a shelf.
#[derive(Clone, Debug)]
pub struct Fetcher {
    /// Makes the requests.
    pub http: HttpClient,
    /// Base URL.
    pub web_seed: String,
    /// Where files go.
    pub shelf: Shelf,
    /// How patient.
    pub limits: Limits,
    /// How fast at most; clones share it.
    pub rate: Arc<Rate>,
    /// Once it is cancelled, a download stops between two writes: [`DownloadError::GivesWay`].
    pub gives_way: CancellationToken,
}

impl Fetcher {
    /// Fetches `file` if it is not there; `progress` hears how many bytes of it there are.
    pub async fn fetch(
        &self,
        file: &ManifestFile,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), DownloadError> {
        if self.shelf.has(file) {
            progress(file.size);
            return Ok(());
        }
        if let Some(ladder) = self.ladder(file).await? {
            return self.fetch_pieces(file, ladder, progress).await;
        }
        let (shelf, wanted) = (self.shelf.clone(), file.clone());
        let begun = blocking(move || Part::begin(&shelf, &wanted)).await?;
        let mut part = match begun {
            Begun::Whole => {
                progress(file.size);
                return Ok(());
            }
            Begun::Pieces(ladder) => return self.fetch_pieces(file, ladder, progress).await,
            Begun::Part(part) => part,
        };
        progress(part.len);
        if part.len < file.size {
            part = self.fill(part, file, progress).await?;
        }
        let file = file.clone();
        blocking(move || part.finish(&file)).await
    }

    /// One for each web seed.
    pub(super) fn of_each(&self, web_seeds: Vec<String>) -> Vec<Self> {
        let fetcher = |web_seed| Self {
            web_seed,
            ..self.clone()
        };
        web_seeds.into_iter().map(fetcher).collect()
    }

    /// The same web seed, for the exchange.
    pub(super) fn as_source(&self) -> Arc<dyn WebSeed> {
        Arc::new(Web {
            http: self.http.clone(),
            base: self.web_seed.clone(),
        })
    }

    async fn fill(
        &self,
        mut part: Part,
        file: &ManifestFile,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Part, DownloadError> {
        let base = self.web_seed.trim_end_matches('/');
        let url = format!("{base}/v1/blobs/{}", file.sha256);
        let mut headers = HeaderMap::new();
        if part.len > 0 {
            let range = HeaderValue::from_str(&format!("bytes={}-", part.len))
                .expect("digits are a header value");
            headers.insert(header::RANGE, range);
        }
        let http = |source| DownloadError::Http {
            file: file.name.clone(),
            source: Box::new(source),
        };
        let response = self.http.get(&url, headers).await.map_err(http)?;
        let status = response.status();
        let resumes = status == StatusCode::PARTIAL_CONTENT
            && range_start(response.headers()) == Some(part.len);
        if !resumes && status != StatusCode::OK {
            if status == StatusCode::RANGE_NOT_SATISFIABLE || status.is_success() {
                part.discard();
            }
            return Err(DownloadError::Status {
                file: file.name.clone(),
                status,
                url,
            });
        }
        if !resumes && part.len > 0 {
            part.restart();
        }
        self.read(part, response.into_body(), file, progress).await
    }

    async fn read(
        &self,
        mut part: Part,
        mut body: Incoming,
        file: &ManifestFile,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Part, DownloadError> {
        let name = || file.name.clone();
        let mut gathered: Vec<Bytes> = Vec::new();
        let (mut waiting, mut waits) = (0, Waits::new());
        loop {
            let next = self.frame(&mut body, &mut waits).await;
            // What has come so far is worth keeping, whatever comes next.
            let is_data = matches!(&next, Came::Frame(frame) if frame.is_data());
            if !is_data || waiting >= WRITE_BYTES {
                let batch = std::mem::take(&mut gathered);
                let wanted = file.clone();
                part = blocking(move || part.write(&batch, &wanted)).await?;
                waiting = 0;
                progress(part.len);
            }
            let got = part.len;
            match next {
                Came::Frame(frame) => {
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    self.rate.take(data.len()).await;
                    waiting += data.len();
                    if got + waiting as u64 > file.size {
                        part.discard();
                        return Err(DownloadError::TooLong {
                            file: name(),
                            size: file.size,
                        });
                    }
                    gathered.push(data);
                }
                Came::End if got == file.size => return Ok(part),
                ended => return Err(self.ended(&ended, file, got)),
            }
        }
    }

    async fn frame(&self, body: &mut Incoming, waits: &mut Waits) -> Came {
        let (stall, asked) = (self.limits.stall, Instant::now());
        let next = tokio::time::timeout(stall, body.frame());
        tokio::select! {
            biased;
            () = self.gives_way.cancelled() => Came::GivesWay,
            next = next => match next {
                Ok(Some(Ok(frame))) => {
                    let bytes = frame.data_ref().map_or(0, Bytes::len);
                    if waits.stands_still(bytes, asked.elapsed(), stall) {
                        return Came::Nothing;
                    }
                    Came::Frame(frame)
                }
                Ok(None) => Came::End,
                Ok(Some(Err(_))) => Came::Broken,
                Err(_) => Came::Nothing,
            },
        }
    }

    /// What it means that a body ended here.
    fn ended(&self, came: &Came, file: &ManifestFile, got: u64) -> DownloadError {
        let (size, after) = (file.size, self.limits.stall);
        let file = file.name.clone();
        match came {
            Came::GivesWay => DownloadError::GivesWay,
            Came::Nothing => DownloadError::Stalled { file, got, after },
            Came::Frame(_) | Came::End | Came::Broken => {
                DownloadError::Truncated { file, got, size }
            }
        }
    }
}

/// What comes next of a body.
enum Came {
    Frame(hyper::body::Frame<Bytes>),
    End,
    Broken,
    /// Within the time.
    Nothing,
    GivesWay,
}

/// Where a `content-range: bytes 5-9/10` begins.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, DownloadError> + Send + 'static,
) -> Result<T, DownloadError> {
    tokio::task::spawn_blocking(f)
        .await
        .map_err(|_| DownloadError::Stopped)?
}

#[cfg(test)]
mod tests;
