//! A file with a ladder from a web seed: what peers have brought already stays, the rest comes in ranges, and every
//! piece is proved before it counts. `Fetcher` calls it.
//! Must stay true: a lie costs one piece, a kill what was not synced.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use owm_p2p::exchange::store::{Partial, StoreError};
use owm_proto::{FileSpec, Ladder, PieceCheck, manifest::ManifestFile};

use super::{Came, DownloadError, Fetcher, WRITE_BYTES, Waits, blocking, range_start};
use crate::models::ShelfError;

/// Where a run of missing pieces stands.
struct Run {
    partial: Partial,
    /// The next byte to be written.
    at: u64,
    end: u64,
    check: Option<(u32, PieceCheck)>,
}

impl Fetcher {
    /// The ladder that the manifest names for `file`: the kept one, or the web seed's. `None`: the manifest
    /// names none, or nobody has it; the file is then fetched from the front and hashed as a whole.
    pub(super) async fn ladder(
        &self,
        file: &ManifestFile,
    ) -> Result<Option<Arc<Ladder>>, DownloadError> {
        let Ok(spec) = FileSpec::of(file) else {
            return Ok(None);
        };
        let Some(sha256) = spec.ladder_sha256() else {
            return Ok(None);
        };
        let shelf = self.shelf.clone();
        let kept = blocking(move || Ok(shelf.store()?.ladder(&spec))).await?;
        if let Some(ladder) = kept {
            return Ok(Some(Arc::new(ladder)));
        }
        let url = format!("{}/v1/blobs/{sha256}", self.web_seed.trim_end_matches('/'));
        let response = self.http.get(&url, HeaderMap::new()).await;
        let response = response.map_err(|source| DownloadError::Http {
            file: file.name.clone(),
            source: Box::new(source),
        })?;
        if response.status() != StatusCode::OK {
            return Ok(None);
        }
        let most = usize::try_from(spec.ladder_bytes()).unwrap_or(usize::MAX);
        let body = Limited::new(response.into_body(), most).collect();
        let body = tokio::time::timeout(self.limits.stall, body).await;
        let ladder = body.ok().and_then(Result::ok);
        let ladder = ladder.map(|body| Ladder::parse(spec, body.to_bytes().into()));
        Ok(ladder.and_then(Result::ok).map(Arc::new))
    }

    /// Fetches what is missing of a file whose pieces can be proved.
    pub(super) async fn fetch_pieces(
        &self,
        file: &ManifestFile,
        ladder: Arc<Ladder>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), DownloadError> {
        let shelf = self.shelf.clone();
        let begun = blocking(move || match shelf.store()?.begin(ladder) {
            Err(StoreError::Whole { .. }) => Ok(None),
            begun => Ok(Some(begun.map_err(ShelfError::from)?)),
        });
        let Some(partial) = begun.await? else {
            progress(file.size);
            return Ok(());
        };
        let got = |partial: &Partial| partial.len() - partial.missing_bytes();
        progress(got(&partial));
        while let Some(range) = missing(&partial) {
            let run = Run {
                partial: partial.clone(),
                at: range.start,
                end: range.end,
                check: None,
            };
            self.fetch_run(file, run, &|| progress(got(&partial)))
                .await?;
        }
        blocking(move || Ok(partial.finish().map(drop).map_err(ShelfError::from)?)).await
    }

    async fn fetch_run(
        &self,
        file: &ManifestFile,
        run: Run,
        progress: &(dyn Fn() + Sync),
    ) -> Result<(), DownloadError> {
        let base = self.web_seed.trim_end_matches('/');
        let url = format!("{base}/v1/blobs/{}", file.sha256);
        let mut headers = HeaderMap::new();
        let range = format!("bytes={}-{}", run.at, run.end - 1);
        let range = HeaderValue::from_str(&range).expect("digits are a header value");
        headers.insert(header::RANGE, range);
        let response = self.http.get(&url, headers).await;
        let response = response.map_err(|source| DownloadError::Http {
            file: file.name.clone(),
            source: Box::new(source),
        })?;
        let status = response.status();
        let skip = match status {
            StatusCode::PARTIAL_CONTENT if range_start(response.headers()) == Some(run.at) => 0,
            // A server without ranges.
            StatusCode::OK => run.at,
            _ => {
                return Err(DownloadError::Status {
                    file: file.name.clone(),
                    status,
                    url,
                });
            }
        };
        self.read_run(file, run, skip, response.into_body(), progress)
            .await
    }

    async fn read_run(
        &self,
        file: &ManifestFile,
        mut run: Run,
        mut skip: u64,
        mut body: Incoming,
        progress: &(dyn Fn() + Sync),
    ) -> Result<(), DownloadError> {
        let mut gathered: Vec<Bytes> = Vec::new();
        let (mut waiting, mut waits) = (0, Waits::new());
        loop {
            let next = self.frame(&mut body, &mut waits).await;
            let is_data = matches!(&next, Came::Frame(frame) if frame.is_data());
            let is_enough = run.at + waiting >= run.end;
            if !is_data || is_enough || waiting >= WRITE_BYTES as u64 {
                let (batch, wanted) = (std::mem::take(&mut gathered), file.clone());
                run = blocking(move || run.take(&batch, &wanted)).await?;
                waiting = 0;
                progress();
            }
            if run.at >= run.end {
                return Ok(());
            }
            match next {
                Came::Frame(frame) => {
                    let Ok(mut data) = frame.into_data() else {
                        continue;
                    };
                    self.rate.take(data.len()).await;
                    let skipped = skip.min(data.len() as u64);
                    skip -= skipped;
                    let data = data.split_off(skipped as usize);
                    waiting += data.len() as u64;
                    gathered.push(data);
                }
                ended => {
                    let got = run.partial.len() - run.partial.missing_bytes();
                    return Err(self.ended(&ended, file, got));
                }
            }
        }
    }
}

impl Run {
    /// Writes what came and proves the pieces that it completes. What lies beyond the run is not looked at.
    fn take(mut self, batch: &[Bytes], file: &ManifestFile) -> Result<Self, DownloadError> {
        for bytes in batch {
            let mut bytes = &bytes[..bytes.len().min((self.end - self.at) as usize)];
            while !bytes.is_empty() {
                let ladder = self.partial.ladder();
                let piece = (self.at / ladder.piece_len()) as u32;
                let range = ladder.range(piece);
                let (_, check) = self
                    .check
                    .get_or_insert_with(|| (piece, ladder.check(piece)));
                let (now, later) = bytes.split_at(bytes.len().min((range.end - self.at) as usize));
                check.update(now);
                let written = self.partial.write(self.at, now);
                let got = || file.size.saturating_sub(self.partial.missing_bytes());
                written.map_err(|error| no_room(error, got(), file))?;
                self.at += now.len() as u64;
                bytes = later;
                if self.at == range.end
                    && let Some((piece, check)) = self.check.take()
                {
                    if !check.finish() {
                        let file = file.name.clone();
                        return Err(DownloadError::WrongPiece { file, piece });
                    }
                    let proved = self.partial.proved(piece);
                    proved.map_err(ShelfError::from)?;
                }
            }
        }
        Ok(self)
    }
}

/// What a failed write means for whoever has to make room; `got` bytes of the file stay.
pub(super) fn no_room(error: StoreError, got: u64, file: &ManifestFile) -> DownloadError {
    let (missing, name) = (file.size.saturating_sub(got), file.name.clone());
    match error {
        StoreError::DiskFull { free, folder, .. } => DownloadError::DiskFull {
            file: name,
            got,
            missing,
            free,
            folder,
        },
        StoreError::FileTooLarge { size, folder } => DownloadError::FileTooLarge {
            file: name,
            got,
            size,
            folder,
        },
        other => ShelfError::from(other).into(),
    }
}

/// The first bytes that are missing, up to the next that are there.
fn missing(partial: &Partial) -> Option<Range<u64>> {
    let (has, ladder) = (partial.pieces(), partial.ladder());
    let first = (0..has.pieces()).find(|piece| !has.has(*piece))?;
    let end = (first..has.pieces()).find(|piece| has.has(*piece));
    let end = end.map_or(ladder.spec().size(), |piece| ladder.range(piece).start);
    Some(ladder.range(first).start..end)
}

#[cfg(test)]
mod tests {
    use owm_proto::{LadderBuilder, PieceLen, Sha256};

    use super::super::tests::{Does, attempt_at};

    /// Three pieces of 256 KiB and an odd end.
    fn body() -> Vec<u8> {
        (0..(768 << 10) + 5).map(|n: u32| (n % 251) as u8).collect()
    }

    #[tokio::test]
    async fn what_peers_have_brought_stays_and_the_rest_comes_from_the_web() {
        let body = body();
        let mut builder = LadderBuilder::new(PieceLen::MIN);
        builder.update(&body);
        let ladder = std::sync::Arc::new(builder.finish().unwrap());
        // A lie, then piece 0 whole, then piece 2 and a bit of the end.
        let does = vec![Does::Lie, Does::Serve, Does::CutAfter((256 << 10) + 2)];
        let mut attempt = attempt_at(body.clone(), does).await;
        attempt.file.piece_len = Some(PieceLen::MIN.bytes());
        attempt.file.ladder_sha256 = ladder.spec().ladder_sha256();
        let store = attempt.fetcher.shelf.store().unwrap();
        // Its ladder too.
        let partial = store.begin(std::sync::Arc::clone(&ladder)).unwrap();
        let range = ladder.range(1);
        let piece = &body[range.start as usize..range.end as usize];
        partial.write(range.start, piece).unwrap();
        partial.proved(1).unwrap();
        drop((partial, store));
        let text = attempt.fetch().await.unwrap_err().to_string();
        assert!(text.contains("piece 0"), "{text}");
        attempt.check_nothing_under_the_name();
        let text = attempt.fetch().await.unwrap_err().to_string();
        assert!(text.contains("connection ended"), "{text}");
        attempt.fetch().await.unwrap();
        attempt.check_done();
        let piece = PieceLen::MIN.bytes();
        // Neither the piece that was there nor one that was proved is asked for again.
        assert_eq!(
            *attempt.asked.lock().unwrap(),
            [Some(0), Some(0), Some(2 * piece), Some(3 * piece)]
        );
        assert_eq!(attempt.file.sha256, Sha256::of(&body));
        let store = attempt.fetcher.shelf.store().unwrap();
        assert!(store.complete(&attempt.file.sha256).is_some(), "served");
    }
}
