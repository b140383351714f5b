//! The anchor: one raw libp2p stream to each source, over TCP, Noise and Yamux as rust-libp2p ships them. A
//! source is asked for a number of bytes and sends them from memory; who asked hashes them as they arrive.

use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol, Swarm, Transport as _,
    core::upgrade::Version,
    identity::Keypair,
    multiaddr::Protocol,
    noise,
    swarm::{SwarmEvent, dial_opts::DialOpts},
    tcp, yamux,
};
use libp2p_stream as stream;
use sha2::{Digest as _, Sha256};
use tokio::task::JoinSet;

const PROTOCOL: StreamProtocol = StreamProtocol::new("/owm-bench/raw/1");

/// What is written and read at once. Yamux cuts what is written into frames of 16 KiB.
const CHUNK: usize = 256 << 10;

/// Starts a source; its address.
pub(crate) async fn serve(n: u8) -> Result<Multiaddr> {
    let mut swarm = swarm(n)?;
    let mut incoming = swarm.behaviour().new_control().accept(PROTOCOL)?;
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse()?)?;
    let address = loop {
        match swarm.select_next_some().await {
            SwarmEvent::NewListenAddr { address, .. } => break address,
            SwarmEvent::ListenerClosed { reason, .. } => bail!("cannot listen: {reason:?}"),
            _ => {}
        }
    };
    let address = address.with_p2p(*swarm.local_peer_id()).ok();
    tokio::spawn(drive(swarm));
    tokio::spawn(async move {
        while let Some((_, stream)) = incoming.next().await {
            tokio::spawn(send(stream));
        }
    });
    address.context("an own address")
}

async fn send(mut stream: Stream) -> Result<()> {
    let mut wanted = [0; 8];
    stream.read_exact(&mut wanted).await?;
    let mut left = u64::from_be_bytes(wanted);
    let chunk: Vec<u8> = (0..CHUNK).map(|n| n as u8).collect();
    while left > 0 {
        let some = left.min(CHUNK as u64);
        stream.write_all(&chunk[..some as usize]).await?;
        left -= some;
    }
    Ok(stream.close().await?)
}

/// Fetches an equal part of `bytes` from each; seconds from when they are connected to the last hash.
pub(crate) async fn fetch(addresses: &[String], bytes: u64) -> Result<f64> {
    let mut swarm = swarm(255)?;
    let control = swarm.behaviour().new_control();
    let mut peers = Vec::new();
    for address in addresses {
        let address: Multiaddr = address.parse()?;
        let Some(Protocol::P2p(peer)) = address.iter().last() else {
            bail!("an address without a peer");
        };
        swarm.dial(DialOpts::peer_id(peer).addresses(vec![address]).build())?;
        peers.push(peer);
    }
    let mut connected = 0;
    while connected < peers.len() {
        let event = swarm.select_next_some().await;
        connected += usize::from(matches!(event, SwarmEvent::ConnectionEstablished { .. }));
    }
    tokio::spawn(drive(swarm));
    let begun = Instant::now();
    let part = bytes / peers.len() as u64;
    let mut parts: JoinSet<_> = peers
        .into_iter()
        .map(|peer| receive(control.clone(), peer, part))
        .collect();
    while let Some(part) = parts.join_next().await {
        part??;
    }
    Ok(begun.elapsed().as_secs_f64())
}

async fn receive(mut control: stream::Control, peer: PeerId, bytes: u64) -> Result<()> {
    let mut stream = control.open_stream(peer, PROTOCOL).await?;
    stream.write_all(&bytes.to_be_bytes()).await?;
    stream.flush().await?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut got = 0;
    loop {
        let n = stream.read(&mut buffer).await?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
        got += n as u64;
    }
    ensure!(got == bytes, "{got} of {bytes} bytes came");
    std::hint::black_box(hash.finalize());
    Ok(())
}

fn swarm(n: u8) -> Result<Swarm<stream::Behaviour>> {
    let key = Keypair::ed25519_from_bytes([n; 32])?;
    let transport = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(&key)?)
        .multiplex(yamux::Config::default())
        .boxed();
    let config = libp2p::swarm::Config::with_tokio_executor();
    let me = key.public().to_peer_id();
    Ok(Swarm::new(transport, stream::Behaviour::new(), me, config))
}

async fn drive(mut swarm: Swarm<stream::Behaviour>) {
    loop {
        swarm.select_next_some().await;
    }
}
