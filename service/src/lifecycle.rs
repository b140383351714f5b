//! How a daemon lives and stops: soft and hard shutdown, tracked tasks, the reason it stopped.
//!
//! `run` makes one [`Lifecycle`] per process and hands it out in the `Context`; every long-lived task
//! is started with [`Lifecycle::spawn`]. Must stay true: a task that fails or panics stops the whole
//! process softly and the exit code tells; after the grace period nothing holds the process back.
//!
//! The first SIGTERM or SIGINT is soft (finish or hand back what you hold, start nothing new), the
//! second is hard (every tracked task is dropped where it waits).

use std::{
    any::Any,
    fmt::Display,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::FutureExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

use crate::report::Chain;

/// Time between soft and hard shutdown unless the daemon sets another.
pub const GRACE_DEFAULT: Duration = Duration::from_secs(30);
/// Time that dropped tasks get after the hard token, to run their destructors.
const HARD_WAIT: Duration = Duration::from_secs(5);

/// The error a task may end with: any error, `anyhow::Error` and strings included.
pub type TaskError = Box<dyn std::error::Error + Send + Sync>;

/// A task that ended in an error or a panic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskFailure {
    /// The name given to `spawn`.
    pub task: String,
    /// The error with its causes, or the panic's message.
    pub reason: String,
}

/// Shared by all tasks of a process; cheap to clone.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    soft: CancellationToken,
    hard: CancellationToken,
    tracker: TaskTracker,
    failures: Mutex<Vec<TaskFailure>>,
    grace: Mutex<Duration>,
}

impl Lifecycle {
    /// A lifecycle that nobody has asked to stop; `grace` separates soft from hard.
    pub fn new(grace: Duration) -> Self {
        let hard = CancellationToken::new();
        Self {
            inner: Arc::new(Inner {
                soft: hard.child_token(),
                hard,
                tracker: TaskTracker::new(),
                failures: Mutex::new(Vec::new()),
                grace: Mutex::new(grace),
            }),
        }
    }

    /// Cancelled when the process should finish its work and stop.
    pub fn soft(&self) -> CancellationToken {
        self.inner.soft.clone()
    }

    /// Cancelled when the process stops now.
    pub fn hard(&self) -> CancellationToken {
        self.inner.hard.clone()
    }

    /// Waits until shutdown is asked for.
    pub async fn shutdown_requested(&self) {
        self.inner.soft.cancelled().await;
    }

    /// Whether shutdown has been asked for.
    pub fn is_shutting_down(&self) -> bool {
        self.inner.soft.is_cancelled()
    }

    /// Asks for a soft shutdown from inside.
    pub fn shutdown(&self) {
        self.inner.soft.cancel();
    }

    /// Time between soft and hard.
    pub fn grace(&self) -> Duration {
        *self
            .inner
            .grace
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the time between soft and hard (from the configuration, once it is read).
    pub fn set_grace(&self, grace: Duration) {
        *self
            .inner
            .grace
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = grace;
    }

    /// Starts a tracked task. Returning `Ok` is fine at any time; an error or a panic is recorded,
    /// logged and stops the process softly. The task should end soon after [`Self::soft`]; it is
    /// dropped at [`Self::hard`].
    pub fn spawn<E>(
        &self,
        name: impl Into<String>,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) where
        E: Into<TaskError> + Send + 'static,
    {
        let name = name.into();
        let lifecycle = self.clone();
        let span = tracing::info_span!("task", task.name = %name);
        let watched = async move {
            let hard = lifecycle.hard();
            let outcome = tokio::select! {
                outcome = AssertUnwindSafe(task).catch_unwind() => outcome,
                () = hard.cancelled() => {
                    tracing::warn!("task dropped by the hard shutdown");
                    return;
                }
            };
            match outcome {
                Ok(Ok(())) => tracing::debug!("task ended"),
                Ok(Err(error)) => {
                    let error: TaskError = error.into();
                    lifecycle.fail(name, &Chain(&*error));
                }
                Err(panic) => {
                    lifecycle.fail(name, &format_args!("panicked: {}", panic_text(&*panic)));
                }
            }
        };
        drop(self.inner.tracker.spawn(watched.instrument(span)));
    }

    /// Tasks that failed, in order.
    pub fn failures(&self) -> Vec<TaskFailure> {
        self.inner
            .failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Listens for SIGTERM and SIGINT from now on. `run` calls it.
    pub fn watch_signals(&self) -> std::io::Result<()> {
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let lifecycle = self.clone();
        // Not tracked: it must outlive every task and ends with the runtime.
        drop(tokio::spawn(async move {
            let name = next_signal(&mut term, &mut int).await;
            let grace = lifecycle.grace();
            tracing::info!(
                signal = name,
                grace_secs = grace.as_secs(),
                "shutting down; a second signal stops at once"
            );
            lifecycle.inner.soft.cancel();
            let name = next_signal(&mut term, &mut int).await;
            tracing::warn!(signal = name, "stopping at once");
            lifecycle.inner.hard.cancel();
        }));
        Ok(())
    }

    /// Ends the lifecycle: soft, then, when the grace period is over, hard. Returns whether every
    /// task ended.
    pub async fn finish(&self) -> bool {
        let inner = &self.inner;
        inner.soft.cancel();
        inner.tracker.close();
        let gently = async {
            tokio::select! {
                () = inner.tracker.wait() => {}
                () = inner.hard.cancelled() => {}
            }
        };
        if tokio::time::timeout(self.grace(), gently).await.is_err() {
            tracing::warn!(
                tasks = inner.tracker.len(),
                "grace period over, tasks are dropped"
            );
        }
        inner.hard.cancel();
        tokio::time::timeout(HARD_WAIT, inner.tracker.wait())
            .await
            .is_ok()
    }

    fn fail(&self, task: String, reason: &dyn Display) {
        let reason = reason.to_string();
        tracing::error!(task.reason = %reason, "task failed, the process stops");
        self.inner
            .failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(TaskFailure { task, reason });
        self.inner.soft.cancel();
    }
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new(GRACE_DEFAULT)
    }
}

async fn next_signal(term: &mut Signal, int: &mut Signal) -> &'static str {
    tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
    }
}

/// The message of a caught panic.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&'static str>() {
        text
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text
    } else {
        "with a value that is no text"
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    async fn panics(slot: u32) -> Result<(), TaskError> {
        tokio::task::yield_now().await;
        panic!("slot {slot} is taken twice")
    }

    #[tokio::test]
    async fn a_panicking_task_stops_the_process_and_is_named() {
        let lifecycle = Lifecycle::default();
        lifecycle.spawn("scheduler", panics(3));
        lifecycle.shutdown_requested().await;
        assert!(lifecycle.finish().await);
        let failure = TaskFailure {
            task: "scheduler".into(),
            reason: "panicked: slot 3 is taken twice".into(),
        };
        assert_eq!(lifecycle.failures(), [failure]);
    }

    #[tokio::test]
    async fn a_failing_task_stops_the_others_softly() {
        let lifecycle = Lifecycle::default();
        let soft = lifecycle.soft();
        let (told, heard) = tokio::sync::oneshot::channel();
        lifecycle.spawn("patient", async move {
            soft.cancelled().await;
            told.send("handed back").expect("the test listens");
            Ok::<(), TaskError>(())
        });
        lifecycle.spawn("broken", async { Err(std::io::Error::other("disk full")) });
        assert_eq!(heard.await.unwrap(), "handed back");
        assert!(lifecycle.finish().await);
        assert_eq!(lifecycle.failures()[0].reason, "disk full");
        assert!(lifecycle.is_shutting_down());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stubborn_task_is_dropped_after_the_grace_period() {
        let lifecycle = Lifecycle::new(Duration::from_secs(30));
        lifecycle.spawn("stubborn", pending::<Result<(), TaskError>>());
        let started = tokio::time::Instant::now();
        assert!(lifecycle.finish().await);
        assert_eq!(started.elapsed().as_secs(), 30);
        assert!(lifecycle.hard().is_cancelled());
        assert_eq!(lifecycle.failures(), []);
    }

    #[tokio::test]
    async fn a_task_that_ends_well_stops_nothing() {
        let lifecycle = Lifecycle::default();
        lifecycle.spawn("once", async { Ok::<(), TaskError>(()) });
        lifecycle.inner.tracker.close();
        lifecycle.inner.tracker.wait().await;
        assert!(!lifecycle.is_shutting_down());
        assert!(lifecycle.failures().is_empty());
    }
}
