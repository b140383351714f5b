//! One of the directory's two tables: least recently heard first out, and the bytes it holds counted.

use lru::LruCache;
use owm_proto::PublicKey;

use super::Known;

/// Nodes by key, ordered by when they were heard.
#[derive(Debug)]
pub(super) struct Table {
    nodes: LruCache<PublicKey, Known>,
    bytes: usize,
    /// Places.
    pub(super) max: usize,
}

impl Table {
    pub(super) fn new(max: usize) -> Self {
        Self {
            nodes: LruCache::unbounded(),
            bytes: 0,
            max: max.max(1),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
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
        self.bytes -= known.bytes();
        Some(known)
    }

    /// Puts a node that is not there in as the one heard last; the oldest leave if it is full.
    pub(super) fn put(&mut self, key: &PublicKey, known: Known) {
        while self.is_full() && self.pop_oldest() {}
        self.bytes += known.bytes();
        self.nodes.put(*key, known);
    }

    /// `false` if there is none.
    pub(super) fn pop_oldest(&mut self) -> bool {
        let popped = self.nodes.pop_lru();
        self.bytes -= popped.as_ref().map_or(0, |(_, known)| known.bytes());
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
