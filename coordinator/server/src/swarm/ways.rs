//! How this coordinator finds the swarm again: peers named in its configuration, seed names, and the peers of
//! earlier runs, which it keeps in a file of its folder. Any one is enough; none is waited for.

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
use owm_p2p::{
    Handle,
    bootstrap::{self, DnsSource, Resolver, Source, StaticSource, Ways},
    peer::{Book, book::BOOK_BYTES_MAX},
};
use owm_proto::UnixMillis;
use owm_service::{CancellationToken, dialer::TcpConnector};

use super::settings;
use crate::config::Config;

/// The remembered peers, beside the keys. May be deleted at any time.
pub const PEERS_FILE: &str = "swarm-peers.json";

/// Between two writes of them: what a kill may cost.
const SAVE_EVERY: Duration = Duration::from_mins(1);

/// Names through the dialler's own resolver, under its policy.
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

fn file(config: &Config) -> PathBuf {
    config.identity.dir.join(PEERS_FILE)
}

/// The ways in of `config`.
pub(super) fn ways(config: &Config, now: UnixMillis) -> Ways {
    let p2p = &config.p2p;
    let policy = settings::policy(p2p.network);
    let resolver: Arc<dyn Resolver> = Arc::new(Names(TcpConnector::new(p2p.network)));
    let listed = StaticSource::new(bootstrap::STATIC, p2p.peers.clone());
    let mut sources: Vec<Arc<dyn Source>> = vec![Arc::new(listed)];
    if !p2p.dns.is_empty() {
        let seeds = DnsSource::new(p2p.dns.clone(), policy, Arc::clone(&resolver));
        sources.push(Arc::new(seeds));
    }
    Ways {
        sources,
        resolver,
        remembered: remembered(&file(config), policy, now),
    }
}

/// The peers of earlier runs. A file that can't be read is told of and written anew.
fn remembered(path: &Path, policy: owm_p2p::NetworkPolicy, now: UnixMillis) -> Option<Book> {
    let told = |error: String| tracing::warn!(%error, path = %path.display(), "the remembered peers can't be read; the swarm starts without them");
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            told(error.to_string());
            return None;
        }
        Ok(about) if about.len() > BOOK_BYTES_MAX as u64 => {
            told("the file is too large to be ours".to_owned());
            return None;
        }
        Ok(_) => {}
    }
    let bytes = std::fs::read(path)
        .map_err(|error| told(error.to_string()))
        .ok()?;
    let book = Book::from_json(policy, &bytes, now);
    book.map_err(|error| told(error.to_string())).ok()
}

/// Keeps the file up to date until `stop` (and writes it once more then), and tells the log of what the swarm
/// wants a person to look at.
pub(super) async fn remember(handle: Handle, config: Arc<Config>, stop: CancellationToken) {
    let path = file(&config);
    let mut told: Vec<String> = Vec::new();
    loop {
        let stopping = tokio::select! {
            () = stop.cancelled() => true,
            () = tokio::time::sleep(SAVE_EVERY) => false,
        };
        let Ok(bytes) = handle.remembered().await else {
            return;
        };
        let to = path.clone();
        let saved = tokio::task::spawn_blocking(move || save(&to, &bytes)).await;
        if let Ok(Err(error)) = saved {
            tracing::warn!(%error, path = %path.display(), "the swarm's peers can't be remembered");
        }
        let warnings = handle.view().borrow().warnings.clone();
        for warning in warnings.iter().filter(|warning| !told.contains(warning)) {
            tracing::warn!(warning, "the swarm");
        }
        told = warnings;
        if stopping {
            return;
        }
    }
}

/// Through a rename: never half a file.
fn save(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut beside = tempfile::NamedTempFile::new_in(folder)?;
    io::Write::write_all(&mut beside, bytes)?;
    beside.as_file().sync_all()?;
    beside.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_of_peers_costs_nothing_but_the_peers() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.identity.dir = folder.path().to_owned();
        let now = UnixMillis(1_795_359_487_000);
        let peers = |config: &Config| ways(config, now).remembered.map(|book| book.len());
        assert_eq!(peers(&config), None);
        std::fs::write(file(&config), "{ half").unwrap();
        assert_eq!(peers(&config), None);
        let book = Book::new(owm_p2p::NetworkPolicy::Clearnet);
        save(&file(&config), &book.to_json()).unwrap();
        assert_eq!(peers(&config), Some(0));
        let large = std::fs::File::create(file(&config)).unwrap();
        large.set_len(BOOK_BYTES_MAX as u64 + 1).unwrap();
        assert_eq!(peers(&config), None);
    }
}
