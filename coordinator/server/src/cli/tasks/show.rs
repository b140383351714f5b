//! What `task list` and `task show` print.

use std::fmt::Write as _;

use owm_coordinator_domain::evaluation::{Flag, Report, Summary, summarise};
use owm_coordinator_store::{
    Store,
    evaluation::{Evaluation, EvaluationTask, evaluation_list, evaluation_tasks},
};
use owm_proto::{EvaluationId, UnixMillis, evaluation::Finding};
use owm_service::{RunError, config::HumanDuration};
use serde_json::{Value, json};

use super::super::commands::{LIST_MAX, print};

pub(super) async fn list(store: &Store, json: bool, now: UnixMillis) -> Result<(), RunError> {
    let mut tx = store.begin("evaluation.list").await?;
    let all = evaluation_list(&mut tx, None, LIST_MAX).await?;
    let values: Vec<Value> = all.iter().map(head).collect();
    let mut lines = vec![format!(
        "{:<36} {:<10} {:<12} {:>9} {:>6}  text",
        "evaluation", "sub-model", "asked", "reports", "open"
    )];
    lines.extend(all.iter().map(|one| {
        let ago = HumanDuration::from_secs(now.since(one.created_at).as_secs());
        format!(
            "{:<36} {:<10} {:<12} {:>9} {:>6}  {}",
            one.id.to_string(),
            one.sub_model.as_str(),
            format!("{ago} ago"),
            format!("{} of {}", one.reported, one.wanted),
            one.open,
            one.ask.text
        )
    }));
    print(json, &json!(values), &lines.join("\n"))
}

pub(super) async fn show(store: &Store, id: EvaluationId, json: bool) -> Result<(), RunError> {
    let mut tx = store.begin("evaluation.show").await?;
    let found = evaluation_list(&mut tx, Some(id), 1).await?.pop();
    let missing = || {
        RunError::failed(format!(
            "there is no evaluation {id}; `owm-coordinator task list` shows all"
        ))
    };
    let evaluation = found.ok_or_else(missing)?;
    let tasks = evaluation_tasks(&mut tx, id).await?;
    let reports: Vec<Report> = tasks
        .iter()
        .filter_map(|task| task.report.clone())
        .collect();
    let summary = summarise(&reports);
    let flagged = with_flags(&tasks, &summary);
    let mut value = head(&evaluation);
    value["loss"] = json!(summary.loss);
    value["bits_per_byte"] = json!(summary.bits_per_byte);
    value["owners"] = json!(summary.owners);
    let tasks = flagged.iter().map(|(task, flag)| row(task, *flag));
    value["tasks"] = tasks.collect();
    print(json, &value, &sheet(&evaluation, &flagged, &summary))
}

/// Each task beside what is wrong with its report.
fn with_flags<'a>(
    tasks: &'a [EvaluationTask],
    summary: &Summary,
) -> Vec<(&'a EvaluationTask, Option<Flag>)> {
    let mut flags = summary.flags.iter();
    let flag = |task: &EvaluationTask| task.report.as_ref().and_then(|_| *flags.next()?);
    let flags: Vec<Option<Flag>> = tasks.iter().map(flag).collect();
    tasks.iter().zip(flags).collect()
}

fn head(one: &Evaluation) -> Value {
    json!({
        "evaluation_id": one.id, "sub_model": one.sub_model, "model_version": one.model_version,
        "candidate": one.ask.weights_sha256(), "text": one.ask.text.to_string(),
        "documents_max": one.ask.documents_max, "bytes_max": one.ask.bytes_max,
        "tokens_max": one.ask.tokens_max, "window": one.ask.window, "seed": one.ask.seed,
        "wanted": one.wanted, "reported": one.reported, "open": one.open, "settled_at_ms": one.settled_at,
        "created_at_ms": one.created_at, "deadline_ms": one.deadline,
    })
}

fn row(task: &EvaluationTask, flag: Option<Flag>) -> Value {
    let mut value = json!({
        "task_id": task.task_id, "phase": task.phase, "node": task.node.map(|(_, key)| key),
        "trouble": task.trouble, "owed_msat": task.reward.0, "exec_ms": task.exec_ms,
        "report_sha256": task.report_sha256, "flag": flag.map(|flag| flag.to_string()),
    });
    let Some(report) = &task.report else {
        return value;
    };
    let said = &report.said;
    value["owner"] = json!(report.owner);
    value["backend"] = json!(report.backend);
    // As signed: figures as the bits of an f64, beside the same for people.
    value["report"] = json!(said);
    value["documents"] = json!(said.documents);
    value["tokens"] = json!(said.tokens);
    value["bytes"] = json!(said.bytes);
    value["tokens_sha256"] = json!(said.tokens_sha256);
    match &said.finding {
        Finding::HeldOut {
            loss,
            bits_per_byte,
        } => {
            value["loss"] = json!(loss.0);
            value["bits_per_byte"] = json!(bits_per_byte.0);
        }
        Finding::Update {
            sha256,
            size,
            losses,
        } => {
            value["update_sha256"] = json!(sha256);
            value["update_bytes"] = json!(size);
            value["losses"] = json!([losses[0].0, losses[1].0]);
        }
    }
    value
}

fn sheet(one: &Evaluation, tasks: &[(&EvaluationTask, Option<Flag>)], summary: &Summary) -> String {
    let weights: Vec<String> = one
        .ask
        .weights_sha256()
        .iter()
        .map(ToString::to_string)
        .collect();
    let mut text = format!(
        "evaluation {}\n{} of {}, candidate {}\ntext {}, rows of {} tokens, seed {}\n{} of {} reports, {} tasks open",
        one.id,
        one.sub_model,
        one.model_version,
        weights.join(" "),
        one.ask.text,
        one.ask.window,
        one.ask.seed,
        one.reported,
        one.wanted,
        one.open
    );
    if let (Some(loss), Some(bits)) = (summary.loss, summary.bits_per_byte) {
        let _ = write!(
            text,
            "\nmedian over {} owners: {bits:.6} bits per byte, {loss:.6} nats per token",
            summary.owners
        );
    }
    for (task, flag) in tasks {
        let node = task
            .node
            .map_or_else(|| "-".to_owned(), |(_, key)| key.short());
        let _ = write!(text, "\n{:<10} {:<8} {}", node, task.phase, line(task));
        if let Some(flag) = flag {
            let _ = write!(text, "\n           ! {flag}");
        }
    }
    text
}

fn line(task: &EvaluationTask) -> String {
    let Some(report) = &task.report else {
        return task.trouble.clone();
    };
    let said = &report.said;
    match &said.finding {
        Finding::HeldOut {
            loss,
            bits_per_byte,
        } => format!(
            "{:.6} bits per byte, {:.6} nats per token, {} tokens of {} documents, {}, {} ms, {} owed",
            bits_per_byte.0,
            loss.0,
            said.tokens,
            said.documents,
            report.backend,
            task.exec_ms,
            task.reward
        ),
        Finding::Update {
            sha256,
            size,
            losses,
        } => format!(
            "update {sha256} of {size} bytes, loss {:.4} to {:.4}, {}, {} ms, {} owed",
            losses[0].0, losses[1].0, report.backend, task.exec_ms, task.reward
        ),
    }
}
