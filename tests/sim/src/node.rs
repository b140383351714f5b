//! A peer that follows the rules: the real `Rules`, `Directory` and `Scores` of `owm-p2p`, behind a router.
//! What `owm-p2p`'s service does between them and libp2p, this does between them and the simulated network.

mod catching;
mod learnt;
mod meeting;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use owm_p2p::{
    Documents, Lacking, Moment,
    gossip::{Heard, Judged, Limits, Notice, Rules, Topic, Verdict},
    news::NewestCheckpoint,
    peer::{
        Action, Scores,
        score::{Consequence, GOSSIP_BELOW, GRAYLIST_BELOW, PUBLISH_BELOW},
    },
};
use owm_proto::{Envelope, PublicKey, Purpose, SignatureCheck};

use crate::{
    dice::Dice,
    frame::{Frame, Message, Peer},
    identity::Memo,
    mesh::{Outbox, Router, Standing},
    time::At,
    watch::Sizes,
};

pub use learnt::Learnt;

/// What a node starts with.
#[derive(Debug)]
pub struct Setup {
    /// The network.
    pub documents: Documents,
    /// Its key.
    pub key: PublicKey,
    /// Sizes of its tables.
    pub limits: Limits,
    /// What it subscribes to.
    pub topics: BTreeSet<Topic>,
    /// Capabilities that it asks for and gives in one answer.
    pub meet_nodes: u32,
    /// How long its router remembers ids.
    pub seen_secs: u64,
    /// It runs the rules.
    pub has_rules: bool,
    /// When.
    pub at: Moment,
}

/// What survives a crash, if the disk does.
#[derive(Debug, Default)]
pub struct Store {
    /// The last sequence of each purpose.
    pub sequences: BTreeMap<&'static str, u64>,
    /// The newest checkpoint.
    pub newest: Option<NewestCheckpoint>,
}

/// The memory of a running node.
#[derive(Debug)]
pub struct Node {
    /// Its gossip.
    pub router: Router,
    /// This run of it.
    pub session: [u8; 16],
    /// Its last capability.
    pub own_capability: Option<Envelope>,
    rules: Rules,
    scores: Scores,
    newest: Option<NewestCheckpoint>,
    documents: Documents,
    keys: BTreeMap<Peer, PublicKey>,
    catching: catching::Catching,
    lacking: Lacking,
    meet_nodes: u32,
    has_rules: bool,
}

/// What came of something heard.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Of a gossip message that was judged.
    pub verdict: Option<Verdict>,
    /// What is believed from now on.
    pub learnt: Vec<Learnt>,
    /// Its sender is to be cut off for so long.
    pub cut_off: Option<Duration>,
    /// Somebody's own announcement goes to all who listen: it may not be in a mesh yet.
    pub introduces: bool,
    /// Keys seen to have said two things under one sequence.
    pub contradictions: Vec<(PublicKey, Purpose, u64)>,
}

impl Node {
    /// Starts, with what the disk has kept.
    pub fn new(setup: Setup, store: &Store, session: [u8; 16]) -> Self {
        let memo = Memo::default();
        let mut rules = Rules::new(&setup.documents, setup.key, setup.limits, setup.at);
        if let Some(newest) = &store.newest {
            let (_, judged) = rules.accept_own(setup.at, newest.envelope.clone(), &memo);
            debug_assert!(judged.verdict == Verdict::Accept, "it was verified before");
        }
        Self {
            router: Router::new(setup.topics, setup.seen_secs),
            session,
            own_capability: None,
            rules,
            scores: Scores::default(),
            newest: store.newest.clone(),
            documents: setup.documents,
            keys: BTreeMap::new(),
            catching: catching::Catching::default(),
            lacking: Lacking::default(),
            meet_nodes: setup.meet_nodes,
            has_rules: setup.has_rules,
        }
    }

    /// A connection stands, dialled by us or not.
    pub fn connected(
        &mut self,
        at: Moment,
        (peer, key): (Peer, PublicKey),
        (topics, outbound): (BTreeSet<Topic>, bool),
        out: &mut Outbox,
    ) {
        self.keys.insert(peer, key);
        let standing = self.standing(at, &key);
        self.router
            .connected(peer, (topics, outbound), standing, out);
    }

    /// A connection is gone.
    pub fn disconnected(&mut self, peer: Peer) {
        self.keys.remove(&peer);
        self.catching.gone(peer);
        self.router.disconnected(peer);
    }

    /// A gossip message.
    pub fn hears(
        &mut self,
        (at, now): (Moment, At),
        (peer, key): (Peer, &PublicKey),
        message: &Arc<Message>,
        memo: &Memo,
        out: &mut Outbox,
    ) -> Outcome {
        if self.standing(at, key) == Standing::Graylisted || !self.router.is_new(message, now) {
            return Outcome::default();
        }
        if !self.has_rules {
            self.router.accepted(message, Some(peer), out);
            return Outcome {
                verdict: Some(Verdict::Accept),
                ..Outcome::default()
            };
        }
        let judged = self
            .rules
            .judge(at, key, message.topic, &message.bytes, memo);
        if judged.verdict == Verdict::Accept {
            self.router.accepted(message, Some(peer), out);
        }
        let mut outcome = Outcome {
            verdict: Some(judged.verdict),
            ..Outcome::default()
        };
        if let Some(node) = &judged.turned_away {
            self.lacking.turned_away(at, node, self.rules.directory());
        }
        match &judged.news {
            Some(Heard::Checkpoint(_)) => out.push((peer, Frame::Ask(self.ask(at).into()))),
            Some(Heard::Capability { node, body }) => self.compare(peer, node, body),
            Some(Heard::Heartbeat { node, .. }) => {
                self.lacking.heard(at, node, self.rules.directory());
            }
            None => {}
        }
        self.settle(at, key, judged, &mut outcome);
        outcome
    }

    fn settle(&mut self, at: Moment, from: &PublicKey, judged: Judged, outcome: &mut Outcome) {
        if let Some(action) = judged.action {
            self.book(at, from, action, outcome);
        }
        if let Some(Notice::Contradiction(seen)) = &judged.notice {
            let seen = (seen.key, seen.purpose, seen.sequence);
            outcome.contradictions.push(seen);
        }
        outcome.learnt.extend(judged.news.map(Learnt::from));
    }

    fn book(&mut self, at: Moment, from: &PublicKey, action: Action, outcome: &mut Outcome) {
        if let Consequence::CutOff(span) = self.scores.note(at, from, action) {
            outcome.cut_off = Some(span);
        }
    }

    /// Something of its own goes out; says whether the rules let it.
    pub fn says(&mut self, at: Moment, envelope: &Envelope, memo: &Memo) -> Verdict {
        let (_, judged) = self.rules.accept_own(at, envelope.clone(), memo);
        if envelope.claims(Purpose::Capability) {
            self.own_capability = Some(envelope.clone());
        }
        judged.verdict
    }

    /// A message of its own goes to all who listen.
    pub fn tells(&mut self, (at, now): (Moment, At), message: &Arc<Message>, out: &mut Outbox) {
        let (scores, keys) = (&self.scores, &self.keys);
        let standing = |peer| {
            let key = keys.get(&peer);
            key.map_or(Standing::Fair, |key| judge_score(scores.score(at, key)))
        };
        self.router.publish(message, now, &standing, out);
    }

    /// It publishes a checkpoint.
    pub fn publishes(
        &mut self,
        at: Moment,
        newest: NewestCheckpoint,
        store: &mut Store,
        memo: &Memo,
    ) -> Verdict {
        let verdict = self.says(at, &newest.envelope, memo);
        store.newest = Some(newest.clone());
        self.newest = Some(newest);
        verdict
    }

    /// Once a second.
    pub fn tick(&mut self, at: Moment, now: At, dice: &mut Dice, out: &mut Outbox) {
        let _ = self.rules.tick(at);
        self.scores.tick(at);
        let (scores, keys) = (&self.scores, &self.keys);
        let standing = |peer| {
            let key = keys.get(&peer);
            key.map_or(Standing::Fair, |key| judge_score(scores.score(at, key)))
        };
        self.router.tick(now, &standing, dice, out);
        self.catch_up(at, now, dice, out);
    }

    /// What it thinks of a peer.
    pub fn standing(&self, at: Moment, key: &PublicKey) -> Standing {
        judge_score(self.scores.score(at, key))
    }

    /// Whether it has cut a peer off.
    pub fn is_banned(&self, at: Moment, key: &PublicKey) -> bool {
        self.scores.bans.is_banned(at, key)
    }

    /// Keys of the nodes that it takes to be alive.
    pub fn known(&self, at: Moment) -> BTreeSet<PublicKey> {
        let nodes = self.rules.directory().nodes(at);
        nodes.into_iter().map(|node| node.key).collect()
    }

    /// Of those, the nodes whose heartbeats are all that it knows.
    pub fn lacks_capability(&self, at: Moment, key: &PublicKey) -> bool {
        self.rules.directory().lacks_capability(at, key)
    }

    /// The newest checkpoint that it can serve, its manifest included; 0: none.
    pub fn newest_sequence(&self) -> u64 {
        let newest = self.newest.as_ref();
        newest.map_or(0, |newest| newest.checkpoint.sequence)
    }

    /// The newest checkpoint that it has heard of; 0: none.
    pub fn announced_sequence(&self) -> u64 {
        let known = self.rules.checkpoint();
        known.map_or(0, |known| known.checkpoint.sequence)
    }

    /// What a person should look at.
    pub fn warnings(&self) -> Vec<String> {
        self.rules.warnings().map(str::to_owned).collect()
    }

    /// Who is in one of its meshes.
    pub fn meshes(&self) -> BTreeSet<Peer> {
        let topics = self.router.topics().into_iter();
        topics
            .flat_map(|topic| self.router.mesh(topic).collect::<Vec<_>>())
            .collect()
    }

    /// How large its tables are.
    pub fn sizes(&self) -> Sizes {
        let (members, strangers) = self.rules.directory().len();
        Sizes {
            members,
            strangers,
            bytes: self.rules.directory().bytes(),
            scores: self.scores.len(),
        }
    }
}

impl SignatureCheck for Memo {
    fn holds(&self, key: &PublicKey, message: &[u8], signature: &[u8; 64]) -> bool {
        self.verifies(key, message, signature)
    }
}

/// As gossipsub has it: below zero a peer leaves the mesh, below the thresholds no ids are exchanged, and
/// nothing is listened to.
fn judge_score(score: f64) -> Standing {
    if score <= GRAYLIST_BELOW {
        Standing::Graylisted
    } else if score <= PUBLISH_BELOW {
        Standing::Untold
    } else if score <= GOSSIP_BELOW {
        Standing::Shunned
    } else if score < 0.0 {
        Standing::Wary
    } else {
        Standing::Fair
    }
}
