//! What the engine promises, on the tiny model.

mod generating;
mod loading;
pub(crate) mod reference;
