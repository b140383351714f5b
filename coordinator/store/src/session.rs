//! Sessions and signs of life: which run of a node's process counts, and in which minutes it was
//! heard. Gossip never changes a status; nor does anything here.

use std::time::Duration;

use owm_proto::{NodeId, PublicKey, SessionId, UnixMillis};

use crate::{error::StoreError, time::to_pg, tx::Tx};

/// How a session carries work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionKind {
    /// The Work stream.
    Stream,
    /// The long-poll twin.
    Poll,
}

impl SessionKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Poll => "poll",
        }
    }
}

/// A session not heard of for so long does not fence one whose clock says that it started earlier.
const SESSION_SILENT: Duration = Duration::from_mins(3);

/// What opening a session came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionOpened {
    /// It counts; its epoch.
    Current(u64),
    /// A run of the same key that started later counts already.
    Fenced,
}

/// Opens (or reopens) a session. A session started later fences an earlier one; the same session id
/// comes back under the same epoch.
#[tracing::instrument(name = "db.session.open", skip_all, err)]
pub async fn session_open(
    tx: &mut Tx,
    node: NodeId,
    session: SessionId,
    started_at: UnixMillis,
    kind: SessionKind,
    instance: &PublicKey,
    now: UnixMillis,
) -> Result<SessionOpened, StoreError> {
    let epoch = sqlx::query_scalar!(
        r#"UPDATE nodes SET
               session_epoch = CASE WHEN session_id = $2 THEN session_epoch ELSE session_epoch + 1 END,
               session_id = $2, session_started_ms = $3, session_kind = $4, session_instance = $5,
               session_seen_at = $6
           WHERE node_id = $1
             AND (session_id IS NULL OR session_id = $2 OR session_started_ms <= $3
                  OR session_seen_at < $7)
           RETURNING session_epoch"#,
        node.0,
        &session.0[..],
        started_at.0.cast_signed(),
        kind.as_str(),
        instance.to_string(),
        to_pg(now),
        to_pg(now.before(SESSION_SILENT))
    )
    .fetch_optional(&mut *tx.inner)
    .await?;
    Ok(epoch.map_or(SessionOpened::Fenced, |epoch| {
        SessionOpened::Current(epoch.unsigned_abs())
    }))
}

/// Whether this very run, held by this very coordinator, is the session that counts.
#[tracing::instrument(name = "db.session.is_held", skip_all, err)]
pub async fn session_is_held(
    tx: &mut Tx,
    node: NodeId,
    session: SessionId,
    instance: &PublicKey,
) -> Result<bool, StoreError> {
    let held = sqlx::query_scalar!(
        r#"SELECT session_id = $2 AND session_instance = $3 AS "held!" FROM nodes WHERE node_id = $1"#,
        node.0,
        &session.0[..],
        instance.to_string()
    )
    .fetch_optional(&mut *tx.inner)
    .await?;
    Ok(held == Some(true))
}

/// A session of ours that does not count any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superseded {
    /// Whose.
    pub node: NodeId,
    /// Whether another process of the same key took over (else the same one, at another coordinator).
    pub by_another_process: bool,
}

/// Which of these sessions the database does not give this coordinator any more.
#[tracing::instrument(name = "db.session.list_superseded", skip_all, err)]
pub async fn sessions_superseded(
    tx: &mut Tx,
    held: &[(NodeId, SessionId)],
    instance: &PublicKey,
) -> Result<Vec<Superseded>, StoreError> {
    let nodes: Vec<_> = held.iter().map(|(node, _)| node.0).collect();
    let runs: Vec<Vec<u8>> = held.iter().map(|(_, run)| run.0.to_vec()).collect();
    let rows = sqlx::query!(
        r#"SELECT n.node_id, n.session_id IS DISTINCT FROM h.run AS "other!"
           FROM unnest($1::uuid[], $2::bytea[]) AS h(node, run) JOIN nodes n ON n.node_id = h.node
           WHERE n.session_id IS DISTINCT FROM h.run OR n.session_instance IS DISTINCT FROM $3"#,
        &nodes,
        &runs,
        instance.to_string()
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    Ok(rows
        .into_iter()
        .map(|r| Superseded {
            node: NodeId(r.node_id),
            by_another_process: r.other,
        })
        .collect())
}

/// One valid sign of life.
#[derive(Clone, Copy, Debug)]
pub struct SignOfLife {
    /// Whose.
    pub node: NodeId,
    /// When it arrived.
    pub at: UnixMillis,
    /// Whether it is news: what gossip has brought before counts no second minute, but the session lives.
    pub fresh: bool,
}

/// Folds signs of life into minutes and `last_heartbeat`, all in two statements. Nodes are locked in
/// the order of their ids, as everywhere where several are.
#[tracing::instrument(name = "db.session.fold_signs", skip_all, err)]
pub async fn signs_fold(tx: &mut Tx, signs: &[SignOfLife]) -> Result<(), StoreError> {
    let nodes: Vec<_> = signs.iter().map(|s| s.node.0).collect();
    let counted: Vec<_> = signs.iter().filter(|s| s.fresh).map(|s| s.node.0).collect();
    let minutes: Vec<i64> = signs
        .iter()
        .filter(|s| s.fresh)
        .map(|s| (s.at.0 / 60_000).cast_signed())
        .collect();
    let times: Vec<_> = signs.iter().map(|s| to_pg(s.at)).collect();
    sqlx::query!(
        "INSERT INTO node_minutes (node_id, minute)
         SELECT DISTINCT * FROM unnest($1::uuid[], $2::bigint[]) ORDER BY 1, 2 ON CONFLICT DO NOTHING",
        &counted,
        &minutes
    )
    .execute(&mut *tx.inner)
    .await?;
    sqlx::query!(
        "UPDATE nodes SET last_heartbeat = GREATEST(nodes.last_heartbeat, s.at),
             session_seen_at = GREATEST(nodes.session_seen_at, s.at)
         FROM (SELECT node, max(at) AS at FROM unnest($1::uuid[], $2::timestamptz[]) AS u(node, at)
               GROUP BY node) s,
              (SELECT node_id FROM nodes WHERE node_id = ANY($1) ORDER BY node_id FOR NO KEY UPDATE) l
         WHERE nodes.node_id = s.node AND l.node_id = s.node",
        &nodes,
        &times
    )
    .execute(&mut *tx.inner)
    .await?;
    Ok(())
}

/// Minutes in which a node was heard, since `since`.
#[tracing::instrument(name = "db.session.count_minutes", skip_all, err)]
pub async fn minutes_count(
    tx: &mut Tx,
    node: NodeId,
    since: UnixMillis,
) -> Result<u64, StoreError> {
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM node_minutes WHERE node_id = $1 AND minute >= $2"#,
        node.0,
        (since.0 / 60_000).cast_signed()
    )
    .fetch_one(&mut *tx.inner)
    .await?;
    Ok(count.unsigned_abs())
}

/// Forgets minutes before `before`.
#[tracing::instrument(name = "db.session.prune_minutes", skip_all, err)]
pub async fn minutes_prune(tx: &mut Tx, before: UnixMillis) -> Result<u64, StoreError> {
    let minute = (before.0 / 60_000).cast_signed();
    let done = sqlx::query!("DELETE FROM node_minutes WHERE minute < $1", minute)
        .execute(&mut *tx.inner)
        .await?;
    Ok(done.rows_affected())
}
