//! End-to-end tests on a whole network; all of them are in `tests/`, each file a subject:
//! `answer.rs` (a question and its answer, receipts), `join.rs` (nodes come and go), `restart.rs` (what
//! outlives a restart or a crash), `backup.rs` (what is restored elsewhere), `config_check.rs`,
//! `doctor.rs`, `swarm.rs` (peers with and without a coordinator, liars among them: [`flood`]), `nat.rs`
//! (peers behind routers: [`namespaces`], [`peers`]), `faults.rs` (a database that goes away, garbage, floods),
//! `privacy.rs` (where users' words may not stand), `node_death.rs` (nodes that die, double or go by a wrong
//! clock), `operator.rs` (pause, drain, model files), `operate.rs` (metrics, dashboard, logs), `page.rs` (a
//! stranger's browser, driven by [`browser`]), `openai_client.rs` (a stranger's client), `real_weights.rs`,
//! `models.rs` (`owm-node models`), `survival.rs` (life without the coordinator), `up.rs`, `lan.rs`, `nat_nodes.rs` and
//! `swarm_doc.rs` (real nodes behind routers, docs/swarm.md word by word),
//! `crash.rs` (the crash harness, whose parts are in [`crash`]).
//!
//! They start real processes through `owm_devnet::Devnet` and talk to them as strangers would: over HTTP
//! and the command line. Must stay true: no test here uses a type of the coordinator or the node.

pub mod browser;
pub mod crash;
pub mod flood;
pub mod invites;
pub mod namespaces;
pub mod peers;
