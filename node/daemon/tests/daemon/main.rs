//! The daemon against a coordinator that a test scripts: real mutual TLS, real gRPC, real HTTP for files,
//! an engine that echoes. Every wait is for a condition.

#![expect(clippy::unwrap_used, reason = "a test's helpers are part of the test")]

mod echo;
mod fake;
mod faults;
mod orders;
mod overheard;
mod parts;
mod peer;
mod private;
mod program;
mod swarm;
mod tap;
mod train;

use std::{path::Path, sync::Arc, time::Duration};

use echo::{EchoLoader, Gate};
use fake::{Fake, Stream};
use owm_node::{
    config::{NodeConfig, Transport},
    control,
    daemon::{self, Frame, Parts},
    engine::EngineLoader,
    home::Home,
    session::Phase,
    status::Status,
    tasklog::TaskLog,
};
use owm_proto::{
    Envelope, NodeKey, Sha256, SignerRule, TaskId,
    statement::{Commit, Segment, Statement as _, TaskResultStatement, tokens_sha256},
    wire::coordinator::{
        Capabilities, Chunk, HandBackReason, RegistrationOutcome, TaskResult, Verdict, work_down,
        work_up,
    },
};
use owm_service::{
    Exit, RunError,
    clock::{SharedClock, SystemClock},
    config::HumanDuration,
    dialer::{Dialer, NetworkPolicy},
    health::Readiness,
    lifecycle::Lifecycle,
    metrics::Registry,
    rng::Seed,
};

/// Far above anything a test takes; reached only when something is broken.
const PATIENCE: Duration = Duration::from_mins(3);
/// Between two looks at a node's status.
const LOOK_EVERY: Duration = Duration::from_millis(20);

struct Node {
    key: Arc<NodeKey>,
    lifecycle: Lifecycle,
    task: tokio::task::JoinHandle<Result<(), RunError>>,
    gate: Arc<Gate>,
    metrics: Registry,
}

fn config() -> NodeConfig {
    let mut config = NodeConfig::default();
    config.coordinator.reconnect_min = HumanDuration::from_millis(10);
    config.coordinator.reconnect_max = HumanDuration::from_millis(50);
    config.coordinator.register_min = HumanDuration::from_millis(10);
    config.node.drain = HumanDuration::from_millis(300);
    config.p2p.network = NetworkPolicy::LoopbackOnly;
    config.p2p.listen = vec!["/ip4/127.0.0.1/tcp/0".into()];
    config
}

fn start(fake: &Fake, folder: &Path, config: NodeConfig) -> Node {
    start_at(fake, folder, config, SystemClock::shared())
}

fn start_at(fake: &Fake, folder: &Path, config: NodeConfig, clock: SharedClock) -> Node {
    start_with(
        fake,
        folder,
        config,
        clock,
        Arc::new(owm_node::text::NoTexts),
    )
}

fn start_with(
    fake: &Fake,
    folder: &Path,
    config: NodeConfig,
    clock: SharedClock,
    texts: Arc<dyn owm_node::text::Texts>,
) -> Node {
    let gate = Arc::new(Gate::default());
    let loader = Arc::new(EchoLoader {
        gate: Arc::clone(&gate),
    });
    start_loading(fake, folder, config, clock, texts, (loader, gate))
}

/// With an engine of one's own; the gate is the echo's.
fn start_loading(
    fake: &Fake,
    folder: &Path,
    config: NodeConfig,
    clock: SharedClock,
    texts: Arc<dyn owm_node::text::Texts>,
    (loader, gate): (Arc<dyn EngineLoader>, Arc<Gate>),
) -> Node {
    let home = Home::open(folder).unwrap();
    let key = Arc::new(NodeKey::load_or_create(&home.key(), &[77; 32]).unwrap());
    let lifecycle = Lifecycle::default();
    let metrics = Registry::new();
    let frame = Frame {
        clock,
        seed: Seed::from_os(),
        lifecycle: lifecycle.clone(),
        metrics: metrics.clone(),
        telemetry: owm_service::telemetry::Handle::detached(),
    };
    let parts = Parts {
        config,
        home,
        key: Arc::clone(&key),
        invite: fake.invite.clone(),
        dialer: Dialer::new(NetworkPolicy::LoopbackOnly),
        texts,
        loader,
        capabilities: Capabilities::default(),
        hardware: vec![],
        readiness: Readiness::default(),
    };
    let task = tokio::spawn(daemon::run(frame, parts));
    Node {
        key,
        lifecycle,
        task,
        gate,
        metrics,
    }
}

impl Node {
    async fn ended(self) -> Result<(), RunError> {
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .expect("the daemon ends")
            .unwrap()
    }
}

/// Waits until the node has greeted and offered its slot with weights.
async fn ready(fake: &mut Fake) -> Stream {
    let mut stream = fake.stream().await;
    stream.hello().await;
    stream.welcome().await;
    assert_eq!(stream.offer_with_weights().await, 1);
    stream
}

/// Checks every signature and hash of a result against the question.
fn check_result(fake: &Fake, node: &NodeKey, result: &TaskResult, prefix: &[u32]) -> String {
    let (network, signer) = (fake.network_id(), node.public());
    let rule = SignerRule::Exactly(&signer);
    let open = |wire| Envelope::from_wire(wire).unwrap();
    let signed = open(result.result.clone());
    let said = TaskResultStatement::open(&signed, &network, rule).unwrap();
    let commit = Commit::open(&open(result.commit.clone()), &network, rule).unwrap();
    assert_eq!(
        commit.result_sha256,
        Sha256::of(signed.unverified_payload())
    );
    let output = result.output.clone().unwrap();
    assert_eq!(said.output_sha256, Sha256::of(output.text.as_bytes()));
    assert_eq!(said.tokens_sha256, tokens_sha256(&output.tokens));
    let segment = Segment::open(&open(output.segment), &network, rule).unwrap();
    assert_eq!(segment.from as usize, prefix.len());
    assert_eq!(segment.prefix_sha256, tokens_sha256(prefix));
    assert_eq!(
        (segment.to as usize, segment.tokens_sha256),
        (output.tokens.len(), said.tokens_sha256)
    );
    assert_eq!(said.model_sha256, [Fake::weights()]);
    output.text
}

fn text_of(chunks: &[Chunk]) -> String {
    chunks.iter().map(|chunk| chunk.text.as_str()).collect()
}

/// Waits until the node's own status says so.
async fn until(folder: &Path, mut says: impl FnMut(&Status) -> bool) {
    let socket = folder.join("control.sock");
    let asking = async {
        while !control::ask(&socket)
            .await
            .is_ok_and(|answer| says(&answer.status))
        {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking)
        .await
        .expect("the status says so in time");
}

fn earned(folder: &Path) -> u64 {
    let log = TaskLog::open(&folder.join("tasks.sqlite")).unwrap();
    log.earnings().unwrap().owed_msat.0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_answers_in_chunks_and_books_what_it_is_owed() {
    let (mut fake, folder) = (Fake::start().await, tempfile::tempdir().unwrap());
    let node = start(&fake, folder.path(), config());
    let mut stream = ready(&mut fake).await;
    node.gate.open();
    let task = stream.lease(&node.key, 1, "hi", true, &[]).await;
    let (chunks, result) = stream.until_result().await;
    assert_eq!(text_of(&chunks), "echo: hi");
    assert_eq!(check_result(&fake, &node.key, &result, &[]), "echo: hi");
    let mut next = 0;
    for chunk in &chunks {
        assert_eq!(chunk.from, next, "chunks follow one another");
        next += chunk.tokens.len() as u32;
    }
    stream.ack(task, 1, Verdict::Accepted, 10_000).await;
    assert_eq!(stream.offer().await, 1, "the slot is offered again");
    node.lifecycle.shutdown();
    node.ended().await.unwrap();
    assert_eq!(earned(folder.path()), 10_000);
    let link = folder
        .path()
        .join("models/owm-v0.1.0/owm-geo/model.safetensors");
    assert_eq!(Sha256::of(&std::fs::read(link).unwrap()), Fake::weights());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_continues_the_delivered_prefix() {
    let (mut fake, folder) = (Fake::start().await, tempfile::tempdir().unwrap());
    let node = start(&fake, folder.path(), config());
    let mut stream = ready(&mut fake).await;
    node.gate.open();
    let prefix: Vec<u32> = "echo".bytes().map(u32::from).collect();
    let task = stream.lease(&node.key, 2, "hi", true, &prefix).await;
    let (chunks, result) = stream.until_result().await;
    assert_eq!(text_of(&chunks), ": hi");
    assert_eq!(chunks[0].from, 4);
    assert_eq!(check_result(&fake, &node.key, &result, &prefix), "echo: hi");
    stream.ack(task, 2, Verdict::Accepted, 10_000).await;
    node.lifecycle.shutdown();
    node.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unacknowledged_result_is_handed_in_again_after_a_reconnect() {
    let (mut fake, folder) = (Fake::start().await, tempfile::tempdir().unwrap());
    let node = start(&fake, folder.path(), config());
    let mut stream = ready(&mut fake).await;
    node.gate.open();
    stream.lease(&node.key, 1, "hi", false, &[]).await;
    let (chunks, result) = stream.until_result().await;
    assert!(chunks.is_empty(), "nobody asked for chunks");
    drop(stream);
    fake.acknowledge_submitted(Verdict::Accepted, 10_000);
    let mut stream = fake.stream().await;
    stream.hello().await;
    assert_eq!(fake.submitted().await, result, "the very same bytes");
    node.lifecycle.shutdown();
    node.ended().await.unwrap();
    assert_eq!(earned(folder.path()), 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_survives_the_process_and_is_handed_in_by_the_next_one() {
    let (mut fake, folder) = (Fake::start().await, tempfile::tempdir().unwrap());
    let node = start(&fake, folder.path(), config());
    let mut stream = ready(&mut fake).await;
    node.gate.open();
    stream.lease(&node.key, 1, "hi", false, &[]).await;
    let (_, result) = stream.until_result().await;
    node.task.abort();
    drop(stream);
    drop(node.task.await);
    fake.acknowledge_submitted(Verdict::Duplicate, 10_000);
    let node = start(&fake, folder.path(), config());
    let mut stream = fake.stream().await;
    assert_eq!(
        stream.hello().await.running.len(),
        1,
        "what is finished is still held"
    );
    assert_eq!(fake.submitted().await, result);
    node.lifecycle.shutdown();
    node.ended().await.unwrap();
    assert_eq!(earned(folder.path()), 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_task_survives_a_reconnect_and_its_chunks_come_again() {
    let (mut fake, folder) = (Fake::start().await, tempfile::tempdir().unwrap());
    let node = start(&fake, folder.path(), config());
    let mut stream = ready(&mut fake).await;
    let task = stream.lease(&node.key, 1, "hi", true, &[]).await;
    node.gate.permit(1);
    let first = stream.chunk().await;
    assert_eq!(first.text, "e");
    drop(stream);
    let mut stream = fake.stream().await;
    let hello = stream.hello().await;
    assert_eq!(hello.running.len(), 1);
    assert_eq!(hello.running[0].task_id, task.to_string());
    assert_eq!(stream.chunk().await, first, "the same boundaries");
    node.gate.open();
    let (rest, result) = stream.until_result().await;
    assert_eq!(format!("e{}", text_of(&rest)), "echo: hi");
    check_result(&fake, &node.key, &result, &[]);
    stream.ack(task, 1, Verdict::Accepted, 10_000).await;
    node.lifecycle.shutdown();
    node.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_task_gives_no_result_and_frees_its_slot() {
    cancelled_as(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_without_an_epoch_frees_the_slot_too() {
    cancelled_as(0).await;
}

async fn cancelled_as(epoch: u64) {
    let (mut fake, folder) = (Fake::start().await, tempfile::tempdir().unwrap());
    let node = start(&fake, folder.path(), config());
    let mut stream = ready(&mut fake).await;
    let task = stream.lease(&node.key, 3, "hi", true, &[]).await;
    node.gate.permit(1);
    stream.chunk().await;
    stream.cancel(task, epoch).await;
    // Messages are handled in order: once the mark shows, the cancel has been heard.
    stream
        .send(work_down::Message::NodeStatus("mark".into()))
        .await;
    until(folder.path(), |status| {
        status.node_status.as_deref() == Some("mark")
    })
    .await;
    node.gate.open();
    let message = stream.next_of_work().await;
    assert!(
        matches!(message, work_up::Message::Offer(ref offer) if offer.credits == 1),
        "{message:?}"
    );
    node.lifecycle.shutdown();
    node.ended().await.unwrap();
    assert_eq!(earned(folder.path()), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_handed_back_with_its_reason() {
    let (mut fake, folder) = (Fake::start().await, tempfile::tempdir().unwrap());
    let node = start(&fake, folder.path(), config());
    let mut stream = ready(&mut fake).await;
    node.gate.open();
    let too_long = "x".repeat(echo::CONTEXT as usize);
    stream.lease(&node.key, 1, &too_long, false, &[]).await;
    let back = stream.hand_back().await;
    assert_eq!(back.reason(), HandBackReason::InputRefused);
    assert!(
        back.message.contains("minus max_tokens"),
        "{}",
        back.message
    );
    assert_eq!(stream.offer().await, 1);
    let stranger = NodeKey::from_seed(&[5; 32]);
    stream.lease(&stranger, 1, "hi", false, &[]).await;
    let back = stream.hand_back().await;
    assert_eq!(back.reason(), HandBackReason::CannotDo);
    node.lifecycle.shutdown();
    node.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_node_stops_with_the_code_that_forbids_a_restart() {
    let (mut fake, folder) = (Fake::start().await, tempfile::tempdir().unwrap());
    let node = start(&fake, folder.path(), config());
    let stream = ready(&mut fake).await;
    let fenced = owm_proto::wire::coordinator::Fenced {
        reason: "a newer session".into(),
    };
    stream.send(work_down::Message::Fenced(fenced)).await;
    let error = node.ended().await.unwrap_err();
    assert_eq!(error.code, Exit::DoNotRestart);
    assert!(
        error
            .source
            .to_string()
            .contains("another process runs with this node's key")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_comes_back_after_a_newer_one_is_fenced_too() {
    let (mut fake, folder) = (Fake::start().await, tempfile::tempdir().unwrap());
    let node = start(&fake, folder.path(), config());
    let stream = ready(&mut fake).await;
    fake.refuse_streams("fenced: another process runs with this node's key");
    drop(stream);
    let error = node.ended().await.unwrap_err();
    assert_eq!(error.code, Exit::DoNotRestart);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_node_hands_back_what_it_cannot_finish() {
    let (mut fake, folder) = (Fake::start().await, tempfile::tempdir().unwrap());
    let mut config = config();
    config.node.drain = HumanDuration::from_millis(0);
    let node = start(&fake, folder.path(), config);
    let mut stream = ready(&mut fake).await;
    stream.lease(&node.key, 1, "hi", true, &[]).await;
    node.gate.permit(1);
    stream.chunk().await;
    node.lifecycle.shutdown();
    // With no time to finish, the task is broken off as soon as the node drains.
    until(folder.path(), |status| status.phase == Phase::Draining).await;
    node.gate.open();
    let back = stream.hand_back().await;
    assert_eq!(back.reason(), HandBackReason::ShuttingDown);
    node.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pending_node_asks_again_and_a_refused_one_gives_up() {
    let (mut fake, folder) = (Fake::start().await, tempfile::tempdir().unwrap());
    fake.answer_registration([RegistrationOutcome::Pending, RegistrationOutcome::Active]);
    let node = start(&fake, folder.path(), config());
    drop(ready(&mut fake).await);
    node.lifecycle.shutdown();
    node.ended().await.unwrap();
    fake.answer_registration([RegistrationOutcome::Refused]);
    let node = start(&fake, folder.path(), config());
    let error = node.ended().await.unwrap_err();
    assert_eq!(error.code, Exit::Failed);
    assert!(
        error.source.to_string().contains("banned"),
        "{}",
        error.source
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_long_poll_twin_does_the_same_work() {
    let (mut fake, folder) = (Fake::start().await, tempfile::tempdir().unwrap());
    let mut config = config();
    config.coordinator.transport = Transport::Poll;
    let node = start(&fake, folder.path(), config);
    let mut stream = ready(&mut fake).await;
    node.gate.open();
    let task = stream.lease(&node.key, 1, "hi", true, &[]).await;
    let (chunks, result) = stream.until_result().await;
    assert_eq!(text_of(&chunks), "echo: hi");
    check_result(&fake, &node.key, &result, &[]);
    stream.ack(task, 1, Verdict::Accepted, 10_000).await;
    assert_eq!(stream.offer().await, 1);
    node.lifecycle.shutdown();
    node.ended().await.unwrap();
    assert_eq!(earned(folder.path()), 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_poll_session_opens_once_with_a_poll_that_only_says_hello() {
    let (mut fake, folder) = (Fake::start().await, tempfile::tempdir().unwrap());
    let mut config = config();
    config.coordinator.transport = Transport::Poll;
    let node = start(&fake, folder.path(), config);
    node.gate.open();
    for _ in 0..2 {
        let mut stream = ready(&mut fake).await;
        let task = stream.lease(&node.key, 1, "hi", true, &[]).await;
        stream.until_result().await;
        stream.ack(task, 1, Verdict::Accepted, 10_000).await;
        assert_eq!(stream.offer().await, 1);
        assert!(!fake.has_another_stream(), "no other poll looks like one");
    }
    node.lifecycle.shutdown();
    node.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_membership_that_is_always_too_short_is_not_renewed_at_every_tick() {
    let (mut fake, folder) = (Fake::start().await, tempfile::tempdir().unwrap());
    fake.grant(Duration::from_mins(10));
    let mut config = config();
    config.coordinator.ping = HumanDuration::from_millis(250);
    let node = start(&fake, folder.path(), config);
    let mut stream = fake.stream().await;
    stream.hello().await;
    // At least one tick lies between two signs of life.
    for _ in 0..6 {
        stream.ping().await;
    }
    assert_eq!(fake.registrations(), 1);
    node.lifecycle.shutdown();
    node.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_arrive_signed() {
    let (mut fake, folder) = (Fake::start().await, tempfile::tempdir().unwrap());
    let node = start(&fake, folder.path(), config());
    let mut stream = fake.stream().await;
    stream.hello().await;
    let envelope = stream.heartbeat().await;
    let rule = SignerRule::Exactly(&node.key.public());
    let purpose = owm_proto::Purpose::Heartbeat;
    Envelope::try_from(envelope)
        .unwrap()
        .verify(purpose, &fake.network_id(), rule)
        .unwrap();
    node.lifecycle.shutdown();
    node.ended().await.unwrap();
}

/// Keeps the ids of tests apart.
fn task_id(n: u8) -> TaskId {
    TaskId::from_random([n; 16])
}
