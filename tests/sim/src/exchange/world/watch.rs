//! What is checked in a simulated fetch, at every step and at its end.

use std::time::Duration;

use owm_p2p::exchange::machine::{Event, RestReason, Source};
use owm_proto::Sha256;

use super::{Later, World};
use crate::exchange::scenario::Kind;

impl World {
    /// The machine wants a piece checked; that takes a while.
    pub(super) fn check(&mut self, file: Sha256, piece: u32) {
        let wanted = self
            .files
            .get_mut(&file)
            .expect("only wanted files are checked");
        wanted.is_shut.add(piece);
        let range = wanted.ladder.range(piece);
        let lies: Vec<u32> = wanted
            .disk
            .read(&range)
            .into_iter()
            .map(|(_, taint)| taint)
            .filter(|taint| *taint > 0)
            .collect();
        if !lies.is_empty() {
            // What was fetched for nothing: this piece, and once more where one liar is to be told from others.
            self.outcome.spoilt += 2 * (range.end - range.start);
        }
        for taint in lies {
            self.peers[taint as usize - 1].was_caught = true;
        }
        let time = Duration::from_millis(self.dice.within(0, 30));
        self.plan(time, Later::Checked(file, piece));
    }

    pub(super) fn checked(&mut self, file: Sha256, piece: u32) {
        let wanted = self.files.get_mut(&file).expect("wanted to the end");
        let is_right = wanted.disk.is_right(&wanted.ladder.range(piece));
        if is_right {
            wanted.proved.add(piece);
        } else {
            wanted.is_shut.remove(piece);
        }
        self.tell(Event::Checked {
            file,
            piece,
            found: is_right.into(),
        });
        let (mut proved, mut pieces) = (0, 0);
        for wanted in self.files.values() {
            proved += wanted.proved.count();
            pieces += wanted.proved.pieces();
        }
        if proved * 5 >= pieces * 4 {
            for n in 0..self.peers.len() {
                if self.peers[n].spec.kind == Kind::Vanishing {
                    self.leave(n, false);
                }
            }
        }
    }

    pub(super) fn banned(&mut self, source: Source) {
        let n = self.number(source);
        self.outcome.banned += 1;
        self.peers[n].is_banned = true;
        if !self.peers[n].has_lied {
            let what = format!(
                "{n} ({:?}) was banned and is honest",
                self.peers[n].spec.kind
            );
            self.outcome.violations.push(what);
        }
    }

    pub(super) fn resting(&mut self, source: Source, reason: RestReason) {
        let n = self.number(source);
        let is_web = matches!(source, Source::Web(_));
        match reason {
            RestReason::WrongBytes if is_web => self.banned(source),
            RestReason::WrongBytes => {
                let what = format!("{n} is a peer and only rests after a lie");
                self.outcome.violations.push(what);
            }
            RestReason::FalseClaims if self.peers[n].spec.kind != Kind::Boaster => {
                let what = format!("{n} was told off for claims that were right");
                self.outcome.violations.push(what);
            }
            _ => {}
        }
    }

    pub(super) fn complete(&mut self, file: &Sha256) {
        let wanted = self
            .files
            .get_mut(file)
            .expect("only wanted files are complete");
        wanted.is_complete = true;
        let size = wanted.ladder.spec().size();
        if !wanted.proved.is_full() || (size > 0 && !wanted.disk.is_right(&(0..size))) {
            let what = format!("{file} is called complete and is not");
            self.outcome.violations.push(what);
        }
    }

    /// After every step.
    pub(super) fn look(&mut self) {
        let asked: u64 = self.asked.values().map(|(_, left)| left).sum();
        let limit = self.scenario.tuning.outstanding_total_max;
        if asked > limit {
            let what = format!("{asked} bytes asked for at once, {limit} are allowed");
            self.outcome.violations.push(what);
        }
    }

    /// At the end.
    pub(super) fn judge(&mut self) {
        if !self.is_done() {
            let left = self.files.values().filter(|file| !file.is_complete).count();
            let what = format!("{left} files not there after {:?}", self.outcome.took);
            self.outcome.violations.push(what);
            return;
        }
        for (n, peer) in self.peers.iter().enumerate() {
            if peer.was_caught && !peer.is_banned {
                let what = format!("{n} gave wrong bytes and was not named");
                self.outcome.violations.push(what);
            }
            if peer.is_banned {
                // All that it sent may have been thrown away with it.
                self.outcome.spoilt += peer.sent;
            }
        }
        // Some of the last bytes are asked for twice, and some come after they were cancelled.
        let needed = self.outcome.needed;
        let allowed = needed + needed / 4 + (1 << 20) + self.outcome.spoilt;
        if self.outcome.fetched > allowed {
            let what = format!(
                "{} bytes fetched for {needed}, {} of them spoilt by liars",
                self.outcome.fetched, self.outcome.spoilt
            );
            self.outcome.violations.push(what);
        }
    }
}
