//! Files between real peers in one process, over TCP and QUIC on loopback: honest ones, and ones that lie, crawl,
//! vanish, boast or are busy. Waits for conditions; what sleeps is a peer that is meant to be slow.
#![expect(clippy::unwrap_used, reason = "tests")]

mod caps;
mod crowd;
mod flood;
mod honest;
mod hostile;
mod links;
mod sharing;
mod stored;
mod web;
mod world;
