//! Updates and residues from somebody else: headers that lie, blocks that are broken, bytes that are changed.

use owm_proto::{Sha256, genesis::NetworkId};
use proptest::prelude::*;

use super::{gaussian, lora, published, subject, threads};
use crate::{
    BLOCK, Block, CHUNK, Codec, Header, HeaderError, IndexCoding, Keep, LoraEpoch, Mode, Origin,
    Published, Residue, Targets, Update, UpdateError, ValueWidth, encode_update, vectors::pattern,
};

#[test]
fn a_header_that_is_not_the_round_s_is_refused_by_the_field() {
    let encoded = encode_update(subject(1.0), Codec::DEFAULT, pattern(500, 1), None).unwrap();
    let update = Update::parse(&encoded.bytes).unwrap();
    let good = published(update.header(), 1.0);
    update.verify(&good).unwrap();
    let check = |field, change: fn(&mut Published)| {
        let mut other = good.clone();
        change(&mut other);
        let refused = update.verify(&other);
        assert_eq!(refused, Err(UpdateError::Differs { field }));
    };
    check("network", |round| {
        round.network = NetworkId(Sha256([9; 32]));
    });
    check("round", |round| round.round += 1);
    check("sub-model", |round| {
        round.sub_model = "owm-code".parse().unwrap();
    });
    check("base", |round| round.base = Sha256([9; 32]));
    check("layout", |round| round.layout = Sha256([9; 32]));
    check("mode", |round| round.mode = lora(1));
    check("elements", |round| round.elements = 501);
    check("clip", |round| round.clip = 2.0);
    check("keep", |round| round.codec.keep = Keep::SIXTY_FOURTH);
    check("value bits", |round| round.codec.values = ValueWidth::Eight);
    check("index coding", |round| {
        round.codec.indices = IndexCoding::Packed;
    });
    let mut mean = subject(1.0);
    mean.origin = Origin::Aggregate { updates: 3 };
    let mean = encode_update(mean, Codec::DEFAULT, pattern(500, 1), None).unwrap();
    let refused = Update::parse(&mean.bytes).unwrap().verify(&good);
    assert_eq!(refused, Err(UpdateError::Differs { field: "kind" }));
}

#[test]
fn of_several_bad_blocks_the_first_is_named() {
    let elements = 32 * BLOCK;
    let encoded = encode_update(subject(1e9), Codec::DEFAULT, gaussian(elements, 7), None).unwrap();
    let mut bytes = encoded.bytes;
    let (_, table) = Header::parse(&bytes).unwrap();
    // Others are met sooner, for a good block takes longer than a bad one.
    for block in 3..32 {
        bytes[table.range(block).start as usize] = 0x7f;
    }
    let update = Update::parse(&bytes).unwrap();
    let published = published(update.header(), 1e9);
    let first = |refused| matches!(refused, UpdateError::Block { block: 3, .. });
    let mut dense = vec![0.0; elements];
    threads(8).install(|| {
        for _ in 0..50 {
            assert!(first(update.verify(&published).unwrap_err()));
            assert!(first(update.add_to(&mut dense).unwrap_err()));
        }
    });
}

#[test]
fn a_header_that_claims_what_is_not_there_costs_nothing() {
    let encoded = encode_update(subject(1.0), Codec::DEFAULT, vec![1.0; 100], None).unwrap();
    let bytes = encoded.bytes;
    let (_, table) = Header::parse(&bytes).unwrap();
    let elements_at = 12 + 32 + 1 + 7 + 32;
    assert_eq!(bytes[elements_at..elements_at + 8], 100_u64.to_le_bytes());
    let with = |at: usize, new: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        Update::parse(&bytes).unwrap_err()
    };
    let claims = |elements: u64| with(elements_at, &elements.to_le_bytes());
    assert_eq!(claims(0), HeaderError::Elements(0).into());
    assert_eq!(claims(1 << 38), HeaderError::Short.into());
    assert_eq!(claims(u64::MAX), HeaderError::Elements(u64::MAX).into());
    let header_bytes = table.range(0).start as usize;
    let longer = with(8, &(header_bytes as u32 + 1).to_le_bytes());
    let is = header_bytes as u64;
    let said = is + 1;
    assert_eq!(longer, HeaderError::Length { said, is }.into());
    assert!(matches!(
        with(8, &u32::MAX.to_le_bytes()),
        UpdateError::Header(HeaderError::Length { .. })
    ));
    let block = with(header_bytes - 4, &u32::MAX.to_le_bytes());
    assert!(matches!(
        block,
        UpdateError::Header(HeaderError::BlockLength { block: 0, .. })
    ));
    let total = with(header_bytes - 4, &1_u32.to_le_bytes());
    assert!(matches!(
        total,
        UpdateError::Header(HeaderError::Total { .. })
    ));
    assert_eq!(with(4, &[2, 0]), HeaderError::Version(2).into());
    assert_eq!(with(0, b"OWMR"), HeaderError::Magic("update").into());
}

fn any_mode() -> impl Strategy<Value = Mode> {
    prop_oneof![
        Just(Mode::Full),
        (
            any::<u32>(),
            1..=16_u16,
            any::<[u8; 32]>(),
            1..40_u32,
            any::<u64>()
        )
            .prop_map(|(epoch, rank, seed, tensors, places)| {
                let some = (0..tensors).filter(|i| places >> (i % 64) & 1 == 1);
                let targets = Targets::new(tensors, some.chain([0])).unwrap();
                Mode::Lora(LoraEpoch {
                    epoch,
                    rank,
                    seed,
                    targets,
                })
            })
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_changed_update_is_refused_or_the_one_form_of_something(
        mode in any_mode(), node: bool, at in any::<prop::sample::Index>(), bit in 0..8_u8
    ) {
        let mut subject = subject(1.0);
        subject.mode = mode;
        if !node {
            subject.origin = Origin::Aggregate { updates: 9 };
        }
        let elements = match &subject.mode {
            Mode::Full => CHUNK + 100,
            Mode::Lora(lora) => usize::from(lora.rank) * 300,
        };
        let codec = Codec { indices: IndexCoding::Packed, ..Codec::DEFAULT };
        let made = encode_update(subject, codec, pattern(elements, 3), None).unwrap();
        let mut bytes = made.bytes;
        let update = Update::parse(&bytes).unwrap();
        prop_assert_eq!(update.header(), &made.header);
        prop_assert!(update.summary().is_ok());
        // Half of the changes hit the header.
        let header = Header::bytes(&bytes).unwrap() as usize;
        let at = at.index(2 * header.min(bytes.len() / 2));
        bytes[at] ^= 1 << bit;
        if let Ok(update) = Update::parse(&bytes) {
            let _ = update.summary();
            let (header, table) = Header::parse(&bytes).unwrap();
            let lengths: Vec<u32> = (0..table.len())
                .map(|i| (table.range(i).end - table.range(i).start) as u32)
                .collect();
            let written = header.write(&lengths).unwrap();
            prop_assert_eq!(&written, &bytes[..written.len()]);
        }
    }

    #[test]
    fn bytes_that_are_taken_are_the_one_form_of_what_they_say(
        node: bool, changes in proptest::collection::vec(any::<(prop::sample::Index, u8)>(), 0..4),
        cut in 0..3_usize
    ) {
        let mut subject = subject(1.0);
        if !node {
            subject.origin = Origin::Aggregate { updates: 9 };
        }
        let made = encode_update(subject.clone(), Codec::DEFAULT, pattern(300, 3), None).unwrap();
        let mut bytes = made.bytes;
        for (at, to) in &changes {
            let at = at.index(bytes.len());
            bytes[at] = *to;
        }
        bytes.truncate(bytes.len() - cut);
        let untouched = cut == 0 && Sha256::of(&bytes) == made.sha256;
        let read = Update::parse(&bytes).and_then(|update| {
            let mut again = Vec::new();
            let mut block = Block::default();
            let mut lengths = Vec::new();
            for i in 0..update.blocks() {
                update.read(i, &mut block)?;
                again.push(block.to_bytes(update.header()));
                lengths.push(again[i].len() as u32);
            }
            let parts: Vec<&[u8]> = again.iter().map(|part| &part[..]).collect();
            Ok(crate::assemble(update.header(), &lengths, &parts).unwrap())
        });
        prop_assert!(read.is_ok() || !untouched, "{:?}", read);
        if let Ok(again) = read {
            prop_assert_eq!(again, bytes);
        }
        let residue = Residue::new(&subject, pattern(40, 5)).unwrap();
        let mut bytes = residue.to_bytes();
        for (at, to) in changes {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        bytes.truncate(bytes.len() - cut);
        match Residue::parse(&bytes) {
            Ok(read) => prop_assert_eq!(read.to_bytes(), bytes),
            Err(_) => prop_assert!(Sha256::of(&bytes) != residue.sha256()),
        }
    }
}
