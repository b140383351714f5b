//! The control socket of a running node: one JSON line in, one out, for this user only (mode 0600).
//! `daemon` serves it, `cli` asks.

use std::{os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::watch,
};

use crate::{
    status::Status,
    tasklog::{Earnings, TaskLog},
};

/// Longest line of either side, in bytes.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// Time for one question.
const TIME: Duration = Duration::from_secs(5);

/// A question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Ask {
    /// How are you?
    Status,
}

/// The answer to [`Ask::Status`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusAnswer {
    /// The node.
    pub status: Status,
    /// Its work.
    pub earnings: Option<Earnings>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("owm-node is not running here (nobody answers on {0}); start it: owm-node start")]
    NotRunning(String),
    /// The socket can't be made.
    #[error(
        "cannot make the control socket {path}; is the path longer than 100 characters, or the folder not ours?"
    )]
    Bind {
        /// Where.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It broke, or answered nonsense.
    #[error("the running owm-node gave no usable answer; is it another version?")]
    Broken,
}

/// Serves until dropped. The socket of a former process is replaced: the folder's lock is ours.
pub fn serve(
    path: &Path,
    status: watch::Receiver<Status>,
    log: TaskLog,
) -> Result<impl Future<Output = ()> + Send + use<>, ControlError> {
    let failed = |source| ControlError::Bind {
        path: path.display().to_string(),
        source,
    };
    drop(std::fs::remove_file(path));
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            // One after the other: its user is one person.
            let answered = tokio::time::timeout(TIME, answer(stream, &status, &log)).await;
            if !matches!(answered, Ok(Ok(()))) {
                tracing::debug!("a question on the control socket was not answered");
            }
        }
    })
}

async fn answer(
    stream: UnixStream,
    status: &watch::Receiver<Status>,
    log: &TaskLog,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    (&mut stream)
        .take(LINE_BYTES_MAX)
        .read_line(&mut line)
        .await?;
    let Ask::Status = serde_json::from_str(&line)?;
    let earnings = log.run(TaskLog::earnings).await.ok();
    let answer = StatusAnswer {
        status: status.borrow().clone(),
        earnings,
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    stream.get_mut().write_all(&text).await
}

/// Asks the node that runs in this folder.
pub async fn ask(path: &Path) -> Result<StatusAnswer, ControlError> {
    let stream = UnixStream::connect(path)
        .await
        .map_err(|_| ControlError::NotRunning(path.display().to_string()))?;
    let asking = async move {
        let mut stream = BufReader::new(stream);
        let mut question = serde_json::to_vec(&Ask::Status)?;
        question.push(b'\n');
        stream.get_mut().write_all(&question).await?;
        let mut line = String::new();
        stream.take(LINE_BYTES_MAX).read_line(&mut line).await?;
        Ok::<StatusAnswer, std::io::Error>(serde_json::from_str(&line)?)
    };
    match tokio::time::timeout(TIME, asking).await {
        Ok(Ok(answer)) => Ok(answer),
        _ => Err(ControlError::Broken),
    }
}
