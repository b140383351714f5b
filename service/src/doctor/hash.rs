//! Files hashed again: whether they are still what their name says.

use std::{fs::File, io::Read as _, path::Path, time::Duration};

use sha2::Digest as _;

use crate::progress::Progress;

/// Bytes read at a time.
const BLOCK_BYTES: usize = 1 << 20;
/// A disk that reads slower than this, in bytes a second, is taken for hanging.
const RATE_MIN: u64 = 10_000_000;
/// On top of that.
const TIME_EXTRA: Duration = Duration::from_secs(30);

/// What a file turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Size and hash are right.
    Right,
    /// Its size is right; its bytes were not read (`--quick`).
    Unread,
    /// It is not there.
    Missing,
    /// It is another size: this many bytes.
    Size(u64),
    /// The bytes are others.
    Changed,
    /// It can't be read, and why.
    Unreadable(String),
}

/// Longest time for hashing `bytes`.
pub const fn time_for(bytes: u64) -> Duration {
    TIME_EXTRA.saturating_add(Duration::from_secs(bytes / RATE_MIN))
}

/// Compares a file with its size and SHA-256; `quick` looks at the size only. `bar` moves with it.
pub fn state_of(path: &Path, size: u64, sha256: &[u8; 32], quick: bool, bar: &Progress) -> State {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return State::Missing,
        Err(error) => return State::Unreadable(error.to_string()),
    };
    match file.metadata() {
        Ok(found) if found.len() != size => return State::Size(found.len()),
        Ok(_) if quick => return State::Unread,
        Ok(_) => {}
        Err(error) => return State::Unreadable(error.to_string()),
    }
    let mut hasher = sha2::Sha256::new();
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        match file.read(&mut block) {
            Ok(0) => break,
            Ok(got) => {
                hasher.update(&block[..got]);
                bar.inc(got as u64);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return State::Unreadable(error.to_string()),
        }
    }
    if hasher.finalize().as_slice() == sha256 {
        State::Right
    } else {
        State::Changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_is_found_unless_one_is_in_a_hurry() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let sha256: [u8; 32] = sha2::Sha256::digest(b"abc").into();
        let state = |quick| state_of(&path, 3, &sha256, quick, &Progress::hidden());
        assert_eq!(state(false), State::Missing);
        std::fs::write(&path, "abc").unwrap();
        assert_eq!((state(false), state(true)), (State::Right, State::Unread));
        std::fs::write(&path, "abd").unwrap();
        assert_eq!((state(false), state(true)), (State::Changed, State::Unread));
        std::fs::write(&path, "ab").unwrap();
        assert_eq!(
            (state(false), state(true)),
            (State::Size(2), State::Size(2))
        );
    }
}
