//! The nodes heard of lately: what each said last, who vouches for it, and whether it lives. `gossip::rules`
//! fills it with verified messages only; views, the first exchange between peers and the search for who
//! holds a file read it. Must stay true: bounded in nodes and in bytes; strangers never displace members, and
//! no stranger displaces a living one, so a flood of new keys neither grows the tables nor empties them.

use std::time::Duration;

use libp2p::Multiaddr;
use lru::LruCache;
use owm_proto::{
    Envelope, PublicKey, Sha256, UnixMillis,
    genesis::TrustRoot,
    wire::{coordinator::HeartbeatBody, gossip::CapabilityBody},
};

use crate::{
    Moment,
    gossip::{
        capability,
        limits::{Allowances, Limits, StateKind},
        order::Said,
    },
    membership::{Admission, Renewals, Standing},
    peer::rate::Meter,
    view::NodeView,
};

/// What is remembered of a node that is silent: long enough that its old messages stay known as such, also if
/// our wall clock is set back.
const SILENT_KEPT: Duration = Duration::from_hours(1);

/// A node's last capability.
#[derive(Debug)]
pub struct Announced {
    /// Its order and times.
    pub said: Said,
    /// What it says.
    pub body: CapabilityBody,
    /// Its signed form, to be told on.
    pub envelope: Envelope,
}

/// All that is known of one node.
#[derive(Debug, Default)]
pub struct Known {
    /// Its last heartbeat.
    pub heartbeat: Option<(Said, u32)>,
    /// Its last capability.
    pub capability: Option<Box<Announced>>,
    /// Who vouches for it.
    pub admission: Option<Box<Admission>>,
    /// When it was heard first.
    pub first_heard: Moment,
    /// When it was heard last.
    pub last_heard: Moment,
    pub(crate) meters: [Meter; 2],
}

/// The nodes heard of lately.
#[derive(Debug)]
pub struct Directory {
    members: LruCache<PublicKey, Known>,
    strangers: LruCache<PublicKey, Known>,
    renewals: Renewals,
    bytes: usize,
    limits: Limits,
    lives: [Duration; 2],
}

impl Known {
    /// What was said last of this kind.
    pub fn said(&self, kind: StateKind) -> Option<&Said> {
        match kind {
            StateKind::Heartbeat => self.heartbeat.as_ref().map(|(said, _)| said),
            StateKind::Capability => self.capability.as_ref().map(|a| &a.said),
        }
    }

    /// Notes that the node has said something else under its last sequence; gives what it had said first.
    pub(crate) fn contradicted(&mut self, kind: StateKind) -> (Option<Envelope>, Sha256) {
        let (said, whole) = match kind {
            StateKind::Heartbeat => match &mut self.heartbeat {
                Some((said, _)) => (said, None),
                None => return (None, Sha256([0; 32])),
            },
            StateKind::Capability => match &mut self.capability {
                Some(announced) => (&mut announced.said, Some(&announced.envelope)),
                None => return (None, Sha256([0; 32])),
            },
        };
        said.contradicted = true;
        let first = whole.or(said.proof.as_deref()).cloned();
        (first, said.sha256)
    }

    fn lives(&self, at: Moment, lives: [Duration; 2]) -> bool {
        let holds = |kind: StateKind| {
            self.said(kind)
                .is_some_and(|said| said.holds(at, lives[kind as usize]))
        };
        holds(StateKind::Heartbeat) || holds(StateKind::Capability)
    }

    fn bytes(&self) -> usize {
        let announced = self.capability.as_ref();
        announced.map_or(0, |a| a.envelope.unverified_payload().len())
    }

    fn view(&self, key: PublicKey, standing: Standing) -> NodeView {
        let body = self.capability.as_ref().map(|a| &a.body);
        NodeView {
            key,
            tier: standing.tier(),
            heard_at_ms: self.last_heard.wall,
            running_tasks: self.heartbeat.as_ref().map_or(0, |(_, running)| *running),
            holds: body.map_or_else(Vec::new, |b| capability::holds(b).collect()),
            roles: body.map_or_else(Vec::new, |b| b.roles.clone()),
            software_version: body.map_or_else(String::new, |b| b.software_version.clone()),
            checkpoint_sequence: body.map_or(0, |b| b.checkpoint_sequence),
            connected: false,
        }
    }
}

impl Directory {
    /// Empty.
    pub fn new(limits: Limits, allowances: &Allowances) -> Self {
        let kinds = [StateKind::Heartbeat, StateKind::Capability];
        Self {
            members: LruCache::unbounded(),
            strangers: LruCache::unbounded(),
            renewals: Renewals::default(),
            bytes: 0,
            limits,
            lives: kinds.map(|kind| allowances.life(kind)),
        }
    }

    /// All that is known of `key`, silent or not.
    pub fn known(&self, key: &PublicKey) -> Option<&Known> {
        let member = self.members.peek(key);
        member.or_else(|| self.strangers.peek(key))
    }

    /// What `key` is to us at `now`.
    pub fn standing(&self, key: &PublicKey, now: UnixMillis) -> Standing {
        let known = self.known(key);
        self.worth(known.and_then(|k| k.admission.as_deref()), now)
    }

    /// How many nodes are remembered: members and lapsed members, strangers.
    pub fn len(&self) -> (usize, usize) {
        (self.members.len(), self.strangers.len())
    }

    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }

    /// Bytes of the capability envelopes that are kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The nodes that live, by key.
    pub fn nodes(&self, at: Moment) -> Vec<NodeView> {
        let mut nodes: Vec<_> = self
            .living(at)
            .map(|(key, known)| {
                let standing = self.worth(known.admission.as_deref(), at.wall);
                known.view(*key, standing)
            })
            .collect();
        nodes.sort_unstable_by_key(|node| node.key);
        nodes
    }

    /// Capability envelopes that hold, for who has just come: members first, of each the one heard last
    /// first; so many at most, in messages and bytes.
    pub fn capabilities(&self, at: Moment, count_max: usize, bytes_max: usize) -> Vec<Envelope> {
        /// Purpose, key, signature and framing beside the payload.
        const FRAME_BYTES: usize = 160;
        let mut room = bytes_max;
        self.announced(at)
            .map_while(|(_, announced)| {
                let bytes = announced.envelope.unverified_payload().len() + FRAME_BYTES;
                room = room.checked_sub(bytes)?;
                Some(announced.envelope.clone())
            })
            .take(count_max)
            .collect()
    }

    /// Who says to serve this file, members first, the one heard last first.
    pub fn holders(&self, at: Moment, file: &Sha256) -> Vec<PublicKey> {
        self.announced(at)
            .filter(|(_, announced)| announced.body.holds.iter().any(|h| h == file.as_bytes()))
            .map(|(key, _)| *key)
            .collect()
    }

    /// The addresses that a living node announces, without its name.
    pub fn addresses(&self, at: Moment, key: &PublicKey) -> Vec<Multiaddr> {
        let life = self.lives[StateKind::Capability as usize];
        let announced = self.known(key).and_then(|k| k.capability.as_ref());
        let announced = announced.filter(|a| a.said.holds(at, life));
        announced.map_or_else(Vec::new, |a| {
            let bytes = a.body.addresses.iter();
            bytes.filter_map(|b| capability::address(b)).collect()
        })
    }

    /// Who carries connections for peers behind NAT, members first.
    pub fn relays(&self, at: Moment) -> Vec<PublicKey> {
        let relays = self.announced(at).filter(|(_, a)| a.body.relay);
        relays.map(|(key, _)| *key).collect()
    }

    pub(crate) fn known_mut(&mut self, key: &PublicKey) -> Option<&mut Known> {
        match self.members.peek_mut(key) {
            Some(known) => Some(known),
            None => self.strangers.peek_mut(key),
        }
    }

    /// What an admission is worth.
    pub(crate) fn worth(&self, admission: Option<&Admission>, now: UnixMillis) -> Standing {
        admission.map_or(Standing::Stranger, |a| a.standing(now, self.renewals))
    }

    /// Whether there is room for `key` with a capability of so many bytes: it is known, a place is free, or
    /// one can be freed that nobody alive holds.
    pub(crate) fn has_room(&self, at: Moment, key: &PublicKey, seated: bool, bytes: usize) -> bool {
        let (table, max) = if seated {
            (&self.members, self.limits.members_max)
        } else {
            (&self.strangers, self.limits.strangers_max)
        };
        let tail = || table.peek_lru().map(|(_, known)| known);
        let seat = table.contains(key)
            || table.len() < max
            || tail().is_none_or(|known| !known.lives(at, self.lives));
        let held = self.known(key).map_or(0, Known::bytes);
        let space = (self.bytes - held) + bytes <= self.limits.capability_bytes_max;
        seat && space
    }

    /// A verified heartbeat. There must be room.
    pub(crate) fn beat(
        &mut self,
        at: Moment,
        key: &PublicKey,
        seated: bool,
        said: Said,
        body: &HeartbeatBody,
    ) {
        let known = self.entry(at, key, seated);
        known.heartbeat = Some((said, body.running_tasks));
    }

    /// A verified capability. There must be room.
    pub(crate) fn announce(
        &mut self,
        at: Moment,
        key: &PublicKey,
        seated: bool,
        announced: Announced,
        admission: Option<Box<Admission>>,
    ) {
        if let Some(admission) = &admission {
            self.renewals.saw(admission);
        }
        let bytes = announced.envelope.unverified_payload().len();
        let known = self.entry(at, key, seated);
        let before = known.bytes();
        known.capability = Some(Box::new(announced));
        known.admission = admission;
        self.bytes = self.bytes - before + bytes;
    }

    /// Forgets who has been silent for long.
    pub(crate) fn tick(&mut self, at: Moment) {
        for table in [&mut self.members, &mut self.strangers] {
            while let Some((_, known)) = table.peek_lru() {
                let silent = at.monotonic.saturating_sub(known.last_heard.monotonic);
                if silent < SILENT_KEPT || known.lives(at, self.lives) {
                    break;
                }
                let bytes = known.bytes();
                table.pop_lru();
                self.bytes -= bytes;
            }
        }
    }

    /// Other periods.
    pub(crate) fn set_allowances(&mut self, allowances: &Allowances) {
        self.lives = [StateKind::Heartbeat, StateKind::Capability].map(|k| allowances.life(k));
    }

    /// Other sizes; who is over them leaves as others come.
    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Takes away memberships whose instance key is not trusted (any more).
    pub(crate) fn recheck(&mut self, trust: &TrustRoot) {
        for (_, known) in self.members.iter_mut() {
            if known
                .admission
                .as_ref()
                .is_some_and(|a| !a.is_trusted(trust))
            {
                known.admission = None;
            }
        }
    }

    /// The place of `key`, made free if need be, in the table where it belongs.
    fn entry(&mut self, at: Moment, key: &PublicKey, seated: bool) -> &mut Known {
        let (table, other, max) = if seated {
            let max = self.limits.members_max;
            (&mut self.members, &mut self.strangers, max)
        } else {
            let max = self.limits.strangers_max;
            (&mut self.strangers, &mut self.members, max)
        };
        if !table.contains(key) {
            let moved = other.pop(key);
            if table.len() >= max
                && let Some((_, gone)) = table.pop_lru()
            {
                self.bytes -= gone.bytes();
            }
            let known = moved.unwrap_or_else(|| Known {
                first_heard: at,
                ..Known::default()
            });
            table.put(*key, known);
        }
        let known = table.get_mut(key).expect("it was put there just now");
        known.last_heard = at;
        known
    }

    fn living(&self, at: Moment) -> impl Iterator<Item = (&PublicKey, &Known)> {
        let all = self.members.iter().chain(self.strangers.iter());
        all.filter(move |(_, known)| known.lives(at, self.lives))
    }

    fn announced(&self, at: Moment) -> impl Iterator<Item = (&PublicKey, &Announced)> {
        let life = self.lives[StateKind::Capability as usize];
        let all = self.members.iter().chain(self.strangers.iter());
        all.filter_map(|(key, known)| Some((key, known.capability.as_deref()?)))
            .filter(move |(_, announced)| announced.said.holds(at, life))
    }
}
