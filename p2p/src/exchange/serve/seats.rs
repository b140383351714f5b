//! The streams that are served at a time, and who gives way when there are too many: a stream that asks nothing goes
//! before one that is being answered, and a peer with several before a peer with one. So a newcomer is turned away only
//! when every place is taken by another peer that is just being answered.
//!
//! Pure: the caller brings the time. Used by [`super`].

use std::{collections::BTreeMap, time::Duration};

use libp2p::PeerId;
use tokio_util::sync::CancellationToken;

/// Streams that are served at a time: each holds at most one range, 1 MiB.
pub const STREAMS_MAX: usize = 64;

/// Of one peer: one for bulk, and a few that end just now.
pub const STREAMS_PER_PEER: usize = 4;

/// A stream's number; never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SeatId(u64);

#[derive(Debug)]
struct Seat {
    peer: PeerId,
    /// When it came, or took bytes last.
    took: Duration,
    /// It has asked for nothing that was not answered.
    is_idle: bool,
    leave: CancellationToken,
}

/// All streams.
#[derive(Debug, Default)]
pub(super) struct Seats {
    taken: BTreeMap<SeatId, Seat>,
    next: u64,
    displaced: u64,
}

impl Seats {
    /// A place for one more stream of `peer`, with what tells it to leave; `None`: there is none.
    pub(super) fn enter(
        &mut self,
        peer: PeerId,
        now: Duration,
    ) -> Option<(SeatId, CancellationToken)> {
        let own = self.of(&peer);
        if own >= STREAMS_PER_PEER {
            self.displace(|seat| seat.is_idle && seat.peer == peer)?;
        } else if self.taken.len() >= STREAMS_MAX {
            let most = self.most();
            self.displace(|seat| seat.is_idle).or_else(|| {
                // Who has none yet comes before who has several.
                let (greedy, several) = most?;
                (several > own + 1).then_some(())?;
                self.displace(|seat| seat.peer == greedy)
            })?;
        }
        let (id, leave) = (SeatId(self.next), CancellationToken::new());
        self.next += 1;
        let seat = Seat {
            peer,
            took: now,
            is_idle: true,
            leave: leave.clone(),
        };
        self.taken.insert(id, seat);
        Some((id, leave))
    }

    /// It is free again. (One that had to leave is gone already.)
    pub(super) fn free(&mut self, id: SeatId) {
        self.taken.remove(&id);
    }

    /// Whether it waits for a question or answers one.
    pub(super) fn set_idle(&mut self, id: SeatId, is_idle: bool) {
        if let Some(seat) = self.taken.get_mut(&id) {
            seat.is_idle = is_idle;
        }
    }

    /// It has just taken bytes.
    pub(super) fn took(&mut self, id: SeatId, now: Duration) {
        if let Some(seat) = self.taken.get_mut(&id) {
            seat.took = now;
        }
    }

    /// Streams that are served.
    pub(super) fn len(&self) -> usize {
        self.taken.len()
    }

    /// Streams that had to leave for others.
    pub(super) fn displaced(&self) -> u64 {
        self.displaced
    }

    fn of(&self, peer: &PeerId) -> usize {
        let own = self.taken.values().filter(|seat| seat.peer == *peer);
        own.count()
    }

    /// Who has most streams, and how many.
    fn most(&self) -> Option<(PeerId, usize)> {
        let mut counts = BTreeMap::<PeerId, usize>::new();
        for seat in self.taken.values() {
            *counts.entry(seat.peer).or_default() += 1;
        }
        counts.into_iter().max_by_key(|(_, count)| *count)
    }

    /// Sends away whoever of these has taken nothing for longest.
    fn displace(&mut self, among: impl Fn(&Seat) -> bool) -> Option<()> {
        let among = self.taken.iter().filter(|(_, seat)| among(seat));
        let (id, _) = among.min_by_key(|(id, seat)| (seat.took, **id))?;
        let id = *id;
        let seat = self.taken.remove(&id)?;
        seat.leave.cancel();
        self.displaced += 1;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// All places taken by peers with so many streams each, which came one second after the other.
    fn full_of(each: usize, is_idle: bool) -> (Seats, Vec<(SeatId, CancellationToken)>) {
        let (mut seats, mut taken) = (Seats::default(), Vec::new());
        for _ in 0..STREAMS_MAX / each {
            let peer = PeerId::random();
            for _ in 0..each {
                let seat = seats.enter(peer, at(taken.len() as u64)).unwrap();
                seats.set_idle(seat.0, is_idle);
                taken.push(seat);
            }
        }
        assert_eq!(seats.len(), STREAMS_MAX);
        (seats, taken)
    }

    fn left(taken: &[(SeatId, CancellationToken)]) -> Vec<usize> {
        let left = taken.iter().enumerate();
        let left = left.filter(|(_, (_, leave))| leave.is_cancelled());
        left.map(|(n, _)| n).collect()
    }

    #[test]
    fn the_stream_that_has_been_idle_longest_gives_way() {
        let (mut seats, taken) = full_of(1, true);
        seats.took(taken[0].0, at(1_000));
        seats.set_idle(taken[1].0, false);
        assert!(seats.enter(PeerId::random(), at(1_000)).is_some());
        assert_eq!(left(&taken), [2]);
        assert_eq!(seats.len(), STREAMS_MAX);
    }

    #[test]
    fn who_has_several_gives_way_to_who_has_none() {
        let (mut seats, taken) = full_of(2, false);
        assert!(seats.enter(PeerId::random(), at(1_000)).is_some());
        assert_eq!(left(&taken).len(), 1);
        let (mut seats, taken) = full_of(1, false);
        assert!(seats.enter(PeerId::random(), at(1_000)).is_none());
        assert!(left(&taken).is_empty());
    }

    #[test]
    fn nobody_gets_more_places_by_knocking_more_often() {
        let (mut seats, peer) = (Seats::default(), PeerId::random());
        let own: Vec<_> = (0..STREAMS_PER_PEER)
            .map(|n| seats.enter(peer, at(n as u64)).unwrap())
            .collect();
        assert!(seats.enter(peer, at(10)).is_some(), "its oldest is idle");
        assert_eq!(left(&own), [0]);
        assert_eq!(seats.len(), STREAMS_PER_PEER);
        for id in seats.taken.keys().copied().collect::<Vec<_>>() {
            seats.set_idle(id, false);
        }
        assert!(seats.enter(peer, at(11)).is_none());
        seats.free(own[1].0);
        assert!(seats.enter(peer, at(12)).is_some());
    }
}
