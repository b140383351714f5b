//! Ten thousand open requests: they wait at who asks, and an honest peer is served meanwhile.

use futures::AsyncWriteExt as _;
use owm_p2p::exchange::{
    behaviour::protocol,
    serve::STREAMS_PER_PEER,
    wire::{Ask, RANGE_BYTES_MAX, Request},
};

use crate::world::{Over, Peer, file, network, swarm};

/// Resident memory in bytes.
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_open_requests_hold_little_memory_and_nobody_up() {
    let (ladder, bytes) = file(8 << 20, 8);
    let source = Peer::start(1, Over::Tcp).await;
    source.seeds(&ladder, &bytes);
    let before = memory();
    let behaviour = libp2p_stream::Behaviour::new();
    let control = behaviour.new_control();
    let (_, _, dials) = swarm(2, Over::Tcp, behaviour).await;
    let (connected, told) = tokio::sync::oneshot::channel();
    let dial = (source.id, source.address.clone(), connected);
    dials.send(dial).await.unwrap();
    told.await.unwrap();
    let ask = Ask::Range {
        offset: 0,
        length: RANGE_BYTES_MAX,
    };
    let file = ladder.spec().sha256();
    let requests: Vec<u8> = (0..100)
        .flat_map(|id| Request { id, file, ask }.to_bytes())
        .collect();
    // A hundred streams with a hundred requests each, none of whose answers is read.
    let mut open = Vec::new();
    for _ in 0..100 {
        let mut control = control.clone();
        let mut stream = control
            .open_stream(source.id, protocol(&network()))
            .await
            .unwrap();
        // Streams that are turned away may be closed already.
        let _ = stream.write_all(&requests).await;
        let _ = stream.flush().await;
        open.push(stream);
    }
    let fetcher = Peer::start(100, Over::Tcp).await;
    let peers = vec![fetcher.knows(source.id, &source.address).await];
    fetcher.fetch(ladder.spec(), peers).await.unwrap();
    assert!(fetcher.has(ladder.spec()) == Some(bytes.clone()));
    let counts = source.exchange.served();
    assert!(counts.turned_away > 0, "{counts:?}");
    assert!(counts.streams <= STREAMS_PER_PEER + 1, "{counts:?}");
    let grown = memory().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more");
    drop((open, dials));
}
