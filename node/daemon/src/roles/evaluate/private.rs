//! What a node tells of its operator's own text, and for whom it measures it at all. The other files of this room ask
//! here; the bounds stand in docs/protocol.md.
//!
//! Whoever may ask for the loss of any weights over any part of a text, as often as he likes and to the last digit,
//! reads the text: two asks that differ by one document give that document's loss, and weights can be made whose loss
//! says whether a sentence is there. So a text is measured as a whole that the asker does not choose, for signed
//! weights, a few times a day, and told in round figures.
//! An update that is trained on the text goes by the same rules; beyond them the step itself is what leaves.
//! Must stay true: every figure that leaves is a function of [`coarse`]'s, also where it is refused; each attempt is
//! counted before the text is read.

use owm_proto::{
    NodeKey, Sha256, UnixMillis,
    evaluation::{EvaluationAsk, ReferenceSteps, TextSource},
    hash::Hasher,
};

use crate::{engine::Measurement, tasklog::TaskLog, work::Refusal};

/// Fewer documents are not told of: a figure over few says much of each.
pub(super) const DOCUMENTS_MIN: u32 = 32;
/// Nor are fewer tokens.
pub(super) const TOKENS_MIN: u64 = 4_096;
/// Tokens that a training reads at least, what is read again counted again: its beginning and its end are told, and each
/// is of [`TOKENS_MIN`].
pub(super) const TRAINED_MIN: u64 = 2 * TOKENS_MIN;
/// Documents are told in multiples of this.
const DOCUMENTS_STEP: u32 = 32;
/// Tokens are told in multiples of this.
const TOKENS_STEP: u64 = 1_024;
/// Parts of a nat in which a loss is told.
const LOSS_PARTS: f64 = 1_000.0;
/// Parts of a byte in which the bytes of a token are told.
const BYTES_PARTS: u64 = 100;
/// In the task log.
const ALLOWANCE: &str = "own-text-measured";

/// What the operator allows of his own text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnText {
    /// Measurements of a UTC day; 0: none.
    pub per_day: u32,
    /// Also for weights that no manifest of this network names.
    pub any_weights: bool,
}

impl OwnText {
    /// Refuses, or counts one more measurement of today. `is_signed`: a manifest that this node trusts names all files
    /// of the candidate.
    pub(super) fn admit(
        self,
        ask: &EvaluationAsk,
        is_signed: bool,
        log: &TaskLog,
        now: UnixMillis,
    ) -> Result<(), Refusal> {
        if !is_signed && !self.any_weights {
            return Err(Refusal::cannot(
                "this node measures its own text only with released weights: no manifest that it trusts names these \
                 ([text] any_weights)",
            ));
        }
        let bounds = Bounds::of(ask);
        if bounds.documents < DOCUMENTS_MIN || bounds.tokens < TOKENS_MIN {
            return Err(too_little());
        }
        if let Some(steps) = ask.reference
            && u64::from(steps.steps).saturating_mul(tokens_of_step(ask, steps)) < TRAINED_MIN
        {
            return Err(Refusal::cannot(format!(
                "on a node's own text nothing is trained over fewer than {TRAINED_MIN} tokens (steps × rows × window)"
            )));
        }
        let is_allowed = log.take_of_day(ALLOWANCE, now, self.per_day);
        if is_allowed.map_err(|error| Refusal::failed(error.to_string()))? {
            Ok(())
        } else {
            Err(Refusal::cannot(format!(
                "this node measures its own text {} times a day, and has done so today ([text] local_per_day)",
                self.per_day
            )))
        }
    }
}

/// How much of the text is read. Of a private one it is never what was asked, exactly: two asks give the same text, or
/// one of half its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) documents: u32,
    pub(super) bytes: u64,
    pub(super) tokens: u64,
}

impl Bounds {
    pub(super) fn of(ask: &EvaluationAsk) -> Self {
        let whole = Self {
            documents: ask.documents_max,
            bytes: ask.bytes_max,
            tokens: ask.tokens_max,
        };
        match ask.text {
            TextSource::Corpus { .. } => whole,
            TextSource::Local => Self {
                documents: 1 << whole.documents.max(1).ilog2(),
                bytes: 1 << whole.bytes.max(1).ilog2(),
                tokens: 1 << whole.tokens.max(1).ilog2(),
            },
        }
    }
}

/// Which documents are read, and in which order: of a private text the asker does not choose.
pub(super) fn order(ask: &EvaluationAsk, node: &NodeKey) -> u64 {
    match ask.text {
        TextSource::Corpus { .. } => ask.seed,
        TextSource::Local => first_number(secret(node, b"order")),
    }
}

fn first_number(hash: Sha256) -> u64 {
    let (first, _) = hash.as_bytes().split_first_chunk().expect("32 bytes");
    u64::from_le_bytes(*first)
}

/// The order in which a training reads the rows of its text: of a private one the asker does not choose it either, but it
/// is another one in every round.
pub(super) fn rows(ask: &EvaluationAsk, node: &NodeKey, round: u64) -> u64 {
    match ask.text {
        TextSource::Corpus { .. } => ask.seed,
        TextSource::Local => {
            let mut rows = Hasher::new();
            rows.update(secret(node, b"rows").as_bytes());
            rows.update(&round.to_le_bytes());
            first_number(rows.finish())
        }
    }
}

/// What is told of a training's losses, before it is rounded: the first and the last step's; of a private text the means
/// over as many first and last steps as read [`TOKENS_MIN`] tokens.
pub(super) fn losses(ask: &EvaluationAsk, steps: ReferenceSteps, losses: &[f32]) -> [f64; 2] {
    let enough = match ask.text {
        TextSource::Corpus { .. } => 1,
        TextSource::Local => TOKENS_MIN.div_ceil(tokens_of_step(ask, steps).max(1)),
    };
    let enough = usize::try_from(enough)
        .unwrap_or(usize::MAX)
        .min(losses.len());
    let mean = |losses: &[f32]| {
        let sum: f64 = losses.iter().copied().map(f64::from).sum();
        sum / losses.len().max(1) as f64
    };
    [
        mean(&losses[..enough]),
        mean(&losses[losses.len() - enough..]),
    ]
}

/// Tokens that one step reads.
fn tokens_of_step(ask: &EvaluationAsk, steps: ReferenceSteps) -> u64 {
    u64::from(steps.batch).saturating_mul(u64::from(ask.window))
}

/// What is told of a measurement that has been made: of a private text round figures, and nothing at all of too little.
pub(super) fn told(
    ask: &EvaluationAsk,
    node: &NodeKey,
    found: Measurement,
) -> Result<Measurement, Refusal> {
    let told = match ask.text {
        TextSource::Corpus { .. } => found,
        TextSource::Local if found.documents < DOCUMENTS_MIN || found.tokens < TOKENS_MIN => {
            return Err(too_little());
        }
        TextSource::Local => Measurement {
            tokens_sha256: shown_hash(node, found.tokens_sha256),
            ..coarse(&found)
        },
    };
    if told.tokens < ask.tokens_min {
        return Err(Refusal::cannot(format!(
            "the text has {} tokens, at least {} are asked for",
            told.tokens, ask.tokens_min
        )));
    }
    Ok(told)
}

fn too_little() -> Refusal {
    Refusal::cannot(format!(
        "of a node's own text nothing is told below {DOCUMENTS_MIN} held-out documents and {TOKENS_MIN} tokens, and \
         what is here, or asked for, is less"
    ))
}

/// The counts rounded down; the bytes and the bits per byte follow from the counts, the loss and the bytes of a token,
/// all of them rounded.
fn coarse(found: &Measurement) -> Measurement {
    let tokens = found.tokens / TOKENS_STEP * TOKENS_STEP;
    let per_token = found.bytes.saturating_mul(BYTES_PARTS) / found.tokens.max(1);
    let bytes = (tokens.saturating_mul(per_token) / BYTES_PARTS).max(1);
    let loss = (found.loss * LOSS_PARTS).round() / LOSS_PARTS;
    Measurement {
        documents: found.documents / DOCUMENTS_STEP * DOCUMENTS_STEP,
        bytes,
        tokens,
        tokens_sha256: found.tokens_sha256,
        loss,
        bits_per_byte: loss * tokens as f64 / std::f64::consts::LN_2 / bytes as f64,
    }
}

/// The hash of the tokens as it is told: under a secret of this node, which stays the same, so that two reports on one
/// text can be told to be, and nobody can try texts against it.
fn shown_hash(node: &NodeKey, tokens: Sha256) -> Sha256 {
    let mut shown = Hasher::new();
    shown.update(secret(node, b"").as_bytes());
    shown.update(tokens.as_bytes());
    shown.finish()
}

fn secret(node: &NodeKey, of: &[u8]) -> Sha256 {
    let mut secret = Hasher::new();
    secret.update(b"owm/private-text/v1\0");
    secret.update(of);
    secret.update(&node.to_pkcs8_der());
    secret.finish()
}

#[cfg(test)]
mod tests;
