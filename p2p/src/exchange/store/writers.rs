//! Who writes which pieces of a growing file. Two may fetch the same file into it, each proving what itself has
//! written; so what a piece's proof says of the disk depends on whether somebody else wrote there too.
//! Pure; used by [`super::partial`], under its lock.

use std::{collections::BTreeMap, ops::Range};

/// Pieces that were written and are not proved.
#[derive(Debug, Default)]
pub(super) struct Writers(BTreeMap<u32, Writer>);

#[derive(Clone, Copy, Debug, Default)]
struct Writer {
    /// Who began; 0: nobody did.
    handle: u64,
    in_flight: u32,
    /// More than one has written.
    is_mixed: bool,
    /// It is looked at on the disk: nobody may write.
    is_closed: bool,
}

impl Writers {
    /// A write begins; `false`: not now.
    pub(super) fn begin(&mut self, handle: u64, pieces: Range<u32>) -> bool {
        if pieces.clone().any(|piece| self.is_closed(piece)) {
            return false;
        }
        for piece in pieces {
            let writer = self.0.entry(piece).or_default();
            if writer.handle == 0 {
                writer.handle = handle;
            }
            writer.is_mixed |= writer.handle != handle;
            writer.in_flight += 1;
        }
        true
    }

    /// It has ended.
    pub(super) fn end(&mut self, pieces: Range<u32>) {
        for piece in pieces {
            if let Some(writer) = self.0.get_mut(&piece) {
                writer.in_flight -= 1;
            }
        }
    }

    /// Whether only this one has written the piece, and writes no more: then what it has proved is what lies there.
    /// Not so if nobody is known to have written it: it may have been found wrong on the disk since.
    pub(super) fn is_sole(&self, handle: u64, piece: u32) -> bool {
        let is_alone = |one: &Writer| one.in_flight == 0 && !one.is_mixed && !one.is_closed;
        let writer = self.0.get(&piece);
        writer.is_some_and(|one| is_alone(one) && one.handle == handle)
    }

    /// Nobody begins to write the piece any more.
    pub(super) fn close(&mut self, piece: u32) {
        self.0.entry(piece).or_default().is_closed = true;
    }

    /// Whether somebody looks at it on the disk.
    pub(super) fn is_closed(&self, piece: u32) -> bool {
        self.0.get(&piece).is_some_and(|writer| writer.is_closed)
    }

    /// Whether writes to it have not ended.
    pub(super) fn is_written(&self, piece: u32) -> bool {
        self.0
            .get(&piece)
            .is_some_and(|writer| writer.in_flight > 0)
    }

    /// It was looked at and is wrong: it may be written again, and nobody can say any more what of it is whose.
    pub(super) fn reopen(&mut self, piece: u32) {
        let writer = self.0.entry(piece).or_default();
        (writer.is_closed, writer.is_mixed) = (false, true);
    }

    /// It is proved.
    pub(super) fn forget(&mut self, piece: u32) {
        self.0.remove(&piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_one_alone_has_written_is_proved_by_it() {
        let mut writers = Writers::default();
        assert!(!writers.is_sole(1, 0), "nobody is known to have written it");
        assert!(writers.begin(1, 0..2));
        assert!(!writers.is_sole(1, 0), "it still writes");
        writers.end(0..2);
        assert!(writers.is_sole(1, 0));
        assert!(!writers.is_sole(2, 0));
        assert!(writers.begin(2, 1..2));
        writers.end(1..2);
        assert!(writers.is_sole(1, 0) && !writers.is_sole(1, 1));
        writers.close(0);
        assert!(!writers.is_sole(1, 0), "somebody looks at it");
        writers.forget(0);
        writers.close(1);
        assert!(writers.is_closed(1));
        assert!(!writers.begin(1, 0..3), "one of them is closed");
        writers.reopen(1);
        assert!(writers.begin(2, 0..3));
        assert!(writers.is_written(2));
        writers.end(0..3);
        assert!(writers.is_sole(2, 2));
        assert!(
            !writers.is_sole(2, 1),
            "what others wrote there may still lie there"
        );
    }
}
