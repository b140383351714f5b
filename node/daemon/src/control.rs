//! The control socket of a running node: one JSON line in, one out, for this user only (mode 0600).
//! `daemon` serves it, `cli` asks. The lines themselves are `owm_service::control`'s business.

use std::path::Path;

pub use owm_service::control::ControlError;
use owm_service::{
    control::{self, Daemon, Reply},
    telemetry::{LevelAnswer, LevelAsk},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    facts::{Facts, Sources},
    status::Status,
    tasklog::{Earnings, TaskLog},
};

/// Who is asked.
const NODE: Daemon = Daemon {
    program: "owm-node",
    start: "owm-node start",
};

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Ask {
    /// How are you?
    Status,
    /// All that `top` shows.
    Facts,
    /// The log filter.
    LogLevel(LevelAsk),
}

/// The answer to [`Ask::Status`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusAnswer {
    /// The node.
    pub status: Status,
    /// Its work.
    pub earnings: Option<Earnings>,
}

/// Serves until dropped. The socket of a former process is replaced: the folder's lock is ours.
pub fn serve(
    path: &Path,
    sources: Sources,
) -> Result<impl Future<Output = ()> + Send + use<>, ControlError> {
    let listener = control::bind(path)?;
    Ok(listener.serve(move |line: String| {
        let sources = sources.clone();
        async move { answer(&line, &sources).await }
    }))
}

async fn answer(line: &str, sources: &Sources) -> Option<Reply> {
    let reply = match serde_json::from_str(line).ok()? {
        Ask::Status => {
            let earnings = sources.log.run(TaskLog::earnings).await.ok();
            let status = sources.status.borrow().clone();
            Reply::of(&StatusAnswer { status, earnings })
        }
        Ask::Facts => Reply::of(&sources.facts().await),
        Ask::LogLevel(ask) => Reply::of(&sources.telemetry.take(&ask)),
    };
    Some(reply)
}

/// Asks the node that runs in this folder how it is.
pub async fn ask(path: &Path) -> Result<StatusAnswer, ControlError> {
    question(path, &Ask::Status).await
}

/// Asks it for all that `top` shows.
pub async fn facts(path: &Path) -> Result<Facts, ControlError> {
    question(path, &Ask::Facts).await
}

/// Asks it about its log filter.
pub async fn log_level(path: &Path, ask: LevelAsk) -> Result<LevelAnswer, ControlError> {
    question(path, &Ask::LogLevel(ask)).await
}

async fn question<A: DeserializeOwned>(path: &Path, question: &Ask) -> Result<A, ControlError> {
    control::ask(path, NODE, question).await
}
