//! The second pass: the step that a decision asks for, the server's residue added, packed again as a delta (the union of
//! sparse updates is dense), and the residue left (spec §10.6).
//!
//! **The checkpoint is parent ⊕ decode(delta)**, in the file's own type. So the residue is what was wanted less what the
//! *file* has moved by: with f16 files steps of 1e-5 would mostly vanish otherwise. In LoRA mode the residue lives in
//! B-space; the rounding of W is not carried.

mod combine;
mod parent;

use owm_proto::Sha256;
use owm_update::{
    BLOCK, Block, BlockEncoder, BlockReport, Codec, Header, Mode, Residue, Subject, assemble,
};
use rayon::prelude::*;

use crate::{
    error::{AggregateError, DecideError},
    policy::Policy,
    spool::Spool,
    statistics::Statistics,
    strategy::Decision,
};
use combine::Mixer;
pub use combine::accumulate;
pub use parent::{Base, MemoryParent, Parent};

/// What is released, and how it is packed.
#[derive(Clone, Debug)]
pub struct Work {
    /// Of the delta; its origin is an aggregate of as many updates as were accepted.
    pub subject: Subject,
    /// How the delta is packed.
    pub codec: Codec,
}

/// A delta, and what the server keeps.
#[derive(Debug)]
pub struct Released {
    /// The canonical bytes.
    pub delta: Vec<u8>,
    /// Of the delta.
    pub sha256: Sha256,
    /// For the next round of this training, if this one is published; its hashes before and after are in the header.
    pub residue: Residue,
    /// Norm of the step with the residue.
    pub norm_target: f64,
    /// Norm of what the delta says.
    pub norm_delta: f64,
    /// Cosine between the two; 0 if one is nothing.
    pub cosine: f64,
}

/// Both passes: measures as `policy` needs it, lets `decide` (a strategy with its round) decide, releases.
pub fn aggregate(
    spool: &dyn Spool,
    policy: &Policy,
    decide: impl FnOnce(&Statistics) -> Result<Decision, DecideError>,
    work: Work,
    residue: Option<Residue>,
    base: &Base<'_>,
) -> Result<(Decision, Released), AggregateError> {
    let statistics = Statistics::measure_from(spool, policy.copy_overlap)?;
    let decision = decide(&statistics)?;
    let released = release(spool, &decision, work, residue, base)?;
    Ok((decision, released))
}

/// The step alone, without residue and packing: for comparing strategies.
pub fn mean(spool: &dyn Spool, decision: &Decision) -> Result<Vec<f64>, AggregateError> {
    let elements = spool.elements()? as usize;
    let mut step = vec![0.0; elements];
    let order = decision.accepted();
    first_error(step.par_chunks_mut(BLOCK).enumerate().map_init(
        Mixer::default,
        |mixer, (block, step)| {
            let sums = mixer.block(spool, decision, &order, block)?;
            step.copy_from_slice(&sums[..step.len()]);
            Ok(())
        },
    ))?;
    Ok(step)
}

/// The first error in the order of the blocks.
fn first_error(
    results: impl IndexedParallelIterator<Item = Result<(), AggregateError>>,
) -> Result<(), AggregateError> {
    results.find_map_first(Result::err).map_or(Ok(()), Err)
}

/// What one thread works with.
struct Bench {
    mixer: Mixer,
    encoder: BlockEncoder,
    target: Vec<f32>,
    decoded: Block,
    file: Vec<u8>,
}

impl Bench {
    fn new(codec: Codec) -> Self {
        Self {
            mixer: Mixer::default(),
            encoder: BlockEncoder::new(codec),
            target: Vec::new(),
            decoded: Block::default(),
            file: Vec::new(),
        }
    }
}

/// Makes the delta. `residue` is the server's of this training, `None` at first; after an abandoned round it is the same
/// as before. Peak memory: the residue, the delta, a block of each update per thread.
pub fn release(
    spool: &dyn Spool,
    decision: &Decision,
    work: Work,
    residue: Option<Residue>,
    base: &Base<'_>,
) -> Result<Released, AggregateError> {
    let Work { subject, codec } = work;
    let elements = spool.elements()?;
    base.check(&subject, elements)?;
    let mut header = Header {
        subject,
        codec,
        elements,
        residue_before: residue.as_ref().map(Residue::sha256),
        residue_after: None,
    };
    let mut values = match residue {
        Some(residue) => {
            residue.check(&header.subject, elements)?;
            residue.into_values()
        }
        None => vec![0.0; elements as usize],
    };
    let order = decision.accepted();
    let mut blocks = vec![(Vec::new(), BlockReport::default()); header.blocks()];
    first_error(
        blocks
            .par_iter_mut()
            .zip(values.par_chunks_mut(BLOCK))
            .enumerate()
            .map_init(
                || Bench::new(codec),
                |bench, (block, (packed, residue))| {
                    let sums = bench.mixer.block(spool, decision, &order, block)?;
                    for (at, (residue, sum)) in residue.iter_mut().zip(sums).enumerate() {
                        *residue = (f64::from(*residue) + sum) as f32;
                        if !residue.is_finite() {
                            let element = block as u64 * BLOCK as u64 + at as u64;
                            return Err(AggregateError::NotFinite(element));
                        }
                    }
                    bench.pack(&header, base, block, residue, packed)
                },
            ),
    )?;
    let residue = Residue::new(&header.subject, values)?;
    header.residue_after = Some(residue.sha256());
    let lengths: Vec<u32> = blocks.iter().map(|(bytes, _)| bytes.len() as u32).collect();
    let parts: Vec<&[u8]> = blocks.iter().map(|(bytes, _)| &bytes[..]).collect();
    let delta = assemble(&header, &lengths, &parts).map_err(owm_update::UpdateError::from)?;
    let reports = blocks.iter().map(|(_, report)| report);
    let (given, sent, dot) = reports.fold((0.0, 0.0, 0.0), |(given, sent, dot), report| {
        (given + report.given, sent + report.sent, dot + report.dot)
    });
    let (norm_target, norm_delta) = (f64::sqrt(given), f64::sqrt(sent));
    let norms = norm_target * norm_delta;
    Ok(Released {
        sha256: Sha256::of(&delta),
        delta,
        residue,
        norm_target,
        norm_delta,
        cosine: if norms > 0.0 { dot / norms } else { 0.0 },
    })
}

impl Bench {
    /// Packs the target in `residue`, and leaves there what the checkpoint has not moved by.
    fn pack(
        &mut self,
        header: &Header,
        base: &Base<'_>,
        block: usize,
        residue: &mut [f32],
        (bytes, report): &mut (Vec<u8>, BlockReport),
    ) -> Result<(), AggregateError> {
        self.target.clear();
        self.target.extend_from_slice(residue);
        *report = self.encoder.encode(residue, bytes);
        if header.subject.mode != Mode::Full {
            return Ok(());
        }
        self.decoded.read_at(header, block, bytes)?;
        base.moved(block, &self.decoded, &mut self.file, |place, moved| {
            residue[place] = (f64::from(self.target[place]) - moved) as f32;
        })
    }
}
