//! What is known of the network by now, whoever said it first: the coordinator, a peer, or the disk. The
//! one place that changes the copy on the disk; `daemon` and `swarm` bring documents, everyone follows.
//! Must stay true: a root statement that was once verified is never forgotten, so nobody can hide a
//! revocation by serving older documents; what is on the disk is only ever added to; unsigned hints of peers
//! never replace the coordinator's.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use owm_proto::{
    Envelope, SignerRule, UnixMillis,
    envelope::CLOCK_SKEW_MAX,
    genesis::{DelegatedRole, TrustRoot},
    gossip::Bootstrap,
    statement::Statement as _,
    wire::coordinator::{GetNetworkResponse, SignedEnvelope},
};
use tokio::sync::watch;

use super::{Network, NetworkError};
use crate::status::Origin;

/// The network with who said so last.
#[derive(Clone, Debug)]
pub struct Known {
    /// All statements that were ever verified.
    pub network: Network,
    /// Who brought the newest of them.
    pub from: Origin,
}

/// The book. Cheap to clone.
#[derive(Clone, Debug)]
pub struct NetworkBook {
    folder: Arc<PathBuf>,
    /// Who merges waits for who merges.
    writing: Arc<Mutex<()>>,
    known: watch::Sender<Option<Arc<Known>>>,
}

impl NetworkBook {
    /// An empty one that keeps its copy in `folder`.
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder: Arc::new(folder),
            writing: Arc::default(),
            known: watch::Sender::new(None),
        }
    }

    /// What is known now and from now on.
    pub fn follow(&self) -> watch::Receiver<Option<Arc<Known>>> {
        self.known.subscribe()
    }

    /// What is known now.
    pub fn known(&self) -> Option<Arc<Known>> {
        self.known.borrow().clone()
    }

    /// Adds what is new in `network` to what is known, and, unless it is from there, to what is on the disk:
    /// another process may have learnt more meanwhile. Blocks on the disk. The value given back is the whole
    /// of it; followers hear of it only if something has changed.
    pub fn learn(
        &self,
        network: Network,
        from: Origin,
        now: UnixMillis,
    ) -> Result<Arc<Known>, NetworkError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut merged = match self.known() {
            None => {
                let mut first = network;
                let said = first.documents.bootstrap.take();
                first.documents.bootstrap = younger(&first.trust, now, None, said);
                first
            }
            Some(known) => {
                let merged = joined(&known.network, &network, from, now)?;
                if merged.documents == known.network.documents {
                    return Ok(known);
                }
                merged
            }
        };
        if from != Origin::Disk {
            // A damaged copy is written anew.
            if let Ok(there) = Network::load(&self.folder, Some(merged.trust.id())) {
                merged = joined(&there, &merged, from, now)?;
            }
            merged.store(&self.folder)?;
        }
        let known = Arc::new(Known {
            network: merged,
            from,
        });
        self.known.send_replace(Some(Arc::clone(&known)));
        Ok(known)
    }
}

/// The network from the moment at which it is known, followed. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Networks {
    following: watch::Receiver<Option<Arc<Known>>>,
    first: Arc<Known>,
}

impl Networks {
    /// Follows a book in which `first` has been found.
    pub fn new(following: watch::Receiver<Option<Arc<Known>>>, first: Arc<Known>) -> Self {
        Self { following, first }
    }

    /// As it is known now.
    pub fn now(&self) -> Arc<Known> {
        let known = self.following.borrow().clone();
        known.unwrap_or_else(|| Arc::clone(&self.first))
    }

    /// Waits until more is known. Cancelling it loses nothing.
    pub async fn changed(&mut self) {
        if self.following.changed().await.is_err() {
            // Nobody will learn more.
            std::future::pending::<()>().await;
        }
    }
}

/// All of both, verified.
fn joined(
    known: &Network,
    new: &Network,
    from: Origin,
    now: UnixMillis,
) -> Result<Network, NetworkError> {
    let documents = merge(&known.documents, &new.documents, from);
    let mut network = Network::verify(Some(known.trust.id()), documents)?;
    let said = [known, new].map(|network| network.documents.bootstrap.clone());
    let [ours, theirs] = said;
    network.documents.bootstrap = younger(&network.trust, now, ours, theirs);
    Ok(network)
}

/// Both sets of statements, and the hints of whoever is to be believed.
fn merge(known: &GetNetworkResponse, new: &GetNetworkResponse, from: Origin) -> GetNetworkResponse {
    let is_coordinator = from == Origin::Coordinator;
    let hint = |known: &String, new: &String| {
        let replaces = known.is_empty() || (is_coordinator && !new.is_empty());
        if replaces { new } else { known }.clone()
    };
    GetNetworkResponse {
        genesis: known.genesis.clone(),
        delegations: union(&known.delegations, &new.delegations),
        revocations: union(&known.revocations, &new.revocations),
        web_seed: hint(&known.web_seed, &new.web_seed),
        bootstrap: None,
        peers: if is_coordinator { new } else { known }.peers.clone(),
    }
}

fn union(known: &[SignedEnvelope], new: &[SignedEnvelope]) -> Vec<SignedEnvelope> {
    let mut all = known.to_vec();
    for statement in new {
        if !all.contains(statement) {
            all.push(statement.clone());
        }
    }
    all
}

/// By issue time. One that does not hold at `now`, or comes from the future, replaces none.
fn younger(
    trust: &TrustRoot,
    now: UnixMillis,
    known: Option<SignedEnvelope>,
    new: Option<SignedEnvelope>,
) -> Option<SignedEnvelope> {
    let instances = trust.keys(DelegatedRole::Instance, now);
    let issued = |wire: &Option<SignedEnvelope>| {
        let envelope = Envelope::try_from(wire.clone()?).ok()?;
        let said = Bootstrap::open(&envelope, &trust.id(), SignerRule::OneOf(&instances)).ok()?;
        let holds = said.is_sound() && said.issued_at_ms <= now.after(CLOCK_SKEW_MAX);
        holds.then_some(said.issued_at_ms)
    };
    let is_younger = issued(&new) > issued(&known);
    if is_younger { new } else { known }
}

#[cfg(test)]
mod tests;
