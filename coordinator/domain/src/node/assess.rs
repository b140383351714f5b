//! Hardware to tier. Unknown is an answer: it never counts as met, except bandwidth, which counts as
//! met until transfers have measured it.

use std::{collections::BTreeMap, fmt};

use owm_proto::{Tier, limits::GPUS_MAX, limits::SHORT_TEXT_BYTES_MAX, wire::coordinator as wire};
use serde::{Deserialize, Serialize};

/// Share of a minimum that suffices: 7 % tolerance, because an "8 GB" card reports less.
const SUFFICIENT_PERMILLE: u128 = 930;

/// Bytes of memory a node may claim; what `nodes.vram_gb NUMERIC(6,2)` can show.
const MEMORY_BYTES_MAX: u64 = 9_999_990_000_000;

/// Kilobits per second a node may claim; what `nodes.bandwidth_mbps NUMERIC(8,2)` can show.
const BANDWIDTH_KBPS_MAX: u64 = 999_999_990;

/// Cores a node may claim.
const CPU_CORES_MAX: u32 = 65_536;

/// What a node says of its hardware, checked against bounds; also what `nodes.capabilities` holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Video memory in bytes; `None` unknown, `Some(0)` none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vram_bytes: Option<u64>,
    /// Main memory in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ram_bytes: Option<u64>,
    /// Measured bandwidth in kbit/s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_kbps: Option<u64>,
    /// Free disk in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_free_bytes: Option<u64>,
    /// CPU cores; 0 unknown.
    pub cpu_cores: u32,
    /// Names of its graphics cards.
    pub gpus: Vec<String>,
    /// What the model engine would run on: `burn-flex/f32`.
    pub backend: String,
}

/// A claim out of bounds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node claims {what} above what is possible ({max}); check its hardware probe")]
pub struct CapabilityError {
    /// Of what.
    pub what: &'static str,
    /// The bound.
    pub max: u64,
}

impl TryFrom<wire::Capabilities> for Capabilities {
    type Error = CapabilityError;
    fn try_from(said: wire::Capabilities) -> Result<Self, CapabilityError> {
        let bounded = |what, value: Option<u64>, max| match value {
            Some(value) if value > max => Err(CapabilityError { what, max }),
            value => Ok(value),
        };
        bounded(
            "CPU cores",
            Some(said.cpu_cores.into()),
            CPU_CORES_MAX.into(),
        )?;
        bounded(
            "a number of GPUs",
            Some(said.gpus.len() as u64),
            GPUS_MAX as u64,
        )?;
        for text in said.gpus.iter().chain([&said.backend]) {
            bounded(
                "a name's bytes",
                Some(text.len() as u64),
                SHORT_TEXT_BYTES_MAX as u64,
            )?;
        }
        Ok(Self {
            vram_bytes: bounded("bytes of video memory", said.vram_bytes, MEMORY_BYTES_MAX)?,
            ram_bytes: bounded("bytes of memory", said.ram_bytes, MEMORY_BYTES_MAX)?,
            bandwidth_kbps: bounded("kbit/s", said.bandwidth_kbps, BANDWIDTH_KBPS_MAX)?,
            disk_free_bytes: bounded("free bytes of disk", said.disk_free_bytes, i64::MAX as u64)?,
            cpu_cores: said.cpu_cores,
            gpus: said.gpus,
            backend: said.backend,
        })
    }
}

/// A tier's hardware minima where the network overrides the founding table. Decimal units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TierMinima {
    /// Bytes of video memory.
    pub vram_bytes: u64,
    /// Bytes of main memory.
    pub ram_bytes: u64,
    /// Kilobits per second.
    pub bandwidth_kbps: u64,
}

/// What the network asks of hardware; part of the coordinator's config.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdmissionPolicy {
    /// Waives video memory; such a node is t1 at most and gets CPU-capable tasks only.
    pub allow_cpu: bool,
    /// Overrides of the founding table, by tier.
    pub minima: BTreeMap<Tier, TierMinima>,
}

impl AdmissionPolicy {
    /// The minima in force for `tier`.
    pub fn minima_of(&self, tier: Tier) -> TierMinima {
        self.minima.get(&tier).copied().unwrap_or_else(|| {
            let terms = tier.terms();
            TierMinima {
                vram_bytes: terms.vram_bytes_min,
                ram_bytes: terms.ram_bytes_min,
                bandwidth_kbps: terms.bandwidth_kbps_min,
            }
        })
    }
}

/// What can be too little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Video memory, bytes.
    Vram,
    /// Main memory, bytes.
    Ram,
    /// Bandwidth, kbit/s.
    Bandwidth,
}

/// One thing that keeps a node from a tier; `Display` is for its operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortfall {
    /// The tier missed.
    pub tier: Tier,
    /// What is too little.
    pub resource: Resource,
    /// What was found; `None` unknown.
    pub have: Option<u64>,
    /// What the tier asks for, tolerance not deducted.
    pub need: u64,
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, unit, per_unit) = match self.resource {
            Resource::Vram => ("video memory", "GB", 1_000_000_000_u64),
            Resource::Ram => ("memory", "GB", 1_000_000_000),
            Resource::Bandwidth => ("bandwidth", "Mbit/s", 1_000),
        };
        let tenths = |amount: u64| {
            let tenths = amount / (per_unit / 10);
            format!("{}.{}", tenths / 10, tenths % 10)
        };
        write!(
            f,
            "{} needs {} {unit} of {what}, ",
            self.tier,
            tenths(self.need)
        )?;
        match self.have {
            Some(have) => write!(f, "found {} {unit}", tenths(have)),
            None => f.write_str("the probe could not tell (run owm-node doctor)"),
        }
    }
}

/// What hardware is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assessment {
    /// The highest tier it reaches; `None`: none.
    pub tier: Option<Tier>,
    /// It reaches it only because video memory is waived.
    pub cpu_only: bool,
    /// What keeps it from the next tier up (from t1 where it reaches none).
    pub shortfalls: Vec<Shortfall>,
}

impl Assessment {
    /// The shortfalls in words.
    pub fn reasons(&self) -> Vec<String> {
        self.shortfalls.iter().map(ToString::to_string).collect()
    }
}

/// The highest tier that `capabilities` reach under `policy`.
pub fn assess(capabilities: &Capabilities, policy: &AdmissionPolicy) -> Assessment {
    let mut above = Vec::new();
    for tier in Tier::ALL.iter().rev().copied() {
        let missing = shortfalls(capabilities, tier, policy.minima_of(tier));
        if missing.is_empty() {
            return Assessment {
                tier: Some(tier),
                cpu_only: false,
                shortfalls: above,
            };
        }
        above = missing;
    }
    // Now `above` is what is missing for t1.
    if policy.allow_cpu
        && above
            .iter()
            .all(|missing| missing.resource == Resource::Vram)
    {
        return Assessment {
            tier: Some(Tier::T1),
            cpu_only: true,
            shortfalls: above,
        };
    }
    if policy.allow_cpu {
        above.retain(|missing| missing.resource != Resource::Vram);
    }
    Assessment {
        tier: None,
        cpu_only: false,
        shortfalls: above,
    }
}

fn shortfalls(have: &Capabilities, tier: Tier, minima: TierMinima) -> Vec<Shortfall> {
    let bandwidth = have.bandwidth_kbps.unwrap_or(u64::MAX);
    [
        (Resource::Vram, have.vram_bytes, minima.vram_bytes),
        (Resource::Ram, have.ram_bytes, minima.ram_bytes),
        (Resource::Bandwidth, Some(bandwidth), minima.bandwidth_kbps),
    ]
    .into_iter()
    .filter(|(_, have, need)| !suffices(*have, *need))
    .map(|(resource, have, need)| Shortfall {
        tier,
        resource,
        have,
        need,
    })
    .collect()
}

/// A minimum of zero is met by unknown hardware too: nothing is asked.
fn suffices(have: Option<u64>, need: u64) -> bool {
    need == 0
        || have
            .is_some_and(|have| u128::from(have) * 1_000 >= u128::from(need) * SUFFICIENT_PERMILLE)
}
