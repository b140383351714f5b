#![doc = include_str!("../README.md")]

mod assemble;
mod behaviour;
pub mod bootstrap;
pub mod clock;
pub mod config;
pub mod counts;
pub mod directory;
pub mod documents;
pub mod error;
pub mod gossip;
mod guard;
pub mod handle;
pub mod join;
pub mod meet;
pub mod membership;
pub mod news;
pub mod peer;
pub mod policy;
pub mod service;
pub mod transport;
pub mod view;

pub use clock::{Clock, Moment};
pub use config::SwarmConfig;
pub use counts::Counts;
pub use directory::Directory;
pub use documents::Documents;
pub use error::{P2pError, Unavailable};
pub use gossip::{Judged, Limits, Rules};
pub use handle::Handle;
pub use join::{Join, JoinError, Joined, join};
pub use libp2p::{Multiaddr, PeerId, multiaddr};
pub use news::{NewestCheckpoint, News};
pub use policy::NetworkPolicy;
pub use service::{Start, start, start_over};
pub use transport::Transport;
pub use view::SwarmView;
