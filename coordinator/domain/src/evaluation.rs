//! What several reports on one candidate say together (spec §10.8): the median over different owners, and which
//! reports others contradict. Called by whoever shows an evaluation or decides by it.
//! Must stay true: one owner has one voice; a report that is flagged does not count; nothing here depends on the
//! order in which reports came.

use std::collections::BTreeMap;

use owm_proto::{
    NodeId, PublicKey, Sha256,
    evaluation::{EvaluationReport, Finding, TextSource},
};

/// A report that was accepted.
#[derive(Clone, Debug)]
pub struct Report {
    /// Who made it.
    pub node: NodeId,
    /// Whose node that is.
    pub owner: PublicKey,
    /// What computed it.
    pub backend: String,
    /// What it says.
    pub said: EvaluationReport,
}

/// Why a report does not count, or is to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flag {
    /// Most others read another text.
    #[error("it measured other tokens than most others did on the same public text")]
    OtherTokens,
    /// The same bytes, text and backend, another figure.
    #[error("it found another loss than another node did with the same tokens on the same backend")]
    OtherLoss,
    /// Far from what most found: with the same tokens, backends differ in the last digits only.
    #[error("its loss is far from the median of those that read the same tokens")]
    FarLoss,
    /// Its owner has a voice already.
    #[error("its owner has another report, which counts")]
    SecondVoice,
}

impl Flag {
    /// Whether the report is left out of the median.
    pub const fn excludes(self) -> bool {
        matches!(self, Self::OtherTokens | Self::SecondVoice)
    }

    /// Whether the report earns nothing. One that differs on the same backend is only looked at: which of the two is
    /// right, it does not say.
    pub const fn is_unpaid(self) -> bool {
        matches!(self, Self::OtherTokens | Self::SecondVoice | Self::FarLoss)
    }
}

/// How far from the median a loss may be, as a share of it: half of what decides on a candidate (spec §10.8).
const FAR: f64 = 0.01;

/// With fewer owners the median is not who is right.
const FAR_FROM_OWNERS: usize = 3;

/// What they say together.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Median of the losses that count, in nats per token; `None`: no report counts.
    pub loss: Option<f64>,
    /// Median of their bits per byte.
    pub bits_per_byte: Option<f64>,
    /// Owners whose reports count.
    pub owners: usize,
    /// For each report, in the order given, what is wrong with it.
    pub flags: Vec<Option<Flag>>,
}

/// Sums up.
pub fn summarise(reports: &[Report]) -> Summary {
    let usual = usual_tokens(reports);
    let mut voices: BTreeMap<PublicKey, NodeId> = BTreeMap::new();
    for report in reports.iter().filter(|report| !is_odd(report, usual)) {
        let node = voices.entry(report.owner).or_insert(report.node);
        *node = report.node.min(*node);
    }
    let has_voice = |report: &&Report| voices.get(&report.owner) == Some(&report.node);
    let voiced: Vec<&Report> = reports.iter().filter(has_voice).collect();
    let flag = |report: &Report| {
        if is_odd(report, usual) {
            Some(Flag::OtherTokens)
        } else if voices.get(&report.owner) != Some(&report.node) {
            Some(Flag::SecondVoice)
        } else if is_far(report, &voiced) {
            Some(Flag::FarLoss)
        } else {
            let differs = reports.iter().any(|other| disagree(report, other));
            differs.then_some(Flag::OtherLoss)
        }
    };
    let flags: Vec<Option<Flag>> = reports.iter().map(flag).collect();
    let counted = || {
        let all = reports.iter().zip(&flags);
        let counts = all.filter(|(_, flag)| !flag.is_some_and(Flag::excludes));
        counts.map(|(report, _)| report)
    };
    let figures = |pick: fn(f64, f64) -> f64| -> Vec<f64> {
        let figure = |report: &Report| match report.said.finding {
            Finding::HeldOut {
                loss,
                bits_per_byte,
            } => Some(pick(loss.0, bits_per_byte.0)),
            Finding::Update { .. } => None,
        };
        counted().filter_map(figure).collect()
    };
    Summary {
        loss: median(figures(|loss, _| loss)),
        bits_per_byte: median(figures(|_, bits| bits)),
        owners: counted().count(),
        flags,
    }
}

/// The tokens that more owners read than any others, on a public text; `None`: nobody is in the majority.
fn usual_tokens(reports: &[Report]) -> Option<Sha256> {
    let mut owners: BTreeMap<Sha256, Vec<PublicKey>> = BTreeMap::new();
    let public = reports.iter().filter(|report| is_public(report));
    for report in public {
        let owners = owners.entry(report.said.tokens_sha256).or_default();
        if !owners.contains(&report.owner) {
            owners.push(report.owner);
        }
    }
    let most = owners.values().map(Vec::len).max()?;
    let mut usual = owners.iter().filter(|(_, owners)| owners.len() == most);
    let (tokens, _) = usual.next()?;
    usual.next().is_none().then_some(*tokens)
}

fn is_public(report: &Report) -> bool {
    matches!(report.said.text, TextSource::Corpus { .. })
}

fn is_odd(report: &Report, usual: Option<Sha256>) -> bool {
    is_public(report) && usual.is_some_and(|usual| usual != report.said.tokens_sha256)
}

fn loss(report: &Report) -> Option<f64> {
    match report.said.finding {
        Finding::HeldOut { loss, .. } => Some(loss.0),
        Finding::Update { .. } => None,
    }
}

/// Whether most of at least three owners who read the same public tokens found something else.
fn is_far(report: &Report, voiced: &[&Report]) -> bool {
    let same = |other: &&&Report| other.said.tokens_sha256 == report.said.tokens_sha256;
    let losses: Vec<f64> = voiced.iter().filter(same).filter_map(|r| loss(r)).collect();
    if !is_public(report) || losses.len() < FAR_FROM_OWNERS {
        return false;
    }
    match (loss(report), median(losses)) {
        (Some(loss), Some(middle)) => (loss - middle).abs() > FAR * middle.abs(),
        _ => false,
    }
}

/// Two honest reports of the same backend on the same tokens have the same bits.
fn disagree(one: &Report, other: &Report) -> bool {
    one.said.tokens_sha256 == other.said.tokens_sha256
        && one.backend == other.backend
        && match (&one.said.finding, &other.said.finding) {
            (Finding::HeldOut { loss: a, .. }, Finding::HeldOut { loss: b, .. }) => {
                a.0.to_bits() != b.0.to_bits()
            }
            _ => false,
        }
}

/// The middle one; of an even number the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
mod tests;
