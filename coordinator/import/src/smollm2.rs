//! SmolLM2-135M-Instruct's published weights: what `deploy/fetch-weights.sh` fetches, and the tests of the
//! real file hold it against.

/// Name of the weights' file.
pub const GGUF_FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
/// Its size, in bytes.
pub const GGUF_SIZE: u64 = 98_362_432;
/// SHA-256 of its bytes.
pub const GGUF_SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
