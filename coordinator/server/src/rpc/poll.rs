//! PollWork: the unary long-poll twin of Work. The session outlives the calls; what is said to the node
//! waits in its queue until the next poll.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
    time::Duration,
};

use owm_coordinator_store::session::SessionKind;
use owm_proto::{PublicKey, SessionId, wire::coordinator as wire};
use tokio::sync::{Mutex, mpsc};
use tonic::Status;

use super::{NodeService, conversation::Conversation};
use crate::sessions::DOWN_PENDING_MAX;

/// A poll is answered after this at the latest, below what proxies and circuits cut off.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Messages of one poll.
const MESSAGES_MAX: usize = 256;

struct Polling {
    conversation: Conversation,
    queue: mpsc::Receiver<wire::WorkDown>,
    session: SessionId,
}

type Shared = Arc<Mutex<Polling>>;

/// Sessions that poll, by node key. A session is replaced by its node's next one, so there are never
/// more than registered nodes.
static POLLING: LazyLock<Mutex<HashMap<(PublicKey, PublicKey), Shared>>> =
    LazyLock::new(|| Mutex::new(HashMap::new()));

impl NodeService {
    pub(super) async fn work_poll(
        &self,
        key: PublicKey,
        request: wire::PollWorkRequest,
    ) -> Result<wire::PollWorkResponse, Status> {
        if request.messages.len() > MESSAGES_MAX {
            return Err(Status::invalid_argument("too many messages in one poll"));
        }
        let mut said = request.messages.into_iter().filter_map(|m| m.message);
        let Some(wire::work_up::Message::Hello(hello)) = said.next() else {
            return Err(Status::invalid_argument("every poll begins with a Hello"));
        };
        let (polling, mut messages) = self.polling(key, hello).await?;
        let mut polling = polling.lock().await;
        for message in said {
            if let Some(answer) = polling.conversation.take(message).await? {
                messages.push(wire::WorkDown {
                    message: Some(answer),
                });
            }
        }
        let wait = Duration::from_millis(u64::from(request.wait_ms)).min(WAIT_MAX);
        if messages.is_empty()
            && let Ok(Some(first)) = tokio::time::timeout(wait, polling.queue.recv()).await
        {
            messages.push(first);
        }
        while messages.len() < MESSAGES_MAX
            && let Ok(more) = polling.queue.try_recv()
        {
            messages.push(more);
        }
        Ok(wire::PollWorkResponse { messages })
    }

    /// The session of this Hello: the one that polled before, or a new one with its welcome.
    async fn polling(
        &self,
        key: PublicKey,
        hello: wire::Hello,
    ) -> Result<(Shared, Vec<wire::WorkDown>), Status> {
        let session = SessionId::from_wire(&hello.session_id)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let name = (self.app.instance(), key);
        let known = POLLING.lock().await.get(&name).cloned();
        if let Some(known) = known {
            let same = {
                let polling = known.lock().await;
                polling.session == session && polling.conversation.is_current()
            };
            if same {
                return Ok((known, vec![]));
            }
        }
        let (down, queue) = mpsc::channel(DOWN_PENDING_MAX);
        let (conversation, welcome) = self.converse(key, hello, SessionKind::Poll, down).await?;
        let polling = Arc::new(Mutex::new(Polling {
            conversation,
            queue,
            session,
        }));
        POLLING.lock().await.insert(name, Arc::clone(&polling));
        let welcome = wire::work_down::Message::Welcome(welcome);
        Ok((
            polling,
            vec![wire::WorkDown {
                message: Some(welcome),
            }],
        ))
    }
}
