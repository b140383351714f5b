#![doc = include_str!("../README.md")]

pub mod activity;
pub mod asking;
pub mod backup;
pub mod caps;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod doctor;
pub mod engine;
pub mod facts;
pub mod hardware;
pub mod heartbeat;
pub mod home;
pub mod last_exit;
pub mod link;
pub mod machine;
pub mod metrics;
pub mod models;
pub mod network;
pub mod orders;
pub mod register;
pub mod renewal;
pub mod residue;
pub mod roles;
pub mod session;
pub mod status;
pub mod swarm;
pub mod tasklog;
pub mod text;
pub mod top;
#[cfg(feature = "burn")]
pub mod train;
pub mod updates;
pub mod work;

owm_service::failpoints! {
    /// `init` has written the configuration and not yet the key.
    pub const INIT_CONFIG_WRITTEN = "node.init.config_written";
    /// `init` has written the key; the coordinator has not been asked yet.
    pub const INIT_KEY_WRITTEN = "node.init.key_written";
    /// A registration has been answered and nothing of it is kept yet.
    pub const REGISTERED = "node.registered";
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
    /// The coordinator has acknowledged a result; the task log does not say so yet.
    pub const ACK_BEFORE_BOOKED = "node.ack.before_booked";
    /// The task log says what a result is worth; its bytes are deleted.
    pub const ACK_AFTER_BOOKED = "node.ack.after_booked";
}

/// This program's version, as told to the coordinator.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
