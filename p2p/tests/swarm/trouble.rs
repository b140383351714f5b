//! Trouble of this machine's own: no memory left, a clock that jumps while the swarm runs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use owm_p2p::{Clock, SwarmConfig};
use owm_proto::UnixMillis;

use crate::world::{TCP, World, heartbeat_of};

#[tokio::test]
async fn with_no_memory_left_nobody_new_is_let_in_and_the_swarm_goes_on() {
    let world = World::new("full");
    let config = SwarmConfig {
        // Every process has more.
        memory_max_permille: 0,
        ..World::config(TCP)
    };
    let alice = world.start(11, config, true, None).unwrap();
    let bob = world.peer(12, TCP);
    bob.join(&alice).await;
    alice
        .counted("bob is turned away", |counts| counts.inbound_refused > 0)
        .await;
    assert!(alice.handle.view().borrow().peers.is_empty());
    bob.stop().await;
    alice.stop().await;
}

/// A wall clock that can be set wrong.
#[derive(Debug)]
struct Wrong {
    right: Arc<dyn Clock>,
    ahead_ms: AtomicU64,
}

impl Clock for Wrong {
    fn wall(&self) -> UnixMillis {
        let ahead = Duration::from_millis(self.ahead_ms.load(Relaxed));
        self.right.wall().after(ahead)
    }

    fn monotonic(&self) -> Duration {
        self.right.monotonic()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_and_is_set_right_costs_neither_peers_nor_hearing() {
    let world = World::new("jump");
    let clock = Arc::new(Wrong {
        right: Arc::clone(&world.clock),
        ahead_ms: AtomicU64::new(0),
    });
    let mut elsewhen = World::new("jump");
    elsewhen.network = world.network;
    elsewhen.documents = world.documents.clone();
    elsewhen.clock = Arc::clone(&clock) as Arc<dyn Clock>;
    let mut alice = elsewhen.peer(11, TCP);
    let bob = world.peer(12, TCP);
    bob.join(&alice).await;
    let bobs = bob.key.public();
    let beat = |n| bob.handle.announce(world.heartbeat(&bob.key, n));
    beat(1).await.unwrap();
    let first = alice.news("bob", heartbeat_of(bobs)).await;
    // A day ahead, from one moment to the next: what bob says is long over by this clock.
    clock.ahead_ms.store(24 * 3_600 * 1_000, Relaxed);
    beat(2).await.unwrap();
    alice
        .counted("it is ignored", |counts| {
            counts.ignored.values().sum::<u64>() > 0
        })
        .await;
    clock.ahead_ms.store(0, Relaxed);
    beat(3).await.unwrap();
    let last = alice.news("bob again", heartbeat_of(bobs)).await;
    assert!(last > first, "{first} {last}");
    let counts = alice.handle.counts();
    assert_eq!(
        (counts.cut_off, counts.rejected.len()),
        (0, 0),
        "{counts:?}"
    );
    assert_eq!(alice.handle.view().borrow().peers.len(), 1);
    bob.stop().await;
    alice.stop().await;
}
