//! Peers that hold streams and take nothing: a newcomer is served all the same, and what they do not take is not
//! counted.

use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::Stream;
use owm_p2p::exchange::{
    behaviour::protocol,
    serve::{STREAMS_MAX, STREAMS_PER_PEER, ServedCounts},
    wire::{Ask, RANGE_BYTES_MAX, Request},
};
use owm_proto::Sha256;

use crate::world::{Dials, Over, PATIENCE, Peer, file, network, seen, swarm};

const SIZE: usize = 8 << 20;

/// What one stream may take without being read: a first window, and what is just being put together.
const UNREAD_MAX: u64 = (256 + 64) << 10;

/// A peer that opens streams and does nothing else by itself.
struct Knocker {
    control: libp2p_stream::Control,
    _dials: Dials,
}

impl Knocker {
    async fn start(n: u8, source: &Peer) -> Self {
        let behaviour = libp2p_stream::Behaviour::new();
        let control = behaviour.new_control();
        let (_, _, dials) = swarm(n, Over::Tcp, behaviour).await;
        let (connected, told) = tokio::sync::oneshot::channel();
        let dial = (source.id, source.address.clone(), connected);
        dials.send(dial).await.unwrap();
        tokio::time::timeout(PATIENCE, told).await.unwrap().unwrap();
        Self {
            control,
            _dials: dials,
        }
    }

    /// A stream with a question on it, or none.
    async fn knock(&mut self, source: &Peer, question: Option<Request>) -> Stream {
        let opened = self.control.open_stream(source.id, protocol(&network()));
        let mut stream = tokio::time::timeout(PATIENCE, opened)
            .await
            .unwrap()
            .unwrap();
        if let Some(question) = question {
            stream.write_all(&question.to_bytes()).await.unwrap();
        }
        stream.flush().await.unwrap();
        stream
    }
}

fn all_of(file: Sha256, offset: u64) -> Request {
    let length = RANGE_BYTES_MAX;
    let ask = Ask::Range { offset, length };
    Request { id: 0, file, ask }
}

/// Every place is taken by somebody who asks this and reads nothing; then an honest peer comes.
async fn crowded(question: impl Fn(Sha256) -> Option<Request>) -> ServedCounts {
    let (ladder, bytes) = file(SIZE, 11);
    let source = Peer::start(1, Over::Tcp).await;
    source.seeds(&ladder, &bytes);
    let mut knockers = Vec::new();
    for n in 0..STREAMS_MAX / STREAMS_PER_PEER {
        knockers.push(Knocker::start(10 + n as u8, &source).await);
    }
    // One after the other: of a burst libp2p's stream behaviour drops what is not taken at once.
    let mut held = Vec::new();
    for knocker in &mut knockers {
        for _ in 0..STREAMS_PER_PEER {
            let question = question(ladder.spec().sha256());
            held.push(knocker.knock(&source, question).await);
            let so_far = held.len();
            seen(&source, "it is let in", |now| now.streams == so_far).await;
        }
    }
    assert_eq!(held.len(), STREAMS_MAX);
    let fetcher = Peer::start(100, Over::Tcp).await;
    let peers = vec![fetcher.knows(source.id, &source.address).await];
    fetcher.fetch(ladder.spec(), peers).await.unwrap();
    assert!(fetcher.has(ladder.spec()) == Some(bytes));
    let counts = source.exchange.served();
    assert!(counts.streams <= STREAMS_MAX, "{counts:?}");
    drop((held, knockers));
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_streams_give_way_to_a_newcomer() {
    let counts = crowded(|_| None).await;
    assert!(counts.displaced > 0, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_nothing_on_many_streams_gives_way_to_a_newcomer() {
    let counts = crowded(|file| Some(all_of(file, 0))).await;
    assert!(counts.displaced > 0, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_peer_does_not_take_is_not_counted() {
    let (ladder, bytes) = file(SIZE, 12);
    let source = Peer::start(1, Over::Tcp).await;
    source.seeds(&ladder, &bytes);
    let mut knocker = Knocker::start(2, &source).await;
    let rounds: u64 = 16;
    for _ in 0..rounds {
        let question = all_of(ladder.spec().sha256(), 0);
        let mut stream = knocker.knock(&source, Some(question)).await;
        // The answer has begun: then the connection breaks.
        let mut first = [0];
        let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut first));
        read.await.unwrap().unwrap();
        drop(stream);
        seen(&source, "it has noticed", |now| now.streams == 0).await;
    }
    let counts = source.exchange.served();
    assert!(counts.bytes > 0, "{counts:?}");
    assert!(counts.bytes <= rounds * UNREAD_MAX, "{counts:?}");
}
