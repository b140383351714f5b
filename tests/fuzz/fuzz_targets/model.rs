//! Feeds arbitrary bytes to what describes a model's files: manifests, ladders and what a file's pieces are.
//!
//! Run with `deploy/fuzz.sh 60 model`. What must stay true: no panic, pieces cover a file without gap or overlap,
//! a ladder or a piece that is not the manifest's is refused, a manifest that is read is written so that it is read
//! the same.
#![no_main]

use std::num::NonZeroU32;

use libfuzzer_sys::fuzz_target;
use owm_proto::{FileSpec, Ladder, LadderBuilder, PieceLen, Sha256, manifest::Manifest};

/// Pieces of a file that are looked at: the first and the last ones.
const LOOKED_AT: u32 = 8;

fn covers(ladder: &Ladder) {
    let pieces = ladder.pieces();
    let size = ladder.spec().size();
    let Some(count) = NonZeroU32::new(pieces) else {
        assert_eq!(size, 0);
        return;
    };
    assert_eq!(ladder.range(0).start, 0);
    assert_eq!(ladder.range(pieces - 1).end, size);
    for piece in (1..count.get()).take(LOOKED_AT as usize) {
        assert_eq!(ladder.range(piece).start, ladder.range(piece - 1).end);
        let from_end = pieces - piece;
        assert_eq!(ladder.range(from_end).start, ladder.range(from_end - 1).end);
    }
}

/// A number from the next eight bytes.
fn number(bytes: &mut &[u8]) -> u64 {
    let Some((head, rest)) = bytes.split_first_chunk() else {
        return 0;
    };
    *bytes = rest;
    u64::from_le_bytes(*head)
}

/// Any description with any ladder.
fn any_ladder(mut bytes: &[u8]) {
    let (size, piece_len, choice) = (number(&mut bytes), number(&mut bytes), number(&mut bytes));
    let piece_len = match choice % 4 {
        0 => None,
        1 => Some(piece_len),
        _ => Some((256 << 10) << (piece_len % 8)),
    };
    let named = (choice & 4 > 0).then(|| Sha256::of(bytes));
    let sha256 = Sha256::of(&size.to_le_bytes());
    let Ok(spec) = FileSpec::new(sha256, size, piece_len, named) else {
        return;
    };
    if let Ok(ladder) = Ladder::parse(spec, bytes.to_vec()) {
        assert_eq!(bytes.len() as u64, spec.ladder_bytes());
        assert_eq!(ladder.to_bytes(), bytes);
        covers(&ladder);
        // Nobody holds a file of such a ladder.
        assert!(!ladder.check_whole(0, bytes));
    }
    if let Ok(ladder) = Ladder::none(spec) {
        covers(&ladder);
        if ladder.pieces() > 0 {
            assert!(!ladder.check_whole(0, bytes));
        }
    }
}

/// A true file whose ladder and pieces are changed.
fn changed(bytes: &[u8]) {
    let Some(([at, bit, long], rest)) = bytes.split_first_chunk::<3>() else {
        return;
    };
    let piece_len = PieceLen::MIN;
    let mut file = rest.to_vec();
    file.resize(
        (usize::from(*long) % 3) * piece_len.bytes() as usize + rest.len(),
        *bit,
    );
    let mut builder = LadderBuilder::new(piece_len);
    builder.update(&file);
    let ladder = builder.finish().expect("a short file has a ladder");
    covers(&ladder);
    for piece in 0..ladder.pieces() {
        let range = ladder.range(piece);
        let mut bytes = file[range.start as usize..range.end as usize].to_vec();
        assert!(ladder.check_whole(piece, &bytes));
        let wrong = usize::from(*at) * bytes.len() / 256;
        bytes[wrong] ^= 1 << (bit % 8);
        assert!(!ladder.check_whole(piece, &bytes));
    }
    let mut states = ladder.to_bytes();
    if !states.is_empty() {
        assert_eq!(
            Ladder::parse(*ladder.spec(), states.clone()).as_ref(),
            Ok(&ladder)
        );
        let wrong = usize::from(*at) * states.len() / 256;
        states[wrong] ^= 1 << (bit % 8);
        assert!(Ladder::parse(*ladder.spec(), states).is_err());
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = bytes.split_first() else {
        return;
    };
    match choice % 8 {
        0 => changed(bytes),
        1..4 => any_ladder(bytes),
        _ => {
            let Ok(manifest) = Manifest::from_bytes(bytes) else {
                return;
            };
            for file in &manifest.files {
                let spec = FileSpec::of(file).expect("checked with the manifest");
                assert!(spec.ladder_bytes() <= owm_proto::limits::LADDER_BYTES_MAX);
            }
            assert_eq!(
                Manifest::from_bytes(&manifest.to_bytes()).as_ref(),
                Ok(&manifest)
            );
        }
    }
});
