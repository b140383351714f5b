//! The calls the loop starts and hears of later: joining, registering, handing in, heartbeats.

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
    home::HomeError,
    link::{CallError, Coordinator, UpdateSendError, heartbeat_request},
    network::{Network, NetworkBook, NetworkError},
    tasklog::{LeaseKey, TaskLog, TaskLogError},
    updates::Updates,
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
    #[error("the result cannot be read from the task log; it is tried again")]
    Log(#[from] TaskLogError),
    #[error("the update cannot be read from the disk; it is tried again")]
    File(#[source] HomeError),
    #[error(transparent)]
    Send(UpdateSendError),
}

impl SubmitError {
    /// Whether the same call can never succeed.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Call(error) | Self::Send(UpdateSendError::Call(error)) => error.is_final(),
            Self::Unreadable => true,
            Self::Log(_) | Self::File(_) | Self::Send(UpdateSendError::File(_)) => false,
        }
    }
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
    updates: Updates,
    key: LeaseKey,
) -> CallDone {
    let outcome = submitted(&coordinator, &log, updates, key).await;
    CallDone::Submitted(key, outcome)
}

async fn submitted(
    coordinator: &Coordinator,
    log: &TaskLog,
    updates: Updates,
    key: LeaseKey,
) -> Result<ResultAck, SubmitError> {
    let read = log.run(move |log| log.unacked_result(key)).await?;
    let decoded = read.and_then(|bytes| TaskResult::decode(bytes.as_slice()).ok());
    let result = decoded.ok_or(SubmitError::Unreadable)?;
    if !names_update(&result) {
        return Ok(coordinator.submit(result).await?);
    }
    let opening = move || -> Result<_, HomeError> { updates.open(key) };
    let opened = tokio::task::spawn_blocking(opening).await;
    let opened = opened.map_err(|_| TaskLogError::Stopped)?;
    let sent = match opened.map_err(SubmitError::File)? {
        Some((file, size)) => {
            let file = tokio::fs::File::from_std(file);
            coordinator.submit_update(result, file, size).await
        }
        // Somebody has taken it away: the coordinator may have the bytes, or says what is missing.
        None => {
            let nothing = tokio::io::empty();
            coordinator.submit_update(result, nothing, 0).await
        }
    };
    sent.map_err(SubmitError::Send)
}

/// Whether bytes go with a result.
fn names_update(result: &TaskResult) -> bool {
    let output = result.output.as_ref();
    let report = output.and_then(|output| EvaluationReport::from_bytes(&output.report));
    report.is_some_and(|report| matches!(report.finding, Finding::Update { .. }))
}

/// A heartbeat without a link.
pub(super) async fn heartbeat(coordinator: Coordinator, envelope: SignedEnvelope) -> CallDone {
    CallDone::Heartbeat(coordinator.heartbeat(heartbeat_request(envelope)).await)
}
