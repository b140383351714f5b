//! What both variants have in common: the orders a peer takes, what it reports, and the message they
//! carry.

use std::time::Instant;

use anyhow::Result;
use libp2p::Multiaddr;
use owm_proto::{UnixMillis, wire::coordinator::HeartbeatBody};
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};

/// Orders that wait for a peer.
pub(crate) const ORDERS: usize = 64;

/// Issue times are rounded down to this (spec §5), in milliseconds, so that the rest of a sequence number
/// by it is the message's number.
const MINUTE_MS: u64 = 60_000;

/// How long a heartbeat holds.
const LIFETIME_MS: u64 = 3 * MINUTE_MS;

/// Files that a node says it has loaded: with four of them the body has about 300 bytes.
const FILES_LOADED: u8 = 4;

/// What a peer is told.
#[derive(Debug)]
pub(crate) enum Order {
    /// Connect with these.
    Dial(Vec<Multiaddr>),
    /// Sign this body and publish it.
    Publish(HeartbeatBody),
    /// How many peers are connected?
    Connections(oneshot::Sender<Links>),
}

/// A peer's connections.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Links {
    /// Peers that it is connected with.
    pub(crate) connections: usize,
    /// Of these, how many its scoring keeps out of the mesh; among honest peers there should be none.
    pub(crate) shunned: usize,
}

/// A message has reached a peer's application.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    /// Number of the message.
    pub(crate) message: u64,
    /// When.
    pub(crate) at: Instant,
}

/// A running peer; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Where it listens, with `/p2p`.
    pub(crate) address: Multiaddr,
    pub(crate) orders: mpsc::Sender<Order>,
}

impl Peer {
    pub(crate) async fn tell(&self, order: Order) -> Result<()> {
        Ok(self.orders.send(order).await?)
    }

    pub(crate) async fn links(&self) -> Result<Links> {
        let (answer, answered) = oneshot::channel();
        self.tell(Order::Connections(answer)).await?;
        Ok(answered.await?)
    }
}

/// The body of message `number`, a real heartbeat of `peer`.
pub(crate) fn body(peer: usize, number: u64, now: UnixMillis) -> HeartbeatBody {
    let issued_at_ms = now.0 - now.0 % MINUTE_MS;
    let file = |n: u8| owm_proto::Sha256::of(&[n]).to_string();
    HeartbeatBody {
        issued_at_ms,
        expires_at_ms: issued_at_ms + LIFETIME_MS,
        sequence: issued_at_ms + number,
        session_id: owm_proto::Sha256::of(&peer.to_be_bytes()).as_bytes()[..16].to_vec(),
        running_tasks: 1,
        loaded_sha256: (0..FILES_LOADED).map(file).collect(),
    }
}

/// The number of a message.
pub(crate) fn number(body: &HeartbeatBody) -> u64 {
    body.sequence % MINUTE_MS
}

/// Bytes of a body.
pub(crate) fn body_bytes(now: UnixMillis) -> usize {
    body(0, 1, now).encoded_len()
}
