//! The book as bytes for the disk: versioned JSON. Writing the file atomically is the daemon's business.
//! A file is foreign bytes too: everything in it is bounded again on the way in.

use std::collections::BTreeMap;

use libp2p::PeerId;
use owm_proto::{UnixMillis, limits::SHORT_TEXT_BYTES_MAX};
use serde::{Deserialize, Serialize};

use super::{ADDRESSES_PER_PEER, Book, Known, Origin, PEERS_MAX};
use crate::{NetworkPolicy, peer::group::allowed};

/// A book's file: 1,024 peers with four addresses of at most 256 bytes each stay below.
pub const BOOK_BYTES_MAX: usize = 4 << 20;

/// What the file is. Another number is another format.
const FORMAT: u32 = 1;

/// Why remembered peers can't be read. Starting without them is right: they are a convenience.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// Too long.
    #[error(
        "the remembered peers are {bytes} bytes, more than {BOOK_BYTES_MAX}: that is not a file of ours; starting without it"
    )]
    Oversize {
        /// How long.
        bytes: usize,
    },
    /// No JSON of this shape.
    #[error("the remembered peers are damaged ({0}); starting without them, they are written anew")]
    Damaged(#[from] serde_json::Error),
    /// Of another version of the program.
    #[error(
        "the remembered peers are in format {0}, this version reads {FORMAT}; starting without them"
    )]
    Format(u32),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u32,
    peers: BTreeMap<PeerId, Known>,
}

#[derive(Deserialize)]
struct Head {
    format: u32,
}

impl Book {
    /// What to write.
    pub fn to_json(&self) -> Vec<u8> {
        let file = File {
            format: FORMAT,
            peers: self.peers.clone(),
        };
        serde_json::to_vec(&file).expect("a book is plain JSON")
    }

    /// Reads what [`Book::to_json`] wrote. Entries that the policy forbids, that are too old or over a bound
    /// are left out.
    pub fn from_json(
        policy: NetworkPolicy,
        bytes: &[u8],
        now: UnixMillis,
    ) -> Result<Self, BookError> {
        if bytes.len() > BOOK_BYTES_MAX {
            return Err(BookError::Oversize { bytes: bytes.len() });
        }
        let head: Head = serde_json::from_slice(bytes)?;
        if head.format != FORMAT {
            return Err(BookError::Format(head.format));
        }
        let file: File = serde_json::from_slice(bytes)?;
        let mut book = Self::new(policy);
        // Those seen last first: when the bounds are reached they are in.
        let mut peers: Vec<_> = file.peers.into_iter().collect();
        peers.sort_by_key(|(_, known)| std::cmp::Reverse(known.last_success_ms));
        for (peer, known) in peers.into_iter().take(PEERS_MAX) {
            book.admit(peer, known, now);
        }
        book.age(now);
        Ok(book)
    }

    fn admit(&mut self, peer: PeerId, mut known: Known, now: UnixMillis) {
        if matches!(&known.origin, Origin::Source(name) if name.len() > SHORT_TEXT_BYTES_MAX) {
            return;
        }
        known.addresses.retain(|a| allowed(self.policy, &a.address));
        known.addresses.truncate(ADDRESSES_PER_PEER);
        // A clock that was ahead when the file was written must not keep entries young for ever.
        let past = |at: Option<UnixMillis>| at.map(|at| at.min(now));
        for address in &mut known.addresses {
            address.last_success_ms = past(address.last_success_ms);
        }
        let claims: Vec<_> = known.addresses.iter().map(|a| a.address.clone()).collect();
        let at = past(Some(known.added_at_ms)).unwrap_or(now);
        if !self.learn(peer, &claims, &known.origin, at) {
            return;
        }
        let proven: Vec<_> = known
            .addresses
            .iter()
            .rev()
            .filter(|a| known.tried && a.last_success_ms.is_some())
            .collect();
        for address in proven {
            let when = address.last_success_ms.unwrap_or(now);
            self.reached(peer, &address.address, &known.origin, when);
        }
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.last_success_ms = past(known.last_success_ms);
            entry.last_failure_ms = past(known.last_failure_ms);
            for address in &mut entry.addresses {
                let of = known
                    .addresses
                    .iter()
                    .find(|a| a.address == address.address);
                address.failures = of.map_or(0, |a| a.failures);
            }
            (entry.public, entry.relay) = (known.public, known.relay);
        }
    }
}
