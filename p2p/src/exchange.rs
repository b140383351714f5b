//! Verified files between peers (spec §8). [`machine`] decides who is asked for what and what is believed;
//! it is pure, the shell around it does the I/O; [`store`] is what lies on the disk. Node daemons use it.

pub mod machine;
pub mod pieces;
pub mod store;

pub use pieces::PieceSet;
