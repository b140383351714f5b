//! Who may still be of use to the fetches: whoever has not said no to all that is looked for. Ladders that are looked for
//! are counted here, pieces by the machine. Used by [`super::ladder`] and [`super::fetch`].
//! Must stay true: one that lacks a ladder keeps its place as long as anything else may come from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use libp2p::PeerId;

use super::{Shared, core::Core};
use crate::exchange::machine::Source;

/// Peers without a ladder that are remembered for each; who is forgotten is asked again.
const LACKING_MAX: usize = 1_024;

/// The ladders that are looked for, each with those who lack it.
#[derive(Debug, Default)]
pub(super) struct Searches {
    open: BTreeMap<u64, BTreeSet<PeerId>>,
    next: u64,
}

impl Searches {
    fn lacks(&mut self, search: u64, peer: PeerId) {
        let Some(lacking) = self.open.get_mut(&search) else {
            return;
        };
        if lacking.len() >= LACKING_MAX {
            lacking.pop_first();
        }
        lacking.insert(peer);
    }

    /// Whether there is one that this peer may have.
    fn may_end_with(&self, peer: &PeerId) -> bool {
        self.open.values().any(|lacking| !lacking.contains(peer))
    }
}

/// While it lives, a file's ladder is looked for.
pub(super) struct Search(Arc<Shared>, u64);

impl Drop for Search {
    fn drop(&mut self) {
        self.0.core().searches.open.remove(&self.1);
    }
}

impl Search {
    /// A peer has no such ladder. It leaves its place to who waits for one, if there is nothing else to ask of it.
    pub(super) fn lacks(&self, peer: PeerId) {
        let mut core = self.0.core();
        core.searches.lacks(self.1, peer);
        if !core.may_help(&peer) {
            self.0.give_place(&mut core, peer);
            self.0.carry_out(&mut core);
        }
    }
}

impl Core {
    fn may_help(&self, peer: &PeerId) -> bool {
        self.searches.may_end_with(peer) || self.machine.may_have(Source::Peer(*peer))
    }

    /// Peers that may have something of what is missing.
    pub(super) fn hopes(&self) -> usize {
        let asked = self.links.iter().filter(|(peer, _)| self.may_help(peer));
        asked.count() + self.links.waiting()
    }
}

impl Shared {
    pub(super) fn search(self: &Arc<Self>) -> Search {
        let mut core = self.core();
        let search = core.searches.next;
        core.searches.next += 1;
        core.searches.open.insert(search, BTreeSet::new());
        Search(Arc::clone(self), search)
    }
}

#[cfg(test)]
mod tests;
