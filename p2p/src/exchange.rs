//! Verified files between peers (spec §8). [`machine`] decides who is asked for what and what is believed;
//! it is pure, the shell around it does the I/O: [`wire`] is what two peers say over the streams of [`behaviour`],
//! [`serve`] answers, [`driver`] fetches, [`files`] is what both sides need of the disk, [`store`] what lies on it.
//! Node daemons use it.

pub mod behaviour;
pub mod driver;
pub mod files;
pub mod machine;
pub mod pieces;
pub mod rate;
pub mod serve;
pub mod slots;
pub mod store;
pub mod wire;

pub use behaviour::Streams;
pub use driver::{Exchange, ExchangeConfig, Fetch, Sources};
pub use pieces::PieceSet;
