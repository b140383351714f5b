//! A file without a ladder, from the front: one piece, that of the store which the exchange fills too, proved by the
//! file's plain SHA-256 when all of it is there. `Fetcher` fills it.
//! The exchange may have written into it anywhere; what is behind a hole is fetched again.
//! Must stay true: what lies in it counts for nothing before its hash is right; a wrong one is thrown away.

use std::sync::Arc;

use bytes::Bytes;
use owm_p2p::exchange::store::{Partial, StoreError};
use owm_proto::{FileSpec, Ladder, hash::Hasher, manifest::ManifestFile};

use super::{DownloadError, pieces::no_room};
use crate::models::{Shelf, ShelfError};

/// Bytes read at once when a part is hashed again.
const READ_BYTES: u64 = 1 << 20;

/// A part under way and the hash of what is in it.
pub(super) struct Part {
    partial: Partial,
    hasher: Hasher,
    /// Bytes that are there.
    pub(super) len: u64,
}

/// How a file begins.
pub(super) enum Begun {
    /// It is here.
    Whole,
    /// Somebody fetches it piece by piece already.
    Pieces(Arc<Ladder>),
    /// Here is what there is of it.
    Part(Part),
}

impl Part {
    /// Opens what is there and hashes it.
    pub(super) fn begin(shelf: &Shelf, file: &ManifestFile) -> Result<Begun, DownloadError> {
        let sha256 = file.sha256;
        let not_one = |_| ShelfError::from(StoreError::NotProved { sha256 });
        let spec = FileSpec::of(file).ok();
        // As one piece, if nobody had its ladder.
        let spec = match spec.filter(|spec| spec.ladder_sha256().is_none()) {
            Some(spec) => spec,
            None => FileSpec::new(sha256, file.size, None, None).map_err(not_one)?,
        };
        let ladder = Ladder::none(spec).map_err(not_one)?;
        let partial = match shelf.store()?.begin(Arc::new(ladder)) {
            Err(StoreError::Whole { .. }) => return Ok(Begun::Whole),
            begun => begun.map_err(ShelfError::from)?,
        };
        if partial.ladder().pieces() > 1 {
            return Ok(Begun::Pieces(Arc::clone(partial.ladder())));
        }
        let (mut hasher, mut len) = (Hasher::new(), 0);
        let there = partial.written().min(file.size);
        let mut buffer = vec![0; READ_BYTES.min(there) as usize];
        while len < there {
            let next = &mut buffer[..READ_BYTES.min(there - len) as usize];
            partial.read(len, next).map_err(ShelfError::from)?;
            hasher.update(next);
            len += next.len() as u64;
        }
        Ok(Begun::Part(Self {
            partial,
            hasher,
            len,
        }))
    }

    /// The next bytes will be the file's first: a server without ranges.
    pub(super) fn restart(&mut self) {
        (self.hasher, self.len) = (Hasher::new(), 0);
    }

    pub(super) fn write(
        mut self,
        batch: &[Bytes],
        file: &ManifestFile,
    ) -> Result<Self, DownloadError> {
        for bytes in batch {
            let written = self.partial.write(self.len, bytes);
            // Also what the failed write has brought to the disk.
            written.map_err(|error| no_room(error, self.partial.written(), file))?;
            self.hasher.update(bytes);
            self.len += bytes.len() as u64;
        }
        Ok(self)
    }

    /// Gives the file its name if it is the right one, else throws it away.
    pub(super) fn finish(self, file: &ManifestFile) -> Result<(), DownloadError> {
        if !self.partial.pieces().is_full() {
            let found = self.hasher.clone().finish();
            if found != file.sha256 {
                self.discard();
                return Err(DownloadError::WrongHash {
                    file: file.name.clone(),
                    expected: file.sha256,
                    found,
                });
            }
            // Not so if somebody else wrote there meanwhile: then it is not finished either, and tried again.
            let proved = self.partial.proved(0);
            proved.map_err(|error| no_room(error, self.partial.written(), file))?;
        }
        let finished = self.partial.finish();
        finished
            .map(drop)
            .map_err(|error| no_room(error, self.partial.written(), file))
    }

    /// Best effort: a part that stays is hashed again and found wrong again.
    pub(super) fn discard(&self) {
        drop(self.partial.discard());
    }
}
