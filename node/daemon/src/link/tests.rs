//! What counts as final, and what a full queue does.

use owm_proto::wire::coordinator::work_up::Message;

use super::*;

fn refused(call: &'static str, code: Code) -> CallError {
    CallError::from_status(call, &Status::new(code, "no"))
}

#[test]
fn a_result_that_is_not_this_nodes_is_given_up() {
    assert!(refused("SubmitTaskResult", Code::PermissionDenied).is_final());
    assert!(refused("SubmitTaskResult", Code::InvalidArgument).is_final());
    assert!(!refused("SubmitTaskResult", Code::Unavailable).is_final());
    assert!(!refused("SubmitTaskResult", Code::Internal).is_final());
    // A suspension ends some day.
    assert!(!refused("Work", Code::PermissionDenied).is_final());
}

fn ping(n: u64) -> WorkUp {
    let message = Some(Message::Ping(n));
    WorkUp { message }
}

/// A link whose queue holds two messages, and the queue's other end.
fn narrow() -> (WorkLink, mpsc::Receiver<WorkUp>) {
    let (up, up_rx) = mpsc::channel(2);
    let (_, events) = mpsc::channel(1);
    let link = WorkLink {
        up: Some(up),
        events,
        task: tokio::spawn(std::future::pending()),
    };
    (link, up_rx)
}

#[tokio::test]
async fn what_does_not_fit_the_queue_waits_and_keeps_its_order() {
    let (link, mut up) = narrow();
    let sending = async {
        for n in 0..100 {
            assert!(link.send(ping(n), Duration::from_mins(1)).await);
        }
    };
    let reading = async {
        for n in 0..100 {
            assert_eq!(up.recv().await, Some(ping(n)));
        }
    };
    tokio::join!(sending, reading);
}

#[tokio::test]
async fn a_link_that_takes_nothing_in_time_or_is_closed_is_dead() {
    let (link, up) = narrow();
    assert!(link.send(ping(0), Duration::ZERO).await);
    assert!(link.send(ping(1), Duration::ZERO).await);
    assert!(!link.send(ping(2), Duration::ZERO).await, "full");
    drop(up);
    assert!(!link.send(ping(3), Duration::from_mins(1)).await, "closed");
}
