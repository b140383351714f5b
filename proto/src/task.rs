//! Kinds of work, roles, and the names of models and their versions (spec §8, §9).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::{hash::ParseError, money::Permille, tier::text_enum};

text_enum! {
    /// What a task asks a node to do.
    TaskType, "a task type" {
        /// Local training for a federated round.
        FlRound = "fl_round",
        /// An answer for a model user.
        Inference = "inference",
        /// Part of an aggregation.
        GradientAgg = "gradient_agg",
        /// Held-out loss of exact bytes.
        Evaluate = "evaluate",
        /// Replay of another node's seeded work.
        Audit = "audit",
        /// Reading of sources.
        DataIngest = "data_ingest",
        /// Embedding of sources.
        EmbedData = "embed_data",
    }
}

text_enum! {
    /// What a node offers slots for.
    Role, "a role (infer, evaluate, train, ingest)" {
        /// Answers users.
        Infer = "infer",
        /// Measures candidates, beside the model that it serves.
        Evaluate = "evaluate",
        /// Changes weights.
        Train = "train",
        /// Reads data.
        Ingest = "ingest",
    }
}

impl TaskType {
    /// Which slots it takes.
    pub const fn role(self) -> Role {
        match self {
            Self::Inference | Self::Audit => Role::Infer,
            Self::Evaluate => Role::Evaluate,
            Self::FlRound | Self::GradientAgg => Role::Train,
            Self::DataIngest | Self::EmbedData => Role::Ingest,
        }
    }

    /// Factor on rewards.
    pub const fn weight(self) -> Permille {
        Permille(match self {
            Self::FlRound => 3_000,
            Self::GradientAgg => 5_000,
            Self::Inference | Self::Evaluate | Self::Audit | Self::DataIngest | Self::EmbedData => {
                1_000
            }
        })
    }

    /// Lower goes first within a role: rounds, then answers, then ingest.
    pub const fn priority(self) -> i16 {
        match self {
            Self::FlRound | Self::GradientAgg => 10,
            Self::Evaluate => 20,
            Self::Inference => 30,
            Self::Audit => 40,
            Self::DataIngest | Self::EmbedData => 50,
        }
    }

    /// Share of the reward for an on-time result that lost the race.
    pub const fn late_share(self) -> Permille {
        Permille(match self {
            Self::FlRound | Self::GradientAgg => 1_000,
            _ => 0,
        })
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $expected:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseError;
            fn from_str(text: &str) -> Result<Self, ParseError> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(ParseError::new($expected, text))
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }
    };
}

name_type! {
    /// A sub-model: `owm-router`, `owm-code`, `owm-geo`, or one of the reserved ones.
    SubModelId,
    "a sub-model (owm-router, owm-code, owm-geo, owm-sci, owm-events, owm-data)",
    |text| SUB_MODELS.contains(&text)
}

/// All sub-models, reserved ones included (spec §8).
pub const SUB_MODELS: &[&str] = &[
    "owm-router",
    "owm-code",
    "owm-geo",
    "owm-sci",
    "owm-events",
    "owm-data",
];

name_type! {
    /// A model version: `owm-v0.4.2`.
    VersionId,
    "a model version (owm-vMAJOR.MINOR.PATCH)",
    |text| text.strip_prefix("owm-v").is_some_and(|rest| {
        let parts: Vec<&str> = rest.split('.').collect();
        parts.len() == 3
            && parts.iter().all(|p| {
                !p.is_empty()
                    && p.len() <= 6
                    && p.bytes().all(|b| b.is_ascii_digit())
                    && (p.len() == 1 || !p.starts_with('0'))
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_at_the_door() {
        assert!("owm-v0.4.2".parse::<VersionId>().is_ok());
        for bad in [
            "owm-v0.4",
            "owm-v0.04.2",
            "v0.4.2",
            "owm-v0.4.2x",
            "owm-v../..",
        ] {
            assert!(bad.parse::<VersionId>().is_err(), "{bad}");
        }
        assert!("owm-geo".parse::<SubModelId>().is_ok());
        assert!("owm-poetry".parse::<SubModelId>().is_err());
        for kind in TaskType::ALL {
            assert_eq!(kind.as_str().parse(), Ok(*kind));
        }
    }
}
