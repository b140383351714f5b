//! Ladders beside their files: who serves a file serves its ladder too, and who resumes need not fetch it again.
//! In `ladders/<sha256 of the file>`: the SHA-256 of the states, then the states.

use std::{fs, path::PathBuf};

use owm_proto::{FileSpec, Ladder, Sha256, limits::LADDER_BYTES_MAX};

use super::{Store, StoreError};

/// Bytes of the hash in front.
const HASH_BYTES: usize = 32;

impl Store {
    /// The ladder that `spec` names, if it is kept; proved by its hash in `spec`. A file that has none gets
    /// the one of one piece.
    pub fn ladder(&self, spec: &FileSpec) -> Option<Ladder> {
        if spec.ladder_sha256().is_none() {
            return Ladder::none(*spec).ok();
        }
        let states = self.ladder_bytes(&spec.sha256())?;
        Ladder::parse(*spec, states).ok()
    }

    /// The ladder of a file as it is published, if the file has one that is kept.
    pub fn ladder_bytes(&self, file: &Sha256) -> Option<Vec<u8>> {
        let path = self.ladder_path(file);
        let length = fs::metadata(&path).ok()?.len();
        if length > LADDER_BYTES_MAX + HASH_BYTES as u64 {
            return None;
        }
        let mut kept = fs::read(path).ok()?;
        let states = kept.split_off(kept.len().min(HASH_BYTES));
        (kept == Sha256::of(&states).as_bytes() && !states.is_empty()).then_some(states)
    }

    /// Keeps a ladder. It is not synced: a damaged one is found by its hash and fetched again.
    pub fn keep_ladder(&self, ladder: &Ladder) -> Result<(), StoreError> {
        let file = ladder.spec().sha256();
        let states = ladder.to_bytes();
        if states.is_empty() || self.ladder_bytes(&file).as_ref() == Some(&states) {
            return Ok(());
        }
        let path = self.ladder_path(&file);
        let new = path.with_extension("new");
        let kept = [Sha256::of(&states).as_bytes(), &states[..]].concat();
        let written = fs::write(&new, kept).and_then(|()| fs::rename(&new, &path));
        written.map_err(|source| StoreError::io(&path, source))
    }

    pub(super) fn ladder_path(&self, file: &Sha256) -> PathBuf {
        self.dir().join("ladders").join(file.to_string())
    }
}
