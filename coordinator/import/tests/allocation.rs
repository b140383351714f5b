//! No header makes the reader hold more memory than a small multiple of its bytes.
//!
//! Alone in its binary, with one test, because it counts every allocation of the process.
#![expect(unsafe_code, reason = "counting allocations needs a global allocator")]

#[expect(dead_code, reason = "the other tests use more of it")]
#[path = "it/sample.rs"]
mod sample;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

use owm_model_import::inspect_gguf;
use sample::Sample;

/// Bytes in use, and the most there were since the last reset.
static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The most memory that reading a header may take: this multiple of its bytes (strings of no
/// length cost 8 bytes there and 16 here, and the vocabulary is kept in a set too) …
const MULTIPLE_MAX: usize = 24;
/// … plus this, for messages and small tables.
const FIXED_MAX: usize = 64 << 10;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Counting;

// SAFETY: both methods pass their arguments on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = IN_USE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`, and `alloc` above is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn check(bytes: &[u8]) {
    let before = IN_USE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let _either = inspect_gguf(bytes, bytes.len() as u64);
    let used = PEAK.load(Ordering::Relaxed) - before;
    let limit = bytes.len() * MULTIPLE_MAX + FIXED_MAX;
    assert!(
        used <= limit,
        "{used} bytes for a header of {} (limit {limit})",
        bytes.len()
    );
}

#[test]
fn no_number_in_a_header_makes_it_reserve_more_than_the_file_can_fill() {
    let header = Sample::llama().header();
    let huge = [u64::MAX, 1 << 62, 1 << 40, 1 << 31, 1 << 21, 1 << 20, 4096];
    for at in 0..header.len() - 8 {
        for number in huge {
            let mut bytes = header.clone();
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
            check(&bytes);
        }
    }
    for element in [0, 7, 8, 12] {
        let mut sample = Sample::llama();
        let mut array = sample::array_start(element, 1 << 16);
        array.resize(array.len() + (8 << 16), 0);
        sample.set("tokenizer.ggml.tokens", array);
        check(&sample.header());
    }
}
