//! gRPC for nodes: one file per call. The caller's identity is the Ed25519 key its certificate proved;
//! bodies that change something are signed besides.

pub mod chunks;
pub(crate) mod conversation;
mod heartbeat;
mod model;
mod poll;
mod register;
mod update;
mod work;

#[cfg(test)]
mod faults;

use std::{pin::Pin, time::Duration};

use futures::Stream;
use owm_coordinator_store::{
    StoreError,
    node::{Node, node_lookup_by_key},
};
use owm_proto::{
    EnvelopeError, PublicKey, UnixMillis,
    limits::GRPC_MESSAGE_BYTES_MAX,
    wire::coordinator::{self as wire, coordinator_server},
};
use owm_service::{
    gate::GateMetrics,
    tls::{Identity, PeerKey, serve_tls_counted, server_config},
};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, Streaming};

use crate::{app::App, verdict::VerdictError};

/// Calls of one connection at the same time: a Work stream, a heartbeat, a few results.
const CALLS_PER_CONNECTION_MAX: usize = 64;

/// HTTP/2 streams that a client reset and we have not dealt with yet (CVE-2023-44487).
const PENDING_RESETS_MAX: usize = 32;

/// Streams of one connection that a client may open: as many as are served, and a few that wait.
const STREAMS_PER_CONNECTION_MAX: u32 = 128;

/// Streams that we reset because the client broke the protocol, before the connection ends
/// (CVE-2025-8671).
const LOCAL_RESETS_MAX: usize = 64;

/// Headers of one call; ours have a few hundred bytes.
const HEADER_LIST_BYTES_MAX: u32 = 16 << 10;

/// An idle connection is asked after this whether it still lives. (The five minutes that gRPC asks for
/// bind clients, not servers.)
const KEEPALIVE: Duration = Duration::from_mins(1);

/// A peer that has not answered by then is dead: its place and memory are free again.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// The service behind the generated trait.
#[derive(Clone, Debug)]
pub struct NodeService {
    pub(crate) app: App,
    polls: poll::PollSessions,
}

impl NodeService {
    /// Serves `app`; nobody polls yet.
    pub fn new(app: App) -> Self {
        Self {
            app,
            polls: poll::PollSessions::default(),
        }
    }
}

type Down = Pin<Box<dyn Stream<Item = Result<wire::WorkDown, Status>> + Send>>;

#[tonic::async_trait]
impl coordinator_server::Coordinator for NodeService {
    type WorkStream = Down;

    async fn get_network(
        &self,
        _: Request<wire::GetNetworkRequest>,
    ) -> Result<Response<wire::GetNetworkResponse>, Status> {
        Ok(Response::new(self.network_show()))
    }

    async fn register_node(
        &self,
        request: Request<wire::RegisterNodeRequest>,
    ) -> Result<Response<wire::RegisterNodeResponse>, Status> {
        let key = caller(&request)?;
        self.node_register(key, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn heartbeat(
        &self,
        request: Request<wire::HeartbeatRequest>,
    ) -> Result<Response<wire::HeartbeatResponse>, Status> {
        let key = caller(&request)?;
        self.heartbeat_take(key, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn work(
        &self,
        request: Request<Streaming<wire::WorkUp>>,
    ) -> Result<Response<Down>, Status> {
        let key = caller(&request)?;
        self.work_open(key, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn poll_work(
        &self,
        request: Request<wire::PollWorkRequest>,
    ) -> Result<Response<wire::PollWorkResponse>, Status> {
        let key = caller(&request)?;
        self.work_poll(key, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn submit_task_result(
        &self,
        request: Request<wire::SubmitTaskResultRequest>,
    ) -> Result<Response<wire::SubmitTaskResultResponse>, Status> {
        let key = caller(&request)?;
        let result = request.into_inner().result;
        let result = result.ok_or_else(|| Status::invalid_argument("the result is missing"))?;
        let node = self.known_node(&key).await?;
        let ack = self
            .app
            .result_take(node.node_id, &key, result)
            .await
            .map_err(verdict_status)?;
        Ok(Response::new(wire::SubmitTaskResultResponse {
            ack: Some(ack),
        }))
    }

    async fn submit_update(
        &self,
        request: Request<Streaming<wire::SubmitUpdateRequest>>,
    ) -> Result<Response<wire::SubmitUpdateResponse>, Status> {
        let key = caller(&request)?;
        let ack = self.update_take(key, request.into_inner()).await?;
        Ok(Response::new(wire::SubmitUpdateResponse { ack: Some(ack) }))
    }

    async fn get_model_version(
        &self,
        request: Request<wire::GetModelVersionRequest>,
    ) -> Result<Response<wire::GetModelVersionResponse>, Status> {
        self.model_show(request.into_inner())
            .await
            .map(Response::new)
    }
}

impl NodeService {
    /// The caller's row; a stranger has to register first.
    pub(crate) async fn known_node(&self, key: &PublicKey) -> Result<Node, Status> {
        let mut tx = self
            .app
            .store
            .single("node.lookup")
            .await
            .map_err(store_status)?;
        let node = node_lookup_by_key(&mut tx, key)
            .await
            .map_err(store_status)?;
        node.ok_or_else(|| {
            Status::failed_precondition(
                "this key is not registered here; call RegisterNode first (owm-node start does)",
            )
        })
    }

    fn network_show(&self) -> wire::GetNetworkResponse {
        let authority = &self.app.authority;
        let statements = authority.statements();
        wire::GetNetworkResponse {
            genesis: authority.genesis.clone(),
            delegations: statements.delegations.iter().map(Into::into).collect(),
            revocations: statements.revocations.iter().map(Into::into).collect(),
            web_seed: self.app.config.invite.web_seed.clone(),
            bootstrap: Some(self.app.swarm.bootstrap().into()),
            peers: self.app.swarm.peers(),
        }
    }
}

/// Serves until `stop`, then lets running calls end.
pub async fn serve(
    app: App,
    listener: TcpListener,
    metrics: GateMetrics,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let identity = Identity::from_pkcs8_der(&app.authority.instance.to_pkcs8_der())?;
    let limits = app.config.rpc.limits();
    let incoming = serve_tls_counted(listener, server_config(&identity), limits, metrics);
    let service = coordinator_server::CoordinatorServer::new(NodeService::new(app))
        .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX);
    tonic::transport::Server::builder()
        .concurrency_limit_per_connection(CALLS_PER_CONNECTION_MAX)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .http2_max_local_error_reset_streams(Some(LOCAL_RESETS_MAX))
        .http2_max_header_list_size(HEADER_LIST_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, stop)
        .await?;
    Ok(())
}

/// Why gRPC can't be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The instance key.
    #[error("the instance key makes no certificate: {0}")]
    Identity(#[from] owm_service::tls::IdentityError),
    /// The server.
    #[error("gRPC: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Who calls: the key of the TLS certificate.
fn caller<T>(request: &Request<T>) -> Result<PublicKey, Status> {
    request
        .extensions()
        .get::<PeerKey>()
        .map(|key| PublicKey(key.0))
        .ok_or_else(|| Status::unauthenticated("the connection has no client certificate"))
}

/// A database that is away is `UNAVAILABLE`: trying again is right; anything else is ours to mend.
pub(crate) fn store_status(error: StoreError) -> Status {
    match error {
        StoreError::Unavailable(_) => {
            Status::unavailable("the coordinator's database is away; try again")
        }
        error => {
            tracing::error!(%error, "a call failed");
            Status::internal("the coordinator failed; its log says why")
        }
    }
}

pub(crate) fn envelope_status(error: EnvelopeError) -> Status {
    match error {
        EnvelopeError::BadSignature | EnvelopeError::WrongSigner { .. } => {
            Status::permission_denied(error.to_string())
        }
        error => Status::invalid_argument(error.to_string()),
    }
}

/// A request whose times do not fit: says by how much the node's clock is off, as far as can be told.
pub(crate) fn clock_status(error: EnvelopeError, issued_at: UnixMillis, now: UnixMillis) -> Status {
    let EnvelopeError::OutOfTime(what) = error else {
        return envelope_status(error);
    };
    let (off, side) = if issued_at > now {
        (issued_at.since(now), "ahead of")
    } else {
        (now.since(issued_at), "behind")
    };
    let (minutes, seconds) = (off.as_secs() / 60, off.as_secs() % 60);
    Status::invalid_argument(format!(
        "the request is {what}: this machine's clock is {minutes} min {seconds} s {side} the \
         coordinator's; set it (timedatectl set-ntp true), owm-node tries again by itself"
    ))
}

pub(crate) fn verdict_status(error: VerdictError) -> Status {
    match error {
        VerdictError::Envelope(error) => envelope_status(error),
        VerdictError::Malformed(what) => Status::invalid_argument(what),
        VerdictError::Store(error) => store_status(error),
    }
}
