//! What a round publishes when it is opened, and what its arithmetic takes beside the updates: kept as exact JSON bytes,
//! so that a replay starts from the same.

use owm_aggregate::{Policy, StrategyName, gates::NormHistory};
use owm_coordinator_domain::round::acceptance::Loss;
use owm_proto::{
    PublicKey, Sha256, SubModelId,
    evaluation::{AskError, EvaluationAsk, ReferenceSteps, TextSource},
    genesis::NetworkId,
    hash::Hasher,
    manifest::ManifestFile,
};
use owm_update::{Codec, Keep, Mode, Origin, Published, Subject, ValueWidth};
use serde::{Deserialize, Serialize};

/// A text and how much of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reading {
    /// Which.
    pub text: TextSource,
    /// Documents at most.
    pub documents_max: u32,
    /// Bytes at most.
    pub bytes_max: u64,
    /// Tokens at least.
    pub tokens_min: u64,
    /// Tokens at most.
    pub tokens_max: u64,
    /// Tokens of a row.
    pub window: u32,
    /// Chooses and orders documents.
    pub seed: u64,
}

/// A node's local steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// On which text; every participant reads it by a seed of its own.
    pub reading: Reading,
    /// The shards that are named are dealt out, each to one participant.
    pub deal_shards: bool,
    /// Steps.
    pub steps: u32,
    /// Rows of a step.
    pub batch: u32,
    /// Learning rate.
    pub learning_rate: f32,
    /// The longest an update may be.
    pub clip_norm: f32,
    /// Of a million values, how many are sent.
    pub keep_ppm: u32,
    /// Bits of a value.
    pub value_bits: u8,
}

/// A round's configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundConfig {
    /// All files that the parent is loaded from.
    pub files: Vec<ManifestFile>,
    /// The tensors of its weights.
    pub layout: Sha256,
    /// Elements of the flat vector.
    pub elements: u64,
    /// Nodes that are asked at most.
    pub places: u32,
    /// How long nodes that could train are waited for before the draw, in milliseconds.
    pub gather_ms: u64,
    /// 32 bytes: decides the draw.
    pub draw_seed: Sha256,
    /// What participants do.
    pub training: Training,
    /// The public text of a reference update; none: none is made.
    pub reference: Option<Reading>,
    /// The held-out text that candidate and parent are measured on.
    pub evaluation: Reading,
    /// Reports wanted, each of another owner.
    pub evaluators: u32,
    /// How long a reference or an evaluation may take, in milliseconds.
    pub evaluation_ms: u64,
    /// The rule of the first attempt.
    pub strategy: StrategyName,
    /// Figures of gates and caps.
    pub policy: Policy,
    /// Norms of the rounds before.
    pub history: NormHistory,
    /// Losses of the last versions of this training on the same text, newest first.
    pub recent: Vec<Loss>,
}

impl RoundConfig {
    /// The exact bytes to store.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a configuration is plain JSON")
    }

    /// Reads what was stored.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// How updates and the delta are packed.
    pub fn codec(&self) -> Codec {
        Codec {
            keep: Keep::from_ppm(self.training.keep_ppm).unwrap_or(Keep::TENTH),
            values: ValueWidth::from_bits(self.training.value_bits)
                .unwrap_or(Codec::DEFAULT.values),
            ..Codec::DEFAULT
        }
    }

    /// The parent's weights: one file, as `open` has checked.
    pub fn weights(&self) -> Option<&ManifestFile> {
        self.files.iter().find(|file| file.is_weights())
    }

    /// What every update is held against.
    pub fn published(
        &self,
        network: NetworkId,
        round: u64,
        sub_model: &SubModelId,
        base: Sha256,
    ) -> Published {
        Published {
            network,
            round,
            sub_model: sub_model.clone(),
            base,
            layout: self.layout,
            mode: Mode::Full,
            elements: self.elements,
            codec: self.codec(),
            clip: self.training.clip_norm,
        }
    }

    /// What the delta is of.
    pub fn delta_subject(published: &Published, updates: u32) -> Subject {
        Subject {
            network: published.network,
            round: published.round,
            sub_model: published.sub_model.clone(),
            base: published.base,
            layout: published.layout,
            mode: published.mode.clone(),
            origin: Origin::Aggregate { updates },
        }
    }

    /// What participant `nr` of `of` is asked for.
    pub fn part_ask(
        &self,
        round: u64,
        node: &PublicKey,
        nr: usize,
        of: usize,
    ) -> Result<EvaluationAsk, AskError> {
        let mut reading = self.training.reading.clone();
        reading.seed = seed_of(reading.seed, round, node);
        if let TextSource::Corpus { shards, .. } = &mut reading.text
            && self.training.deal_shards
            && shards.len() >= of
        {
            let mine = shards.iter().skip(nr).step_by(of.max(1));
            *shards = mine.cloned().collect();
        }
        self.ask(&reading, Some(self.steps(round, true)))
    }

    /// What is asked of the node that makes a reference update.
    pub fn reference_ask(&self, round: u64, reading: &Reading) -> Result<EvaluationAsk, AskError> {
        self.ask(reading, Some(self.steps(round, false)))
    }

    /// What evaluators are asked of the parent, or with `candidate` in place of its weights.
    pub fn loss_ask(&self, candidate: Option<&ManifestFile>) -> Result<EvaluationAsk, AskError> {
        let mut ask = self.ask(&self.evaluation, None)?;
        if let Some(candidate) = candidate {
            for file in ask.files.iter_mut().filter(|file| file.is_weights()) {
                *file = ManifestFile {
                    name: file.name.clone(),
                    ..candidate.clone()
                };
            }
        }
        Ok(ask)
    }

    fn steps(&self, round: u64, takes_part: bool) -> ReferenceSteps {
        let training = &self.training;
        ReferenceSteps {
            steps: training.steps,
            batch: training.batch,
            learning_rate: training.learning_rate,
            clip_norm: training.clip_norm,
            keep_ppm: training.keep_ppm,
            value_bits: training.value_bits,
            round,
            takes_part,
            lora: None,
        }
    }

    fn ask(
        &self,
        reading: &Reading,
        reference: Option<ReferenceSteps>,
    ) -> Result<EvaluationAsk, AskError> {
        EvaluationAsk {
            files: self.files.clone(),
            text: reading.text.clone(),
            documents_max: reading.documents_max,
            bytes_max: reading.bytes_max,
            tokens_min: reading.tokens_min,
            tokens_max: reading.tokens_max,
            window: reading.window,
            seed: reading.seed,
            reference,
        }
        .checked()
    }
}

/// Each participant reads in an order of its own: the first 8 bytes, little-endian, of SHA-256(seed ‖ round ‖ key).
fn seed_of(seed: u64, round: u64, node: &PublicKey) -> u64 {
    let mut hash = Hasher::new();
    hash.update(&seed.to_le_bytes());
    hash.update(&round.to_le_bytes());
    hash.update(&node.0);
    let mut first = [0; 8];
    first.copy_from_slice(&hash.finish().0[..8]);
    u64::from_le_bytes(first)
}
