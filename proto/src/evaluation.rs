//! What an `evaluate` task asks for and what its report says (spec §10.4, §10.8); an `fl_round` task asks and is answered
//! in the same words. The coordinator makes
//! [`EvaluationAsk`]s, nodes take them from the wire and sign [`EvaluationReport`]s.
//! Must stay true: what is parsed here is within its bounds; figures travel as the bits of an f64, so that
//! whoever repeats a decision repeats it from the same numbers.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    hash::Sha256,
    ladder::FileSpec,
    limits::{
        CANDIDATE_FILES_MAX, EVALUATE_BYTES_MAX, EVALUATE_DOCUMENTS_MAX, EVALUATE_WINDOW_MAX,
        FORMER_PARTS_MAX, LORA_RANK_MAX, REPORT_BYTES_MAX, SHARDS_NAMED_MAX, SHORT_TEXT_BYTES_MAX,
        TRAIN_BATCH_MAX, TRAIN_STEPS_MAX,
    },
    manifest::{ManifestFile, is_plain_file_name},
    wire::coordinator as wire,
};

/// Where the text comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TextSource {
    /// A public corpus.
    Corpus {
        /// `owm-geo`.
        id: String,
        /// The parts of it; none: all.
        shards: Vec<String>,
    },
    /// The folder that the node's operator has named; nothing of it leaves the node.
    Local,
}

impl fmt::Display for TextSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Corpus { id, shards } if shards.is_empty() => f.write_str(id),
            Self::Corpus { id, shards } => write!(f, "{id}/{}", shards.join("+")),
        }
    }
}

/// How an update is made (spec §10.2): a node's part in a round, or a reference for one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReferenceSteps {
    /// `AdamW` steps.
    pub steps: u32,
    /// Rows of one step.
    pub batch: u32,
    /// Full learning rate.
    pub learning_rate: f32,
    /// Longest update, as a norm.
    pub clip_norm: f32,
    /// Of a million values, how many are sent.
    pub keep_ppm: u32,
    /// Bits of one value: 2 or 8.
    pub value_bits: u8,
    /// The round it is a reference for; 0: none.
    pub round: u64,
    /// It is the node's own part in the round (a lease of type `fl_round`): its residue goes in, and what is left is kept.
    pub takes_part: bool,
    /// Low-rank training; absent: every weight.
    pub lora: Option<LoraPlan>,
}

/// Low-rank training of one epoch (spec §10.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoraPlan {
    /// Rows of A.
    pub rank: u16,
    /// Which epoch.
    pub epoch: u32,
    /// Decides A.
    pub seed: [u8; 32],
}

/// What a node is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluationAsk {
    /// Everything the model is loaded from.
    pub files: Vec<ManifestFile>,
    /// Which text.
    pub text: TextSource,
    /// At most so many documents of it.
    pub documents_max: u32,
    /// At most so many bytes of it.
    pub bytes_max: u64,
    /// With fewer tokens there is no report.
    pub tokens_min: u64,
    /// Whole documents until this many tokens.
    pub tokens_max: u64,
    /// Tokens of one row.
    pub window: u32,
    /// Chooses the documents, and orders them where they are trained on.
    pub seed: u64,
    /// Train instead of measuring.
    pub reference: Option<ReferenceSteps>,
}

/// Why an ask is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the evaluation asks for what is not allowed: {0}")]
pub struct AskError(String);

impl EvaluationAsk {
    /// SHA-256s of the weights, in the order of the files.
    pub fn weights_sha256(&self) -> Vec<Sha256> {
        let weights = self.files.iter().filter(|file| file.is_weights());
        weights.map(|file| file.sha256).collect()
    }

    /// The same, if it is within all bounds.
    pub fn checked(self) -> Result<Self, AskError> {
        match self.fault() {
            None => Ok(self),
            Some(fault) => Err(AskError(fault)),
        }
    }

    fn fault(&self) -> Option<String> {
        if self.files.is_empty() || self.files.len() > CANDIDATE_FILES_MAX {
            return Some(format!("1 to {CANDIDATE_FILES_MAX} files are a candidate"));
        }
        for (at, file) in self.files.iter().enumerate() {
            if !is_plain_file_name(&file.name) {
                return Some(format!("{:?} is no plain file name", file.name));
            }
            if self.files[..at].iter().any(|other| other.name == file.name) {
                return Some(format!("{} is named twice", file.name));
            }
            if let Err(error) = FileSpec::of(file) {
                return Some(format!("{}: {error}", file.name));
            }
        }
        if self.weights_sha256().is_empty() {
            return Some("no file holds weights (.safetensors)".into());
        }
        if let TextSource::Corpus { id, shards } = &self.text {
            let is_plain = |name: &String| (1..=SHORT_TEXT_BYTES_MAX).contains(&name.len());
            if !is_plain(id) || shards.len() > SHARDS_NAMED_MAX || !shards.iter().all(is_plain) {
                return Some("the names of corpus and shards are too long or too many".into());
            }
        }
        let bounds = [
            (
                "documents_max",
                u64::from(self.documents_max),
                u64::from(EVALUATE_DOCUMENTS_MAX),
            ),
            ("bytes_max", self.bytes_max, EVALUATE_BYTES_MAX),
            ("tokens_min", self.tokens_min, self.tokens_max),
            ("tokens_max", self.tokens_max, EVALUATE_BYTES_MAX),
            (
                "window",
                u64::from(self.window),
                u64::from(EVALUATE_WINDOW_MAX),
            ),
        ];
        let out = bounds
            .iter()
            .find(|(_, value, max)| !(1..=*max).contains(value));
        if let Some((name, value, max)) = out {
            return Some(format!("{name} is {value}, 1 to {max} are taken"));
        }
        self.reference.and_then(|reference| reference.fault())
    }
}

impl ReferenceSteps {
    fn fault(&self) -> Option<String> {
        let is_positive = |value: f32| value.is_normal() && value > 0.0;
        if !(1..=TRAIN_STEPS_MAX).contains(&self.steps)
            || !(1..=TRAIN_BATCH_MAX).contains(&self.batch)
        {
            return Some(format!(
                "1 to {TRAIN_STEPS_MAX} steps of 1 to {TRAIN_BATCH_MAX} rows are taken"
            ));
        }
        if !is_positive(self.learning_rate) || !is_positive(self.clip_norm) {
            return Some("learning rate and clip norm must be positive".into());
        }
        let is_rank = |lora: LoraPlan| (1..=LORA_RANK_MAX).contains(&u32::from(lora.rank));
        if self.takes_part && self.round == 0 {
            return Some("a part is taken in a round, whose number is above 0".into());
        }
        if !self.lora.is_none_or(is_rank) {
            return Some(format!("ranks of 1 to {LORA_RANK_MAX} are taken"));
        }
        if !(1..=1_000_000).contains(&self.keep_ppm) || !matches!(self.value_bits, 2 | 8) {
            return Some("keep_ppm must be 1 to 1,000,000 and value_bits 2 or 8".into());
        }
        None
    }
}

impl TryFrom<wire::EvaluatePayload> for EvaluationAsk {
    type Error = AskError;

    fn try_from(said: wire::EvaluatePayload) -> Result<Self, AskError> {
        let hash = |hex: &str| {
            hex.parse::<Sha256>()
                .map_err(|error| AskError(error.to_string()))
        };
        let file = |file: wire::CandidateFile| {
            Ok(ManifestFile {
                sha256: hash(&file.sha256)?,
                ladder_sha256: match file.ladder_sha256.as_str() {
                    "" => None,
                    hex => Some(hash(hex)?),
                },
                name: file.name,
                size: file.size,
                piece_len: (file.piece_len > 0).then_some(file.piece_len),
            })
        };
        let text = if said.corpus.is_empty() {
            TextSource::Local
        } else {
            TextSource::Corpus {
                id: said.corpus,
                shards: said.shards,
            }
        };
        let lora = |steps: &wire::ReferenceSteps| {
            let plan = || {
                Ok(LoraPlan {
                    rank: u16::try_from(steps.lora_rank).unwrap_or(u16::MAX),
                    epoch: steps.lora_epoch,
                    seed: steps.lora_seed.as_slice().try_into().map_err(|_| {
                        AskError("the seed of a low-rank plan has 32 bytes".to_owned())
                    })?,
                })
            };
            (steps.lora_rank > 0).then(plan).transpose()
        };
        let reference = said
            .reference
            .map(|steps| {
                Ok(ReferenceSteps {
                    lora: lora(&steps)?,
                    steps: steps.steps,
                    batch: steps.batch,
                    learning_rate: steps.learning_rate,
                    clip_norm: steps.clip_norm,
                    keep_ppm: steps.keep_ppm,
                    value_bits: u8::try_from(steps.value_bits).unwrap_or(0),
                    round: steps.round,
                    takes_part: steps.takes_part,
                })
            })
            .transpose()?;
        Self {
            files: said.files.into_iter().map(file).collect::<Result<_, _>>()?,
            text,
            documents_max: said.documents_max,
            bytes_max: said.bytes_max,
            tokens_min: said.tokens_min,
            tokens_max: said.tokens_max,
            window: said.window,
            seed: said.seed,
            reference,
        }
        .checked()
    }
}

/// What became of a part that a node took in a round that is over. It travels beside the ask of the node's next part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormerPart {
    /// SHA-256 of the update's canonical bytes.
    pub update: Sha256,
    /// It is in what the round published; else what it carried comes back into the node's residue.
    pub counted: bool,
}

impl FormerPart {
    /// Those that a payload tells of.
    pub fn told(said: &wire::EvaluatePayload) -> Result<Vec<Self>, AskError> {
        if said.former.len() > FORMER_PARTS_MAX {
            return Err(AskError(format!(
                "{FORMER_PARTS_MAX} former parts are told of at most"
            )));
        }
        let part = |part: &wire::FormerPart| {
            let update = part.update_sha256.as_slice().try_into();
            let update = update.map_err(|_| {
                AskError("the SHA-256 of a former part's update has 32 bytes".to_owned())
            })?;
            Ok(Self {
                update: Sha256(update),
                counted: part.counted,
            })
        };
        said.former.iter().map(part).collect()
    }
}

impl From<&FormerPart> for wire::FormerPart {
    fn from(part: &FormerPart) -> Self {
        Self {
            update_sha256: part.update.0.to_vec(),
            counted: part.counted,
        }
    }
}

impl From<&EvaluationAsk> for wire::EvaluatePayload {
    fn from(ask: &EvaluationAsk) -> Self {
        let (corpus, shards) = match &ask.text {
            TextSource::Local => (String::new(), Vec::new()),
            TextSource::Corpus { id, shards } => (id.clone(), shards.clone()),
        };
        let file = |file: &ManifestFile| wire::CandidateFile {
            name: file.name.clone(),
            size: file.size,
            sha256: file.sha256.to_string(),
            piece_len: file.piece_len.unwrap_or(0),
            ladder_sha256: file
                .ladder_sha256
                .map(|hash| hash.to_string())
                .unwrap_or_default(),
        };
        Self {
            files: ask.files.iter().map(file).collect(),
            corpus,
            shards,
            documents_max: ask.documents_max,
            bytes_max: ask.bytes_max,
            tokens_min: ask.tokens_min,
            tokens_max: ask.tokens_max,
            window: ask.window,
            seed: ask.seed,
            reference: ask.reference.map(|steps| wire::ReferenceSteps {
                steps: steps.steps,
                batch: steps.batch,
                learning_rate: steps.learning_rate,
                clip_norm: steps.clip_norm,
                keep_ppm: steps.keep_ppm,
                value_bits: u32::from(steps.value_bits),
                round: steps.round,
                takes_part: steps.takes_part,
                lora_rank: steps.lora.map_or(0, |lora| u32::from(lora.rank)),
                lora_epoch: steps.lora.map_or(0, |lora| lora.epoch),
                lora_seed: steps.lora.map_or(Vec::new(), |lora| lora.seed.to_vec()),
            }),
            former: Vec::new(),
        }
    }
}

/// A figure, exactly: in JSON the 16 lowercase hex digits of the f64's bits, the sign's first.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct ExactF64(pub f64);

impl Serialize for ExactF64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:016x}", self.0.to_bits()))
    }
}

impl<'de> Deserialize<'de> for ExactF64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 16 || !text.bytes().all(is_hex) {
            return Err(D::Error::custom("not 16 lowercase hex digits of an f64"));
        }
        let bits = u64::from_str_radix(&text, 16).map_err(D::Error::custom)?;
        Ok(Self(f64::from_bits(bits)))
    }
}

/// What a node says it found; the signed result's output hash is the SHA-256 of its exact JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationReport {
    /// SHA-256s of the candidate's weights, in the ask's order.
    pub candidate: Vec<Sha256>,
    /// With which text.
    pub text: TextSource,
    /// Tokens of one row.
    pub window: u32,
    /// Documents used.
    pub documents: u32,
    /// Bytes of these documents.
    pub bytes: u64,
    /// Tokens of them that were used.
    pub tokens: u64,
    /// Hash of the row of tokens ([`crate::statement::tokens_sha256`]); of a local text SHA-256 over a secret
    /// of the node and that hash, so that nobody can try texts against it.
    pub tokens_sha256: Sha256,
    /// What came of it.
    pub finding: Finding,
}

/// What came of an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Finding {
    /// How well the candidate foretells the text.
    HeldOut {
        /// Nats per token.
        loss: ExactF64,
        /// The text's length as the model would write it.
        bits_per_byte: ExactF64,
    },
    /// A reference update: its bytes go by `SubmitUpdate`.
    Update {
        /// SHA-256 of its canonical bytes.
        sha256: Sha256,
        /// How many.
        size: u64,
        /// Loss of the first and the last step.
        losses: [ExactF64; 2],
    },
}

impl EvaluationReport {
    /// The exact bytes whose hash is signed.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a report is plain JSON")
    }

    /// Parses what came; `None`: too long, or no JSON of this shape.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes = (bytes.len() <= REPORT_BYTES_MAX).then_some(bytes)?;
        serde_json::from_slice(bytes).ok()
    }
}

#[cfg(test)]
mod tests;
