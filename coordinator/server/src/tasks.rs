//! Long work: one file per reconciler or loop, each idempotent and woken by time.

pub mod alive;
pub mod announce;
pub mod database;
pub mod due;
pub mod figures;
pub mod gone;
pub mod outbox;
pub mod purge;
pub mod signs;
pub mod spool;
pub mod standing;
