//! That the parts run: two peers, a few messages. No times are asserted.

use std::time::Duration;

use super::*;
use crate::gossip::run::Turn;

fn small(variant: Variant) -> Setup {
    Setup {
        messages: 6,
        messages_per_second: 50,
        warm_up: Duration::from_secs(1),
        idle: Duration::from_millis(200),
        ..Setup::new(variant, 2, 1, 1)
    }
}

struct AtOnce;

impl Turn for AtOnce {
    async fn come(self) -> Result<()> {
        Ok(())
    }
}

async fn both_hear_all_and_the_bytes_are_counted(variant: Variant) {
    let outcome = run::measure(small(variant), AtOnce).await.unwrap();
    assert_eq!((outcome.delivered, outcome.due), (6, 6));
    // Each message crosses the one connection once at least: half of its bytes are either peer's.
    let least = peer::body_bytes(UnixMillis(1_800_000_000_000)) as f64 / 2.0;
    let bytes = outcome.bytes_per_message_and_peer;
    assert!(bytes > least && bytes < 100.0 * least, "{bytes}");
}

#[tokio::test]
async fn two_vanilla_peers_hear_each_other() {
    both_hear_all_and_the_bytes_are_counted(Variant::Vanilla).await;
}

#[tokio::test]
async fn two_of_our_peers_hear_each_other() {
    both_hear_all_and_the_bytes_are_counted(Variant::Ours).await;
}
