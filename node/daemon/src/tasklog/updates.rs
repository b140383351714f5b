//! Which updates are committed: those that results name which wait to be handed in. The residue store asks.

use std::collections::BTreeSet;

use owm_proto::{
    Sha256,
    evaluation::{EvaluationReport, Finding},
    wire::coordinator::TaskResult,
};
use prost::Message as _;

use super::{LeaseKey, TaskLog, TaskLogError};

impl TaskLog {
    /// SHA-256 of each update that an unacknowledged result names.
    pub fn updates(&self) -> Result<BTreeSet<Sha256>, TaskLogError> {
        let mut named = BTreeSet::new();
        for key in self.unacked()? {
            named.extend(self.update(key)?);
        }
        Ok(named)
    }

    /// That of one such result.
    pub fn update(&self, key: LeaseKey) -> Result<Option<Sha256>, TaskLogError> {
        let result = self.unacked_result(key)?;
        Ok(result.and_then(|bytes| update_of(&bytes)))
    }
}

fn update_of(result: &[u8]) -> Option<Sha256> {
    let output = TaskResult::decode(result).ok()?.output?;
    match EvaluationReport::from_bytes(&output.report)?.finding {
        Finding::Update { sha256, .. } => Some(sha256),
        Finding::HeldOut { .. } => None,
    }
}
