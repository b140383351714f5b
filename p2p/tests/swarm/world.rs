//! A network's documents, peers that live in it, and waiting for what they see.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use owm_p2p::{
    Clock, Documents, Handle, Multiaddr, NetworkPolicy, NewestCheckpoint, News, P2pError, Start,
    SwarmConfig, SwarmView,
};
use owm_proto::{
    Envelope, NodeKey, PublicKey, Sha256, UnixMillis,
    envelope::Purpose,
    genesis::{DelegatedRole, Delegation, Genesis, NetworkId, network_id},
    gossip::{Bootstrap, Checkpoint},
    manifest::{Manifest, ManifestFile, SubModel},
    statement::Statement as _,
    wire::{coordinator::HeartbeatBody, gossip::CapabilityBody},
};
use prost::Message as _;
use tokio::{sync::mpsc, task::JoinHandle};

/// Far above what anything takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(3);

/// A free port of each kind.
pub(crate) const TCP: &str = "/ip4/127.0.0.1/tcp/0";
/// See [`TCP`].
pub(crate) const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

/// The system's clock.
#[derive(Debug)]
pub(crate) struct SystemClock(Instant);

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the clock that is passed in"
    )]
    fn wall(&self) -> UnixMillis {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        UnixMillis(since.unwrap().as_millis() as u64)
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

/// One whose monotonic side stands still: nothing happens because time has passed.
#[derive(Debug)]
pub(crate) struct Still(pub(crate) Arc<dyn Clock>);

impl Clock for Still {
    fn wall(&self) -> UnixMillis {
        self.0.wall()
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(1)
    }
}

/// A network.
pub(crate) struct World {
    pub(crate) root: NodeKey,
    pub(crate) release: NodeKey,
    pub(crate) instance: NodeKey,
    pub(crate) network: NetworkId,
    pub(crate) documents: Documents,
    pub(crate) clock: Arc<dyn Clock>,
}

/// A running peer.
pub(crate) struct Peer {
    pub(crate) key: NodeKey,
    pub(crate) handle: Handle,
    pub(crate) news: mpsc::Receiver<News>,
    pub(crate) task: JoinHandle<()>,
}

impl World {
    pub(crate) fn new(name: &str) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock(Instant::now()));
        let now = clock.wall();
        let [root, release, instance] = [1, 2, 3].map(|n| NodeKey::from_seed(&[n; 32]));
        let genesis = Genesis {
            name: name.to_owned(),
            bitcoin_chain: "regtest".to_owned(),
            root_public_key: root.public(),
            created_at: now,
        };
        let genesis = genesis.to_bytes();
        let network = network_id(&genesis);
        let delegate = |role, key: &NodeKey| {
            let delegation = Delegation {
                role,
                key: key.public(),
                issued_at_ms: now,
                expires_at_ms: now.after(Duration::from_hours(24)),
            };
            delegation.sign(&root, &network)
        };
        let bootstrap = Bootstrap {
            issued_at_ms: now,
            shards: 1,
            heartbeat_secs: 5,
            capability_secs: 60,
        };
        let documents = Documents::verify(
            Some(network),
            genesis,
            vec![
                delegate(DelegatedRole::Release, &release),
                delegate(DelegatedRole::Instance, &instance),
            ],
            Vec::new(),
            Some(bootstrap.sign(&instance, &network)),
            String::new(),
            now,
        );
        Self {
            documents: documents.unwrap(),
            root,
            release,
            instance,
            network,
            clock,
        }
    }

    pub(crate) fn config(listen: &str) -> SwarmConfig {
        SwarmConfig {
            policy: NetworkPolicy::LoopbackOnly,
            listen: vec![listen.parse().unwrap()],
            ..SwarmConfig::default()
        }
    }

    /// A member from the start.
    pub(crate) fn peer(&self, n: u8, listen: &str) -> Peer {
        self.start(n, Self::config(listen), true, None).unwrap()
    }

    pub(crate) fn start(
        &self,
        n: u8,
        config: SwarmConfig,
        documents: bool,
        newest: Option<NewestCheckpoint>,
    ) -> Result<Peer, P2pError> {
        let key = NodeKey::from_seed(&[n; 32]);
        let (handle, news, service) = owm_p2p::start(Start {
            config,
            key: &key,
            network: self.network,
            documents: documents.then(|| self.documents.clone()),
            newest,
            clock: self.clock.clone(),
            seed: [n; 32],
        })?;
        Ok(Peer {
            key,
            handle,
            news,
            task: tokio::spawn(service),
        })
    }

    pub(crate) fn heartbeat(&self, key: &NodeKey, sequence: u64) -> Envelope {
        heartbeat(&self.clock, &self.network, key, sequence)
    }

    /// A daemon's heartbeats, as often as a stranger may.
    pub(crate) fn beat(
        &self,
        key: NodeKey,
        handle: Handle,
        from: u64,
    ) -> impl Future<Output = ()> + Send + 'static {
        let network = self.network;
        let clock = self.clock.clone();
        async move {
            let mut tick = tokio::time::interval(Duration::from_secs(5));
            for sequence in from.. {
                tick.tick().await;
                let envelope = heartbeat(&clock, &network, &key, sequence);
                // Refused for its rate, or stopped: the next one, or the end.
                let _ = handle.announce(envelope).await;
            }
        }
    }

    pub(crate) fn capability(&self, key: &NodeKey, sequence: u64) -> Envelope {
        self.capability_naming(key, sequence, 0)
    }

    /// Of a node that says it holds this checkpoint.
    pub(crate) fn capability_naming(
        &self,
        key: &NodeKey,
        sequence: u64,
        checkpoint: u64,
    ) -> Envelope {
        let now = self.clock.wall().rounded_for_state();
        let body = CapabilityBody {
            issued_at_ms: now.0,
            expires_at_ms: now.after(Duration::from_mins(30)).0,
            sequence: now.0 + sequence,
            session_id: vec![1; 16],
            software_version: "0.1.0".to_owned(),
            roles: vec!["infer".to_owned()],
            checkpoint_sequence: checkpoint,
            ..CapabilityBody::default()
        };
        Envelope::sign(
            key,
            Purpose::Capability,
            &self.network,
            body.encode_to_vec(),
        )
    }

    pub(crate) fn checkpoint(&self, sequence: u64) -> NewestCheckpoint {
        self.checkpoint_by(&self.release, sequence)
    }

    pub(crate) fn checkpoint_by(&self, key: &NodeKey, sequence: u64) -> NewestCheckpoint {
        let now = self.clock.wall();
        let file = |name: &str| ManifestFile {
            name: name.to_owned(),
            size: 1,
            sha256: Sha256::of(name.as_bytes()),
            piece_len: None,
            ladder_sha256: None,
        };
        let names = ["tokenizer.json", "model.safetensors"];
        let sub_model = SubModel {
            architecture: "llama".to_owned(),
            tokenizer: names[0].to_owned(),
            files: names.map(str::to_owned).to_vec(),
        };
        let manifest = Manifest {
            sequence,
            version: format!("owm-v0.{sequence}.0").parse().unwrap(),
            round: None,
            created_at: now,
            parent: None,
            default_sub_model: "owm-router".parse().unwrap(),
            sub_models: [("owm-router".parse().unwrap(), sub_model)].into(),
            files: names.map(file).to_vec(),
            note: String::new(),
            deltas: Vec::new(),
            release_notes: String::new(),
        };
        let bytes = manifest.to_bytes();
        let checkpoint = Checkpoint {
            sequence,
            version: manifest.version.clone(),
            manifest_sha256: Sha256::of(&bytes),
            manifest_bytes: bytes.len() as u64,
            created_at_ms: now,
        };
        NewestCheckpoint {
            envelope: checkpoint.sign(key, &self.network),
            checkpoint,
            manifest,
            manifest_envelope: Envelope::sign(key, Purpose::Manifest, &self.network, bytes),
        }
    }
}

impl Peer {
    /// Where it listens, with its name.
    pub(crate) async fn address(&self) -> Multiaddr {
        let view = self.until("it listens", |view| !view.listening.is_empty());
        let address = view.await.listening[0].clone();
        address.with_p2p(self.handle.peer()).unwrap()
    }

    pub(crate) async fn join(&self, other: &Self) {
        let addresses = vec![other.address().await];
        self.handle
            .add_candidates("static", addresses)
            .await
            .unwrap();
    }

    /// Waits until its view shows something.
    pub(crate) async fn until(
        &self,
        what: &str,
        shown: impl FnMut(&Arc<SwarmView>) -> bool,
    ) -> Arc<SwarmView> {
        let mut view = self.handle.view();
        let shown = tokio::time::timeout(PATIENCE, view.wait_for(shown)).await;
        match shown {
            Ok(view) => view.unwrap().clone(),
            Err(tokio::time::error::Elapsed { .. }) => {
                panic!("not seen: {what}; view: {:#?}", self.handle.view().borrow())
            }
        }
    }

    /// Waits until it has counted something: counts are shown with the views.
    pub(crate) async fn counted(&self, what: &str, enough: impl Fn(&owm_p2p::Counts) -> bool) {
        let mut view = self.handle.view();
        let counted = async {
            while !enough(&self.handle.counts()) {
                view.changed().await.expect("the swarm runs");
            }
        };
        let counted = tokio::time::timeout(PATIENCE, counted).await;
        assert!(counted.is_ok(), "{what}: {:?}", self.handle.counts());
    }

    pub(crate) async fn connected(&self, n: usize) -> Arc<SwarmView> {
        self.until("so many peers", |view| view.peers.len() >= n)
            .await
    }

    /// The next news that `wanted` picks.
    pub(crate) async fn news<T>(&mut self, what: &str, wanted: impl Fn(&News) -> Option<T>) -> T {
        let next = async {
            loop {
                let news = self.news.recv().await.expect("the swarm runs");
                if let Some(found) = wanted(&news) {
                    return found;
                }
            }
        };
        match tokio::time::timeout(PATIENCE, next).await {
            Ok(found) => found,
            Err(tokio::time::error::Elapsed { .. }) => panic!(
                "no news: {what}; counts: {:?}; view: {:#?}",
                self.handle.counts(),
                self.handle.view().borrow()
            ),
        }
    }

    pub(crate) async fn stop(self) {
        self.handle.stop();
        let ended = tokio::time::timeout(PATIENCE, self.task).await;
        ended.expect("it ends").expect("it does not panic");
    }
}

/// Picks the heartbeats of a node.
pub(crate) fn heartbeat_of(key: PublicKey) -> impl Fn(&News) -> Option<u64> {
    move |news| match news {
        News::Heartbeat { node, body } if *node == key => Some(body.sequence),
        _ => None,
    }
}

fn heartbeat(
    clock: &Arc<dyn Clock>,
    network: &NetworkId,
    key: &NodeKey,
    sequence: u64,
) -> Envelope {
    let now = clock.wall().rounded_for_state();
    let body = HeartbeatBody {
        issued_at_ms: now.0,
        expires_at_ms: now.after(Duration::from_mins(5)).0,
        sequence: now.0 + sequence,
        session_id: vec![1; 16],
        running_tasks: 3,
        loaded_sha256: Vec::new(),
    };
    Envelope::sign(key, Purpose::Heartbeat, network, body.encode_to_vec())
}
