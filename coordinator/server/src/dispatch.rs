//! The dispatcher: whenever work or a free slot appears, queued tasks are claimed, the domain chooses
//! nodes, the leases are written in one transaction, and only then sent.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use owm_coordinator_domain::{
    schedule::{Apart, TaskNeed, assign},
    task::{Attempt, HandBackReason},
};
use owm_coordinator_store::{
    StoreError, Tx,
    chunk::{chunk_load, chunk_trim},
    evaluation::evaluations_apart,
    lease::{LeaseGrant, QueuedTask, lease_claim, lease_grant},
    round::work::round_tasks_whose,
    task::task_count_queued,
};
use owm_proto::{NodeId, Role, Sha256, TaskType, seal, wire::coordinator as wire};
use owm_service::CancellationToken;
use prost::Message as _;
use rand::RngCore as _;
use tokio::sync::Notify;

use crate::{app::App, sessions::Connected};

owm_service::failpoints! {
    /// Leases are written, not yet sent.
    pub const LEASE_WRITTEN = "coordinator.lease.written";
}

/// Without a wake-up, work of other coordinators' making is seen after this.
const POLL: Duration = Duration::from_millis(250);

/// Tasks leased in one transaction: enough to amortise the commit, few enough to hold locks briefly.
const BATCH_MAX: u32 = 128;

/// Tasks looked at in one pass even if there is one slot: some may fit none of the free nodes.
const CLAIM_MIN: u32 = 16;

/// Wakes the dispatcher. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct DispatchHandle(Arc<Signal>);

#[derive(Debug, Default)]
struct Signal {
    notify: Notify,
    /// Roles of which no task waits, a bit each: set when a look has ended that found none queued,
    /// cleared by the next look's beginning and by whatever may add one.
    idle: AtomicU8,
}

const fn bit(role: Role) -> u8 {
    match role {
        Role::Infer => 1,
        Role::Train => 2,
        Role::Ingest => 4,
        Role::Evaluate => 8,
    }
}

impl DispatchHandle {
    /// There may be a task to hand out.
    pub fn wake(&self) {
        self.0.idle.store(0, Ordering::Release);
        self.0.notify.notify_one();
    }

    /// A slot for `role` may be free. While no such task waits that is no reason to ask the database.
    pub fn slot_free(&self, role: Role) {
        if self.0.idle.load(Ordering::Acquire) & bit(role) == 0 {
            self.0.notify.notify_one();
        }
    }

    /// Before a look: a slot that comes meanwhile may be the one it misses, so it asks for another look.
    fn looks(&self, role: Role) {
        self.0.idle.fetch_and(!bit(role), Ordering::AcqRel);
    }

    /// After a look that found no task queued. One that came meanwhile has asked for another look, so
    /// nothing is forgotten.
    fn found_none(&self, role: Role) {
        self.0.idle.fetch_or(bit(role), Ordering::AcqRel);
    }
}

/// Runs until `stop`. A database that is away is waited for.
pub async fn run(app: App, stop: CancellationToken) -> Result<(), StoreError> {
    let mut failing = false;
    while !stop.is_cancelled() {
        let mut busy = false;
        let mut failed = None;
        for role in Role::ALL {
            app.dispatcher.looks(*role);
            let look = look(&app, *role).await;
            if matches!(look, Ok(Look { left: false, .. })) {
                app.dispatcher.found_none(*role);
            }
            match look {
                Ok(look) => busy |= look.leased == BATCH_MAX as usize,
                Err(error) => failed = Some(error),
            }
        }
        // Logged once per outage, not four times a second.
        match failed {
            Some(ref error) if !failing => {
                tracing::warn!(%error, "cannot hand out work, trying on");
            }
            _ => {}
        }
        failing = failed.is_some();
        if busy {
            continue;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = app.dispatcher.0.notify.notified() => {}
            () = tokio::time::sleep(POLL) => {}
        }
    }
    Ok(())
}

/// What a look at the queue came to.
struct Look {
    leased: usize,
    /// Whether tasks may wait that only a free slot is missing for.
    left: bool,
}

impl Look {
    const UNSEEN: Self = Self {
        leased: 0,
        left: true,
    };
}

/// Leases what can be leased of one role; returns how many.
pub async fn dispatch(app: &App, role: Role) -> Result<usize, StoreError> {
    look(app, role).await.map(|look| look.leased)
}

async fn look(app: &App, role: Role) -> Result<Look, StoreError> {
    let nodes = app.sessions.candidates();
    let free: u32 = nodes.iter().map(|n| n.candidate.credits.of(role)).sum();
    if free == 0 {
        return Ok(Look::UNSEEN);
    }
    let now = app.now();
    let mut tx = app.store.begin("task.lease").await?;
    // More than there are slots, so that a task nobody here can do does not hold up the rest.
    let limit = free.saturating_mul(2).clamp(CLAIM_MIN, BATCH_MAX);
    let free_nodes: Vec<NodeId> = nodes
        .iter()
        .filter(|n| n.candidate.credits.of(role) > 0)
        .map(|n| n.candidate.node)
        .collect();
    let queued = lease_claim(&mut tx, &app.vault, role, &free_nodes, now, limit).await?;
    if queued.is_empty() {
        // What all free nodes have tried, or another coordinator holds, waits all the same.
        let left = task_count_queued(&mut tx, role).await? > 0;
        return Ok(Look { leased: 0, left });
    }
    let claimed = queued.len();
    let mut seed = [0; 32];
    app.request_rng().fill_bytes(&mut seed);
    let (queued, needs) = needs(&mut tx, role, queued).await?;
    let candidates: Vec<_> = nodes.iter().map(|n| n.candidate.clone()).collect();
    let mut grants = vec![];
    let mut leases = vec![];
    for (task_index, node_index) in assign(&needs, &candidates, seed) {
        let (queued, node) = (&queued[task_index], &nodes[node_index]);
        let granted = queued.loaded.task.lease(node.candidate.node, now);
        let Ok((_, attempt)) = granted else { continue };
        let Some(forced) = forced_prefix(app, &mut tx, queued).await else {
            continue;
        };
        let Some(lease) = sealed_lease(queued, &attempt, node, forced, now.0) else {
            continue;
        };
        grants.push(LeaseGrant {
            task_id: queued.loaded.facts.task_id,
            attempt,
        });
        leases.push((node.seat, lease));
    }
    if grants.is_empty() {
        return Ok(Look::UNSEEN);
    }
    let left = claimed == limit as usize || grants.len() < claimed;
    lease_grant(&mut tx, &grants, now).await?;
    tx.commit().await?;
    owm_service::failpoint::hit(LEASE_WRITTEN);
    let mut failed = None;
    for (grant, (seat, lease)) in grants.iter().zip(leases) {
        let (id, attempt) = (grant.task_id, &grant.attempt);
        app.answers.leased(id);
        if !app.sessions.lease(seat, id, attempt.epoch, role, lease) {
            // The node went away in between, or does not keep up: it never saw the lease, so that is no
            // attempt.
            let (why, reason) = ("not delivered", HandBackReason::ShuttingDown);
            let back = app.hand_back_take(attempt.node, id, attempt.epoch, reason, why);
            // The others' leases are written too and have to be sent whatever becomes of this one.
            failed = back.await.err().or(failed);
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    Ok(Look {
        leased: grants.len(),
        left,
    })
}

/// What has been delivered of a streamed answer: forced context for the next attempt. `None`: this task
/// can't be leased now; the others can.
async fn forced_prefix(app: &App, tx: &mut Tx, queued: &QueuedTask) -> Option<Vec<u32>> {
    let facts = &queued.loaded.facts;
    if !facts.streaming || queued.loaded.task.epoch == 0 {
        return Some(vec![]);
    }
    let id = facts.task_id;
    let loaded = async {
        let tokens = chunk_load(tx, &app.vault, id).await?.tokens;
        chunk_trim(tx, id, u32::try_from(tokens.len()).unwrap_or(u32::MAX)).await?;
        Ok::<_, StoreError>(tokens)
    };
    loaded
        .await
        .inspect_err(
            |error| tracing::error!(%error, task.id = %id, "its delivered prefix can't be read"),
        )
        .ok()
}

/// What each task asks of a node, and without those that another coordinator is leasing a sibling of.
async fn needs(
    tx: &mut Tx,
    role: Role,
    mut queued: Vec<QueuedTask>,
) -> Result<(Vec<QueuedTask>, Vec<TaskNeed>), StoreError> {
    let ids: Vec<_> = queued.iter().map(|q| q.loaded.facts.task_id).collect();
    if role == Role::Train {
        let whose = round_tasks_whose(tx, &ids).await?;
        let need = |queued: &QueuedTask| TaskNeed {
            only: whose.get(&queued.loaded.facts.task_id).copied(),
            ..need(queued, None)
        };
        let needs = queued.iter().map(need).collect();
        return Ok((queued, needs));
    }
    if role != Role::Evaluate {
        let needs = queued.iter().map(|queued| need(queued, None)).collect();
        return Ok((queued, needs));
    }
    let mut apart = evaluations_apart(tx, &ids).await?;
    queued.retain(|queued| apart.contains_key(&queued.loaded.facts.task_id));
    let need = |queued: &QueuedTask| need(queued, apart.remove(&queued.loaded.facts.task_id));
    let needs = queued.iter().map(need).collect();
    Ok((queued, needs))
}

fn need(queued: &QueuedTask, apart: Option<Apart>) -> TaskNeed {
    let facts = &queued.loaded.facts;
    TaskNeed {
        task_type: facts.task_type,
        min_tier: facts.min_tier,
        cpu_capable: true,
        models: facts.model_sha256.clone(),
        only_holders: facts.task_type == TaskType::Inference,
        tried: queued.loaded.task.tried.clone(),
        only: None,
        apart,
    }
}

/// The lease as it is sent; `None` if the node's key can't be sealed to.
fn sealed_lease(
    queued: &QueuedTask,
    attempt: &Attempt,
    node: &Connected,
    forced_prefix: Vec<u32>,
    now_ms: u64,
) -> Option<wire::Lease> {
    let facts = &queued.loaded.facts;
    let sealed = wire::SealedTask {
        payload: queued.payload.clone(),
        forced_prefix,
    };
    let sealed_payload = seal::seal(&node.key, &sealed.encode_to_vec())
        .inspect_err(|error| tracing::warn!(%error, node.id = %node.candidate.node, "cannot seal"))
        .ok()?;
    Some(wire::Lease {
        task_id: facts.task_id.to_string(),
        epoch: attempt.epoch,
        task_type: facts.task_type.to_string(),
        deadline_ms: attempt.expires_at.0,
        lease_ms: u32::try_from(attempt.expires_at.0.saturating_sub(now_ms)).unwrap_or(u32::MAX),
        model_version: facts.model_version.to_string(),
        sub_model: facts.sub_model.to_string(),
        model_sha256: facts.model_sha256.iter().map(Sha256::to_string).collect(),
        input_hash: facts.input_sha256.to_string(),
        sealed_payload,
    })
}

#[cfg(test)]
mod tests;
