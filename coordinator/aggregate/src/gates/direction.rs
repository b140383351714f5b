//! Direction: updates of one round point the same way, more or less. From six on each is held against the others, one
//! owner one vote; below, against a reference update on a public shard.

use std::collections::BTreeMap;

use owm_proto::Sha256;

use super::{DIRECTION_FROM, Field, Gated, Reason};
use crate::sample::{MAD_TO_SIGMA, mad, median};

/// Rejects what points away from the others, and what agrees with them far less than they do with each other.
pub(super) fn run(field: &Field<'_>, gated: &mut Gated) {
    let left = gated.left();
    if left.len() < DIRECTION_FROM {
        gated.reduced_protection = true;
        against_reference(field, gated, &left);
        return;
    }
    let cosines: Vec<f64> = left
        .iter()
        .map(|i| to_the_others(field, &left, *i))
        .collect();
    let mut agree: BTreeMap<Sha256, Vec<f64>> = BTreeMap::new();
    for (i, cosine) in left.iter().zip(&cosines) {
        if *cosine > 0.0 {
            let owner = field.submissions[*i].owner;
            agree.entry(owner).or_default().push(*cosine);
        } else {
            gated.rejected[*i] = Some(Reason::Against { cosine: *cosine });
        }
    }
    let votes: Vec<f64> = agree.values().map(|cosines| median(cosines)).collect();
    let centre = median(&votes);
    let spread = MAD_TO_SIGMA * mad(&votes, centre) + field.policy.direction_floor;
    let least = centre - field.policy.direction_mads * spread;
    for (i, cosine) in left.iter().zip(cosines) {
        if gated.rejected[*i].is_none() && cosine < least {
            gated.rejected[*i] = Some(Reason::Outlier { cosine, least });
        }
    }
}

/// The median over owners of the median cosine to their updates, itself left out.
fn to_the_others(field: &Field<'_>, left: &[usize], i: usize) -> f64 {
    let mut owners: BTreeMap<Sha256, Vec<f64>> = BTreeMap::new();
    for j in left.iter().filter(|j| **j != i) {
        let owner = field.submissions[*j].owner;
        let cosine = field.statistics.cosine(i, *j);
        owners.entry(owner).or_default().push(cosine);
    }
    let votes: Vec<f64> = owners.values().map(|cosines| median(cosines)).collect();
    median(&votes)
}

fn against_reference(field: &Field<'_>, gated: &mut Gated, left: &[usize]) {
    let Some(reference) = field.reference else {
        return;
    };
    for i in left {
        let cosine = field.statistics.cosine(*i, reference);
        if cosine <= 0.0 {
            gated.rejected[*i] = Some(Reason::AgainstReference { cosine });
        }
    }
}
