//! Uptime, reliability and tier in effect of every node, from the minutes it was heard in. Connected nodes
//! are told theirs, once per session and when it changes.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use owm_coordinator_domain::liveness::{effective_tier, reliability, uptime, uptime_window};
use owm_coordinator_store::{
    StoreError,
    node::{Node, node_list, node_set_standing},
    session::minutes_count,
};
use owm_proto::{
    NodeId, SessionId, UnixMillis,
    wire::coordinator::{self as wire, work_down::Message},
};
use owm_service::reconcile::{Reconciler, Status};

use crate::app::App;

/// Nodes of one transaction.
const PAGE: u32 = 200;

/// The reconciler.
#[derive(Debug)]
pub struct Standing {
    app: App,
    /// What each session was told.
    told: Mutex<HashMap<(NodeId, SessionId), wire::Standing>>,
}

impl Standing {
    /// Nobody has been told anything.
    pub fn new(app: App) -> Self {
        Self {
            app,
            told: Mutex::default(),
        }
    }

    /// Tells what sessions do not know yet; sessions that are over are forgotten.
    fn tell(&self, standings: &HashMap<NodeId, wire::Standing>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let mut now = HashMap::new();
        for (node, run) in self.app.sessions.runs() {
            let Some(standing) = standings.get(&node) else {
                continue;
            };
            if told.remove(&(node, run)).as_ref() != Some(standing) {
                self.app
                    .sessions
                    .send(node, Message::Standing(standing.clone()));
            }
            now.insert((node, run), standing.clone());
        }
        *told = now;
    }
}

impl Reconciler for Standing {
    const NAME: &'static str = "standing";
    type Error = StoreError;

    async fn run(&self) -> Result<Status, StoreError> {
        let app = &self.app;
        let (mut after, mut standings) = (None, HashMap::new());
        loop {
            let mut tx = app.store.begin("node.standing").await?;
            let nodes = node_list(&mut tx, after, PAGE).await?;
            let mut changed = vec![];
            for node in &nodes {
                let window = uptime_window(node.registered_at, app.now());
                let since = UnixMillis(window.start * 60_000);
                let minutes = minutes_count(&mut tx, node.node_id, since).await?;
                let up = uptime(&window, minutes);
                let tier = effective_tier(node.tier, up);
                let reliable = reliability(node.tasks_succeeded, node.tasks_total, up);
                if (up, reliable, tier) != (node.uptime, node.reliability, node.effective_tier) {
                    changed.push((node.node_id, up, reliable, tier));
                }
                let standing = wire::Standing {
                    effective_tier: tier.to_string(),
                    reliability_permille: reliable.0,
                    uptime_permille: up.0,
                };
                standings.insert(node.node_id, standing);
                app.sessions.refresh(&Node {
                    uptime: up,
                    reliability: reliable,
                    effective_tier: tier,
                    ..node.clone()
                });
            }
            // Last, and in the order in which everybody locks nodes: results are booked meanwhile.
            changed.sort_by_key(|(node, ..)| *node);
            for (node, up, reliable, tier) in changed {
                node_set_standing(&mut tx, node, up, reliable, tier).await?;
            }
            tx.commit().await?;
            match nodes.last() {
                Some(last) if nodes.len() == PAGE as usize => after = Some(last.node_id),
                _ => break,
            }
        }
        self.tell(&standings);
        Ok(Status(serde_json::json!({ "nodes": standings.len() })))
    }
}
