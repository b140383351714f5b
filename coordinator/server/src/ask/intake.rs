//! Questions on their way into the queue: whoever asks while a commit is under way is queued with the
//! next one. Called by `ask`.

use owm_coordinator_store::{
    StoreError,
    intake::tasks_create,
    task::{NewTask, task_count_queued},
};
use owm_proto::{Role, TaskId, UnixMillis};

use super::QUEUE_PER_SLOT_MAX;
use crate::{
    app::App,
    batch::{Batch, Batcher, all_unavailable},
};

/// A question to be queued.
pub(crate) struct NewQuestion {
    pub(super) task: NewTask,
    pub(super) at: UnixMillis,
    /// Slots that could answer it, busy ones included.
    pub(super) slots: u32,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Taken {
    /// It waits for a node.
    Queued(TaskId),
    /// So many wait already that it is turned away.
    Busy(u64),
}

/// The intake.
pub(crate) struct Intake;

impl Batch for Intake {
    type Item = NewQuestion;
    type Answer = Taken;
    const MAX: usize = 128;

    fn of(app: &App) -> &Batcher<Self> {
        &app.intake
    }

    async fn work(app: &App, items: Vec<NewQuestion>) -> Vec<Result<Taken, StoreError>> {
        match queue(app, &items).await {
            Ok(taken) => taken.into_iter().map(Ok).collect(),
            Err(error) if items.len() == 1 => vec![Err(error)],
            Err(error) => match all_unavailable(&error, items.len()) {
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

async fn one_by_one(app: &App, items: Vec<NewQuestion>) -> Vec<Result<Taken, StoreError>> {
    let mut all = Vec::with_capacity(items.len());
    for item in items {
        let one = queue(app, std::slice::from_ref(&item)).await;
        all.push(
            one.and_then(|taken| taken.into_iter().next().ok_or_else(StoreError::interrupted)),
        );
    }
    all
}

/// One transaction: how many wait, then all that still fit behind them.
async fn queue(app: &App, items: &[NewQuestion]) -> Result<Vec<Taken>, StoreError> {
    let mut tx = app.store.begin("ask").await?;
    let mut queued = task_count_queued(&mut tx, Role::Infer).await?;
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
        tx.commit().await?;
        app.dispatcher.wake();
    }
    Ok(taken)
}
