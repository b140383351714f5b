//! Feeds arbitrary bytes to what two peers say while they exchange files.
//!
//! Run with `cargo +nightly fuzz run --fuzz-dir tests/fuzz exchange`. What must stay true: no panic, a request that
//! is read is written the same, and no answer announces more than was asked for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use owm_p2p::exchange::wire::{
    ANSWER_BYTES, Answer, Ask, HAVE_BYTES_MAX, Have, REQUEST_BYTES, Request, Status,
};

fuzz_target!(|bytes: &[u8]| {
    let Some((head, rest)) = bytes.split_first_chunk::<REQUEST_BYTES>() else {
        return;
    };
    let Ok(request) = Request::parse(head) else {
        return;
    };
    assert_eq!(request.to_bytes(), *head);
    let Some((head, rest)) = rest.split_first_chunk::<ANSWER_BYTES>() else {
        return;
    };
    if let Ok(answer) = Answer::parse(head, &request) {
        let allowed = match (answer.status, request.ask) {
            (Status::Ok, Ask::Have) => HAVE_BYTES_MAX,
            (Status::Ok, Ask::Range { length, .. }) => length,
            _ => 0,
        };
        assert!(answer.length <= allowed);
    }
    let pieces = rest.len() as u32 * 8;
    if let Ok(have @ Have::Some(_)) = Have::parse(rest, pieces.saturating_sub(8)) {
        assert_eq!(have.to_bytes(), rest);
    }
});
