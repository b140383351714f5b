//! Every wire bound in one place, each with its unit and its reason.

/// Signed payloads: a manifest with a few hundred files fits, an update's bytes never travel in one.
pub const ENVELOPE_PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// One gRPC message in either direction: an answer of [`OUTPUT_TOKENS_MAX`] tokens with its text and
/// signatures stays far below.
pub const GRPC_MESSAGE_BYTES_MAX: usize = 4 << 20;

/// A question, all messages together: far above any context length of a served model, far below what
/// would hurt the database.
pub const PROMPT_BYTES_MAX: usize = 256 << 10;

/// Messages of one chat request.
pub const CHAT_MESSAGES_MAX: usize = 256;

/// Tokens of one answer.
pub const OUTPUT_TOKENS_MAX: u32 = 4_096;

/// Stop strings of one request, as OpenAI's API allows.
pub const STOP_STRINGS_MAX: usize = 4;

/// Bytes of one stop string.
pub const STOP_STRING_BYTES_MAX: usize = 256;

/// Bytes of an answer's text: a token is rarely above 16 bytes, never above 256.
pub const OUTPUT_BYTES_MAX: usize = 1 << 20;

/// The genesis document.
pub const GENESIS_BYTES_MAX: usize = 16 << 10;

/// An invite string: it has to fit a QR code (version 40, alphanumeric: 4,296 characters).
pub const INVITE_CHARS_MAX: usize = 4_000;

/// Files of one manifest.
pub const MANIFEST_FILES_MAX: usize = 1_024;

/// Texts of human size inside statements: names, notes, versions, addresses.
pub const SHORT_TEXT_BYTES_MAX: usize = 1 << 10;

/// GPUs that a node may name.
pub const GPUS_MAX: usize = 64;

/// Free slots a node may offer for one role at once.
pub const CREDITS_MAX: u32 = 1_024;

/// One gossip message, envelope included (spec §7).
pub const GOSSIP_MESSAGE_BYTES_MAX: usize = 64 << 10;

/// The answer of the first exchange between peers: genesis, statements, one manifest and capability
/// envelopes of the nodes heard lately.
pub const MEET_MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Capability envelopes of one such answer.
pub const MEET_NODES_MAX: usize = 1_024;

/// Nodes whose capability may be asked for by name in one such question: two kilobytes.
pub const MEET_WANTED_MAX: usize = 64;

/// Addresses that a node may announce: interfaces × transports, and relays.
pub const ADDRESSES_MAX: usize = 16;

/// Bytes of one announced address: a relayed onion address is far below.
pub const ADDRESS_BYTES_MAX: usize = 256;

/// Files that a node may announce to hold.
pub const HOLDS_MAX: usize = 1_024;

/// Shards of the heartbeat and capability topics: for 65 million nodes.
pub const SHARDS_MAX: u32 = 1 << 16;

/// The SHA-256 midstate ladder of one file, 32 bytes a piece: half a terabyte in pieces of 1 MiB, two in
/// pieces of 4 MiB. It is kept in memory while the file is fetched or served.
pub const LADDER_BYTES_MAX: u64 = 16 << 20;

/// Files of one candidate: weights in parts, configuration, tokenizer.
pub const CANDIDATE_FILES_MAX: usize = 64;

/// Shards of one evaluation: more than any corpus has.
pub const SHARDS_NAMED_MAX: usize = 256;

/// Documents that one evaluation measures with.
pub const EVALUATE_DOCUMENTS_MAX: u32 = 100_000;

/// Bytes of text of one evaluation: hours on two cores.
pub const EVALUATE_BYTES_MAX: u64 = 64 << 20;

/// Tokens of one row: above the context of every served model.
pub const EVALUATE_WINDOW_MAX: u32 = 1 << 15;

/// The JSON of one evaluation's report: hashes and figures.
pub const REPORT_BYTES_MAX: usize = 64 << 10;

/// The bytes of one update: a hundred times those of 135 million parameters at 10 %.
pub const UPDATE_BYTES_MAX: u64 = 1 << 30;

/// Rank of low-rank training.
pub const LORA_RANK_MAX: u32 = 512;

/// Local steps of one reference update or of one node in a round.
pub const TRAIN_STEPS_MAX: u32 = 10_000;

/// Former parts that one lease tells of: as many as a node keeps without a verdict.
pub const FORMER_PARTS_MAX: usize = 64;

/// Rows of one local step.
pub const TRAIN_BATCH_MAX: u32 = 1_024;
