//! Questions on their way into the queue: whoever asks while a commit is under way is queued with the
//! next one. Called by `ask`.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use owm_coordinator_store::{
    StoreError, Tx,
    intake::tasks_create,
    task::{NewTask, task_count_queued},
};
use owm_proto::{Role, TaskId, UnixMillis};

use super::QUEUE_PER_SLOT_MAX;
use crate::{
    app::App,
    batch::{Batch, Batcher, all_unavailable},
    failpoints::{ASK_AFTER_COMMIT, ASK_BEFORE_COMMIT},
};

/// How long a count is built upon. Other coordinators queue too; a second's worth of theirs may be
/// overlooked.
const COUNTED_FOR: Duration = Duration::from_secs(1);

/// How many tasks wait at most: the last count and everything queued here since. Counting takes a look
/// at each of them, so it is done only where this bound says that the queue might be full.
#[derive(Debug, Default)]
pub(crate) struct QueueBound(Mutex<Option<(UnixMillis, u64)>>);

impl QueueBound {
    fn get(&self, now: UnixMillis) -> Option<u64> {
        let bound = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bound.and_then(|(at, most)| (now.since(at) < COUNTED_FOR && now >= at).then_some(most))
    }

    fn counted(&self, at: UnixMillis, queued: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((at, queued));
    }

    fn add(&self, more: u64) {
        let mut bound = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, most)) = bound.as_mut() {
            *most += more;
        }
    }
}

/// A question to be queued.
pub(crate) struct NewQuestion {
    pub(super) task: NewTask,
    pub(super) at: UnixMillis,
    /// Slots that could answer it, busy ones included.
    pub(super) slots: u32,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Taken {
    /// It waits for a node.
    Queued(TaskId),
    /// So many wait already that it is turned away.
    Busy(u64),
    /// The database failed before anything could be queued.
    Failed(StoreError),
}

/// The intake.
pub(crate) struct Intake;

impl Batch for Intake {
    type Item = NewQuestion;
    type Answer = Taken;
    const MAX: usize = 128;
    const FOR_ITS_CALLER: bool = true;

    fn of(app: &App) -> &Batcher<Self> {
        &app.intake
    }

    async fn work(app: &App, items: Vec<NewQuestion>) -> Vec<Result<Taken, StoreError>> {
        match queue(app, &items).await {
            Ok(taken) => taken.into_iter().map(Ok).collect(),
            Err(failed) if items.len() == 1 => vec![failed.told()],
            Err(Unqueued(error)) => match all_unavailable::<Taken>(&error, items.len()) {
                Some(all) => all.into_iter().map(nothing_queued).collect(),
                None => one_by_one(app, items).await,
            },
            Err(Unsure(error)) => match all_unavailable(&error, items.len()) {
                Some(all) => all,
                None => one_by_one(app, items).await,
            },
        }
    }

    /// Nobody would ever end what is queued: the asker hung up while it was.
    fn unclaimed(app: &App, taken: Taken) {
        let Taken::Queued(task) = taken else { return };
        let app = app.clone();
        drop(tokio::spawn(async move {
            if let Err(error) = app.task_cancel(task, "the asker has gone").await {
                tracing::warn!(%error, task.id = %task, "a question nobody waits for stays queued");
            }
        }));
    }
}

/// A transaction that failed.
enum NotTaken {
    /// Before its commit: it left nothing behind.
    Unqueued(StoreError),
    /// At its commit, which may have arrived.
    Unsure(StoreError),
}
use NotTaken::{Unqueued, Unsure};

impl NotTaken {
    /// As its caller is told.
    fn told(self) -> Result<Taken, StoreError> {
        match self {
            Unqueued(error) => Ok(Taken::Failed(error)),
            Unsure(error) => Err(error),
        }
    }
}

fn nothing_queued(told: Result<Taken, StoreError>) -> Result<Taken, StoreError> {
    told.or_else(|error| Unqueued(error).told())
}

async fn one_by_one(app: &App, items: Vec<NewQuestion>) -> Vec<Result<Taken, StoreError>> {
    let mut all = Vec::with_capacity(items.len());
    for item in items {
        let one = queue(app, std::slice::from_ref(&item)).await;
        all.push(match one {
            Ok(taken) => taken.into_iter().next().ok_or_else(StoreError::interrupted),
            Err(failed) => failed.told(),
        });
    }
    all
}

/// One transaction: how many wait, then all that still fit behind them.
async fn queue(app: &App, items: &[NewQuestion]) -> Result<Vec<Taken>, NotTaken> {
    let (tx, taken) = queue_write(app, items).await.map_err(Unqueued)?;
    if taken.iter().any(|one| matches!(one, Taken::Queued(_))) {
        owm_service::failpoint::hit(ASK_BEFORE_COMMIT);
        tx.commit().await.map_err(Unsure)?;
        owm_service::failpoint::hit(ASK_AFTER_COMMIT);
        app.dispatcher.wake();
    }
    Ok(taken)
}

/// All but the commit.
async fn queue_write(app: &App, items: &[NewQuestion]) -> Result<(Tx, Vec<Taken>), StoreError> {
    let mut tx = app.store.begin("ask").await?;
    let now = app.now();
    let room = items
        .iter()
        .map(|item| u64::from(item.slots) * QUEUE_PER_SLOT_MAX)
        .min()
        .unwrap_or(0);
    let bound = app.queue_bound.get(now);
    let fits = bound.filter(|most| most + items.len() as u64 <= room);
    let mut queued = if let Some(most) = fits {
        most
    } else {
        let counted = task_count_queued(&mut tx, Role::Infer).await?;
        app.queue_bound.counted(now, counted);
        counted
    };
    let mut taken = Vec::with_capacity(items.len());
    let mut new = Vec::with_capacity(items.len());
    for item in items {
        if queued >= u64::from(item.slots) * QUEUE_PER_SLOT_MAX {
            taken.push(Taken::Busy(queued));
            continue;
        }
        queued += 1;
        taken.push(Taken::Queued(item.task.task_id));
        new.push((item.task.clone(), item.at));
    }
    if !new.is_empty() {
        tasks_create(&mut tx, &app.vault, &new).await?;
        // Before the commit: what is unsure counts as queued.
        app.queue_bound.add(new.len() as u64);
    }
    Ok((tx, taken))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_grows_with_what_is_queued_and_lapses() {
        let bound = QueueBound::default();
        let now = UnixMillis(1_000_000);
        assert_eq!(bound.get(now), None, "nothing was counted yet");
        bound.counted(now, 5);
        bound.add(3);
        assert_eq!(bound.get(now.after(Duration::from_millis(999))), Some(8));
        assert_eq!(bound.get(now.after(COUNTED_FOR)), None);
        assert_eq!(bound.get(UnixMillis(0)), None, "a clock that falls");
    }
}
