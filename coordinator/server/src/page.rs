//! The public page: the network at a glance, for strangers. `glance` asks the database what there is,
//! `domain::network` judges it, `view` and `words` put it into HTML, `feed` does so at most once a
//! second for all who look. Called by `api::page`, which speaks HTTP.
//!
//! Must stay true: nothing here is secret (no request id, no user's text, no address, no wallet);
//! what nodes say of themselves is text, never markup; a look costs the database nothing if another
//! one came within the same second.

pub(crate) mod assets;
mod feed;
mod glance;
mod swarm;
pub(crate) mod view;
mod words;

pub use feed::{Feed, Viewer, run};
