//! The calls the loop starts and hears of later: joining, registering, handing in, heartbeats.

use std::{
    io,
    path::{Path, PathBuf},
};

use owm_proto::{
    UnixMillis,
    evaluation::{EvaluationReport, Finding},
    invite::Invite,
    wire::coordinator::{
        GetNetworkRequest, HeartbeatResponse, RegisterNodeRequest, RegisterNodeResponse, ResultAck,
        SignedEnvelope, TaskResult,
    },
};
use owm_service::clock::SharedClock;
use prost::Message as _;

use super::join;
use crate::{
    link::{CallError, Coordinator, heartbeat_request},
    network::{Network, NetworkBook, NetworkError},
    tasklog::{LeaseKey, TaskLog},
};

/// A call has ended.
#[derive(Debug)]
pub(super) enum CallDone {
    Registered(Result<Box<RegisterNodeResponse>, CallError>),
    Submitted(LeaseKey, Result<ResultAck, SubmitError>),
    Heartbeat(Result<HeartbeatResponse, CallError>),
    /// The network's documents have been asked for; they are in the book.
    Network(Result<(), JoinError>),
}

/// Why a result could not be handed in.
#[derive(Debug, thiserror::Error)]
pub(super) enum SubmitError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the logged result cannot be read; it is given up")]
    Unreadable,
}

/// Why the network is not known yet.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinError {
    /// No answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// An answer that does not hold.
    #[error(transparent)]
    Network(#[from] NetworkError),
}

/// Asks for the network's documents and verifies them against the invite.
pub(crate) async fn fetch_network(
    coordinator: &Coordinator,
    invite: &Invite,
    clock: &SharedClock,
) -> Result<Network, JoinError> {
    let documents = coordinator.get_network(GetNetworkRequest {}).await?;
    let network = Network::verify(Some(invite.genesis), documents)?;
    network.check_instance(invite, UnixMillis(clock.now_ms()))?;
    Ok(network)
}

/// Asks the coordinator for what may have changed of the network's documents.
pub(super) async fn refresh(
    coordinator: Coordinator,
    invite: Invite,
    clock: SharedClock,
    book: NetworkBook,
) -> CallDone {
    let asked = fetch_network(&coordinator, &invite, &clock).await;
    CallDone::Network(match asked {
        Ok(network) => join::learn(book, network, UnixMillis(clock.now_ms())).await,
        Err(error) => Err(error),
    })
}

/// Registers.
pub(super) async fn register(coordinator: Coordinator, request: RegisterNodeRequest) -> CallDone {
    CallDone::Registered(coordinator.register_node(request).await.map(Box::new))
}

/// Hands in a result from the log, with the update that it names, if it does.
pub(super) async fn submit(
    coordinator: Coordinator,
    log: TaskLog,
    updates: PathBuf,
    key: LeaseKey,
) -> CallDone {
    let read = log.run(move |log| log.unacked_result(key)).await;
    let decoded = read
        .ok()
        .flatten()
        .and_then(|bytes| TaskResult::decode(bytes.as_slice()).ok());
    let outcome = match decoded {
        Some(result) => match update_of(&result, &updates) {
            None => coordinator.submit(result).await.map_err(SubmitError::Call),
            Some(path) => submit_update(&coordinator, result, path).await,
        },
        None => Err(SubmitError::Unreadable),
    };
    CallDone::Submitted(key, outcome)
}

/// Where the update lies that a result names.
fn update_of(result: &TaskResult, updates: &Path) -> Option<PathBuf> {
    let report = EvaluationReport::from_bytes(&result.output.as_ref()?.report)?;
    match report.finding {
        Finding::Update { sha256, .. } => Some(updates.join(format!("{sha256}.owmu"))),
        Finding::HeldOut { .. } => None,
    }
}

async fn submit_update(
    coordinator: &Coordinator,
    result: TaskResult,
    path: PathBuf,
) -> Result<ResultAck, SubmitError> {
    let file = match tokio::fs::File::open(&path).await {
        // Sent, and the acknowledgement was not booked: the coordinator has the bytes, the result alone is enough.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            tokio::fs::File::open("/dev/null").await
        }
        file => file,
    };
    let file = file.map_err(|_| SubmitError::Unreadable)?;
    let ack = coordinator.submit_update(result, file).await?;
    // It may be sent again if the acknowledgement is not booked; the coordinator then has the bytes already, but asks
    // for the result only. A file that stays is cleared away when nothing waits any more.
    drop(tokio::fs::remove_file(&path).await);
    Ok(ack)
}

/// A heartbeat without a link.
pub(super) async fn heartbeat(coordinator: Coordinator, envelope: SignedEnvelope) -> CallDone {
    CallDone::Heartbeat(coordinator.heartbeat(heartbeat_request(envelope)).await)
}
