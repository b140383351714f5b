//! Is there memory for what an evaluation would load and compute? Asked before each, with estimates that are not below
//! what is taken.
//! Must stay true: a cap that can't be measured is not met.

use crate::{
    caps::{memory_available, ram_used},
    work::Refusal,
};

/// Refuses what does not fit beside what this process takes already, within the operator's cap or, without one, what
/// the machine has free.
pub(super) fn check(cap: Option<u64>, what: &str, needed: u64) -> Result<(), Refusal> {
    let left = match (cap, ram_used()) {
        (Some(cap), Some(used)) => Some(cap.saturating_sub(used)),
        (Some(_), None) => Some(0),
        (None, _) => memory_available(),
    };
    match left.filter(|left| needed > *left) {
        None => Ok(()),
        Some(left) => Err(Refusal::cannot(format!(
            "{what} may need {needed} bytes of memory beside the served model, {left} are left"
        ))),
    }
}
