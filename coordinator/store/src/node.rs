//! Nodes: who is registered, as what, and in which standing. **The pattern that other aggregates copy.**

use std::collections::HashMap;

use owm_proto::{Msat, NodeId, NodeStatus, Permille, PublicKey, Tier, UnixMillis};
use uuid::Uuid;

use crate::{
    error::{StoreError, one_row},
    time::{from_pg, to_pg},
    tx::Tx,
};

/// A registered node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its id here.
    pub node_id: NodeId,
    /// Its name on the wire.
    pub public_key: PublicKey,
    /// Who owns it.
    pub owner: PublicKey,
    /// What its hardware is good for.
    pub tier: Tier,
    /// What counts for rewards and selection: lowered while the uptime target is missed.
    pub effective_tier: Tier,
    /// Its standing.
    pub status: NodeStatus,
    /// Why, in words.
    pub status_reason: String,
    /// No GPU: gets CPU-capable tasks only.
    pub cpu_only: bool,
    /// What it said it has.
    pub capabilities: serde_json::Value,
    /// What it runs.
    pub software_version: String,
    /// Factor from stake above the minimum.
    pub stake_bonus: Permille,
    /// Minutes seen over minutes elapsed, seven days.
    pub uptime: Permille,
    /// Successful over total tasks times uptime.
    pub reliability: Permille,
    /// Tasks that ended at this node.
    pub tasks_total: u64,
    /// Those that were accepted.
    pub tasks_succeeded: u64,
    /// Booked as owed, ever.
    pub earned: Msat,
    /// First registration.
    pub registered_at: UnixMillis,
    /// Last valid sign of life.
    pub last_heartbeat: Option<UnixMillis>,
    /// The session that counts.
    pub session_epoch: u64,
}

/// What a registration writes.
#[derive(Clone, Debug)]
pub struct NodeRegistration {
    /// A new node's id; ignored for one that is known.
    pub new_id: NodeId,
    /// Its name on the wire.
    pub public_key: PublicKey,
    /// Who owns it.
    pub owner: PublicKey,
    /// What its hardware is good for.
    pub tier: Tier,
    /// No GPU.
    pub cpu_only: bool,
    /// Standing to be set; a suspended node stays suspended.
    pub status: NodeStatus,
    /// Why.
    pub status_reason: String,
    /// As said by the node.
    pub capabilities: serde_json::Value,
    /// Bytes of video memory, if known.
    pub vram_bytes: Option<u64>,
    /// Bytes of main memory, if known.
    pub ram_bytes: Option<u64>,
    /// Kilobits per second, if known.
    pub bandwidth_kbps: Option<u64>,
    /// What it runs.
    pub software_version: String,
    /// Its wallet; empty for none.
    pub ln_node_uri: String,
    /// Factor from stake.
    pub stake_bonus: Permille,
    /// Until when its membership statement holds.
    pub membership_expires_at: Option<UnixMillis>,
}

struct NodeRow {
    node_id: Uuid,
    public_key: String,
    owner_key: String,
    tier: String,
    effective_tier: String,
    status: String,
    status_reason: String,
    cpu_only: bool,
    capabilities: serde_json::Value,
    software_version: String,
    stake_bonus_permille: i32,
    uptime_permille: i32,
    reliability_permille: i32,
    tasks_total: i64,
    tasks_succeeded: i64,
    earned_msat: i64,
    registered_at: Option<time::OffsetDateTime>,
    last_heartbeat: Option<time::OffsetDateTime>,
    session_epoch: i64,
}

impl TryFrom<NodeRow> for Node {
    type Error = StoreError;

    fn try_from(row: NodeRow) -> Result<Self, StoreError> {
        let id = row.node_id;
        let wrong = |column| {
            move |error: owm_proto::hash::ParseError| {
                StoreError::inconsistent("nodes", column, id, error)
            }
        };
        Ok(Self {
            node_id: NodeId(id),
            public_key: row.public_key.parse().map_err(wrong("public_key"))?,
            owner: row.owner_key.parse().map_err(wrong("owner_key"))?,
            tier: row.tier.parse().map_err(wrong("tier"))?,
            effective_tier: row
                .effective_tier
                .parse()
                .map_err(wrong("effective_tier"))?,
            status: row.status.parse().map_err(wrong("status"))?,
            status_reason: row.status_reason,
            cpu_only: row.cpu_only,
            capabilities: row.capabilities,
            software_version: row.software_version,
            stake_bonus: Permille(row.stake_bonus_permille.unsigned_abs()),
            uptime: Permille(row.uptime_permille.unsigned_abs()),
            reliability: Permille(row.reliability_permille.unsigned_abs()),
            tasks_total: row.tasks_total.unsigned_abs(),
            tasks_succeeded: row.tasks_succeeded.unsigned_abs(),
            earned: Msat(row.earned_msat.unsigned_abs()),
            registered_at: row.registered_at.map_or(UnixMillis(0), from_pg),
            last_heartbeat: row.last_heartbeat.map(from_pg),
            session_epoch: row.session_epoch.unsigned_abs(),
        })
    }
}

/// A size in bytes as Postgres keeps it; beyond what a column takes it is as good as unknown.
fn bigint(value: Option<u64>) -> Option<i64> {
    value.and_then(|n| i64::try_from(n).ok())
}

/// Adds a node or brings a known one up to date. A suspended node stays suspended, and a known
/// node keeps its id. Returns the row as it is now.
#[tracing::instrument(name = "db.node.register", skip_all, err)]
pub async fn node_register(
    tx: &mut Tx,
    new: &NodeRegistration,
    now: UnixMillis,
) -> Result<Node, StoreError> {
    sqlx::query!(
        r#"INSERT INTO nodes (node_id, public_key, owner_key, tier, effective_tier, cpu_only, status,
               status_reason, capabilities, vram_bytes, ram_bytes, bandwidth_kbps, software_version,
               ln_node_uri, stake_bonus_permille, membership_expires_at, registered_at, status_changed_at)
           VALUES ($1,$2,$3,$4,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$16)
           ON CONFLICT (public_key) DO UPDATE SET
               owner_key = EXCLUDED.owner_key, tier = EXCLUDED.tier,
               effective_tier = LEAST(nodes.effective_tier, EXCLUDED.tier),
               cpu_only = EXCLUDED.cpu_only,
               status = CASE WHEN nodes.status = 'suspended' THEN nodes.status ELSE EXCLUDED.status END,
               status_reason = CASE WHEN nodes.status = 'suspended' THEN nodes.status_reason
                                    ELSE EXCLUDED.status_reason END,
               status_changed_at = CASE WHEN nodes.status IN ('suspended', EXCLUDED.status)
                                        THEN nodes.status_changed_at ELSE EXCLUDED.status_changed_at END,
               capabilities = EXCLUDED.capabilities, vram_bytes = EXCLUDED.vram_bytes,
               ram_bytes = EXCLUDED.ram_bytes, bandwidth_kbps = EXCLUDED.bandwidth_kbps,
               software_version = EXCLUDED.software_version, ln_node_uri = EXCLUDED.ln_node_uri,
               stake_bonus_permille = EXCLUDED.stake_bonus_permille,
               membership_expires_at = EXCLUDED.membership_expires_at"#,
        new.new_id.0,
        new.public_key.to_string(),
        new.owner.to_string(),
        new.tier.as_str(),
        new.cpu_only,
        new.status.as_str(),
        new.status_reason,
        new.capabilities,
        bigint(new.vram_bytes),
        bigint(new.ram_bytes),
        bigint(new.bandwidth_kbps),
        new.software_version,
        new.ln_node_uri,
        new.stake_bonus.0.cast_signed(),
        new.membership_expires_at.map(to_pg),
        to_pg(now),
    )
    .execute(&mut *tx.inner)
    .await?;
    node_lookup_by_key(tx, &new.public_key)
        .await?
        .ok_or_else(|| {
            StoreError::inconsistent(
                "nodes",
                "public_key",
                new.public_key,
                "gone after its insert",
            )
        })
}

/// A node by its name on the wire.
#[tracing::instrument(name = "db.node.lookup_by_key", skip_all, err)]
pub async fn node_lookup_by_key(tx: &mut Tx, key: &PublicKey) -> Result<Option<Node>, StoreError> {
    let row = sqlx::query_as!(
        NodeRow,
        "SELECT node_id, public_key, owner_key, tier, effective_tier, status, status_reason, cpu_only,
             capabilities, software_version, stake_bonus_permille, uptime_permille,
             reliability_permille, tasks_total, tasks_succeeded, earned_msat, registered_at,
             last_heartbeat, session_epoch
         FROM nodes WHERE public_key = $1",
        key.to_string()
    )
    .fetch_optional(&mut *tx.inner)
    .await?;
    row.map(Node::try_from).transpose()
}

/// A node by id.
#[tracing::instrument(name = "db.node.lookup", skip_all, err)]
pub async fn node_lookup(tx: &mut Tx, id: NodeId) -> Result<Option<Node>, StoreError> {
    let row = sqlx::query_as!(
        NodeRow,
        "SELECT node_id, public_key, owner_key, tier, effective_tier, status, status_reason, cpu_only,
             capabilities, software_version, stake_bonus_permille, uptime_permille,
             reliability_permille, tasks_total, tasks_succeeded, earned_msat, registered_at,
             last_heartbeat, session_epoch
         FROM nodes WHERE node_id = $1",
        id.0
    )
    .fetch_optional(&mut *tx.inner)
    .await?;
    row.map(Node::try_from).transpose()
}

/// Nodes by id, locked in the order of their ids.
#[tracing::instrument(name = "db.node.lock", skip_all, err)]
pub async fn nodes_lock(tx: &mut Tx, ids: &[NodeId]) -> Result<HashMap<NodeId, Node>, StoreError> {
    let ids: Vec<_> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query_as!(
        NodeRow,
        "SELECT node_id, public_key, owner_key, tier, effective_tier, status, status_reason, cpu_only,
             capabilities, software_version, stake_bonus_permille, uptime_permille,
             reliability_permille, tasks_total, tasks_succeeded, earned_msat, registered_at,
             last_heartbeat, session_epoch
         FROM nodes WHERE node_id = ANY($1) ORDER BY node_id FOR NO KEY UPDATE",
        &ids
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    rows.into_iter()
        .map(|row| Node::try_from(row).map(|node| (node.node_id, node)))
        .collect()
}

/// All nodes, oldest first, at most `limit` after `after`.
#[tracing::instrument(name = "db.node.list", skip_all, err)]
pub async fn node_list(
    tx: &mut Tx,
    after: Option<NodeId>,
    limit: u32,
) -> Result<Vec<Node>, StoreError> {
    let rows = sqlx::query_as!(
        NodeRow,
        "SELECT node_id, public_key, owner_key, tier, effective_tier, status, status_reason, cpu_only,
             capabilities, software_version, stake_bonus_permille, uptime_permille,
             reliability_permille, tasks_total, tasks_succeeded, earned_msat, registered_at,
             last_heartbeat, session_epoch
         FROM nodes
         WHERE $1::uuid IS NULL
            OR (registered_at, node_id) > (SELECT n.registered_at, n.node_id FROM nodes n WHERE n.node_id = $1)
         ORDER BY registered_at, node_id LIMIT $2",
        after.map(|id| id.0),
        i64::from(limit)
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    rows.into_iter().map(Node::try_from).collect()
}

/// Sets a node's standing. The caller has asked the domain whether the step is allowed.
#[tracing::instrument(name = "db.node.set_status", skip_all, err)]
pub async fn node_set_status(
    tx: &mut Tx,
    id: NodeId,
    status: NodeStatus,
    reason: &str,
    now: UnixMillis,
) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "UPDATE nodes SET status = $2, status_reason = $3, status_changed_at = $4 WHERE node_id = $1",
        id.0,
        status.as_str(),
        reason,
        to_pg(now)
    )
    .execute(&mut *tx.inner)
    .await?;
    one_row(done.rows_affected(), "nodes", id)
}

/// Records what the liveness rules made of a node.
#[tracing::instrument(name = "db.node.set_standing", skip_all, err)]
pub async fn node_set_standing(
    tx: &mut Tx,
    id: NodeId,
    uptime: Permille,
    reliability: Permille,
    effective_tier: Tier,
) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "UPDATE nodes SET uptime_permille = $2, reliability_permille = $3, effective_tier = $4
         WHERE node_id = $1",
        id.0,
        uptime.0.cast_signed(),
        reliability.0.cast_signed(),
        effective_tier.as_str()
    )
    .execute(&mut *tx.inner)
    .await?;
    one_row(done.rows_affected(), "nodes", id)
}

#[cfg(test)]
mod tests;
