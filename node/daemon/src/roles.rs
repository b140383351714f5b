//! What this node can do with a lease: one room per role.

pub mod evaluate;
pub mod infer;
