//! The model engine. This file lists the rooms and re-exports what the daemon uses;
//! nothing in this crate knows the network, and nothing here names another owm crate.
#![doc = include_str!("../README.md")]

mod chat;
mod checkpoint;
mod config;
mod decode;
mod device;
mod engine;
mod error;
mod evaluate;
mod fresh;
mod linear;
mod llama;
mod memory;
mod sampling;
mod text_stream;
#[cfg(test)]
mod tiny;
mod tokenizer;
mod tokens;
mod train;

pub use chat::{ChatMessage, ChatRole, Prompt};
pub use config::{ConfigError, ModelConfig};
#[cfg(feature = "gpu")]
pub use device::gpu_self_test;
pub use device::{DeviceChoice, DeviceError, DeviceInfo, DeviceKindFound, probe_devices};
pub use engine::{
    Engine, EngineDescription, FinishReason, GenerateJob, Generation, LoadOptions, TokenEvent,
};
pub use error::{GenerateError, LoadError, PromptError};
pub use evaluate::{Evaluation, evaluate, evaluate_tokens};
pub use fresh::{FreshShape, write_fresh, write_fresh_of};
pub use sampling::Sampling;
pub use text_stream::{StopStrings, StopStringsError, TextStream};
pub use tokenizer::Tokenizer;
pub use tokens::{Row, separator, tokens_of, tokens_within};
pub use train::{
    AdamW, Base, Decay, FlatOrder, Progress, TrainError, TrainMode, TrainPlan, Trained, Trainer,
    WrittenModel, check_way, low_rank_fixed,
};
