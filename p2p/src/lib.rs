#![doc = include_str!("../README.md")]

pub mod clock;
pub mod config;
pub mod documents;
pub mod error;
pub mod gossip;
pub mod handle;
pub mod news;
pub mod peer;
pub mod policy;
pub mod view;

pub use clock::{Clock, Moment};
pub use config::SwarmConfig;
pub use documents::Documents;
pub use error::{P2pError, Unavailable};
pub use handle::Handle;
pub use libp2p::{Multiaddr, PeerId, multiaddr};
pub use news::News;
pub use policy::NetworkPolicy;
pub use view::SwarmView;
