//! Deltas on small files: what changes, what does not, and what is refused. The exact bytes are in the vectors.

use owm_proto::{Sha256, genesis::NetworkId};

use super::*;
use crate::{Codec, Keep, LoraEpoch, Mode, Origin, Subject, Targets, ValueWidth, encode_update};

/// A file of two matrices of f32 and a counter of u8 between them.
fn file(values: &[f32]) -> Vec<u8> {
    let json = br#"{"b":{"dtype":"F32","shape":[2,2],"data_offsets":[19,35]},
        "n":{"dtype":"U8","shape":[3],"data_offsets":[16,19]},
        "a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#;
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend(json);
    file.extend(values[..4].iter().flat_map(|v| v.to_le_bytes()));
    file.extend([7, 8, 9]);
    file.extend(values[4..].iter().flat_map(|v| v.to_le_bytes()));
    file
}

fn delta(parent: &[u8], mode: Mode, step: Vec<f32>) -> Vec<u8> {
    let subject = Subject {
        network: NetworkId(Sha256([1; 32])),
        round: 1,
        sub_model: "owm-code".parse().unwrap(),
        base: Sha256::of(parent),
        layout: Layout::parse(parent).unwrap().id(),
        mode,
        origin: Origin::Aggregate { updates: 1 },
    };
    let exact = Codec {
        keep: Keep::ALL,
        values: ValueWidth::Exact,
        ..Codec::DEFAULT
    };
    encode_update(subject, exact, step, None).unwrap().bytes
}

fn lora(rank: u16) -> Mode {
    Mode::Lora(LoraEpoch {
        epoch: 1,
        rank,
        seed: [7; 32],
        targets: Targets::new(3, [0, 2]).unwrap(),
    })
}

fn merged(parent: &[u8], delta: &[u8]) -> Result<(Vec<u8>, Merged), ApplyError> {
    let layout = Layout::parse(parent).unwrap();
    let update = Update::parse(delta).unwrap();
    let mut file = parent.to_vec();
    let merged = Merge::new(&layout, parent.len() as u64, &update)?.in_place(&mut file)?;
    Ok((file, merged))
}

#[test]
fn elements_without_a_value_keep_their_bits_and_the_others_are_summed() {
    let parent = file(&[1.0, -0.0, 3.0, f32::NAN, 5.0, 6.0, 7.0, 8.0]);
    let step = vec![0.5, 0.0, 0.0, 0.0, 1e-9, 0.0, 0.0, -8.0];
    let (child, done) = merged(&parent, &delta(&parent, Mode::Full, step)).unwrap();
    assert_eq!(child, file(&[1.5, -0.0, 3.0, f32::NAN, 5.0, 6.0, 7.0, 0.0]));
    assert_eq!(done.sha256, Sha256::of(&child));
    assert_eq!(done.changed, 2, "5 + 1e-9 is 5");
}

#[test]
fn lora_adds_b_times_a() {
    let values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
    let parent = file(&values);
    let b = [0.5, 0.25, -1.0, 0.0];
    let (child, _) = merged(&parent, &delta(&parent, lora(1), b.to_vec())).unwrap();
    let mut expected = values;
    for (target, tensor) in [0, 2].into_iter().enumerate() {
        let a = lora_a(&[7; 32], tensor, 1, 2);
        assert!(a.iter().all(|a| a.abs() < 1.0 / 2.0_f32.sqrt()));
        for (row, column) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let w = &mut expected[target * 4 + row * 2 + column];
            let product = f64::from(b[target * 2 + row]) * f64::from(a[column]);
            *w = (f64::from(*w) + product) as f32;
        }
    }
    assert_eq!(child, file(&expected));
}

#[test]
fn what_would_not_be_finite_is_refused() {
    let parent = file(&[1.0, f32::MAX, 3.0, 4.0, 5.0, 6.0, f32::INFINITY, 8.0]);
    let at = |element: usize| {
        let mut step = vec![0.0; 8];
        step[element] = f32::MAX;
        merged(&parent, &delta(&parent, Mode::Full, step)).unwrap_err()
    };
    let refused = |tensor, element| ApplyError::NotFinite { tensor, element };
    assert_eq!(at(1), refused(0, 1));
    assert_eq!(at(6), refused(2, 2));
    let whole = merged(&parent, &delta(&parent, lora(1), vec![0.0; 4])).unwrap_err();
    assert_eq!(whole, refused(2, 2));
}

#[test]
fn a_file_shorter_than_its_header_says_is_refused_before_it_is_planned() {
    // 2^38 elements: a plan of four million pieces, or a terabyte of B.
    let json = r#"{"a":{"dtype":"F32","shape":[274877906944,1],"data_offsets":[0,1099511627776]}}"#;
    let mut head = (json.len() as u64).to_le_bytes().to_vec();
    head.extend(json.as_bytes());
    let layout = Layout::parse(&head).unwrap();
    let bytes = delta(&file(&[1.0; 8]), Mode::Full, vec![1.0; 8]);
    let update = Update::parse(&bytes).unwrap();
    let refused = Merge::new(&layout, head.len() as u64, &update).unwrap_err();
    let expected = (1 << 40) + head.len() as u64;
    let got = head.len() as u64;
    assert_eq!(refused, ApplyError::Size { expected, got });
}

#[test]
fn of_several_elements_that_would_not_be_finite_the_first_is_named() {
    let elements = 32 * BLOCK;
    let json = format!(
        r#"{{"a":{{"dtype":"F32","shape":[{elements}],"data_offsets":[0,{}]}}}}"#,
        elements * 4
    );
    let mut parent = (json.len() as u64).to_le_bytes().to_vec();
    parent.extend(json.as_bytes());
    parent.extend(std::iter::repeat_n(f32::MAX.to_le_bytes(), elements).flatten());
    // The first is met late, behind a block full of values that change nothing.
    let mut step = vec![0.0; elements];
    step[3 * BLOCK..4 * BLOCK].fill(1.0);
    for block in 3..32 {
        step[(block + 1) * BLOCK - 1] = f32::MAX;
    }
    let bytes = delta(&parent, Mode::Full, step);
    crate::tests::threads(8).install(|| {
        for _ in 0..20 {
            let refused = merged(&parent, &bytes).unwrap_err();
            let (tensor, element) = (0, 4 * BLOCK as u64 - 1);
            assert_eq!(refused, ApplyError::NotFinite { tensor, element });
        }
    });
}

#[test]
fn another_parent_and_another_layout_are_refused() {
    let parent = file(&[1.0; 8]);
    let bytes = delta(&parent, Mode::Full, vec![1.0; 8]);
    let other = file(&[2.0; 8]);
    assert!(matches!(
        merged(&other, &bytes),
        Err(ApplyError::OtherParent { .. })
    ));
    let update = Update::parse(&bytes).unwrap();
    let layout = Layout::parse(&other).unwrap();
    let merge = Merge::new(&layout, other.len() as u64, &update).unwrap();
    let mut stream = merge.stream();
    let mut at = 0;
    while let Some(bytes) = stream.next_bytes() {
        stream.apply(&mut other[at..at + bytes].to_vec()).unwrap();
        at += bytes;
    }
    assert!(matches!(
        stream.finish(),
        Err(ApplyError::OtherParent { .. })
    ));
    let mut stream = merge.stream();
    let wrong = stream.apply(&mut [0; 3]).unwrap_err();
    assert!(matches!(wrong, ApplyError::Piece { got: 3, .. }));
    assert!(merge.stream().finish().is_err(), "nothing was given");

    let mut renamed = parent.clone();
    let name = renamed.windows(3).position(|bytes| bytes == b"\"b\"");
    renamed[name.unwrap() + 1] = b'c';
    assert!(matches!(
        merged(&renamed, &bytes),
        Err(ApplyError::OtherLayout { .. })
    ));
    let fewer = delta(&parent, Mode::Full, vec![1.0; 7]);
    assert!(matches!(
        merged(&parent, &fewer),
        Err(ApplyError::Update(UpdateError::Elements {
            update: 7,
            other: 8
        }))
    ));
}

#[test]
fn a_layout_that_lies_is_refused() {
    let parse = |json: &str| {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend(json.as_bytes());
        Layout::parse(&bytes)
    };
    let good = r#"{"a":{"dtype":"F16","shape":[2,2],"data_offsets":[0,8]}}"#;
    assert_eq!(parse(good).unwrap().elements(&Mode::Full), Ok(4));
    for bad in [
        r#"{"a":{"dtype":"F16","shape":[2,2],"data_offsets":[0,16]}}"#,
        r#"{"a":{"dtype":"F16","shape":[2,2],"data_offsets":[8,0]}}"#,
        r#"{"a":{"dtype":"F16","shape":[2,2],"data_offsets":[2,10]}}"#,
        r#"{"a":{"dtype":"F16","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,0]}}"#,
        r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,18446744073709551615]}}"#,
        r#"{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},
            "a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}"#,
        r#"{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},
            "b":{"dtype":"F16","shape":[1],"data_offsets":[1,3]}}"#,
        "[]",
    ] {
        let refused = parse(bad);
        assert!(matches!(refused, Err(LayoutError::Malformed(_))), "{bad}");
    }
    let short = Layout::parse(&[9, 0, 0, 0, 0, 0, 0, 0, b'{']).unwrap_err();
    assert_eq!(short, LayoutError::Short { needed: 17, got: 9 });
    let huge = Layout::parse(&[255; 8]).unwrap_err();
    assert!(matches!(huge, LayoutError::Malformed(_)));
    let layout = Layout::parse(&file(&[0.0; 8])).unwrap();
    let on = |tensors, place| {
        let Mode::Lora(mut epoch) = lora(1) else {
            unreachable!()
        };
        epoch.targets = Targets::new(tensors, [place]).unwrap();
        layout.lora_targets(&epoch).unwrap_err()
    };
    assert_eq!(on(3, 1), LayoutError::Target(1), "a counter");
    assert_eq!(on(4, 1), LayoutError::Tensors { epoch: 4, file: 3 });
    let too_wide = layout.elements(&lora(3)).unwrap_err();
    assert_eq!(too_wide, LayoutError::Target(0), "rank 3 of 2 x 2");
}
