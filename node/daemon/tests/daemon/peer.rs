//! A peer that a test holds: a real swarm on loopback, with the fake network's documents or without.

use std::{sync::Arc, time::Duration};

use owm_p2p::{
    Documents, Handle, Multiaddr, NetworkPolicy, NewestCheckpoint, News, Start, SwarmConfig,
    Transport, multiaddr::Protocol,
};
use owm_proto::{
    Envelope, NodeKey, PublicKey, Purpose, UnixMillis,
    wire::{coordinator::HeartbeatBody, gossip::CapabilityBody},
};
use owm_service::clock::{Clock as _, SystemClock};
use prost::Message as _;
use tokio::sync::mpsc;

use super::{Fake, PATIENCE, overheard, tap::Tap};

/// The machine's clock, as the swarm asks it.
#[derive(Debug)]
pub(crate) struct Clock(pub(crate) SystemClock);

impl owm_p2p::Clock for Clock {
    fn wall(&self) -> UnixMillis {
        UnixMillis(self.0.now_ms())
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }
}

/// The running peer; dropping it ends it.
pub(crate) struct Peer {
    pub(crate) handle: Handle,
    news: mpsc::Receiver<News>,
}

fn key() -> NodeKey {
    NodeKey::from_seed(&[88; 32])
}

impl Peer {
    /// Serves the fake's documents and checkpoint.
    pub(crate) fn start(fake: &Fake, newest: Option<NewestCheckpoint>) -> Self {
        Self::serving(fake, fake.documents(), newest)
    }

    /// Serves these.
    pub(crate) fn serving(
        fake: &Fake,
        documents: Documents,
        newest: Option<NewestCheckpoint>,
    ) -> Self {
        let transport = Transport::clearnet(&key()).unwrap();
        Self::over(transport, fake, documents, newest)
    }

    /// Serves the fake's, and `tap` is on whatever it hears.
    pub(crate) fn listening(fake: &Fake, tap: &Tap) -> Self {
        let transport = overheard::transport(&key(), tap);
        Self::over(transport, fake, fake.documents(), Some(fake.newest()))
    }

    fn over(
        transport: Transport,
        fake: &Fake,
        documents: Documents,
        newest: Option<NewestCheckpoint>,
    ) -> Self {
        let key = key();
        let config = SwarmConfig {
            policy: NetworkPolicy::LoopbackOnly,
            listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
            all_shards: true,
            ..SwarmConfig::default()
        };
        let start = Start {
            config,
            key: &key,
            network: fake.network_id(),
            documents: Some(documents),
            newest,
            clock: Arc::new(Clock(SystemClock::new())),
            seed: [9; 32],
        };
        let (handle, news, service) = owm_p2p::start_over(start, transport).unwrap();
        tokio::spawn(service);
        Self { handle, news }
    }

    /// Where it listens, with its name.
    pub(crate) async fn address(&self) -> Multiaddr {
        let mut view = self.handle.view();
        let listens = view.wait_for(|view| !view.listening.is_empty());
        let view = tokio::time::timeout(PATIENCE, listens)
            .await
            .unwrap()
            .unwrap();
        let address = view.listening[0].clone();
        address.with(Protocol::P2p(self.handle.peer()))
    }

    pub(crate) fn key() -> PublicKey {
        key().public()
    }

    /// Says what it is, as a node would.
    pub(crate) async fn announce(&self, fake: &Fake) {
        let now = UnixMillis(SystemClock::new().now_ms()).rounded_for_state();
        let address = self.address().await;
        let address: Multiaddr = address.iter().take(2).collect();
        let body = CapabilityBody {
            issued_at_ms: now.0,
            expires_at_ms: now.after(Duration::from_mins(30)).0,
            sequence: now.0,
            session_id: vec![1; 16],
            addresses: vec![address.to_vec()],
            ..CapabilityBody::default()
        };
        let payload = body.encode_to_vec();
        let signed = Envelope::sign(&key(), Purpose::Capability, &fake.network_id(), payload);
        self.handle.announce(signed).await.unwrap();
    }

    async fn next(&mut self) -> News {
        let next = tokio::time::timeout(PATIENCE, self.news.recv()).await;
        next.expect("there is news in time").unwrap()
    }

    /// The next heartbeat of this node.
    pub(crate) async fn heartbeat(&mut self, of: &PublicKey) -> HeartbeatBody {
        loop {
            match self.next().await {
                News::Heartbeat { node, body } if node == *of => return body,
                _ => {}
            }
        }
    }

    /// The next capability of this node that is like this.
    pub(crate) async fn capability(
        &mut self,
        of: &PublicKey,
        mut is_it: impl FnMut(&CapabilityBody) -> bool,
    ) -> CapabilityBody {
        let waiting = async {
            loop {
                match self.next().await {
                    News::Capability { node, body } if node == *of && is_it(&body) => return *body,
                    _ => {}
                }
            }
        };
        // Heartbeats go on: each of them alone would be in time.
        let found = tokio::time::timeout(PATIENCE, waiting).await;
        found.expect("the node says so in time")
    }
}
