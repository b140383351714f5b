//! What the daemon and the swarm share from the start, before the network is known: the book of the
//! network's documents, the membership statement, this process's session.

use std::sync::Arc;

use owm_proto::{
    Envelope, SessionId, SignerRule, UnixMillis,
    genesis::{DelegatedRole, TrustRoot},
    statement::{Membership, Statement as _},
};
use owm_service::{RunError, report::Chain};
use rand::RngCore as _;
use tokio::sync::watch;

use super::{Frame, Parts, join};
use crate::{
    caps::Caps,
    home::read_small,
    metrics::Metrics,
    models::Shelf,
    network::NetworkBook,
    status::Status,
    swarm::{self, Settings, Swarm},
    tasklog::TaskLog,
};

/// A membership statement and its signature.
const MEMBERSHIP_BYTES_MAX: u64 = 64 << 10;

/// What they share.
#[derive(Debug)]
pub(super) struct Meeting {
    /// What is known of the network.
    pub(super) book: NetworkBook,
    /// The membership statement in force; the swarm announces it.
    pub(super) membership: watch::Sender<Option<Envelope>>,
    /// This process.
    pub(super) session: SessionId,
    status: watch::Receiver<Status>,
}

impl Meeting {
    /// Reads what the disk has.
    pub(super) async fn prepare(
        frame: &Frame,
        parts: &Parts,
        status: &watch::Sender<Status>,
    ) -> Result<Self, RunError> {
        let mut session = [0; 16];
        frame.seed.rng("session id").fill_bytes(&mut session);
        let book = NetworkBook::new(parts.home.network());
        let (learning, home, invited) = (book.clone(), parts.home.clone(), parts.invite.genesis);
        let now = UnixMillis(frame.clock.now_ms());
        let read = move || {
            join::from_disk(&learning, &home, invited, now);
            read_small(&home.membership(), MEMBERSHIP_BYTES_MAX)
        };
        let kept = tokio::task::spawn_blocking(read).await?;
        let kept = kept.unwrap_or_else(|error| {
            tracing::warn!(error = %Chain(&error), "the kept membership statement is not used");
            None
        });
        let membership = kept.and_then(|bytes| Envelope::from_stored(&bytes).ok());
        Ok(Self {
            book,
            membership: watch::Sender::new(membership),
            session: SessionId(session),
            status: status.subscribe(),
        })
    }

    /// Starts the swarm, or says why there is none.
    pub(super) fn start(
        &self,
        frame: &Frame,
        parts: &Parts,
        caps: &Caps,
        shelf: &Shelf,
        log: &TaskLog,
        metrics: &Metrics,
    ) -> Result<Swarm, RunError> {
        let section = &parts.config.p2p;
        let settings = Settings::parse(section).map_err(|wrong| {
            let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
            RunError::usage(wrong.join("; "))
        })?;
        if !section.enabled {
            return Ok(Swarm::off("[p2p] enabled = false"));
        }
        let roles = [
            ("infer", parts.config.roles.infer),
            ("evaluate", parts.config.roles.evaluate),
            ("train", parts.config.roles.train),
        ];
        let roles = roles.iter().filter(|(_, slots)| *slots > 0);
        Ok(Swarm::start(swarm::Setup {
            settings,
            exchange: parts.config.exchange.clone(),
            identity: swarm::Identity {
                key: Arc::clone(&parts.key),
                network: parts.invite.genesis,
                session: self.session,
                capabilities: caps.limit(parts.capabilities.clone()),
                roles: roles.map(|(role, _)| (*role).to_owned()).collect(),
            },
            invited: parts.invite.peers.clone(),
            book: self.book.clone(),
            status: self.status.clone(),
            membership: self.membership.subscribe(),
            shelf: shelf.clone(),
            log: log.clone(),
            checkpoint_file: parts.home.newest_checkpoint(),
            peers_file: parts.home.peers(),
            clock: Arc::clone(&frame.clock),
            seed: frame.seed.child("swarm"),
            metrics: metrics.swarm.clone(),
        }))
    }
}

/// The kept statement, if it is about this node and an instance key has signed it. Peers judge its time.
pub(super) fn kept_membership(
    envelope: &Envelope,
    trust: &TrustRoot,
    node: &owm_proto::PublicKey,
) -> Option<Membership> {
    let instances = trust.keys_ever(DelegatedRole::Instance);
    let said = Membership::open(envelope, &trust.id(), SignerRule::OneOf(&instances)).ok()?;
    (said.node == *node).then_some(said)
}
