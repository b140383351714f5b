//! One file from the web seed: `GET {web_seed}/v1/blobs/{sha256}`, resumed at any byte after a kill,
//! hashed while it is written, and under its own name only when the hash is right. One whose manifest names
//! a ladder comes piece by piece ([`pieces`]), into the same file that peers fill.
//! Must stay true: a wrong file never gets the right name; a stalled server is left after its time.

mod pieces;

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use owm_p2p::exchange::driver::WebSeed;
use owm_proto::{Sha256, hash::Hasher, manifest::ManifestFile};
use owm_service::{
    dialer::{HttpClient, HttpError},
    failpoint,
};

use super::{Shelf, ShelfError, check::hash_file, peers::Web, shelf::free_bytes};
use crate::{DOWNLOAD_BEFORE_RENAME, home::sync_folder};

/// Bytes gathered before they are hashed and written on a blocking thread.
const WRITE_BYTES: usize = 1 << 20;
/// Bytes read at once when a part is hashed again.
const READ_BYTES: usize = 1 << 20;

/// How patient a download is.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Without a single byte for so long, it is given up (and resumed later).
    pub stall: Duration,
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
    /// Nothing came.
    #[error("{file}: nothing came for {} s (at byte {got}); it goes on from there", after.as_secs())]
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
    /// The process ends.
    #[error("the process stops")]
    Stopped,
    /// A failpoint.
    #[error(transparent)]
    Injected(#[from] failpoint::Injected),
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
}

/// A part under way: an open file and the hash of what is in it.
struct Part {
    path: PathBuf,
    file: File,
    hasher: Hasher,
    len: u64,
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
        let path = self.shelf.part(&file.sha256);
        let size = file.size;
        let mut part = blocking(move || Part::open(path, size)).await?;
        progress(part.len);
        if part.len < size {
            part = self.fill(part, file, progress).await?;
        }
        let (shelf, file) = (self.shelf.clone(), file.clone());
        blocking(move || {
            part.finish(&file, &shelf.blob(&file.sha256))?;
            Ok(shelf
                .store()?
                .adopt(&file.sha256)
                .map_err(ShelfError::from)?)
        })
        .await
    }

    /// The same web seed, for the exchange.
    pub(super) fn as_source(&self) -> Arc<dyn WebSeed> {
        Arc::new(Web {
            http: self.http.clone(),
            base: self.web_seed.clone(),
        })
    }

    /// As [`Fetcher::fetch`], but what is there is hashed first; a damaged file is taken off the shelf
    /// and told to `damaged`.
    pub async fn repair(
        &self,
        file: &ManifestFile,
        progress: &(dyn Fn(u64) + Sync),
        damaged: &mut (dyn FnMut(String) + Send),
    ) -> Result<(), DownloadError> {
        let (blob, wanted) = (self.shelf.blob(&file.sha256), file.clone());
        let state = blocking(move || {
            hash_file(&blob, &|_| {}).map_err(|source| DownloadError::Io { path: blob, source })
        })
        .await?;
        if let Some(found) = state.filter(|found| *found != wanted.sha256) {
            damaged(format!(
                "{} on this disk is damaged (SHA-256 {found}, not {}); it is fetched again",
                file.name, file.sha256
            ));
            // Gone already: the running node has found it too.
            self.shelf.discard(&file.sha256)?;
        }
        self.fetch(file, progress).await
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
                part.remove();
            }
            return Err(DownloadError::Status {
                file: file.name.clone(),
                status,
                url,
            });
        }
        if !resumes && part.len > 0 {
            part = blocking(move || part.restart()).await?;
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
        let mut waiting = 0;
        loop {
            let next = tokio::time::timeout(self.limits.stall, body.frame()).await;
            // What has come so far is worth keeping, whatever comes next.
            let is_data = matches!(&next, Ok(Some(Ok(frame))) if frame.is_data());
            if !is_data || waiting >= WRITE_BYTES {
                let batch = std::mem::take(&mut gathered);
                let wanted = file.clone();
                part = blocking(move || part.write(&batch, &wanted)).await?;
                waiting = 0;
                progress(part.len);
            }
            let got = part.len;
            match next {
                Ok(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    waiting += data.len();
                    if got + waiting as u64 > file.size {
                        part.remove();
                        return Err(DownloadError::TooLong {
                            file: name(),
                            size: file.size,
                        });
                    }
                    gathered.push(data);
                }
                Ok(None) if got == file.size => return Ok(part),
                Ok(None | Some(Err(_))) => {
                    return Err(DownloadError::Truncated {
                        file: name(),
                        got,
                        size: file.size,
                    });
                }
                Err(_) => {
                    let after = self.limits.stall;
                    return Err(DownloadError::Stalled {
                        file: name(),
                        got,
                        after,
                    });
                }
            }
        }
    }
}

/// Where a `content-range: bytes 5-9/10` begins.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

impl Part {
    /// Opens what is there and hashes it; more than `size` bytes are worth nothing.
    fn open(path: PathBuf, size: u64) -> Result<Self, DownloadError> {
        let failed = |source| DownloadError::Io {
            path: path.clone(),
            source,
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(failed)?;
        if file.metadata().map_err(failed)?.len() > size {
            file.set_len(0).map_err(failed)?;
        }
        let (mut hasher, mut len) = (Hasher::new(), 0);
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let read = file.read(&mut buffer).map_err(failed)?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            len += read as u64;
        }
        Ok(Self {
            path,
            file,
            hasher,
            len,
        })
    }

    fn restart(mut self) -> Result<Self, DownloadError> {
        let outcome = self.file.set_len(0).and_then(|()| self.file.rewind());
        outcome.map_err(|source| DownloadError::Io {
            path: self.path.clone(),
            source,
        })?;
        Ok(Self {
            hasher: Hasher::new(),
            len: 0,
            ..self
        })
    }

    fn write(mut self, batch: &[Bytes], file: &ManifestFile) -> Result<Self, DownloadError> {
        for bytes in batch {
            self.file
                .write_all(bytes)
                .map_err(|source| self.no_room(source, file))?;
            self.hasher.update(bytes);
            self.len += bytes.len() as u64;
        }
        Ok(self)
    }

    /// What a failed write means for whoever has to make room.
    fn no_room(&self, source: io::Error, file: &ManifestFile) -> DownloadError {
        let (path, name) = (self.path.clone(), file.name.clone());
        // Also what the failed write has brought to the disk.
        let got = self.file.metadata().map_or(self.len, |found| found.len());
        let folder = path.parent().unwrap_or(Path::new(".")).to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DownloadError::DiskFull {
                file: name,
                got,
                missing: file.size.saturating_sub(got),
                free: free_bytes(&folder).unwrap_or_default(),
                folder,
            },
            io::ErrorKind::FileTooLarge => DownloadError::FileTooLarge {
                file: name,
                got,
                size: file.size,
                folder,
            },
            _ => DownloadError::Io { path, source },
        }
    }

    /// Gives the file its name if it is the right one, else throws it away.
    fn finish(self, file: &ManifestFile, to: &Path) -> Result<(), DownloadError> {
        let failed = |source| DownloadError::Io {
            path: self.path.clone(),
            source,
        };
        self.file.sync_all().map_err(failed)?;
        let found = self.hasher.clone().finish();
        if found != file.sha256 {
            let (expected, file) = (file.sha256, file.name.clone());
            self.remove();
            return Err(DownloadError::WrongHash {
                file,
                expected,
                found,
            });
        }
        failpoint::check(DOWNLOAD_BEFORE_RENAME)?;
        std::fs::rename(&self.path, to).map_err(failed)?;
        to.parent().map_or(Ok(()), sync_folder).map_err(failed)
    }

    /// Best effort: a part that stays is hashed again and found wrong again.
    fn remove(&self) {
        drop(std::fs::remove_file(&self.path));
    }
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
