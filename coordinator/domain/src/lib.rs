#![doc = include_str!("../README.md")]

pub mod check;
pub mod evaluation;
pub mod gossip;
pub mod liveness;
pub mod network;
pub mod node;
pub mod reward;
pub mod round;
pub mod schedule;
mod stored;
pub mod task;

pub use stored::UnknownName;
