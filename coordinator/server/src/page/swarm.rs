//! The swarm on the page: what this coordinator sees as one peer among others. Read from memory, so it is there
//! while the database is away. Must stay true: no address of anybody is shown.

use std::{collections::HashSet, time::Duration};

use owm_p2p::SwarmView;
use owm_proto::{PublicKey, UnixMillis};

use super::words;
use crate::app::App;

/// So many of a node's heartbeats may be lost before it does not count as heard lately.
const HEARTBEATS_LOST: u32 = 3;

/// What is seen of the swarm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SwarmNow {
    /// This coordinator's PeerId.
    pub(super) peer: String,
    /// Peers it is connected with.
    pub(super) peers: u64,
    /// Nodes whose heartbeat or announcement came by gossip within `within`.
    pub(super) heard: HashSet<PublicKey>,
    /// Those of them that have shown no membership.
    pub(super) strangers: u64,
    /// What "lately" means.
    pub(super) within: Duration,
    /// Version, sequence and manifest of the newest checkpoint.
    pub(super) checkpoint: Option<(String, u64, String)>,
}

impl SwarmNow {
    /// Looks; `None`: the coordinator takes no part in the swarm.
    pub(super) fn take(app: &App) -> Option<Self> {
        let view = app.swarm.view()?;
        Some(Self::of(&view, &app.instance(), app.wall()))
    }

    fn of(view: &SwarmView, ourselves: &PublicKey, now: UnixMillis) -> Self {
        let period = Duration::from_secs(view.parameters.heartbeat_secs.into());
        let within = period.saturating_mul(HEARTBEATS_LOST);
        let lately = |n: &&owm_p2p::view::NodeView| {
            n.key != *ourselves && n.heard_at_ms >= now.before(within)
        };
        let strangers = view.nodes.iter().filter(lately);
        let checkpoint = view.checkpoint.as_ref();
        Self {
            peer: view.peer.to_string(),
            peers: view.peers.len() as u64,
            heard: view.nodes.iter().filter(lately).map(|n| n.key).collect(),
            strangers: strangers.filter(|n| n.tier.is_none()).count() as u64,
            within,
            checkpoint: checkpoint
                .map(|c| (c.version.clone(), c.sequence, c.manifest_sha256.to_string())),
        }
    }
}

/// The same in words.
pub(super) struct SwarmWords {
    pub(super) peer: String,
    pub(super) peers: String,
    pub(super) heard: String,
    pub(super) heard_note: String,
    pub(super) checkpoint: Option<(String, u64, String)>,
}

impl SwarmWords {
    pub(super) fn new(now: &SwarmNow) -> Self {
        let strangers = match now.strangers {
            0 => String::new(),
            n => format!(
                ", {} of them without a membership statement",
                words::grouped(n)
            ),
        };
        Self {
            peer: now.peer.clone(),
            peers: words::grouped(now.peers),
            heard: words::grouped(now.heard.len() as u64),
            heard_note: format!("within the last {}{strangers}", words::span(now.within)),
            checkpoint: now.checkpoint.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use owm_p2p::{
        peer,
        view::{CheckpointView, NodeView, Reachability},
    };
    use owm_proto::{NodeKey, Sha256, Tier, gossip::Bootstrap};

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_795_359_487_000);

    fn node(n: u8, tier: Option<Tier>, secs_ago: u64) -> NodeView {
        NodeView {
            key: NodeKey::from_seed(&[n; 32]).public(),
            tier,
            heard_at_ms: NOW.before(Duration::from_secs(secs_ago)),
            running_tasks: 0,
            holds: vec![],
            roles: vec![],
            software_version: "test".into(),
            checkpoint_sequence: 0,
            connected: true,
        }
    }

    #[test]
    fn nodes_heard_lately_are_counted_without_ourselves() {
        let ourselves = NodeKey::from_seed(&[9; 32]).public();
        let view = SwarmView {
            peer: peer::peer_id(&ourselves).unwrap(),
            listening: vec!["/ip4/192.0.2.7/tcp/4001".parse().unwrap()],
            external: vec![],
            reachability: Reachability::Public,
            peers: vec![],
            nodes: vec![
                node(1, Some(Tier::T1), 10),
                node(2, None, 179),
                node(3, Some(Tier::T1), 181),
                node(9, None, 1),
            ],
            checkpoint: Some(CheckpointView {
                sequence: 4,
                version: "owm-v0.4.0".into(),
                manifest_sha256: Sha256::of(b"m"),
                from: "somebody".into(),
                learnt_at_ms: NOW,
            }),
            parameters: Bootstrap::before_any(),
            sources: vec![],
            warnings: vec![],
        };
        let seen = SwarmNow::of(&view, &ourselves, NOW);
        assert_eq!((seen.heard.len(), seen.strangers), (2, 1));
        let said = SwarmWords::new(&seen);
        assert_eq!(
            said.heard_note,
            "within the last 3 min, 1 of them without a membership statement"
        );
        assert_eq!(said.checkpoint.unwrap().1, 4);
    }
}
