#![doc = include_str!("../README.md")]

pub mod answers;
pub mod api;
pub mod app;
pub mod ask;
pub mod backup;
mod batch;
pub mod blobs;
pub mod cli;
pub mod config;
pub mod control;
mod counts;
pub mod dispatch;
pub mod doctor;
pub mod evaluate;
pub(crate) mod failpoints;
pub mod http;
pub mod identity;
pub mod metrics;
pub mod page;
pub mod publish;
pub mod rpc;
pub mod serve;
pub mod sessions;
pub mod spool;
pub mod swarm;
pub mod tasks;
pub mod verdict;
