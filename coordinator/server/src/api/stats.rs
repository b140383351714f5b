//! `GET /v1/network/stats`: the network in figures. Needs no key, so the counting is done at most
//! once a second, however many ask.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State};
use owm_coordinator_store::stats::{NetworkCounts, stats_owed};
use owm_proto::Msat;
use serde::Serialize;
use tokio::{sync::Mutex, time::Instant};
use utoipa::ToSchema;

use super::{
    Api,
    problem::{Problem, ProblemBody},
};
use crate::{app::App, counts::LOOK_LIMIT};

/// How long counted figures are good enough.
const FRESH_FOR: Duration = Duration::from_secs(1);

type Figures = (NetworkCounts, Msat);

/// The figures counted last.
#[derive(Clone, Debug, Default)]
pub(super) struct StatsCache(Arc<Mutex<Option<(Instant, Figures)>>>);

/// The network in figures.
#[derive(Serialize, ToSchema)]
pub(super) struct NetworkStats {
    /// Its name, for people.
    network: String,
    /// Its id, 64 hex digits.
    network_id: String,
    /// `ready`, `waiting` (something is missing that may come) or `empty` (no model is published).
    verdict: &'static str,
    /// The verdict in words, with what to do.
    verdict_reason: String,
    /// Nodes by standing.
    nodes: NodeCounts,
    /// Tasks by phase.
    tasks: TaskCounts,
    /// Tokens of all answers, ever.
    output_tokens: u64,
    /// Owed to all nodes together, in whole satoshi; nothing is paid yet.
    owed_sats: u64,
    /// The same in thousandths of a satoshi.
    owed_msat: u64,
    /// How stake is looked at.
    #[schema(example = "not required")]
    stake_policy: &'static str,
    /// The model that answers; null if none is published.
    model: Option<ModelFigures>,
    /// The swarm as this coordinator sees it; null if it takes no part.
    swarm: Option<SwarmFigures>,
}

/// Nodes by standing.
#[derive(Serialize, ToSchema)]
pub(super) struct NodeCounts {
    active: u64,
    pending: u64,
    degraded: u64,
    suspended: u64,
    /// With a session right now.
    connected: u64,
}

/// Tasks by phase.
#[derive(Serialize, ToSchema)]
pub(super) struct TaskCounts {
    queued: u64,
    running: u64,
    /// Ever.
    done: u64,
    /// Ever.
    failed: u64,
    /// Old tasks are still being counted, after a start: what counts "ever" is too low for a while.
    counting: bool,
}

/// The model that answers.
#[derive(Serialize, ToSchema)]
pub(super) struct ModelFigures {
    /// The version.
    version: String,
    /// What has to be said of it.
    note: String,
    /// SHA-256 of the default sub-model's first weights file.
    sha256: Option<String>,
    /// Whether the weights are attested by Bitcoin.
    ots_verified: bool,
}

/// The swarm as one peer sees it; nothing of it decides anything.
#[derive(Serialize, ToSchema)]
pub(super) struct SwarmFigures {
    /// This coordinator's PeerId.
    peer: String,
    /// Peers it is connected with.
    peers: u64,
    /// Nodes known by gossip, strangers included.
    nodes: u64,
    /// Version of the newest checkpoint; null if there is none.
    checkpoint: Option<String>,
    /// Its sequence, 0 if there is none.
    checkpoint_sequence: u64,
}

impl SwarmFigures {
    fn of(app: &App) -> Option<Self> {
        let view = app.swarm.view()?;
        let others = view.nodes.iter().filter(|n| n.key != app.instance());
        let newest = view.checkpoint.as_ref();
        Some(Self {
            peer: view.peer.to_string(),
            peers: view.peers.len() as u64,
            nodes: others.count() as u64,
            checkpoint: newest.map(|c| c.version.clone()),
            checkpoint_sequence: newest.map_or(0, |c| c.sequence),
        })
    }
}

async fn figures(api: &Api) -> Result<Figures, Problem> {
    // Held while counting: those who come meanwhile wait for the same figures.
    let mut cached = api.stats.0.lock().await;
    if let Some((at, figures)) = *cached
        && at.elapsed() < FRESH_FOR
    {
        return Ok(figures);
    }
    let app = &api.app;
    let mut tx = app.store.begin_brief("api.stats", LOOK_LIMIT).await?;
    let counts = app.counts.look(&mut tx, app.now()).await?;
    let figures = (counts, stats_owed(&mut tx).await?);
    *cached = Some((Instant::now(), figures));
    Ok(figures)
}

/// What can be said of the network in one word and one sentence.
fn verdict(has_model: bool, connected: u64, active: u64) -> (&'static str, String) {
    if !has_model {
        let reason = "no model is published; the operator runs `owm-coordinator model import`";
        return ("empty", reason.to_owned());
    }
    if connected == 0 || active == 0 {
        let reason = "no active node is connected; start one with `owm-node start`";
        return ("waiting", reason.to_owned());
    }
    (
        "ready",
        format!("questions are answered; {connected} nodes are connected"),
    )
}

/// The network in figures.
#[utoipa::path(
    get, path = "/v1/network/stats", tag = "network",
    responses(
        (status = 200, description = "The figures, at most a second old", body = NetworkStats),
        (status = "default", description = "A problem", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn get_stats(State(api): State<Api>) -> Result<Json<NetworkStats>, Problem> {
    let (counts, owed) = figures(&api).await?;
    let model = api.app.current_model().await?.map(|version| {
        let manifest = &version.manifest;
        let mut weights = manifest.weights(&manifest.default_sub_model);
        ModelFigures {
            version: manifest.version.to_string(),
            note: manifest.note.clone(),
            sha256: weights.next().map(|file| file.sha256.to_string()),
            ots_verified: false,
        }
    });
    let connected = api.app.sessions.connected_nodes().len() as u64;
    let (verdict, verdict_reason) = verdict(model.is_some(), connected, counts.nodes_active);
    let statements = api.app.authority.statements();
    let trust = &statements.trust;
    Ok(Json(NetworkStats {
        network: trust.genesis().name.clone(),
        network_id: trust.id().to_string(),
        verdict,
        verdict_reason,
        nodes: NodeCounts {
            active: counts.nodes_active,
            pending: counts.nodes_pending,
            degraded: counts.nodes_degraded,
            suspended: counts.nodes_suspended,
            connected,
        },
        tasks: TaskCounts {
            queued: counts.tasks_queued,
            running: counts.tasks_running,
            done: counts.tasks_done,
            failed: counts.tasks_failed,
            counting: counts.counting,
        },
        output_tokens: counts.output_tokens,
        owed_sats: owed.floor_sats().0,
        owed_msat: owed.0,
        stake_policy: api.app.stake_policy_str(),
        model,
        swarm: SwarmFigures::of(&api.app),
    }))
}

#[cfg(test)]
mod tests {
    use super::verdict;

    #[test]
    fn the_verdict_names_what_is_missing() {
        assert_eq!(verdict(false, 3, 3).0, "empty");
        assert_eq!(verdict(true, 0, 3).0, "waiting");
        assert_eq!(verdict(true, 1, 0).0, "waiting");
        assert_eq!(verdict(true, 1, 1).0, "ready");
    }
}
