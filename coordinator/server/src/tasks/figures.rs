//! Reads what `/metrics` shows and nobody counts on the way: queue, nodes, outbox, pool, reconcilers.
//! Must stay true: what is in memory is shown also while the database is away.

use owm_coordinator_store::{
    StoreError,
    figures::{LiveFigures, figures_live},
    stats::stats_owed,
};
use owm_proto::{NodeStatus, Role, UnixMillis};
use owm_service::{
    metrics::{Counter, Gauge},
    reconcile::{Handle, Reconciler, Status},
};

use crate::app::App;

/// The reconciler.
#[derive(Debug)]
pub struct Figures {
    app: App,
    reconcilers: Vec<Handle>,
}

impl Figures {
    /// Shows these reconcilers too.
    pub fn new(app: App, reconcilers: Vec<Handle>) -> Self {
        Self { app, reconcilers }
    }

    fn show_memory(&self) {
        let (app, figures) = (&self.app, &self.app.metrics.figures);
        figures
            .sessions
            .set(app.sessions.connected_nodes().len() as i64);
        let free = |node: &crate::sessions::Connected| node.candidate.credits.of(Role::Infer);
        let slots: u32 = app.sessions.candidates().iter().map(free).sum();
        figures.slots_free.set(slots.into());
        self.show_swarm();
        let load = app.store.load();
        for (state, count) in [
            ("in_use", load.in_use),
            ("idle", load.idle),
            ("max", load.max),
        ] {
            set(
                &figures.db_connections.get_or_create(&[("state", state)]),
                count.into(),
            );
        }
        set(&figures.db_waiting, load.waiting);
        raise(&figures.db_transactions, load.transactions);
        let waited = load.waited.as_secs_f64() - figures.db_wait.get();
        figures.db_wait.inc_by(waited.max(0.0));
        for handle in &self.reconcilers {
            let (label, report) = ([("reconciler", handle.name())], handle.report());
            let errors = figures.reconciler_errors.get_or_create(&label);
            raise(&errors, report.errors);
            if let Some(at) = report.last_succeeded_ms {
                let success = figures.reconciler_success.get_or_create(&label);
                success.set(at as f64 / 1_000.0);
            }
        }
    }

    fn show_swarm(&self) {
        let (app, figures) = (&self.app, &self.app.metrics.swarm);
        let Some(view) = app.swarm.view() else { return };
        let others = view.nodes.iter().filter(|n| n.key != app.instance());
        set(&figures.peers, view.peers.len() as u64);
        set(&figures.nodes, others.count() as u64);
        let sequence = view.checkpoint.as_ref().map_or(0, |c| c.sequence);
        set(&figures.checkpoint, sequence);
        let counts = app.swarm.handle().map(owm_p2p::Handle::counts);
        let counts = counts.unwrap_or_default();
        for (verdict, count) in [
            ("accepted", counts.accepted),
            ("ignored", counts.ignored.values().sum()),
            ("rejected", counts.rejected.values().sum()),
        ] {
            raise(
                &figures.messages.get_or_create(&[("verdict", verdict)]),
                count,
            );
        }
        raise(&figures.news_dropped, counts.news_dropped);
    }

    fn show_database(&self, live: &LiveFigures, now: UnixMillis) {
        let figures = &self.app.metrics.figures;
        for (state, count) in [("queued", live.queued), ("leased", live.leased)] {
            set(&figures.tasks.get_or_create(&[("state", state)]), count);
        }
        let age = |since: Option<UnixMillis>| since.map_or(0.0, |at| now.since(at).as_secs_f64());
        figures.queue_oldest.set(age(live.queued_since));
        set(&figures.outbox, live.outbox);
        figures.outbox_oldest.set(age(live.outbox_since));
        for status in [
            NodeStatus::Pending,
            NodeStatus::Active,
            NodeStatus::Degraded,
            NodeStatus::Suspended,
        ] {
            let word = status.as_str();
            let count = live.nodes.iter().find(|(name, _)| name == word);
            let gauge = figures.nodes.get_or_create(&[("status", word)]);
            set(&gauge, count.map_or(0, |(_, count)| *count));
        }
    }
}

impl Reconciler for Figures {
    const NAME: &'static str = "figures";
    type Error = StoreError;

    async fn run(&self) -> Result<Status, StoreError> {
        self.show_memory();
        let app = &self.app;
        let mut tx = app.store.begin("figures").await?;
        let live = figures_live(&mut tx).await?;
        self.show_database(&live, app.now());
        set(&app.metrics.figures.owed_msat, stats_owed(&mut tx).await?.0);
        Ok(Status(serde_json::json!({ "queued": live.queued })))
    }
}

fn set(gauge: &Gauge, value: u64) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}

/// Brings a counter up to what another has counted.
fn raise(counter: &Counter, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}
