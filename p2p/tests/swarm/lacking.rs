//! Nodes that are known by their heartbeats only.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use owm_p2p::{Clock, SwarmView};
use owm_proto::UnixMillis;

use crate::world::{TCP, World};

/// A clock that is set and moved by hand: its wall is behind by so much, and its monotonic side goes when it is
/// told to.
#[derive(Debug)]
struct ByHand {
    clock: Arc<dyn Clock>,
    behind_ms: AtomicU64,
    monotonic_secs: AtomicU64,
}

impl Clock for ByHand {
    fn wall(&self) -> UnixMillis {
        let behind = Duration::from_millis(self.behind_ms.load(Ordering::SeqCst));
        self.clock.wall().before(behind)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.monotonic_secs.load(Ordering::SeqCst))
    }
}

impl ByHand {
    fn forward(&self, secs: u64) {
        self.monotonic_secs.fetch_add(secs, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_node_whose_announcement_was_lost_is_asked_for_it_and_introduced_to_newcomers() {
    let mut world = World::new("lacking");
    let usual = world.clock.clone();
    let clock = Arc::new(ByHand {
        clock: usual.clone(),
        behind_ms: AtomicU64::new(0),
        monotonic_secs: AtomicU64::new(1_000),
    });
    world.clock = clock.clone();
    let alice = world.peer(11, TCP);
    world.clock = usual;
    let bob = world.peer(12, TCP);
    alice.join(&bob).await;
    alice.connected(1).await;
    // The rounds of the first minute, which would ask for all nodes.
    let asked = |n| move |counts: &owm_p2p::Counts| counts.meets_asked >= n;
    for (n, secs) in [6, 11, 21, 41].into_iter().enumerate() {
        alice.counted("rounds", asked(n as u64 + 1)).await;
        clock.forward(secs);
    }
    alice.counted("rounds", asked(5)).await;
    // What bob announces is from the future for alice, and he does not say it again.
    clock.behind_ms.store(600_000, Ordering::SeqCst);
    let capability = world.capability(&bob.key, 1);
    bob.handle.announce(capability).await.unwrap();
    let lost = |counts: &owm_p2p::Counts| counts.ignored.get("future") == Some(&1);
    alice.counted("the lost announcement", lost).await;
    clock.behind_ms.store(0, Ordering::SeqCst);
    let heartbeat = world.heartbeat(&bob.key, 1);
    bob.handle.announce(heartbeat).await.unwrap();
    let version = |view: &Arc<SwarmView>| {
        let nodes = view.nodes.iter();
        let mut bobs = nodes.filter(|node| node.key == bob.key.public());
        bobs.next().map(|node| node.software_version.clone())
    };
    let view = alice
        .until("bob's heartbeat", |view| version(view).is_some())
        .await;
    assert_eq!(version(&view).as_deref(), Some(""), "nothing but that");
    clock.forward(6);
    let whole = |view: &Arc<SwarmView>| version(view).is_some_and(|v| !v.is_empty());
    alice.until("bob's announcement", whole).await;
    // Who knows alice only is told of bob by her.
    let carol = world.peer(13, TCP);
    carol.join(&alice).await;
    carol.until("bob's announcement", whole).await;
    for peer in [alice, bob, carol] {
        peer.stop().await;
    }
}
