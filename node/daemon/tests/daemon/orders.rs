//! Pausing and draining a running node through its control socket.

use std::path::Path;

use owm_node::{
    control::{self, Ask},
    session::Phase,
};
use owm_proto::wire::coordinator::{HandBackReason, Verdict, work_down};

use super::{Fake, Node, Stream, config, earned, ready, start, until};

async fn order(folder: &Path, order: Ask) {
    let socket = folder.join("control.sock");
    control::order(&socket, order).await.unwrap();
}

async fn pause(folder: &Path) {
    order(folder, Ask::Pause { for_ms: None }).await;
}

/// Once the node has seen this mark, it has seen all that was sent before, and has said its part.
async fn mark(stream: &Stream, folder: &Path, mark: &str) {
    let message = work_down::Message::NodeStatus(mark.into());
    stream.send(message).await;
    until(folder, |status| status.node_status.as_deref() == Some(mark)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_node_finishes_takes_nothing_and_stays_connected_until_it_is_resumed() {
    let (mut fake, folder) = (Fake::start().await, tempfile::tempdir().unwrap());
    let folder = folder.path();
    let node = start(&fake, folder, config());
    let mut stream = ready(&mut fake).await;
    let task = stream.lease(&node.key, 1, "hi", false, &[]).await;
    until(folder, |status| status.running == 1).await;
    pause(folder).await;
    stream.withdrawn().await;
    until(folder, |status| status.pause.is_some() && status.linked).await;
    node.gate.open();
    stream.until_result().await;
    stream.ack(task, 1, Verdict::Accepted, 10_000).await;
    mark(&stream, folder, "acknowledged").await;
    stream.check_nothing_is_offered();

    // What was on its way is no attempt of this node's.
    stream.lease(&node.key, 2, "hi", false, &[]).await;
    let back = stream.hand_back().await;
    assert_eq!(back.reason(), HandBackReason::ShuttingDown);
    assert!(back.message.contains("paused"), "{}", back.message);

    order(folder, Ask::Resume).await;
    assert_eq!(stream.offer().await, 1);
    until(folder, |status| status.pause.is_none()).await;
    assert_eq!(earned(folder), 10_000);
    stop(node).await;
}

async fn stop(node: Node) {
    node.lifecycle.shutdown();
    node.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_outlives_a_restart() {
    let (mut fake, folder) = (Fake::start().await, tempfile::tempdir().unwrap());
    let folder = folder.path();
    let node = start(&fake, folder, config());
    let mut stream = ready(&mut fake).await;
    pause(folder).await;
    stream.withdrawn().await;
    stop(node).await;

    let node = start(&fake, folder, config());
    let mut stream = fake.stream().await;
    stream.hello().await;
    stream.welcome().await;
    until(folder, |status| status.model.is_some()).await;
    mark(&stream, folder, "loaded").await;
    stream.check_nothing_is_offered();
    order(folder, Ask::Resume).await;
    assert_eq!(stream.offer().await, 1);
    stop(node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_with_an_end_ends_by_itself() {
    let (mut fake, folder) = (Fake::start().await, tempfile::tempdir().unwrap());
    let folder = folder.path();
    let node = start(&fake, folder, config());
    let mut stream = ready(&mut fake).await;
    order(folder, Ask::Pause { for_ms: Some(400) }).await;
    stream.withdrawn().await;
    assert_eq!(stream.offer().await, 1);
    assert!(!folder.join("paused.json").exists());
    stop(node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_finishes_hands_in_and_ends_well() {
    let (mut fake, folder) = (Fake::start().await, tempfile::tempdir().unwrap());
    let node = start(&fake, folder.path(), config());
    let mut stream = ready(&mut fake).await;
    let task = stream.lease(&node.key, 1, "hi", false, &[]).await;
    until(folder.path(), |status| status.running == 1).await;
    order(folder.path(), Ask::Drain { within_ms: 60_000 }).await;
    stream.withdrawn().await;
    until(folder.path(), |status| status.phase == Phase::Draining).await;
    node.gate.open();
    stream.until_result().await;
    mark(&stream, folder.path(), "not acknowledged yet").await;
    assert!(!node.task.is_finished(), "it waits for the acknowledgement");
    stream.ack(task, 1, Verdict::Accepted, 10_000).await;
    node.ended().await.unwrap();
    assert_eq!(earned(folder.path()), 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_hands_back_what_its_time_is_too_short_for() {
    let (mut fake, folder) = (Fake::start().await, tempfile::tempdir().unwrap());
    let node = start(&fake, folder.path(), config());
    let mut stream = ready(&mut fake).await;
    stream.lease(&node.key, 1, "hi", true, &[]).await;
    node.gate.permit(1);
    stream.chunk().await;
    order(folder.path(), Ask::Drain { within_ms: 0 }).await;
    until(folder.path(), |status| status.phase == Phase::Draining).await;
    node.gate.open();
    let back = stream.hand_back().await;
    assert_eq!(back.reason(), HandBackReason::ShuttingDown);
    node.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_never_joined_is_drained_at_once() {
    let (mut fake, folder) = (Fake::start().await, tempfile::tempdir().unwrap());
    // Nobody listens there.
    fake.invite.addresses = vec!["127.0.0.1:1".into()];
    let node = start(&fake, folder.path(), config());
    until(folder.path(), |status| status.link_error.is_some()).await;
    order(folder.path(), Ask::Drain { within_ms: 60_000 }).await;
    node.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ordered_while_the_network_is_asked_for_is_followed() {
    let (fake, folder) = (Fake::start().await, tempfile::tempdir().unwrap());
    let held = fake.hold_network().await;
    let node = start(&fake, folder.path(), config());
    until(folder.path(), |_| true).await;
    order(folder.path(), Ask::Drain { within_ms: 60_000 }).await;
    drop(held);
    node.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_beyond_reason_is_refused_with_words() {
    let (mut fake, folder) = (Fake::start().await, tempfile::tempdir().unwrap());
    let node = start(&fake, folder.path(), config());
    let _stream = ready(&mut fake).await;
    let asked = Ask::Pause {
        for_ms: Some(u64::MAX),
    };
    let socket = folder.path().join("control.sock");
    let error = control::order(&socket, asked).await.unwrap_err();
    assert!(error.to_string().contains("more than a year"), "{error}");
    stop(node).await;
}
