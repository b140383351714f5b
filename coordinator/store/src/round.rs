//! Federated rounds: opened, loaded under a lock as the domain sees them, saved as the domain has decided. Called by the
//! coordinator's `round` room and by whoever shows rounds. What nodes are asked for and what they hand in is in [`work`].
//! Must stay true: a round's config is written once; every change of its state is one transaction that holds its row.

pub mod work;

use owm_coordinator_domain::round::{AbandonReason, Attempt, Event, Phase, Round};
use owm_proto::{Sha256, SubModelId, UnixMillis, VersionId};

use crate::{
    error::{StoreError, one_row},
    time::{from_pg, to_pg},
    tx::Tx,
};

/// A round to be opened.
#[derive(Clone, Debug)]
pub struct NewRound {
    /// The machine, just opened; its plan has the number.
    pub round: Round,
    /// Which sub-model is trained.
    pub sub_model: SubModelId,
    /// The version it is opened on.
    pub parent_version: VersionId,
    /// SHA-256 of the parent's weights file.
    pub parent: Sha256,
    /// All that was published, exact JSON bytes.
    pub config: Vec<u8>,
    /// SHA-256 of the server's residue that goes in.
    pub residue_before: Option<Sha256>,
}

/// A round as stored.
#[derive(Clone, Debug)]
pub struct StoredRound {
    /// Its number.
    pub number: u64,
    /// The machine.
    pub round: Round,
    /// Which sub-model is trained.
    pub sub_model: SubModelId,
    /// The version it was opened on.
    pub parent_version: VersionId,
    /// SHA-256 of the parent's weights file.
    pub parent: Sha256,
    /// All that was published, exact JSON bytes.
    pub config: Vec<u8>,
    /// SHA-256 of the server's residue that goes in.
    pub residue_before: Option<Sha256>,
    /// The version it published.
    pub version: Option<VersionId>,
    /// What holds it up now; empty: nothing.
    pub trouble: String,
    /// When its phase last changed.
    pub moved_at: UnixMillis,
}

/// What a round's attempt at a candidate has computed, with all that went in.
#[derive(Clone, Debug)]
pub struct Computed {
    /// Which attempt.
    pub attempt: Attempt,
    /// Submissions and the hashes of updates, JSON.
    pub inputs: Vec<u8>,
    /// What the strategy decided, JSON.
    pub decision: Vec<u8>,
    /// Of the candidate's file.
    pub checkpoint: Sha256,
    /// Of the delta.
    pub delta: Sha256,
    /// Of the server's residue if it is published.
    pub residue_after: Sha256,
    /// Candidate and delta as a manifest names them, JSON.
    pub files: Vec<u8>,
}

struct RoundRow {
    round_number: i32,
    sub_model: String,
    parent_version: String,
    parent_hash: String,
    config: Vec<u8>,
    state: Vec<u8>,
    residue_before: Option<String>,
    model_version: Option<String>,
    trouble: String,
    moved_at: time::OffsetDateTime,
}

pub(crate) fn wrong(number: i32, column: &'static str, why: impl ToString) -> StoreError {
    StoreError::inconsistent("fl_rounds", column, number, why)
}

/// A round's number as its column has it.
fn stored(number: u64) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

impl TryFrom<RoundRow> for StoredRound {
    type Error = StoreError;
    fn try_from(row: RoundRow) -> Result<Self, StoreError> {
        let number = row.round_number;
        let parsed =
            |column| move |error: owm_proto::hash::ParseError| wrong(number, column, error);
        let residue = row.residue_before.map(|hash| hash.parse()).transpose();
        let version = row.model_version.map(|version| version.parse()).transpose();
        Ok(Self {
            number: u64::from(number.unsigned_abs()),
            round: serde_json::from_slice(&row.state)
                .map_err(|error| wrong(number, "state", error))?,
            sub_model: row.sub_model.parse().map_err(parsed("sub_model"))?,
            parent_version: row
                .parent_version
                .parse()
                .map_err(parsed("parent_version"))?,
            parent: row.parent_hash.parse().map_err(parsed("parent_hash"))?,
            config: row.config,
            residue_before: residue.map_err(parsed("residue_before"))?,
            version: version.map_err(parsed("model_version"))?,
            trouble: row.trouble,
            moved_at: from_pg(row.moved_at),
        })
    }
}

fn state_of(round: &Round) -> Vec<u8> {
    serde_json::to_vec(round).expect("a round is plain JSON")
}

/// The number that the next round gets; two that take it at once cannot both be created.
#[tracing::instrument(name = "db.round.next", skip_all, err)]
pub async fn round_next(tx: &mut Tx) -> Result<u64, StoreError> {
    let last =
        sqlx::query_scalar!(r#"SELECT COALESCE(max(round_number), 0) AS "last!" FROM fl_rounds"#)
            .fetch_one(&mut *tx.inner)
            .await?;
    Ok(u64::from(last.unsigned_abs()) + 1)
}

/// Opens a round. `false`: one of this sub-model is open.
#[tracing::instrument(name = "db.round.create", skip_all, err)]
pub async fn round_create(tx: &mut Tx, new: &NewRound) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "INSERT INTO fl_rounds (round_number, phase, sub_model, parent_version, parent_hash, config, state,
             residue_before, started_at, moved_at)
         VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$9)
         ON CONFLICT (sub_model) WHERE phase IN ('open','collecting','sealed','aggregated','evaluated') DO NOTHING",
        stored(new.round.plan.round),
        new.round.phase.as_str(),
        new.sub_model.as_str(),
        new.parent_version.as_str(),
        new.parent.to_string(),
        new.config,
        state_of(&new.round),
        new.residue_before.map(|hash| hash.to_string()),
        to_pg(new.round.opened_at)
    )
    .execute(&mut *tx.inner)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// A round, locked until the transaction ends.
#[tracing::instrument(name = "db.round.load", skip_all, err, fields(round = number))]
pub async fn round_load(tx: &mut Tx, number: u64) -> Result<Option<StoredRound>, StoreError> {
    let row = sqlx::query_as!(
        RoundRow,
        "SELECT round_number, sub_model, parent_version, parent_hash, config, state, residue_before, model_version,
             trouble, moved_at
         FROM fl_rounds WHERE round_number = $1 FOR UPDATE",
        stored(number)
    )
    .fetch_optional(&mut *tx.inner)
    .await?;
    row.map(StoredRound::try_from).transpose()
}

/// A round as it is, not locked: to be shown or computed again.
#[tracing::instrument(name = "db.round.read", skip_all, err, fields(round = number))]
pub async fn round_read(tx: &mut Tx, number: u64) -> Result<Option<StoredRound>, StoreError> {
    let row = sqlx::query_as!(
        RoundRow,
        "SELECT round_number, sub_model, parent_version, parent_hash, config, state, residue_before, model_version,
             trouble, moved_at
         FROM fl_rounds WHERE round_number = $1",
        stored(number)
    )
    .fetch_optional(&mut *tx.inner)
    .await?;
    row.map(StoredRound::try_from).transpose()
}

/// Takes an outage of all coordinators out of every open round's time, once however often it is told. Locks rounds: to be
/// called before any task is locked, as the rounds' own driver does.
#[tracing::instrument(name = "db.round.hold", skip_all, err)]
pub async fn rounds_hold(tx: &mut Tx, from: UnixMillis, to: UnixMillis) -> Result<(), StoreError> {
    for open in round_list(tx, true, u32::MAX).await? {
        let Some(mut stored) = round_load(tx, open.number).await? else {
            continue;
        };
        let before = stored.round.held;
        let is_held = stored.round.on(Event::Held { from, to }).is_ok();
        if is_held && stored.round.held != before {
            round_save(tx, &stored.round, None, to).await?;
        }
    }
    Ok(())
}

/// The newest rounds, newest first, not locked; with `open` only those that are not over.
#[tracing::instrument(name = "db.round.list", skip_all, err)]
pub async fn round_list(
    tx: &mut Tx,
    open: bool,
    limit: u32,
) -> Result<Vec<StoredRound>, StoreError> {
    let rows = sqlx::query_as!(
        RoundRow,
        "SELECT round_number, sub_model, parent_version, parent_hash, config, state, residue_before, model_version,
             trouble, moved_at
         FROM fl_rounds WHERE NOT $1 OR phase IN ('open','collecting','sealed','aggregated','evaluated')
         ORDER BY round_number DESC LIMIT $2",
        open,
        i64::from(limit)
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    rows.into_iter().map(StoredRound::try_from).collect()
}

/// The published round whose checkpoint this file is.
#[tracing::instrument(name = "db.round.of", skip_all, err)]
pub async fn round_of(
    tx: &mut Tx,
    sub_model: &SubModelId,
    checkpoint: &Sha256,
) -> Result<Option<StoredRound>, StoreError> {
    let row = sqlx::query_as!(
        RoundRow,
        "SELECT round_number, sub_model, parent_version, parent_hash, config, state, residue_before, model_version,
             trouble, moved_at
         FROM fl_rounds WHERE checkpoint_hash = $1 AND sub_model = $2 AND phase IN ('published','anchored')
         ORDER BY round_number DESC LIMIT 1",
        checkpoint.to_string(),
        sub_model.as_str()
    )
    .fetch_optional(&mut *tx.inner)
    .await?;
    row.map(StoredRound::try_from).transpose()
}

/// Saves what the machine has become. `version`: what has just been published.
#[tracing::instrument(name = "db.round.save", skip_all, err, fields(round = round.plan.round))]
pub async fn round_save(
    tx: &mut Tx,
    round: &Round,
    version: Option<&VersionId>,
    now: UnixMillis,
) -> Result<(), StoreError> {
    let out = round.candidate.filter(|_| round.phase == Phase::Published);
    let is_over = matches!(round.phase, Phase::Published | Phase::Abandoned);
    let done = sqlx::query!(
        "UPDATE fl_rounds SET state = $2,
             moved_at = CASE WHEN phase = $3 THEN moved_at ELSE $4 END, phase = $3,
             completed_at = COALESCE(completed_at, CASE WHEN $5::bool THEN $4 END),
             abandoned = $6, trouble = '', model_version = COALESCE($7, model_version),
             checkpoint_hash = COALESCE($8, checkpoint_hash), delta_hash = COALESCE($9, delta_hash),
             residue_after = COALESCE($10, residue_after)
         WHERE round_number = $1",
        stored(round.plan.round),
        state_of(round),
        round.phase.as_str(),
        to_pg(now),
        is_over,
        round.abandoned.map(AbandonReason::as_str),
        version.map(VersionId::as_str),
        out.map(|made| made.checkpoint.to_string()),
        out.map(|made| made.delta.to_string()),
        out.map(|made| made.residue_after.to_string())
    )
    .execute(&mut *tx.inner)
    .await?;
    one_row(done.rows_affected(), "fl_rounds", round.plan.round)
}

/// Says what holds a round up.
#[tracing::instrument(name = "db.round.trouble", skip_all, err, fields(round = number))]
pub async fn round_trouble(tx: &mut Tx, number: u64, trouble: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE fl_rounds SET trouble = $2 WHERE round_number = $1 AND trouble <> $2",
        stored(number),
        trouble
    )
    .execute(&mut *tx.inner)
    .await?;
    Ok(())
}

/// Keeps what an attempt has computed; the same again changes nothing.
#[tracing::instrument(name = "db.round.computed", skip_all, err, fields(round = number))]
pub async fn round_computed_add(
    tx: &mut Tx,
    number: u64,
    made: &Computed,
    now: UnixMillis,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO round_attempts (round_id, attempt, inputs, decision, checkpoint_hash, delta_hash, residue_after,
             files, made_at)
         SELECT round_id, $2, $3, $4, $5, $6, $7, $8, $9 FROM fl_rounds WHERE round_number = $1
         ON CONFLICT DO NOTHING",
        stored(number),
        made.attempt.as_str(),
        made.inputs,
        made.decision,
        made.checkpoint.to_string(),
        made.delta.to_string(),
        made.residue_after.to_string(),
        made.files,
        to_pg(now)
    )
    .execute(&mut *tx.inner)
    .await?;
    Ok(())
}

/// What a round's attempts have computed, the first one first.
#[tracing::instrument(name = "db.round.attempts", skip_all, err, fields(round = number))]
pub async fn round_computed(tx: &mut Tx, number: u64) -> Result<Vec<Computed>, StoreError> {
    let rows = sqlx::query!(
        "SELECT a.attempt, a.inputs, a.decision, a.checkpoint_hash, a.delta_hash, a.residue_after, a.files
         FROM round_attempts a JOIN fl_rounds r ON r.round_id = a.round_id
         WHERE r.round_number = $1 ORDER BY a.attempt = 'fallback'",
        stored(number)
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    rows.into_iter()
        .map(|row| {
            let hash = |text: &str, column| {
                let parsed = text.parse::<Sha256>();
                parsed.map_err(|error| wrong(stored(number), column, error))
            };
            Ok(Computed {
                attempt: row
                    .attempt
                    .parse()
                    .map_err(|error| wrong(stored(number), "attempt", error))?,
                checkpoint: hash(&row.checkpoint_hash, "checkpoint_hash")?,
                delta: hash(&row.delta_hash, "delta_hash")?,
                residue_after: hash(&row.residue_after, "residue_after")?,
                inputs: row.inputs,
                decision: row.decision,
                files: row.files,
            })
        })
        .collect()
}
