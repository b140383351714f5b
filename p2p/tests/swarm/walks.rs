//! What the DHT says: peers that it names are dialled within the same pauses as all others, providers are found
//! in it, and of the checkpoint's record only what is signed and newer counts. The other side is libp2p's own DHT,
//! with no rule of ours in it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};
use std::time::Duration;

use futures::StreamExt as _;
use libp2p::{
    Swarm, identify,
    kad::{self, store::RecordStore as _},
    request_response::{Event as Asked, Message},
    swarm::{NetworkBehaviour, SwarmEvent, behaviour::toggle::Toggle},
};
use owm_p2p::{Clock, Multiaddr, NewestCheckpoint, meet, peer};
use owm_proto::{NodeKey, Sha256, UnixMillis, gossip::Checkpoint, wire::gossip::MeetResponse};
use tokio::sync::watch;

use crate::{
    hostile::swarm_of,
    world::{PATIENCE, Peer, TCP, World},
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
    /// Of one that has manifests too.
    meet: Toggle<meet::Behaviour>,
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
            meet: None.into(),
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

/// Lets time pass until `seen`: two seconds after the start a peer provides, seeks and reads. On a busy machine what
/// follows takes longer than that: by then the clock stands still.
async fn walk(clock: &Stepped, alice: &Peer, seen: impl Fn(&Peer) -> bool) -> bool {
    /// In all, the clock has then moved by almost five seconds.
    const STEPS: u32 = 48;
    let mut steps = 0;
    let walk = async {
        while !seen(alice) {
            if steps < STEPS {
                clock.millis.fetch_add(100, Relaxed);
                steps += 1;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(PATIENCE, walk).await.is_ok()
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

/// Alice, who knows a checkpoint or none, reads the record of a keeper, who also answers if she asks for more. Runs
/// until `seen` says so of her and of what then lies there.
async fn reads(
    known: Option<u64>,
    kept: impl Fn(&World) -> NewestCheckpoint,
    seen: impl Fn(&Peer, Option<&[u8]>, &World) -> bool,
) {
    let (world, clock) = stepped("records");
    let alice = world.peer(11, TCP);
    if let Some(sequence) = known {
        let known = world.checkpoint(sequence);
        alice.handle.announce_checkpoint(known).await.unwrap();
    }
    let kept = kept(&world);
    let mut keeper = keeper(&world, &NodeKey::from_seed(&[44; 32]));
    keeper.behaviour_mut().meet = Some(meet::behaviour(&world.network)).into();
    let key = dht_key(&format!("owm/1/{}/checkpoint", world.network));
    let record = kad::Record::new(key.clone(), kept.envelope.to_stored());
    keeper.behaviour_mut().dht.store_mut().put(record).unwrap();
    let (stored, storing) = watch::channel(None);
    let to = alice.address().await;
    let telling = tokio::spawn(async move {
        while !matches!(keeper.next().await, Some(SwarmEvent::NewListenAddr { .. })) {}
        keeper.dial(to).unwrap();
        loop {
            let event = keeper.select_next_some().await;
            let Keeper { dht, meet, .. } = keeper.behaviour_mut();
            stored.send_replace(dht.store_mut().get(&key).map(|record| record.value.clone()));
            if let SwarmEvent::Behaviour(KeeperEvent::Meet(Asked::Message { message, .. })) = event
                && let Message::Request { channel, .. } = message
            {
                let answer = MeetResponse {
                    checkpoint: Some((&kept.envelope).into()),
                    manifest: Some((&kept.manifest_envelope).into()),
                    ..MeetResponse::default()
                };
                meet.as_mut()
                    .unwrap()
                    .send_response(channel, answer)
                    .unwrap();
            }
        }
    });
    alice.connected(1).await;
    let over = |alice: &Peer| seen(alice, storing.borrow().as_deref(), &world);
    let over = walk(&clock, &alice, over).await;
    let counts = alice.handle.counts();
    assert!(
        over,
        "{counts:?}, {:?}",
        alice.handle.view().borrow().checkpoint
    );
    telling.abort();
    alice.stop().await;
}

/// The sequence that a peer knows of.
fn knows(peer: &Peer) -> Option<u64> {
    let view = peer.handle.view().borrow().clone();
    view.checkpoint.as_ref().map(|newest| newest.sequence)
}

/// The sequence of a record that our release key has signed.
fn sequence(world: &World, stored: Option<&[u8]>) -> Option<u64> {
    let stored = owm_proto::Envelope::from_stored(stored?).ok()?;
    let said: Checkpoint = serde_json::from_slice(stored.unverified_payload()).ok()?;
    (stored.claimed_signer() == world.release.public()).then_some(said.sequence)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_record_is_refused_and_the_known_checkpoint_put_in_its_place() {
    let thief = NodeKey::from_seed(&[66; 32]);
    let forged = |world: &World| world.checkpoint_by(&thief, 9);
    reads(Some(5), forged, |alice, stored, world| {
        assert_eq!(knows(alice), Some(5));
        alice.handle.counts().records_refused > 0 && sequence(world, stored) == Some(5)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_record_changes_nothing_and_is_replaced() {
    let older = |world: &World| world.checkpoint(3);
    reads(Some(5), older, |alice, stored, world| {
        assert_eq!(knows(alice), Some(5));
        sequence(world, stored) == Some(5)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_record_is_followed_to_its_manifest() {
    for known in [None, Some(5)] {
        let newer = |world: &World| world.checkpoint(9);
        reads(known, newer, |alice, stored, world| {
            assert_eq!(sequence(world, stored), Some(9), "never a lower one");
            knows(alice) == Some(9)
        })
        .await;
    }
}
