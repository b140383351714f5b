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

/// A coordinator of two addresses at which nobody listens.
fn nobody() -> Coordinator {
    let key = owm_proto::NodeKey::from_seed(&[1; 32]);
    let closed = |_| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let invite = Invite {
        genesis: owm_proto::genesis::NetworkId(owm_proto::Sha256([1; 32])),
        addresses: [0, 1].map(closed).into(),
        instance_key: key.public(),
        onion: None,
        web_seed: None,
        peers: vec![],
    };
    let dialer = Dialer::new(owm_service::dialer::NetworkPolicy::LoopbackOnly);
    let identity = Identity::from_pkcs8_der(&key.to_pkcs8_der()).unwrap();
    Coordinator::new(&dialer, &identity, &invite, Duration::from_mins(1)).unwrap()
}

#[tokio::test]
async fn a_result_that_reached_nobody_goes_to_the_next_address() {
    let coordinator = nobody();
    let first = coordinator.target().to_owned();
    let update = coordinator.submit_update(TaskResult::default(), tokio::io::empty(), 0);
    let error = update.await.unwrap_err();
    assert!(
        matches!(&error, UpdateSendError::Call(CallError::Unreachable { .. })),
        "{error}"
    );
    let second = coordinator.target().to_owned();
    assert_ne!(second, first);
    coordinator.submit(TaskResult::default()).await.unwrap_err();
    assert_eq!(coordinator.target(), first);
}
