//! Group commit: what callers hand in while a transaction is under way goes into the next one together.
//! Used for questions (`ask/intake`), results (`verdict/desk`) and deliveries (`ask/delivered`).
//!
//! Life of a [`Batcher`]: at rest it is a queue and nothing runs. The first caller starts a worker, which
//! takes all that waits (at most [`Batch::MAX`]), does it, answers, and takes again until the queue is
//! empty; then it ends. So one item alone waits for nobody, and under load batches grow by themselves.
//! The queue is bounded: who finds it full waits for room, and a place is given back when its item is
//! answered, not when its caller leaves. A batch that hangs is given up. At shutdown the doors stop handing in and wait
//! for their answers, which drains it; what a crash leaves was never answered, so it never happened.
//!
//! Must stay true: one worker at a time per batcher, items in the order they came; a caller is answered
//! after the commit or told that nothing was done; an answer whose caller has gone is handed to
//! [`Batch::unclaimed`]; a worker that panics fails its callers, not the process.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use owm_coordinator_store::StoreError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::app::App;

/// Items that wait for the next transaction: two seconds' worth at 2,000 a second.
const PENDING_MAX: usize = 4_096;

/// How long one batch may take. Everybody behind it waits so long at most: a database that takes
/// longer over a few statements hangs, and callers had better hear that and try again.
pub(crate) const WORK_WITHIN: Duration = Duration::from_secs(30);

/// A kind of work that is done in batches.
pub(crate) trait Batch: Sized + Send + 'static {
    /// What is handed in.
    type Item: Send + 'static;
    /// What comes back for each.
    type Answer: Send + 'static;
    /// Items of one transaction: enough to amortise the commit, few enough to hold locks briefly.
    const MAX: usize;
    /// How long a batch may take.
    const WITHIN: Duration = WORK_WITHIN;
    /// Whether an item is of no use once its caller has gone: it is then left out.
    const FOR_ITS_CALLER: bool = false;

    /// This kind's batcher.
    fn of(app: &App) -> &Batcher<Self>;

    /// Does them all; one answer each, in order.
    fn work(
        app: &App,
        items: Vec<Self::Item>,
    ) -> impl Future<Output = Vec<Result<Self::Answer, StoreError>>> + Send;

    /// A caller has gone and will not see this answer.
    fn unclaimed(_app: &App, _answer: Self::Answer) {}
}

type Reply<B> = oneshot::Sender<Result<<B as Batch>::Answer, StoreError>>;

/// The queue in front of one kind of work.
pub(crate) struct Batcher<B: Batch> {
    queue: Arc<Mutex<Queue<B>>>,
    room: Arc<Semaphore>,
}

struct Queue<B: Batch> {
    waiting: Vec<Waiting<B>>,
    working: bool,
}

struct Waiting<B: Batch> {
    item: B::Item,
    reply: Reply<B>,
    /// Its place, held until it is answered.
    place: Option<OwnedSemaphorePermit>,
}

impl<B: Batch> Default for Batcher<B> {
    fn default() -> Self {
        let queue = Queue {
            waiting: vec![],
            working: false,
        };
        Self {
            queue: Arc::new(Mutex::new(queue)),
            room: Arc::new(Semaphore::new(PENDING_MAX)),
        }
    }
}

impl<B: Batch> std::fmt::Debug for Batcher<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Batcher")
    }
}

impl<B: Batch> Batcher<B> {
    fn with<T>(queue: &Mutex<Queue<B>>, f: impl FnOnce(&mut Queue<B>) -> T) -> T {
        f(&mut queue.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Hands one item in and waits for what came of it. Dropped meanwhile, the item is done all the same,
/// unless it is [`Batch::FOR_ITS_CALLER`] and has not been begun.
pub(crate) async fn hand_in<B: Batch>(app: &App, item: B::Item) -> Result<B::Answer, StoreError> {
    let batcher = B::of(app);
    let place = Arc::clone(&batcher.room).acquire_owned().await.ok();
    let (reply, answer) = oneshot::channel();
    let new = Waiting { item, reply, place };
    let starts = Batcher::with(&batcher.queue, |queue| {
        queue.waiting.push(new);
        !std::mem::replace(&mut queue.working, true)
    });
    if starts {
        drop(tokio::spawn(run::<B>(app.clone())));
    }
    match answer.await {
        Ok(answer) => answer,
        Err(_) => Err(StoreError::interrupted()),
    }
}

async fn run<B: Batch>(app: App) {
    let queue = Arc::clone(&B::of(&app).queue);
    let resting = Resting::<B>(Arc::clone(&queue));
    loop {
        let taken = Batcher::with(&queue, |queue| {
            let n = queue.waiting.len().min(B::MAX);
            if n == 0 {
                // Under the same lock that a new item takes: none can be overlooked.
                queue.working = false;
            }
            queue.waiting.drain(..n).collect::<Vec<_>>()
        });
        if taken.is_empty() {
            break;
        }
        let (items, callers): (Vec<_>, Vec<_>) = taken
            .into_iter()
            .filter(|one| !(B::FOR_ITS_CALLER && one.reply.is_closed()))
            .map(|one| (one.item, (one.reply, one.place)))
            .unzip();
        if items.is_empty() {
            continue;
        }
        let done = tokio::time::timeout(B::WITHIN, B::work(&app, items)).await;
        let answers = done.unwrap_or_else(|_| {
            let (items, secs) = (callers.len(), B::WITHIN.as_secs());
            tracing::warn!(
                items,
                secs,
                "a batch hangs and is given up; its callers try again"
            );
            callers
                .iter()
                .map(|_| Err(StoreError::interrupted()))
                .collect()
        });
        for (answer, (reply, place)) in answers.into_iter().zip(callers) {
            drop(place);
            if let Err(Ok(unclaimed)) = reply.send(answer) {
                B::unclaimed(&app, unclaimed);
            }
        }
    }
    // It rests already, and another may work by now.
    std::mem::forget(resting);
}

/// A worker that panics leaves a queue at which another can start; whoever waited in it is told.
struct Resting<B: Batch>(Arc<Mutex<Queue<B>>>);

impl<B: Batch> Drop for Resting<B> {
    fn drop(&mut self) {
        Batcher::with(&self.0, |queue| {
            queue.working = false;
            queue.waiting.clear();
        });
    }
}

/// What all callers of a batch are told when it failed as a whole and trying each alone is of no use:
/// the database is away. `None`: some item is at fault, so each should be tried alone.
pub(crate) fn all_unavailable<T>(
    error: &StoreError,
    callers: usize,
) -> Option<Vec<Result<T, StoreError>>> {
    (0..callers)
        .map(|_| error.unavailable_again().map(Err))
        .collect()
}

#[cfg(test)]
mod tests;
