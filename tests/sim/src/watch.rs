//! What is looked at while a run goes on: everything believed is held against the truth, who is cut off, how
//! large tables grow. `invariant` looks at the rest when it ends.

use std::{collections::BTreeMap, fmt};

use owm_p2p::{
    Moment,
    gossip::{IgnoreReason, Verdict},
};
use owm_proto::{PublicKey, Purpose, UnixMillis};

use crate::{
    frame::Peer,
    node::{Learnt, Node},
    scenario::Deed,
    time::At,
    truth::Truth,
};

/// What must hold. The names are what a failing seed is reported with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// Who has been there and connected long enough knows every honest live peer of its shard; the
    /// coordinator of all shards.
    EverybodyKnowsEverybody,
    /// … not by its heartbeats alone: whoever is alive, heartbeating and connected since the last disturbance is
    /// known by what it announced too, so that it can be introduced to newcomers.
    EverybodyIsIntroduced,
    /// … and the newest checkpoint.
    TheNewestCheckpointIsKnown,
    /// Nothing forged is believed.
    NothingForgedIsBelieved,
    /// Nothing expired is believed.
    NothingExpiredIsBelieved,
    /// No sequence goes down or comes twice.
    NothingIsBelievedTwice,
    /// No checkpoint replaces a newer one.
    NoCheckpointIsDowngraded,
    /// No honest peer cuts an honest peer off, or stops listening to it.
    NoHonestPeerIsPunished,
    /// Whoever hears many provable lies from a peer cuts it off.
    LiarsAreCutOff,
    /// Tables stay within their limits.
    TablesAreBounded,
    /// No key gets more messages accepted than its allowance.
    KeysAreRateLimited,
    /// Nobody sends more than its own to all its peers, others' to its mesh, and what it was asked for.
    MessagesAreBounded,
    /// Two things said under one sequence are seen by whoever hears both.
    EquivocationIsSeen,
}

/// An invariant that did not hold.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// When.
    pub at: At,
    /// For whom, and how.
    pub what: String,
}

/// Violations that are kept: the first ones say what is wrong.
const VIOLATIONS_MAX: usize = 8;

/// The largest tables seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Members in a directory.
    pub members: usize,
    /// Strangers in a directory.
    pub strangers: usize,
    /// Bytes of capabilities in a directory.
    pub bytes: usize,
    /// Peers with a score.
    pub scores: usize,
}

/// The observations of a run.
#[derive(Debug, Default)]
pub struct Watch {
    violations: Vec<Violation>,
    last: BTreeMap<(Peer, u64, PublicKey, &'static str), u64>,
    checkpoints: BTreeMap<(Peer, u64), u64>,
    accepted: BTreeMap<(Peer, u64, PublicKey, &'static str), u64>,
    provable: BTreeMap<(Peer, Peer), u64>,
    cut_off: BTreeMap<(Peer, Peer), At>,
    verdicts: BTreeMap<&'static str, u64>,
    splits: BTreeMap<Peer, u64>,
    sizes: Sizes,
}

impl Watch {
    /// Notes that something does not hold.
    pub fn violated(&mut self, invariant: Invariant, at: At, what: fmt::Arguments<'_>) {
        if self.violations.len() < VIOLATIONS_MAX {
            let what = what.to_string();
            self.violations.push(Violation {
                invariant,
                at,
                what,
            });
        }
    }

    /// What did not hold.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// A peer (in one of its lives) believes something from now on.
    pub fn believed(
        &mut self,
        (peer, life): (Peer, u64),
        at: Moment,
        now: At,
        learnt: &Learnt,
        truth: &Truth,
    ) {
        if !truth.holds(learnt.signer(), learnt.purpose(), learnt.payload()) {
            let what = format_args!("{} believes {learnt:?}", peer.0);
            self.violated(Invariant::NothingForgedIsBelieved, now, what);
        }
        match learnt {
            Learnt::Heartbeat {
                node,
                sequence,
                expires,
                ..
            }
            | Learnt::Capability {
                node,
                sequence,
                expires,
                ..
            } => {
                if *expires <= at.wall {
                    let what = format_args!("{} at {:?} believes {learnt:?}", peer.0, at.wall);
                    self.violated(Invariant::NothingExpiredIsBelieved, now, what);
                }
                let name = (peer, life, *node, learnt.purpose().as_str());
                *self.accepted.entry(name).or_default() += 1;
                let before = self.last.insert(name, *sequence);
                if before.is_some_and(|before| before >= *sequence) {
                    let what = format_args!("{} had {before:?}, believes {learnt:?}", peer.0);
                    self.violated(Invariant::NothingIsBelievedTwice, now, what);
                }
            }
            Learnt::Checkpoint { sequence, .. } => {
                let before = self.checkpoints.insert((peer, life), *sequence);
                if before.is_some_and(|before| before >= *sequence) {
                    let what = format_args!("{} had {before:?}, believes {learnt:?}", peer.0);
                    self.violated(Invariant::NoCheckpointIsDowngraded, now, what);
                }
            }
        }
    }

    /// A message has been judged; `from` with what it does if it is a liar.
    pub fn judged(&mut self, peer: Peer, (from, deed): (Peer, Option<Deed>), verdict: Verdict) {
        let word = match verdict {
            Verdict::Accept => "accept",
            Verdict::Ignore(reason) => reason.as_str(),
            Verdict::Reject(reason) => reason.as_str(),
        };
        *self.verdicts.entry(word).or_default() += 1;
        if verdict == Verdict::Ignore(IgnoreReason::Equivocation) {
            *self.splits.entry(peer).or_default() += 1;
        }
        if matches!(verdict, Verdict::Reject(_)) && deed.is_some() {
            *self.provable.entry((peer, from)).or_default() += 1;
        }
    }

    /// A peer has cut another off.
    pub fn cut_off(&mut self, peer: Peer, (from, deed): (Peer, Option<Deed>), now: At) {
        self.provable.remove(&(peer, from));
        self.cut_off.insert((peer, from), now);
        if deed.is_none() {
            let what = format_args!("{} cuts off {}, who is honest", peer.0, from.0);
            self.violated(Invariant::NoHonestPeerIsPunished, now, what);
        }
    }

    /// Provable lies that `peer` has heard from each liar since it cut it off last.
    pub fn provable(&self) -> &BTreeMap<(Peer, Peer), u64> {
        &self.provable
    }

    /// Who has cut whom off.
    pub fn cuts(&self) -> &BTreeMap<(Peer, Peer), At> {
        &self.cut_off
    }

    /// Messages accepted, by (peer, its life, key, purpose).
    pub fn accepted(&self) -> &BTreeMap<(Peer, u64, PublicKey, &'static str), u64> {
        &self.accepted
    }

    /// How often each verdict was given.
    pub fn verdicts(&self) -> &BTreeMap<&'static str, u64> {
        &self.verdicts
    }

    /// Who has seen equivocation, how often.
    pub fn splits(&self) -> &BTreeMap<Peer, u64> {
        &self.splits
    }

    /// What `peer` believed last of `key`.
    pub fn last(&self, peer: Peer, life: u64, key: &PublicKey, purpose: Purpose) -> Option<u64> {
        let name = (peer, life, *key, purpose.as_str());
        self.last.get(&name).copied()
    }

    /// Looks at a peer's tables.
    pub fn sizes(&mut self, _peer: Peer, node: &Node) {
        let sizes = node.sizes();
        let max = &mut self.sizes;
        max.members = max.members.max(sizes.members);
        max.strangers = max.strangers.max(sizes.strangers);
        max.bytes = max.bytes.max(sizes.bytes);
        max.scores = max.scores.max(sizes.scores);
    }

    /// The largest tables seen.
    pub fn largest(&self) -> Sizes {
        self.sizes
    }
}

impl Learnt {
    /// Who said it.
    pub fn signer(&self) -> &PublicKey {
        match self {
            Self::Heartbeat { node, .. } | Self::Capability { node, .. } => node,
            Self::Checkpoint { signer, .. } => signer,
        }
    }

    /// What for.
    pub fn purpose(&self) -> Purpose {
        match self {
            Self::Heartbeat { .. } => Purpose::Heartbeat,
            Self::Capability { .. } => Purpose::Capability,
            Self::Checkpoint { .. } => Purpose::Checkpoint,
        }
    }

    /// The signed bytes.
    pub fn payload(&self) -> &[u8] {
        match self {
            Self::Heartbeat { payload, .. }
            | Self::Capability { payload, .. }
            | Self::Checkpoint { payload, .. } => payload,
        }
    }

    /// Until when it holds; a checkpoint for ever.
    pub fn expires(&self) -> UnixMillis {
        match self {
            Self::Heartbeat { expires, .. } | Self::Capability { expires, .. } => *expires,
            Self::Checkpoint { .. } => UnixMillis(u64::MAX),
        }
    }
}
