//! Nodes whose session is gone: their leases move on to others.

use std::sync::{Mutex, PoisonError};

use owm_coordinator_domain::{
    liveness::{SessionKind, SessionRules, SessionSigns},
    task::Outcome,
};
use owm_coordinator_store::{
    StoreError,
    session::{session_is_held, sessions_superseded},
    task::task_list_leased_to,
};
use owm_proto::{NodeId, SessionId};
use owm_service::reconcile::{Reconciler, Status};

use crate::{app::App, tasks::alive};

/// The reconciler.
#[derive(Debug)]
pub struct Gone {
    app: App,
    /// Sessions that are gone and whose leases have not been taken back yet.
    pending: Mutex<Vec<(NodeId, SessionId)>>,
}

impl Gone {
    /// Nobody is gone yet.
    pub fn new(app: App) -> Self {
        Self {
            app,
            pending: Mutex::default(),
        }
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, Vec<(NodeId, SessionId)>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reconciler for Gone {
    const NAME: &'static str = "gone";
    type Error = StoreError;

    async fn run(&self) -> Result<Status, StoreError> {
        let app = &self.app;
        // While the database is away nobody can come back, so nobody is gone.
        alive::settle(app).await?;
        let now = app.now();
        let rules = SessionRules {
            stream_lost: app.config.scheduler.stream_lost.get(),
            ..SessionRules::default()
        };
        let gone = app
            .sessions
            .remove_gone(|polls, last_sign_at, stream_lost_at| {
                let kind = if polls {
                    SessionKind::Poll
                } else {
                    SessionKind::Stream
                };
                let signs = SessionSigns {
                    kind,
                    last_sign_at,
                    stream_lost_at,
                    lease_expires_at: None,
                };
                rules.is_gone(&signs, now)
            });
        self.pending().extend(gone);
        supersede(app).await?;
        let pending = self.pending().clone();
        for (node, run) in &pending {
            // Kept in the list until it is done: the database may be away.
            session_settle(app, *node, *run).await?;
            self.pending().retain(|(n, r)| (n, r) != (node, run));
        }
        Ok(Status(serde_json::json!({ "gone": pending.len() })))
    }
}

/// Sessions that another coordinator holds now, or another process of the same key: they end here, and
/// their leases stay where the node is.
async fn supersede(app: &App) -> Result<(), StoreError> {
    let held = app.sessions.runs();
    if held.is_empty() {
        return Ok(());
    }
    let mut tx = app.store.begin("session.superseded").await?;
    for gone in sessions_superseded(&mut tx, &held, &app.instance()).await? {
        if let Some((node, run)) = held.iter().find(|(node, _)| *node == gone.node) {
            tracing::info!(node.id = %node, fenced = gone.by_another_process, "session superseded");
            app.sessions.supersede(*node, *run, gone.by_another_process);
        }
    }
    Ok(())
}

/// Takes the leases of a session back, unless the node has come back, here or at another coordinator.
async fn session_settle(app: &App, node: NodeId, run: SessionId) -> Result<(), StoreError> {
    let mut tx = app.store.begin("session.gone").await?;
    let held = session_is_held(&mut tx, node, run, &app.instance()).await?;
    drop(tx);
    if !held || app.sessions.is_connected(node) {
        return Ok(());
    }
    leases_lose(app, node, "the node's session is gone").await
}

/// Takes all leases of a node back.
pub async fn leases_lose(app: &App, node: NodeId, reason: &str) -> Result<(), StoreError> {
    let mut tx = app.store.begin("session.leases").await?;
    let leases = task_list_leased_to(&mut tx, node).await?;
    drop(tx);
    for lease in leases {
        app.lease_lose(node, lease.task_id, lease.epoch, Outcome::Lost, reason)
            .await?;
    }
    Ok(())
}
