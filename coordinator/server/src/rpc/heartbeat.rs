//! Heartbeats: signed state messages with a rising sequence, on the Work stream or by the unary call.

use owm_coordinator_store::{
    node::Node,
    replay::{Sequence, sequence_advance},
    session::SignOfLife,
    task::task_count_queued,
};
use owm_proto::{
    Envelope, NodeStatus, PublicKey, Purpose, Role, SignerRule, UnixMillis, envelope::check_time,
    wire::coordinator as wire,
};
use tonic::Status;

use super::{NodeService, envelope_status, store_status};

impl NodeService {
    pub(super) async fn heartbeat_take(
        &self,
        key: PublicKey,
        request: wire::HeartbeatRequest,
    ) -> Result<wire::HeartbeatResponse, Status> {
        let node = self.known_node(&key).await?;
        let envelope = Envelope::from_wire(request.heartbeat).map_err(envelope_status)?;
        self.heartbeat_fold(&node, &envelope).await?;
        let mut tx = self
            .app
            .store
            .begin("heartbeat.answer")
            .await
            .map_err(store_status)?;
        let pending_tasks = task_count_queued(&mut tx, Role::Infer)
            .await
            .map_err(store_status)?;
        let model = self.app.current_model().await.map_err(store_status)?;
        Ok(wire::HeartbeatResponse {
            status: node.status.to_string(),
            newest_version: model
                .map(|m| m.manifest.version.to_string())
                .unwrap_or_default(),
            pending_tasks,
        })
    }

    /// Verifies a heartbeat and hands it to be folded. One that is not news counts no minute and is fine.
    pub(super) async fn heartbeat_fold(
        &self,
        node: &Node,
        envelope: &Envelope,
    ) -> Result<(), Status> {
        if node.status == NodeStatus::Suspended {
            return Err(Status::permission_denied(format!(
                "suspended: {}",
                node.status_reason
            )));
        }
        let network = self.app.network();
        let verified = envelope
            .verify(
                Purpose::Heartbeat,
                &network,
                SignerRule::Exactly(&node.public_key),
            )
            .map_err(envelope_status)?;
        let body: wire::HeartbeatBody = verified.protobuf().map_err(envelope_status)?;
        let now = self.app.now();
        check_time(
            UnixMillis(body.issued_at_ms),
            UnixMillis(body.expires_at_ms),
            self.app.wall(),
        )
        .map_err(envelope_status)?;
        let mut tx = self
            .app
            .store
            .begin("heartbeat.sequence")
            .await
            .map_err(store_status)?;
        let (key, purpose) = (&node.public_key, Purpose::Heartbeat);
        let news = sequence_advance(&mut tx, key, purpose, body.sequence, now)
            .await
            .map_err(store_status)?;
        let sign = |fresh| {
            self.app.sessions.touch(node.node_id, now);
            self.app.signs.send(SignOfLife {
                node: node.node_id,
                at: now,
                fresh,
            });
        };
        match news {
            Sequence::New => {
                tx.commit().await.map_err(store_status)?;
                sign(true);
                Ok(())
            }
            // Gossip may have brought it, or the one after it, first: the minute is counted, and the session
            // lives all the same. A replay by others does not come here: the channel is the node's own.
            Sequence::Duplicate | Sequence::Stale => {
                sign(false);
                Ok(())
            }
        }
    }
}
