//! The arithmetic of a round, over files: updates in, decision, delta, candidate and residue out. `driver` and `replay`
//! call it with the same inputs and come to the same bytes. Everything here blocks.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
};

use owm_aggregate::{
    Base, Decision, FileSpool, Released, Spool as _, Statistics, StrategyName, Submission, Work,
    gates::Field, release,
};
use owm_coordinator_domain::round::Attempt;
use owm_proto::{Sha256, SubModelId, genesis::NetworkId};
use owm_update::layout::LayoutError;
use owm_update::{Layout, Origin, Published, Update, apply::Merge};
use serde::{Deserialize, Serialize};

use super::{
    RoundError,
    archive::{self, Archive},
    config::RoundConfig,
};

/// Bytes of a weights file's header that are read at most.
const HEADER_BYTES_MAX: u64 = 64 << 20;

/// Who handed in what, in the order of the keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inputs {
    /// Each node's part.
    pub submissions: Vec<Submission>,
    /// SHA-256 of each one's update.
    pub updates: Vec<Sha256>,
    /// SHA-256 of the reference update.
    pub reference: Option<Sha256>,
}

/// A round, as its arithmetic sees it.
#[derive(Clone, Debug)]
pub struct Task {
    /// The network.
    pub network: NetworkId,
    /// Its number.
    pub round: u64,
    /// What is trained.
    pub sub_model: SubModelId,
    /// SHA-256 of the parent's weights.
    pub parent: Sha256,
    /// Where they lie.
    pub parent_path: PathBuf,
    /// What was published.
    pub config: RoundConfig,
    /// The server's residue that goes in.
    pub residue_before: Option<Sha256>,
}

/// What came out.
#[derive(Debug)]
pub struct Made {
    /// Gates, weights, caps.
    pub decision: Decision,
    /// The delta, and the residue that is left.
    pub released: Released,
    /// The candidate's file.
    pub checkpoint: Sha256,
    /// Elements whose bits have changed.
    pub changed: u64,
}

/// The tensors of a weights file.
pub fn layout_of(path: &Path) -> Result<Layout, RoundError> {
    let failed = |source| RoundError::File {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    let mut want = 8;
    loop {
        (&file)
            .take(want - bytes.len() as u64)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        match Layout::parse(&bytes) {
            Err(LayoutError::Short { needed, got })
                if needed <= HEADER_BYTES_MAX && got >= want =>
            {
                want = needed;
            }
            parsed => return Ok(parsed?),
        }
    }
}

impl Task {
    /// What every update is held against.
    pub fn published(&self) -> Published {
        let (round, sub_model) = (self.round, &self.sub_model);
        self.config
            .published(self.network, round, sub_model, self.parent)
    }

    /// Training samples that each update counts, from its header.
    pub fn samples(&self, archive: &Archive, updates: &[Sha256]) -> Result<Vec<u64>, RoundError> {
        let spool = self.spool(archive, updates)?;
        let samples = |update| match spool.opened(update).header.subject.origin {
            Origin::Node { samples, .. } => samples,
            Origin::Aggregate { .. } => 0,
        };
        Ok((0..spool.len()).map(samples).collect())
    }

    fn spool(&self, archive: &Archive, updates: &[Sha256]) -> Result<FileSpool, RoundError> {
        let paths = updates
            .iter()
            .map(|sha256| archive.update(self.round, sha256));
        FileSpool::open(paths).map_err(|source| RoundError::File {
            path: archive.folder(self.round),
            source,
        })
    }

    /// Decides, releases, makes the candidate in `into`.
    pub fn make(
        &self,
        archive: &Archive,
        attempt: Attempt,
        inputs: &Inputs,
        into: &Path,
    ) -> Result<Made, RoundError> {
        let strategy = match attempt {
            Attempt::First => self.config.strategy,
            Attempt::Fallback => StrategyName::MultiKrum,
        };
        let mut files = inputs.updates.clone();
        files.extend(inputs.reference);
        let spool = self.spool(archive, &files)?;
        let statistics = Statistics::measure(&spool)?;
        let decided = strategy.strategy().decide(&Field {
            submissions: &inputs.submissions,
            statistics: &statistics,
            policy: &self.config.policy,
            history: self.config.history,
            reference: inputs.reference.map(|_| inputs.updates.len()),
        });
        let decision = decided.map_err(owm_aggregate::AggregateError::from)?;
        let layout = layout_of(&self.parent_path)?;
        let open = || {
            let file = File::open(&self.parent_path);
            file.map_err(|source| RoundError::File {
                path: self.parent_path.clone(),
                source,
            })
        };
        let parent = open()?;
        let accepted = u32::try_from(decision.accepted().len()).unwrap_or(u32::MAX);
        let work = Work {
            subject: RoundConfig::delta_subject(&self.published(), accepted),
            codec: self.config.codec(),
        };
        let residue = self.residue_before.map(|hash| archive.residue(&hash));
        let base = Base {
            layout: &layout,
            parent: &parent,
        };
        let released = release(&spool, &decision, work, residue.transpose()?, &base)?;
        let (checkpoint, changed) = merge(&layout, &released.delta, open()?, into)?;
        Ok(Made {
            decision,
            released,
            checkpoint,
            changed,
        })
    }
}

/// Writes parent ⊕ delta to `into`.
fn merge(
    layout: &Layout,
    delta: &[u8],
    mut parent: File,
    into: &Path,
) -> Result<(Sha256, u64), RoundError> {
    let failed = |source| RoundError::File {
        path: into.to_owned(),
        source,
    };
    let size = parent.metadata().map_err(failed)?.len();
    let update = Update::parse(delta)?;
    let merge = Merge::new(layout, size, &update)?;
    let mut stream = merge.stream();
    let mut bytes = Vec::new();
    let mut refused = None;
    archive::write(into, |file| {
        while let Some(next) = stream.next_bytes() {
            bytes.resize(next, 0);
            parent.read_exact(&mut bytes)?;
            if let Err(error) = stream.apply(&mut bytes) {
                refused = Some(error);
                return Err(std::io::Error::other("the delta cannot be applied"));
            }
            file.write_all(&bytes)?;
        }
        Ok(())
    })
    .map_err(|error| refused.take().map_or(error, RoundError::from))?;
    let merged = stream.finish()?;
    Ok((merged.sha256, merged.changed))
}
