//! What is in the DHT: who takes part in a shard, and the newest checkpoint.

use libp2p::kad;

use super::Service;

/// What was put and asked.
#[derive(Debug, Default)]
pub(super) struct Dht {}

impl Service {
    pub(super) fn dht_upkeep(&mut self) {}

    pub(super) fn on_dht(&mut self, event: kad::Event) {
        if let kad::Event::InboundRequest { .. } = event {
            self.dirty = true;
        }
    }
}
