//! What there is to show, asked of the database in one transaction and of the sessions in memory. Called
//! by `feed`; `view` shows it. Bounded: a fixed number of queries, and so many rows of each as its constant says.

use std::{collections::HashMap, sync::Arc, time::Duration};

use owm_coordinator_domain::network::{EXPECTED_WITHIN, NetworkView, Served, Verdict, verdict};
use owm_coordinator_domain::task::FailureCode;
use owm_coordinator_store::{
    StoreError,
    glance::{
        Census, NodeGlance, TaskGlance, glance_census, glance_nodes, glance_oldest_queued,
        glance_speeds, glance_tasks,
    },
    model::ModelVersion,
    stats::{NetworkCounts, stats_owed},
};
use owm_proto::{Msat, NodeId, NodeStatus, Sha256, UnixMillis, manifest::Manifest};

use super::swarm::SwarmNow;
use crate::{app::App, counts::LOOK_LIMIT, sessions::Presence};

/// Nodes listed: what fits a page; the others are counted, and `/v1/network/nodes` lists them all.
const NODES_MAX: u32 = 100;

/// Tasks listed: what one looks at.
const TASKS_MAX: u32 = 20;

/// Tasks that a node's speed is taken from.
const SPEED_TASKS: u32 = 200;

/// A session at another coordinator counts while it was heard of within this: heartbeats come every
/// minute, and the patient kinds of session may be silent for three.
const ELSEWHERE_LIVE: Duration = Duration::from_mins(3);

/// Questions older than this say nothing of how the network works now.
const RECENT: Duration = Duration::from_hours(1);

/// Where a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Where {
    /// It has a session with this coordinator.
    Here {
        /// Since when this run of its process is here.
        since: UnixMillis,
        /// Inference slots, busy ones included.
        slots: u32,
        /// Leases it works on.
        busy: u32,
    },
    /// It has one with another coordinator of the network.
    Elsewhere,
    /// It has none.
    Silent {
        /// Since when.
        since: UnixMillis,
    },
}

/// A node with where it is and how fast.
#[derive(Clone, Debug)]
pub(super) struct NodeNow {
    pub(super) node: NodeGlance,
    pub(super) place: Where,
    /// Tokens per second in tenths, over its newest answers; `None`: it gave none lately.
    pub(super) speed_tenths: Option<u64>,
}

/// Sub-models that run on the same weights, with who holds them.
#[derive(Clone, Debug)]
pub(super) struct Holding {
    pub(super) sub_models: Vec<String>,
    pub(super) weights: Vec<Sha256>,
    pub(super) holders: u64,
    pub(super) is_default: bool,
}

/// Everything the page shows.
#[derive(Clone, Debug)]
pub(super) struct Glance {
    pub(super) taken_at: UnixMillis,
    pub(super) verdict: Verdict,
    pub(super) counts: NetworkCounts,
    pub(super) owed: Msat,
    pub(super) oldest_queued: Option<UnixMillis>,
    /// Active nodes heard of within a day.
    pub(super) nodes_expected: u64,
    /// Those of them with a session.
    pub(super) nodes_connected: u64,
    /// Nodes heard of within a day that are not listed.
    pub(super) nodes_unlisted: u64,
    /// Nodes not heard of for a day.
    pub(super) nodes_away: u64,
    pub(super) nodes: Vec<NodeNow>,
    pub(super) model: Option<Arc<ModelVersion>>,
    pub(super) holdings: Vec<Holding>,
    pub(super) tasks: Vec<TaskGlance>,
    /// `None`: the coordinator takes no part in the swarm.
    pub(super) swarm: Option<SwarmNow>,
}

/// Looks.
pub(super) async fn take(app: &App) -> Result<Glance, StoreError> {
    let now = app.now();
    let (since, live) = (now.before(EXPECTED_WITHIN), now.before(ELSEWHERE_LIVE));
    let model = app.current_model().await?;
    let mut tx = app.store.begin_brief("page.glance", LOOK_LIMIT).await?;
    let counts = app.counts.look(&mut tx, now).await?;
    let owed = stats_owed(&mut tx).await?;
    let oldest_queued = glance_oldest_queued(&mut tx).await?;
    let census = glance_census(&mut tx, since, live, &app.instance()).await?;
    let rows = glance_nodes(&mut tx, since, live, &app.instance(), NODES_MAX).await?;
    let speeds = glance_speeds(&mut tx, SPEED_TASKS).await?;
    let tasks = glance_tasks(&mut tx, TASKS_MAX).await?;
    drop(tx);
    let presences = app.sessions.presences(now);
    let speeds: HashMap<NodeId, u64> = speeds
        .iter()
        .filter(|speed| speed.exec_ms > 0)
        .map(|s| (s.node, s.output_tokens.saturating_mul(10_000) / s.exec_ms))
        .collect();
    let holdings = model
        .as_ref()
        .map_or_else(Vec::new, |m| holdings(&m.manifest, &presences));
    let nodes_unlisted = census.heard.saturating_sub(rows.len() as u64);
    let nodes: Vec<NodeNow> = rows
        .into_iter()
        .map(|node| NodeNow {
            place: place(&node, &presences),
            speed_tenths: speeds.get(&node.node_id).copied(),
            node,
        })
        .collect();
    let mut view = judged(&census, &presences, &holdings, &nodes);
    view.queued = counts.tasks_queued;
    view.longest_wait = oldest_queued.map_or(Duration::ZERO, |at| now.since(at));
    (view.recent_answered, view.recent_failed) = recent(&tasks, now);
    Ok(Glance {
        taken_at: now,
        verdict: verdict(&view),
        counts,
        owed,
        oldest_queued,
        nodes_expected: view.nodes_expected,
        nodes_connected: view.nodes_connected,
        nodes_unlisted,
        nodes_away: census.away,
        nodes,
        model,
        holdings,
        tasks,
        swarm: SwarmNow::take(app),
    })
}

fn place(node: &NodeGlance, presences: &[Presence]) -> Where {
    match presences.iter().find(|p| p.node == node.node_id) {
        Some(p) => match p.lost_at {
            None => Where::Here {
                since: p.since,
                slots: p.slots,
                busy: p.busy,
            },
            Some(since) => Where::Silent { since },
        },
        None if node.elsewhere => Where::Elsewhere,
        None => Where::Silent {
            since: node.heard_at,
        },
    }
}

fn is_serving(presence: &Presence) -> bool {
    presence.status == NodeStatus::Active && presence.lost_at.is_none()
}

fn holdings(manifest: &Manifest, presences: &[Presence]) -> Vec<Holding> {
    let mut all: Vec<Holding> = vec![];
    for id in manifest.sub_models.keys() {
        let weights = manifest.weights_sha256(id);
        let is_default = *id == manifest.default_sub_model;
        if let Some(same) = all.iter_mut().find(|h| h.weights == weights) {
            same.sub_models.push(id.to_string());
            same.is_default |= is_default;
            continue;
        }
        let holds = |p: &Presence| weights.iter().all(|w| p.loaded.contains(w));
        let holders = presences
            .iter()
            .filter(|p| is_serving(p) && holds(p))
            .count() as u64;
        all.push(Holding {
            sub_models: vec![id.to_string()],
            weights,
            holders,
            is_default,
        });
    }
    all
}

fn judged(
    census: &Census,
    presences: &[Presence],
    holdings: &[Holding],
    nodes: &[NodeNow],
) -> NetworkView {
    let here = presences.iter().filter(|p| is_serving(p)).count() as u64;
    let silent_since = nodes
        .iter()
        .filter(|n| n.node.status == NodeStatus::Active)
        .filter_map(|n| match n.place {
            Where::Silent { since } => Some(since),
            _ => None,
        })
        .min();
    // What nodes of another coordinator hold is not known here; that they hold it is likelier.
    let elsewhere = census.active_elsewhere;
    let served = |holding: &Holding| -> Vec<Served> {
        let one = |name: &String| Served {
            sub_model: name.parse().expect("it was printed from a sub-model's id"),
            is_default: holding.is_default,
            holders: holding.holders.max(elsewhere),
        };
        holding.sub_models.iter().map(one).collect()
    };
    NetworkView {
        models: holdings.iter().flat_map(served).collect(),
        // A node that registered a moment ago may have a session before it is counted.
        nodes_expected: census.active.max(here + elsewhere),
        nodes_connected: here + elsewhere,
        silent_since,
        ..NetworkView::default()
    }
}

/// Answered, and failed without the asker's fault, within the last hour.
fn recent(tasks: &[TaskGlance], now: UnixMillis) -> (u64, u64) {
    let late = now.before(RECENT);
    let ours = |task: &&TaskGlance| task.failure != Some(FailureCode::InputRefused);
    let count = |phase: &str| {
        let those = tasks
            .iter()
            .filter(|t| t.submitted_at >= late && t.phase == phase);
        those.filter(ours).count() as u64
    };
    (count("done"), count("failed"))
}
