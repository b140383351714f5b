//! Feeds arbitrary bytes to the GGUF reader and to the planning on top of it.
//!
//! Run with `deploy/fuzz.sh 60 gguf`. What must stay true: no panic, no
//! allocation beyond a small multiple of the input, and every accepted tensor can be read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use owm_model_import::{
    gguf::{Gguf, dequantise::dequantise},
    inspect_gguf,
};

fuzz_target!(|bytes: &[u8]| {
    let length = bytes.len() as u64;
    let _either = inspect_gguf(bytes, length);
    let Ok(gguf) = Gguf::parse(bytes, length) else {
        return;
    };
    for (name, info) in gguf.tensors() {
        let range = info.offset as usize..(info.offset + info.bytes) as usize;
        let mut values = Vec::new();
        dequantise(info.encoding, &bytes[range], &mut values);
        assert_eq!(values.len() as u64, info.values(), "{name:?}");
    }
});
