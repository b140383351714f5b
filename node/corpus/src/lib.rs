//! Text to train on. This file lists the rooms; the rules (`document`, `split`, `json`) are pure, the
//! readers (`folder`, `archive`, `fetch`) bounded. Called by the daemon.
#![doc = include_str!("../README.md")]

mod archive;
mod catalogue;
mod document;
mod fetch;
mod folder;
mod json;
mod split;

pub use archive::ArchiveError;
pub use catalogue::{Client, Corpus, Package, catalogue, corpus};
pub use document::{Document, deduplicate, normalised};
pub use fetch::{FetchError, fetch, load};
pub use folder::{FolderError, FolderLimits, FolderText, SkipReason, Skipped, read_folder};
pub use split::{HELD_OUT_PER_MILLE, Split, sample, split};
