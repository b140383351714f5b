//! What one source has brought, and when it is asked again.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use libp2p::PeerId;
use rand::Rng;

use super::candidate::Pause;
use crate::{Unavailable, view::SourceView};

/// Failures shown of one source.
const FAILURES_SHOWN: usize = 8;

/// Peers counted as reached: more than any view needs.
const REACHED_MAX: usize = 1_024;

/// A source's account.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// It can be asked; else it tells by itself.
    askable: bool,
    pub(super) asking: bool,
    pause: Pause,
    /// After an answer, while peers are missing.
    again_at: Duration,
    pub(super) given: usize,
    reached: BTreeSet<PeerId>,
    faults: VecDeque<Unavailable>,
}

impl Tally {
    pub(super) fn asked_for() -> Self {
        Self {
            askable: true,
            ..Self::default()
        }
    }

    pub(super) fn pushed(given: usize) -> Self {
        Self {
            given,
            ..Self::default()
        }
    }

    pub(super) fn answered(&mut self, now: Duration, again: Duration, rng: &mut impl Rng) {
        self.asking = false;
        self.pause.forgive();
        self.again_at = now + again * rng.random_range(500..=1_000) / 1_000;
    }

    pub(super) fn failed_to_answer(
        &mut self,
        failures: Vec<Unavailable>,
        now: Duration,
        rng: &mut impl Rng,
    ) {
        self.asking = false;
        self.pause.fail(now, rng);
        self.again_at = Duration::ZERO;
        for told in failures {
            self.fault(told);
        }
    }

    /// Due at once.
    pub(super) fn forgive(&mut self) {
        self.pause.forgive();
        self.again_at = Duration::ZERO;
    }

    /// Once at the start; later only while peers are missing.
    pub(super) fn next_ask(&self, missing: bool) -> Option<Duration> {
        let first = self.again_at == Duration::ZERO && self.pause.failures == 0;
        let at = self.again_at.max(self.pause.until(missing));
        (self.askable && (missing || first)).then_some(at)
    }

    pub(super) fn is_due(&self, now: Duration, missing: bool) -> bool {
        !self.asking && self.next_ask(missing).is_some_and(|at| at <= now)
    }

    /// One failure for each target is kept: the last.
    pub(super) fn fault(&mut self, told: Unavailable) {
        self.faults.retain(|old| old.target != told.target);
        self.faults.push_back(told);
        if self.faults.len() > FAILURES_SHOWN {
            self.faults.pop_front();
        }
    }

    pub(super) fn reached(&mut self, peer: PeerId) {
        if self.reached.len() < REACHED_MAX {
            self.reached.insert(peer);
        }
        let of_peer = peer.to_string();
        self.faults.retain(|told| !told.target.ends_with(&of_peer));
    }

    pub(super) fn view(&self, name: &str) -> SourceView {
        SourceView {
            name: name.to_owned(),
            given: self.given,
            reached: self.reached.len(),
            failures: self.faults.iter().cloned().collect(),
        }
    }
}
