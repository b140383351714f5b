//! A simulated node: its own key, its own TLS connection, registered like any other, a Work stream that
//! offers slots and hands in signed results. Only the engine is scripted (`answer`).

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use owm_proto::{
    Envelope, NodeKey, Purpose, Sha256, TaskId, UnixMillis,
    limits::GRPC_MESSAGE_BYTES_MAX,
    manifest::Manifest,
    wire::coordinator::{
        self as wire, coordinator_client::CoordinatorClient, work_down::Message as Down,
        work_up::Message as Up,
    },
};
use owm_service::tls::{Identity, grpc_channel};
use prost::Message as _;
use rand::Rng as _;
use rand_chacha::ChaCha20Rng;
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::transport::Channel;

use crate::{answer, network::World};

/// Messages on their way up.
const UP_PENDING_MAX: usize = 256;

/// As the coordinator asks in its Welcome.
const PING: Duration = Duration::from_secs(10);

/// What a laptop has.
const RAM_BYTES: u64 = 16_000_000_000;

/// What all nodes of a scenario saw.
#[derive(Default)]
pub(crate) struct Tally {
    leases: Mutex<Vec<(TaskId, u64)>>,
    pub(crate) accepted: AtomicU64,
    pub(crate) other_verdicts: AtomicU64,
    pub(crate) connected: AtomicUsize,
    pub(crate) errors: AtomicU64,
    last_error: Mutex<String>,
}

impl Tally {
    /// Leases since the last call: which task, and when it arrived (ms since 1970).
    pub(crate) fn leases_take(&self) -> Vec<(TaskId, u64)> {
        std::mem::take(&mut self.leases.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn lease(&self, task: TaskId, at_ms: u64) {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        leases.push((task, at_ms));
    }

    pub(crate) fn failed(&self, error: &anyhow::Error) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        *self
            .last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = format!("{error:#}");
    }

    pub(crate) fn last_error(&self) -> String {
        self.last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// How a node behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Slots it offers when it has connected.
    pub(crate) slots: u32,
    /// Whether a slot is offered again when its work is done.
    pub(crate) again: bool,
}

/// One node.
pub(crate) struct Sim {
    key: NodeKey,
    session: [u8; 16],
    /// Of this run: a registration's request id is used once.
    rng: ChaCha20Rng,
    started: UnixMillis,
    client: CoordinatorClient<Channel>,
    world: World,
    tally: Arc<Tally>,
}

impl Sim {
    /// A node with its channel; nothing is connected yet.
    pub(crate) fn new(world: &World, number: usize, tally: &Arc<Tally>) -> Result<Self> {
        let mut rng = world.seed.rng(&format!("node/{number}"));
        let key = NodeKey::from_seed(&rng.random());
        let identity = Identity::from_pkcs8_der(&key.to_pkcs8_der())?;
        let target = world
            .invite
            .addresses
            .first()
            .context("an invite without address")?;
        let pinned = world.invite.instance_key.0;
        let channel = grpc_channel(&world.dialer, target, &identity, pinned)?;
        let client =
            CoordinatorClient::new(channel).max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX);
        Ok(Self {
            key,
            session: rng.random(),
            rng: world
                .seed
                .rng(&format!("run/{number}/{}", world.clock.now_ms())),
            started: UnixMillis(world.clock.now_ms()),
            client,
            world: world.clone(),
            tally: Arc::clone(tally),
        })
    }

    /// Joins the network.
    pub(crate) async fn register(&mut self) -> Result<()> {
        let now = UnixMillis(self.world.clock.now_ms());
        let body = wire::RegisterNodeBody {
            request_id: self.rng.random::<[u8; 16]>().to_vec(),
            issued_at_ms: now.0,
            expires_at_ms: now.after(Duration::from_mins(5)).0,
            capabilities: Some(wire::Capabilities {
                ram_bytes: Some(RAM_BYTES),
                bandwidth_kbps: Some(1_000_000),
                cpu_cores: 8,
                backend: "scripted".into(),
                ..wire::Capabilities::default()
            }),
            software_version: "owm-bench".into(),
            ..wire::RegisterNodeBody::default()
        };
        let network = &self.world.invite.genesis;
        let signed = Envelope::sign(&self.key, Purpose::Register, network, body.encode_to_vec());
        let request = wire::RegisterNodeRequest {
            request: Some((&signed).into()),
        };
        let answer = self.client.register_node(request).await?.into_inner();
        ensure!(
            answer.outcome() == wire::RegistrationOutcome::Active,
            "not admitted: {}",
            answer.reasons.join("; ")
        );
        Ok(())
    }

    /// The weights of the current version: what a node would have loaded.
    pub(crate) async fn weights(&mut self) -> Result<Vec<String>> {
        let request = wire::GetModelVersionRequest::default();
        let answer = self.client.get_model_version(request).await?.into_inner();
        let signed = answer.manifest.context("no manifest")?;
        let manifest = Manifest::from_bytes(&signed.payload)?;
        let weights = manifest.weights_sha256(&manifest.default_sub_model);
        Ok(weights.iter().map(Sha256::to_string).collect())
    }

    /// One Work stream, until it ends, which is an error however it does; `joined` is told when the
    /// Welcome has come.
    pub(crate) async fn work(
        &mut self,
        weights: &[String],
        plan: Plan,
        joined: impl FnOnce(),
    ) -> Result<Infallible> {
        let (up, queue) = mpsc::channel(UP_PENDING_MAX);
        let hello = wire::Hello {
            session_id: self.session.to_vec(),
            started_at_ms: self.started.0,
            software_version: "owm-bench".into(),
            running: vec![],
        };
        let outgoing = tokio_stream::once(say(Up::Hello(hello))).chain(ReceiverStream::new(queue));
        let mut down = self.client.work(outgoing).await?.into_inner();
        let first = down.message().await?.and_then(|m| m.message);
        if !matches!(first, Some(Down::Welcome(_))) {
            bail!("no Welcome first");
        }
        joined();
        self.tally.connected.fetch_add(1, Ordering::Relaxed);
        let offer = |credits| {
            let sha256 = weights.to_vec();
            say(Up::Offer(wire::Offer {
                role: "infer".into(),
                credits,
                sha256,
            }))
        };
        let ended = async {
            up.send(offer(plan.slots)).await?;
            let mut ping = tokio::time::interval_at(Instant::now() + PING, PING);
            loop {
                let message = tokio::select! {
                    message = down.message() => message?,
                    _ = ping.tick() => {
                        up.send(say(Up::Ping(1))).await?;
                        continue;
                    }
                };
                let Some(message) = message else {
                    bail!("the coordinator ended the stream");
                };
                match message.message {
                    Some(Down::Lease(lease)) => {
                        self.take(&lease, &up).await?;
                        if plan.again {
                            up.send(offer(1)).await?;
                        }
                    }
                    Some(Down::ResultAck(ack)) => self.count(&ack),
                    Some(Down::Fenced(fenced)) => bail!("fenced: {}", fenced.reason),
                    _ => {}
                }
            }
        }
        .await;
        self.tally.connected.fetch_sub(1, Ordering::Relaxed);
        ended
    }

    async fn take(&self, lease: &wire::Lease, up: &mpsc::Sender<wire::WorkUp>) -> Result<()> {
        let at = self.world.clock.now_ms();
        self.tally
            .lease(lease.task_id.parse().context("a task id")?, at);
        for message in answer::work(&self.key, &self.world.invite.genesis, lease)? {
            up.send(message).await?;
        }
        Ok(())
    }

    fn count(&self, ack: &wire::ResultAck) {
        let counter = match ack.verdict() {
            wire::Verdict::Accepted => &self.tally.accepted,
            _ => &self.tally.other_verdicts,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

fn say(message: Up) -> wire::WorkUp {
    wire::WorkUp {
        message: Some(message),
    }
}
