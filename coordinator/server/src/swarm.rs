//! This coordinator as a peer of the swarm: its PeerId is its instance key's. `serve` starts it ([`start`]),
//! `rpc` and `cli` ask it for addresses, `fold` writes what it hears.
//!
//! Must stay true: what comes by gossip changes no status and decides nothing; the swarm goes on while the
//! database is away, and the coordinator without the swarm.

pub mod addresses;
pub mod checkpoint;
pub mod fold;
mod settings;
mod start;
mod ways;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use owm_p2p::{Documents, Handle, Multiaddr, SwarmView};
use owm_proto::{Envelope, UnixMillis, gossip::Bootstrap, statement::Statement as _};

use crate::{config::Config, identity::Authority};

pub use settings::{SettingsError, check, parameters};
pub use start::{StartError, start};
pub use ways::PEERS_FILE;

/// What the coordinator's doors share of it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Swarm(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The agreed numbers, signed by this instance.
    bootstrap: Envelope,
    /// Our addresses as the configuration tells them, with `/p2p`.
    configured: Vec<Multiaddr>,
    network: owm_service::dialer::NetworkPolicy,
    /// Set once, when the swarm runs.
    handle: OnceLock<Handle>,
    /// Addresses of a few other peers, refreshed now and then.
    others: Mutex<Vec<Multiaddr>>,
    hearing: Mutex<fold::Hearing>,
}

impl Swarm {
    /// Not started yet; `now` is what the agreed numbers are dated with.
    pub fn new(config: &Config, authority: &Authority, now: UnixMillis) -> Self {
        let numbers: Bootstrap = parameters(config, now);
        let instance = &authority.instance;
        Self(Arc::new(Inner {
            bootstrap: numbers.sign(instance, &authority.network()),
            configured: addresses::configured(config, &instance.public()),
            network: config.p2p.network,
            handle: OnceLock::new(),
            others: Mutex::default(),
            hearing: Mutex::default(),
        }))
    }

    /// `owm/bootstrap/v1`: what all peers must agree on.
    pub fn bootstrap(&self) -> &Envelope {
        &self.0.bootstrap
    }

    /// The running swarm.
    pub fn handle(&self) -> Option<&Handle> {
        self.0.handle.get()
    }

    /// The newest look at it; `None` while it does not run.
    pub fn view(&self) -> Option<Arc<SwarmView>> {
        self.handle().map(|handle| handle.view().borrow().clone())
    }

    /// Where newcomers find the swarm, with `/p2p`: this coordinator first, then a few others.
    pub fn peers(&self) -> Vec<String> {
        let Some(view) = self.view() else {
            return Vec::new();
        };
        let own = addresses::own(&self.0.configured, &view, self.0.network);
        let others = lock(&self.0.others).clone();
        own.into_iter()
            .chain(others)
            .map(|address| address.to_string())
            .collect()
    }

    /// It runs from now on.
    pub(crate) fn started(&self, handle: Handle) {
        if self.0.handle.set(handle).is_err() {
            tracing::error!("the swarm was started twice");
        }
    }

    fn hearing(&self) -> MutexGuard<'_, fold::Hearing> {
        lock(&self.0.hearing)
    }

    fn set_others(&self, others: Vec<Multiaddr>) {
        *lock(&self.0.others) = others;
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What every peer serves to newcomers.
pub fn documents(
    authority: &Authority,
    swarm: &Swarm,
    web_seed: &str,
    now: UnixMillis,
) -> Result<Documents, owm_proto::genesis::GenesisError> {
    let statements = authority.statements();
    Documents::verify(
        Some(statements.trust.id()),
        authority.genesis.clone(),
        statements.delegations.clone(),
        statements.revocations.clone(),
        Some(swarm.bootstrap().clone()),
        web_seed.to_owned(),
        now,
    )
}

#[cfg(test)]
mod tests;
