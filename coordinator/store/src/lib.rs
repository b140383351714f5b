#![doc = include_str!("../README.md")]

pub mod api_key;
pub mod checkpoint;
pub mod chunk;
pub mod database;
pub mod doctor;
pub mod error;
pub mod evaluation;
pub mod figures;
pub mod glance;
pub mod gossip;
pub mod instance;
pub mod intake;
pub mod lease;
pub mod ledger;
pub mod load;
pub mod model;
pub mod node;
pub mod outbox;
pub mod outcome;
pub mod replay;
pub mod request;
pub mod round;
pub mod session;
pub mod stats;
pub mod task;
mod time;
pub mod tx;
pub mod vault;
pub mod verdict;

pub use error::StoreError;
pub use tx::{Store, Tx};
pub use vault::Vault;
