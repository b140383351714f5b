//! What one peer says, the others hear.

use std::sync::Arc;

use owm_p2p::News;

use crate::world::{QUIC, Still, TCP, World, heartbeat_of};

async fn two_peers_meet_and_gossip(listen: &str) {
    let world = World::new("two");
    let (mut alice, bob) = (world.peer(11, listen), world.peer(12, listen));
    bob.join(&alice).await;
    alice.connected(1).await;
    bob.connected(1).await;
    bob.handle
        .announce(world.heartbeat(&bob.key, 1))
        .await
        .unwrap();
    alice
        .news("bob's heartbeat", heartbeat_of(bob.key.public()))
        .await;
    let tasks = |view: &std::sync::Arc<owm_p2p::SwarmView>| {
        view.nodes.iter().any(|node| node.running_tasks == 3)
    };
    alice.until("bob's tasks", tasks).await;
    bob.stop().await;
    alice.stop().await;
}

#[tokio::test]
async fn two_peers_meet_and_gossip_over_tcp() {
    two_peers_meet_and_gossip(TCP).await;
}

#[tokio::test]
async fn two_peers_meet_and_gossip_over_quic() {
    two_peers_meet_and_gossip(QUIC).await;
}

#[tokio::test]
async fn a_newcomer_with_only_the_network_id_learns_documents_checkpoint_and_nodes_in_one_meet() {
    let mut world = World::new("newcomer");
    // Nobody is asked again because time has passed.
    world.clock = Arc::new(Still(world.clock.clone()));
    let alice = world.peer(11, TCP);
    let capability = world.capability(&alice.key, 1);
    alice.handle.announce(capability).await.unwrap();
    let newest = world.checkpoint(7);
    alice
        .handle
        .announce_checkpoint(newest.clone())
        .await
        .unwrap();
    let config = World::config(TCP);
    let mut newcomer = world.start(12, config, false, None).unwrap();
    newcomer.join(&alice).await;
    let documents = newcomer
        .news("documents", |news| match news {
            News::Documents(documents) => Some(documents.clone()),
            _ => None,
        })
        .await;
    assert_eq!(documents.genesis, world.documents.genesis);
    let learnt = newcomer
        .news("checkpoint", |news| match news {
            News::Checkpoint(newest) => Some(newest.clone()),
            _ => None,
        })
        .await;
    assert_eq!(*learnt, newest);
    let view = newcomer.until("alice", |view| !view.nodes.is_empty()).await;
    assert_eq!(view.nodes[0].key, alice.key.public());
    assert_eq!(newcomer.handle.counts().meets_asked, 1, "one round trip");
    newcomer.stop().await;
    alice.stop().await;
}
