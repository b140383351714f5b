//! The control socket of a running node: one JSON line in, one out, for this user only (mode 0600).
//! `daemon` serves it, `cli` asks and gives orders.

use std::{os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::watch,
};

use crate::{
    orders::{OrderBook, OrderError, Pause},
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
    /// Take no new work; answered by [`Taken`].
    Pause {
        /// For so long; without it until [`Ask::Resume`].
        for_ms: Option<u64>,
    },
    /// Take work again; answered by [`Taken`].
    Resume,
    /// Finish what runs, hand in results, end; answered by [`Taken`] before it has happened.
    Drain {
        /// What is not done within this time is handed back.
        within_ms: u64,
    },
}

/// The answer to an order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Taken {
    /// The pause that holds now.
    pub pause: Option<Pause>,
    /// Why the order was not taken; `None`: it was.
    pub refused: Option<String>,
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
    /// It does not follow.
    #[error("{0}")]
    Refused(String),
}

/// Serves until dropped. The socket of a former process is replaced: the folder's lock is ours.
pub fn serve(
    path: &Path,
    status: watch::Receiver<Status>,
    log: TaskLog,
    orders: OrderBook,
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
            let answered = tokio::time::timeout(TIME, answer(stream, &status, &log, &orders)).await;
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
    orders: &OrderBook,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    (&mut stream)
        .take(LINE_BYTES_MAX)
        .read_line(&mut line)
        .await?;
    let mut drains = None;
    let mut text = match serde_json::from_str(&line)? {
        Ask::Status => {
            let earnings = log.run(TaskLog::earnings).await.ok();
            let status = status.borrow().clone();
            serde_json::to_vec(&StatusAnswer { status, earnings })?
        }
        Ask::Drain { within_ms } => {
            drains = Some(Duration::from_millis(within_ms));
            serde_json::to_vec(&taken(orders, None))?
        }
        Ask::Pause { for_ms } => {
            let time = for_ms.map(Duration::from_millis);
            serde_json::to_vec(&write(orders, move |orders| orders.pause(time).map(drop)).await?)?
        }
        Ask::Resume => serde_json::to_vec(&write(orders, OrderBook::resume).await?)?,
    };
    text.push(b'\n');
    let written = stream.get_mut().write_all(&text).await;
    // Only now: an idle node ends at once, and this socket with it.
    if let Some(within) = drains {
        orders.drain(within);
    }
    written
}

/// Writes an order into the book; the daemon reads it there.
async fn write(
    orders: &OrderBook,
    order: impl FnOnce(&OrderBook) -> Result<(), OrderError> + Send + 'static,
) -> std::io::Result<Taken> {
    let book = orders.clone();
    let outcome = tokio::task::spawn_blocking(move || order(&book)).await?;
    Ok(taken(orders, outcome.err()))
}

fn taken(orders: &OrderBook, refused: Option<OrderError>) -> Taken {
    Taken {
        pause: orders.follow().borrow().pause,
        refused: refused.map(|error| error.to_string()),
    }
}

/// Gives the node that runs in this folder an order.
pub async fn order(path: &Path, order: Ask) -> Result<Taken, ControlError> {
    let taken: Taken = exchange(path, order).await?;
    match taken.refused {
        Some(why) => Err(ControlError::Refused(why)),
        None => Ok(taken),
    }
}

/// Asks the node that runs in this folder.
pub async fn ask(path: &Path) -> Result<StatusAnswer, ControlError> {
    exchange(path, Ask::Status).await
}

async fn exchange<T: DeserializeOwned>(path: &Path, ask: Ask) -> Result<T, ControlError> {
    let stream = UnixStream::connect(path)
        .await
        .map_err(|_| ControlError::NotRunning(path.display().to_string()))?;
    let asking = async move {
        let mut stream = BufReader::new(stream);
        let mut question = serde_json::to_vec(&ask)?;
        question.push(b'\n');
        stream.get_mut().write_all(&question).await?;
        let mut line = String::new();
        stream.take(LINE_BYTES_MAX).read_line(&mut line).await?;
        Ok::<T, std::io::Error>(serde_json::from_str(&line)?)
    };
    match tokio::time::timeout(TIME, asking).await {
        Ok(Ok(answer)) => Ok(answer),
        _ => Err(ControlError::Broken),
    }
}
