#![doc = include_str!("../README.md")]

pub mod activity;
pub mod caps;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod engine;
pub mod facts;
pub mod hardware;
pub mod heartbeat;
pub mod home;
pub mod link;
pub mod machine;
pub mod metrics;
pub mod models;
pub mod network;
pub mod register;
pub mod renewal;
pub mod roles;
pub mod session;
pub mod status;
pub mod tasklog;
pub mod top;
pub mod work;

owm_service::failpoints! {
    /// A lease has been accepted, nothing is computed yet.
    pub const LEASE_ACCEPTED = "node.lease.accepted";
    /// A chunk of tokens has been handed to the stream.
    pub const CHUNK_SENT = "node.chunk.sent";
    /// A result is finished and not yet in the task log.
    pub const RESULT_BEFORE_LOG = "node.result.before_log";
    /// A result is in the task log and not yet sent.
    pub const RESULT_AFTER_LOG_BEFORE_SEND = "node.result.after_log_before_send";
    /// A downloaded file has the right hash and still its temporary name.
    pub const DOWNLOAD_BEFORE_RENAME = "node.download.before_rename";
}

/// This program's version, as told to the coordinator.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
