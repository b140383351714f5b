//! What nodes say by gossip: heartbeats fold into minutes and `last_heartbeat`, whatever way they came first;
//! announcements are kept to be shown. Called by the server's fold with whole batches.
//!
//! Must stay true: nothing here touches a status, a tier or a session; keys that are not registered are not
//! written; what another coordinator has folded already counts once.

use std::collections::HashMap;

use owm_coordinator_domain::gossip::Heard;
use owm_proto::{NodeId, PublicKey, Purpose, UnixMillis};

use crate::{
    error::StoreError,
    time::{from_pg, to_pg},
    tx::Tx,
};

/// What a batch of heartbeats came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Folded {
    /// Of registered nodes, and not known before by any way.
    pub fresh: u64,
    /// Of registered nodes.
    pub of_nodes: u64,
}

/// Folds heartbeats in four statements, however many they are. A heartbeat is fresh if its sequence is above
/// all that came before, by stream, RPC or gossip, here or at another coordinator. Its minute counts too if it
/// was heard before the newest one was, and only its writing waited (for the database): a replay comes after.
/// The minutes of a suspended node do not count, as its RPCs do not.
#[tracing::instrument(name = "db.gossip.fold_heartbeats", skip_all, err)]
pub async fn heartbeats_fold(tx: &mut Tx, heard: &[Heard]) -> Result<Folded, StoreError> {
    let rows: Vec<(&Heard, i64)> = heard
        .iter()
        .filter_map(|h| Some((h, i64::try_from(h.sequence).ok()?)))
        .collect();
    let keys: Vec<String> = rows.iter().map(|(h, _)| h.node.to_string()).collect();
    let sequences: Vec<i64> = rows.iter().map(|(_, sequence)| *sequence).collect();
    let times: Vec<_> = rows.iter().map(|(h, _)| to_pg(h.at)).collect();
    // Sequences before nodes, each in its order: two coordinators that fold the same batch wait for each
    // other, and what the second then finds is not fresh.
    let counted = sqlx::query!(
        r#"WITH heard AS (
               SELECT n.node_id, u.key, u.sequence, u.at
               FROM unnest($1::text[], $2::bigint[], $3::timestamptz[]) AS u(key, sequence, at)
                   JOIN nodes n ON n.public_key = u.key
               WHERE n.status <> 'suspended'
           ), known AS (
               SELECT s.public_key, s.sequence, s.seen_at FROM envelope_sequences s
               WHERE s.public_key = ANY($1) AND s.purpose = $4
               ORDER BY s.public_key FOR UPDATE
           ), fresh AS (
               SELECT h.* FROM heard h LEFT JOIN known k ON k.public_key = h.key
               WHERE k.sequence IS NULL OR h.sequence > k.sequence
           ), advanced AS (
               INSERT INTO envelope_sequences (public_key, purpose, sequence, seen_at)
               SELECT key, $4, max(sequence), max(at) FROM fresh GROUP BY key ORDER BY key
               ON CONFLICT (public_key, purpose) DO UPDATE
                   SET sequence = EXCLUDED.sequence, seen_at = EXCLUDED.seen_at
                   WHERE envelope_sequences.sequence < EXCLUDED.sequence
               RETURNING public_key
           )
           SELECT f.node_id AS "node!", f.at AS "at!", true AS "fresh!"
           FROM fresh f JOIN advanced a ON a.public_key = f.key
           UNION ALL
           SELECT h.node_id, h.at, false
           FROM heard h JOIN known k ON k.public_key = h.key
           WHERE h.sequence < k.sequence AND h.at < k.seen_at"#,
        &keys,
        &sequences,
        &times,
        Purpose::Heartbeat.as_str()
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    let of_nodes = heard_note(tx, &keys, &sequences, &times).await?;
    let nodes: Vec<_> = counted.iter().map(|row| row.node).collect();
    let times: Vec<_> = counted.iter().map(|row| row.at).collect();
    minutes_note(tx, &nodes, &times).await?;
    Ok(Folded {
        fresh: counted.iter().filter(|row| row.fresh).count() as u64,
        of_nodes,
    })
}

/// Which nodes were heard by gossip, whatever way their heartbeat came first. Returns how many heartbeats
/// are of registered nodes.
async fn heard_note(
    tx: &mut Tx,
    keys: &[String],
    sequences: &[i64],
    times: &[time::OffsetDateTime],
) -> Result<u64, StoreError> {
    let known = sqlx::query_scalar!(
        r#"WITH heard AS (
               SELECT n.node_id, u.sequence, u.at
               FROM unnest($1::text[], $2::bigint[], $3::timestamptz[]) AS u(key, sequence, at)
                   JOIN nodes n ON n.public_key = u.key
           ), noted AS (
               INSERT INTO node_announcements (node_id, heartbeat_sequence, heartbeat_heard_at)
               SELECT node_id, max(sequence), max(at) FROM heard GROUP BY node_id ORDER BY node_id
               ON CONFLICT (node_id) DO UPDATE
                   SET heartbeat_sequence = EXCLUDED.heartbeat_sequence,
                       heartbeat_heard_at = EXCLUDED.heartbeat_heard_at
                   WHERE node_announcements.heartbeat_sequence < EXCLUDED.heartbeat_sequence
           )
           SELECT count(*) AS "count!" FROM heard"#,
        keys,
        sequences,
        times
    )
    .fetch_one(&mut *tx.inner)
    .await?;
    Ok(known.unsigned_abs())
}

/// Minutes and `last_heartbeat`, nothing else: hearing a node by gossip says nothing of its session.
async fn minutes_note(
    tx: &mut Tx,
    nodes: &[uuid::Uuid],
    times: &[time::OffsetDateTime],
) -> Result<(), StoreError> {
    let minutes: Vec<i64> = times.iter().map(|at| at.unix_timestamp() / 60).collect();
    sqlx::query!(
        "INSERT INTO node_minutes (node_id, minute)
         SELECT DISTINCT * FROM unnest($1::uuid[], $2::bigint[]) ORDER BY 1, 2 ON CONFLICT DO NOTHING",
        nodes,
        &minutes
    )
    .execute(&mut *tx.inner)
    .await?;
    sqlx::query!(
        "UPDATE nodes SET last_heartbeat = GREATEST(nodes.last_heartbeat, s.at)
         FROM (SELECT node, max(at) AS at FROM unnest($1::uuid[], $2::timestamptz[]) AS u(node, at)
               GROUP BY node) s,
              (SELECT node_id FROM nodes WHERE node_id = ANY($1) ORDER BY node_id FOR NO KEY UPDATE) l
         WHERE nodes.node_id = s.node AND l.node_id = s.node",
        nodes,
        times
    )
    .execute(&mut *tx.inner)
    .await?;
    Ok(())
}

/// What a node says it has, does and holds; texts without control characters, within bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// What it runs.
    pub software_version: String,
    /// What it does.
    pub roles: Vec<String>,
    /// Where it can be reached, as multiaddresses without `/p2p`; empty: through others only.
    pub addresses: Vec<String>,
    /// How many complete files it serves.
    pub holds: u32,
    /// Sequence of the newest checkpoint it has verified, 0: none.
    pub checkpoint_sequence: u64,
    /// Carries connections for peers behind NAT.
    pub relay: bool,
}

/// An announcement that was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// Of which node.
    pub node: PublicKey,
    /// Its sequence.
    pub sequence: u64,
    /// When it arrived here.
    pub at: UnixMillis,
    /// What it says.
    pub says: Announcement,
}

/// Keeps the newest announcement of each registered node, in one statement; `all` names each key once.
/// Returns how many were news.
#[tracing::instrument(name = "db.gossip.fold_announcements", skip_all, err)]
pub async fn announcements_fold(tx: &mut Tx, all: &[Announced]) -> Result<u64, StoreError> {
    let all: Vec<(&Announced, i64)> = all
        .iter()
        .filter_map(|a| Some((a, i64::try_from(a.sequence).ok()?)))
        .collect();
    let keys: Vec<String> = all.iter().map(|(a, _)| a.node.to_string()).collect();
    let sequences: Vec<i64> = all.iter().map(|(_, sequence)| *sequence).collect();
    let times: Vec<_> = all.iter().map(|(a, _)| to_pg(a.at)).collect();
    let versions: Vec<String> = all
        .iter()
        .map(|(a, _)| a.says.software_version.clone())
        .collect();
    let json = |list: &[String]| serde_json::Value::from(list.to_vec());
    let roles: Vec<_> = all.iter().map(|(a, _)| json(&a.says.roles)).collect();
    let addresses: Vec<_> = all.iter().map(|(a, _)| json(&a.says.addresses)).collect();
    let holds: Vec<i32> = all
        .iter()
        .map(|(a, _)| a.says.holds.try_into().unwrap_or(i32::MAX))
        .collect();
    let checkpoints: Vec<i64> = all
        .iter()
        .map(|(a, _)| a.says.checkpoint_sequence.try_into().unwrap_or(i64::MAX))
        .collect();
    let relays: Vec<bool> = all.iter().map(|(a, _)| a.says.relay).collect();
    let done = sqlx::query!(
        r#"INSERT INTO node_announcements (node_id, capability_sequence, capability_heard_at,
               software_version, roles, addresses, holds, checkpoint_sequence, relay)
           SELECT n.node_id, u.sequence, u.at, u.version, u.roles, u.addresses, u.holds, u.checkpoint, u.relay
           FROM unnest($1::text[], $2::bigint[], $3::timestamptz[], $4::text[], $5::jsonb[], $6::jsonb[],
                    $7::int[], $8::bigint[], $9::bool[])
                    AS u(key, sequence, at, version, roles, addresses, holds, checkpoint, relay)
               JOIN nodes n ON n.public_key = u.key
           ORDER BY n.node_id
           ON CONFLICT (node_id) DO UPDATE
               SET capability_sequence = EXCLUDED.capability_sequence,
                   capability_heard_at = EXCLUDED.capability_heard_at,
                   software_version = EXCLUDED.software_version, roles = EXCLUDED.roles,
                   addresses = EXCLUDED.addresses, holds = EXCLUDED.holds,
                   checkpoint_sequence = EXCLUDED.checkpoint_sequence, relay = EXCLUDED.relay
               WHERE node_announcements.capability_sequence < EXCLUDED.capability_sequence"#,
        &keys,
        &sequences,
        &times,
        &versions,
        &roles,
        &addresses,
        &holds,
        &checkpoints,
        &relays
    )
    .execute(&mut *tx.inner)
    .await?;
    Ok(done.rows_affected())
}

/// By which ways a node was heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sighting {
    /// `stream` or `poll`: how its newest session carries work.
    pub session_kind: Option<String>,
    /// When that session was last heard.
    pub session_seen_at: Option<UnixMillis>,
    /// When a heartbeat last came by gossip.
    pub heartbeat_heard_at: Option<UnixMillis>,
    /// The newest announcement, and when it was heard.
    pub announced: Option<(Announcement, UnixMillis)>,
}

/// How nodes were heard.
#[tracing::instrument(name = "db.gossip.sightings", skip_all, err)]
pub async fn sightings(
    tx: &mut Tx,
    nodes: &[NodeId],
) -> Result<HashMap<NodeId, Sighting>, StoreError> {
    let nodes: Vec<_> = nodes.iter().map(|id| id.0).collect();
    let rows = sqlx::query!(
        r#"SELECT n.node_id AS "node_id!", n.session_kind, n.session_seen_at, a.heartbeat_heard_at AS "heartbeat_heard_at?",
               a.capability_heard_at AS "capability_heard_at?", a.software_version AS "software_version?",
               a.roles AS "roles?", a.addresses AS "addresses?", a.holds AS "holds?",
               a.checkpoint_sequence AS "checkpoint_sequence?", a.relay AS "relay?"
           FROM nodes n LEFT JOIN node_announcements a ON a.node_id = n.node_id
           WHERE n.node_id = ANY($1)"#,
        &nodes
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    let list = |json: Option<serde_json::Value>| -> Vec<String> {
        json.and_then(|json| serde_json::from_value(json).ok())
            .unwrap_or_default()
    };
    let mut all = HashMap::with_capacity(rows.len());
    for row in rows {
        let says = Announcement {
            software_version: row.software_version.unwrap_or_default(),
            roles: list(row.roles),
            addresses: list(row.addresses),
            holds: row.holds.unwrap_or_default().unsigned_abs(),
            checkpoint_sequence: row.checkpoint_sequence.unwrap_or_default().unsigned_abs(),
            relay: row.relay.unwrap_or_default(),
        };
        let sighting = Sighting {
            session_kind: row.session_kind,
            session_seen_at: row.session_seen_at.map(from_pg),
            heartbeat_heard_at: row.heartbeat_heard_at.map(from_pg),
            announced: row.capability_heard_at.map(|at| (says, from_pg(at))),
        };
        all.insert(NodeId(row.node_id), sighting);
    }
    Ok(all)
}

/// Addresses of active nodes that said lately where they can be reached, each with the node's key; the
/// newest first.
#[tracing::instrument(name = "db.gossip.reachable", skip_all, err)]
pub async fn reachable(
    tx: &mut Tx,
    since: UnixMillis,
    limit: u32,
) -> Result<Vec<(PublicKey, Vec<String>)>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT n.public_key, a.addresses FROM node_announcements a JOIN nodes n ON n.node_id = a.node_id
           WHERE n.status = 'active' AND a.capability_heard_at >= $1 AND a.addresses <> '[]'
           ORDER BY a.capability_heard_at DESC LIMIT $2"#,
        to_pg(since),
        i64::from(limit)
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    rows.into_iter()
        .map(|row| {
            let wrong = |column, why: String| {
                StoreError::inconsistent("node_announcements", column, &row.public_key, why)
            };
            let key = row
                .public_key
                .parse()
                .map_err(|e: owm_proto::hash::ParseError| wrong("node_id", e.to_string()))?;
            let addresses = serde_json::from_value(row.addresses.clone())
                .map_err(|e| wrong("addresses", e.to_string()))?;
            Ok((key, addresses))
        })
        .collect()
}

#[cfg(test)]
mod tests;
