//! The exchange of model files with other nodes: `runner` starts it beside the swarm, `serving` says what is shared,
//! and `models::keeper` fetches through [`PeerFiles`].
//! Must stay true: only whole, verified files that a signed manifest lists are shared with everybody.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use owm_p2p::{
    Handle, PeerId, SwarmView,
    exchange::{
        Exchange, ExchangeConfig, Fetch, Sources,
        driver::{Banned, LINKS_MAX, WAITING_MAX, WebSeed},
        serve::Audience,
    },
    peer::peer_id,
};
use owm_proto::{FileSpec, Sha256};
use owm_service::{CancellationToken, config::HumanBytes, report::Chain};
use rand::Rng as _;
use tokio::sync::{mpsc, watch};

use super::runner::{Setup, SwarmClock};
use crate::{
    models::{Shelf, SignedManifest},
    network::NetworkBook,
};

/// Proven liars that wait to be cut off.
const BANS: usize = 16;
/// Files that were hashed because nothing was known of them: once a process.
pub(super) type Looked = BTreeSet<Sha256>;
/// Files that everybody may have from here, by SHA-256.
pub(super) type Shared = BTreeMap<Sha256, FileSpec>;

/// Other nodes' files. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PeerFiles {
    exchange: Exchange,
    serves: bool,
    view: watch::Receiver<Arc<SwarmView>>,
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

    /// Bytes that others have been given.
    pub fn served_bytes(&self) -> u64 {
        self.exchange.served().bytes
    }
}

/// Starts the exchange on the swarm's streams; it ends with `stop`.
pub(super) async fn start(
    setup: &Setup,
    handle: &Handle,
    stop: CancellationToken,
) -> Option<Exchange> {
    let shelf = setup.shelf.clone();
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
    let section = &setup.exchange;
    let config = ExchangeConfig {
        upload_bytes_per_second: section.upload_max.map(HumanBytes::get),
        download_bytes_per_second: section.download_max.map(HumanBytes::get),
        seed: setup.seed.rng("exchange").random(),
        bans: Some(bans),
        ..ExchangeConfig::default()
    };
    let store = Arc::new(store);
    let clock = Arc::new(SwarmClock(Arc::clone(&setup.clock)));
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
    let unknown = here.iter().find(|sha256| {
        listed.contains_key(sha256) && !verified.contains(sha256) && !looked.contains(sha256)
    });
    if let Some(sha256) = unknown {
        looked.insert(*sha256);
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
    for file in now.values().filter(|f| !before.contains_key(&f.sha256())) {
        exchange.share(file, &Audience::Everyone);
    }
    for file in before.values().filter(|f| !now.contains_key(&f.sha256())) {
        exchange.unshare(file);
    }
}
