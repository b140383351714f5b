//! Uptime, reliability and tier in effect of every node, from the minutes it was heard in.

use owm_coordinator_domain::liveness::{effective_tier, reliability, uptime, uptime_window};
use owm_coordinator_store::{
    StoreError,
    node::{Node, node_list, node_set_standing},
    session::minutes_count,
};
use owm_proto::UnixMillis;
use owm_service::reconcile::{Reconciler, Status};

use crate::app::App;

/// Nodes of one transaction.
const PAGE: u32 = 200;

/// The reconciler.
#[derive(Debug)]
pub struct Standing(pub App);

impl Reconciler for Standing {
    const NAME: &'static str = "standing";
    type Error = StoreError;

    async fn run(&self) -> Result<Status, StoreError> {
        let app = &self.0;
        let (mut after, mut seen) = (None, 0);
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
            seen += nodes.len();
            match nodes.last() {
                Some(last) if nodes.len() == PAGE as usize => after = Some(last.node_id),
                _ => return Ok(Status(serde_json::json!({ "nodes": seen }))),
            }
        }
    }
}
