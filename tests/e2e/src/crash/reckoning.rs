//! The reckoning: what askers heard, what the API says, what the tables say, what the nodes believe.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use http::StatusCode;
use owm_devnet::{Devnet, process::POLL};
use serde_json::Value;
use sqlx::{Connection as _, PgConnection, Row as _};

use super::load::{Asked, Questions};

/// All questions under way are answered by then, after the last kill.
const SETTLED_WITHIN: Duration = Duration::from_secs(90);

/// Questions that are asked again afterwards.
const COMPARED: usize = 40;

/// The result of a run.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Processes killed.
    pub kills: u64,
    /// Requests whose id was sent to their asker.
    pub sent: u64,
    /// Of these, with an answer.
    pub answered: u64,
    /// Of these, without one: lost.
    pub lost: Vec<String>,
    /// Answers that changed, tasks with two winners or two bookings, answers that are not booked:
    /// what happened not exactly once.
    pub doubled: Vec<String>,
    /// Questions asked again in peace, which have to get the same answers.
    pub again: u64,
    /// Requests that were turned away, or broke off before their id was sent.
    pub unheard: u64,
    /// Of those, answered and booked all the same.
    pub answered_unheard: u64,
    /// Ledger events.
    pub booked: u64,
    /// Booked in all, in millisatoshi.
    pub owed_msat: i64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "crash harness: {} kills; {} ids sent, {} answered, {} lost, {} doubled; {} asked again in \
             peace; {} turned away or broken off before their id, {} of them answered all the same; \
             {} booked, {} msat owed",
            self.kills,
            self.sent,
            self.answered,
            self.lost.len(),
            self.doubled.len(),
            self.again,
            self.unheard,
            self.answered_unheard,
            self.booked,
            self.owed_msat,
        )
    }
}

/// Counts, once everything under way has ended.
pub async fn reckon(net: &mut Devnet, questions: &Questions) -> Result<Counts> {
    let mut counts = Counts {
        sent: questions.asked.len() as u64,
        unheard: questions.unheard,
        ..Counts::default()
    };
    for asked in &questions.asked {
        match read(asked).await? {
            Ok(()) => counts.answered += 1,
            Err(Fault::Lost(why)) => counts.lost.push(why),
            Err(Fault::Changed(why)) => counts.doubled.push(why),
        }
    }
    compare_answers(&questions.asked, &mut counts).await?;
    let mut db = PgConnection::connect(net.postgres().url()).await?;
    let open = settle(&mut db).await?;
    ensure!(open == 0, "{open} questions are still open");
    audit(&mut db, &mut counts).await?;
    compare_nodes(net, &mut db, &mut counts).await?;
    Ok(counts)
}

enum Fault {
    Lost(String),
    Changed(String),
}

/// Reads an answer twice and holds it against what the asker saw.
async fn read(asked: &Asked) -> Result<Result<(), Fault>> {
    let path = format!("/v1/requests/{}", asked.id);
    let start = Instant::now();
    let first = loop {
        let answer = asked.api.get(&path).await?;
        if answer.status == StatusCode::OK {
            break answer;
        }
        if answer.status != StatusCode::ACCEPTED || start.elapsed() > SETTLED_WITHIN {
            let said = String::from_utf8_lossy(&answer.body).into_owned();
            return Ok(Err(Fault::Lost(format!("{}: {said}", answer.status))));
        }
        tokio::time::sleep(POLL).await;
    };
    let second = asked.api.get(&path).await?;
    if first.body != second.body {
        return Ok(Err(Fault::Changed("two readings differ".into())));
    }
    let stored = first.json()?;
    let text = stored["answer"].as_str().context("an answer has a text")?;
    if !text.starts_with(&asked.streamed) {
        let why = format!("streamed {:?}, stored {text:?}", asked.streamed);
        return Ok(Err(Fault::Changed(why)));
    }
    if let Some(seen) = &asked.answer {
        for part in ["answer", "request_id", "receipt", "output_tokens"] {
            if seen[part] != stored[part] {
                return Ok(Err(Fault::Changed(format!("{part} was another one"))));
            }
        }
    }
    Ok(Ok(()))
}

/// Asks some of the questions again, in peace: with its seed a question has one answer, so one that was
/// given to another, or put together wrongly from two nodes' shares, shows.
async fn compare_answers(asked: &[Asked], counts: &mut Counts) -> Result<()> {
    let every = (asked.len() / COMPARED).max(1);
    for question in asked.iter().step_by(every) {
        let path = format!("/v1/requests/{}", question.id);
        let stored = question.api.get(&path).await?;
        if stored.status != StatusCode::OK {
            continue;
        }
        let mut body = question.body.clone();
        body["stream"] = false.into();
        let again = question.api.query_with(&body).await?;
        counts.again += 1;
        if stored.json()?["answer"] != again["answer"] {
            counts
                .doubled
                .push(format!("{body}: asked in peace it has another answer"));
        }
    }
    Ok(())
}

/// Waits until no request is open; how many are left.
async fn settle(db: &mut PgConnection) -> Result<i64> {
    let start = Instant::now();
    loop {
        let open = number(db, "select count(*) from requests where state = 'open'").await?;
        if open == 0 || start.elapsed() > SETTLED_WITHIN {
            return Ok(open);
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn number(db: &mut PgConnection, sql: &'static str) -> Result<i64> {
    let row = sqlx::query(sql).fetch_one(db).await?;
    Ok(row.try_get(0)?)
}

/// What must be zero in the tables, with what it would mean.
const AUDIT: &[(&str, &str)] = &[
    (
        "answered requests not booked exactly once",
        "select count(*) from requests r where r.state = 'answered' and 1 <> \
         (select count(*) from ledger_events e where e.task_id = r.task_id and e.kind = 'reward')",
    ),
    (
        "bookings without an answer",
        "select count(*) from ledger_events e where e.kind = 'reward' and not exists \
         (select 1 from requests r where r.task_id = e.task_id and r.state = 'answered')",
    ),
    (
        "tasks with two winners",
        "select count(*) from (select task_id from task_attempts where outcome = 'accepted' \
         group by task_id having count(*) > 1) twice",
    ),
    (
        "done tasks whose winner is not the one accepted attempt",
        "select count(*) from tasks t where t.phase = 'done' and not exists \
         (select 1 from task_attempts a where a.task_id = t.task_id and a.outcome = 'accepted' \
          and a.node_id = t.winner_node and a.epoch = t.winner_epoch)",
    ),
    (
        "ledger events that do not sum to zero",
        "select count(*) from (select e.event_id from ledger_events e \
         left join ledger_entries l using (event_id) group by e.event_id \
         having coalesce(sum(l.amount_msat), 1) <> 0) unbalanced",
    ),
    (
        "leases left over",
        "select count(*) from tasks where phase in ('queued', 'leased')",
    ),
];

async fn audit(db: &mut PgConnection, counts: &mut Counts) -> Result<()> {
    for (what, sql) in AUDIT {
        let found = number(db, sql).await?;
        if found != 0 {
            counts.doubled.push(format!("{found} {what}"));
        }
    }
    let answered = number(db, "select count(*) from requests where state = 'answered'").await?;
    let heard = counts.answered + counts.again;
    counts.answered_unheard = answered.unsigned_abs().saturating_sub(heard);
    let booked = number(db, "select count(*) from ledger_events").await?;
    counts.booked = booked.unsigned_abs();
    let owed = "select coalesce(sum(-amount_msat), 0)::bigint from ledger_entries \
                where node_id is not null";
    counts.owed_msat = number(db, owed).await?;
    Ok(())
}

/// Each node's own books against the ledger. Acknowledgements may still be on their way.
async fn compare_nodes(net: &mut Devnet, db: &mut PgConnection, counts: &mut Counts) -> Result<()> {
    let rows = sqlx::query(
        "select n.public_key, coalesce(sum(-l.amount_msat), 0)::bigint from nodes n \
         join ledger_entries l using (node_id) group by n.public_key",
    )
    .fetch_all(db)
    .await?;
    let mut owed = BTreeMap::new();
    for row in rows {
        owed.insert(row.try_get::<String, _>(0)?, row.try_get::<i64, _>(1)?);
    }
    for node in net.nodes() {
        let start = Instant::now();
        loop {
            let said: Value = serde_json::from_str(&node.command(&["earnings", "--json"]).await?)?;
            let key = node.status().await?;
            let key = key
                .pointer("/status/node_key")
                .and_then(Value::as_str)
                .map(str::to_owned);
            let key = key.context("a node's status has its key")?;
            let (theirs, ours) = (said["owed_msat"].as_i64(), owed.get(&key).copied());
            if theirs == Some(ours.unwrap_or(0)) {
                break;
            }
            if start.elapsed() > SETTLED_WITHIN {
                let why = format!(
                    "{} believes {theirs:?} msat, the ledger says {ours:?}",
                    node.name()
                );
                counts.doubled.push(why);
                break;
            }
            tokio::time::sleep(POLL).await;
        }
    }
    Ok(())
}
