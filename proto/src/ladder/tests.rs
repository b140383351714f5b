//! The ladder against vectors of another SHA-256 (`tests/vectors/ladder.py`, pure Python, which notes the
//! states itself), against `sha2`'s digest for random files, and against liars.

use std::path::Path;

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

const P: u64 = 256 << 10;

#[derive(Deserialize)]
struct Vector {
    name: String,
    size: u64,
    piece_len: u64,
    sha256: Sha256,
    #[serde(default)]
    ladder: Vec<String>,
    ladder_sha256: Option<Sha256>,
}

fn content(size: u64) -> Vec<u8> {
    (0..size)
        .map(|k| (k * 31 + (k >> 8) * 7 + (k >> 16) * 3 + 5) as u8)
        .collect()
}

fn vectors() -> Vec<Vector> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/ladder.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn built(bytes: &[u8], piece_len: u64) -> Ladder {
    let mut builder = LadderBuilder::new(PieceLen::new(piece_len).unwrap());
    for part in bytes.chunks(100_003) {
        builder.update(part);
    }
    builder.finish().unwrap()
}

fn piece<'a>(ladder: &Ladder, bytes: &'a [u8], i: u32) -> &'a [u8] {
    let range = ladder.range(i);
    &bytes[range.start as usize..range.end as usize]
}

#[test]
fn the_vectors_of_another_sha_256_are_built_and_proved() {
    let vectors = vectors();
    assert_eq!(vectors.len(), 12);
    for vector in vectors {
        let name = &vector.name;
        let bytes = content(vector.size);
        let ladder = built(&bytes, vector.piece_len);
        let spec = *ladder.spec();
        assert_eq!(spec.sha256(), vector.sha256, "{name}");
        assert_eq!(spec.sha256(), Sha256::of(&bytes), "{name}");
        assert_eq!(spec.ladder_sha256(), vector.ladder_sha256, "{name}");
        let hex = data_encoding::HEXLOWER.encode(&ladder.to_bytes());
        assert_eq!(hex, vector.ladder.concat(), "{name}");

        let parsed = match spec.ladder_sha256() {
            Some(_) => Ladder::parse(spec, ladder.to_bytes()),
            None => Ladder::none(spec),
        };
        assert_eq!(parsed.as_ref(), Ok(&ladder), "{name}");
        assert_eq!(
            u64::from(ladder.pieces()),
            vector.size.div_ceil(vector.piece_len)
        );
        for i in (0..ladder.pieces()).rev() {
            assert!(
                ladder.check_whole(i, piece(&ladder, &bytes, i)),
                "{name} {i}"
            );
        }
    }
}

#[test]
fn a_piece_is_proved_in_parts_of_any_length() {
    let bytes = content(2 * P + 12_345);
    let ladder = built(&bytes, P);
    for parts in [1, 63, 64, 65, 4_096, 99_991] {
        for i in 0..3 {
            let mut check = ladder.check(i);
            for part in piece(&ladder, &bytes, i).chunks(parts) {
                check.update(part);
            }
            assert_eq!(check.missing(), 0);
            assert!(check.finish(), "{i} in parts of {parts}");
        }
    }
}

#[test]
fn a_wrong_piece_is_seen_wherever_the_wrong_bit_is() {
    let bytes = content(2 * P + 100);
    let ladder = built(&bytes, P);
    for i in 0..3 {
        let right = piece(&ladder, &bytes, i);
        for at in [0, 1, 63, 64, right.len() / 2, right.len() - 1] {
            let mut wrong = right.to_vec();
            wrong[at] ^= 1;
            assert!(!ladder.check_whole(i, &wrong), "{i} {at}");
        }
        assert!(!ladder.check_whole(i, &right[1..]), "{i}: cut short");
        assert!(!ladder.check_whole(i, &[]), "{i}: nothing");
        assert!(
            !ladder.check_whole(i, &[right, &[0]].concat()),
            "{i}: longer"
        );
    }
    assert!(
        !ladder.check_whole(0, piece(&ladder, &bytes, 1)),
        "another's place"
    );
    // The padding that SHA-256 would add is not part of the file: a tail that spells it out is wrong.
    let mut padded = piece(&ladder, &bytes, 2).to_vec();
    padded.push(0x80);
    assert!(!ladder.check_whole(2, &padded));
}

#[test]
fn a_ladder_that_is_not_the_manifest_s_is_refused() {
    let bytes = content(3 * P);
    let ladder = built(&bytes, P);
    let spec = *ladder.spec();
    let right = ladder.to_bytes();
    let length = |got: usize| {
        Err(LadderError::Length {
            expected: 96,
            got: got as u64,
        })
    };
    for got in [0, 32, 64, 95] {
        assert_eq!(Ladder::parse(spec, right[..got].to_vec()), length(got));
    }
    assert_eq!(Ladder::parse(spec, [&right[..], &[0]].concat()), length(97));
    for at in 0..96 {
        let mut forged = right.clone();
        forged[at] ^= 0x10;
        assert!(matches!(
            Ladder::parse(spec, forged),
            Err(LadderError::Forged { .. })
        ));
    }
    assert_eq!(Ladder::none(spec), Err(LadderError::Needed));
}

#[test]
fn a_piece_and_a_state_forged_for_it_do_not_pass() {
    let bytes = content(2 * P + 1);
    let honest = built(&bytes, P);
    let mut other = bytes.clone();
    other[10] ^= 1;
    // The liar's ladder proves the liar's pieces, and the whole of it hashes to something else.
    let forged = built(&other, P).to_bytes();
    assert!(matches!(
        Ladder::parse(*honest.spec(), forged),
        Err(LadderError::Forged { .. })
    ));
}

#[test]
fn a_manifest_whose_ladder_ends_in_another_file_is_found_at_once() {
    let ladder = built(&content(2 * P), P);
    let states = ladder.to_bytes();
    let other = Sha256::of(b"another file");
    let spec = FileSpec::new(other, 2 * P, Some(P), Some(Sha256::of(&states))).unwrap();
    let wrong_end = Err(LadderError::WrongEnd { expected: other });
    assert_eq!(Ladder::parse(spec, states), wrong_end);
    let empty = FileSpec::new(other, 0, None, None).unwrap();
    assert_eq!(Ladder::none(empty), wrong_end);
    let empty = FileSpec::new(Sha256::of(b""), 0, None, None).unwrap();
    assert_eq!(Ladder::none(empty).unwrap().pieces(), 0);
}

#[test]
fn piece_length_and_ladder_must_fit_the_size() {
    let hash = Sha256::of(b"x");
    let spec = |size, piece_len, ladder| FileSpec::new(hash, size, piece_len, ladder);
    for wrong in [0, 1, 3 * P, P - 1, P / 2, 32 << 20, u64::MAX] {
        assert_eq!(
            spec(2 * P, Some(wrong), Some(hash)),
            Err(LadderError::PieceLen(wrong))
        );
    }
    assert_eq!(spec(P, None, Some(hash)), Err(LadderError::NoPieceLen));
    let (size, piece_len) = (P, P);
    assert_eq!(
        spec(P, Some(P), None),
        Err(LadderError::LadderAbsent { size, piece_len })
    );
    let size = P - 1;
    assert_eq!(
        spec(size, Some(P), Some(hash)),
        Err(LadderError::LadderPresent { size, piece_len })
    );
    assert!(spec(P, Some(P), Some(hash)).is_ok());
    assert!(spec(P - 1, Some(P), None).is_ok());
    assert!(spec(0, Some(P), None).is_ok());
    assert!(
        spec(u64::MAX, None, None).is_ok(),
        "of the time before ladders"
    );
    assert!(matches!(
        spec(u64::MAX, Some(P), Some(hash)),
        Err(LadderError::TooLong { .. })
    ));
}

#[test]
fn a_file_without_a_ladder_is_one_piece_whatever_its_size() {
    let bytes = content(3 * P + 5);
    let spec = FileSpec::new(Sha256::of(&bytes), 3 * P + 5, None, None).unwrap();
    let ladder = Ladder::none(spec).unwrap();
    assert_eq!((ladder.pieces(), ladder.range(0)), (1, 0..3 * P + 5));
    assert!(ladder.check_whole(0, &bytes));
    assert!(!ladder.check_whole(0, &bytes[..bytes.len() - 1]));
    assert_eq!(Ladder::parse(spec, Vec::new()), Err(LadderError::NotNamed));
}

#[test]
fn pieces_are_a_mebibyte_below_16_gb_and_four_above() {
    assert_eq!(PieceLen::for_size(0).bytes(), 1 << 20);
    assert_eq!(PieceLen::for_size(15_999_999_999).bytes(), 1 << 20);
    assert_eq!(PieceLen::for_size(16_000_000_000).bytes(), 4 << 20);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_file_s_ladder_gives_its_plain_sha_256(size in 0..4 * P, salt: u8, step in 1usize..200_000) {
        let bytes: Vec<u8> = content(size).into_iter().map(|b| b ^ salt).collect();
        let mut builder = LadderBuilder::new(PieceLen::MIN);
        for part in bytes.chunks(step) {
            builder.update(part);
        }
        let ladder = builder.finish().unwrap();
        prop_assert_eq!(ladder.spec().sha256(), Sha256::of(&bytes));
        for i in 0..ladder.pieces() {
            prop_assert!(ladder.check_whole(i, piece(&ladder, &bytes, i)));
        }
    }
}
