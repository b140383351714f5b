//! The wire to the coordinator: calls with deadlines, and the work link in its two forms (stream, long
//! poll) behind one pair of channels. `daemon` opens it, `session` says when.
//! Must stay true: every call ends within its time; a link that is lost says so exactly once.

mod poll;
mod stream;
mod update;

pub use update::UpdateSendError;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use owm_proto::{
    invite::Invite,
    limits::GRPC_MESSAGE_BYTES_MAX,
    wire::coordinator::{
        GetModelVersionRequest, GetModelVersionResponse, GetNetworkRequest, GetNetworkResponse,
        HeartbeatRequest, HeartbeatResponse, RegisterNodeRequest, RegisterNodeResponse, ResultAck,
        SignedEnvelope, SubmitTaskResultRequest, TaskResult, WorkDown, WorkUp,
        coordinator_client::CoordinatorClient,
    },
};
use owm_service::{
    dialer::{Dialer, Layer},
    tls::{self, Identity, TargetError},
};
use tokio::sync::mpsc;
use tonic::{Code, Status, transport::Channel};

use crate::config::Transport;

/// Messages that wait to be sent: chunks of a minute at full speed. When it is full, the sender waits.
const UP_QUEUE: usize = 1_024;
/// Events that wait to be handled.
const DOWN_QUEUE: usize = 64;

/// The call that hands a result in.
const SUBMIT: &str = "SubmitTaskResult";
const SUBMIT_UPDATE: &str = "SubmitUpdate";

/// A call that gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// There is no connection.
    #[error("cannot reach the coordinator ({}): {message}; {}", layer.as_str(), advice(*layer))]
    Unreachable {
        /// On which layer it failed.
        layer: Layer,
        /// What happened.
        message: String,
    },
    /// It answered, with a refusal.
    #[error("the coordinator refused {call}: {code:?}: {message}{}", version_advice(*code))]
    Refused {
        /// Which call.
        call: &'static str,
        /// gRPC's code.
        code: Code,
        /// In words.
        message: String,
    },
}

/// What to look at when a connection fails on this layer.
fn advice(layer: Layer) -> &'static str {
    match layer {
        Layer::Policy => "use an address that the network policy allows",
        Layer::Name => "check the address in the invite and this machine's DNS",
        Layer::Tcp => "check the port, that the coordinator runs, and firewalls on the way",
        Layer::Tls => {
            "something else answers there, or the coordinator's key has changed: check the port, or \
             ask its operator for a new invite"
        }
        Layer::Http2 => {
            "what answers there speaks another protocol or version: check the port, or update owm-node"
        }
        Layer::Timeout => "check firewalls on the way; it is slow or gone",
    }
}

fn version_advice(code: Code) -> &'static str {
    match code {
        Code::Unimplemented => "; it is another version than this owm-node: update the older one",
        _ => "",
    }
}

impl CallError {
    fn from_status(call: &'static str, status: &Status) -> Self {
        let refused = !matches!(
            status.code(),
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded
        );
        if refused {
            let (code, message) = (status.code(), status.message().to_owned());
            return Self::Refused {
                call,
                code,
                message,
            };
        }
        if status.code() == Code::DeadlineExceeded {
            let message = format!("{call} took too long");
            return Self::Unreachable {
                layer: Layer::Timeout,
                message,
            };
        }
        match tls::connect_failure(status) {
            Some(failure) => Self::Unreachable {
                layer: failure.layer,
                message: failure.message,
            },
            None => Self::Unreachable {
                layer: Layer::Http2,
                message: status.message().to_owned(),
            },
        }
    }

    /// Whether it says that another process runs with this node's key.
    pub fn is_fenced(&self) -> bool {
        matches!(self, Self::Refused { code: Code::Aborted, message, .. } if message.starts_with("fenced"))
    }

    /// Whether registering again is the cure.
    pub fn is_unknown_node(&self) -> bool {
        let codes = [
            Code::NotFound,
            Code::PermissionDenied,
            Code::Unauthenticated,
            Code::FailedPrecondition,
        ];
        matches!(self, Self::Refused { code, .. } if codes.contains(code))
    }

    /// Whether the same call can never succeed.
    pub fn is_final(&self) -> bool {
        let codes = [Code::InvalidArgument, Code::NotFound, Code::OutOfRange];
        match self {
            // Signed by another key, and that is how it is logged.
            Self::Refused {
                call: SUBMIT | SUBMIT_UPDATE,
                code: Code::PermissionDenied,
                ..
            } => true,
            Self::Refused { code, .. } => codes.contains(code),
            Self::Unreachable { .. } => false,
        }
    }
}

/// The coordinator's addresses and this node's way to them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Coordinator {
    channels: Arc<Vec<(String, Channel)>>,
    at: Arc<AtomicUsize>,
    timeout: Duration,
}

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($request:ty) -> $answer:ty = $call:literal;)*) => {
        impl Coordinator {$(
            $(#[$doc])*
            pub async fn $name(&self, request: $request) -> Result<$answer, CallError> {
                let mut client = self.client();
                let mut request = tonic::Request::new(request);
                request.set_timeout(self.timeout);
                let outcome = tokio::time::timeout(self.timeout, client.$name(request)).await;
                let status = match outcome {
                    Ok(Ok(answer)) => return Ok(answer.into_inner()),
                    Ok(Err(status)) => status,
                    Err(_) => Status::deadline_exceeded("no answer in time"),
                };
                Err(self.failed($call, &status))
            }
        )*}
    };
}

calls! {
    /// The network's documents.
    get_network(GetNetworkRequest) -> GetNetworkResponse = "GetNetwork";
    /// Joins.
    register_node(RegisterNodeRequest) -> RegisterNodeResponse = "RegisterNode";
    /// A sign of life.
    heartbeat(HeartbeatRequest) -> HeartbeatResponse = "Heartbeat";
    /// A version's manifest.
    get_model_version(GetModelVersionRequest) -> GetModelVersionResponse = "GetModelVersion";
}

impl Coordinator {
    /// Channels to every address of the invite; nothing is connected yet.
    pub fn new(
        dialer: &Dialer,
        identity: &Identity,
        invite: &Invite,
        timeout: Duration,
    ) -> Result<Self, TargetError> {
        let channel = |target: &String| {
            let channel = tls::grpc_channel(dialer, target, identity, invite.instance_key.0)?;
            Ok((target.clone(), channel))
        };
        let channels: Vec<_> = invite
            .addresses
            .iter()
            .map(channel)
            .collect::<Result<_, _>>()?;
        if channels.is_empty() {
            return Err(TargetError {
                target: "the invite names no address".into(),
            });
        }
        Ok(Self {
            channels: Arc::new(channels),
            at: Arc::default(),
            timeout,
        })
    }

    /// The address that the next call goes to.
    pub fn target(&self) -> &str {
        &self.channels[self.at.load(Ordering::Relaxed) % self.channels.len()].0
    }

    /// The next call tries the next address.
    pub fn rotate(&self) {
        self.at.fetch_add(1, Ordering::Relaxed);
    }

    /// What a failed call says; without an answer the next one tries the next address.
    fn failed(&self, call: &'static str, status: &Status) -> CallError {
        let error = CallError::from_status(call, status);
        if matches!(error, CallError::Unreachable { .. }) {
            self.rotate();
        }
        error
    }

    fn client(&self) -> CoordinatorClient<Channel> {
        let channel = &self.channels[self.at.load(Ordering::Relaxed) % self.channels.len()].1;
        CoordinatorClient::new(channel.clone())
            .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX)
    }

    /// Hands a finished result in.
    pub async fn submit(&self, result: TaskResult) -> Result<ResultAck, CallError> {
        let mut request = tonic::Request::new(SubmitTaskResultRequest {
            result: Some(result),
        });
        request.set_timeout(self.timeout);
        let mut client = self.client();
        let call = client.submit_task_result(request);
        let status = match tokio::time::timeout(self.timeout, call).await {
            Ok(Ok(answer)) => {
                let empty = || Status::internal("an acknowledgement without content");
                match answer.into_inner().ack.ok_or_else(empty) {
                    Ok(ack) => return Ok(ack),
                    Err(status) => status,
                }
            }
            Ok(Err(status)) => status,
            Err(_) => Status::deadline_exceeded("no answer in time"),
        };
        Err(self.failed(SUBMIT, &status))
    }

    /// Opens the work link; `hello` goes first.
    pub fn open(&self, transport: Transport, hello: WorkUp) -> WorkLink {
        let (up, up_rx) = mpsc::channel(UP_QUEUE);
        let (events_tx, events) = mpsc::channel(DOWN_QUEUE);
        let coordinator = self.clone();
        let task = tokio::spawn(async move {
            let lost = match transport {
                Transport::Stream => stream::run(&coordinator, hello, up_rx, &events_tx).await,
                Transport::Poll => poll::run(&coordinator, hello, up_rx, &events_tx).await,
            };
            if matches!(lost, Some(CallError::Unreachable { .. })) {
                coordinator.rotate();
            }
            // Without a receiver nobody minds.
            drop(events_tx.send(LinkEvent::Lost(lost)).await);
        });
        WorkLink {
            up: Some(up),
            events,
            task,
        }
    }
}

/// What a work link says.
#[derive(Debug)]
pub enum LinkEvent {
    /// It stands.
    Up,
    /// A message came.
    Down(Box<WorkDown>),
    /// It is gone; `None`: the coordinator closed it. The last event.
    Lost(Option<CallError>),
}

/// An open (or opening) work link; dropping it closes it.
#[derive(Debug)]
pub struct WorkLink {
    up: Option<mpsc::Sender<WorkUp>>,
    /// What comes.
    pub events: mpsc::Receiver<LinkEvent>,
    task: tokio::task::JoinHandle<()>,
}

impl WorkLink {
    /// Queues a message, waiting for room for at most `time`. `false`: the queue is closed or stayed
    /// full, the link is as good as dead.
    pub async fn send(&self, message: WorkUp, time: Duration) -> bool {
        let Some(up) = &self.up else { return false };
        up.send_timeout(message, time).await.is_ok()
    }

    /// Lets what is queued go out and says goodbye, for at most `time`.
    pub async fn close(mut self, time: Duration) {
        self.up = None;
        let goodbye = async {
            while let Some(event) = self.events.recv().await {
                if matches!(event, LinkEvent::Lost(_)) {
                    return;
                }
            }
        };
        // In time or not: it is over.
        drop(tokio::time::timeout(time, goodbye).await);
    }
}

impl Drop for WorkLink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A heartbeat's request.
pub fn heartbeat_request(envelope: SignedEnvelope) -> HeartbeatRequest {
    HeartbeatRequest {
        heartbeat: Some(envelope),
    }
}

#[cfg(test)]
mod tests;
