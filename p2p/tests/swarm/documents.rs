//! Documents that change while the swarm runs.

use std::{sync::Arc, time::Duration};

use owm_p2p::{Documents, News, SwarmView};
use owm_proto::{
    NodeKey,
    genesis::Revocation,
    gossip::{Bootstrap, shard_of},
    statement::Statement as _,
};

use crate::world::{Still, TCP, World, heartbeat_of};

fn revised(world: &World, revoked: Option<&NodeKey>, shards: u32) -> Documents {
    let now = world.clock.wall();
    let bootstrap = Bootstrap {
        issued_at_ms: now.after(Duration::from_secs(1)),
        shards,
        heartbeat_secs: 5,
        capability_secs: 60,
    };
    let revocations = revoked.map(|key| {
        let revocation = Revocation {
            key: key.public(),
            revoked_at_ms: now,
        };
        revocation.sign(&world.root, &world.network)
    });
    Documents::verify(
        Some(world.network),
        world.documents.genesis.clone(),
        world.documents.delegations.clone(),
        revocations.into_iter().collect(),
        Some(bootstrap.sign(&world.instance, &world.network)),
        String::new(),
        now,
    )
    .unwrap()
}

fn newer(news: &News) -> Option<Box<Documents>> {
    match news {
        News::Documents(documents) => Some(documents.clone()),
        _ => None,
    }
}

#[tokio::test]
async fn a_revocation_reaches_connected_peers_and_takes_back_what_the_key_said() {
    let world = World::new("revoked");
    let (alice, mut bob) = (world.peer(11, TCP), world.peer(12, TCP));
    bob.join(&alice).await;
    alice.connected(1).await;
    alice
        .handle
        .announce_checkpoint(world.checkpoint(8))
        .await
        .unwrap();
    let knows = |view: &Arc<SwarmView>| view.checkpoint.is_some();
    bob.until("the checkpoint", knows).await;
    let documents = revised(&world, Some(&world.release), 1);
    alice.handle.set_documents(documents).await.unwrap();
    let learnt = bob.news("the revocation", newer).await;
    assert_eq!(learnt.revocations.len(), 1);
    bob.until("that it is taken back", |view| view.checkpoint.is_none())
        .await;
    bob.stop().await;
    alice.stop().await;
}

#[tokio::test]
async fn other_shards_are_subscribed_to_and_messages_go_on() {
    let world = World::new("shards");
    // Two keys of one shard also when there are two.
    let shard = |n: u8| shard_of(&NodeKey::from_seed(&[n; 32]).public(), 2);
    let (one, two) = (40, (41..=255).find(|n| shard(*n) == shard(40)).unwrap());
    let (alice, mut bob) = (world.peer(one, TCP), world.peer(two, TCP));
    bob.join(&alice).await;
    alice.connected(1).await;
    let documents = revised(&world, None, 2);
    alice.handle.set_documents(documents).await.unwrap();
    let learnt = bob.news("the other shards", newer).await;
    assert_eq!(learnt.parameters(world.clock.wall()).shards, 2);
    let beat = world.beat(NodeKey::from_seed(&[one; 32]), alice.handle.clone(), 1);
    let beat = tokio::spawn(beat);
    bob.news("alice's heartbeat", heartbeat_of(alice.key.public()))
        .await;
    beat.abort();
    bob.stop().await;
    alice.stop().await;
}

#[tokio::test]
async fn a_revocation_goes_from_peer_to_peer_without_waiting_for_the_next_round_of_questions() {
    let mut world = World::new("pushed");
    world.clock = Arc::new(Still(world.clock.clone()));
    let (alice, mut bob, mut carol) = (
        world.peer(11, TCP),
        world.peer(12, TCP),
        world.peer(13, TCP),
    );
    bob.join(&alice).await;
    alice.connected(1).await;
    carol.join(&bob).await;
    bob.connected(2).await;
    carol
        .counted("carol has met bob", |counts| counts.meets_asked == 1)
        .await;
    bob.counted("bob has met alice", |counts| counts.meets_asked == 1)
        .await;
    let documents = revised(&world, Some(&world.release), 1);
    alice.handle.set_documents(documents).await.unwrap();
    let learnt = bob.news("the revocation, at bob's", newer).await;
    assert_eq!(learnt.revocations.len(), 1);
    let learnt = carol.news("the revocation, at carol's", newer).await;
    assert_eq!(learnt.revocations.len(), 1);
    for peer in [carol, bob, alice] {
        peer.stop().await;
    }
}

#[tokio::test]
async fn who_hears_of_a_newer_checkpoint_in_a_capability_asks_for_it() {
    let mut world = World::new("lost");
    world.clock = Arc::new(Still(world.clock.clone()));
    let (alice, bob) = (world.peer(11, TCP), world.peer(12, TCP));
    bob.join(&alice).await;
    alice
        .counted("bob's first question", |counts| counts.meets_answered == 1)
        .await;
    let capability = world.capability_naming(&alice.key, 1, 8);
    alice.handle.announce(capability).await.unwrap();
    alice
        .counted("bob's second question", |counts| counts.meets_answered == 2)
        .await;
    bob.stop().await;
    alice.stop().await;
}
