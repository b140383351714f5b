//! The fixture of this crate's service tests: a whole coordinator on a test's own Postgres database,
//! with scripted nodes that speak the real conversation (sealed payloads, signed results). Only the
//! model is scripted: a node answers with the words it was told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use owm_coordinator_store::{
    Store,
    node::{Node, NodeRegistration, node_register},
    session::SessionKind,
};
use owm_proto::{
    NodeId, NodeKey, NodeStatus, Permille, Sha256, Tier, UnixMillis, seal,
    statement::{Commit, Finish, Segment, Statement as _, TaskResultStatement, tokens_sha256},
    wire::coordinator as wire,
};
use owm_service::{
    CancellationToken,
    clock::{Clock, SharedClock, SystemClock},
    rng::Seed,
};
use prost::Message as _;
use sqlx::PgPool;
use tokio::sync::mpsc;

use super::{App, Ingredients};
use crate::{
    blobs::Blobs,
    config::Config,
    dispatch::{self, DispatchHandle},
    identity::{self, Authority, NewNetwork},
    page,
    publish::{Release, publish},
    rpc::{NodeService, chunks},
    tasks::signs,
};

/// A coordinator under test. Dropping it stops its loops.
pub(crate) struct TestApp {
    pub(crate) app: App,
    _folder: tempfile::TempDir,
    _stop: tokio_util::sync::DropGuard,
}

impl std::ops::Deref for TestApp {
    type Target = App;
    fn deref(&self) -> &App {
        &self.app
    }
}

/// A coordinator with the tiny model published, open API, dispatcher and chunk writer running.
pub(crate) async fn app(pool: PgPool) -> TestApp {
    app_with(pool, |_| {}).await
}

/// The same with another configuration.
pub(crate) async fn app_with(pool: PgPool, change: impl FnOnce(&mut Config)) -> TestApp {
    app_at(pool, change, SystemClock::shared()).await
}

/// A coordinator whose machine's clock the test moves.
pub(crate) async fn clocked(pool: PgPool) -> (TestApp, Arc<JumpingClock>) {
    clocked_with(pool, |_| {}).await
}

/// The same with another configuration.
pub(crate) async fn clocked_with(
    pool: PgPool,
    change: impl FnOnce(&mut Config),
) -> (TestApp, Arc<JumpingClock>) {
    let clock = Arc::new(JumpingClock::default());
    (app_at(pool, change, clock.clone()).await, clock)
}

/// The machine's clock, moved by hand.
#[derive(Debug, Default)]
pub(crate) struct JumpingClock {
    inner: SystemClock,
    wall_ms: AtomicI64,
    passed_ms: AtomicU64,
}

impl JumpingClock {
    /// Somebody sets the machine's clock.
    pub(crate) fn jump(&self, ms: i64) {
        self.wall_ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// Time passes.
    pub(crate) fn pass(&self, time: Duration) {
        let ms = time.as_millis() as u64;
        self.passed_ms.fetch_add(ms, Ordering::SeqCst);
        self.jump(ms as i64);
    }
}

impl Clock for JumpingClock {
    fn now_ms(&self) -> u64 {
        let moved = self.wall_ms.load(Ordering::SeqCst);
        self.inner.now_ms().saturating_add_signed(moved)
    }

    fn monotonic(&self) -> Duration {
        self.inner.monotonic() + Duration::from_millis(self.passed_ms.load(Ordering::SeqCst))
    }
}

async fn app_at(pool: PgPool, change: impl FnOnce(&mut Config), clock: SharedClock) -> TestApp {
    let folder = tempfile::tempdir().unwrap();
    let now = UnixMillis(clock.now_ms());
    let dir = folder.path().join("identity");
    let new = NewNetwork {
        name: "test".into(),
        bitcoin_chain: "regtest".into(),
    };
    identity::create(&dir, &new, &Seed::from_u64(1), now).unwrap();
    let authority = Authority::load(&dir, now).unwrap();
    let mut config: Config = owm_service::config::parse(
        "[api]\nopen = true\n[policy]\nallow_cpu = true\n",
        "OWM",
        [],
    )
    .unwrap();
    config.identity.dir = dir;
    config.blobs.dir = folder.path().join("blobs");
    config.rounds.spool = folder.path().join("spool");
    change(&mut config);
    let blobs = Blobs::in_folder(&config.blobs.dir).unwrap();
    let store = Store::from_pool(pool);
    let release = Release {
        source: "tiny".into(),
        version: "owm-v0.0.1".parse().unwrap(),
        sub_models: ["owm-code", "owm-geo"].map(|s| s.parse().unwrap()).to_vec(),
        default_sub_model: "owm-geo".parse().unwrap(),
        sequence: None,
    };
    publish(&store, &blobs, &authority, &release, now, &mut |_| {})
        .await
        .unwrap();
    let (chunks, chunk_receiver) = chunks::channel();
    let (signs, sign_receiver) = signs::channel();
    let app = App::new(Ingredients {
        vault: authority.vault().unwrap(),
        authority: Arc::new(authority),
        config: Arc::new(config),
        store,
        blobs,
        dispatcher: DispatchHandle::default(),
        chunks,
        signs,
        clock,
        seed: Seed::from_u64(2),
        metrics: crate::metrics::Metrics::default(),
    });
    let stop = CancellationToken::new();
    tokio::spawn(dispatch::run(app.clone(), stop.clone()));
    tokio::spawn(chunks::run(app.clone(), chunk_receiver, stop.clone()));
    tokio::spawn(signs::run(app.clone(), sign_receiver, stop.clone()));
    tokio::spawn(page::run(app.clone(), stop.clone()));
    TestApp {
        app,
        _folder: folder,
        _stop: stop.drop_guard(),
    }
}

/// What a scripted node does with a lease.
#[derive(Clone, Debug)]
pub(crate) enum Script {
    /// Answers with these words, one token each (its index), streaming if asked to.
    Words(Vec<&'static str>),
    /// Streams so many of the words, then falls silent.
    Stall(Vec<&'static str>, usize),
    /// Hands it back.
    Refuse(wire::HandBackReason, &'static str),
    /// Never answers.
    Silence,
}

/// A scripted node's handle.
pub(crate) struct TestNode {
    pub(crate) id: NodeId,
    pub(crate) key: NodeKey,
    /// What it was told, leases aside.
    pub(crate) told: mpsc::Receiver<wire::work_down::Message>,
}

/// The token of the word with this index: never its position, so that mix-ups show.
pub(crate) fn token(index: usize) -> u32 {
    1_000 + index as u32
}

impl TestApp {
    /// Registers an active node.
    pub(crate) async fn register(&self, n: u8) -> (Node, NodeKey) {
        let key = NodeKey::from_seed(&[n; 32]);
        let new = NodeRegistration {
            new_id: NodeId::from_random([n; 16]),
            public_key: key.public(),
            owner: key.public(),
            tier: Tier::T1,
            cpu_only: true,
            status: NodeStatus::Active,
            status_reason: String::new(),
            capabilities: serde_json::json!({}),
            vram_bytes: None,
            ram_bytes: None,
            bandwidth_kbps: None,
            software_version: "test".into(),
            ln_node_uri: String::new(),
            stake_bonus: Permille::ONE,
            membership_expires_at: None,
        };
        let mut tx = self.store.begin("test").await.unwrap();
        let node = node_register(&mut tx, &new, self.now()).await.unwrap();
        tx.commit().await.unwrap();
        (node, key)
    }

    /// Registers and connects a node that follows `script`, with so many inference slots.
    pub(crate) async fn node(&self, n: u8, slots: u32, script: Script) -> TestNode {
        let (node, key) = self.register(n).await;
        let service = NodeService::new(self.app.clone());
        let (down, mut leases) = mpsc::channel(64);
        let hello = wire::Hello {
            session_id: vec![n; 16],
            started_at_ms: self.now().0,
            software_version: "test".into(),
            running: vec![],
        };
        let (mut conversation, _) = service
            .converse(key.public(), hello, SessionKind::Stream, down)
            .await
            .unwrap();
        let model = self.current_model().await.unwrap().unwrap();
        let weights = model
            .manifest
            .weights_sha256(&model.manifest.default_sub_model);
        let offer = move |credits| {
            wire::work_up::Message::Offer(wire::Offer {
                role: "infer".into(),
                credits,
                sha256: weights.iter().map(Sha256::to_string).collect(),
            })
        };
        conversation.take(offer(slots)).await.unwrap();
        let (tell, told) = mpsc::channel(64);
        let (app, worker) = (self.app.clone(), NodeKey::from_seed(&[n; 32]));
        tokio::spawn(async move {
            while let Some(message) = leases.recv().await.and_then(|m| m.message) {
                let wire::work_down::Message::Lease(lease) = message else {
                    drop(tell.try_send(message));
                    continue;
                };
                for said in follow(&app, &worker, &script, &lease) {
                    match conversation.take(said).await {
                        Ok(Some(answer)) => drop(tell.try_send(answer)),
                        Ok(None) => {}
                        Err(status) => panic!("the coordinator refused: {status}"),
                    }
                }
                if !matches!(script, Script::Stall(..) | Script::Silence) {
                    conversation.take(offer(1)).await.unwrap();
                }
            }
        });
        TestNode {
            id: node.node_id,
            key,
            told,
        }
    }

    /// So much time passes, and the coordinator lives through it: no lease is extended.
    pub(crate) async fn live_through(&self, clock: &JumpingClock, time: Duration) {
        const STEP: Duration = Duration::from_secs(2);
        let mut left = time;
        while !left.is_zero() {
            let step = left.min(STEP);
            clock.pass(step);
            crate::tasks::alive::mark(self).await.unwrap();
            left -= step;
        }
    }

    /// Waits until `condition` holds, at most ten seconds.
    pub(crate) async fn until<F: Future<Output = bool>>(&self, mut condition: impl FnMut() -> F) {
        let waited = async {
            while !condition().await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(2), waited)
            .await
            .expect("the condition never held");
    }
}

/// What a node that follows `script` says to a lease.
pub(crate) fn follow(
    app: &App,
    key: &NodeKey,
    script: &Script,
    lease: &wire::Lease,
) -> Vec<wire::work_up::Message> {
    let sealed = seal::open(key, &lease.sealed_payload).unwrap();
    let task = wire::SealedTask::decode(sealed.as_slice()).unwrap();
    assert_eq!(Sha256::of(&task.payload).to_string(), lease.input_hash);
    let (words, until) = match script {
        Script::Silence => return vec![],
        Script::Refuse(reason, message) => {
            let back = wire::HandBack {
                task_id: lease.task_id.clone(),
                epoch: lease.epoch,
                reason: (*reason).into(),
                message: (*message).into(),
            };
            return vec![wire::work_up::Message::HandBack(back)];
        }
        Script::Words(words) => (words, None),
        Script::Stall(words, until) => (words, Some(*until)),
    };
    let payload = wire::TaskPayload::decode(task.payload.as_slice()).unwrap();
    let Some(wire::task_payload::Task::Inference(asked)) = payload.task else {
        return vec![];
    };
    let from = task.forced_prefix.len();
    let n = words.len().min(asked.max_tokens as usize);
    let tokens: Vec<u32> = (0..n).map(token).collect();
    assert_eq!(
        task.forced_prefix,
        tokens[..from],
        "a successor gets the delivered prefix"
    );
    let models: Vec<Sha256> = lease
        .model_sha256
        .iter()
        .map(|h| h.parse().unwrap())
        .collect();
    let segment = |to: usize| {
        let said = Segment {
            task_id: lease.task_id.parse().unwrap(),
            epoch: lease.epoch,
            model_sha256: models.clone(),
            from: from as u32,
            to: to as u32,
            prefix_sha256: tokens_sha256(&tokens[..from]),
            tokens_sha256: tokens_sha256(&tokens[..to]),
            seed: asked.seed,
        };
        wire::SignedEnvelope::from(&said.sign(key, &app.network()))
    };
    let mut said = vec![];
    if asked.stream {
        for i in from..until.unwrap_or(n).min(n) {
            said.push(wire::work_up::Message::Chunk(wire::Chunk {
                task_id: lease.task_id.clone(),
                epoch: lease.epoch,
                from: i as u32,
                tokens: vec![tokens[i]],
                text: words[i].to_owned(),
                segment: Some(segment(i + 1)),
            }));
        }
    }
    if until.is_some() {
        return said;
    }
    let text: String = words[..n].concat();
    let result = TaskResultStatement {
        task_id: lease.task_id.parse().unwrap(),
        epoch: lease.epoch,
        model_sha256: models.clone(),
        input_sha256: lease.input_hash.parse().unwrap(),
        output_sha256: Sha256::of(text.as_bytes()),
        tokens_sha256: tokens_sha256(&tokens),
        prompt_tokens: 7,
        output_tokens: n as u32,
        finish: if n == words.len() {
            Finish::Stop
        } else {
            Finish::Length
        },
        seed: asked.seed,
        backend: "scripted".into(),
        exec_ms: 1,
    }
    .sign(key, &app.network());
    let commit = Commit {
        task_id: lease.task_id.parse().unwrap(),
        epoch: lease.epoch,
        result_sha256: Sha256::of(result.unverified_payload()),
    };
    said.push(wire::work_up::Message::Result(wire::TaskResult {
        commit: Some((&commit.sign(key, &app.network())).into()),
        result: Some((&result).into()),
        output: Some(wire::Output {
            text,
            tokens: tokens.clone(),
            segment: Some(segment(n)),
            report: vec![],
        }),
    }));
    said
}
