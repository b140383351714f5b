#![doc = include_str!("../README.md")]

mod error;
pub mod gates;
mod policy;
mod release;
mod sample;
mod spool;
mod statistics;
mod strategy;
mod submission;
mod weights;

pub use error::{AggregateError, DecideError, SpoolError};
pub use policy::Policy;
pub use release::{
    Base, MemoryParent, Parent, Released, Work, accumulate, aggregate, mean, release,
};
pub use spool::{FileSpool, MemorySpool, Opened, Spool};
pub use statistics::Statistics;
pub use strategy::{Combine, Decision, Round, Strategy, StrategyName, UnknownStrategy, Verdict};
pub use submission::Submission;
pub use weights::{Relaxed, Weights, raw_weight, weigh};

#[cfg(test)]
mod tests;
