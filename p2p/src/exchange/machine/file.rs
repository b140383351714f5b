//! One wanted file: which pieces are proved, on their way, or not begun, and how rare each is.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use owm_proto::{Ladder, Sha256};

use super::piece::{Active, Evidence};
use crate::exchange::PieceSet;

/// A file's number; never given twice. Rises with the order of starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct FileIx(pub(super) u32);

/// Pieces looked at, in order of their rarity, before a source's own list is gone through: with most
/// sources the first few fit.
const RAREST_LOOKED_AT: usize = 64;

#[derive(Debug)]
pub(super) struct File {
    pub(super) ix: FileIx,
    pub(super) ladder: Arc<Ladder>,
    /// How many want it.
    pub(super) wanted: u32,
    pub(super) proved: PieceSet,
    pub(super) proved_bytes: u64,
    /// Not begun, the rarest first: (peers that list it, order among equals, piece).
    queue: BTreeSet<(u16, u32, u32)>,
    /// Of peers that have a part, how many have each piece.
    listed: Vec<u16>,
    /// Peers that have all.
    pub(super) whole_peers: u32,
    salt: u64,
    pub(super) active: BTreeMap<u32, Active>,
    /// Active ones with bytes to ask for that nobody works on.
    pub(super) loose: BTreeSet<u32>,
    /// Of pieces that came wrong from several.
    pub(super) evidence: BTreeMap<u32, Evidence>,
    pub(super) started: Duration,
    pub(super) last_activity: Duration,
    pub(super) is_announced: bool,
}

impl File {
    pub(super) fn new(
        ix: FileIx,
        ladder: Arc<Ladder>,
        have: PieceSet,
        now: Duration,
        seed: u64,
    ) -> Self {
        let pieces = ladder.pieces();
        let proved = if have.pieces() == pieces {
            have
        } else {
            PieceSet::none(pieces)
        };
        let proved_bytes = proved
            .iter()
            .map(|piece| ladder.range(piece))
            .map(|range| range.end - range.start)
            .sum();
        let mut file = Self {
            ix,
            wanted: 1,
            proved_bytes,
            queue: BTreeSet::new(),
            listed: vec![0; pieces as usize],
            whole_peers: 0,
            salt: mix(seed ^ u64::from(ix.0)),
            active: BTreeMap::new(),
            loose: BTreeSet::new(),
            evidence: BTreeMap::new(),
            started: now,
            last_activity: now,
            is_announced: proved.is_full(),
            proved,
            ladder,
        };
        for piece in (0..pieces).filter(|piece| !file.proved.has(*piece)) {
            file.queue.insert((0, file.order(piece), piece));
        }
        file
    }

    pub(super) fn sha256(&self) -> Sha256 {
        self.ladder.spec().sha256()
    }

    pub(super) fn is_complete(&self) -> bool {
        self.proved.is_full()
    }

    pub(super) fn checking_bytes(&self) -> u64 {
        let checking = self.active.values().filter(|active| active.is_checking);
        checking.map(Active::len).sum()
    }

    /// Bytes that have not come.
    pub(super) fn left(&self) -> u64 {
        let there = self.active.values().map(Active::have_bytes).sum::<u64>() + self.proved_bytes;
        self.ladder.spec().size().saturating_sub(there)
    }

    /// Equally rare pieces go in an order of this machine's own, so that many who fetch the same file soon
    /// have different pieces to give each other.
    fn order(&self, piece: u32) -> u32 {
        mix(self.salt ^ u64::from(piece)) as u32
    }

    /// A peer has one more of it (or one less).
    pub(super) fn list(&mut self, piece: u32, is_more: bool) {
        let before = self.listed[piece as usize];
        let after = if is_more {
            before.saturating_add(1)
        } else {
            before.saturating_sub(1)
        };
        self.listed[piece as usize] = after;
        let order = self.order(piece);
        if self.queue.remove(&(before, order, piece)) {
            self.queue.insert((after, order, piece));
        }
    }

    /// Counts an offer in or out.
    pub(super) fn count_offer(&mut self, offer: Option<&PieceSet>, is_more: bool) {
        match offer {
            Some(pieces) => {
                for piece in pieces.iter() {
                    self.list(piece, is_more);
                }
            }
            None if is_more => self.whole_peers += 1,
            None => self.whole_peers -= 1,
        }
    }

    /// Whether no peer says it has this piece.
    pub(super) fn is_without_peer(&self, piece: u32) -> bool {
        self.whole_peers == 0 && self.listed[piece as usize] == 0
    }

    /// The rarest piece that is not begun and in `offer` (`None`: any), begun now.
    pub(super) fn begin_rarest(
        &mut self,
        offer: Option<&PieceSet>,
        is_web_closed: bool,
    ) -> Option<u32> {
        let fits = |piece: u32| {
            offer.is_none_or(|pieces| pieces.has(piece))
                && (!is_web_closed || self.is_without_peer(piece))
        };
        let first = self.queue.iter().take(RAREST_LOOKED_AT);
        let found = first.map(|(_, _, piece)| *piece).find(|p| fits(*p));
        let found = found.or_else(|| {
            let key = |piece: u32| (self.listed[piece as usize], self.order(piece), piece);
            let waiting = |piece: &u32| self.queue.contains(&key(*piece)) && fits(*piece);
            match offer {
                _ if self.queue.len() <= RAREST_LOOKED_AT => None,
                Some(pieces) => pieces.iter().filter(waiting).min_by_key(|p| key(*p)),
                // Without a list only a closed web seed is left, whose pieces come first in the queue.
                None => None,
            }
        })?;
        let order = self.order(found);
        self.queue
            .remove(&(self.listed[found as usize], order, found));
        self.active
            .insert(found, Active::new(self.ladder.range(found)));
        Some(found)
    }

    /// Gives a piece back to all; whether there is something of it to ask for. One that must come from a
    /// single source begins anew.
    pub(super) fn loosen(&mut self, piece: u32) -> bool {
        let Some(active) = self.active.get_mut(&piece) else {
            return false;
        };
        active.owner = None;
        if active.is_checking {
            return false;
        }
        if active.is_single && active.asked.is_empty() {
            active.have.clear();
        }
        let has_gap = active.gap().is_some();
        if has_gap {
            self.loose.insert(piece);
        }
        has_gap
    }

    /// Forgets all bytes of a piece that was wrong.
    pub(super) fn begin_again(&mut self, piece: u32, is_single: bool) {
        let mut active = Active::new(self.ladder.range(piece));
        active.is_single = is_single;
        self.active.insert(piece, active);
        self.loose.insert(piece);
    }
}

/// SplitMix64's step: spreads the bits of `x`.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
