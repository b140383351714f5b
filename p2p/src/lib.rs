#![doc = include_str!("../README.md")]

mod assemble;
mod behaviour;
pub mod clock;
pub mod config;
pub mod directory;
pub mod counts;
pub mod documents;
pub mod error;
pub mod gossip;
mod guard;
pub mod handle;
pub mod membership;
pub mod meet;
pub mod news;
pub mod peer;
pub mod policy;
pub mod service;
pub mod transport;
pub mod view;

pub use clock::{Clock, Moment};
pub use config::SwarmConfig;
pub use directory::Directory;
pub use counts::Counts;
pub use documents::Documents;
pub use error::{P2pError, Unavailable};
pub use gossip::{Judged, Limits, Rules};
pub use handle::Handle;
pub use libp2p::{Multiaddr, PeerId, multiaddr};
pub use news::{NewestCheckpoint, News};
pub use policy::NetworkPolicy;
pub use service::{Start, start, start_over};
pub use transport::Transport;
pub use view::SwarmView;
