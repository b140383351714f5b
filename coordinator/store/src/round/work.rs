//! What a round asks nodes for: parts, a reference update, losses. Each is an evaluation with its tasks; here is which
//! belongs to which round, whose a part is, and what has come of it.

use std::collections::HashMap;

use owm_coordinator_domain::round::Attempt;
use owm_proto::{
    EvaluationId, Msat, NodeId, Permille, PublicKey, Sha256, SubModelId, TaskId, Tier, UnixMillis,
    evaluation::{EvaluationReport, Finding, FormerPart},
};
use uuid::Uuid;

use super::stored;
use crate::{
    error::{StoreError, one_row},
    time::from_pg,
    tx::Tx,
};

/// What an evaluation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// A participant's update.
    Part,
    /// The update that tells the direction where participants are few.
    Reference,
    /// The candidate's loss.
    Candidate,
    /// Its parent's, on the same text.
    Parent,
}

impl Purpose {
    /// As stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Part => "part",
            Self::Reference => "reference",
            Self::Candidate => "candidate",
            Self::Parent => "parent",
        }
    }
}

/// A participant's lease and what has come of it.
#[derive(Clone, Debug)]
pub struct PartWork {
    /// Who.
    pub node: NodeId,
    /// Its name.
    pub key: PublicKey,
    /// Whose it is.
    pub owner: PublicKey,
    /// What counts for its weight.
    pub tier: Tier,
    /// From its stake.
    pub stake_bonus: Permille,
    /// Its task.
    pub task: TaskId,
    /// `tasks.phase`.
    pub phase: String,
    /// The commit that was on time: when, and of which result.
    pub committed: Option<(UnixMillis, Sha256)>,
    /// When the update was here, and the report that names it.
    pub reported: Option<(UnixMillis, EvaluationReport)>,
    /// Why the task failed, or what went wrong with the last attempt.
    pub trouble: String,
    /// Owed for it.
    pub reward: Msat,
    /// Why the round did not take it.
    pub refused: String,
    /// What the gates said, JSON.
    pub verdict: Option<Vec<u8>>,
}

/// Notes that an evaluation belongs to a round.
#[tracing::instrument(name = "db.round.asked", skip_all, err, fields(round = number))]
pub async fn round_evaluation_add(
    tx: &mut Tx,
    number: u64,
    evaluation: EvaluationId,
    purpose: Purpose,
    attempt: Attempt,
    node: Option<NodeId>,
) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "INSERT INTO round_evaluations (evaluation_id, round_id, purpose, attempt, node_id)
         SELECT $2, round_id, $3, $4, $5 FROM fl_rounds WHERE round_number = $1",
        stored(number),
        evaluation.0,
        purpose.as_str(),
        attempt.as_str(),
        node.map(|node| node.0)
    )
    .execute(&mut *tx.inner)
    .await?;
    one_row(done.rows_affected(), "round_evaluations", number)
}

/// The evaluation that a round has asked for, if it has.
#[tracing::instrument(name = "db.round.evaluation", skip_all, err, fields(round = number))]
pub async fn round_evaluation(
    tx: &mut Tx,
    number: u64,
    purpose: Purpose,
    attempt: Attempt,
) -> Result<Option<EvaluationId>, StoreError> {
    let id = sqlx::query_scalar!(
        "SELECT e.evaluation_id FROM round_evaluations e JOIN fl_rounds r ON r.round_id = e.round_id
         WHERE r.round_number = $1 AND e.purpose = $2 AND e.attempt = $3",
        stored(number),
        purpose.as_str(),
        attempt.as_str()
    )
    .fetch_optional(&mut *tx.inner)
    .await?;
    Ok(id.map(EvaluationId))
}

/// Notes that a node takes part, by this task.
#[tracing::instrument(name = "db.round.part", skip_all, err, fields(round = number))]
pub async fn round_part_add(
    tx: &mut Tx,
    number: u64,
    node: NodeId,
    task: TaskId,
) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "INSERT INTO fl_participants (round_id, node_id, task_id)
         SELECT round_id, $2, $3 FROM fl_rounds WHERE round_number = $1",
        stored(number),
        node.0,
        task.0
    )
    .execute(&mut *tx.inner)
    .await?;
    one_row(done.rows_affected(), "fl_participants", node)
}

/// Why the round does not take a part's update.
#[tracing::instrument(name = "db.round.refuse", skip_all, err, fields(round = number))]
pub async fn round_part_refuse(
    tx: &mut Tx,
    number: u64,
    node: NodeId,
    why: &str,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE fl_participants SET refused = $3
         WHERE round_id = (SELECT round_id FROM fl_rounds WHERE round_number = $1) AND node_id = $2",
        stored(number),
        node.0,
        why
    )
    .execute(&mut *tx.inner)
    .await?;
    Ok(())
}

/// What the gates said of a part, JSON, and whether it counted or was flagged.
#[derive(Clone, Debug)]
pub struct Judgement<'a> {
    /// Of its bytes.
    pub update: Sha256,
    /// JSON.
    pub verdict: &'a [u8],
    /// Whether it counted.
    pub counts: bool,
    /// Whether a gate rejected or flagged it.
    pub is_flagged: bool,
}

/// Keeps what the gates said of a part; the last attempt's word stands.
#[tracing::instrument(name = "db.round.judge", skip_all, err, fields(round = number))]
pub async fn round_part_judge(
    tx: &mut Tx,
    number: u64,
    node: NodeId,
    judged: &Judgement<'_>,
) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "UPDATE fl_participants SET gradient_hash = $3, verdict = $4, quality_permille = $5, anomaly_flagged = $6
         WHERE round_id = (SELECT round_id FROM fl_rounds WHERE round_number = $1) AND node_id = $2",
        stored(number),
        node.0,
        judged.update.to_string(),
        judged.verdict,
        if judged.counts { 1_000 } else { 0 },
        judged.is_flagged
    )
    .execute(&mut *tx.inner)
    .await?;
    one_row(done.rows_affected(), "fl_participants", node)
}

/// What became of a node's parts in rounds of a sub-model that are over, the newest first: those whose report came.
#[tracing::instrument(name = "db.round.former_parts", skip_all, err)]
pub async fn round_former_parts(
    tx: &mut Tx,
    sub_model: &SubModelId,
    node: NodeId,
    limit: usize,
) -> Result<Vec<FormerPart>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT x.report AS "report!",
             COALESCE(p.quality_permille, 0) > 0 AND r.phase IN ('published','anchored') AS "counted!"
         FROM fl_participants p JOIN fl_rounds r ON r.round_id = p.round_id
         JOIN evaluation_tasks x ON x.task_id = p.task_id
         WHERE p.node_id = $1 AND r.sub_model = $2 AND r.phase IN ('published','anchored','abandoned')
             AND x.report IS NOT NULL
         ORDER BY r.round_number DESC LIMIT $3"#,
        node.0,
        sub_model.as_str(),
        i64::try_from(limit).unwrap_or(i64::MAX)
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    let former = rows.into_iter().filter_map(|row| {
        match EvaluationReport::from_bytes(&row.report)?.finding {
            Finding::Update { sha256, .. } => Some(FormerPart {
                update: sha256,
                counted: row.counted,
            }),
            Finding::HeldOut { .. } => None,
        }
    });
    Ok(former.collect())
}

/// Of tasks about to be leased: whose each is. Tasks of no round are missing.
#[tracing::instrument(name = "db.round.whose", skip_all, err, fields(tasks = tasks.len()))]
pub async fn round_tasks_whose(
    tx: &mut Tx,
    tasks: &[TaskId],
) -> Result<HashMap<TaskId, NodeId>, StoreError> {
    let ids: Vec<Uuid> = tasks.iter().map(|task| task.0).collect();
    let rows = sqlx::query!(
        "SELECT task_id, node_id FROM fl_participants WHERE task_id = ANY($1)",
        &ids
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    let whose = rows.into_iter();
    Ok(whose
        .map(|row| (TaskId(row.task_id), NodeId(row.node_id)))
        .collect())
}

struct PartRow {
    node_id: Uuid,
    public_key: String,
    owner_key: String,
    effective_tier: String,
    stake_bonus_permille: i32,
    task_id: Uuid,
    phase: String,
    committed_at: Option<time::OffsetDateTime>,
    commit_hash: Option<Vec<u8>>,
    report: Option<Vec<u8>>,
    reported_at: Option<time::OffsetDateTime>,
    trouble: Option<String>,
    reward_msat: Option<i64>,
    refused: String,
    verdict: Option<Vec<u8>>,
}

impl TryFrom<PartRow> for PartWork {
    type Error = StoreError;
    fn try_from(row: PartRow) -> Result<Self, StoreError> {
        let node = row.node_id;
        let wrong = |table, column, why: String| StoreError::inconsistent(table, column, node, why);
        let key = |text: &str, column| {
            let parsed = text.parse::<PublicKey>();
            parsed.map_err(|error| wrong("nodes", column, error.to_string()))
        };
        let tier = row.effective_tier.parse();
        let commit = row.commit_hash.and_then(|bytes| bytes.try_into().ok());
        let report = row.report.map(|bytes| {
            let report = EvaluationReport::from_bytes(&bytes);
            report.ok_or_else(|| wrong("evaluation_tasks", "report", "does not parse".into()))
        });
        Ok(Self {
            node: NodeId(node),
            key: key(&row.public_key, "public_key")?,
            owner: key(&row.owner_key, "owner_key")?,
            tier: tier.map_err(|error: owm_proto::hash::ParseError| {
                wrong("nodes", "effective_tier", error.to_string())
            })?,
            stake_bonus: Permille(row.stake_bonus_permille.unsigned_abs()),
            task: TaskId(row.task_id),
            phase: row.phase,
            committed: row.committed_at.map(from_pg).zip(commit.map(Sha256)),
            reported: row.reported_at.map(from_pg).zip(report.transpose()?),
            trouble: row.trouble.unwrap_or_default(),
            reward: Msat(row.reward_msat.unwrap_or(0).unsigned_abs()),
            refused: row.refused,
            verdict: row.verdict,
        })
    }
}

/// A round's participants with what has come of their leases, in key order.
#[tracing::instrument(name = "db.round.parts", skip_all, err, fields(round = number))]
pub async fn round_parts(tx: &mut Tx, number: u64) -> Result<Vec<PartWork>, StoreError> {
    let rows = sqlx::query_as!(
        PartRow,
        r#"SELECT p.node_id, n.public_key, n.owner_key, n.effective_tier, n.stake_bonus_permille, p.task_id, t.phase,
             c.committed_at AS "committed_at?", c.commit_hash AS "commit_hash?", x.report, x.reported_at,
             COALESCE(t.failure_message, a.reason) AS trouble, t.reward_msat, p.refused, p.verdict
         FROM fl_participants p JOIN fl_rounds r ON r.round_id = p.round_id
         JOIN nodes n ON n.node_id = p.node_id JOIN tasks t ON t.task_id = p.task_id
         JOIN evaluation_tasks x ON x.task_id = p.task_id
         LEFT JOIN task_attempts a ON a.task_id = t.task_id AND a.epoch = t.lease_epoch
         LEFT JOIN LATERAL (
             SELECT committed_at, commit_hash FROM task_attempts
             WHERE task_id = p.task_id AND on_time AND (t.winner_epoch IS NULL OR epoch = t.winner_epoch)
             ORDER BY epoch DESC LIMIT 1) c ON TRUE
         WHERE r.round_number = $1 ORDER BY n.public_key"#,
        stored(number)
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    rows.into_iter().map(PartWork::try_from).collect()
}
