#![doc = include_str!("../README.md")]

pub mod api;
pub mod cli;
pub mod coordinator;
mod devnet;
pub mod node;
pub mod paths;
pub mod ports;
pub mod postgres;
pub mod process;
mod settings;
mod show;
mod state;

pub use devnet::{Builder, Devnet, Model};
