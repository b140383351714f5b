//! Everything that `top` shows of a running node, gathered when it is asked for: `control` sends it.
//! Must stay true: no prompt, no answer, no request id in it; of others only what the swarm knows of peers.

use std::sync::Arc;

use owm_proto::{Msat, UnixMillis};
use owm_service::{
    clock::SharedClock,
    telemetry::{self, FilterState, Warning},
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    activity::{Activity, Snapshot},
    asking::Asking,
    machine::Machine,
    models::Fetching,
    status::Status,
    swarm::SwarmPicture,
    tasklog::{Earnings, FinishedTask, TaskLog, TaskLogError},
};

/// Ended attempts shown.
const FINISHED: u32 = 20;
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// The picture at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// When, Unix milliseconds, by the node's clock.
    pub at_ms: u64,
    /// The node.
    pub status: Status,
    /// The swarm as it sees it; absent from an older node.
    #[serde(default)]
    pub swarm: Option<SwarmPicture>,
    /// What it computes.
    pub activity: Snapshot,
    /// What ended last, newest first.
    pub finished: Vec<FinishedTask>,
    /// Its books; absent if the task log cannot be read.
    pub earnings: Option<Earnings>,
    /// Earned by attempts that began since midnight, UTC.
    pub earned_today_msat: Option<Msat>,
    /// What it takes of the machine.
    pub machine: Machine,
    /// Memory that the loaded weights take by computation, in bytes.
    pub model_bytes: Option<u64>,
    /// The log filter in use.
    pub log: FilterState,
    /// The last warnings, newest first.
    pub warnings: Vec<Warning>,
}

/// Where the facts come from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The picture.
    pub status: watch::Receiver<Status>,
    /// The swarm.
    pub swarm: watch::Receiver<Arc<SwarmPicture>>,
    /// The books.
    pub log: TaskLog,
    /// What is computed.
    pub activity: Activity,
    /// The last sample.
    pub machine: watch::Receiver<Machine>,
    /// The logs.
    pub telemetry: telemetry::Handle,
    /// The time.
    pub clock: SharedClock,
    /// Answers this machine's own user.
    pub asking: Asking,
    /// Fetches models for them.
    pub fetching: Fetching,
}

impl Sources {
    /// Gathers them.
    pub async fn facts(&self) -> Facts {
        let at_ms = self.clock.now_ms();
        let midnight = UnixMillis(at_ms - at_ms % DAY_MS);
        let read = move |log: &TaskLog| {
            let earned = log.earned_since(midnight)?;
            Ok::<_, TaskLogError>((log.finished_latest(FINISHED)?, log.earnings()?, earned))
        };
        let books = self.log.run(read).await.ok();
        let (finished, earnings, earned_today_msat) = match books {
            Some((finished, earnings, earned)) => (finished, Some(earnings), Some(earned)),
            None => (Vec::new(), None, None),
        };
        let status = self.status.borrow().clone();
        Facts {
            at_ms,
            model_bytes: model_bytes(&status),
            status,
            swarm: Some(SwarmPicture::clone(&self.swarm.borrow())),
            activity: self.activity.snapshot(self.clock.monotonic()),
            finished,
            earnings,
            earned_today_msat,
            machine: self.machine.borrow().clone(),
            log: self.telemetry.filter(),
            warnings: self.telemetry.warnings(),
        }
    }
}

/// Parameters times the width the backend's name tells (`burn-flex/f32`).
fn model_bytes(status: &Status) -> Option<u64> {
    let engine = status.model.as_ref()?.engine.as_ref()?;
    let width = match engine.backend.rsplit('/').next() {
        Some("f32") => 4,
        Some("f16" | "bf16") => 2,
        _ => return None,
    };
    engine.parameters.checked_mul(width)
}
