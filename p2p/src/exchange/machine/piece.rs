//! A piece on its way: which of its bytes are there and from whom, which are asked for, which are neither.

use std::ops::Range;

use owm_proto::Sha256;

use super::{RequestId, party::PartyIx};

/// Bytes that one source gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) from: PartyIx,
}

/// Bytes that somebody was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) id: RequestId,
    pub(super) start: u64,
    pub(super) end: u64,
}

/// What was found wrong and came from several: who gave which bytes, and how those hash. `digests` is empty
/// until the shell has answered.
#[derive(Clone, Debug)]
pub(super) struct Evidence {
    pub(super) spans: Vec<Span>,
    pub(super) digests: Vec<Sha256>,
}

#[derive(Debug)]
pub(super) struct Active {
    pub(super) range: Range<u64>,
    /// Sorted, apart from each other unless they differ in their source.
    pub(super) have: Vec<Span>,
    pub(super) asked: Vec<Asked>,
    /// Whose [`super::party::Party::current`] it is: its next bytes are for that one.
    pub(super) owner: Option<PartyIx>,
    /// Came wrong from several once: now from one source only.
    pub(super) is_single: bool,
    /// All bytes are there; the shell reads them.
    pub(super) is_checking: bool,
}

/// The next bytes of a request: how many are alike, and whether they are new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) bytes: u64,
    pub(super) is_new: bool,
}

impl Active {
    pub(super) fn new(range: Range<u64>) -> Self {
        Self {
            range,
            have: Vec::new(),
            asked: Vec::new(),
            owner: None,
            is_single: false,
            is_checking: false,
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// What is there of `at..end`, from `at` on.
    pub(super) fn step(&self, at: u64, end: u64) -> Step {
        let next = self.have.partition_point(|span| span.end <= at);
        match self.have.get(next) {
            Some(span) if span.start <= at => Step {
                bytes: span.end.min(end) - at,
                is_new: false,
            },
            Some(span) => Step {
                bytes: span.start.min(end) - at,
                is_new: true,
            },
            None => Step {
                bytes: end - at,
                is_new: true,
            },
        }
    }

    /// Notes new bytes.
    pub(super) fn note(&mut self, start: u64, bytes: u64, from: PartyIx) {
        let end = start + bytes;
        let at = self.have.partition_point(|span| span.end <= start);
        let next = self.have.get(at);
        let joins_next = next.is_some_and(|span| span.start == end && span.from == from);
        let before = at
            .checked_sub(1)
            .and_then(|before| self.have.get_mut(before));
        match before.filter(|span| span.end == start && span.from == from) {
            Some(before) => {
                before.end = end;
                if joins_next {
                    self.have[at - 1].end = self.have[at].end;
                    self.have.remove(at);
                }
            }
            None if joins_next => self.have[at].start = start,
            None => self.have.insert(at, Span { start, end, from }),
        }
    }

    pub(super) fn have_bytes(&self) -> u64 {
        self.have.iter().map(|span| span.end - span.start).sum()
    }

    pub(super) fn is_full(&self) -> bool {
        self.have_bytes() == self.len()
    }

    /// The first bytes that are neither there nor asked for.
    pub(super) fn gap(&self) -> Option<Range<u64>> {
        if self.is_checking {
            return None;
        }
        let taken = || {
            let have = self.have.iter().map(|span| (span.start, span.end));
            have.chain(self.asked.iter().map(|asked| (asked.start, asked.end)))
        };
        let mut at = self.range.start;
        while at < self.range.end {
            if let Some((_, end)) = taken().find(|(start, end)| *start <= at && at < *end) {
                at = end;
                continue;
            }
            let next = taken().map(|(start, _)| start).filter(|start| *start > at);
            return Some(at..next.min().unwrap_or(self.range.end));
        }
        None
    }

    /// Who gave bytes of it.
    pub(super) fn givers(&self) -> Vec<PartyIx> {
        let mut givers: Vec<PartyIx> = self.have.iter().map(|span| span.from).collect();
        givers.sort_unstable();
        givers.dedup();
        givers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::machine::{Source, party::Parties};

    fn parties() -> (PartyIx, PartyIx) {
        let mut parties = Parties::default();
        (parties.add(Source::Web(0)), parties.add(Source::Web(1)))
    }

    #[test]
    fn every_byte_keeps_the_name_of_who_gave_it() {
        let (a, b) = parties();
        let mut piece = Active::new(100..200);
        piece.note(100, 10, a);
        piece.note(150, 10, b);
        piece.note(110, 5, a);
        piece.note(140, 10, b);
        let span = |start, end, from| Span { start, end, from };
        assert_eq!(piece.have, [span(100, 115, a), span(140, 160, b)]);
        piece.note(115, 25, b);
        assert_eq!(piece.have, [span(100, 115, a), span(115, 160, b)]);
        assert!(!piece.is_full());
        piece.note(160, 40, a);
        assert!(piece.is_full());
        assert_eq!(piece.givers(), [a, b]);
    }

    #[test]
    fn bytes_that_are_there_are_skipped_and_no_more() {
        let (a, _) = parties();
        let mut piece = Active::new(0..100);
        piece.note(20, 10, a);
        let step = |bytes, is_new| Step { bytes, is_new };
        assert_eq!(piece.step(0, 100), step(20, true));
        assert_eq!(piece.step(0, 15), step(15, true));
        assert_eq!(piece.step(20, 100), step(10, false));
        assert_eq!(piece.step(25, 28), step(3, false));
        assert_eq!(piece.step(30, 100), step(70, true));
    }

    #[test]
    fn a_gap_is_what_nobody_gave_and_nobody_was_asked_for() {
        let (a, _) = parties();
        let mut piece = Active::new(0..100);
        assert_eq!(piece.gap(), Some(0..100));
        piece.note(0, 30, a);
        let asked = |n, start, end| Asked {
            id: RequestId(n),
            start,
            end,
        };
        piece.asked = vec![asked(1, 50, 60), asked(2, 20, 40)];
        assert_eq!(piece.gap(), Some(40..50));
        piece.asked.push(asked(3, 40, 50));
        assert_eq!(piece.gap(), Some(60..100));
        piece.asked.push(asked(4, 60, 100));
        assert_eq!(piece.gap(), None);
    }
}
