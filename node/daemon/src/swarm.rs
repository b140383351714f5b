//! The node in the swarm: reads its `[p2p]` settings, starts the peer, announces what this node is, and
//! brings home what peers say. `daemon` starts it before anything else is known but the network's id.
//! Must stay true: nothing here can end the process or keep it from starting.

mod capability;
mod checkpoint;
mod exchange;
mod listen;
mod looking;
mod picture;
mod runner;
mod schedule;
mod serving;
mod settings;
mod visit;
mod ways;

pub use exchange::{Gave, PeerFiles};
pub use picture::{NewestPicture, NodePicture, PeerPicture, SwarmPicture};
pub use runner::{Identity, Setup, Swarm};
pub use settings::{Settings, SettingsError};
pub use ways::{addresses, resolver};

pub(crate) use checkpoint::store as keep_checkpoint;
pub(crate) use runner::SwarmClock;
pub(crate) use visit::{Visit, Visitor};
