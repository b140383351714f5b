//! What everything is verified with, and the newest checkpoint. Pure. Must stay true: what is kept has been
//! verified; documents only grow; a checkpoint is only ever replaced by a higher sequence.

use std::collections::BTreeSet;

use owm_proto::{
    Envelope, EnvelopeError, Sha256, SignerRule, UnixMillis,
    envelope::Purpose,
    genesis::{DelegatedRole, GenesisError, NetworkId, TrustRoot},
    gossip::Checkpoint,
    manifest::Manifest,
    statement::Statement as _,
};

use crate::{Documents, meet::STATEMENTS_MAX, news::NewestCheckpoint};

/// What a peer says the documents are; nothing of it is verified.
#[derive(Debug, Default)]
pub(super) struct Offered {
    pub(super) genesis: Vec<u8>,
    pub(super) delegations: Vec<Envelope>,
    pub(super) revocations: Vec<Envelope>,
    pub(super) bootstrap: Option<Envelope>,
    pub(super) web_seed: String,
}

/// Why a checkpoint with its manifest is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unverified {
    /// A signature or a hash does not hold: who told it could have seen that.
    Fault,
    /// By a key that we don't know, or signed by one that we trust in a form that we can't read: nobody is to
    /// blame.
    Unreadable,
}

fn fault(error: &EnvelopeError) -> Unverified {
    match error {
        EnvelopeError::WrongSigner { .. } | EnvelopeError::BadPayload { .. } => {
            Unverified::Unreadable
        }
        _ => Unverified::Fault,
    }
}

/// The hint where to fetch files, if it is one.
fn web_seed(url: String) -> String {
    /// Of a URL.
    const BYTES_MAX: usize = 1 << 10;
    let is_http = url.starts_with("http://") || url.starts_with("https://");
    if is_http && url.len() <= BYTES_MAX {
        url
    } else {
        String::new()
    }
}

/// What is known.
#[derive(Debug)]
pub(super) struct Known {
    network: NetworkId,
    documents: Option<Documents>,
    newest: Option<NewestCheckpoint>,
}

impl Known {
    pub(super) fn new(
        network: NetworkId,
        documents: Option<Documents>,
        newest: Option<NewestCheckpoint>,
    ) -> Self {
        Self {
            network,
            documents,
            newest,
        }
    }

    pub(super) fn documents(&self) -> Option<&Documents> {
        self.documents.as_ref()
    }

    pub(super) fn trust(&self) -> Option<&TrustRoot> {
        self.documents().map(Documents::trust)
    }

    pub(super) fn newest(&self) -> Option<&NewestCheckpoint> {
        self.newest.as_ref()
    }

    /// Of the newest checkpoint, 0: none.
    pub(super) fn sequence(&self) -> u64 {
        self.newest().map_or(0, |newest| newest.checkpoint.sequence)
    }

    /// Tells our statements from others': over their ids, in any order. Empty before there are documents.
    pub(super) fn statements_sha256(&self) -> Vec<u8> {
        let Some(ours) = self.documents() else {
            return Vec::new();
        };
        let statements = ours.delegations.iter().chain(&ours.revocations);
        let ids: BTreeSet<Sha256> = statements
            .chain(&ours.bootstrap)
            .map(Envelope::id)
            .collect();
        let ids: Vec<u8> = ids.iter().flat_map(|id| *id.as_bytes()).collect();
        Sha256::of(&ids).as_bytes().to_vec()
    }

    /// Adds what is new in `offered`; whether anything was.
    pub(super) fn merge(
        &mut self,
        offered: Offered,
        now: UnixMillis,
    ) -> Result<bool, GenesisError> {
        let ours = self.documents();
        let all = |ours: Option<&[Envelope]>, offered: Vec<Envelope>| {
            let mut statements = ours.unwrap_or_default().to_vec();
            let mut ids: BTreeSet<Sha256> = statements.iter().map(Envelope::id).collect();
            statements.extend(offered.into_iter().filter(|e| ids.insert(e.id())));
            statements.truncate(STATEMENTS_MAX);
            statements
        };
        let delegations = all(ours.map(|d| d.delegations.as_slice()), offered.delegations);
        let revocations = all(ours.map(|d| d.revocations.as_slice()), offered.revocations);
        let grown = ours.is_none_or(|ours| {
            delegations.len() > ours.delegations.len() || revocations.len() > ours.revocations.len()
        });
        let bootstrap = offered.bootstrap;
        let other = bootstrap.is_some() && bootstrap != ours.and_then(|d| d.bootstrap.clone());
        if !grown && !other {
            return Ok(false);
        }
        let seed = ours.map(|d| d.web_seed.clone()).filter(|s| !s.is_empty());
        let merged = Documents::verify(
            Some(self.network),
            ours.map_or(offered.genesis, |d| d.genesis.clone()),
            delegations,
            revocations,
            bootstrap,
            seed.unwrap_or_else(|| web_seed(offered.web_seed)),
            now,
        )?;
        let merged = self.with_latest_bootstrap(merged, now);
        let newer = grown || merged.bootstrap != self.documents().and_then(|d| d.bootstrap.clone());
        if newer {
            self.documents = Some(merged);
        }
        Ok(newer)
    }

    /// The bootstrap statement that was issued last, of `merged` and ours; of two issued at once the one with
    /// the higher id, so that all peers end with the same.
    fn with_latest_bootstrap(&self, mut merged: Documents, now: UnixMillis) -> Documents {
        let rank = |documents: &Documents| {
            let id = documents.bootstrap.as_ref().map(Envelope::id);
            (documents.parameters(now).issued_at_ms, id)
        };
        let offered = rank(&merged);
        let Some(ours) = self.documents().and_then(|d| d.bootstrap.clone()) else {
            return merged;
        };
        let theirs = merged.bootstrap.replace(ours);
        if theirs.is_some() && offered > rank(&merged) {
            merged.bootstrap = theirs;
        }
        merged
    }

    /// Forgets the newest checkpoint if the key that signed it has been revoked.
    pub(super) fn recheck(&mut self) {
        let Some(trust) = self.trust() else { return };
        let releases = trust.keys_ever(DelegatedRole::Release);
        let signer = |newest: &mut NewestCheckpoint| newest.envelope.claimed_signer();
        self.newest
            .take_if(|newest| !releases.contains(&signer(newest)));
    }

    /// Both parts verified, and that they belong together.
    pub(super) fn verified(
        &self,
        envelope: Envelope,
        manifest_envelope: Envelope,
    ) -> Result<NewestCheckpoint, Unverified> {
        let trust = self.trust().ok_or(Unverified::Unreadable)?;
        let releases = trust.keys_ever(DelegatedRole::Release);
        let release = SignerRule::OneOf(&releases);
        let checkpoint =
            Checkpoint::open(&envelope, &self.network, release).map_err(|error| fault(&error))?;
        let bytes = manifest_envelope.unverified_payload();
        if checkpoint.manifest_sha256 != Sha256::of(bytes) {
            return Err(Unverified::Fault);
        }
        let signed = manifest_envelope.verify(Purpose::Manifest, &self.network, release);
        let signed = signed.map_err(|error| fault(&error))?;
        let manifest = Manifest::from_bytes(signed.payload).or(Err(Unverified::Unreadable))?;
        let same =
            manifest.sequence == checkpoint.sequence && manifest.version == checkpoint.version;
        if !same {
            return Err(Unverified::Unreadable);
        }
        Ok(NewestCheckpoint {
            checkpoint,
            envelope,
            manifest,
            manifest_envelope,
        })
    }

    /// The sequence of a stored checkpoint envelope, if a release key has signed it.
    pub(super) fn sequence_of(&self, stored: &[u8]) -> Option<u64> {
        let releases = self.trust()?.keys_ever(DelegatedRole::Release);
        let envelope = Envelope::from_stored(stored).ok()?;
        let release = SignerRule::OneOf(&releases);
        let checkpoint = Checkpoint::open(&envelope, &self.network, release).ok()?;
        Some(checkpoint.sequence)
    }

    /// Keeps it if it is newer; whether it was.
    pub(super) fn learn(&mut self, newest: NewestCheckpoint) -> bool {
        let newer = newest.checkpoint.sequence > self.sequence();
        if newer {
            self.newest = Some(newest);
        }
        newer
    }
}
