//! The work link as one bidirectional stream.

use owm_proto::wire::coordinator::{WorkDown, WorkUp};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Status, Streaming};

use super::{CallError, Coordinator, LinkEvent};

/// Runs until the stream ends; says why.
pub(super) async fn run(
    coordinator: &Coordinator,
    hello: WorkUp,
    up: mpsc::Receiver<WorkUp>,
    events: &mpsc::Sender<LinkEvent>,
) -> Option<CallError> {
    match open(coordinator, hello, up).await {
        Ok(down) => pump(down, events).await,
        Err(status) => Some(CallError::from_status("Work", &status)),
    }
}

async fn open(
    coordinator: &Coordinator,
    hello: WorkUp,
    up: mpsc::Receiver<WorkUp>,
) -> Result<Streaming<WorkDown>, Status> {
    let outgoing = tokio_stream::once(hello).chain(ReceiverStream::new(up));
    let mut client = coordinator.client();
    let opening = tokio::time::timeout(coordinator.timeout, client.work(outgoing)).await;
    match opening {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(Status::deadline_exceeded("the stream did not open in time")),
    }
}

async fn pump(
    mut down: Streaming<WorkDown>,
    events: &mpsc::Sender<LinkEvent>,
) -> Option<CallError> {
    if events.send(LinkEvent::Up).await.is_err() {
        return None;
    }
    loop {
        match down.message().await {
            Ok(Some(message)) => {
                if events
                    .send(LinkEvent::Down(Box::new(message)))
                    .await
                    .is_err()
                {
                    return None;
                }
            }
            Ok(None) => return None,
            Err(status) => return Some(CallError::from_status("Work", &status)),
        }
    }
}
