//! Tests of the importer through its public interface, on small files made in the test.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set itself up may panic"
)]

mod gguf;
mod huggingface;
mod real;
mod sample;
mod tiny;
