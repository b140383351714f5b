//! What `owm-devnet up` tells a person: progress while it starts, then how to use it.

use std::{
    collections::BTreeSet,
    fmt::Write,
    io::{self, IsTerminal, Write as _},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{devnet::Devnet, paths::program};

/// Says that a step has begun or ended. At a terminal the line is replaced by its outcome.
pub(crate) fn step(what: &str, took: Option<Duration>) {
    let mut err = io::stderr().lock();
    let terminal = err.is_terminal();
    let written = match took {
        None if terminal => write!(err, "\r\x1b[2K  {what} …"),
        None => Ok(()),
        Some(took) => {
            let start = if terminal { "\r\x1b[2K" } else { "" };
            writeln!(
                err,
                "{start}  {what:<30} ready after {:.1} s",
                took.as_secs_f64()
            )
        }
    };
    // Nobody listens: nothing to tell.
    drop(written.and_then(|()| err.flush()));
}

/// The model as the API shows it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Served {
    pub(crate) version: String,
    pub(crate) note: String,
    pub(crate) sub_models: Vec<String>,
    pub(crate) default: String,
    pub(crate) files: Vec<(String, String)>,
}

/// Who is connected in the swarm and what they know, by the nodes' own word:
/// `node1 127.0.0.1:4002 (3 peers, checkpoint 1)`.
pub(crate) async fn swarm(devnet: &Devnet) -> String {
    let mut parts = vec![format!(
        "coordinator {}",
        devnet.coordinator_ref().p2p_address()
    )];
    for node in devnet.nodes_ref() {
        let status = node.status().await.unwrap_or_default();
        let peers = connected(&status);
        parts.push(format!("{} {} ({peers})", node.name(), node.p2p_address()));
    }
    parts.join(", ")
}

/// How many peers a node is connected with, and the sequence of the newest checkpoint that it knows, by its own
/// status.
fn connected(status: &Value) -> String {
    let swarm = &status["swarm"];
    let peers = match swarm["peers_connected"].as_u64() {
        Some(1) => "1 peer".to_owned(),
        Some(peers) => format!("{peers} peers"),
        None => return "not running".to_owned(),
    };
    match swarm["newest"]["sequence"].as_u64() {
        Some(sequence) => format!("{peers}, checkpoint {sequence}"),
        None => peers,
    }
}

/// All that a person needs, the API's URL first; `swarm` as [`swarm()`] tells.
pub(crate) fn banner(devnet: &mut Devnet, served: &Served, swarm: String) -> String {
    let mut out = String::new();
    let api = devnet.api().base().to_owned();
    let rpc = devnet.coordinator().rpc_address();
    let mut line = |name: &str, text: String| {
        writeln!(out, "  {name:<12} {text}").expect("writing to a String cannot fail");
    };
    line(
        "API",
        format!("{api}   (no key needed: devnet, loopback only; {api}/openapi.json)"),
    );
    line("coordinator", format!("ready; nodes connect to {rpc}"));
    for node in devnet.nodes() {
        line(node.name(), format!("ready; health {}", node.health_url()));
    }
    line("swarm", swarm);
    let port = devnet.postgres().port();
    let place = devnet.postgres().dir().display().to_string();
    line(
        "database",
        format!("ready; Postgres of its own, port {port}, in {place}"),
    );
    line(
        "model",
        format!("{} ({})", served.version, served.sub_models.join(", ")),
    );
    line("", served.note.clone());
    for (name, sha256) in &served.files {
        line("", format!("SHA-256 {sha256}  {name}"));
    }
    line(
        "relaxed",
        "no stake required, CPU nodes allowed, tiny minima, open API: a devnet".to_owned(),
    );
    let (dir, logs) = (
        devnet.dir().display().to_string(),
        devnet.logs().display().to_string(),
    );
    let invite = devnet.invite().to_owned();
    write!(
        out,
        "
Ask it:

  curl -s {api}/v1/query -H 'content-type: application/json' \\
    -d '{{\"query\": \"What is the capital of France?\", \"temperature\": 0}}'

With the openai client (pip install openai):

  from openai import OpenAI
  client = OpenAI(base_url=\"{api}/v1\", api_key=\"none\")
  answer = client.chat.completions.create(
      model=\"{model}\", temperature=0,
      messages=[{{\"role\": \"user\", \"content\": \"What is the capital of France?\"}}])
  print(answer.choices[0].message.content)

Join with one more node, on this machine:

  {node} init --dir my-node --join {invite}
  OWM_HEALTH__LISTEN=127.0.0.1:0 {node} start --config my-node/owm.toml

Logs are in {logs}, state is kept in {dir}.
Ctrl-C stops everything; `make reset` deletes the state.
",
        model = served.default,
        node = program("owm-node").map_or("owm-node".to_owned(), |path| path.display().to_string()),
    )
    .expect("writing to a String cannot fail");
    out
}

/// Reads what new questions are answered with out of `GET /v1/model/versions`.
pub(crate) fn served(versions: &Value) -> Result<Served> {
    let text = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let list = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
    let all = list(versions, "versions");
    let current = all.iter().find(|version| version["is_current"] == true);
    let current = current.context("the API names no current model version")?;
    let sub_models = list(current, "sub_models");
    let weights = sub_models
        .iter()
        .flat_map(|sub_model| list(sub_model, "weights"));
    // One file may serve several sub-models.
    let files: BTreeSet<_> = weights
        .map(|file| (text(&file, "name"), text(&file, "sha256")))
        .collect();
    let default = text(current, "default_sub_model");
    Ok(Served {
        version: text(current, "version"),
        note: text(current, "note"),
        sub_models: sub_models
            .iter()
            .map(|sub_model| text(sub_model, "id"))
            .collect(),
        default,
        files: files.into_iter().collect(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_swarm_line_counts_each_nodes_peers_and_says_who_takes_no_part() {
        let said = |peers: Value| connected(&json!({"swarm": {"peers_connected": peers}}));
        assert_eq!(said(json!(0)), "0 peers");
        assert_eq!(said(json!(1)), "1 peer");
        assert_eq!(said(json!(3)), "3 peers");
        let knows = json!({"swarm": {"peers_connected": 2, "newest": {"sequence": 7}}});
        assert_eq!(connected(&knows), "2 peers, checkpoint 7");
        // Its swarm is off, or the node did not answer.
        assert_eq!(connected(&json!({"swarm": null})), "not running");
        assert_eq!(connected(&Value::Null), "not running");
    }

    #[test]
    fn the_current_version_is_shown_with_each_file_once() {
        let weights = json!([{"name": "model.safetensors", "size": 1, "sha256": "ab"}]);
        let versions = json!({"versions": [
            {"version": "owm-v0.1.1", "is_current": false},
            {"version": "owm-v0.1.0", "is_current": true, "note": "n", "default_sub_model": "owm-geo",
             "sub_models": [{"id": "owm-code", "weights": weights}, {"id": "owm-geo", "weights": weights}]},
        ]});
        let served = served(&versions).unwrap();
        assert_eq!(served.version, "owm-v0.1.0");
        assert_eq!(served.sub_models, ["owm-code", "owm-geo"]);
        assert_eq!(
            served.files,
            [("model.safetensors".to_owned(), "ab".to_owned())]
        );
        assert!(super::served(&json!({"versions": []})).is_err());
    }
}
