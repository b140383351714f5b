//! The root key's statements that arrive while the coordinator runs: a revocation or delegation that peers know
//! of. `swarm::fold` hands them in. Must stay true: only what the root key has signed is kept; nothing that was
//! known is ever forgotten or overwritten; what is acted on is on the disk, or the log says that it is not.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    path::Path,
    sync::{Arc, PoisonError},
};

use owm_p2p::Documents;
use owm_proto::{Envelope, Sha256, UnixMillis, genesis::TrustRoot};

use super::{Authority, IdentityError, Statements, io, make_folder};

/// What came of newer documents.
#[derive(Debug, Default)]
pub struct Learnt {
    /// Delegations that were not known.
    pub delegations: usize,
    /// Revocations that were not known.
    pub revocations: usize,
    /// They are acted on, but not all of them are in the folder: after a restart they are known again only
    /// once a peer tells of them.
    pub not_kept: Option<IdentityError>,
    /// Our own key is revoked.
    pub we_are_revoked: bool,
}

impl Authority {
    /// Takes over the statements of `documents` that are new here, and keeps them in `delegations/` and
    /// `revocations/`, each under its id. Blocks on the disk.
    pub fn learn(&self, documents: &Documents, now: UnixMillis) -> Result<Learnt, IdentityError> {
        let mut known = self
            .statements
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let delegations = unknown(&known.delegations, &documents.delegations);
        let revocations = unknown(&known.revocations, &documents.revocations);
        let mut learnt = Learnt {
            delegations: delegations.len(),
            revocations: revocations.len(),
            ..Learnt::default()
        };
        if delegations.is_empty() && revocations.is_empty() {
            return Ok(learnt);
        }
        let all = |known: &[Envelope], new: &[Envelope]| [known, new].concat();
        let (all_delegations, all_revocations) = (
            all(&known.delegations, &delegations),
            all(&known.revocations, &revocations),
        );
        let network = Some(known.trust.id());
        let trust =
            TrustRoot::from_documents(network, &self.genesis, &all_delegations, &all_revocations)?;
        let own = self.instance.public();
        learnt.we_are_revoked = trust.is_revoked(&own, now);
        *known = Arc::new(Statements {
            trust,
            delegations: all_delegations,
            revocations: all_revocations,
        });
        // Revocations first: they are worth more.
        let kept = keep(&self.dir.join("revocations"), &revocations)
            .and_then(|()| keep(&self.dir.join("delegations"), &delegations));
        learnt.not_kept = kept.err();
        Ok(learnt)
    }
}

fn unknown(known: &[Envelope], said: &[Envelope]) -> Vec<Envelope> {
    let mut ids: BTreeSet<Sha256> = known.iter().map(Envelope::id).collect();
    let new = said.iter().filter(|envelope| ids.insert(envelope.id()));
    new.cloned().collect()
}

fn keep(folder: &Path, statements: &[Envelope]) -> Result<(), IdentityError> {
    if statements.is_empty() {
        return Ok(());
    }
    make_folder(folder)?;
    for statement in statements {
        let path = folder.join(format!("{}.bin", statement.id()));
        // Through a rename: a half one would keep the coordinator from starting.
        let mut beside = tempfile::NamedTempFile::new_in(folder).map_err(io(folder))?;
        beside
            .write_all(&statement.to_stored())
            .and_then(|()| beside.as_file().sync_all())
            .map_err(io(&path))?;
        beside.persist(&path).map_err(|error| IdentityError::Io {
            path,
            source: error.error,
        })?;
    }
    fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(io(folder))
}
