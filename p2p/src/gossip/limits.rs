//! What the rules allow: sizes of tables, and allowances that follow from the network's agreed periods, so
//! that a devnet with heartbeats every second and a network with one a minute need no settings.

use std::time::Duration;

use owm_proto::gossip::Bootstrap;

use crate::peer::rate::Rate;

/// Nodes of one shard by design (spec §7).
pub const SHARD_NODES: u32 = 1_024;

/// Members that one shard may have before some are not remembered: four times the design.
pub const SHARD_MEMBERS_MAX: usize = 4 * SHARD_NODES as usize;

/// Strangers of one shard that are remembered.
pub const SHARD_STRANGERS_MAX: usize = SHARD_NODES as usize;

/// Nodes that one process remembers at most, whatever the number of shards it listens to: a million, at about
/// 1 KiB each.
pub const NODES_MAX: usize = 1 << 20;

/// Bytes of capability envelopes that one shard's table may keep: 4,096 honest ones have about 2 MiB.
pub const SHARD_CAPABILITY_BYTES_MAX: usize = 16 << 20;

/// The same for one process.
pub const CAPABILITY_BYTES_MAX: usize = 2 << 30;

/// Bytes of a stranger's capability: what an honest one needs, without a long list of files.
pub const STRANGER_CAPABILITY_BYTES_MAX: usize = 8 << 10;

/// Peers whose allowance is remembered: far above the connections of a process.
pub const PEERS_MAX: usize = 4_096;

/// A heartbeat counts for so long at least: two clocks may differ by two minutes, and its issue time is
/// rounded down by up to one.
pub const STATE_LIFE_MIN: Duration = Duration::from_mins(5);

/// No state message may claim to live longer, whatever the periods: twice the longest capability period.
/// Constant, so that all honest peers judge alike.
pub const STATE_LIFE_MAX: Duration = Duration::from_hours(48);

/// Unaccepted messages that a peer may send in a second, at least.
const PEER_PER_SEC_MIN: u32 = 20;

/// The same at most, however many shards are listened to: who forwards more than this of what nobody accepts
/// costs us a core's work, and is no honest peer's fault of the clock.
const PEER_PER_SEC_MAX: u32 = 1_000;

/// Seconds that a peer's allowance may be saved up for.
const PEER_BURST_SECS: u32 = 10;

/// Sizes of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Members (and lapsed members) that are remembered.
    pub members_max: usize,
    /// Strangers that are remembered.
    pub strangers_max: usize,
    /// Peers whose allowance is remembered.
    pub peers_max: usize,
    /// Bytes of capability envelopes that are kept.
    pub capability_bytes_max: usize,
    /// Shards listened to.
    pub shards: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self::for_shards(1)
    }
}

impl Limits {
    /// For who listens to so many shards: 1 for a node, all for a coordinator.
    pub fn for_shards(shards: u32) -> Self {
        let shards = shards.max(1);
        let times = |one: usize, max: usize| one.saturating_mul(shards as usize).min(max);
        Self {
            members_max: times(SHARD_MEMBERS_MAX, NODES_MAX),
            strangers_max: times(SHARD_STRANGERS_MAX, NODES_MAX / 4),
            peers_max: PEERS_MAX,
            capability_bytes_max: times(SHARD_CAPABILITY_BYTES_MAX, CAPABILITY_BYTES_MAX),
            shards,
        }
    }
}

/// Which of the two state messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StateKind {
    /// `owm/heartbeat/v1`.
    Heartbeat,
    /// `owm/capability/v1`.
    Capability,
}

/// How long messages are believed, by kind.
pub type Lives = [Duration; 2];

/// Allowances that follow from the agreed periods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowances {
    heartbeat: Duration,
    capability: Duration,
    peer: Rate,
    stranger_peer: Rate,
    /// State messages of all strangers on one topic.
    pub strangers_of_topic: [Rate; 2],
}

impl Allowances {
    /// With these periods, for who listens to `shards` shards.
    pub fn new(parameters: &Bootstrap, shards: u32) -> Self {
        let heartbeat = Duration::from_secs(u64::from(parameters.heartbeat_secs.max(1)));
        let capability = Duration::from_secs(u64::from(parameters.capability_secs.max(1)));
        // What the fullest shard says in a second: if a clock is wrong, all of it is dropped here, and the
        // peer that forwarded it is honest.
        let nodes = SHARD_MEMBERS_MAX as u32 + SHARD_STRANGERS_MAX as u32;
        let expected = |period: Duration| nodes / period.as_secs().max(1) as u32;
        let whole = (expected(heartbeat) + expected(capability)).saturating_mul(shards.max(1));
        let peer = |a_second: u32| {
            let a_second = a_second.clamp(PEER_PER_SEC_MIN, PEER_PER_SEC_MAX);
            let burst = a_second.saturating_mul(PEER_BURST_SECS);
            Rate::per(Duration::from_secs(1), a_second).with_burst(burst)
        };
        let strangers = |period| Rate::per(period, 2 * SHARD_STRANGERS_MAX as u32);
        Self {
            heartbeat,
            capability,
            peer: peer(whole),
            stranger_peer: peer(whole.min(PEER_PER_SEC_MAX) / 4),
            strangers_of_topic: [strangers(heartbeat), strangers(capability)],
        }
    }

    /// Unaccepted messages that a peer may send; what is accepted costs it nothing. A peer that nobody vouches
    /// for gets a quarter.
    pub fn of_peer(&self, member: bool) -> Rate {
        if member {
            self.peer
        } else {
            self.stranger_peer
        }
    }

    /// What one key may say. A member may beat twice as often as agreed and make up for what it missed, and
    /// announces a changed capability at once, ten times in a period. A stranger gets its period and little
    /// more, after a start in which addresses and files turn up one by one.
    pub fn of_key(&self, kind: StateKind, member: bool) -> Rate {
        match (kind, member) {
            (StateKind::Heartbeat, true) => Rate::per(self.heartbeat, 2).with_burst(6),
            (StateKind::Heartbeat, false) => Rate::per(self.heartbeat * 5, 6).with_burst(3),
            (StateKind::Capability, true) => Rate::per(self.capability, 10),
            (StateKind::Capability, false) => Rate::per(self.capability, 3).with_burst(8),
        }
    }

    /// [`Allowances::life`] of both kinds.
    pub fn lives(&self) -> Lives {
        [StateKind::Heartbeat, StateKind::Capability].map(|kind| self.life(kind))
    }

    /// How long a message is believed at most, whatever expiry it claims.
    pub fn life(&self, kind: StateKind) -> Duration {
        let period = match kind {
            StateKind::Heartbeat => self.heartbeat,
            StateKind::Capability => self.capability,
        };
        (period * 3).max(STATE_LIFE_MIN)
    }
}
