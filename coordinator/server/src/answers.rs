//! Who waits for which answer in this process, and what has been sent to them. Chunks come here only
//! after they were journalled; the end comes exactly once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use owm_proto::{RequestId, TaskId};
use tokio::sync::mpsc;

use crate::{
    ask::{Answer, AnswerEvent, AnswerFailure},
    metrics::Metrics,
};

#[derive(Debug)]
struct Follower {
    request_id: RequestId,
    sender: mpsc::Sender<AnswerEvent>,
    streaming: bool,
    /// Tokens and bytes of text sent so far.
    sent_tokens: usize,
    sent_bytes: usize,
    asked_at: Instant,
    leased: bool,
}

/// All followers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Answers {
    inner: Arc<Mutex<HashMap<TaskId, Follower>>>,
    metrics: Metrics,
}

impl Answers {
    /// Nobody waits yet.
    pub fn new(metrics: Metrics) -> Self {
        Self {
            inner: Arc::default(),
            metrics,
        }
    }

    fn with<T>(&self, f: impl FnOnce(&mut HashMap<TaskId, Follower>) -> T) -> T {
        f(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Events of `task` go to `sender` from now on.
    pub fn follow(
        &self,
        task: TaskId,
        request_id: RequestId,
        sender: mpsc::Sender<AnswerEvent>,
        streaming: bool,
    ) {
        let follower = Follower {
            request_id,
            sender,
            streaming,
            sent_tokens: 0,
            sent_bytes: 0,
            asked_at: Instant::now(),
            leased: false,
        };
        self.with(|all| all.insert(task, follower));
    }

    /// `task` has been leased to a node; the first time tells how long it waited.
    pub fn leased(&self, task: TaskId) {
        self.metrics.leases.inc();
        let waited = self.with(|all| {
            let f = all.get_mut(&task).filter(|f| !f.leased)?;
            f.leased = true;
            Some(f.asked_at.elapsed())
        });
        if let Some(waited) = waited {
            self.metrics.dispatch_wait.observe(waited.as_secs_f64());
        }
    }

    /// Nobody follows `task` any more.
    pub fn forget(&self, task: TaskId) {
        self.with(|all| all.remove(&task));
    }

    /// The id of the request that `task` answers, if its asker waits here. It is kept in memory only.
    pub fn request_id(&self, task: TaskId) -> Option<RequestId> {
        self.with(|all| all.get(&task).map(|f| f.request_id))
    }

    /// Tasks that are followed: the safety net asks the database about them.
    pub fn followed(&self) -> Vec<(TaskId, RequestId)> {
        self.with(|all| all.iter().map(|(task, f)| (*task, f.request_id)).collect())
    }

    /// A journalled chunk that begins at token `from`.
    pub fn chunk(&self, task: TaskId, from: u32, tokens: Vec<u32>, text: String) {
        self.with(|all| {
            let Some(f) = all.get_mut(&task) else { return };
            if !f.streaming || from as usize != f.sent_tokens {
                return;
            }
            (f.sent_tokens, f.sent_bytes) =
                (f.sent_tokens + tokens.len(), f.sent_bytes + text.len());
            if f.sender
                .try_send(AnswerEvent::Chunk { text, tokens })
                .is_err()
            {
                // The asker is gone or too slow: the answer can be fetched whole.
                all.remove(&task);
            }
        });
    }

    /// The answer: what was not sent yet, then the end.
    pub fn done(&self, task: TaskId, answer: Answer) {
        let Some(f) = self.with(|all| all.remove(&task)) else {
            return;
        };
        self.metrics.ended("answered", f.asked_at.elapsed());
        if f.streaming {
            let tokens = answer
                .token_ids
                .get(f.sent_tokens..)
                .unwrap_or_default()
                .to_vec();
            let text = answer
                .answer
                .get(f.sent_bytes..)
                .unwrap_or_default()
                .to_owned();
            if !tokens.is_empty() || !text.is_empty() {
                drop(f.sender.try_send(AnswerEvent::Chunk { text, tokens }));
            }
        }
        drop(f.sender.try_send(AnswerEvent::Done(Box::new(answer))));
    }

    /// There will be no answer.
    pub fn failed(&self, task: TaskId, failure: AnswerFailure) {
        let Some(f) = self.with(|all| all.remove(&task)) else {
            return;
        };
        self.metrics.ended(&failure.code, f.asked_at.elapsed());
        drop(f.sender.try_send(AnswerEvent::Failed(failure)));
    }
}
