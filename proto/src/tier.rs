//! Tiers and standing of nodes (spec §6): names and the founding table, no decisions.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    hash::ParseError,
    money::{Permille, Sats},
};

macro_rules! text_enum {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($(#[$vdoc:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $text)] $variant),* }

        impl $name {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name on the wire and in the database.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = ParseError;
            fn from_str(text: &str) -> Result<Self, ParseError> {
                match text {
                    $($text => Ok(Self::$variant),)*
                    _ => Err(ParseError::new($what, text)),
                }
            }
        }
    };
}
pub(crate) use text_enum;

text_enum! {
    /// What a node's hardware is good for.
    Tier, "a tier (t1, t2, t3)" {
        /// A consumer card, or a CPU where the network allows it.
        T1 = "t1",
        /// A workstation.
        T2 = "t2",
        /// A data-centre card.
        T3 = "t3",
    }
}

text_enum! {
    /// A node's standing; only the coordinator's database changes it.
    NodeStatus, "a node status (pending, active, degraded, suspended)" {
        /// Known, but something is missing: stake, hardware.
        Pending = "pending",
        /// Gets work.
        Active = "active",
        /// Gets no new rounds until it has restored what is missing.
        Degraded = "degraded",
        /// Gets nothing.
        Suspended = "suspended",
    }
}

/// What a tier asks for and gives (spec §6). Decimal gigabytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierTerms {
    /// Bytes of video memory.
    pub vram_bytes_min: u64,
    /// Bytes of main memory.
    pub ram_bytes_min: u64,
    /// Kilobits per second.
    pub bandwidth_kbps_min: u64,
    /// Target share of minutes with a heartbeat.
    pub uptime_target: Permille,
    /// Least channel capacity.
    pub stake_min: Sats,
    /// Factor on rewards.
    pub reward_multiplier: Permille,
}

const GB: u64 = 1_000_000_000;

impl Tier {
    /// The founding table's row.
    pub const fn terms(self) -> TierTerms {
        let (vram, ram, kbps, uptime, stake, multiplier) = match self {
            Self::T1 => (8, 16, 50_000, 700, 100_000, 1_000),
            Self::T2 => (24, 64, 200_000, 900, 500_000, 2_500),
            Self::T3 => (80, 256, 1_000_000, 990, 2_000_000, 8_000),
        };
        TierTerms {
            vram_bytes_min: vram * GB,
            ram_bytes_min: ram * GB,
            bandwidth_kbps_min: kbps,
            uptime_target: Permille(uptime),
            stake_min: Sats(stake),
            reward_multiplier: Permille(multiplier),
        }
    }

    /// One tier lower; t1 stays t1.
    #[must_use]
    pub const fn lowered(self) -> Self {
        match self {
            Self::T1 | Self::T2 => Self::T1,
            Self::T3 => Self::T2,
        }
    }
}
