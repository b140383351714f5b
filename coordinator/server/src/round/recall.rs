//! Takes back what a round asked of nodes and nobody needs any more, in the transaction that seals or ends it: a straggler
//! has its slot again, and what he would hand in is not owed.

use std::collections::BTreeSet;

use owm_coordinator_domain::round::{Attempt, Phase};
use owm_coordinator_store::{
    StoreError, Tx,
    evaluation::evaluation_tasks,
    round::work::{Purpose, round_evaluation, round_parts},
};
use owm_proto::UnixMillis;

use crate::evaluate::cancel::{Ended, task_cancel};

/// For the nodes that are told.
const SEALED: &str = "the round takes no more updates";
const OVER: &str = "the round is over";

/// Ends every open task that a round which has come to `phase` has no use for. How many were open.
pub(super) async fn recall(
    tx: &mut Tx,
    number: u64,
    phase: Phase,
    now: UnixMillis,
) -> Result<usize, StoreError> {
    let reason = match phase {
        Phase::Open | Phase::Collecting => return Ok(0),
        Phase::Sealed | Phase::Aggregated | Phase::Evaluated => SEALED,
        Phase::Published | Phase::Anchored | Phase::Abandoned => OVER,
    };
    let mut tasks = BTreeSet::new();
    for part in round_parts(tx, number).await? {
        tasks.insert(part.task);
    }
    if reason == OVER {
        for purpose in [Purpose::Reference, Purpose::Candidate, Purpose::Parent] {
            for attempt in [Attempt::First, Attempt::Fallback] {
                if let Some(id) = round_evaluation(tx, number, purpose, attempt).await? {
                    let its = evaluation_tasks(tx, id).await?;
                    tasks.extend(its.iter().map(|task| task.task_id));
                }
            }
        }
    }
    let mut open = 0;
    // By task id, the order in which everybody locks.
    for task in tasks {
        if task_cancel(tx, task, reason, now).await? != Ended::Before {
            open += 1;
        }
    }
    Ok(open)
}
