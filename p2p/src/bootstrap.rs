//! The ways into the swarm. Each is a [`Source`] of addresses; any one is enough, all are asked at once and
//! start-up waits for none of them.
//!
//! Flow: sources and pushed answers → [`Plan`] (pure: what to dial when) → `Driver` (asks, resolves, gives
//! dial orders to the service's loop) → what became of each dial → `Plan` and the [`Book`](crate::peer::Book).
//! Must stay true: a failure names its layer; no name is resolved but by the [`Resolver`] passed in, and none
//! that the network policy forbids.

pub mod diagnose;
pub mod driver;
pub mod plan;
pub mod resolve;
pub mod source;

use std::sync::Arc;

pub use driver::Driver;
pub use plan::{Plan, PlanConfig};
pub use resolve::{NoResolver, Resolver};
pub use source::{DnsSource, Source, SourceError, StaticSource};

/// Name of the operator's own list.
pub const STATIC: &str = "static";

/// Name of the invite's peers.
pub const INVITE: &str = "invite";

/// Name of the seed names.
pub const DNS: &str = "dns";

/// Name of the coordinator's answer.
pub const COORDINATOR: &str = "coordinator";

/// Name of the peers of earlier runs and those that peers tell of.
pub const REMEMBERED: &str = "remembered";

/// Name of the local network's announcements.
pub const MDNS: &str = "mdns";

/// Name under which failures of peers stand that came by themselves.
pub const INBOUND: &str = "inbound";

/// The ways in of one swarm. What arrives later is pushed by
/// [`Handle::add_candidates`](crate::Handle::add_candidates).
#[derive(Clone, Debug)]
pub struct Ways {
    /// What can be asked.
    pub sources: Vec<Arc<dyn Source>>,
    /// Resolves names in addresses.
    pub resolver: Arc<dyn Resolver>,
    /// The peers of earlier runs.
    pub remembered: Option<crate::peer::Book>,
}

impl Default for Ways {
    /// None: candidates are pushed, names are not resolved.
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            resolver: Arc::new(NoResolver),
            remembered: None,
        }
    }
}
