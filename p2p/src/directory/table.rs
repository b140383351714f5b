//! One of the directory's two tables: least recently heard first out; the bytes it holds are counted, and the
//! nodes that each peer has brought.

use std::collections::HashMap;

use lru::LruCache;
use owm_proto::PublicKey;

use super::Known;

/// Nodes by key, ordered by when they were heard.
#[derive(Debug)]
pub(super) struct Table {
    nodes: LruCache<PublicKey, Known>,
    bytes: usize,
    brought: HashMap<PublicKey, usize>,
    /// Places.
    pub(super) max: usize,
}

impl Table {
    pub(super) fn new(max: usize) -> Self {
        Self {
            nodes: LruCache::unbounded(),
            bytes: 0,
            brought: HashMap::new(),
            max: max.max(1),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Nodes here of which `peer` told first.
    pub(super) fn brought_by(&self, peer: &PublicKey) -> usize {
        self.brought.get(peer).copied().unwrap_or(0)
    }

    fn left(&mut self, known: &Known) {
        self.bytes -= known.bytes();
        if let Some(by) = known.brought_by
            && let Some(count) = self.brought.get_mut(&by)
        {
            *count -= 1;
            if *count == 0 {
                self.brought.remove(&by);
            }
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.nodes.len() >= self.max
    }

    pub(super) fn get(&self, key: &PublicKey) -> Option<&Known> {
        self.nodes.peek(key)
    }

    /// Its capability must not be exchanged: the bytes are counted.
    pub(super) fn get_mut(&mut self, key: &PublicKey) -> Option<&mut Known> {
        self.nodes.peek_mut(key)
    }

    /// Who was heard longest ago.
    pub(super) fn oldest(&self) -> Option<&Known> {
        self.nodes.peek_lru().map(|(_, known)| known)
    }

    pub(super) fn take(&mut self, key: &PublicKey) -> Option<Known> {
        let known = self.nodes.pop(key)?;
        self.left(&known);
        Some(known)
    }

    /// Puts a node that is not there in as the one heard last; the oldest leave if it is full.
    pub(super) fn put(&mut self, key: &PublicKey, known: Known) {
        while self.is_full() && self.pop_oldest() {}
        self.bytes += known.bytes();
        if let Some(by) = known.brought_by {
            *self.brought.entry(by).or_default() += 1;
        }
        self.nodes.put(*key, known);
    }

    /// `false` if there is none.
    pub(super) fn pop_oldest(&mut self) -> bool {
        let popped = self.nodes.pop_lru();
        if let Some((_, known)) = &popped {
            self.left(known);
        }
        popped.is_some()
    }

    /// The one heard last first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&PublicKey, &Known)> {
        self.nodes.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Known> {
        self.nodes.iter_mut().map(|(_, known)| known)
    }
}
