//! This node's ways into the swarm: peers of its invite and configuration, seed names, and the peers of earlier
//! runs, kept in a file of the data folder. Any one is enough; none is waited for.
//! Must stay true: a damaged file of peers costs nothing but the peers.

use std::{io, net::IpAddr, path::Path, sync::Arc};

use futures::future::BoxFuture;
use owm_p2p::{
    Multiaddr, NetworkPolicy as SwarmPolicy,
    bootstrap::{DnsSource, INVITE, Resolver, STATIC, Source, StaticSource, Ways},
    peer::{Book, book::BOOK_BYTES_MAX},
};
use owm_proto::UnixMillis;
use owm_service::dialer::{NetworkPolicy, TcpConnector};

use super::Settings;
use crate::home::read_small;

/// Names through the dialer's own resolver, under its policy.
#[derive(Clone, Copy, Debug)]
struct Names(TcpConnector);

impl Resolver for Names {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        let connector = self.0;
        Box::pin(async move {
            let found = connector.resolve(name, 0).await.map_err(io::Error::other)?;
            Ok(found.into_iter().map(|address| address.ip()).collect())
        })
    }
}

/// Resolves names as the rest of this program does.
pub fn resolver(policy: SwarmPolicy) -> Arc<dyn Resolver> {
    let policy = match policy {
        SwarmPolicy::LoopbackOnly => NetworkPolicy::LoopbackOnly,
        SwarmPolicy::Clearnet | SwarmPolicy::OnionOnly => NetworkPolicy::Clearnet,
    };
    Arc::new(Names(TcpConnector::new(policy)))
}

/// All of them.
pub(super) fn ways(
    settings: &Settings,
    invited: &[String],
    peers_file: &Path,
    now: UnixMillis,
) -> Ways {
    let policy = settings.swarm.policy;
    let resolver = resolver(policy);
    let mut sources: Vec<Arc<dyn Source>> = Vec::new();
    for (name, addresses) in [
        (INVITE, addresses(invited)),
        (STATIC, settings.peers.clone()),
    ] {
        if !addresses.is_empty() {
            sources.push(Arc::new(StaticSource::new(name, addresses)));
        }
    }
    if !settings.dns.is_empty() {
        let seeds = DnsSource::new(settings.dns.clone(), policy, Arc::clone(&resolver));
        sources.push(Arc::new(seeds));
    }
    Ways {
        sources,
        resolver,
        remembered: remembered(peers_file, policy, now),
    }
}

/// Those of an invite's peers that this version understands.
pub fn addresses(texts: &[String]) -> Vec<Multiaddr> {
    let read = |text: &String| match text.parse() {
        Ok(address) => Some(address),
        Err(error) => {
            tracing::warn!(%error, address = text, "a peer's address is not understood");
            None
        }
    };
    texts.iter().filter_map(read).collect()
}

fn remembered(path: &Path, policy: SwarmPolicy, now: UnixMillis) -> Option<Book> {
    let told = |error: &dyn std::fmt::Display| {
        tracing::warn!(%error, path = %path.display(), "the remembered peers are not used; the file is written anew");
    };
    let bytes = match read_small(path, BOOK_BYTES_MAX as u64) {
        Ok(bytes) => bytes?,
        Err(error) => {
            told(&error);
            return None;
        }
    };
    let book = Book::from_json(policy, &bytes, now);
    book.map_err(|error| told(&error)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::P2pSection;

    #[test]
    fn a_damaged_file_of_peers_costs_nothing_but_the_peers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peers.json");
        let settings = Settings::parse(&P2pSection::default()).unwrap();
        let now = UnixMillis(1_795_359_487_000);
        let known = || {
            ways(&settings, &[], &path, now)
                .remembered
                .map(|book| book.len())
        };
        assert_eq!(known(), None);
        for damaged in [&b"{ half"[..], b"", b"\xff"] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(known(), None);
        }
        std::fs::write(&path, Book::new(SwarmPolicy::Clearnet).to_json()).unwrap();
        assert_eq!(known(), Some(0));
        let large = std::fs::File::create(&path).unwrap();
        large.set_len(BOOK_BYTES_MAX as u64 + 1).unwrap();
        assert_eq!(known(), None);
    }
}
