//! Our exchange as the daemons run it: the whole swarm service, the store in a folder (in memory: /dev/shm), every
//! piece proved by the ladder before it counts.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use owm_p2p::{
    Handle, Multiaddr, NetworkPolicy, PeerId, Start, SwarmConfig,
    exchange::{
        Exchange, ExchangeConfig, Sources,
        serve::Audience,
        store::{Store, StoreConfig},
    },
    multiaddr::Protocol,
};
use owm_proto::{
    FileSpec, Ladder, LadderBuilder, NodeKey, PieceLen, Sha256, UnixMillis, genesis::NetworkId,
};
use owm_service::clock::{SharedClock, SystemClock};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

/// A file, as a manifest names it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Named {
    sha256: Sha256,
    size: u64,
    piece_len: u64,
    ladder_sha256: Sha256,
}

impl Named {
    fn spec(&self) -> Result<FileSpec> {
        let (piece_len, ladder) = (Some(self.piece_len), Some(self.ladder_sha256));
        Ok(FileSpec::new(self.sha256, self.size, piece_len, ladder)?)
    }
}

#[derive(Debug)]
struct SwarmClock(SharedClock);

impl owm_p2p::Clock for SwarmClock {
    fn wall(&self) -> UnixMillis {
        UnixMillis(self.0.now_ms())
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }
}

/// Puts a file of so many bytes into the store in `dir`, where all sources serve it from.
pub(crate) fn prepare(dir: &Path, size: u64) -> Result<Named> {
    let piece_len = PieceLen::for_size(size);
    let chunk = |n: u64| -> Vec<u8> {
        // Every word differs; nothing on the way compresses.
        let words = (0..(1_u64 << 20) / 8)
            .map(|word| ((n << 20) | word).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        words.flat_map(u64::to_le_bytes).collect()
    };
    let chunks = size >> 20;
    let mut builder = LadderBuilder::new(piece_len);
    for n in 0..chunks {
        builder.update(&chunk(n));
    }
    let ladder = builder.finish()?;
    let bytes = ladder.to_bytes();
    let named = Named {
        sha256: ladder.spec().sha256(),
        size,
        piece_len: piece_len.bytes(),
        ladder_sha256: Sha256::of(&bytes),
    };
    let store = Store::open(StoreConfig::new(dir))?;
    let of_ladder = FileSpec::new(named.ladder_sha256, bytes.len() as u64, None, None)?;
    store.put(of_ladder, &bytes)?;
    let partial = store.begin(Arc::new(Ladder::parse(named.spec()?, bytes)?))?;
    for n in 0..chunks {
        partial.write(n << 20, &chunk(n))?;
    }
    for piece in 0..partial.ladder().pieces() {
        partial.proved(piece)?;
    }
    partial.finish()?;
    Ok(named)
}

/// Starts a source; its address.
pub(crate) async fn serve(n: u8, quic: bool, dir: &Path, file: &Named) -> Result<Multiaddr> {
    let (handle, exchange) = start(n, quic, dir)?;
    exchange.share(&file.spec()?, &Audience::Everyone);
    let mut view = handle.view();
    let seen = view.wait_for(|view| !view.listening.is_empty()).await?;
    let address = seen.listening[0].clone();
    drop(seen);
    let address = address.with_p2p(handle.peer()).ok();
    // They live as long as the process.
    std::mem::forget((handle, exchange));
    address.context("an own address")
}

/// Fetches it from all of them into `dir`; seconds from when they are connected to the file's final name.
pub(crate) async fn fetch(
    addresses: &[String],
    quic: bool,
    dir: &Path,
    file: &Named,
) -> Result<f64> {
    let (handle, exchange) = start(255, quic, dir)?;
    let addresses: Vec<Multiaddr> = addresses
        .iter()
        .map(|a| a.parse())
        .collect::<Result<_, _>>()?;
    let named = |address: &Multiaddr| match address.iter().last() {
        Some(Protocol::P2p(peer)) => Ok(peer),
        _ => Err(anyhow::anyhow!("an address without a peer")),
    };
    let peers: Vec<PeerId> = addresses.iter().map(named).collect::<Result<_>>()?;
    handle.add_candidates("static", addresses).await?;
    let mut view = handle.view();
    view.wait_for(|view| view.peers.len() >= peers.len())
        .await?;
    let begun = Instant::now();
    let sources = Sources { peers, web: None };
    let mut fetch = exchange.fetch(vec![file.spec()?], sources);
    fetch.done().await?;
    Ok(begun.elapsed().as_secs_f64())
}

fn start(n: u8, quic: bool, dir: &Path) -> Result<(Handle, Exchange)> {
    let key = NodeKey::from_seed(&[n; 32]);
    let clock: Arc<dyn owm_p2p::Clock> = Arc::new(SwarmClock(SystemClock::shared()));
    let listen = if quic {
        "/ip4/127.0.0.1/udp/0/quic-v1"
    } else {
        "/ip4/127.0.0.1/tcp/0"
    };
    let (handle, mut news, service) = owm_p2p::start(Start {
        config: SwarmConfig {
            policy: NetworkPolicy::LoopbackOnly,
            listen: vec![listen.parse()?],
            ..SwarmConfig::default()
        },
        key: &key,
        network: NetworkId(Sha256::of(b"bench")),
        documents: None,
        newest: None,
        clock: Arc::clone(&clock),
        seed: [n; 32],
    })?;
    tokio::spawn(service);
    tokio::spawn(async move { while news.recv().await.is_some() {} });
    let store = Arc::new(Store::open(StoreConfig::new(dir))?);
    let config = ExchangeConfig::default();
    let (shelf, stop) = (Arc::clone(&store), CancellationToken::new());
    let (exchange, run) = Exchange::new(handle.streams(), shelf, store, clock, config, stop);
    tokio::spawn(run);
    Ok((handle, exchange))
}
