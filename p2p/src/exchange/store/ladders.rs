//! Ladders: files of their own under their own SHA-256, so that whoever serves a file serves its ladder too, and who
//! resumes need not fetch it again. The record of a file says which is its ladder, so that it stays as long.

use std::collections::BTreeSet;

use owm_proto::{FileSpec, Ladder, Sha256};

use super::{Store, StoreError, record};

impl Store {
    /// The ladder that `spec` names, if it is kept; proved by its hash. A file that has none gets the one of one
    /// piece.
    pub fn ladder(&self, spec: &FileSpec) -> Option<Ladder> {
        let Some(sha256) = spec.ladder_sha256() else {
            return Ladder::none(*spec).ok();
        };
        let kept = self.complete(&sha256)?;
        if kept.size() != spec.ladder_bytes() {
            return None;
        }
        let mut states = vec![0; usize::try_from(kept.size()).ok()?];
        self.read(&kept, 0, &mut states).ok()?;
        Ladder::parse(*spec, states).ok()
    }

    /// Keeps a ladder.
    pub fn keep_ladder(&self, ladder: &Ladder) -> Result<(), StoreError> {
        let Some(sha256) = ladder.spec().ladder_sha256() else {
            return Ok(());
        };
        let states = ladder.to_bytes();
        let spec = FileSpec::new(sha256, states.len() as u64, None, None);
        let spec = spec.map_err(|_| StoreError::NotProved { sha256 })?;
        self.put(spec, &states).map(drop)
    }

    /// The ladders of these files, as far as their records name them.
    pub(super) fn ladders_of(&self, files: &BTreeSet<Sha256>) -> BTreeSet<Sha256> {
        let records = files
            .iter()
            .filter_map(|file| record::load(&self.record(file)));
        records.filter_map(|record| record.ladder).collect()
    }
}
