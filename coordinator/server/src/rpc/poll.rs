//! PollWork: the unary long-poll twin of Work. The session outlives the calls; what is said to the node
//! waits in its queue until the next poll. A poll that has something to say does not wait behind one
//! that only listens: conversation and queue have locks of their own. An answer that the next listener
//! has not heard is given again: what was lost on the way holds no lease.

use std::{collections::HashMap, sync::Arc, time::Duration};

use owm_coordinator_store::session::SessionKind;
use owm_proto::{PublicKey, SessionId, wire::coordinator as wire};
use tokio::sync::{Mutex, mpsc};
use tonic::Status;

use super::{NodeService, conversation::Conversation};
use crate::sessions::{DOWN_PENDING_MAX, Seat};

/// A poll is answered after this at the latest, below what proxies and circuits cut off.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Messages of one poll.
const MESSAGES_MAX: usize = 256;

/// One polling session.
#[derive(Debug)]
struct Polling {
    seat: Seat,
    session: SessionId,
    conversation: Mutex<Conversation>,
    queue: Mutex<Queue>,
}

/// What waits for the node, and what it was told last.
#[derive(Debug)]
struct Queue {
    waiting: mpsc::Receiver<wire::WorkDown>,
    /// Of the last answer to a poll that only listened; such polls come one after the other.
    number: u64,
    /// That answer.
    last: Vec<wire::WorkDown>,
}

/// Sessions that poll, by node key. A session is replaced by its node's next one, so there are never
/// more than registered nodes. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct PollSessions(Arc<Mutex<HashMap<PublicKey, Arc<Polling>>>>);

impl NodeService {
    pub(super) async fn work_poll(
        &self,
        key: PublicKey,
        request: wire::PollWorkRequest,
    ) -> Result<wire::PollWorkResponse, Status> {
        if request.messages.len() > MESSAGES_MAX {
            return Err(Status::invalid_argument("too many messages in one poll"));
        }
        let mut said = request
            .messages
            .into_iter()
            .filter_map(|m| m.message)
            .peekable();
        let Some(wire::work_up::Message::Hello(hello)) = said.next() else {
            return Err(Status::invalid_argument("every poll begins with a Hello"));
        };
        // A node that says nothing but hello and does not wait has (re)connected: its credits start anew.
        let opens = said.peek().is_none() && request.wait_ms == 0;
        let (polling, mut messages) = self.polling(key, hello, opens).await?;
        if said.peek().is_some() {
            let mut conversation = polling.conversation.lock().await;
            for message in said {
                if let Some(answer) = conversation.take(message).await? {
                    messages.push(wire::WorkDown {
                        message: Some(answer),
                    });
                }
            }
        }
        self.app.sessions.touch(polling.seat.node, self.app.now());
        let wait = Duration::from_millis(u64::from(request.wait_ms)).min(WAIT_MAX);
        let is_wanted = |message: &wire::WorkDown| self.is_wanted(polling.seat, message);
        let number = polling
            .listen(&mut messages, wait, request.heard, is_wanted)
            .await;
        Ok(wire::PollWorkResponse { messages, number })
    }

    /// Whether a message still holds: a lease may have ended since it was first sent.
    fn is_wanted(&self, seat: Seat, message: &wire::WorkDown) -> bool {
        let Some(wire::work_down::Message::Lease(lease)) = &message.message else {
            return true;
        };
        let task = lease.task_id.parse();
        task.is_ok_and(|task| self.app.sessions.is_running(seat, task, lease.epoch))
    }

    /// The session of this Hello: the one that polled before, or a new one with its welcome.
    async fn polling(
        &self,
        key: PublicKey,
        hello: wire::Hello,
        opens: bool,
    ) -> Result<(Arc<Polling>, Vec<wire::WorkDown>), Status> {
        let session = SessionId::from_wire(&hello.session_id)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let known = self.polls.0.lock().await.get(&key).cloned();
        let is_current = |p: &Polling| p.session == session && self.app.sessions.is_current(p.seat);
        if let Some(known) = known.filter(|known| !opens && is_current(known)) {
            return Ok((known, vec![]));
        }
        let (down, queue) = mpsc::channel(DOWN_PENDING_MAX);
        let (conversation, welcome) = self.converse(key, hello, SessionKind::Poll, down).await?;
        let polling = Arc::new(Polling {
            seat: conversation.seat,
            session,
            conversation: Mutex::new(conversation),
            queue: Mutex::new(Queue {
                waiting: queue,
                number: 0,
                last: vec![],
            }),
        });
        self.polls.0.lock().await.insert(key, Arc::clone(&polling));
        let welcome = wire::work_down::Message::Welcome(welcome);
        Ok((
            polling,
            vec![wire::WorkDown {
                message: Some(welcome),
            }],
        ))
    }
}

impl Polling {
    /// Adds what waits for the node; with nothing to tell yet, waits for the first. Who names the last
    /// answer he heard is given the one after it again, as far as it `is_wanted` still. Returns this
    /// answer's number, 0 for who names none.
    async fn listen(
        &self,
        messages: &mut Vec<wire::WorkDown>,
        wait: Duration,
        heard: Option<u64>,
        is_wanted: impl Fn(&wire::WorkDown) -> bool,
    ) -> u64 {
        let held = if messages.is_empty() {
            tokio::time::timeout(wait, self.queue.lock()).await.ok()
        } else {
            self.queue.try_lock().ok()
        };
        let Some(mut queue) = held else {
            return heard.unwrap_or(0);
        };
        if heard.is_some_and(|heard| heard != queue.number) {
            let lost = std::mem::take(&mut queue.last);
            messages.extend(lost.into_iter().filter(is_wanted));
        }
        if messages.is_empty()
            && let Ok(Some(first)) = tokio::time::timeout(wait, queue.waiting.recv()).await
        {
            messages.push(first);
        }
        while messages.len() < MESSAGES_MAX
            && let Ok(more) = queue.waiting.try_recv()
        {
            messages.push(more);
        }
        if heard.is_none() {
            return 0;
        }
        queue.number += 1;
        queue.last.clone_from(messages);
        queue.number
    }
}

#[cfg(test)]
mod tests;
