//! Does what was decided inside transactions and happens outside the database: a node is told of
//! its changed standing, of what its report has earned,
//! of a task that is cancelled. (Versions are told by `announce`, which every coordinator does for its own nodes.)
//! At least once; each kind bears being done twice.

use std::time::Duration;

use owm_coordinator_store::{
    StoreError, Tx,
    node::node_lookup,
    outbox::{OutboxItem, outbox_add, outbox_claim, outbox_finish, outbox_postpone},
};
use owm_proto::{
    Msat, NodeId, NodeStatus, TaskId, UnixMillis,
    wire::coordinator::{ResultAck, Verdict, work_down::Message},
};
use owm_service::reconcile::{Reconciler, Status};

use crate::{app::App, tasks::gone::leases_lose};

const BATCH_MAX: u32 = 64;

/// After a failed try; times the number of tries.
const RETRY: Duration = Duration::from_secs(5);

/// Tries until an item is given up: a node that is away for a day reads its earnings from the coordinator.
const BOOKED_TRIES_MAX: u32 = 300;

/// Tries until it is: what the node hands in then is refused all the same.
const CANCELLED_TRIES_MAX: u32 = 12;

fn told_tries(kind: &str) -> u32 {
    match kind {
        "booked" => BOOKED_TRIES_MAX,
        "cancelled" => CANCELLED_TRIES_MAX,
        _ => u32::MAX,
    }
}

/// What an item says.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Told {
    /// A node's standing was changed by somebody else than the node's own registration.
    NodeStatus {
        /// Whose.
        node: NodeId,
    },
    /// What a report earns was booked after it had been acknowledged.
    Booked {
        /// Whose.
        node: NodeId,
        /// For which task.
        task: TaskId,
        /// Under which lease.
        epoch: u64,
        /// How much.
        amount: Msat,
    },
    /// Nobody wants a leased task any more.
    Cancelled {
        /// Who is at it.
        node: NodeId,
        /// Which task.
        task: TaskId,
        /// Under which lease.
        epoch: u64,
        /// For people.
        reason: String,
    },
}

impl Told {
    const fn kind(&self) -> &'static str {
        match self {
            Self::NodeStatus { .. } => "node_status",
            Self::Booked { .. } => "booked",
            Self::Cancelled { .. } => "cancelled",
        }
    }

    /// Writes it into the outbox of the transaction that decided it.
    pub async fn add(&self, tx: &mut Tx, now: UnixMillis) -> Result<(), StoreError> {
        let payload = serde_json::to_value(self).unwrap_or_default();
        outbox_add(tx, self.kind(), &payload, now).await
    }
}

/// The reconciler.
#[derive(Debug)]
pub struct Outbox(pub App);

impl Reconciler for Outbox {
    const NAME: &'static str = "outbox";
    type Error = StoreError;

    async fn run(&self) -> Result<Status, StoreError> {
        let app = &self.0;
        let now = app.now();
        let mut tx = app.store.begin("outbox.drain").await?;
        let items = outbox_claim(&mut tx, now, BATCH_MAX).await?;
        for item in &items {
            match act(app, item).await {
                Ok(()) => outbox_finish(&mut tx, item.id, now).await?,
                Err(reason) if item.attempts >= told_tries(&item.kind) => {
                    tracing::info!(
                        outbox.kind = item.kind,
                        reason,
                        "an outbox item is given up"
                    );
                    outbox_finish(&mut tx, item.id, now).await?;
                }
                Err(reason) => {
                    tracing::warn!(outbox.kind = item.kind, reason, "an outbox item waits");
                    let next = now.after(RETRY * (item.attempts + 1).min(60));
                    outbox_postpone(&mut tx, item.id, &reason, next).await?;
                }
            }
        }
        tx.commit().await?;
        Ok(Status(serde_json::json!({ "done": items.len() })))
    }
}

async fn act(app: &App, item: &OutboxItem) -> Result<(), String> {
    let told: Told = serde_json::from_value(item.payload.clone())
        .map_err(|error| format!("unknown to this version: {error}"))?;
    match told {
        Told::NodeStatus { node } => tell_status(app, node).await.map_err(|e| e.to_string()),
        Told::Booked {
            node,
            task,
            epoch,
            amount,
        } => tell_booked(app, node, task, epoch, amount),
        Told::Cancelled {
            node,
            task,
            epoch,
            reason,
        } => {
            connected(app, node)?;
            app.sessions.release(node, task, epoch, app.now());
            app.tell_cancelled(node, task, epoch, &reason);
            app.dispatcher.wake();
            Ok(())
        }
    }
}

/// Whoever holds the node's session acts.
fn connected(app: &App, node: NodeId) -> Result<(), String> {
    let is = app.sessions.is_connected(node);
    is.then_some(())
        .ok_or_else(|| "the node is not connected here".to_owned())
}

/// The node's books take the amount once, however often they hear it.
fn tell_booked(
    app: &App,
    node: NodeId,
    task: TaskId,
    epoch: u64,
    amount: Msat,
) -> Result<(), String> {
    connected(app, node)?;
    let ack = ResultAck {
        task_id: task.to_string(),
        epoch,
        verdict: Verdict::Accepted.into(),
        reason: String::new(),
        reward_msat: amount.0,
    };
    app.sessions.send(node, Message::ResultAck(ack));
    Ok(())
}

/// A connected node learns its standing; a suspended one loses its leases at once.
async fn tell_status(app: &App, id: NodeId) -> Result<(), StoreError> {
    let mut tx = app.store.begin("outbox.node").await?;
    let Some(node) = node_lookup(&mut tx, id).await? else {
        return Ok(());
    };
    drop(tx);
    app.sessions.refresh(&node);
    app.sessions
        .send(id, Message::NodeStatus(node.status.to_string()));
    if node.status == NodeStatus::Suspended {
        app.sessions.drain(id);
        leases_lose(app, id, "the node is suspended").await?;
    }
    Ok(())
}
