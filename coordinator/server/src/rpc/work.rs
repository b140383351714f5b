//! The Work stream: the node offers slots and hands in work, the coordinator leases. One task per
//! stream reads what the node says; what is said to it goes through its session's bounded queue.

use futures::StreamExt as _;
use owm_coordinator_store::session::SessionKind;
use owm_proto::{PublicKey, wire::coordinator as wire};
use owm_service::CancellationToken;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{Down, NodeService, conversation::Conversation};
use crate::sessions::DOWN_PENDING_MAX;

/// A stream that has not said hello after this is closed.
const HELLO_WAIT: std::time::Duration = std::time::Duration::from_secs(10);

impl NodeService {
    pub(super) async fn work_open(
        &self,
        key: PublicKey,
        mut up: Streaming<wire::WorkUp>,
    ) -> Result<Down, Status> {
        let first = tokio::time::timeout(HELLO_WAIT, up.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the Work stream began without a Hello"))??;
        let Some(wire::work_up::Message::Hello(hello)) = first.and_then(|up| up.message) else {
            return Err(Status::invalid_argument(
                "the Work stream begins with a Hello",
            ));
        };
        let (down, messages) = mpsc::channel(DOWN_PENDING_MAX);
        let (conversation, welcome) = self
            .converse(key, hello, SessionKind::Stream, down.clone())
            .await?;
        drop(down.try_send(say(wire::work_down::Message::Welcome(welcome))));
        let (node, seat) = (conversation.node.node_id, conversation.seat);
        tracing::info!(node.id = %node, "work stream open");
        let app = self.app.clone();
        let closed = CancellationToken::new();
        let reader_closed = closed.clone();
        let cut = app.sessions.cut(seat);
        drop(tokio::spawn(async move {
            let ended = tokio::select! {
                () = cut.cancelled() => "the node took no messages".to_owned(),
                ended = read(conversation, up, down, reader_closed) => ended,
            };
            app.sessions.lose_stream(seat, app.now());
            tracing::info!(node.id = %node, reason = ended, "work stream closed");
        }));
        let guard = closed.drop_guard();
        let stream = ReceiverStream::new(messages).map(move |message| {
            // Held by the response: when the client goes away, the reader is told.
            let _held = &guard;
            Ok(message)
        });
        Ok(Box::pin(stream))
    }
}

fn say(message: wire::work_down::Message) -> wire::WorkDown {
    wire::WorkDown {
        message: Some(message),
    }
}

/// Reads until the node hangs up, is fenced, or says something wrong; returns why it ended.
async fn read(
    mut conversation: Conversation,
    mut up: Streaming<wire::WorkUp>,
    down: mpsc::Sender<wire::WorkDown>,
    closed: CancellationToken,
) -> String {
    loop {
        let next = tokio::select! {
            () = closed.cancelled() => return "the node hung up".to_owned(),
            next = up.message() => next,
        };
        let message = match next {
            Ok(Some(wire::WorkUp {
                message: Some(message),
            })) => message,
            Ok(Some(_)) => continue,
            Ok(None) => return "the node closed it".to_owned(),
            Err(status) => return status.message().to_owned(),
        };
        if !conversation.is_current() {
            return "fenced by a newer session".to_owned();
        }
        match conversation.take(message).await {
            Ok(None) => {}
            Ok(Some(answer)) => {
                if down.send(say(answer)).await.is_err() {
                    return "the node hung up".to_owned();
                }
            }
            // The database is away: the node keeps its work and hands it in again after reconnecting.
            Err(status) => return status.message().to_owned(),
        }
    }
}
