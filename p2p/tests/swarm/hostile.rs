//! Peers that lie, flood and forge, made of libp2p's own parts with no rule of ours in them.

use futures::StreamExt as _;
use libp2p::{
    Swarm, SwarmBuilder,
    gossipsub::{self, IdentTopic, MessageAuthenticity, ValidationMode},
    identity::Keypair,
    kad, noise,
    swarm::{ConnectionHandler, NetworkBehaviour, SwarmEvent, dial_opts::DialOpts, dummy},
    tcp, yamux,
};
use owm_p2p::{Multiaddr, News, gossip::Topics, peer};
use owm_proto::{Envelope, NodeKey, Purpose, Sha256, gossip::shard_of};
use tokio::task::{JoinHandle, JoinSet};

use crate::world::{PATIENCE, Peer, TCP, World, heartbeat_of};

pub(crate) fn swarm_of<B: NetworkBehaviour + Send>(key: &NodeKey, behaviour: B) -> Swarm<B>
where
    B::ToSwarm: std::fmt::Debug,
    <B::ConnectionHandler as ConnectionHandler>::FromBehaviour: Send,
{
    SwarmBuilder::with_existing_identity(peer::keypair(key))
        .with_tokio()
        .with_tcp(
            tcp::Config::default().nodelay(true),
            noise::Config::new,
            yamux::Config::default,
        )
        .unwrap()
        .with_behaviour(|_: &Keypair| behaviour)
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
        .build()
}

fn loudmouth() -> gossipsub::Behaviour {
    let config = gossipsub::ConfigBuilder::default()
        .validation_mode(ValidationMode::Anonymous)
        .message_id_fn(|message| gossipsub::MessageId::new(Sha256::of(&message.data).as_bytes()))
        .max_transmit_size(1 << 20)
        .flood_publish(true)
        .build()
        .unwrap();
    gossipsub::Behaviour::new(MessageAuthenticity::Anonymous, config).unwrap()
}

/// Connects a hostile peer to `target` and lets it publish each of `messages` on `topic`; ends when it is cut
/// off, or has said everything.
fn shout(
    key: NodeKey,
    target: Multiaddr,
    topic: IdentTopic,
    messages: impl Iterator<Item = Vec<u8>> + Send + 'static,
) -> JoinHandle<bool> {
    tokio::spawn(async move {
        let mut swarm = swarm_of(&key, loudmouth());
        swarm.behaviour_mut().subscribe(&topic).unwrap();
        swarm.dial(target).unwrap();
        let mut messages = messages.peekable();
        let mut listens = false;
        loop {
            while listens && messages.peek().is_some() {
                let message = messages.peek().unwrap().clone();
                match swarm.behaviour_mut().publish(topic.clone(), message) {
                    Err(gossipsub::PublishError::AllQueuesFull(_)) => break,
                    _ => messages.next(),
                };
                if messages.peek().is_none() {
                    break;
                }
            }
            let event = tokio::time::timeout(PATIENCE, swarm.next()).await;
            match event {
                Ok(Some(SwarmEvent::Behaviour(gossipsub::Event::Subscribed { .. }))) => {
                    listens = true;
                }
                Ok(Some(SwarmEvent::ConnectionClosed { .. })) => return true,
                // Not let in, or nothing happens any more, though all was sent and is bad: nobody reads.
                Ok(Some(SwarmEvent::OutgoingConnectionError { .. }) | None) | Err(_) => {
                    return false;
                }
                Ok(Some(_)) => {}
            }
        }
    })
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

async fn pair(world: &World) -> (Peer, Peer, Multiaddr) {
    let (alice, bob) = (world.peer(11, TCP), world.peer(12, TCP));
    bob.join(&alice).await;
    alice.connected(1).await;
    let address = alice.address().await;
    (alice, bob, address)
}

fn heartbeats(world: &World, of: &NodeKey) -> IdentTopic {
    let topics = Topics {
        network: world.network,
        shards: 1,
    };
    let shard = shard_of(&of.public(), 1);
    let topic = topics.name(owm_p2p::gossip::Topic::Heartbeat(shard));
    IdentTopic::new(topic.to_string())
}

/// Bob must not hear any of `messages` from a liar beside alice, alice must blame the liar for `reason`.
async fn check(reason: &'static str, messages: impl Fn(&World, &NodeKey) -> Vec<Vec<u8>>) {
    let world = World::new("forged");
    let (alice, mut bob, address) = pair(&world).await;
    let liar = NodeKey::from_seed(&[66; 32]);
    let said = messages(&world, &liar);
    let topic = heartbeats(&world, &liar);
    let cut_off = shout(liar, address, topic, said.into_iter());
    assert!(cut_off.await.unwrap(), "the liar is cut off for {reason}");
    let counts = |view: &std::sync::Arc<owm_p2p::SwarmView>| view.peers.len() == 1;
    alice.until("only bob is left", counts).await;
    let counts = alice.handle.counts();
    assert!(counts.rejected.contains_key(reason), "{reason}: {counts:?}");
    assert!(counts.cut_off >= 1, "{counts:?}");
    // Honest traffic flows on, and it is the first that bob hears.
    let heartbeat = world.heartbeat(&alice.key, 1);
    alice.handle.announce(heartbeat).await.unwrap();
    bob.news("alice's heartbeat", |news| match news {
        News::Heartbeat { node, .. } if *node != alice.key.public() => {
            panic!("{reason}: a message was forwarded: {news:?}")
        }
        other => heartbeat_of(alice.key.public())(other),
    })
    .await;
    bob.stop().await;
    alice.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_messages_are_not_forwarded_and_their_sender_is_cut_off() {
    check("bad_signature", |world, liar| {
        let forged = |n: u64| {
            let honest = world.heartbeat(liar, n);
            let payload = honest.unverified_payload().to_vec();
            let wrong = [n as u8; 64];
            Envelope::from_parts(Purpose::Heartbeat, liar.public(), wrong, payload).to_stored()
        };
        (0..64).map(forged).collect()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_another_network_are_not_forwarded_and_their_sender_is_cut_off() {
    let other = World::new("another");
    check("bad_signature", |_, liar| {
        (0..64)
            .map(|n| other.heartbeat(liar, n).to_stored())
            .collect()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversize_messages_are_not_forwarded_and_their_sender_is_cut_off() {
    check("oversize", |_, _| {
        let large = |n: u8| vec![n; owm_proto::limits::GOSSIP_MESSAGE_BYTES_MAX + 1];
        (0..64).map(large).collect()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_hostile_messages_neither_fill_memory_nor_stop_honest_traffic() {
    let world = World::new("flood");
    let (alice, mut bob, address) = pair(&world).await;
    let before = resident_kib();
    let mut liars = JoinSet::new();
    // Four liars say the same 25,000 messages: 10^5 in all, each of them four times.
    for n in 0..4u8 {
        let liar = NodeKey::from_seed(&[70 + n; 32]);
        let topic = heartbeats(&world, &liar);
        let messages = (0..25_000u32).map(|n| [b"nonsense".as_slice(), &n.to_le_bytes()].concat());
        liars.spawn(shout(liar, address.clone(), topic, messages));
    }
    while let Some(ended) = liars.join_next().await {
        ended.unwrap().unwrap();
    }
    let beat = world.heartbeat(&alice.key, 1);
    alice.handle.announce(beat).await.unwrap();
    bob.news("alice's heartbeat", heartbeat_of(alice.key.public()))
        .await;
    alice
        .counted("all four are cut off", |counts| counts.cut_off >= 4)
        .await;
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB more than before");
    bob.stop().await;
    alice.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sybil_flood_of_connections_meets_limits_and_honest_peers_stay() {
    let world = World::new("sybil");
    let config = owm_p2p::SwarmConfig {
        connections_max: 16,
        ..World::config(TCP)
    };
    let alice = world.start(11, config, true, None).unwrap();
    let mut bob = world.peer(12, TCP);
    bob.join(&alice).await;
    alice.connected(1).await;
    let address = alice.address().await;
    let mut sybils = JoinSet::new();
    for n in 0..200u32 {
        let address = address.clone();
        sybils.spawn(async move {
            let mut seed = [99; 32];
            seed[..4].copy_from_slice(&n.to_le_bytes());
            let mut swarm = swarm_of(&NodeKey::from_seed(&seed), dummy::Behaviour);
            swarm.dial(address).unwrap();
            loop {
                match swarm.next().await {
                    Some(SwarmEvent::ConnectionClosed { .. }) => return true,
                    Some(SwarmEvent::OutgoingConnectionError { .. }) | None => return false,
                    Some(_) => {}
                }
            }
        });
    }
    // All but those that fill the limit are turned away.
    for _ in 0..180 {
        let turned_away = tokio::time::timeout(PATIENCE, sybils.join_next()).await;
        turned_away.expect("turned away").unwrap().unwrap();
    }
    let view = alice.connected(1).await;
    assert!(view.peers.len() <= 16, "{}", view.peers.len());
    let bobs = |view: &std::sync::Arc<owm_p2p::SwarmView>| {
        view.peers.iter().any(|peer| peer.key == bob.key.public())
    };
    alice.until("bob is still there", bobs).await;
    let beat = world.heartbeat(&alice.key, 1);
    alice.handle.announce(beat).await.unwrap();
    bob.news("alice's heartbeat", heartbeat_of(alice.key.public()))
        .await;
    sybils.shutdown().await;
    bob.stop().await;
    alice.stop().await;
}

/// Puts a checkpoint's record at `target`.
async fn put_record(world: &World, key: &NodeKey, target: Multiaddr, value: Vec<u8>) {
    let name = format!("owm/1/{}/checkpoint", world.network);
    let record = kad::Record::new(Sha256::of(name.as_bytes()).as_bytes().to_vec(), value);
    let protocol = format!("/owm/{}/kad/1", world.network);
    let protocol = libp2p::StreamProtocol::try_from_owned(protocol).unwrap();
    let me = peer::keypair(key).public().to_peer_id();
    let store = kad::store::MemoryStore::new(me);
    let behaviour = kad::Behaviour::with_config(me, store, kad::Config::new(protocol));
    let mut swarm = swarm_of(key, behaviour);
    let Some(libp2p::multiaddr::Protocol::P2p(peer)) = target.iter().last() else {
        panic!("{target} names no peer")
    };
    swarm.behaviour_mut().add_address(&peer, target.clone());
    swarm
        .dial(DialOpts::peer_id(peer).addresses(vec![target]).build())
        .unwrap();
    let dht = swarm.behaviour_mut();
    dht.put_record_to(record, [peer].into_iter(), kad::Quorum::One);
    let put = async {
        loop {
            if let Some(SwarmEvent::Behaviour(kad::Event::OutboundQueryProgressed {
                result: kad::QueryResult::PutRecord(result),
                ..
            })) = swarm.next().await
            {
                return result;
            }
        }
    };
    let put = tokio::time::timeout(PATIENCE, put).await;
    put.expect("an answer")
        .expect("it is told to have been put");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_in_the_dht_is_only_ever_replaced_by_a_higher_valid_sequence() {
    let world = World::new("downgrade");
    let (alice, bob, address) = pair(&world).await;
    let newest = world.checkpoint(5);
    alice.handle.announce_checkpoint(newest).await.unwrap();
    let knows = |sequence| {
        move |view: &std::sync::Arc<owm_p2p::SwarmView>| {
            view.checkpoint.as_ref().map(|c| c.sequence) == Some(sequence)
        }
    };
    bob.until("the checkpoint", knows(5)).await;
    let thief = NodeKey::from_seed(&[66; 32]);
    for bad in [
        world.checkpoint(4).envelope,
        world.checkpoint_by(&thief, 9).envelope,
    ] {
        put_record(&world, &thief, address.clone(), bad.to_stored()).await;
    }
    put_record(&world, &thief, address, b"nonsense".to_vec()).await;
    alice
        .counted("three refused records", |counts| {
            counts.records_refused >= 3
        })
        .await;
    assert!(knows(5)(&alice.handle.view().borrow()));
    bob.stop().await;
    alice.stop().await;
}
