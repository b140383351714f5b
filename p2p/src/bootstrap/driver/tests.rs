//! Tests, filled below.
