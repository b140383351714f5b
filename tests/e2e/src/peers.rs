//! Bare peers of the swarm, without a daemon around them: a network of their own making, and peers that can
//! be put into any namespace. `tests/nat.rs` and `tests/swarm.rs` use them, the latter as liars too.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use libp2p::{Multiaddr, PeerId};
use owm_p2p::{
    Clock, Documents, Handle, SwarmConfig, SwarmView,
    service::{self, Start},
};
use owm_proto::{
    Envelope, NodeKey, PublicKey, UnixMillis,
    envelope::Purpose,
    genesis::{DelegatedRole, Delegation, Genesis, network_id},
    gossip::Bootstrap,
    statement::Statement as _,
    wire::coordinator::HeartbeatBody,
};
use owm_service::clock::{Clock as _, SystemClock};
use prost::Message as _;

/// A heartbeat of a bare peer is valid for so long.
const HEARTBEAT_VALID_MS: u64 = 10 * 60 * 1000;

/// The machine's clock as the swarm wants it.
#[derive(Debug)]
pub struct MachineClock(SystemClock);

impl Default for MachineClock {
    fn default() -> Self {
        Self(SystemClock::new())
    }
}

impl Clock for MachineClock {
    fn wall(&self) -> UnixMillis {
        UnixMillis(self.0.now_ms())
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }
}

/// The documents of a network made up on the spot: one instance, one shard, a heartbeat every second.
pub fn network(name: &str) -> Result<Documents> {
    let now = MachineClock::default().wall();
    let (root, instance) = (NodeKey::from_seed(&[1; 32]), NodeKey::from_seed(&[2; 32]));
    let genesis = Genesis {
        name: name.to_owned(),
        bitcoin_chain: "regtest".to_owned(),
        root_public_key: root.public(),
        created_at: now,
    };
    let genesis = genesis.to_bytes();
    let id = network_id(&genesis);
    let delegation = Delegation {
        role: DelegatedRole::Instance,
        key: instance.public(),
        issued_at_ms: now,
        expires_at_ms: now.after(Duration::from_hours(24)),
    };
    let bootstrap = Bootstrap {
        issued_at_ms: now,
        shards: 1,
        heartbeat_secs: 1,
        capability_secs: 5,
    };
    let documents = Documents::verify(
        Some(id),
        genesis,
        vec![delegation.sign(&root, &id)],
        Vec::new(),
        Some(bootstrap.sign(&instance, &id)),
        String::new(),
        now,
    );
    documents.context("documents that were just made")
}

/// A running peer.
#[derive(Debug)]
pub struct Peer {
    /// Its name.
    pub key: PublicKey,
    /// Its end of the swarm.
    pub handle: Handle,
    node_key: NodeKey,
    documents: Documents,
    sequence: u64,
}

impl Peer {
    /// Starts it on the current runtime; `seed` is its identity.
    pub fn start(seed: u8, config: SwarmConfig, documents: Documents) -> Result<Self> {
        let node_key = NodeKey::from_seed(&[seed; 32]);
        let start = Start {
            config,
            key: &node_key,
            network: documents.trust().id(),
            documents: Some(documents.clone()),
            newest: None,
            clock: Arc::new(MachineClock::default()),
            seed: [seed; 32],
        };
        let (handle, mut news, running) = service::start(start)?;
        tokio::spawn(running);
        // What it hears is in its view.
        tokio::spawn(async move { while news.recv().await.is_some() {} });
        Ok(Self {
            key: node_key.public(),
            handle,
            node_key,
            documents,
            sequence: 0,
        })
    }

    /// Its libp2p name.
    pub fn id(&self) -> PeerId {
        self.handle.peer()
    }

    /// `address` with its name at the end.
    pub fn at(&self, address: &str) -> Result<Multiaddr> {
        let address: Multiaddr = address.parse()?;
        Ok(address.with(libp2p::multiaddr::Protocol::P2p(self.id())))
    }

    /// Says that it lives.
    pub async fn beat(&mut self) -> Result<()> {
        let now = MachineClock::default().wall().0;
        let issued_at_ms = now - now % 60_000;
        self.sequence = (self.sequence + 1).max(issued_at_ms);
        let body = HeartbeatBody {
            issued_at_ms,
            expires_at_ms: issued_at_ms + HEARTBEAT_VALID_MS,
            sequence: self.sequence,
            session_id: vec![7; 16],
            running_tasks: 0,
            loaded_sha256: Vec::new(),
        };
        let network = self.documents.trust().id();
        let payload = body.encode_to_vec();
        let envelope = Envelope::sign(&self.node_key, Purpose::Heartbeat, &network, payload);
        self.handle.announce(envelope).await?;
        Ok(())
    }

    /// What it sees now.
    pub fn view(&self) -> Arc<SwarmView> {
        self.handle.view().borrow().clone()
    }

    /// Waits until what it sees is as wanted; the view that was. `what` completes "waited for …".
    pub async fn sees(
        &self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&SwarmView) -> bool,
    ) -> Result<Arc<SwarmView>> {
        let mut views = self.handle.view();
        let seen = tokio::time::timeout(limit, views.wait_for(|view| wanted(view))).await;
        match seen {
            Ok(Ok(view)) => Ok(view.clone()),
            Ok(Err(_)) => bail!("the peer ended while it was waited for {what}"),
            Err(_) => bail!(
                "waited {} s for {what}; it sees {:#?}",
                limit.as_secs(),
                self.view()
            ),
        }
    }
}
