//! iroh-blobs for `owm-bench exchange`: a source or the one that fetches, as peer.py's others.
//!
//!     owm-bench-exchange serve FILE WORK          prints its address, serves until its input ends
//!     owm-bench-exchange fetch OUT ADDRESS ...    prints "ready", fetches, prints the seconds it took
//!
//! Loopback only: no relays, no address lookup. Stores are on disk (`fs-store`), the source's by reference
//! to FILE. Eight sources: the range is split evenly, for iroh's own downloader asks one (facts of the
//! comparison: docs/benchmarks.md).

use std::{net::SocketAddr, path::Path, time::Instant};

use anyhow::{Context as _, Result, bail, ensure};
use iroh::{Endpoint, EndpointAddr, EndpointId, RelayMode, endpoint::presets, protocol::Router};
use iroh_blobs::{
    BlobsProtocol, Hash,
    api::blobs::{AddPathOptions, ExportMode, ExportOptions, ImportMode},
    protocol::{ChunkRanges, ChunkRangesExt as _, GetRequest},
    store::fs::FsStore,
};
use tokio::io::AsyncReadExt as _;

async fn endpoint() -> Result<Endpoint> {
    let builder = Endpoint::builder(presets::Minimal)
        .relay_mode(RelayMode::Disabled)
        .clear_ip_transports()
        .bind_addr("127.0.0.1:0".parse::<SocketAddr>()?)?;
    builder.bind().await.context("cannot bind iroh's endpoint")
}

async fn serve(file: &Path, work: &Path) -> Result<()> {
    let (endpoint, store) = (endpoint().await?, FsStore::load(work).await?);
    let tag = store
        .blobs()
        .add_path_with_opts(AddPathOptions {
            path: file.to_owned(),
            mode: ImportMode::TryReference,
            format: iroh_blobs::BlobFormat::Raw,
        })
        .temp_tag()
        .await?;
    let size = file.metadata()?.len();
    let at = endpoint.bound_sockets();
    let at = at.first().context("no socket is bound")?;
    println!("{}|{at}|{}|{size}", endpoint.id(), tag.hash());
    let blobs = BlobsProtocol::new(&store, None);
    let _router = Router::builder(endpoint).accept(iroh_blobs::ALPN, blobs).spawn();
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    Ok(())
}

/// A share of the file, in chunks of 1 KiB.
fn share(n: u64, of: u64, size: u64) -> ChunkRanges {
    let chunks = size.div_ceil(1024);
    ChunkRanges::chunks(chunks * n / of..chunks * (n + 1) / of)
}

async fn fetch(out: &Path, addresses: &[String]) -> Result<()> {
    let (endpoint, store) = (endpoint().await?, FsStore::load(out.join("store")).await?);
    let mut sources = Vec::new();
    let mut file = None;
    for address in addresses {
        let parts: Vec<&str> = address.split('|').collect();
        let [id, at, hash, size] = parts[..] else { bail!("{address} is no address") };
        let at = EndpointAddr::new(id.parse::<EndpointId>()?).with_ip_addr(at.parse()?);
        sources.push(endpoint.connect(at, iroh_blobs::ALPN).await?);
        file = Some((hash.parse::<Hash>()?, size.parse::<u64>()?));
    }
    let (hash, size) = file.context("no address is given")?;
    println!("ready");
    let begun = Instant::now();
    let of = sources.len() as u64;
    let mut shares = tokio::task::JoinSet::new();
    for (n, connection) in (0..).zip(sources) {
        let store = store.clone();
        shares.spawn(async move {
            let request = GetRequest::builder().root(share(n, of, size)).build(hash);
            store.remote().execute_get(connection, request).await
        });
    }
    while let Some(ended) = shares.join_next().await {
        ended??;
    }
    let target = out.join("file");
    let export = ExportOptions { hash, mode: ExportMode::TryReference, target: target.clone() };
    store.blobs().export_with_opts(export).await?;
    println!("{}", begun.elapsed().as_secs_f64());
    ensure!(target.metadata()?.len() == size, "the file is not whole");
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", file, work] => serve(Path::new(file), Path::new(work)).await,
        ["fetch", out, _, ..] => fetch(Path::new(out), &args[2..]).await,
        _ => bail!("usage: serve FILE WORK | fetch OUT ADDRESS ..."),
    }
}
