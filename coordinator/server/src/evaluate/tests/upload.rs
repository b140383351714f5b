//! `SubmitUpdate` as a node calls it: messages in, an acknowledgement or a refusal out, and what lies in the spool then.

use futures::{SinkExt as _, channel::mpsc};
use owm_proto::wire::coordinator::{SubmitUpdateRequest, submit_update_request::Part};
use owm_service::config::{HumanBytes, HumanDuration};
use tonic::{Code, Status};

use super::{
    update::{announce, reference, update},
    *,
};
use crate::app::testing::{app_with, clocked, clocked_with};

type Message = Result<SubmitUpdateRequest, Status>;

fn message(part: Part) -> SubmitUpdateRequest {
    SubmitUpdateRequest { part: Some(part) }
}

fn chunk(bytes: &[u8]) -> SubmitUpdateRequest {
    message(Part::Chunk(bytes.to_vec()))
}

/// All of a call at once: the result, then the bytes in parts.
fn messages(result: &wire::TaskResult, bytes: &[u8]) -> Vec<Message> {
    let first = message(Part::Result(result.clone()));
    let chunks = bytes.chunks(10_000).map(chunk);
    std::iter::once(first).chain(chunks).map(Ok).collect()
}

async fn call(
    app: &TestApp,
    node: &Evaluator,
    messages: Vec<Message>,
) -> Result<wire::ResultAck, Status> {
    let service = NodeService::new(app.app.clone());
    let stream = futures::stream::iter(messages);
    service.update_take(node.key.public(), stream).await
}

/// A leased reference update, ready to be sent.
struct Ready {
    node: Evaluator,
    result: wire::TaskResult,
    bytes: Vec<u8>,
}

async fn ready(app: &TestApp) -> Ready {
    let mut node = evaluator(app, 1, 1).await;
    ask(app, &reference()).await;
    let lease = node.lease().await;
    let bytes = update(app, &node, &lease, |_| {}).await;
    let result = announce(app, &node, &lease, &bytes);
    Ready {
        node,
        result,
        bytes,
    }
}

fn spooled(app: &TestApp) -> usize {
    let entries = std::fs::read_dir(&app.config.rounds.spool);
    entries.map_or(0, Iterator::count)
}

/// An upload under way: its result and first bytes have been sent, and are being waited on.
struct Slow {
    to: mpsc::Sender<Message>,
    answer: tokio::task::JoinHandle<Result<wire::ResultAck, Status>>,
}

async fn slow(app: &TestApp, ready: &Ready, first: &[u8]) -> Slow {
    let (mut to, from) = mpsc::channel(0);
    let service = NodeService::new(app.app.clone());
    let key = ready.node.key.public();
    let answer = tokio::spawn(async move { service.update_take(key, from).await });
    for message in messages(&ready.result, first) {
        to.send(message).await.unwrap();
    }
    app.until(async || spooled(app) == 1).await;
    Slow { to, answer }
}

async fn refused(slow: Slow, why: &str) {
    let status = slow.answer.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(status.message().contains(why), "{status}");
}

/// The commit of the lease stands, nothing else of the upload does.
async fn sent_again_it_is_accepted(app: &TestApp, ready: &Ready) {
    app.until(async || spooled(app) == 0).await;
    let ack = call(app, &ready.node, messages(&ready.result, &ready.bytes)).await;
    let ack = ack.unwrap();
    assert_eq!(ack.verdict(), Verdict::Accepted, "{}", ack.reason);
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn an_update_is_taken_kept_and_not_taken_again(pool: PgPool) {
    let app = app(pool).await;
    let ready = ready(&app).await;
    let all = messages(&ready.result, &ready.bytes);
    let ack = call(&app, &ready.node, all.clone()).await.unwrap();
    assert_eq!(ack.verdict(), Verdict::Accepted, "{}", ack.reason);
    let path = app.spool.path(&Sha256::of(&ready.bytes));
    assert_eq!(std::fs::read(&path).unwrap(), ready.bytes);
    std::fs::remove_file(&path).unwrap();
    let again = call(&app, &ready.node, all).await.unwrap();
    assert_eq!(again.verdict(), Verdict::Duplicate);
    assert_eq!(spooled(&app), 0, "what was judged is not received again");
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_commit_without_bytes_or_bytes_without_a_commit_are_nothing(pool: PgPool) {
    let app = app(pool).await;
    let ready = ready(&app).await;
    let bare = call(&app, &ready.node, vec![Ok(chunk(&ready.bytes))]).await;
    assert_eq!(bare.unwrap_err().code(), Code::InvalidArgument);
    let none = call(&app, &ready.node, vec![]).await;
    assert_eq!(none.unwrap_err().code(), Code::InvalidArgument);
    let only = call(&app, &ready.node, messages(&ready.result, &[])).await;
    let only = only.unwrap_err();
    assert!(only.message().contains("0 bytes came"), "{only}");
    let twice = [
        messages(&ready.result, &ready.bytes[..10]),
        messages(&ready.result, &[]),
    ];
    let twice = call(&app, &ready.node, twice.concat()).await.unwrap_err();
    assert!(twice.message().contains("once"), "{twice}");
    sent_again_it_is_accepted(&app, &ready).await;
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn other_bytes_than_were_committed_to_leave_nothing_behind(pool: PgPool) {
    let app = app(pool).await;
    let ready = ready(&app).await;
    let longer = [&ready.bytes[..], b"!"].concat();
    let mut other = ready.bytes.clone();
    other[100] ^= 1;
    let shorter = &ready.bytes[..ready.bytes.len() - 1];
    for (bytes, why) in [
        (&longer[..], "more bytes"),
        (&other, "another SHA-256"),
        (shorter, "the report names"),
    ] {
        let status = call(&app, &ready.node, messages(&ready.result, bytes)).await;
        let status = status.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(why), "{status}");
        assert_eq!(spooled(&app), 0, "{why}");
    }
    sent_again_it_is_accepted(&app, &ready).await;
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_line_below_the_least_rate_is_cut_off_and_its_room_freed(pool: PgPool) {
    let (app, clock) = clocked(pool).await;
    let ready = ready(&app).await;
    let mut slow = slow(&app, &ready, &ready.bytes[..10]).await;
    clock.pass(Duration::from_secs(61));
    slow.to.send(Ok(chunk(&ready.bytes[10..20]))).await.unwrap();
    refused(slow, "at least").await;
    sent_again_it_is_accepted(&app, &ready).await;
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn who_falls_silent_is_not_waited_for_longer_than_a_window(pool: PgPool) {
    let app = app_with(pool, |config| {
        config.rounds.upload_window = "100ms".parse().unwrap();
        config.rounds.upload_rate_min = HumanBytes::new(1 << 40);
    });
    let app = app.await;
    let ready = ready(&app).await;
    let (mut to, from) = mpsc::channel(1);
    let service = NodeService::new(app.app.clone());
    let first = message(Part::Result(ready.result.clone()));
    to.send(Ok(first)).await.unwrap();
    let answer = service.update_take(ready.node.key.public(), from).await;
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert_eq!(spooled(&app), 0);
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn bytes_come_within_the_grace_or_not_at_all(pool: PgPool) {
    let (app, clock) = clocked_with(pool, |config| {
        config.rounds.upload_grace = HumanDuration::from_secs(10);
    })
    .await;
    let ready = ready(&app).await;
    let half = ready.bytes.len() / 2;
    let mut slow = slow(&app, &ready, &ready.bytes[..half]).await;
    // The lease is of ten minutes.
    app.live_through(&clock, Duration::from_secs(611)).await;
    slow.to.send(Ok(chunk(&ready.bytes[half..]))).await.unwrap();
    refused(slow, "grace").await;
    let late = call(&app, &ready.node, messages(&ready.result, &ready.bytes)).await;
    let late = late.unwrap();
    assert_eq!(late.verdict(), Verdict::Rejected);
    assert!(late.reason.contains("grace"), "{}", late.reason);
    assert_eq!(spooled(&app), 0);
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_broken_line_costs_nothing_but_the_bytes(pool: PgPool) {
    let app = app(pool).await;
    let ready = ready(&app).await;
    let mut broken = messages(&ready.result, &ready.bytes[..20_000]);
    broken.push(Err(Status::unavailable("the line broke")));
    let status = call(&app, &ready.node, broken).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    sent_again_it_is_accepted(&app, &ready).await;
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn the_lease_of_another_node_takes_no_bytes(pool: PgPool) {
    let app = app(pool).await;
    let mut holder = evaluator(&app, 1, 1).await;
    ask(&app, &reference()).await;
    let lease = holder.lease().await;
    let thief = evaluator(&app, 2, 1).await;
    let bytes = update(&app, &thief, &lease, |_| {}).await;
    // The payload is sealed to the holder: what the thief knows of the lease was told by it.
    let result = thief.result_knowing(&app, &lease, &holder.key, |report| {
        report.finding = Finding::Update {
            sha256: Sha256::of(&bytes),
            size: bytes.len() as u64,
            losses: [ExactF64(3.0), ExactF64(2.0)],
        };
    });
    let ack = call(&app, &thief, messages(&result, &bytes)).await.unwrap();
    assert_eq!(ack.verdict(), Verdict::Rejected);
    assert_eq!(spooled(&app), 0);
}
