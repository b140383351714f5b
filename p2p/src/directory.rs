//! The nodes heard of lately: what each said last, who vouches for it, and whether it lives. `gossip::rules`
//! fills it with verified messages only; views, the first exchange between peers and the search for who
//! holds a file read it. Must stay true: bounded in nodes and in bytes; strangers never displace members, and
//! no stranger displaces a living one, so a flood of new keys neither grows the tables nor empties them.

mod table;

use std::time::Duration;

use libp2p::Multiaddr;
use owm_proto::{
    Envelope, PublicKey, Sha256, UnixMillis,
    genesis::TrustRoot,
    wire::{coordinator::HeartbeatBody, gossip::CapabilityBody},
};

use crate::{
    Moment,
    gossip::{
        capability,
        limits::{Allowances, Limits, Lives, StateKind},
        order::Said,
    },
    membership::{Admission, Renewals, Standing},
    peer::rate::Meter,
    view::NodeView,
};

use table::Table;

/// What is remembered of a node that is silent: long enough that its old messages stay known as such, also if
/// our wall clock is set back.
const SILENT_KEPT: Duration = Duration::from_hours(1);

/// A node's last capability.
#[derive(Debug)]
pub struct Announced {
    /// Its order and times.
    pub said: Said,
    /// What it says, without its membership.
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
    /// Which peer told of it first, if not itself: a stranger's place counts against that one's share.
    pub(crate) brought_by: Option<PublicKey>,
}

/// The nodes heard of lately.
#[derive(Debug)]
pub struct Directory {
    members: Table,
    strangers: Table,
    renewals: Renewals,
    bytes_max: usize,
    lives: Lives,
}

impl Announced {
    /// Bytes of an answer that it takes.
    fn bytes_told(&self) -> usize {
        /// Purpose, key, signature and framing beside the payload.
        const FRAME_BYTES: usize = 160;
        self.envelope.unverified_payload().len() + FRAME_BYTES
    }
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

    fn lives(&self, at: Moment, lives: Lives) -> bool {
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

/// Strangers that one peer may bring: half of the places, but as many as a small network has in any case.
fn share_of_one(places: usize) -> usize {
    /// Whose only neighbour is an honest one still learns of all others.
    const BROUGHT_MIN: usize = 64;
    (places / 2).max(BROUGHT_MIN)
}

impl Directory {
    /// Empty.
    pub fn new(limits: Limits, allowances: &Allowances) -> Self {
        Self {
            members: Table::new(limits.members_max),
            strangers: Table::new(limits.strangers_max),
            renewals: Renewals::default(),
            bytes_max: limits.capability_bytes_max,
            lives: allowances.lives(),
        }
    }

    /// All that is known of `key`, silent or not.
    pub fn known(&self, key: &PublicKey) -> Option<&Known> {
        let member = self.members.get(key);
        member.or_else(|| self.strangers.get(key))
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
        self.members.bytes() + self.strangers.bytes()
    }

    /// The nodes that live, by key.
    pub fn nodes(&self, at: Moment) -> Vec<NodeView> {
        let view = |(key, known): (&PublicKey, &Known)| {
            let standing = self.worth(known.admission.as_deref(), at.wall);
            known.view(*key, standing)
        };
        let living = self.all().filter(|(_, known)| known.lives(at, self.lives));
        let mut nodes: Vec<_> = living.map(view).collect();
        nodes.sort_unstable_by_key(|node| node.key);
        nodes
    }

    /// Capability envelopes that hold, for who asks: those of `named`; then up to `count_max` for who has just
    /// come, that of `first` (ourselves), then members' and strangers', of each the one heard last first. So
    /// many bytes at most.
    pub fn capabilities(
        &self,
        at: Moment,
        named: &[PublicKey],
        first: &PublicKey,
        count_max: usize,
        bytes_max: usize,
    ) -> Vec<Envelope> {
        let mut room = bytes_max;
        let named = named.iter().filter_map(|key| self.announced_by(at, key));
        let others = self.announced(at).filter(|(key, _)| *key != first);
        let others = others.map(|(_, announced)| announced);
        let own = self.announced_by(at, first).into_iter();
        named
            .chain(own.chain(others).take(count_max))
            .map_while(|announced| {
                room = room.checked_sub(announced.bytes_told())?;
                Some(announced.envelope.clone())
            })
            .collect()
    }

    /// Whether a node's heartbeat holds, and nothing else is known of it.
    pub fn lacks_capability(&self, at: Moment, key: &PublicKey) -> bool {
        let life = self.lives[StateKind::Heartbeat as usize];
        let said = self.known(key).and_then(|k| k.said(StateKind::Heartbeat));
        said.is_some_and(|said| said.holds(at, life)) && !self.is_announced(at, key)
    }

    /// Whether a node's capability is known, and holds.
    pub fn is_announced(&self, at: Moment, key: &PublicKey) -> bool {
        self.announced_by(at, key).is_some()
    }

    /// Who says to serve this file, members first, the one heard last first.
    pub fn holders(&self, at: Moment, file: &Sha256) -> Vec<PublicKey> {
        let holds = |a: &Announced| a.body.holds.iter().any(|hash| hash == file.as_bytes());
        let holders = self.announced(at).filter(|(_, a)| holds(a));
        holders.map(|(key, _)| *key).collect()
    }

    /// Who carries connections for peers behind NAT, members first.
    pub fn relays(&self, at: Moment) -> Vec<PublicKey> {
        let relays = self.announced(at).filter(|(_, a)| a.body.relay);
        relays.map(|(key, _)| *key).collect()
    }

    /// The addresses that a living node announces, without its name.
    pub fn addresses(&self, at: Moment, key: &PublicKey) -> Vec<Multiaddr> {
        self.announced_by(at, key).map_or_else(Vec::new, |a| {
            let bytes = a.body.addresses.iter();
            bytes.filter_map(|b| capability::address(b)).collect()
        })
    }

    pub(crate) fn known_mut(&mut self, key: &PublicKey) -> Option<&mut Known> {
        match self.members.get_mut(key) {
            Some(known) => Some(known),
            None => self.strangers.get_mut(key),
        }
    }

    /// What an admission is worth.
    pub(crate) fn worth(&self, admission: Option<&Admission>, now: UnixMillis) -> Standing {
        admission.map_or(Standing::Stranger, |a| a.standing(now, self.renewals))
    }

    /// Whether there is room for `key` with a capability of so many bytes, of which `by` tells: it has a place, one
    /// is free, or one can be freed that nobody alive holds. Strangers make way for a member's bytes. Each
    /// stranger has a place of its own, but one peer brings no more of them than half the places: who makes up
    /// keys behind one connection leaves room for those whom others tell of.
    pub(crate) fn has_room(
        &self,
        at: Moment,
        (key, by): (&PublicKey, &PublicKey),
        seated: bool,
        bytes: usize,
    ) -> bool {
        let table = self.table(seated);
        let is_new = !seated && self.known(key).is_none() && by != key;
        if is_new && table.brought_by(by) >= share_of_one(table.max) {
            return false;
        }
        let seat = table.get(key).is_some()
            || !table.is_full()
            || table
                .oldest()
                .is_none_or(|known| !known.lives(at, self.lives));
        let held = if seated {
            self.members.bytes()
        } else {
            self.bytes()
        };
        let own = table.get(key).map_or(0, Known::bytes);
        seat && (bytes == 0 || held - own + bytes <= self.bytes_max)
    }

    /// A verified heartbeat. There must be room.
    pub(crate) fn beat(
        &mut self,
        at: Moment,
        (key, by): (&PublicKey, &PublicKey),
        seated: bool,
        said: Said,
        body: &HeartbeatBody,
    ) {
        let mut known = self.taken(at, key, by);
        known.heartbeat = Some((said, body.running_tasks));
        self.put_back(key, seated, known);
    }

    /// A verified capability. There must be room.
    pub(crate) fn announce(
        &mut self,
        at: Moment,
        (key, by): (&PublicKey, &PublicKey),
        seated: bool,
        announced: Announced,
        admission: Option<Box<Admission>>,
    ) {
        if let Some(admission) = &admission {
            self.renewals.saw(admission, at.wall);
        }
        let mut known = self.taken(at, key, by);
        known.capability = Some(Box::new(announced));
        known.admission = admission;
        self.put_back(key, seated, known);
        while self.bytes() > self.bytes_max && self.strangers.pop_oldest() {}
    }

    /// Forgets who has been silent for long.
    pub(crate) fn tick(&mut self, at: Moment) {
        let lives = self.lives;
        let over = |known: &Known| {
            let silent = at.monotonic.saturating_sub(known.last_heard.monotonic);
            silent >= SILENT_KEPT && !known.lives(at, lives)
        };
        for table in [&mut self.members, &mut self.strangers] {
            while table.oldest().is_some_and(over) {
                table.pop_oldest();
            }
        }
    }

    /// Other periods.
    pub(crate) fn set_allowances(&mut self, allowances: &Allowances) {
        self.lives = allowances.lives();
    }

    /// Other sizes; who is over them leaves as others come.
    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.members.max = limits.members_max.max(1);
        self.strangers.max = limits.strangers_max.max(1);
        self.bytes_max = limits.capability_bytes_max;
    }

    /// Takes away memberships whose instance key is not trusted (any more).
    pub(crate) fn recheck(&mut self, trust: &TrustRoot) {
        for table in [&mut self.members, &mut self.strangers] {
            for known in table.iter_mut() {
                let untrusted = |a: &Admission| !a.is_trusted(trust);
                if known.admission.as_deref().is_some_and(untrusted) {
                    known.admission = None;
                }
            }
        }
    }

    fn table(&self, seated: bool) -> &Table {
        if seated {
            &self.members
        } else {
            &self.strangers
        }
    }

    /// What is known of `key`, out of its table, with the time noted.
    fn taken(&mut self, at: Moment, key: &PublicKey, by: &PublicKey) -> Known {
        let known = self.members.take(key);
        let known = known.or_else(|| self.strangers.take(key));
        Known {
            last_heard: at,
            ..known.unwrap_or_else(|| Known {
                first_heard: at,
                brought_by: Some(*by).filter(|by| by != key),
                ..Known::default()
            })
        }
    }

    fn put_back(&mut self, key: &PublicKey, seated: bool, known: Known) {
        let table = if seated {
            &mut self.members
        } else {
            &mut self.strangers
        };
        table.put(key, known);
    }

    fn all(&self) -> impl Iterator<Item = (&PublicKey, &Known)> {
        self.members.iter().chain(self.strangers.iter())
    }

    /// What a node has announced, if it holds.
    fn announced_by(&self, at: Moment, key: &PublicKey) -> Option<&Announced> {
        let life = self.lives[StateKind::Capability as usize];
        let announced = self.known(key)?.capability.as_deref();
        announced.filter(|announced| announced.said.holds(at, life))
    }

    fn announced(&self, at: Moment) -> impl Iterator<Item = (&PublicKey, &Announced)> {
        let life = self.lives[StateKind::Capability as usize];
        self.all()
            .filter_map(|(key, known)| Some((key, known.capability.as_deref()?)))
            .filter(move |(_, announced)| announced.said.holds(at, life))
    }
}
