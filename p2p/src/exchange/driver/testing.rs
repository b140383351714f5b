//! An exchange without a swarm, for tests of the driver's parts.

use std::{sync::Arc, time::Duration};

use owm_proto::{Sha256, UnixMillis, genesis::NetworkId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Banned, Exchange, ExchangeConfig, Shared};
use crate::{
    Clock,
    exchange::{behaviour::Behaviour, files::memory::MemoryShelf, machine::Tuning},
};

#[derive(Debug)]
struct StandsStill;

impl Clock for StandsStill {
    fn wall(&self) -> UnixMillis {
        UnixMillis(0)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(1)
    }
}

/// One that reaches nobody, and whom it bans.
pub(super) fn alone() -> (Arc<Shared>, mpsc::Receiver<Banned>) {
    let streams = Behaviour::new(&NetworkId(Sha256::of(b"a network"))).streams();
    let (banned, bans) = mpsc::channel(4);
    // A new source is asked for all that it may be: tests hand in one after the other.
    let mut tuning = Tuning::default();
    tuning.outstanding_first = tuning.outstanding_min;
    let config = ExchangeConfig {
        tuning,
        bans: Some(banned),
        ..ExchangeConfig::default()
    };
    let shelf = Arc::new(MemoryShelf::default());
    let (stop, clock) = (CancellationToken::new(), Arc::new(StandsStill));
    let (exchange, _) = Exchange::new(streams, shelf.clone(), shelf, clock, config, stop);
    (Arc::clone(&exchange.0), bans)
}
