//! What the DHT says: peers that it names are dialled within the same pauses as all others, providers are found
//! in it. The other side is libp2p's own DHT, with no rule
//! of ours in it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};
use std::time::Duration;

use futures::StreamExt as _;
use libp2p::{
    Swarm, identify,
    kad::{self, store::RecordStore as _},
    swarm::{NetworkBehaviour, SwarmEvent},
};
use owm_p2p::{Clock, Multiaddr, peer};
use owm_proto::{NodeKey, Sha256, UnixMillis};

use crate::{
    hostile::swarm_of,
    world::{Peer, TCP, World},
};

/// Between two looks at what a peer has seen, in which the test's clock goes on by 100 ms.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A monotonic side that the test moves.
#[derive(Debug)]
struct Stepped {
    wall: Arc<dyn Clock>,
    millis: AtomicU64,
}

impl Clock for Stepped {
    fn wall(&self) -> UnixMillis {
        self.wall.wall()
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.millis.load(Relaxed))
    }
}

/// As much of a peer as keeps a DHT.
#[derive(NetworkBehaviour)]
struct Keeper {
    identify: identify::Behaviour,
    dht: kad::Behaviour<kad::store::MemoryStore>,
}

fn keeper(world: &World, key: &NodeKey) -> Swarm<Keeper> {
    let public = peer::keypair(key).public();
    let me = public.to_peer_id();
    let name = format!("/owm/{}/kad/1", world.network);
    let name = libp2p::StreamProtocol::try_from_owned(name).unwrap();
    let store = kad::store::MemoryStore::new(me);
    let mut dht = kad::Behaviour::with_config(me, store, kad::Config::new(name));
    dht.set_mode(Some(kad::Mode::Server));
    let version = format!("/owm/{}/1", world.network);
    let mut swarm = swarm_of(
        key,
        Keeper {
            identify: identify::Behaviour::new(identify::Config::new(version, public)),
            dht,
        },
    );
    swarm.listen_on(TCP.parse().unwrap()).unwrap();
    swarm
}

/// Runs until the test ends; connects to `alice` once it listens.
fn run(mut keeper: Swarm<Keeper>, alice: Multiaddr) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        while !matches!(keeper.next().await, Some(SwarmEvent::NewListenAddr { .. })) {}
        keeper.dial(alice).unwrap();
        loop {
            keeper.select_next_some().await;
        }
    })
}

/// A network whose peers' clock ends before five seconds are over: then they would ask the keeper for what it
/// does not speak.
fn stepped(name: &str) -> (World, Arc<Stepped>) {
    let mut world = World::new(name);
    let clock = Arc::new(Stepped {
        wall: Arc::clone(&world.clock),
        millis: AtomicU64::new(1_000),
    });
    world.clock = Arc::clone(&clock) as Arc<dyn Clock>;
    (world, clock)
}

/// Lets time pass until `seen`: two seconds after the start a peer provides, seeks and reads.
async fn walk(clock: &Stepped, alice: &Peer, seen: impl Fn(&Peer) -> bool) -> bool {
    for _ in 0..48 {
        if seen(alice) {
            return true;
        }
        clock.millis.fetch_add(100, Relaxed);
        tokio::time::sleep(LOOK_EVERY).await;
    }
    false
}

fn dht_key(name: &str) -> kad::RecordKey {
    kad::RecordKey::new(&Sha256::of(name.as_bytes()).as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_of_another_network_is_dialled_once_however_often_the_dht_names_it() {
    let (world, clock) = stepped("walks");
    let elsewhere = World::new("elsewhere").peer(13, TCP);
    let alice = world.peer(11, TCP);
    let mut keeper = keeper(&world, &NodeKey::from_seed(&[44; 32]));
    let (gone, at) = (elsewhere.handle.peer(), elsewhere.address().await);
    keeper.behaviour_mut().dht.add_address(&gone, at);
    let telling = run(keeper, alice.address().await);
    alice.connected(1).await;
    // It is met on the first walk, and then rests for an hour, which never ends by this clock.
    let held = |alice: &Peer| alice.handle.counts().dials_held > 0;
    let held = walk(&clock, &alice, held).await;
    let counts = alice.handle.counts();
    assert!(held, "{counts:?}");
    assert_eq!(
        counts.dials_failed, 0,
        "it was reached, and is no use: {counts:?}"
    );
    telling.abort();
    alice.stop().await;
    elsewhere.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_of_the_shard_are_found_by_their_provider_record_alone() {
    let (world, clock) = stepped("providers");
    let (alice, bob) = (world.peer(11, TCP), world.peer(12, TCP));
    let mut keeper = keeper(&world, &NodeKey::from_seed(&[44; 32]));
    let shard = format!("owm/1/{}/shard/0/1", world.network);
    let record = kad::ProviderRecord::new(
        dht_key(&shard),
        bob.handle.peer(),
        vec![bob.address().await],
    );
    let store = keeper.behaviour_mut().dht.store_mut();
    store.add_provider(record).unwrap();
    let telling = run(keeper, alice.address().await);
    alice.connected(1).await;
    let bobs = bob.key.public();
    let met = |alice: &Peer| {
        let view = alice.handle.view().borrow().clone();
        view.peers.iter().any(|peer| peer.key == bobs)
    };
    assert!(walk(&clock, &alice, met).await);
    bob.connected(1).await;
    telling.abort();
    alice.stop().await;
    bob.stop().await;
}
