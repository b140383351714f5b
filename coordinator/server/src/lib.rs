#![doc = include_str!("../README.md")]

pub mod answers;
pub mod api;
pub mod app;
pub mod ask;
mod batch;
pub mod blobs;
pub mod cli;
pub mod config;
pub mod dispatch;
pub mod identity;
pub mod publish;
pub mod rpc;
pub mod serve;
pub mod sessions;
pub mod tasks;
pub mod verdict;
