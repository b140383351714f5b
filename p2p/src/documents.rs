//! What any peer serves to a newcomer: the documents that everything else is verified with, and the newest
//! checkpoint. Must stay true: a value of this type has been verified against its genesis.

use owm_proto::{
    Envelope, PublicKey, SignerRule, UnixMillis,
    envelope::CLOCK_SKEW_MAX,
    genesis::{DelegatedRole, GenesisError, NetworkId, TrustRoot},
    gossip::Bootstrap,
    limits::SHORT_TEXT_BYTES_MAX,
    statement::Statement as _,
};

/// The verified documents of one network.
#[derive(Clone, Debug)]
pub struct Documents {
    /// Exact bytes; their SHA-256 is the network id.
    pub genesis: Vec<u8>,
    /// Root statements.
    pub delegations: Vec<Envelope>,
    /// Root statements.
    pub revocations: Vec<Envelope>,
    /// `owm/bootstrap/v1` of an instance, if one is known.
    pub bootstrap: Option<Envelope>,
    /// Base URL of `GET /v1/blobs/{sha256}`; empty: none. Not signed: a hint.
    pub web_seed: String,
    trust: TrustRoot,
}

impl Documents {
    /// Verifies genesis, delegations and revocations (against `expected`, if the network is known already)
    /// and keeps a bootstrap statement only if it holds at `now`, a web seed only if it is short.
    pub fn verify(
        expected: Option<NetworkId>,
        genesis: Vec<u8>,
        delegations: Vec<Envelope>,
        revocations: Vec<Envelope>,
        bootstrap: Option<Envelope>,
        mut web_seed: String,
        now: UnixMillis,
    ) -> Result<Self, GenesisError> {
        let trust = TrustRoot::from_documents(expected, &genesis, &delegations, &revocations)?;
        if web_seed.len() > SHORT_TEXT_BYTES_MAX {
            web_seed.clear();
        }
        let mut documents = Self {
            genesis,
            delegations,
            revocations,
            bootstrap: None,
            web_seed,
            trust,
        };
        documents.bootstrap = bootstrap.filter(|e| documents.opened(e, now).is_some());
        Ok(documents)
    }

    /// What they add up to.
    pub fn trust(&self) -> &TrustRoot {
        &self.trust
    }

    /// The agreed numbers at `now`; [`Bootstrap::before_any`] until a signed statement is known.
    pub fn parameters(&self, now: UnixMillis) -> Bootstrap {
        let signed = self.bootstrap.as_ref();
        signed
            .and_then(|envelope| self.opened(envelope, now))
            .unwrap_or_else(Bootstrap::before_any)
    }

    fn opened(&self, envelope: &Envelope, now: UnixMillis) -> Option<Bootstrap> {
        let instance = DelegatedRole::Instance;
        let instances = self.trust.keys_ever(instance);
        let rule = SignerRule::OneOf(&instances);
        let said = Bootstrap::open(envelope, &self.trust.id(), rule).ok()?;
        let signer = envelope.claimed_signer();
        let holds = holds_still(&self.trust, instance, &signer, said.issued_at_ms, now);
        // One from the future would outrank all that follow.
        let in_time = said.issued_at_ms <= now.after(CLOCK_SKEW_MAX);
        Some(said).filter(|said| holds && in_time && said.is_sound())
    }
}

/// Whether a durable statement that `key` issued in `role` holds at `now`: it outlives the delegation (spec §5),
/// and ends with a revocation. A key that was delegated after the time the statement names may repeat it.
pub(crate) fn holds_still(
    trust: &TrustRoot,
    role: DelegatedRole,
    key: &PublicKey,
    issued: UnixMillis,
    now: UnixMillis,
) -> bool {
    let delegated = |at| trust.is_delegated(role, key, at);
    trust.keys_ever(role).contains(key) && (delegated(issued) || delegated(now))
}
