//! A coordinator that does what the test says: real TLS and gRPC, a network of its own, files over HTTP.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use owm_p2p::{Documents, NewestCheckpoint};
use owm_proto::{
    Envelope, NodeId, NodeKey, PublicKey, Purpose, Sha256, TaskId, Tier, UnixMillis,
    evaluation::{EvaluationAsk, EvaluationReport, Finding, FormerPart},
    genesis::{DelegatedRole, Delegation, Genesis, NetworkId, Revocation, network_id},
    gossip::{Bootstrap, Checkpoint},
    invite::Invite,
    manifest::{Manifest, ManifestFile, SubModel},
    seal,
    statement::{Membership, Statement as _},
    wire::coordinator::{
        Cancel, Chunk, EvaluatePayload, GetModelVersionRequest, GetModelVersionResponse,
        GetNetworkRequest, GetNetworkResponse, HandBack, HeartbeatRequest, HeartbeatResponse,
        Hello, InferencePayload, Lease, PollWorkRequest, PollWorkResponse, RegisterNodeRequest,
        RegisterNodeResponse, RegistrationOutcome, ResultAck, SealedTask, SignedEnvelope,
        SubmitTaskResultRequest, SubmitTaskResultResponse, SubmitUpdateRequest,
        SubmitUpdateResponse, TaskPayload, TaskResult, Verdict, Welcome, WorkDown, WorkUp,
        coordinator_server::{Coordinator, CoordinatorServer},
        submit_update_request,
        task_payload::Task,
        work_down, work_up,
    },
};
use owm_service::{
    clock::SystemClock,
    tls::{Identity, TlsLimits, serve_tls, server_config},
};
use prost::Message as _;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use super::{PATIENCE, tap::Tap, task_id};

const WEIGHTS: &[u8] = b"weights that nobody reads";
const VERSION: &str = "owm-v0.1.0";

#[derive(Debug)]
struct State {
    network: GetNetworkResponse,
    served: Manifest,
    manifest: SignedEnvelope,
    outcomes: Mutex<VecDeque<RegistrationOutcome>>,
    submitted: Mutex<(Verdict, u64)>,
    streams: mpsc::Sender<Stream>,
    seen: mpsc::Sender<TaskResult>,
    polls: Mutex<Option<Poll>>,
    instance: NodeKey,
    /// How long a membership holds; `None`: there is none.
    membership: Mutex<Option<Duration>>,
    registrations: AtomicU32,
    refusal: Mutex<Option<&'static str>>,
    blobs: Arc<Blobs>,
    no_model: AtomicBool,
    /// Calls but GetNetwork, and work streams.
    calls: AtomicU32,
    /// GetNetwork says nothing of the coordinator's key.
    undelegated: AtomicBool,
    /// Who holds it keeps GetNetwork from being answered.
    network_held: Arc<tokio::sync::Mutex<()>>,
}

/// The poll session that stands in for a stream.
#[derive(Debug)]
struct Poll {
    up: mpsc::Sender<WorkUp>,
    down: Arc<tokio::sync::Mutex<mpsc::Receiver<Result<WorkDown, Status>>>>,
}

/// The running fake.
pub(crate) struct Fake {
    /// How to join.
    pub(crate) invite: Invite,
    /// Where it really listens.
    pub(crate) address: String,
    state: Arc<State>,
    tap: Tap,
    streams: mpsc::Receiver<Stream>,
    seen: mpsc::Receiver<TaskResult>,
}

/// A work stream, from the coordinator's side.
#[derive(Debug)]
pub(crate) struct Stream {
    up: mpsc::Receiver<WorkUp>,
    down: mpsc::Sender<Result<WorkDown, Status>>,
}

/// A model's files by their names.
pub(crate) type Files = Vec<(&'static str, Vec<u8>)>;

fn files() -> Files {
    vec![
        ("model.safetensors", WEIGHTS.to_vec()),
        ("tokenizer.json", b"{}".to_vec()),
        ("config.json", b"{\"a\": 1}".to_vec()),
    ]
}

fn manifest(files: &Files) -> Manifest {
    let file = |(name, bytes): &(&str, Vec<u8>)| ManifestFile {
        name: (*name).into(),
        size: bytes.len() as u64,
        sha256: Sha256::of(bytes),
        piece_len: None,
        ladder_sha256: None,
    };
    let files: Vec<_> = files.iter().map(file).collect();
    let sub_model = SubModel {
        architecture: "llama".into(),
        tokenizer: "tokenizer.json".into(),
        files: files.iter().map(|file| file.name.clone()).collect(),
    };
    Manifest {
        sequence: 1,
        version: VERSION.parse().unwrap(),
        round: None,
        created_at: UnixMillis(1),
        parent: None,
        default_sub_model: "owm-geo".parse().unwrap(),
        sub_models: ["owm-code", "owm-geo"]
            .map(|id| (id.parse().unwrap(), sub_model.clone()))
            .into(),
        files,
        note: "echoes only".into(),
        deltas: Vec::new(),
        release_notes: String::new(),
    }
}

/// What becomes of the next request for a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlobFault {
    /// Other bytes of the same length.
    Lie,
    /// Half of them.
    Cut,
    /// Never an answer.
    Stall,
}

/// Faults to come, and how often files were asked for.
#[derive(Debug, Default)]
struct Blobs {
    faults: Mutex<VecDeque<BlobFault>>,
    asked: AtomicU32,
}

async fn serve_blobs(files: &Files, plan: Arc<Blobs>) -> String {
    let blobs: HashMap<String, Vec<u8>> = files
        .iter()
        .map(|(_, bytes)| (format!("/v1/blobs/{}", Sha256::of(bytes)), bytes.clone()))
        .collect();
    let blobs = Arc::new(blobs);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (blobs, plan) = (Arc::clone(&blobs), Arc::clone(&plan));
            let service = hyper::service::service_fn(move |request: http::Request<_>| {
                let _: &hyper::body::Incoming = request.body();
                plan.asked.fetch_add(1, Relaxed);
                let fault = plan.faults.lock().unwrap().pop_front();
                let (status, body) = match (blobs.get(request.uri().path()), fault) {
                    (Some(bytes), None) => (200, bytes.clone()),
                    (Some(bytes), Some(BlobFault::Lie)) => (200, vec![b'?'; bytes.len()]),
                    (Some(bytes), Some(BlobFault::Cut)) => (200, bytes[..bytes.len() / 2].into()),
                    (Some(_), Some(BlobFault::Stall)) => (500, Vec::new()),
                    (None, _) => (404, Vec::new()),
                };
                let response = http::Response::builder()
                    .status(status)
                    .body(Full::new(Bytes::from(body)));
                async move {
                    if fault == Some(BlobFault::Stall) {
                        std::future::pending::<()>().await;
                    }
                    Ok::<_, Infallible>(response.unwrap())
                }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    format!("http://{address}")
}

impl Fake {
    /// A network, its coordinator, its files.
    pub(crate) async fn start() -> Self {
        Self::serving(files()).await
    }

    /// The same with a model of these files.
    pub(crate) async fn serving(files: Files) -> Self {
        let [root, instance, release] = [1, 2, 3].map(|n| NodeKey::from_seed(&[n; 32]));
        let genesis = Genesis {
            name: "fake".into(),
            bitcoin_chain: "regtest".into(),
            root_public_key: root.public(),
            created_at: UnixMillis(0),
        }
        .to_bytes();
        let id = network_id(&genesis);
        let delegate = |role, key: &NodeKey| {
            let said = Delegation {
                role,
                key: key.public(),
                issued_at_ms: UnixMillis(0),
                expires_at_ms: UnixMillis(u64::MAX),
            };
            SignedEnvelope::from(&said.sign(&root, &id))
        };
        let delegations = vec![
            delegate(DelegatedRole::Instance, &instance),
            delegate(DelegatedRole::Release, &release),
        ];
        let blobs = Arc::new(Blobs::default());
        let web_seed = serve_blobs(&files, Arc::clone(&blobs)).await;
        let network = GetNetworkResponse {
            genesis,
            delegations,
            revocations: vec![],
            web_seed,
            ..GetNetworkResponse::default()
        };
        let served = manifest(&files);
        let signed = Envelope::sign(&release, Purpose::Manifest, &id, served.to_bytes());
        let (streams_tx, streams) = mpsc::channel(8);
        let (seen_tx, seen) = mpsc::channel(8);
        let state = Arc::new(State {
            network,
            served,
            manifest: (&signed).into(),
            outcomes: Mutex::default(),
            submitted: Mutex::new((Verdict::Accepted, 0)),
            streams: streams_tx,
            seen: seen_tx,
            polls: Mutex::default(),
            calls: AtomicU32::default(),
            undelegated: AtomicBool::default(),
            network_held: Arc::default(),
            instance: NodeKey::from_seed(&[2; 32]),
            membership: Mutex::default(),
            registrations: AtomicU32::default(),
            refusal: Mutex::default(),
            blobs,
            no_model: AtomicBool::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let identity = Identity::from_pkcs8_der(&instance.to_pkcs8_der()).unwrap();
        let incoming = serve_tls(listener, server_config(&identity), TlsLimits::default());
        let tap = Tap::default();
        let listening = tap.clone();
        let incoming = incoming.map(move |io| io.map(|io| listening.on(io)));
        let service = CoordinatorServer::new(Service(Arc::clone(&state)));
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming),
        );
        let invite = Invite {
            genesis: id,
            instance_key: instance.public(),
            addresses: vec![address.to_string()],
            onion: None,
            peers: vec![],
            web_seed: None,
        };
        Self {
            invite,
            address: address.to_string(),
            state,
            tap,
            streams,
            seen,
        }
    }

    /// The served model's files, as an evaluation names them.
    pub(crate) fn candidate(&self) -> Vec<ManifestFile> {
        self.state.served.files.clone()
    }

    /// All bytes that nodes have sent, decrypted.
    pub(crate) fn heard(&self) -> Vec<u8> {
        self.tap.heard()
    }

    /// What a peer serves of the network: a heartbeat every second.
    pub(crate) fn documents(&self) -> Documents {
        let bootstrap = Bootstrap {
            heartbeat_secs: 1,
            ..Bootstrap::before_any()
        };
        let network = self.state.network.clone();
        let parse = |wire: Vec<SignedEnvelope>| {
            let parsed = wire
                .into_iter()
                .map(|wire| Envelope::try_from(wire).unwrap());
            parsed.collect()
        };
        let now = UnixMillis(SystemClock::shared().now_ms());
        let id = self.network_id();
        let bootstrap = Some(bootstrap.sign(&self.state.instance, &id));
        Documents::verify(
            Some(id),
            network.genesis,
            parse(network.delegations),
            parse(network.revocations),
            bootstrap,
            network.web_seed,
            now,
        )
        .unwrap()
    }

    /// The same after the root key has taken the coordinator's key back.
    pub(crate) fn revoked(&self) -> Documents {
        let documents = self.documents();
        let said = Revocation {
            key: self.state.instance.public(),
            revoked_at_ms: UnixMillis(1),
        };
        let root = NodeKey::from_seed(&[1; 32]);
        Documents::verify(
            Some(self.network_id()),
            documents.genesis,
            documents.delegations,
            vec![said.sign(&root, &self.network_id())],
            None,
            documents.web_seed,
            UnixMillis(SystemClock::shared().now_ms()),
        )
        .unwrap()
    }

    /// The checkpoint of the version that it serves.
    pub(crate) fn newest(&self) -> NewestCheckpoint {
        self.checkpoint(self.state.served.clone())
    }

    /// That of a version of the same files which only peers know.
    pub(crate) fn next(&self) -> NewestCheckpoint {
        self.checkpoint(Manifest {
            sequence: 2,
            version: "owm-v0.2.0".parse().unwrap(),
            ..self.state.served.clone()
        })
    }

    fn checkpoint(&self, manifest: Manifest) -> NewestCheckpoint {
        let release = NodeKey::from_seed(&[3; 32]);
        let bytes = manifest.to_bytes();
        let signed = Envelope::sign(
            &release,
            Purpose::Manifest,
            &self.network_id(),
            bytes.clone(),
        );
        let checkpoint = Checkpoint {
            sequence: manifest.sequence,
            version: manifest.version.clone(),
            manifest_sha256: Sha256::of(&bytes),
            manifest_bytes: bytes.len() as u64,
            created_at_ms: manifest.created_at,
        };
        NewestCheckpoint {
            envelope: checkpoint.sign(&release, &self.network_id()),
            checkpoint,
            manifest,
            manifest_envelope: signed,
        }
    }

    /// No GetNetwork is answered while the result lives.
    pub(crate) async fn hold_network(&self) -> tokio::sync::OwnedMutexGuard<()> {
        Arc::clone(&self.state.network_held).lock_owned().await
    }

    pub(crate) fn network_id(&self) -> NetworkId {
        self.invite.genesis
    }

    pub(crate) fn weights() -> Sha256 {
        Sha256::of(WEIGHTS)
    }

    pub(crate) fn answer_registration(
        &self,
        outcomes: impl IntoIterator<Item = RegistrationOutcome>,
    ) {
        self.state.outcomes.lock().unwrap().extend(outcomes);
    }

    pub(crate) fn refuse_streams(&self, why: &'static str) {
        *self.state.refusal.lock().unwrap() = Some(why);
    }

    /// The next requests for files go wrong like this.
    pub(crate) fn spoil_files(&self, faults: impl IntoIterator<Item = BlobFault>) {
        self.state.blobs.faults.lock().unwrap().extend(faults);
    }

    /// How often files were asked for.
    pub(crate) fn files_asked(&self) -> u32 {
        self.state.blobs.asked.load(Relaxed)
    }

    /// Whether a model is published.
    pub(crate) fn publish(&self, is_published: bool) {
        self.state.no_model.store(!is_published, Relaxed);
    }

    /// Grants memberships that hold for so long.
    pub(crate) fn grant(&self, time: Duration) {
        *self.state.membership.lock().unwrap() = Some(time);
    }

    /// How often it was called, but for the network's documents.
    pub(crate) fn calls(&self) -> u32 {
        self.state.calls.load(Relaxed)
    }

    /// Whether its documents delegate its key.
    pub(crate) fn delegate(&self, is_delegated: bool) {
        self.state.undelegated.store(!is_delegated, Relaxed);
    }

    pub(crate) fn registrations(&self) -> u32 {
        self.state.registrations.load(Relaxed)
    }

    /// Whether a work stream waits that no test has asked for.
    pub(crate) fn has_another_stream(&mut self) -> bool {
        self.streams.try_recv().is_ok()
    }

    pub(crate) fn acknowledge_submitted(&self, verdict: Verdict, reward_msat: u64) {
        *self.state.submitted.lock().unwrap() = (verdict, reward_msat);
    }

    /// The next work stream.
    pub(crate) async fn stream(&mut self) -> Stream {
        let next = tokio::time::timeout(PATIENCE, self.streams.recv());
        next.await.expect("the node opens a stream").unwrap()
    }

    /// The next result that came by a call.
    pub(crate) async fn submitted(&mut self) -> TaskResult {
        let next = tokio::time::timeout(PATIENCE, self.seen.recv());
        next.await.expect("the node calls").unwrap()
    }
}

impl Stream {
    async fn next(&mut self) -> work_up::Message {
        let next = tokio::time::timeout(PATIENCE, self.up.recv()).await;
        next.expect("the node says something")
            .expect("the stream stands")
            .message
            .unwrap()
    }

    /// The next message that is neither a ping, a heartbeat nor a chunk.
    pub(crate) async fn next_of_work(&mut self) -> work_up::Message {
        use work_up::Message;
        loop {
            match self.next().await {
                Message::Ping(n) => self.send(work_down::Message::Pong(n)).await,
                Message::Heartbeat(_) | Message::Chunk(_) | Message::Withdraw(_) => {}
                // A new set of weights without credits says nothing about slots.
                Message::Offer(offer) if offer.credits == 0 => {}
                other => return other,
            }
        }
    }

    pub(crate) async fn hello(&mut self) -> Hello {
        match self.next().await {
            work_up::Message::Hello(hello) => hello,
            other => panic!("not a hello first: {other:?}"),
        }
    }

    /// Waits for a sign of life and answers it.
    pub(crate) async fn ping(&mut self) {
        loop {
            if let work_up::Message::Ping(n) = self.next().await {
                return self.send(work_down::Message::Pong(n)).await;
            }
        }
    }

    /// Waits until the node takes its slots back.
    pub(crate) async fn withdrawn(&mut self) {
        let waiting = async {
            loop {
                match self.next().await {
                    work_up::Message::Withdraw(withdraw) => return withdraw,
                    work_up::Message::Ping(n) => self.send(work_down::Message::Pong(n)).await,
                    _ => {}
                }
            }
        };
        // Signs of life go on: each message alone would be in time.
        let withdraw = tokio::time::timeout(PATIENCE, waiting).await;
        assert_eq!(
            withdraw.expect("the node takes its slots back").role,
            "infer"
        );
    }

    /// Nothing that was said so far offers a slot.
    pub(crate) fn check_nothing_is_offered(&mut self) {
        while let Ok(message) = self.up.try_recv() {
            if let Some(work_up::Message::Offer(offer)) = message.message {
                assert_eq!(offer.credits, 0, "a slot is offered");
            }
        }
    }

    pub(crate) async fn heartbeat(&mut self) -> SignedEnvelope {
        loop {
            if let work_up::Message::Heartbeat(envelope) = self.next().await {
                return envelope;
            }
        }
    }

    pub(crate) async fn offer(&mut self) -> u32 {
        match self.next_of_work().await {
            work_up::Message::Offer(offer) => offer.credits,
            other => panic!("not an offer: {other:?}"),
        }
    }

    pub(crate) async fn offer_with_weights(&mut self) -> u32 {
        match self.next_of_work().await {
            work_up::Message::Offer(offer) => {
                assert_eq!(offer.sha256, [Sha256::of(WEIGHTS).to_string()]);
                assert_eq!(offer.role, "infer");
                offer.credits
            }
            other => panic!("not an offer: {other:?}"),
        }
    }

    pub(crate) async fn hand_back(&mut self) -> HandBack {
        match self.next_of_work().await {
            work_up::Message::HandBack(back) => back,
            other => panic!("not handed back: {other:?}"),
        }
    }

    pub(crate) async fn chunk(&mut self) -> Chunk {
        loop {
            if let work_up::Message::Chunk(chunk) = self.next().await {
                return chunk;
            }
        }
    }

    pub(crate) async fn until_result(&mut self) -> (Vec<Chunk>, TaskResult) {
        let mut chunks = Vec::new();
        loop {
            match self.next().await {
                work_up::Message::Chunk(chunk) => chunks.push(chunk),
                work_up::Message::Result(result) => return (chunks, result),
                work_up::Message::HandBack(back) => panic!("handed back: {back:?}"),
                _ => {}
            }
        }
    }

    pub(crate) async fn send(&self, message: work_down::Message) {
        self.down
            .send(Ok(WorkDown {
                message: Some(message),
            }))
            .await
            .unwrap();
    }

    pub(crate) async fn welcome(&self) {
        let welcome = Welcome {
            node_status: "active".into(),
            session_epoch: 1,
            ping_secs: 10,
            newest_version: VERSION.into(),
        };
        self.send(work_down::Message::Welcome(welcome)).await;
    }

    pub(crate) async fn cancel(&self, task: TaskId, epoch: u64) {
        let (task_id, reason) = (task.to_string(), "the client is gone".into());
        self.send(work_down::Message::Cancel(Cancel {
            task_id,
            epoch,
            reason,
        }))
        .await;
    }

    pub(crate) async fn ack(&self, task: TaskId, epoch: u64, verdict: Verdict, reward_msat: u64) {
        let ack = ResultAck {
            task_id: task.to_string(),
            epoch,
            verdict: verdict.into(),
            reason: String::new(),
            reward_msat,
        };
        self.send(work_down::Message::ResultAck(ack)).await;
    }

    /// Leases a question to `node`.
    pub(crate) async fn lease(
        &self,
        node: &NodeKey,
        epoch: u64,
        prompt: &str,
        stream: bool,
        forced_prefix: &[u32],
    ) -> TaskId {
        let inference = question(prompt, stream);
        self.send_lease(node, epoch, inference, forced_prefix, |_| {})
            .await
    }

    /// A lease with something in it that no coordinator of ours would send, or no node can do.
    pub(crate) async fn odd_lease(
        &self,
        node: &NodeKey,
        change_question: impl FnOnce(&mut InferencePayload),
        change_lease: impl FnOnce(&mut Lease),
    ) -> TaskId {
        let mut inference = question("hi", false);
        change_question(&mut inference);
        self.send_lease(node, 1, inference, &[], change_lease).await
    }

    async fn send_lease(
        &self,
        node: &NodeKey,
        epoch: u64,
        inference: InferencePayload,
        forced_prefix: &[u32],
        change: impl FnOnce(&mut Lease),
    ) -> TaskId {
        let task = Task::Inference(inference);
        self.send_task(node, epoch, task, forced_prefix, change)
            .await
    }

    /// A measurement of the served model.
    pub(crate) async fn evaluation(
        &self,
        node: &NodeKey,
        epoch: u64,
        ask: &EvaluationAsk,
    ) -> TaskId {
        let task = Task::Evaluate(ask.into());
        let weights = ask.weights_sha256();
        let change = |lease: &mut Lease| {
            lease.task_type = "evaluate".into();
            lease.model_sha256 = weights.iter().map(Sha256::to_string).collect();
        };
        self.send_task(node, epoch, task, &[], change).await
    }

    /// A part in a round, with what became of former ones.
    pub(crate) async fn part(
        &self,
        node: &NodeKey,
        epoch: u64,
        ask: &EvaluationAsk,
        former: &[FormerPart],
    ) -> TaskId {
        let mut evaluate = EvaluatePayload::from(ask);
        evaluate.former = former.iter().map(Into::into).collect();
        let weights = ask.weights_sha256();
        let change = |lease: &mut Lease| {
            lease.task_type = "fl_round".into();
            lease.model_sha256 = weights.iter().map(Sha256::to_string).collect();
        };
        let task = Task::Evaluate(evaluate);
        self.send_task(node, epoch, task, &[], change).await
    }

    /// Waits until a task is handed back.
    pub(crate) async fn hand_back_of_work(&mut self) -> HandBack {
        loop {
            if let work_up::Message::HandBack(back) = self.next().await {
                return back;
            }
        }
    }

    /// Waits until the node has offered slots of this role.
    pub(crate) async fn offer_of(&mut self, role: &str) -> u32 {
        loop {
            if let work_up::Message::Offer(offer) = self.next().await
                && offer.role == role
                && offer.credits > 0
            {
                return offer.credits;
            }
        }
    }

    async fn send_task(
        &self,
        node: &NodeKey,
        epoch: u64,
        task: Task,
        forced_prefix: &[u32],
        change: impl FnOnce(&mut Lease),
    ) -> TaskId {
        let payload = TaskPayload { task: Some(task) }.encode_to_vec();
        let input_hash = Sha256::of(&payload).to_string();
        let sealed = SealedTask {
            payload,
            forced_prefix: forced_prefix.to_vec(),
        };
        let task = task_id(9);
        let mut lease = Lease {
            task_id: task.to_string(),
            epoch,
            task_type: "inference".into(),
            deadline_ms: 0,
            lease_ms: 60_000,
            model_version: VERSION.into(),
            sub_model: "owm-geo".into(),
            model_sha256: vec![Fake::weights().to_string()],
            input_hash,
            sealed_payload: seal::seal(&node.public(), &sealed.encode_to_vec()).unwrap(),
        };
        change(&mut lease);
        self.send(work_down::Message::Lease(lease)).await;
        task
    }
}

fn question(prompt: &str, stream: bool) -> InferencePayload {
    InferencePayload {
        prompt: prompt.into(),
        max_tokens: 100,
        top_p: 1.0,
        seed: 7,
        stream,
        ..InferencePayload::default()
    }
}

impl State {
    fn membership(&self, node: PublicKey) -> Option<SignedEnvelope> {
        let time = (*self.membership.lock().unwrap())?;
        let now = UnixMillis(SystemClock::shared().now_ms());
        let said = Membership {
            node,
            node_id: NodeId::from_random([1; 16]),
            owner: node,
            tier: Tier::T1,
            issued_at_ms: now,
            expires_at_ms: now.after(time),
        };
        Some((&said.sign(&self.instance, &network_id(&self.network.genesis))).into())
    }

    /// A session that stands in for a stream; replaces the one before.
    fn open_poll(&self) -> Stream {
        let (up_tx, up) = mpsc::channel(256);
        let (down, down_rx) = mpsc::channel(256);
        let down_rx = Arc::new(tokio::sync::Mutex::new(down_rx));
        *self.polls.lock().unwrap() = Some(Poll {
            up: up_tx,
            down: down_rx,
        });
        Stream { up, down }
    }
}

struct Service(Arc<State>);

#[tonic::async_trait]
impl Coordinator for Service {
    type WorkStream = Pin<Box<dyn futures::Stream<Item = Result<WorkDown, Status>> + Send>>;

    async fn get_network(
        &self,
        _: Request<GetNetworkRequest>,
    ) -> Result<Response<GetNetworkResponse>, Status> {
        let _answering = self.0.network_held.lock().await;
        let mut network = self.0.network.clone();
        if self.0.undelegated.load(Relaxed) {
            network.delegations.remove(0);
        }
        Ok(Response::new(network))
    }

    async fn register_node(
        &self,
        request: Request<RegisterNodeRequest>,
    ) -> Result<Response<RegisterNodeResponse>, Status> {
        self.0.calls.fetch_add(1, Relaxed);
        self.0.registrations.fetch_add(1, Relaxed);
        let envelope = Envelope::from_wire(request.into_inner().request).unwrap();
        let next = self.0.outcomes.lock().unwrap().pop_front();
        Ok(Response::new(RegisterNodeResponse {
            outcome: next.unwrap_or(RegistrationOutcome::Active).into(),
            node_id: "n".into(),
            tier: "t1".into(),
            membership: self.0.membership(envelope.claimed_signer()),
            reasons: vec!["banned".into()],
            heartbeat_secs: 60,
            stake_policy: "not required".into(),
            coordinator_time_ms: 0,
        }))
    }

    async fn heartbeat(
        &self,
        _: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        self.0.calls.fetch_add(1, Relaxed);
        Ok(Response::new(HeartbeatResponse::default()))
    }

    async fn work(
        &self,
        request: Request<Streaming<WorkUp>>,
    ) -> Result<Response<Self::WorkStream>, Status> {
        self.0.calls.fetch_add(1, Relaxed);
        let refusal = *self.0.refusal.lock().unwrap();
        if let Some(why) = refusal {
            return Err(Status::aborted(why));
        }
        let mut incoming = request.into_inner();
        let (up_tx, up) = mpsc::channel(256);
        let (down, down_rx) = mpsc::channel(256);
        let (ended, goodbye) = tokio::sync::oneshot::channel::<()>();
        tokio::spawn(async move {
            while let Some(Ok(message)) = incoming.next().await {
                if up_tx.send(message).await.is_err() {
                    break;
                }
            }
            drop(ended);
        });
        self.0.streams.send(Stream { up, down }).await.unwrap();
        // A node that has said all it had to say is let go.
        let down = futures::StreamExt::take_until(ReceiverStream::new(down_rx), goodbye);
        Ok(Response::new(Box::pin(down)))
    }

    async fn poll_work(
        &self,
        request: Request<PollWorkRequest>,
    ) -> Result<Response<PollWorkResponse>, Status> {
        self.0.calls.fetch_add(1, Relaxed);
        let PollWorkRequest {
            messages, wait_ms, ..
        } = request.into_inner();
        let (hello, rest) = messages.split_first().expect("a hello first");
        // As the coordinator has it: this poll, and no other, opens a session.
        let is_opening = rest.is_empty() && wait_ms == 0;
        let fresh = is_opening.then(|| self.0.open_poll());
        let (up, down) = {
            let polls = self.0.polls.lock().unwrap();
            let unopened = || Status::failed_precondition("no session was opened");
            let poll = polls.as_ref().ok_or_else(unopened)?;
            (poll.up.clone(), Arc::clone(&poll.down))
        };
        if let Some(stream) = fresh {
            up.send(hello.clone()).await.unwrap();
            self.0.streams.send(stream).await.unwrap();
        }
        for message in rest {
            up.send(message.clone())
                .await
                .map_err(|_| Status::unavailable("gone"))?;
        }
        let mut messages = Vec::new();
        let wait = Duration::from_millis(wait_ms.into());
        let held = async { down.lock().await.recv().await };
        if !wait.is_zero()
            && let Ok(next) = tokio::time::timeout(wait, held).await
        {
            messages.push(next.ok_or_else(|| Status::unavailable("gone"))??);
        }
        Ok(Response::new(PollWorkResponse {
            messages,
            number: 0,
        }))
    }

    async fn submit_task_result(
        &self,
        request: Request<SubmitTaskResultRequest>,
    ) -> Result<Response<SubmitTaskResultResponse>, Status> {
        self.0.calls.fetch_add(1, Relaxed);
        let result = request.into_inner().result.unwrap();
        let (verdict, reward_msat) = *self.0.submitted.lock().unwrap();
        self.0.seen.send(result).await.unwrap();
        let ack = ResultAck {
            task_id: task_id(9).to_string(),
            epoch: 1,
            verdict: verdict.into(),
            reason: String::new(),
            reward_msat,
        };
        Ok(Response::new(SubmitTaskResultResponse { ack: Some(ack) }))
    }

    /// Takes an update as it is announced.
    async fn submit_update(
        &self,
        request: Request<tonic::Streaming<SubmitUpdateRequest>>,
    ) -> Result<Response<SubmitUpdateResponse>, Status> {
        let mut parts = request.into_inner();
        let first = parts.message().await?.and_then(|message| message.part);
        let Some(submit_update_request::Part::Result(result)) = first else {
            return Err(Status::invalid_argument("no result"));
        };
        let mut bytes = Vec::new();
        while let Some(message) = parts.message().await? {
            if let Some(submit_update_request::Part::Chunk(chunk)) = message.part {
                bytes.extend(chunk);
            }
        }
        let output = result.output.clone().unwrap();
        let report = EvaluationReport::from_bytes(&output.report).unwrap();
        let Finding::Update { sha256, size, .. } = report.finding else {
            return Err(Status::invalid_argument("no update"));
        };
        assert_eq!((sha256, size), (Sha256::of(&bytes), bytes.len() as u64));
        self.0.seen.send(result).await.unwrap();
        let (verdict, reward_msat) = *self.0.submitted.lock().unwrap();
        let ack = ResultAck {
            verdict: verdict.into(),
            reward_msat,
            ..ResultAck::default()
        };
        Ok(Response::new(SubmitUpdateResponse { ack: Some(ack) }))
    }

    async fn get_model_version(
        &self,
        _: Request<GetModelVersionRequest>,
    ) -> Result<Response<GetModelVersionResponse>, Status> {
        self.0.calls.fetch_add(1, Relaxed);
        if self.0.no_model.load(Relaxed) {
            return Err(Status::not_found(
                "no model is published on this network yet",
            ));
        }
        let manifest = Some(self.0.manifest.clone());
        Ok(Response::new(GetModelVersionResponse {
            manifest,
            note: "a test".into(),
        }))
    }
}
