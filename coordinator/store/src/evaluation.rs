//! Evaluations: one candidate, a task for each node that looks at it, and the reports. Made by the command line (and
//! by rounds), read by the dispatcher, which keeps the tasks apart, and by whoever shows what was found.

mod settle;

use std::collections::HashMap;

use owm_coordinator_domain::{evaluation::Report, schedule::Apart};
use owm_proto::{
    Envelope, EvaluationId, Msat, NodeId, PublicKey, Sha256, SubModelId, TaskId, UnixMillis,
    VersionId,
    evaluation::{EvaluationAsk, EvaluationReport},
    statement::TaskResultStatement,
    wire::coordinator::EvaluatePayload,
};
use uuid::Uuid;

use crate::{
    error::{StoreError, one_row},
    intake::tasks_create,
    task::NewTask,
    time::{from_pg, to_pg},
    tx::Tx,
    vault::Vault,
};

pub use settle::{
    evaluation_of, evaluation_part_quality, evaluation_settle, evaluation_settle_lock,
    evaluations_unsettled, updates_needed,
};

/// An evaluation to be queued.
#[derive(Clone, Debug)]
pub struct NewEvaluation {
    /// Its id.
    pub id: EvaluationId,
    /// What is asked, encoded [`EvaluatePayload`].
    pub ask: Vec<u8>,
    /// A task for each report that is wanted, all with the same payload.
    pub tasks: Vec<NewTask>,
}

/// An evaluation as asked.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// Its id.
    pub id: EvaluationId,
    /// Of which sub-model it is a candidate.
    pub sub_model: SubModelId,
    /// The released version it belongs to.
    pub model_version: VersionId,
    /// What is asked of each node.
    pub ask: EvaluationAsk,
    /// Reports wanted.
    pub wanted: u32,
    /// When it ends.
    pub deadline: UnixMillis,
    /// When it was asked for.
    pub created_at: UnixMillis,
    /// Reports that are there.
    pub reported: u32,
    /// Tasks that may still bring one.
    pub open: u32,
    /// When the reports were compared and booked.
    pub settled_at: Option<UnixMillis>,
}

/// One of its tasks.
#[derive(Clone, Debug)]
pub struct EvaluationTask {
    /// Which.
    pub task_id: TaskId,
    /// `tasks.phase`.
    pub phase: String,
    /// The lease whose result was accepted.
    pub epoch: Option<u64>,
    /// Who has it or had it last.
    pub node: Option<(NodeId, PublicKey)>,
    /// Why it failed, or what went wrong with the last attempt.
    pub trouble: String,
    /// Owed for it.
    pub reward: Msat,
    /// What the node computed for, in milliseconds.
    pub exec_ms: u64,
    /// What it found.
    pub report: Option<Report>,
    /// SHA-256 of the report's exact bytes.
    pub report_sha256: Option<Sha256>,
}

/// Queues an evaluation with its tasks.
#[tracing::instrument(name = "db.evaluation.create", skip_all, err)]
pub async fn evaluation_create(
    tx: &mut Tx,
    vault: &Vault,
    new: &NewEvaluation,
    now: UnixMillis,
) -> Result<(), StoreError> {
    let Some(first) = new.tasks.first() else {
        return Ok(());
    };
    sqlx::query!(
        "INSERT INTO evaluations (evaluation_id, sub_model, model_version, ask, wanted, deadline_at,
             created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        new.id.0,
        first.sub_model.as_str(),
        first.model_version.as_str(),
        new.ask,
        i32::try_from(new.tasks.len()).unwrap_or(i32::MAX),
        to_pg(first.deadline),
        to_pg(now)
    )
    .execute(&mut *tx.inner)
    .await?;
    let tasks: Vec<_> = new.tasks.iter().map(|task| (task.clone(), now)).collect();
    tasks_create(tx, vault, &tasks).await?;
    let ids: Vec<Uuid> = new.tasks.iter().map(|task| task.task_id.0).collect();
    sqlx::query!(
        "INSERT INTO evaluation_tasks (task_id, evaluation_id) SELECT task, $2 FROM unnest($1::uuid[]) AS t(task)",
        &ids,
        new.id.0
    )
    .execute(&mut *tx.inner)
    .await?;
    Ok(())
}

fn wrong(id: Uuid, column: &'static str, why: impl ToString) -> StoreError {
    StoreError::inconsistent("evaluations", column, id, why)
}

fn ask_of(id: Uuid, bytes: &[u8]) -> Result<EvaluationAsk, StoreError> {
    let payload: EvaluatePayload =
        prost::Message::decode(bytes).map_err(|error| wrong(id, "ask", error))?;
    EvaluationAsk::try_from(payload).map_err(|error| wrong(id, "ask", error))
}

/// What a task of an evaluation asks for; `None`: it is of none.
#[tracing::instrument(name = "db.evaluation.ask", skip_all, err, fields(task.id = %task))]
pub async fn evaluation_ask(
    tx: &mut Tx,
    task: TaskId,
) -> Result<Option<EvaluationAsk>, StoreError> {
    let row = sqlx::query!(
        "SELECT e.evaluation_id, e.ask FROM evaluations e
         JOIN evaluation_tasks t ON t.evaluation_id = e.evaluation_id WHERE t.task_id = $1",
        task.0
    )
    .fetch_optional(&mut *tx.inner)
    .await?;
    row.map(|row| ask_of(row.evaluation_id, &row.ask))
        .transpose()
}

/// Keeps an accepted report.
#[tracing::instrument(name = "db.evaluation.report", skip_all, err, fields(task.id = %task))]
pub async fn evaluation_report(
    tx: &mut Tx,
    task: TaskId,
    report: &[u8],
    now: UnixMillis,
) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "UPDATE evaluation_tasks SET report = $2, report_sha256 = $3, reported_at = $4
         WHERE task_id = $1 AND report IS NULL",
        task.0,
        report,
        Sha256::of(report).to_string(),
        to_pg(now)
    )
    .execute(&mut *tx.inner)
    .await?;
    one_row(done.rows_affected(), "evaluation_tasks", task)
}

/// For tasks about to be leased: which belong together, and whose nodes have one of them. Locks the evaluations;
/// those that another coordinator is leasing now are missing, and their tasks have to wait.
#[tracing::instrument(name = "db.evaluation.apart", skip_all, err, fields(tasks = tasks.len()))]
pub async fn evaluations_apart(
    tx: &mut Tx,
    tasks: &[TaskId],
) -> Result<HashMap<TaskId, Apart>, StoreError> {
    let ids: Vec<Uuid> = tasks.iter().map(|task| task.0).collect();
    let rows = sqlx::query!(
        "SELECT t.task_id, t.evaluation_id FROM evaluation_tasks t
         JOIN evaluations e ON e.evaluation_id = t.evaluation_id
         WHERE t.task_id = ANY($1) ORDER BY t.evaluation_id FOR UPDATE OF e SKIP LOCKED",
        &ids
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    let groups: Vec<Uuid> = rows.iter().map(|row| row.evaluation_id).collect();
    let taken = sqlx::query!(
        r#"SELECT DISTINCT e.evaluation_id AS "evaluation_id!", n.owner_key AS "owner_key!"
         FROM evaluation_tasks e JOIN tasks t ON t.task_id = e.task_id
         JOIN nodes n ON n.node_id = COALESCE(t.winner_node, t.lease_node)
         WHERE e.evaluation_id = ANY($1) AND t.phase IN ('leased', 'done')"#,
        &groups
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    let mut owners: HashMap<Uuid, Vec<PublicKey>> = HashMap::new();
    for row in taken {
        let owner = row.owner_key.parse();
        let owner = owner.map_err(|error: owm_proto::hash::ParseError| {
            StoreError::inconsistent("nodes", "owner_key", &row.owner_key, error)
        })?;
        owners.entry(row.evaluation_id).or_default().push(owner);
    }
    let apart = |group: Uuid| Apart {
        group: EvaluationId(group),
        owners: owners.get(&group).cloned().unwrap_or_default(),
    };
    let rows = rows.into_iter();
    Ok(rows
        .map(|row| (TaskId(row.task_id), apart(row.evaluation_id)))
        .collect())
}

struct EvaluationRow {
    evaluation_id: Uuid,
    sub_model: String,
    model_version: String,
    ask: Vec<u8>,
    wanted: i32,
    deadline_at: time::OffsetDateTime,
    created_at: time::OffsetDateTime,
    settled_at: Option<time::OffsetDateTime>,
    reported: i64,
    open: i64,
}

impl TryFrom<EvaluationRow> for Evaluation {
    type Error = StoreError;
    fn try_from(row: EvaluationRow) -> Result<Self, StoreError> {
        let id = row.evaluation_id;
        let parsed = |column| move |error: owm_proto::hash::ParseError| wrong(id, column, error);
        let small = |count: i64| u32::try_from(count).unwrap_or(u32::MAX);
        Ok(Self {
            id: EvaluationId(id),
            sub_model: row.sub_model.parse().map_err(parsed("sub_model"))?,
            model_version: row.model_version.parse().map_err(parsed("model_version"))?,
            ask: ask_of(id, &row.ask)?,
            wanted: row.wanted.unsigned_abs(),
            deadline: from_pg(row.deadline_at),
            created_at: from_pg(row.created_at),
            settled_at: row.settled_at.map(from_pg),
            reported: small(row.reported),
            open: small(row.open),
        })
    }
}

/// The newest evaluations, newest first; with `id` only that one.
#[tracing::instrument(name = "db.evaluation.list", skip_all, err)]
pub async fn evaluation_list(
    tx: &mut Tx,
    id: Option<EvaluationId>,
    limit: u32,
) -> Result<Vec<Evaluation>, StoreError> {
    let rows = sqlx::query_as!(
        EvaluationRow,
        r#"SELECT e.evaluation_id, e.sub_model, e.model_version, e.ask, e.wanted, e.deadline_at, e.created_at,
             e.settled_at, count(x.report) AS "reported!",
             count(*) FILTER (WHERE t.phase IN ('queued', 'leased')) AS "open!"
         FROM evaluations e JOIN evaluation_tasks x ON x.evaluation_id = e.evaluation_id
         JOIN tasks t ON t.task_id = x.task_id
         WHERE $1::uuid IS NULL OR e.evaluation_id = $1
         GROUP BY e.evaluation_id ORDER BY e.created_at DESC, e.evaluation_id LIMIT $2"#,
        id.map(|id| id.0),
        i64::from(limit)
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    rows.into_iter().map(Evaluation::try_from).collect()
}

struct ReportRow {
    task_id: Uuid,
    phase: String,
    winner_epoch: Option<i64>,
    node_id: Option<Uuid>,
    public_key: Option<String>,
    owner_key: Option<String>,
    trouble: Option<String>,
    reward_msat: Option<i64>,
    report: Option<Vec<u8>>,
    result_envelope: Option<Vec<u8>>,
}

impl TryFrom<ReportRow> for EvaluationTask {
    type Error = StoreError;
    fn try_from(row: ReportRow) -> Result<Self, StoreError> {
        let task = row.task_id;
        let wrong =
            |column, why: String| StoreError::inconsistent("evaluation_tasks", column, task, why);
        let key = |text: Option<String>| {
            let parsed = text.map(|text| text.parse::<PublicKey>()).transpose();
            parsed.map_err(|error| wrong("node", error.to_string()))
        };
        let (public_key, owner) = (key(row.public_key)?, key(row.owner_key)?);
        let said: Option<TaskResultStatement> = row.result_envelope.as_deref().and_then(|stored| {
            let envelope = Envelope::from_stored(stored).ok()?;
            serde_json::from_slice(envelope.unverified_payload()).ok()
        });
        let report = match (&row.report, row.node_id, owner) {
            (Some(bytes), Some(node), Some(owner)) => {
                let report = EvaluationReport::from_bytes(bytes);
                Some(Report {
                    node: NodeId(node),
                    owner,
                    backend: said.as_ref().map(|s| s.backend.clone()).unwrap_or_default(),
                    said: report.ok_or_else(|| wrong("report", "does not parse".into()))?,
                })
            }
            _ => None,
        };
        Ok(Self {
            task_id: TaskId(task),
            phase: row.phase,
            epoch: row.winner_epoch.map(i64::unsigned_abs),
            node: row.node_id.map(NodeId).zip(public_key),
            trouble: row.trouble.unwrap_or_default(),
            reward: Msat(row.reward_msat.unwrap_or(0).unsigned_abs()),
            exec_ms: said.map_or(0, |said| said.exec_ms),
            report,
            report_sha256: row.report.as_deref().map(Sha256::of),
        })
    }
}

/// The tasks of an evaluation with their reports, by task.
#[tracing::instrument(name = "db.evaluation.tasks", skip_all, err)]
pub async fn evaluation_tasks(
    tx: &mut Tx,
    id: EvaluationId,
) -> Result<Vec<EvaluationTask>, StoreError> {
    let rows = sqlx::query_as!(
        ReportRow,
        r#"SELECT t.task_id, t.phase, t.winner_epoch, n.node_id AS "node_id?", n.public_key AS "public_key?",
             n.owner_key AS "owner_key?", COALESCE(t.failure_message, a.reason) AS trouble, t.reward_msat, x.report,
             w.result_envelope AS "result_envelope?"
         FROM evaluation_tasks x JOIN tasks t ON t.task_id = x.task_id
         LEFT JOIN task_attempts a ON a.task_id = t.task_id
             AND a.epoch = (SELECT max(l.epoch) FROM task_attempts l WHERE l.task_id = t.task_id)
         LEFT JOIN task_attempts w ON w.task_id = t.task_id AND w.epoch = t.winner_epoch
         LEFT JOIN nodes n ON n.node_id = COALESCE(t.winner_node, t.lease_node, a.node_id)
         WHERE x.evaluation_id = $1 ORDER BY t.task_id"#,
        id.0
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    rows.into_iter().map(EvaluationTask::try_from).collect()
}
