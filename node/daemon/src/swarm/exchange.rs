//! The exchange of model files with other nodes: `runner` starts it beside the swarm, `serving` says what is shared,
//! and `models::keeper` fetches through [`PeerFiles`].
//! Must stay true: only whole, verified files that a signed manifest lists are shared with everybody.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use owm_p2p::{
    Handle, PeerId, SwarmView,
    exchange::{
        Exchange, ExchangeConfig, Fetch, Sources,
        driver::{Banned, LINKS_MAX, Progress, WAITING_MAX, WebSeed},
        machine::Source,
        serve::Audience,
    },
    peer::peer_id,
};
use owm_proto::{FileSpec, Sha256};
use owm_service::{
    CancellationToken, clock::SharedClock, config::HumanBytes, report::Chain, rng::Seed,
};
use rand::Rng as _;
use tokio::sync::{mpsc, watch};

use super::runner::SwarmClock;
use crate::{
    config::ExchangeSection,
    models::{Shelf, SignedManifest},
    network::NetworkBook,
};

/// Proven liars that wait to be cut off.
const BANS: usize = 16;
/// Files that were hashed because nothing was known of them, and how they looked then: once a process, and again if
/// they have changed since.
pub(super) type Looked = BTreeMap<Sha256, Option<Look>>;
/// Size and time of change.
type Look = (u64, std::time::SystemTime);
/// Files that everybody may have from here, by SHA-256.
pub(super) type Shared = BTreeMap<Sha256, FileSpec>;

/// What a source has given since the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gave {
    /// Who; `None`: the web seed.
    pub peer: Option<PeerId>,
    /// Bytes.
    pub bytes: u64,
    /// Bytes a second of late.
    pub bytes_per_s: u64,
}

/// Other nodes' files. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PeerFiles {
    exchange: Exchange,
    serves: bool,
    view: watch::Receiver<Arc<SwarmView>>,
    /// What every source has given by the last look, as the exchange counts it since its start.
    counted: Arc<Mutex<BTreeMap<Source, u64>>>,
}

impl PeerFiles {
    /// Peers that may have one of these files: those that say so first, then all that are connected; no more than
    /// the exchange would listen to.
    pub fn peers(&self, files: &BTreeSet<Sha256>) -> Vec<PeerId> {
        let view = self.view.borrow();
        let holds = |held: &[Sha256]| held.iter().any(|sha256| files.contains(sha256));
        let says = view.nodes.iter().filter(|node| holds(&node.holds));
        let says = says.filter_map(|node| peer_id(&node.key));
        let connected = view.peers.iter().filter_map(|peer| peer_id(&peer.key));
        let mut known = BTreeSet::from([view.peer]);
        let others = says.chain(connected).filter(|peer| known.insert(*peer));
        others.take(LINKS_MAX + WAITING_MAX).collect()
    }

    /// Fetches them from these peers, and from the web where peers lack something or are too slow. What is proved
    /// meanwhile is served too.
    pub fn fetch(
        &self,
        files: Vec<FileSpec>,
        peers: Vec<PeerId>,
        web: Option<Arc<dyn WebSeed>>,
    ) -> Fetch {
        for file in &files {
            // Its proved pieces are of use to others before it is whole.
            if self.serves {
                self.exchange.share(file, &Audience::Everyone);
            }
        }
        self.exchange.fetch(files, Sources { peers, web })
    }

    /// What its sources have given since the last call. One fetch at a time is looked at: that of the shelf's writer.
    pub fn gave(&self, progress: &Progress) -> Vec<Gave> {
        let counted = self.counted.lock();
        let mut counted = counted.unwrap_or_else(PoisonError::into_inner);
        let gave = progress.sources.iter().map(|source| {
            let before = counted.insert(source.source, source.bytes).unwrap_or(0);
            Gave {
                peer: match source.source {
                    Source::Peer(peer) => Some(peer),
                    Source::Web(_) => None,
                },
                // One that was forgotten meanwhile begins again at nothing.
                bytes: source.bytes.checked_sub(before).unwrap_or(source.bytes),
                bytes_per_s: source.bytes_per_s,
            }
        });
        gave.collect()
    }

    /// Bytes that others have been given.
    pub fn served_bytes(&self) -> u64 {
        self.exchange.served().bytes
    }
}

/// What the exchange works with.
pub(super) struct With<'a> {
    pub(super) shelf: &'a Shelf,
    pub(super) section: &'a ExchangeSection,
    pub(super) clock: &'a SharedClock,
    pub(super) seed: &'a Seed,
}

/// Starts the exchange on the swarm's streams; it ends with `stop`.
pub(super) async fn start(
    with: With<'_>,
    handle: &Handle,
    stop: CancellationToken,
) -> Option<Exchange> {
    let shelf = with.shelf.clone();
    let store = match tokio::task::spawn_blocking(move || shelf.store()).await {
        Ok(Ok(store)) => store,
        Ok(Err(error)) => {
            tracing::error!(error = %Chain(&error), "files are not exchanged with peers");
            return None;
        }
        // The runtime ends.
        Err(_) => return None,
    };
    let (bans, banned) = mpsc::channel(BANS);
    let section = with.section;
    let config = ExchangeConfig {
        upload_bytes_per_second: section.upload_max.map(HumanBytes::get),
        download_bytes_per_second: section.download_max.map(HumanBytes::get),
        seed: with.seed.rng("exchange").random(),
        bans: Some(bans),
        ..ExchangeConfig::default()
    };
    let store = Arc::new(store);
    let clock = Arc::new(SwarmClock(Arc::clone(with.clock)));
    let (exchange, run) =
        Exchange::new(handle.streams(), store.clone(), store, clock, config, stop);
    tokio::spawn(run);
    tokio::spawn(cut_off(handle.clone(), banned));
    Some(exchange)
}

/// Breaks with peers that were proved to send wrong pieces. Ends with the exchange.
async fn cut_off(handle: Handle, mut banned: mpsc::Receiver<Banned>) {
    while let Some(Banned { peer, file, piece }) = banned.recv().await {
        tracing::warn!(%peer, %file, piece, "this peer sent a wrong piece; it is banned");
        // A swarm that has ended needs no ban.
        drop(handle.block(peer).await);
    }
}

pub(super) fn peer_files(exchange: &Exchange, handle: &Handle, serves: bool) -> PeerFiles {
    PeerFiles {
        serves,
        exchange: exchange.clone(),
        view: handle.view(),
        counted: Arc::default(),
    }
}

/// What lies here whole, verified and listed by a signed manifest of the network: what others may have. A file that
/// nothing is known of (a former version of the program brought it) is hashed, one at a look. Blocks.
pub(super) fn to_share(shelf: &Shelf, book: &NetworkBook, looked: &mut Looked) -> Shared {
    let Some(known) = book.known() else {
        return Shared::new();
    };
    let paths = shelf.manifests().unwrap_or_default();
    let newest = shelf.newest();
    let manifests = paths.iter().chain([&newest]).filter_map(|path| {
        let signed = SignedManifest::load(path, &known.network.trust);
        signed.ok().flatten()
    });
    let files = manifests.flat_map(|signed| signed.manifest.files);
    let specs = files.filter_map(|file| FileSpec::of(&file).ok());
    let mut listed: Shared = specs.map(|spec| (spec.sha256(), spec)).collect();
    let Ok(store) = shelf.store() else {
        return Shared::new();
    };
    let mut verified = store.verified().unwrap_or_default();
    let here = shelf.lying_here().map(|(whole, _)| whole);
    let here = here.unwrap_or_default();
    let look = |sha256: &Sha256| {
        let found = std::fs::metadata(shelf.blob(sha256)).ok()?;
        Some((found.len(), found.modified().ok()?))
    };
    let unknown = here.iter().find(|sha256| {
        listed.contains_key(sha256)
            && !verified.contains(sha256)
            && looked.get(sha256) != Some(&look(sha256))
    });
    if let Some(sha256) = unknown {
        looked.insert(*sha256, look(sha256));
        match store.verify(sha256, &|_| {}) {
            Ok(Some(_)) => {
                verified.insert(*sha256);
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(error = %Chain(&error), "a file is not served"),
        }
    }
    listed.retain(|sha256, _| verified.contains(sha256));
    listed
}

/// Shares these and no others.
pub(super) fn share(exchange: &Exchange, before: &Shared, now: &Shared) {
    let (shared, not) = changes(before, now);
    for file in shared {
        exchange.share(file, &Audience::Everyone);
    }
    for file in not {
        exchange.unshare(file);
    }
}

/// What to share and what no more. All that may be shared is, also what was before: the server drops a file by itself
/// that changes while it is read, and it may have been verified again since.
fn changes<'a>(before: &'a Shared, now: &'a Shared) -> (Vec<&'a FileSpec>, Vec<&'a FileSpec>) {
    let not = before.values().filter(|f| !now.contains_key(&f.sha256()));
    (now.values().collect(), not.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_the_server_has_dropped_and_that_was_verified_again_is_shared_again() {
        let spec = |text: &[u8]| FileSpec::new(Sha256::of(text), 1, None, None).unwrap();
        let of = |specs: &[FileSpec]| specs.iter().map(|f| (f.sha256(), *f)).collect::<Shared>();
        let [kept, gone, new] = [&b"kept"[..], b"gone", b"new"].map(spec);
        // The server's own list is not among these: `kept` may be missing in it.
        let (before, now) = (of(&[kept, gone]), of(&[kept, new]));
        let (shared, not) = changes(&before, &now);
        assert!(
            shared.contains(&&kept) && shared.contains(&&new),
            "{shared:?}"
        );
        assert_eq!(not, [&gone]);
    }
}
