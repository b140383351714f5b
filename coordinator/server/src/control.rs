//! The control socket of a running coordinator: its log filter, for its own user only. A Unix socket and
//! no path on the health port: no browser and no other user can reach it, so nothing has to be checked.
//! `serve` binds it, `cli` asks.

use std::path::Path;

use owm_service::{
    control::{self, ControlError, Daemon, Reply},
    telemetry::{Handle, LevelAnswer, LevelAsk},
};
use serde::{Deserialize, Serialize};

const COORDINATOR: Daemon = Daemon {
    program: "owm-coordinator",
    start: "owm-coordinator serve",
};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
enum Ask {
    LogLevel(LevelAsk),
}

/// Serves until dropped. The socket of a former process is replaced.
pub fn serve(
    path: &Path,
    telemetry: Handle,
) -> Result<impl Future<Output = ()> + Send + use<>, ControlError> {
    let listener = control::bind(path)?;
    Ok(listener.serve(move |line: String| {
        let telemetry = telemetry.clone();
        async move {
            let Ask::LogLevel(ask) = serde_json::from_str(&line).ok()?;
            Some(Reply::of(&telemetry.take(&ask)))
        }
    }))
}

/// Asks the coordinator that runs with this socket about its log filter.
pub async fn log_level(path: &Path, ask: LevelAsk) -> Result<LevelAnswer, ControlError> {
    control::ask(path, COORDINATOR, &Ask::LogLevel(ask)).await
}
