//! The control socket of a running node: one JSON line in, one out, for this user only (mode 0600).
//! `daemon` serves it, `cli` asks and gives orders. The lines themselves are `owm_service::control`'s business.

use std::{path::Path, time::Duration};

use owm_proto::VersionId;
pub use owm_service::control::ControlError;
use owm_service::{
    control::{self, Daemon, Reply},
    telemetry::{LevelAnswer, LevelAsk},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    activity::RunningTask,
    asking::{LocalQuestion, SoFar},
    facts::{Facts, Sources},
    models::FetchPicture,
    orders::{OrderBook, OrderError, Pause},
    status::Status,
    swarm::SwarmPicture,
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
    /// The log filter.
    LogLevel(LevelAsk),
    /// A question of this machine's user; answered by its number, or why not.
    Question(LocalQuestion),
    /// How far its answer is; answered by [`SoFar`], or nothing if it is over.
    SoFar {
        /// The number.
        id: u64,
        /// Bytes of the answer that the asker has.
        from: usize,
    },
    /// Fetch a version; answered by a number, or why not.
    Fetch {
        /// `None`: the newest.
        version: Option<VersionId>,
    },
    /// How far that is; answered by [`FetchPicture`], or nothing if it is another's turn. Who does not ask for some
    /// seconds has gone, and the fetch ends.
    FetchSoFar {
        /// The number.
        id: u64,
    },
    /// The asker leaves it; answered by nothing.
    FetchEnd {
        /// The number.
        id: u64,
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
    /// The swarm as it sees it; absent from an older node.
    #[serde(default)]
    pub swarm: Option<SwarmPicture>,
    /// What it computes now, and how far that is.
    #[serde(default)]
    pub running: Vec<RunningTask>,
}

/// Serves until dropped. The socket of a former process is replaced: the folder's lock is ours.
pub fn serve(
    path: &Path,
    sources: Sources,
    orders: OrderBook,
) -> Result<impl Future<Output = ()> + Send + use<>, ControlError> {
    let listener = control::bind(path)?;
    Ok(listener.serve(move |line: String| {
        let (sources, orders) = (sources.clone(), orders.clone());
        async move { answer(&line, &sources, orders).await }
    }))
}

async fn answer(line: &str, sources: &Sources, orders: OrderBook) -> Option<Reply> {
    let reply = match serde_json::from_str(line).ok()? {
        Ask::Status => {
            let earnings = sources.log.run(TaskLog::earnings).await.ok();
            let status = sources.status.borrow().clone();
            let swarm = Some(SwarmPicture::clone(&sources.swarm.borrow()));
            let now = sources.clock.monotonic();
            Reply::of(&StatusAnswer {
                running: sources.activity.snapshot(now).running,
                status,
                earnings,
                swarm,
            })
        }
        Ask::Facts => Reply::of(&sources.facts().await),
        Ask::Pause { for_ms } => {
            let time = for_ms.map(Duration::from_millis);
            Reply::of(&write(&orders, move |orders| orders.pause(time).map(drop)).await?)
        }
        Ask::Resume => Reply::of(&write(&orders, OrderBook::resume).await?),
        // Only once it is answered: an idle node ends at once, and this socket with it.
        Ask::Drain { within_ms } => Reply::of(&taken(&orders, None))
            .then(move || orders.drain(Duration::from_millis(within_ms))),
        Ask::LogLevel(ask) => Reply::of(&sources.telemetry.take(&ask)),
        Ask::Question(question) => {
            let begun = sources.asking.begin(question);
            Reply::of(&begun.map_err(|error| error.to_string()))
        }
        Ask::SoFar { id, from } => Reply::of(&sources.asking.so_far(id, from)),
        Ask::Fetch { version } => Reply::of(&sources.fetching.begin(version)),
        Ask::FetchSoFar { id } => Reply::of(&sources.fetching.so_far(id)),
        Ask::FetchEnd { id } => {
            sources.fetching.end(id);
            Reply::of(&())
        }
    };
    Some(reply)
}

/// Writes an order into the book; the daemon reads it there.
async fn write(
    orders: &OrderBook,
    order: impl FnOnce(&OrderBook) -> Result<(), OrderError> + Send + 'static,
) -> Option<Taken> {
    let book = orders.clone();
    let outcome = tokio::task::spawn_blocking(move || order(&book)).await;
    Some(taken(orders, outcome.ok()?.err()))
}

fn taken(orders: &OrderBook, refused: Option<OrderError>) -> Taken {
    Taken {
        pause: orders.follow().borrow().pause,
        refused: refused.map(|error| error.to_string()),
    }
}

/// Why an order was not followed.
#[derive(Debug, thiserror::Error)]
pub enum OrderFailure {
    /// It did not arrive.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The node says no.
    #[error("{0}")]
    Refused(String),
}

/// Gives the node that runs in this folder an order.
pub async fn order(path: &Path, order: Ask) -> Result<Taken, OrderFailure> {
    let taken: Taken = question(path, &order).await?;
    match taken.refused {
        Some(why) => Err(OrderFailure::Refused(why)),
        None => Ok(taken),
    }
}

/// Asks the node that runs in this folder how it is.
pub async fn ask(path: &Path) -> Result<StatusAnswer, ControlError> {
    question(path, &Ask::Status).await
}

/// Asks it for all that `top` shows.
pub async fn facts(path: &Path) -> Result<Facts, ControlError> {
    question(path, &Ask::Facts).await
}

/// Asks its model; the number of the question, or why it is not answered.
pub async fn begin_question(
    path: &Path,
    asked: LocalQuestion,
) -> Result<Result<u64, String>, ControlError> {
    question(path, &Ask::Question(asked)).await
}

/// What has come of the answer after its first `from` bytes; `None`: the question is over.
pub async fn answer_so_far(
    path: &Path,
    id: u64,
    from: usize,
) -> Result<Option<SoFar>, ControlError> {
    question(path, &Ask::SoFar { id, from }).await
}

/// Has it fetch a version; the number of the fetch, or why not.
pub async fn begin_fetch(
    path: &Path,
    version: Option<VersionId>,
) -> Result<Result<u64, String>, ControlError> {
    question(path, &Ask::Fetch { version }).await
}

/// How far that is; `None`: it is over.
pub async fn fetch_so_far(path: &Path, id: u64) -> Result<Option<FetchPicture>, ControlError> {
    question(path, &Ask::FetchSoFar { id }).await
}

/// Leaves it; without anybody who waits for it, it ends.
pub async fn end_fetch(path: &Path, id: u64) -> Result<(), ControlError> {
    question(path, &Ask::FetchEnd { id }).await
}

/// Asks it about its log filter.
pub async fn log_level(path: &Path, ask: LevelAsk) -> Result<LevelAnswer, ControlError> {
    question(path, &Ask::LogLevel(ask)).await
}

async fn question<A: DeserializeOwned>(path: &Path, question: &Ask) -> Result<A, ControlError> {
    control::ask(path, NODE, question).await
}
