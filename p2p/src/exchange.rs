//! Verified files between peers: what lies on the disk ([`store`]). Node daemons use it.

pub mod store;
