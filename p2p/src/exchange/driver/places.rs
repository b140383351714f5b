//! With whom a daemon keeps conversations: so many at a time, however many peers are hinted at. Others wait in line;
//! who is not reached, has nothing or is left alone gives its place up as long as somebody waits, and comes back to
//! the end of the line a few times.
//!
//! Pure. Used by [`super::core`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use libp2p::PeerId;

/// Conversations at a time: each is a dial, a stream and a task. More sources than this make nothing faster.
pub const LINKS_MAX: usize = 64;

/// Peers that wait for a place; a hint beyond is forgotten, and may be repeated.
pub const WAITING_MAX: usize = 256;

/// Who has given up its place so often is forgotten, so that others get a turn.
const TURNS_MAX: u32 = 4;

/// Peers that are not spoken with any more, remembered.
const OUT_MAX: usize = 1_024;

/// See the module.
#[derive(Debug)]
pub(super) struct Places<T> {
    held: BTreeMap<PeerId, (u32, T)>,
    waiting: VecDeque<(PeerId, u32)>,
    out: BTreeSet<PeerId>,
}

impl<T> Places<T> {
    pub(super) const fn new() -> Self {
        Self {
            held: BTreeMap::new(),
            waiting: VecDeque::new(),
            out: BTreeSet::new(),
        }
    }

    /// This peer may be of use.
    pub(super) fn hint(&mut self, peer: PeerId) {
        let is_known = self.held.contains_key(&peer) || self.out.contains(&peer);
        if is_known || self.waiting.len() >= WAITING_MAX {
            return;
        }
        if self.waiting.iter().all(|(other, _)| *other != peer) {
            self.waiting.push_back((peer, 0));
        }
    }

    /// Who gets a free place, and how often it has had one; to be given it by [`Self::hold`].
    pub(super) fn next(&mut self) -> Option<(PeerId, u32)> {
        if self.held.len() >= LINKS_MAX {
            return None;
        }
        self.waiting.pop_front()
    }

    pub(super) fn hold(&mut self, peer: PeerId, turns: u32, link: T) {
        self.held.insert(peer, (turns, link));
    }

    /// Its place, if somebody waits for one.
    pub(super) fn give_up(&mut self, peer: &PeerId) -> Option<T> {
        if self.waiting.is_empty() {
            return None;
        }
        let (turns, link) = self.held.remove(peer)?;
        if turns + 1 < TURNS_MAX && self.waiting.len() < WAITING_MAX {
            self.waiting.push_back((*peer, turns + 1));
        }
        Some(link)
    }

    /// Nothing is wanted of it any more, whoever hints at it.
    pub(super) fn cut_off(&mut self, peer: PeerId) -> Option<T> {
        self.waiting.retain(|(other, _)| *other != peer);
        if self.out.len() >= OUT_MAX {
            self.out.pop_first();
        }
        self.out.insert(peer);
        self.held.remove(&peer).map(|(_, link)| link)
    }

    /// Everybody leaves; those cut off stay so.
    pub(super) fn clear(&mut self) -> impl Iterator<Item = PeerId> + use<T> {
        self.waiting.clear();
        std::mem::take(&mut self.held).into_keys()
    }

    /// How many are in line.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn get(&self, peer: &PeerId) -> Option<&T> {
        self.held.get(peer).map(|(_, link)| link)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&PeerId, &T)> {
        self.held.iter().map(|(peer, (_, link))| (peer, link))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat_all(places: &mut Places<()>) -> Vec<PeerId> {
        let mut seated = Vec::new();
        while let Some((peer, turns)) = places.next() {
            places.hold(peer, turns, ());
            seated.push(peer);
        }
        seated
    }

    #[test]
    fn a_hint_of_ten_thousand_is_a_few_dials_and_a_short_line() {
        let mut places = Places::new();
        for _ in 0..10_000 {
            places.hint(PeerId::random());
        }
        assert_eq!(seat_all(&mut places).len(), LINKS_MAX);
        assert_eq!(places.waiting.len(), WAITING_MAX - LINKS_MAX);
        for _ in 0..10_000 {
            places.hint(PeerId::random());
        }
        assert_eq!(seat_all(&mut places).len(), 0);
        assert_eq!(places.waiting.len(), WAITING_MAX);
    }

    #[test]
    fn who_is_of_no_use_gives_way_and_everybody_has_a_turn() {
        let mut places = Places::new();
        let all: BTreeSet<PeerId> = (0..200).map(|_| PeerId::random()).collect();
        for peer in &all {
            places.hint(*peer);
        }
        let mut had = BTreeSet::new();
        for _ in 0..100 {
            had.extend(seat_all(&mut places));
            let held: Vec<PeerId> = places.iter().map(|(peer, ())| *peer).collect();
            assert!(held.len() <= LINKS_MAX);
            for peer in held {
                places.give_up(&peer);
            }
        }
        assert_eq!(had, all);
        assert!(places.waiting.is_empty(), "they are forgotten in the end");
    }

    #[test]
    fn without_a_line_nobody_gives_way() {
        let (mut places, peer) = (Places::new(), PeerId::random());
        places.hint(peer);
        assert_eq!(seat_all(&mut places), [peer]);
        assert_eq!(places.give_up(&peer), None);
        assert!(places.get(&peer).is_some());
    }

    #[test]
    fn who_was_cut_off_gets_no_place_again() {
        let (mut places, liar) = (Places::new(), PeerId::random());
        places.hint(liar);
        seat_all(&mut places);
        assert!(places.cut_off(liar).is_some());
        places.hint(liar);
        assert!(seat_all(&mut places).is_empty());
        places.clear().for_each(drop);
        places.hint(liar);
        assert!(seat_all(&mut places).is_empty());
    }
}
