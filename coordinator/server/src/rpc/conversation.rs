//! What a node says on its session, whichever way it comes: on the Work stream or in a poll.

use std::collections::HashMap;

use owm_coordinator_domain::{
    check::{Expected, check_segment},
    task::{
        ChunkDecision, ChunkFault, Delivered as DomainDelivered, GivenChunk, HandBackReason,
        Outcome, decide_chunk,
    },
};
use owm_coordinator_store::{
    chunk::{NewChunk, chunk_load},
    node::Node,
    session::{SessionKind, SessionOpened, session_open},
    task::{LoadedTask, task_list_leased_to, task_load},
};
use owm_proto::{
    Envelope, PublicKey, Role, SessionId, Sha256, SignerRule, TaskId, UnixMillis,
    limits::CREDITS_MAX,
    statement::{Segment, Statement as _},
    wire::coordinator as wire,
};
use tonic::Status;

use super::{NodeService, envelope_status, store_status, verdict_status};
use crate::{
    failpoints::SESSION_OPENED,
    sessions::{Down, Opening, Seat},
    verdict::share_from,
};

/// Weights that a node may name as loaded.
const LOADED_MAX: usize = 256;

/// One node's session as its messages see it.
#[derive(Debug)]
pub(crate) struct Conversation {
    service: NodeService,
    pub(super) node: Node,
    key: PublicKey,
    pub(super) seat: Seat,
    streams: HashMap<TaskId, Streaming>,
}

/// What has been said of one streamed answer in this session.
#[derive(Debug)]
struct Streaming {
    loaded: LoadedTask,
    share_from: u32,
    tokens: Vec<u32>,
    text_bytes: usize,
}

impl NodeService {
    /// Opens a session from its Hello.
    pub(crate) async fn converse(
        &self,
        key: PublicKey,
        hello: wire::Hello,
        kind: SessionKind,
        down: Down,
    ) -> Result<(Conversation, wire::Welcome), Status> {
        let node = self.known_node(&key).await?;
        if node.status == owm_proto::NodeStatus::Suspended {
            return Err(Status::permission_denied(format!(
                "suspended: {}",
                node.status_reason
            )));
        }
        let session = SessionId::from_wire(&hello.session_id)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let app = &self.app;
        let (started, now) = (UnixMillis(hello.started_at_ms), app.now());
        let mut tx = app
            .store
            .begin("session.open")
            .await
            .map_err(store_status)?;
        let id = node.node_id;
        let opened = session_open(&mut tx, id, session, started, kind, &app.instance(), now)
            .await
            .map_err(store_status)?;
        let SessionOpened::Current(session_epoch) = opened else {
            return Err(Status::aborted(
                "fenced: another process runs with this node's key",
            ));
        };
        tx.commit().await.map_err(store_status)?;
        owm_service::failpoint::hit(SESSION_OPENED);
        // Without credits until its first offer, so that nothing is leased to it while we settle.
        let seat = app.sessions.open(Opening {
            node: node.clone(),
            session,
            down: Some(down),
            polls: kind == SessionKind::Poll,
            now,
        });
        let running = self.leases_settle(&node, &hello.running).await?;
        app.sessions.adopt(seat, running);
        let model = app.current_model().await.map_err(store_status)?;
        let welcome = wire::Welcome {
            node_status: node.status.to_string(),
            session_epoch,
            ping_secs: owm_coordinator_domain::liveness::SessionRules::default()
                .ping
                .as_secs() as u32,
            newest_version: model
                .map(|m| m.manifest.version.to_string())
                .unwrap_or_default(),
        };
        let conversation = Conversation {
            service: self.clone(),
            node,
            key,
            seat,
            streams: HashMap::new(),
        };
        Ok((conversation, welcome))
    }

    /// Leases the database gives this node: those it still works on stay, the others are lost (its
    /// process was restarted) and move on at once.
    async fn leases_settle(
        &self,
        node: &Node,
        says: &[wire::RunningTask],
    ) -> Result<Vec<(TaskId, u64, Role)>, Status> {
        let app = &self.app;
        let mut tx = app
            .store
            .single("session.leases")
            .await
            .map_err(store_status)?;
        let leased = task_list_leased_to(&mut tx, node.node_id)
            .await
            .map_err(store_status)?;
        let mut kept = vec![];
        let mut lost = vec![];
        for lease in leased {
            let (id, epoch) = (lease.task_id, lease.epoch);
            let works_on = says
                .iter()
                .any(|r| r.task_id == id.to_string() && r.epoch == epoch);
            if works_on {
                kept.push((id, epoch, lease.task_type.role()));
            } else {
                lost.push((id, epoch));
            }
        }
        drop(tx);
        for (id, epoch) in lost {
            app.lease_lose(
                node.node_id,
                id,
                epoch,
                Outcome::Lost,
                "the node was restarted",
            )
            .await
            .map_err(store_status)?;
        }
        Ok(kept)
    }
}

impl Conversation {
    /// Takes one message; what is to be answered at once.
    pub(crate) async fn take(
        &mut self,
        message: wire::work_up::Message,
    ) -> Result<Option<wire::work_down::Message>, Status> {
        use wire::{work_down::Message as Say, work_up::Message as Said};
        let app = self.service.app.clone();
        app.sessions.touch(self.node.node_id, app.now());
        match message {
            Said::Hello(_) => Err(Status::invalid_argument("a session says hello once")),
            Said::Offer(offer) => self.offer(&offer).map(|()| None),
            Said::Withdraw(withdraw) => self.withdraw(&withdraw).map(|()| None),
            Said::Ping(n) => Ok(Some(Say::Pong(n))),
            Said::Chunk(chunk) => self.chunk(chunk).await.map(|()| None),
            Said::Commit(envelope) => {
                let envelope = Envelope::try_from(envelope).map_err(envelope_status)?;
                app.commit_take(self.node.node_id, &self.key, envelope)
                    .await
                    .map_err(verdict_status)?;
                Ok(None)
            }
            Said::Result(result) => {
                let ack = app
                    .result_take(self.node.node_id, &self.key, result)
                    .await
                    .map_err(verdict_status)?;
                if let Ok(task) = ack.task_id.parse() {
                    self.streams.remove(&task);
                }
                Ok(Some(Say::ResultAck(ack)))
            }
            Said::HandBack(back) => self.hand_back(back).await.map(|()| None),
            Said::Heartbeat(envelope) => {
                let envelope = Envelope::try_from(envelope).map_err(envelope_status)?;
                // A clock that is off must not cost the session: the node is told in the log.
                if let Err(status) = self.service.heartbeat_fold(&self.node, &envelope).await {
                    tracing::debug!(node.id = %self.node.node_id, reason = status.message(), "heartbeat ignored");
                }
                Ok(None)
            }
        }
    }

    fn offer(&self, offer: &wire::Offer) -> Result<(), Status> {
        let invalid =
            |error: owm_proto::hash::ParseError| Status::invalid_argument(error.to_string());
        let role: Role = offer.role.parse().map_err(invalid)?;
        if offer.sha256.len() > LOADED_MAX || offer.credits > CREDITS_MAX {
            return Err(Status::invalid_argument("the offer exceeds its limits"));
        }
        let loaded: Vec<Sha256> = offer
            .sha256
            .iter()
            .map(|h| h.parse())
            .collect::<Result<_, _>>()
            .map_err(invalid)?;
        let app = &self.service.app;
        app.sessions.offer(self.seat, role, offer.credits, loaded);
        app.dispatcher.slot_free(role);
        Ok(())
    }

    fn withdraw(&self, withdraw: &wire::Withdraw) -> Result<(), Status> {
        let role = withdraw.role.parse();
        let role: Role =
            role.map_err(|e: owm_proto::hash::ParseError| Status::invalid_argument(e.to_string()))?;
        tracing::info!(node.id = %self.node.node_id, %role, "the node takes no more work");
        self.service.app.sessions.withdraw(self.seat, role);
        Ok(())
    }

    async fn hand_back(&mut self, back: wire::HandBack) -> Result<(), Status> {
        let task: TaskId = back
            .task_id
            .parse()
            .map_err(|e: owm_proto::hash::ParseError| Status::invalid_argument(e.to_string()))?;
        let reason = HandBackReason::from_wire(back.reason)
            .ok_or_else(|| Status::invalid_argument("an unknown hand-back reason"))?;
        self.streams.remove(&task);
        let node = self.node.node_id;
        let app = &self.service.app;
        if reason == HandBackReason::ShuttingDown {
            app.sessions.drain(node);
        }
        app.hand_back_take(node, task, back.epoch, reason, &back.message)
            .await
            .map_err(store_status)
    }

    async fn chunk(&mut self, chunk: wire::Chunk) -> Result<(), Status> {
        let invalid =
            |error: owm_proto::hash::ParseError| Status::invalid_argument(error.to_string());
        let task: TaskId = chunk.task_id.parse().map_err(invalid)?;
        let fault = match self.chunk_check(task, &chunk).await? {
            Ok(None) => return Ok(()),
            Ok(Some(new)) => {
                self.service.app.chunks.send(new).await;
                return Ok(());
            }
            Err(fault) => fault,
        };
        self.streams.remove(&task);
        let (app, node) = (&self.service.app, self.node.node_id);
        app.lease_lose(node, task, chunk.epoch, Outcome::Rejected, &fault)
            .await
            .map_err(store_status)?;
        app.tell_cancelled(node, task, chunk.epoch, &fault);
        Ok(())
    }

    /// A chunk to be journalled, nothing to do, or the fault that ends the lease.
    async fn chunk_check(
        &mut self,
        task: TaskId,
        chunk: &wire::Chunk,
    ) -> Result<Result<Option<NewChunk>, String>, Status> {
        let known = self
            .streams
            .get(&task)
            .is_some_and(|s| s.loaded.task.epoch == chunk.epoch);
        if !known && !self.stream_load(task, chunk.epoch).await? {
            return Ok(Ok(None));
        }
        let Some(stream) = self.streams.get_mut(&task) else {
            return Ok(Ok(None));
        };
        let given = GivenChunk {
            node: self.node.node_id,
            epoch: chunk.epoch,
            from: chunk.from,
            tokens: &chunk.tokens,
            text: &chunk.text,
        };
        let so_far = DomainDelivered {
            tokens: &stream.tokens,
            text_bytes: stream.text_bytes,
        };
        let max = stream.loaded.facts.max_tokens;
        let to = match decide_chunk(&stream.loaded.task, &so_far, max, &given) {
            ChunkDecision::Append { to } => to,
            // Chunks sent while we were away leave a gap: their tokens come with the result.
            ChunkDecision::Refused(fault)
                if fault.ends_lease() && !matches!(fault, ChunkFault::Gap { .. }) =>
            {
                return Ok(Err(fault.to_string()));
            }
            ChunkDecision::Repeated | ChunkDecision::Refused(_) => return Ok(Ok(None)),
        };
        let envelope = Envelope::from_wire(chunk.segment.clone()).map_err(envelope_status)?;
        let network = self.service.app.network();
        let segment = Segment::open(&envelope, &network, SignerRule::Exactly(&self.key))
            .map_err(envelope_status)?;
        stream.tokens.extend(&chunk.tokens);
        stream.text_bytes += chunk.text.len();
        let facts = &stream.loaded.facts;
        let expected = Expected {
            task_id: task,
            epoch: chunk.epoch,
            model_sha256: &facts.model_sha256,
            input_sha256: facts.input_sha256,
            seed: facts.seed,
            max_tokens: facts.max_tokens,
            context_tokens: None,
            share_from: stream.share_from,
            delivered_tokens: &[],
            delivered_text: "",
        };
        if let Err(fault) = check_segment(&expected, &segment, &stream.tokens, to as usize) {
            return Ok(Err(fault.to_string()));
        }
        Ok(Ok(Some(NewChunk {
            task_id: task,
            epoch: chunk.epoch,
            node: self.node.node_id,
            from: chunk.from,
            tokens: chunk.tokens.clone(),
            text: chunk.text.clone(),
            segment: envelope,
        })))
    }

    /// Learns where a streamed answer stands; `false`: this node has no live lease on it.
    async fn stream_load(&mut self, task: TaskId, epoch: u64) -> Result<bool, Status> {
        let app = &self.service.app;
        let mut tx = app
            .store
            .begin("chunk.resume")
            .await
            .map_err(store_status)?;
        let found = task_load(&mut tx, task).await.map_err(store_status)?;
        let live = |t: &LoadedTask| {
            use owm_coordinator_domain::task::Phase;
            t.task.epoch == epoch
                && t.facts.streaming
                && matches!(t.task.phase, Phase::Leased { node, .. } if node == self.node.node_id)
        };
        let Some(loaded) = found.filter(live) else {
            self.streams.remove(&task);
            return Ok(false);
        };
        let delivered = chunk_load(&mut tx, &app.vault, task)
            .await
            .map_err(store_status)?;
        let stream = Streaming {
            loaded,
            share_from: share_from(&delivered, epoch),
            text_bytes: delivered.text.len(),
            tokens: delivered.tokens,
        };
        self.streams.insert(task, stream);
        Ok(true)
    }
}

impl Conversation {
    /// Whether this session still counts.
    pub(super) fn is_current(&self) -> bool {
        self.service.app.sessions.is_current(self.seat)
    }
}
