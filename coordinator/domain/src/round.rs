//! A federated round (spec §10): who trains, until when, and what becomes of what they hand in. Called inside the
//! transaction that has the round's row locked; the arithmetic on updates is `owm-aggregate`'s, its results come in as
//! events.
//!
//! Losses are whole numbers of micronats per byte, so that an acceptance is the same on every machine.

pub mod acceptance;
pub mod deadline;
mod machine;
pub mod participants;
mod phase;
#[cfg(test)]
mod tests;

pub use machine::Round;
pub use phase::{
    AbandonReason, Attempt, Candidate, Effect, Event, Fault, Part, Phase, Plan, Refused, Report,
};
