//! Deltas on small files.
