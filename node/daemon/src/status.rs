//! What a running node says about itself: the control socket shows it, `daemon` keeps it up to date.
//! Must stay true: no prompt, no answer, no key, no address of others in it (of peers, `swarm` tells).

use serde::{Deserialize, Serialize};

use crate::{engine::EngineDescription, orders::Pause, session::Phase};

/// The whole picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Where the conversation stands.
    pub phase: Phase,
    /// This program's version.
    pub software_version: String,
    /// This process.
    pub pid: u32,
    /// When it started, Unix milliseconds.
    pub started_at_ms: u64,
    /// The node's public key.
    pub node_key: String,
    /// The network's name.
    pub network: String,
    /// SHA-256 of its genesis document.
    pub network_id: String,
    /// The coordinator's address in use.
    pub coordinator: String,
    /// Whether the work link stands.
    pub linked: bool,
    /// Since when, Unix milliseconds.
    #[serde(default)]
    pub linked_since_ms: Option<u64>,
    /// When the coordinator last answered a sign of life, Unix milliseconds.
    #[serde(default)]
    pub pong_at_ms: Option<u64>,
    /// How long that took, milliseconds.
    #[serde(default)]
    pub ping_ms: Option<u64>,
    /// The coordinator's clock minus this one, milliseconds, at the last registration.
    #[serde(default)]
    pub clock_offset_ms: Option<i64>,
    /// Why not.
    pub link_error: Option<String>,
    /// Our id in the coordinator's database.
    pub node_id: Option<String>,
    /// As what we were admitted.
    pub tier: Option<String>,
    /// What the coordinator says about stake.
    pub stake_policy: Option<String>,
    /// Our standing, as the coordinator says.
    pub node_status: Option<String>,
    /// How it rates us; absent until it has said so.
    #[serde(default)]
    pub standing: Option<StandingStatus>,
    /// Pending: what is missing and what to do.
    pub reasons: Vec<String>,
    /// What is loaded.
    pub model: Option<ModelStatus>,
    /// What the model keeper does, or what failed.
    pub model_state: Option<String>,
    /// Whether that is a failure.
    #[serde(default)]
    pub model_failed: bool,
    /// Slots configured.
    pub slots: u32,
    /// Tasks under way.
    pub running: u32,
    /// Results waiting for the coordinator.
    pub unacknowledged: u32,
    /// Whether the operator's hours are open.
    pub open: bool,
    /// The pause that holds.
    #[serde(default)]
    pub pause: Option<Pause>,
    /// What was wrong with the model's files on this disk, the last time something was.
    #[serde(default)]
    pub model_damage: Option<String>,
    /// Until when the network counts this node as a member, Unix milliseconds, by its signed statement.
    #[serde(default)]
    pub member_until_ms: Option<u64>,
    /// Where these facts come from.
    #[serde(default)]
    pub origins: Origins,
    /// Hardware, as found: one line each.
    pub hardware: Vec<String>,
}

/// How the coordinator rates the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandingStatus {
    /// The tier in effect: rewards and selection go by it.
    pub effective_tier: String,
    /// Thousandths.
    pub reliability_permille: u32,
    /// Thousandths of the last seven days.
    pub uptime_permille: u32,
}

/// The loaded model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelStatus {
    /// Which version.
    pub version: String,
    /// SHA-256s of the weights.
    pub sha256: Vec<String>,
    /// What can be asked.
    pub sub_models: Vec<String>,
    /// What has to be said wherever it is shown.
    pub note: String,
    /// The timestamp policy it was loaded under (spec §8): none is checked yet.
    pub timestamps: String,
    /// Where it computes.
    pub engine: Option<EngineDescription>,
}

/// Where a fact comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Kept on this disk by a former run.
    Disk,
    /// The coordinator's answer to a question.
    Coordinator,
    /// The coordinator's answer to the registration.
    Registration,
    /// The work stream.
    Stream,
    /// A peer, on connecting.
    Peer,
    /// Gossip.
    Gossip,
}

impl Origin {
    /// For people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Coordinator => "coordinator",
            Self::Registration => "registration",
            Self::Stream => "stream",
            Self::Peer => "peer",
            Self::Gossip => "gossip",
        }
    }
}

/// Where the facts of a [`Status`] come from; absent: not known yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Origins {
    /// The network's documents.
    pub network: Option<Origin>,
    /// `tier` and `stake_policy`.
    pub tier: Option<Origin>,
    /// `node_status`.
    pub node_status: Option<Origin>,
    /// `standing`.
    pub standing: Option<Origin>,
    /// The membership statement.
    pub membership: Option<Origin>,
}
