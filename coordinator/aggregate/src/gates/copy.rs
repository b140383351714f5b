//! Copy: an update that shares far more of its support with an earlier one than updates do, and has the same values
//! there. The earlier commit is kept; of equal times the lower key. Only what is kept is held against: who is like a
//! copy, and not like its original, loses nothing by it.

use super::{Field, Gated, Reason};
use crate::{
    sample::{mad, median},
    statistics::pairs,
};

/// Rejects the later one of each pair of copies among what is left.
pub(super) fn run(field: &Field<'_>, gated: &mut Gated) {
    let (statistics, policy) = (field.statistics, field.policy);
    let mut left = gated.left();
    let overlaps: Vec<f64> = pairs(left.len())
        .map(|(i, j)| statistics.overlap(left[i], left[j]))
        .collect();
    let centre = median(&overlaps);
    let from = (centre + policy.copy_mads * mad(&overlaps, centre)).max(policy.copy_overlap);
    left.sort_by_key(|i| {
        let submission = &field.submissions[*i];
        (submission.committed_at, submission.node)
    });
    let mut kept: Vec<usize> = Vec::with_capacity(left.len());
    for i in &left {
        let original = kept.iter().find_map(|j| {
            let overlap = statistics.overlap(*i, *j);
            let cosine = statistics.common_cosine(*i, *j)?;
            (overlap > from && cosine > policy.copy_cosine).then_some((*j, overlap, cosine))
        });
        if let Some((j, overlap, cosine)) = original {
            gated.rejected[*i] = Some(Reason::CopyOf {
                node: field.submissions[j].node,
                overlap,
                cosine,
            });
        } else {
            kept.push(*i);
        }
    }
}
