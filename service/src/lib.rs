#![doc = include_str!("../README.md")]

// `config!` names this crate by its name; inside, only tests use it.
#[cfg(test)]
extern crate self as owm_service;

pub mod archive;
pub mod backoff;
pub mod clock;
pub mod config;
pub mod control;
pub mod dialer;
pub mod doctor;
pub mod failpoint;
pub mod files;
pub mod gate;
pub mod health;
pub mod lifecycle;
pub mod metrics;
pub mod progress;
pub mod reconcile;
pub mod report;
pub mod rng;
pub mod run;
pub mod secret;
pub mod supervisor;
pub mod telemetry;
pub mod tls;

pub use run::{Context, Exit, Program, RunError, run};
pub use tokio_util::sync::CancellationToken;
