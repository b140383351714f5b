//! What a peer has earned: each fault has a name and a price, prices add up and fade. `service` hands the sum
//! to gossipsub as its application score, and cuts off whom [`Scores::note`] tells it to. Must stay true: only
//! what the peer itself could have avoided has a price; bounded memory; monotonic time only. Small debts
//! (`service::hearing::SCORE_NOTICED`) are not told to gossipsub: it drops whoever is below zero from its mesh.

use std::time::Duration;

use lru::LruCache;
use owm_proto::PublicKey;

use crate::{
    Moment,
    gossip::{RejectReason, Verdict},
    peer::ban::{BANNED_MAX, Bans},
};

/// Peers whose score is remembered: far above any number of connections, so a peer does not lose its
/// record by coming back.
pub const SCORED_MAX: usize = 4_096;

/// A score halves towards zero in this time: ten minutes, as long as the first ban.
pub const HALF_LIFE: Duration = Duration::from_mins(10);

/// At or below this a peer is cut off for a time: some ten messages that any honest peer would have dropped.
pub const BAN_BELOW: f64 = -100.0;

/// At or below this gossipsub no longer listens to the peer (graylist).
pub const GRAYLIST_BELOW: f64 = -80.0;

/// At or below this we send it nothing of our own.
pub const PUBLISH_BELOW: f64 = -50.0;

/// At or below this no gossip is exchanged.
pub const GOSSIP_BELOW: f64 = -20.0;

/// A score can't be worse than this, so that the longest way back is known: about 12 half lives.
const SCORE_MIN: f64 = -400.0;

/// Something a peer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Forwarded a message that any honest peer would have refused.
    BadMessage(RejectReason),
    /// Sent far more than its allowance; once for each message above it.
    Flood,
    /// Answered the first exchange with something that does not verify.
    BadMeet,
    /// Asked the first exchange more often than it may.
    MeetTooOften,
    /// Did not answer in time.
    NoAnswer,
    /// Broke a protocol: frames that don't decode, answers to no question.
    Protocol,
}

impl Action {
    /// What it costs.
    pub const fn price(self) -> f64 {
        match self {
            Self::BadMessage(RejectReason::Oversize) | Self::BadMeet => -20.0,
            Self::BadMessage(RejectReason::WrongShard | RejectReason::BadTimes) => -5.0,
            Self::BadMessage(_) | Self::Protocol => -10.0,
            Self::Flood => -0.5,
            Self::MeetTooOften => -2.0,
            Self::NoAnswer => -1.0,
        }
    }

    /// A stable word for metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadMessage(reason) => reason.as_str(),
            Self::Flood => "flood",
            Self::BadMeet => "bad_meet",
            Self::MeetTooOften => "meet_too_often",
            Self::NoAnswer => "no_answer",
            Self::Protocol => "protocol",
        }
    }

    /// What a verdict says of the peer that forwarded the message.
    pub const fn of(verdict: Verdict) -> Option<Self> {
        use crate::gossip::IgnoreReason::TooManyOfPeer;
        match verdict {
            Verdict::Reject(reason) => Some(Self::BadMessage(reason)),
            Verdict::Ignore(TooManyOfPeer) => Some(Self::Flood),
            Verdict::Accept | Verdict::Ignore(_) => None,
        }
    }
}

/// What follows from an action.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Consequence {
    /// Tell gossipsub this application score.
    Score(f64),
    /// Disconnect and refuse the peer for so long; its score starts anew after that.
    CutOff(Duration),
}

/// The scores of all peers, and who is cut off.
#[derive(Debug)]
pub struct Scores {
    scores: LruCache<PublicKey, Score>,
    /// Who is cut off until when.
    pub bans: Bans,
}

#[derive(Clone, Copy, Debug)]
struct Score {
    value: f64,
    at: Duration,
}

impl Score {
    fn faded(self, now: Duration) -> f64 {
        let gone = now.saturating_sub(self.at).as_secs_f64();
        self.value * (-gone * std::f64::consts::LN_2 / HALF_LIFE.as_secs_f64()).exp()
    }
}

impl Default for Scores {
    fn default() -> Self {
        Self {
            scores: LruCache::unbounded(),
            bans: Bans::new(BANNED_MAX),
        }
    }
}

impl Scores {
    /// Books `action` of `peer`.
    pub fn note(&mut self, at: Moment, peer: &PublicKey, action: Action) -> Consequence {
        let now = at.monotonic;
        let value = (self.score(at, peer) + action.price()).max(SCORE_MIN);
        if value <= BAN_BELOW {
            return Consequence::CutOff(self.cut_off(at, peer));
        }
        if self.scores.len() >= SCORED_MAX && !self.scores.contains(peer) {
            self.scores.pop_lru();
        }
        self.scores.put(*peer, Score { value, at: now });
        Consequence::Score(value)
    }

    /// Cuts `peer` off, says for how long; its score starts anew after that.
    pub fn cut_off(&mut self, at: Moment, peer: &PublicKey) -> Duration {
        self.scores.pop(peer);
        self.bans.ban(at, peer)
    }

    /// The score of `peer` now: 0 for who did nothing wrong, lower for others.
    pub fn score(&self, at: Moment, peer: &PublicKey) -> f64 {
        let score = self.scores.peek(peer);
        score.map_or(0.0, |score| score.faded(at.monotonic))
    }

    /// Peers whose score is not zero, with it: what gossipsub is told once in a while, so that scores fade
    /// there too.
    pub fn all(&self, at: Moment) -> impl Iterator<Item = (PublicKey, f64)> {
        let now = at.monotonic;
        self.scores
            .iter()
            .map(move |(peer, score)| (*peer, score.faded(now)))
    }

    /// Forgets scores that have faded to nothing, and bans that are over.
    pub fn tick(&mut self, at: Moment) {
        /// Less than a tenth of the cheapest action.
        const NOTHING: f64 = -0.05;
        let now = at.monotonic;
        self.scores.retain(|_, score| score.faded(now) < NOTHING);
        self.bans.tick(at);
    }

    /// How many peers are remembered.
    pub fn len(&self) -> usize {
        self.scores.len()
    }

    /// Whether nobody did anything wrong.
    pub fn is_empty(&self) -> bool {
        self.scores.is_empty()
    }
}

#[cfg(test)]
mod tests;
