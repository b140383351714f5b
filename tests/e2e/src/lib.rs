//! End-to-end tests on a whole network; all of them are in `tests/`, each file a subject:
//! `answer.rs` (a question and its answer, receipts), `join.rs` (nodes come and go), `restart.rs` (what
//! outlives a restart or a crash), `operate.rs` (metrics, dashboard, logs), `openai_client.rs` (a stranger's
//! client), `real_weights.rs`.
//!
//! They start real processes through `owm_devnet::Devnet` and talk to them as strangers would: over HTTP
//! and the command line. Must stay true: no test here uses a type of the coordinator or the node.
