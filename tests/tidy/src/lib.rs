//! House rules that no compiler checks, as tests: `tests/dependencies.rs` (who may know whom),
//! `tests/files.rs` (how files open, how long they are, what must not stand in them), and
//! `tests/migrations.rs` (SQL that was committed stays as it is).
//!
//! A rule that needs an exception gets it in a list beside the rule, with the date and the reason.
