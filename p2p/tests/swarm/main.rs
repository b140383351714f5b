//! Real peers in one process, over TCP and QUIC on loopback. Waits for conditions; nothing sleeps.
#![expect(clippy::unwrap_used, reason = "tests")]

mod answers;
mod bounded;
mod crowd;
mod documents;
mod gossip;
mod hostile;
mod joining;
mod lacking;
mod onion;
mod outside;
mod trouble;
mod walks;
mod ways;
mod world;
