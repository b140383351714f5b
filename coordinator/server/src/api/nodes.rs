//! `GET /v1/network/nodes` and `GET /v1/nodes/{id}/status`: who takes part and how well, never where.
//! Needs no key.

use std::collections::HashMap;

use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
};
use owm_coordinator_store::{
    gossip::{Sighting, sightings},
    node::{Node, node_list, node_lookup, node_lookup_by_key},
};
use owm_proto::{NodeId, PublicKey};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Api,
    problem::{Kind, Problem, ProblemBody},
};

/// Nodes on a page that names no limit.
const PAGE_DEFAULT: u32 = 100;

/// Nodes on one page, at about 500 bytes each.
const PAGE_MAX: u32 = 500;

/// Which page.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// The last page's `next`.
    after: Option<String>,
    /// Nodes on the page, 100 by default, at most 500.
    limit: Option<u32>,
}

/// A page of nodes, oldest first.
#[derive(Serialize, ToSchema)]
pub(super) struct NodePage {
    /// Oldest registration first.
    nodes: Vec<NodeLine>,
    /// `after` of the next page; null on the last one.
    next: Option<String>,
}

/// A node as anyone may see it: no address, no hardware serials.
#[derive(Serialize, ToSchema)]
pub(super) struct NodeLine {
    /// Its id in this coordinator's database.
    node_id: String,
    /// Its name in the network, 64 hex digits.
    public_key: String,
    /// Who owns it, 64 hex digits.
    owner: String,
    /// What its hardware is good for: `t1`, `t2`, `t3`.
    tier: &'static str,
    /// What counts for rewards and selection: lower while the uptime target is missed.
    effective_tier: &'static str,
    /// `pending`, `active`, `degraded` or `suspended`.
    status: &'static str,
    /// Whether it has a session right now.
    connected: bool,
    /// Questions it takes at the same time right now, those it works on included; 0 while it is paused,
    /// draining, outside its hours, loading, or not connected.
    slots: u32,
    /// Whether it has no GPU.
    cpu_only: bool,
    /// Minutes seen of 1 000 elapsed, over seven days.
    uptime_permille: u32,
    /// What selection weighs it with, in thousandths.
    reliability_permille: u32,
    /// Tasks that ended at it.
    tasks_total: u64,
    /// Those that were accepted.
    tasks_succeeded: u64,
    /// What it runs.
    software_version: String,
    /// Booked for it, ever, in thousandths of a satoshi.
    earned_msat: u64,
    /// Booked and not paid, in thousandths of a satoshi.
    owed_msat: u64,
    /// In milliseconds since 1970.
    registered_at_ms: u64,
    /// Last sign of life to the minute, in milliseconds since 1970, by whatever way it came.
    last_heartbeat_ms: Option<u64>,
    /// Last heartbeat that came by gossip, likewise; null: none ever did. It decides nothing.
    last_gossip_ms: Option<u64>,
}

/// One node's standing.
#[derive(Serialize, ToSchema)]
pub(super) struct NodeDetail {
    /// The node.
    #[serde(flatten)]
    node: NodeLine,
    /// Why it has its status, and what it can do about it.
    status_reason: String,
    /// How stake is looked at in this network.
    stake_policy: &'static str,
}

impl NodeLine {
    fn new(node: Node, slots: Option<u32>, seen: Option<&Sighting>) -> Self {
        let by_gossip = seen.and_then(|seen| seen.heartbeat_heard_at);
        Self {
            node_id: node.node_id.to_string(),
            public_key: node.public_key.to_string(),
            owner: node.owner.to_string(),
            tier: node.tier.as_str(),
            effective_tier: node.effective_tier.as_str(),
            status: node.status.as_str(),
            connected: slots.is_some(),
            slots: slots.unwrap_or_default(),
            cpu_only: node.cpu_only,
            uptime_permille: node.uptime.0,
            reliability_permille: node.reliability.0,
            tasks_total: node.tasks_total,
            tasks_succeeded: node.tasks_succeeded,
            software_version: node.software_version,
            earned_msat: node.earned.0,
            // Nothing is ever paid yet: all that was earned is owed.
            owed_msat: node.earned.0,
            registered_at_ms: node.registered_at.0,
            last_gossip_ms: by_gossip.map(|at| at.rounded_for_state().0),
            last_heartbeat_ms: node.last_heartbeat.map(|at| at.rounded_for_state().0),
        }
    }
}

/// List the nodes.
#[utoipa::path(
    get, path = "/v1/network/nodes", tag = "network",
    params(PageQuery),
    responses(
        (status = 200, description = "A page of nodes", body = NodePage),
        (status = "default", description = "A problem", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn get_nodes(
    State(api): State<Api>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<NodePage>, Problem> {
    let Query(page) =
        query.map_err(|error| Problem::new(Kind::InvalidParameter, error.body_text()))?;
    let limit = page.limit.unwrap_or(PAGE_DEFAULT);
    if !(1..=PAGE_MAX).contains(&limit) {
        let detail = format!("limit: between 1 and {PAGE_MAX} nodes make a page");
        return Err(Problem::parameter("limit", detail));
    }
    let after: Option<NodeId> = page
        .after
        .map(|text| text.parse())
        .transpose()
        .map_err(|error| Problem::parameter("after", format!("after: {error}")))?;
    let mut tx = api.app.store.begin("api.nodes").await?;
    // One more than asked, to know whether there is a next page.
    let mut nodes = node_list(&mut tx, after, limit + 1).await?;
    let more = nodes.len() > limit as usize;
    nodes.truncate(limit as usize);
    let next = nodes
        .last()
        .filter(|_| more)
        .map(|node| node.node_id.to_string());
    let slots: HashMap<NodeId, u32> = api.app.sessions.slots_by_node(api.app.now());
    let ids: Vec<NodeId> = nodes.iter().map(|node| node.node_id).collect();
    let seen = sightings(&mut tx, &ids).await?;
    let line = |node: Node| {
        let slots = slots.get(&node.node_id).copied();
        let seen = seen.get(&node.node_id);
        NodeLine::new(node, slots, seen)
    };
    Ok(Json(NodePage {
        nodes: nodes.into_iter().map(line).collect(),
        next,
    }))
}

/// Show one node's standing.
#[utoipa::path(
    get, path = "/v1/nodes/{id}/status", tag = "network",
    params(("id" = String, Path, description = "The node's public key (64 hex digits) or its id")),
    responses(
        (status = 200, description = "The node", body = NodeDetail),
        (status = "default", description = "A problem", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn get_node(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<NodeDetail>, Problem> {
    let mut tx = api.app.store.begin("api.node").await?;
    let found = if let Ok(key) = id.parse::<PublicKey>() {
        node_lookup_by_key(&mut tx, &key).await?
    } else if let Ok(id) = id.parse::<NodeId>() {
        node_lookup(&mut tx, id).await?
    } else {
        None
    };
    let node = found.ok_or_else(|| {
        let detail =
            "there is no such node; name it by its public key (`owm-node status` shows it)";
        Problem::new(Kind::NotFound, detail)
    })?;
    let slots = api.app.sessions.slots_by_node(api.app.now());
    let slots = slots.get(&node.node_id).copied();
    let status_reason = node.status_reason.clone();
    let seen = sightings(&mut tx, &[node.node_id]).await?;
    let seen = seen.get(&node.node_id);
    let node = NodeLine::new(node, slots, seen);
    Ok(Json(NodeDetail {
        node,
        status_reason,
        stake_policy: api.app.stake_policy_str(),
    }))
}
