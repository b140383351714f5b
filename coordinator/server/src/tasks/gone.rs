//! Nodes whose session is gone: their leases move on to others.

use owm_coordinator_domain::{
    liveness::{SessionKind, SessionRules, SessionSigns},
    task::Outcome,
};
use owm_coordinator_store::{
    StoreError,
    task::{task_list_leased_to, task_load},
};
use owm_proto::NodeId;
use owm_service::reconcile::{Reconciler, Status};

use crate::app::App;

/// The reconciler.
#[derive(Debug)]
pub struct Gone(pub App);

impl Reconciler for Gone {
    const NAME: &'static str = "gone";
    type Error = StoreError;

    async fn run(&self) -> Result<Status, StoreError> {
        let app = &self.0;
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
        for node in &gone {
            leases_lose(app, *node, "the node's session is gone").await?;
        }
        Ok(Status(serde_json::json!({ "gone": gone.len() })))
    }
}

/// Takes all leases of a node back.
pub async fn leases_lose(app: &App, node: NodeId, reason: &str) -> Result<(), StoreError> {
    let mut tx = app.store.begin("session.gone").await?;
    let mut leases = vec![];
    for id in task_list_leased_to(&mut tx, node).await? {
        if let Some(loaded) = task_load(&mut tx, id).await? {
            leases.push((id, loaded.task.epoch));
        }
    }
    drop(tx);
    for (id, epoch) in leases {
        app.lease_lose(node, id, epoch, Outcome::Lost, reason)
            .await?;
    }
    Ok(())
}
