//! A block in both directions: one form, everything else refused.

use proptest::prelude::*;

use super::*;
use crate::{BlockEncoder, IndexCoding, Keep, vectors::pattern};

fn codec(keep: Keep, values: ValueWidth, indices: IndexCoding) -> Codec {
    Codec {
        keep,
        values,
        indices,
    }
}

fn any_codec() -> impl Strategy<Value = Codec> {
    let keep = prop_oneof![
        Just(Keep::TENTH),
        Just(Keep::SIXTY_FOURTH),
        (1..=1_000_000_u32).prop_map(|ppm| Keep::from_ppm(ppm).unwrap()),
    ];
    let values = prop_oneof![
        Just(ValueWidth::Two),
        Just(ValueWidth::Eight),
        Just(ValueWidth::Exact)
    ];
    let indices = prop_oneof![Just(IndexCoding::Rice), Just(IndexCoding::Packed)];
    (keep, values, indices).prop_map(|(keep, values, indices)| codec(keep, values, indices))
}

/// Dense values with runs of zeros, equal magnitudes and extremes among them.
fn any_values(len: impl Into<proptest::collection::SizeRange>) -> impl Strategy<Value = Vec<f32>> {
    let value = prop_oneof![
        8 => -1.0_f32..1.0,
        3 => Just(0.0_f32),
        2 => prop_oneof![Just(0.5_f32), Just(-0.5)],
        1 => any::<f32>().prop_filter("finite", |value| value.is_finite()),
        1 => prop_oneof![Just(f32::MAX), Just(f32::MIN_POSITIVE), Just(1e-40_f32), Just(-0.0)],
    ];
    proptest::collection::vec(value, len)
}

fn encoded(codec: Codec, values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    BlockEncoder::new(codec).encode(&mut values.to_vec(), &mut bytes);
    bytes
}

fn decoded(codec: Codec, len: usize, bytes: &[u8]) -> Result<Block, BlockFault> {
    let mut block = Block::default();
    block.read(codec, 0, len, bytes)?;
    Ok(block)
}

fn written_again(codec: Codec, block: &mut Block) -> Vec<u8> {
    let mut bytes = Vec::new();
    let len = block.len;
    write(&mut block.parts, codec, len, &mut bytes);
    bytes
}

/// Changed bytes are refused, or are the one form of something else.
fn holds_or_is_refused(codec: Codec, len: usize, bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(mut block) = decoded(codec, len, bytes) {
        prop_assert_eq!(written_again(codec, &mut block), bytes);
        prop_assert!(block.places().is_sorted_by(|a, b| a < b));
        prop_assert_eq!(block.places().len(), block.values().len());
        let len = len as u16;
        prop_assert!(len == 0 || block.places().iter().all(|place| *place < len));
        prop_assert!(block.values().iter().all(|value| value.is_normal()));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_written_is_read_and_written_the_same(
        codec in any_codec(), values in any_values(1..9_000)
    ) {
        let bytes = encoded(codec, &values);
        prop_assert!(bytes.len() <= crate::BLOCK_BYTES_MAX);
        let mut block = decoded(codec, values.len(), &bytes).unwrap();
        prop_assert_eq!(written_again(codec, &mut block), bytes);
        for (chunk, part) in values.chunks(CHUNK).enumerate() {
            let here = |place: &&u16| usize::from(**place) / CHUNK == chunk;
            let kept = block.places().iter().filter(here).count();
            let able = part.iter().filter(|value| value.is_normal()).count();
            let keep = codec.keep.of(part.len());
            prop_assert!(kept <= keep.min(able));
            if codec.values != ValueWidth::Eight {
                prop_assert_eq!(kept, keep.min(able));
            }
        }
    }

    #[test]
    fn the_kept_are_the_largest_and_of_equals_the_first(
        keep in 1..=1_000_000_u32, values in any_values(1..5_000)
    ) {
        let keep = Keep::from_ppm(keep).unwrap();
        let codec = codec(keep, ValueWidth::Exact, IndexCoding::Rice);
        let block = decoded(codec, values.len(), &encoded(codec, &values)).unwrap();
        let mut expected = Vec::new();
        for (chunk, part) in values.chunks(CHUNK).enumerate() {
            let mut order: Vec<usize> = (0..part.len()).collect();
            order.sort_by(|a, b| part[*b].abs().total_cmp(&part[*a].abs()).then(a.cmp(b)));
            order.truncate(keep.of(part.len()));
            order.retain(|i| part[*i].is_normal());
            order.sort_unstable();
            expected.extend(order.iter().map(|i| (chunk * CHUNK + i) as u16));
        }
        prop_assert_eq!(block.places(), expected);
        for (place, value) in block.iter() {
            prop_assert_eq!(value.to_bits(), values[place].to_bits());
        }
    }

    #[test]
    fn what_is_sent_is_never_longer_than_what_was_given(
        codec in any_codec(), values in any_values(1..5_000)
    ) {
        let mut left = values.clone();
        let report = BlockEncoder::new(codec).encode(&mut left, &mut Vec::new());
        prop_assert!(report.sent <= report.given * (1.0 + 1e-7), "{report:?}");
        let block = decoded(codec, values.len(), &encoded(codec, &values)).unwrap();
        prop_assert_eq!(report.sent.to_bits(), block.square().to_bits());
        let mut sent = vec![0.0_f32; values.len()];
        for (place, value) in block.iter() {
            sent[place] = value;
        }
        for ((left, sent), value) in left.iter().zip(&sent).zip(&values) {
            prop_assert_eq!(left.to_bits(), (value - sent).to_bits());
        }
    }

    #[test]
    fn any_bytes_are_refused_or_the_one_form_of_something(
        codec in any_codec(), len in 1..9_000_usize,
        bytes in proptest::collection::vec(any::<u8>(), 0..600)
    ) {
        holds_or_is_refused(codec, len, &bytes)?;
    }

    #[test]
    fn changed_bytes_are_refused_or_the_one_form_of_something(
        codec in any_codec(), values in any_values(1..3_000),
        at in any::<prop::sample::Index>(), bit in 0..8_u8, cut in any::<prop::sample::Index>()
    ) {
        let mut bytes = encoded(codec, &values);
        prop_assume!(!bytes.is_empty());
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        holds_or_is_refused(codec, values.len(), &bytes)?;
        bytes[at] ^= 1 << bit;
        let cut = cut.index(bytes.len());
        if cut > 0 {
            prop_assert!(decoded(codec, values.len(), &bytes[..cut]).is_err(), "cut at {}", cut);
        }
        bytes.push(0);
        prop_assert!(decoded(codec, values.len(), &bytes).is_err());
    }
}

#[test]
fn every_single_bit_of_a_block_counts() {
    for indices in [IndexCoding::Rice, IndexCoding::Packed] {
        for width in [ValueWidth::Two, ValueWidth::Eight, ValueWidth::Exact] {
            let codec = codec(Keep::TENTH, width, indices);
            let len = 4_196;
            let mut bytes = encoded(codec, &pattern(len, 5));
            for bit in 0..bytes.len() * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                holds_or_is_refused(codec, len, &bytes).unwrap();
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }
}

/// A block of 2,000 elements with 20 values: Rice, 2 bits; `change` is done to its bytes.
fn fault(codec: Codec, values: &[f32], change: impl FnOnce(&mut Vec<u8>)) -> BlockFault {
    let mut bytes = encoded(codec, values);
    assert!(decoded(codec, values.len(), &bytes).is_ok());
    change(&mut bytes);
    decoded(codec, values.len(), &bytes).unwrap_err()
}

#[test]
fn what_is_no_canonical_block_is_refused_with_its_reason() {
    let keep = Keep::from_ppm(10_000).unwrap();
    let rice = codec(keep, ValueWidth::Two, IndexCoding::Rice);
    // 20 values of 2,000; the last byte of the unary part has ones.
    let values = pattern(2_000, 3);
    assert_eq!(fault(rice, &values, |b| b.push(0)), BlockFault::Trailing);
    let last = |b: &mut Vec<u8>| *b.last_mut().unwrap() |= 0x80;
    let full = pattern(2_000, 4);
    assert!(matches!(
        fault(rice, &full, last),
        BlockFault::Padding("gaps")
    ));
    assert_eq!(fault(rice, &values, |b| b[0] = 12), BlockFault::Flags(12));
    assert_eq!(
        fault(rice, &values, |b| b[0] |= 0x40) as BlockFault,
        BlockFault::Flags(0x40 | encoded(rice, &values)[0])
    );
    // Scales: low at 1, high at 3.
    let set = |at: usize, new: u16| {
        move |b: &mut Vec<u8>| b[at..at + 2].copy_from_slice(&new.to_le_bytes())
    };
    for bad in [0_u16, 0x007f, 0x7f80, 0x7fc0, 0x8000, 0xbf80, 0xffff] {
        assert_eq!(fault(rice, &values, set(1, bad)), BlockFault::Scale(0));
        assert_eq!(fault(rice, &values, set(3, bad)), BlockFault::Scale(0));
    }
    // One level, but codes that name two.
    assert_eq!(
        fault(rice, &values, |b| b.copy_within(1..3, 3)),
        BlockFault::Scale(0)
    );

    let packed = codec(keep, ValueWidth::Two, IndexCoding::Packed);
    assert_eq!(fault(packed, &values, |b| b[0] = 1), BlockFault::Flags(1));
    // The first two places, 12 bits each from byte 5: made equal, then beyond the chunk.
    let equal = |b: &mut Vec<u8>| {
        let first = u16::from(b[5]) | u16::from(b[6] & 15) << 8;
        b[6] = b[6] & 15 | (first << 4) as u8;
        b[7] = (first >> 4) as u8;
    };
    assert_eq!(fault(packed, &values, equal), BlockFault::Place(0));
    let beyond = |b: &mut Vec<u8>| (b[5], b[6]) = (0xff, b[6] | 15);
    assert_eq!(fault(packed, &values, beyond), BlockFault::Place(0));

    let exact = codec(keep, ValueWidth::Exact, IndexCoding::Packed);
    let put = |new: f32| {
        move |b: &mut Vec<u8>| {
            let at = b.len() - 4;
            b[at..].copy_from_slice(&new.to_le_bytes());
        }
    };
    for bad in [0.0, -0.0, 1e-40, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert_eq!(fault(exact, &values, put(bad)), BlockFault::Value(0));
    }
}

#[test]
fn a_parameter_that_makes_it_longer_is_refused() {
    let codec = Codec::DEFAULT;
    let values = pattern(CHUNK, 6);
    let bytes = encoded(codec, &values);
    let mut block = decoded(codec, CHUNK, &bytes).unwrap();
    let best = bytes[0];
    let gaps: Vec<u32> = {
        let mut next = 0;
        let places = block.places().iter();
        places
            .map(|place| {
                let gap = u32::from(*place) - next;
                next = u32::from(*place) + 1;
                gap
            })
            .collect()
    };
    let cost = |b: u8| {
        gaps.iter()
            .map(|g| (g >> b) + 1 + u32::from(b))
            .sum::<u32>()
    };
    assert_eq!(Some(best), (0..12).min_by_key(|b| (cost(*b), *b)));
    for other in (0..12).filter(|b| *b != best) {
        let mut longer = vec![other];
        longer.extend_from_slice(&bytes[1..5]);
        let mut bits = Vec::new();
        for gap in &gaps {
            bits.extend((0..other).map(|i| gap >> i & 1 == 1));
        }
        longer.extend(bytes_of(&bits));
        let codes: Vec<bool> = block
            .parts
            .codes
            .iter()
            .flat_map(|c| [c & 1 == 1, c & 2 == 2])
            .collect();
        longer.extend(bytes_of(&codes));
        bits.clear();
        for gap in &gaps {
            bits.extend((0..gap >> other).map(|_| false).chain([true]));
        }
        longer.extend(bytes_of(&bits));
        let refused = decoded(codec, CHUNK, &longer).unwrap_err();
        assert_eq!(refused, BlockFault::Rice(other));
    }
    assert_eq!(written_again(codec, &mut block), bytes);
}

fn bytes_of(bits: &[bool]) -> Vec<u8> {
    let byte = |bits: &[bool]| {
        bits.iter()
            .rev()
            .fold(0, |byte, bit| byte << 1 | u8::from(*bit))
    };
    bits.chunks(8).map(byte).collect()
}

#[test]
fn counts_stand_only_where_a_chunk_is_not_full() {
    let mut values = pattern(3 * CHUNK, 7);
    let full = encoded(Codec::DEFAULT, &values);
    assert_eq!(full[0] & COUNTS, 0);
    values[CHUNK + 5..2 * CHUNK].fill(0.0);
    let bytes = encoded(Codec::DEFAULT, &values);
    assert_eq!(bytes[0] & COUNTS, COUNTS);
    assert_eq!(
        &bytes[1..7],
        [410_u16, 5, 410].map(u16::to_le_bytes).as_flattened()
    );
    let change = |at: usize, count: u16| {
        let mut bytes = bytes.clone();
        bytes[at..at + 2].copy_from_slice(&count.to_le_bytes());
        decoded(Codec::DEFAULT, values.len(), &bytes).unwrap_err()
    };
    assert_eq!(change(1, 411), BlockFault::Counts);
    assert_eq!(change(3, 410), BlockFault::Counts);
    let none: Vec<u8> = [vec![COUNTS], vec![0; 6]].concat();
    let refused = decoded(Codec::DEFAULT, values.len(), &none).unwrap_err();
    assert_eq!(refused, BlockFault::Empty);
    values.fill(-0.0);
    assert!(encoded(Codec::DEFAULT, &values).is_empty());
    assert!(
        decoded(Codec::DEFAULT, values.len(), &[])
            .unwrap()
            .values()
            .is_empty()
    );
}
