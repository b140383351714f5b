//! The work link as repeated long polls, for circuits that drop. One request is held by the coordinator
//! until it has something; what this node has to say goes in requests of its own that return at once.
//! Every request begins with the Hello. While this node has something to say soon (it has not offered yet,
//! or works on a lease), requests are held only briefly: a coordinator may answer them one after the other.
//! Must stay true: no answer is thrown away (it may carry a lease); a held request names the last answer
//! that arrived, so that one lost on the way is given again; a request that had something to say and
//! failed ends the link, because only a new Hello makes clear what arrived.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use owm_proto::wire::coordinator::{
    PollWorkRequest, PollWorkResponse, WorkDown, WorkUp, work_down, work_up,
};
use tokio::sync::mpsc;

use super::{CallError, Coordinator, LinkEvent};

/// How long the coordinator may hold a request while this node is idle.
const WAIT_IDLE: Duration = Duration::from_secs(20);
/// The same while this node has something to say soon.
const WAIT_BUSY: Duration = Duration::from_millis(500);
/// Short polls in a row with nothing said and no lease, after which this node counts as idle: it is paused, or
/// has no model.
const QUIET_MAX: u32 = 20;
/// What is said within so long travels together: a result and the slot it frees, for one.
const GATHER: Duration = Duration::from_millis(5);
/// Held requests that may fail in a row before the link counts as lost.
const FAILURES_MAX: u32 = 2;
/// Messages of one request: bounded by the size of a gRPC message.
const BATCH_MAX: usize = 128;

/// Whether this node has something to say soon. Only a guess that chooses a wait: a wrong one costs time.
#[derive(Debug, Default)]
struct Activity {
    /// Offered, or said that it has nothing to offer.
    settled: AtomicBool,
    leases: AtomicU32,
    /// Polls since something was said.
    quiet: AtomicU32,
}

impl Activity {
    fn wait(&self) -> Duration {
        let is_quiet = self.quiet.fetch_add(1, Relaxed) >= QUIET_MAX;
        let is_settled = self.settled.load(Relaxed) || is_quiet;
        let is_idle = is_settled && self.leases.load(Relaxed) == 0;
        if is_idle { WAIT_IDLE } else { WAIT_BUSY }
    }

    fn heard(&self, message: &WorkDown) {
        match message.message {
            Some(work_down::Message::Lease(_)) => {
                self.leases.fetch_add(1, Relaxed);
            }
            Some(work_down::Message::Cancel(_)) => self.lease_ended(),
            _ => {}
        }
    }

    fn said(&self, message: &WorkUp) {
        use work_up::Message;
        if !matches!(message.message, Some(Message::Hello(_))) {
            self.quiet.store(0, Relaxed);
        }
        match &message.message {
            Some(Message::Offer(_) | Message::Withdraw(_)) => self.settled.store(true, Relaxed),
            Some(Message::Result(_) | Message::HandBack(_)) => self.lease_ended(),
            _ => {}
        }
    }

    /// The slot is offered again in a moment.
    fn lease_ended(&self) {
        self.settled.store(false, Relaxed);
        let fewer = |leases: u32| Some(leases.saturating_sub(1));
        // Fails never: `fewer` always has an answer.
        let _ = self.leases.fetch_update(Relaxed, Relaxed, fewer);
    }
}

/// Runs until polling fails; says why.
pub(super) async fn run(
    coordinator: &Coordinator,
    hello: WorkUp,
    mut up: mpsc::Receiver<WorkUp>,
    events: &mpsc::Sender<LinkEvent>,
) -> Option<CallError> {
    let activity = Activity::default();
    // The first request only says hello: it shows whether the link stands.
    match poll(coordinator, vec![hello.clone()], Duration::ZERO, None).await {
        Ok(PollWorkResponse { messages, .. }) => {
            if events.send(LinkEvent::Up).await.is_err()
                || !pass_on(events, messages, &activity).await
            {
                return None;
            }
        }
        Err(error) => return Some(error),
    }
    tokio::select! {
        lost = hold(coordinator, &hello, events, &activity) => lost,
        lost = push(coordinator, &hello, &mut up, events, &activity) => lost,
    }
}

async fn hold(
    coordinator: &Coordinator,
    hello: &WorkUp,
    events: &mpsc::Sender<LinkEvent>,
    activity: &Activity,
) -> Option<CallError> {
    let mut failures = 0;
    let mut heard = 0;
    loop {
        match poll(
            coordinator,
            vec![hello.clone()],
            activity.wait(),
            Some(heard),
        )
        .await
        {
            Ok(PollWorkResponse { messages, number }) => {
                failures = 0;
                heard = number;
                if !pass_on(events, messages, activity).await {
                    return None;
                }
            }
            Err(error) => {
                failures += 1;
                if failures >= FAILURES_MAX || !matches!(error, CallError::Unreachable { .. }) {
                    return Some(error);
                }
            }
        }
    }
}

async fn push(
    coordinator: &Coordinator,
    hello: &WorkUp,
    up: &mut mpsc::Receiver<WorkUp>,
    events: &mpsc::Sender<LinkEvent>,
    activity: &Activity,
) -> Option<CallError> {
    while let Some(first) = up.recv().await {
        tokio::time::sleep(GATHER).await;
        let mut batch = vec![hello.clone(), first];
        while batch.len() < BATCH_MAX
            && let Ok(message) = up.try_recv()
        {
            batch.push(message);
        }
        for message in &batch {
            activity.said(message);
        }
        match poll(coordinator, batch, Duration::ZERO, None).await {
            Ok(PollWorkResponse { messages, .. }) => {
                if !pass_on(events, messages, activity).await {
                    return None;
                }
            }
            Err(error) => return Some(error),
        }
    }
    None
}

/// `false`: nobody listens any more.
async fn pass_on(
    events: &mpsc::Sender<LinkEvent>,
    messages: Vec<WorkDown>,
    activity: &Activity,
) -> bool {
    for message in messages {
        activity.heard(&message);
        if events
            .send(LinkEvent::Down(Box::new(message)))
            .await
            .is_err()
        {
            return false;
        }
    }
    true
}

async fn poll(
    coordinator: &Coordinator,
    messages: Vec<WorkUp>,
    wait: Duration,
    heard: Option<u64>,
) -> Result<PollWorkResponse, CallError> {
    let wait_ms = wait.as_millis() as u32;
    let limit = wait + coordinator.timeout;
    let mut request = tonic::Request::new(PollWorkRequest {
        messages,
        wait_ms,
        heard,
    });
    request.set_timeout(limit);
    let mut client = coordinator.client();
    match tokio::time::timeout(limit, client.poll_work(request)).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(CallError::from_status("PollWork", &status)),
        Err(_) => {
            let status = tonic::Status::deadline_exceeded("no answer in time");
            Err(CallError::from_status("PollWork", &status))
        }
    }
}

#[cfg(test)]
mod tests {
    use owm_proto::wire::coordinator::{Lease, Offer, TaskResult, Withdraw};

    use super::*;

    fn says(message: work_up::Message) -> WorkUp {
        WorkUp {
            message: Some(message),
        }
    }

    #[test]
    fn a_node_without_work_to_come_is_polled_for_slowly() {
        let activity = Activity::default();
        assert_eq!(activity.wait(), WAIT_BUSY);
        activity.said(&says(work_up::Message::Offer(Offer::default())));
        assert_eq!(activity.wait(), WAIT_IDLE);
        activity.heard(&WorkDown {
            message: Some(work_down::Message::Lease(Lease::default())),
        });
        activity.said(&says(work_up::Message::Withdraw(Withdraw::default())));
        assert_eq!(activity.wait(), WAIT_BUSY, "a result is to come");
        activity.said(&says(work_up::Message::Result(TaskResult::default())));
        assert_eq!(activity.wait(), WAIT_BUSY, "an offer is to come");
        activity.said(&says(work_up::Message::Withdraw(Withdraw::default())));
        assert_eq!(activity.wait(), WAIT_IDLE);
    }

    #[test]
    fn a_node_that_says_nothing_for_long_is_idle() {
        let activity = Activity::default();
        let busy = (0..2 * QUIET_MAX).filter(|_| activity.wait() == WAIT_BUSY);
        assert_eq!(busy.count() as u32, QUIET_MAX);
    }
}
