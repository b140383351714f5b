//! Steps to updates and back, as trainers and aggregators do it; residues.

use owm_proto::{PublicKey, Sha256, genesis::NetworkId};

use crate::{
    BLOCK, Block, BlockTable, Codec, EncodeError, Header, HeaderError, Keep, LoraEpoch, Mode,
    Origin, Published, Residue, ResidueError, Subject, Targets, Update, UpdateError, ValueWidth,
    encode_update, vectors::pattern,
};

mod foreign;

fn subject(clip: f32) -> Subject {
    Subject {
        network: NetworkId(Sha256([1; 32])),
        round: 3,
        sub_model: "owm-geo".parse().unwrap(),
        base: Sha256([2; 32]),
        layout: Sha256([3; 32]),
        mode: Mode::Full,
        origin: Origin::Node {
            node: PublicKey([4; 32]),
            samples: 100,
            steps: 30,
            clip,
        },
    }
}

fn lora(epoch: u32) -> Mode {
    Mode::Lora(LoraEpoch {
        epoch,
        rank: 8,
        seed: [5; 32],
        targets: Targets::new(12, [1, 4, 11]).unwrap(),
    })
}

/// Gaussian steps by Box and Muller from a counter; for figures, not for vectors.
fn gaussian(elements: usize, seed: u64) -> Vec<f32> {
    let uniform = |i: u64| {
        let mut x = (i + seed * 0x1_0000_0000).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    };
    let value = |i: u64| {
        let radius = (-2.0 * (1.0 - uniform(2 * i)).ln()).sqrt();
        (radius * (std::f64::consts::TAU * uniform(2 * i + 1)).cos() * 1e-3) as f32
    };
    (0..elements as u64).map(value).collect()
}

fn dense(bytes: &[u8]) -> Vec<f32> {
    let update = Update::parse(bytes).unwrap();
    let mut dense = vec![0.0; update.header().elements as usize];
    update.add_to(&mut dense).unwrap();
    dense
}

#[test]
fn a_tenth_takes_a_45th_of_raw_f32_and_a_64th_a_146th() {
    let elements = 8 * BLOCK + 777;
    let step = gaussian(elements, 1);
    for (keep, least, cosine) in [
        (Keep::TENTH, 45.0, 0.655),
        (Keep::SIXTY_FOURTH, 146.0, 0.335),
    ] {
        let codec = Codec {
            keep,
            ..Codec::DEFAULT
        };
        let encoded = encode_update(subject(1e9), codec, step.clone(), None).unwrap();
        let times = (elements * 4) as f64 / encoded.bytes.len() as f64;
        assert!(times >= least, "{times} times smaller");
        let report = encoded.report;
        assert!(report.cosine > cosine, "{report:?}");
        // Of what is kept, two magnitudes lose next to nothing.
        let exact = Codec {
            values: ValueWidth::Exact,
            ..codec
        };
        let best = encode_update(subject(1e9), exact, step.clone(), None).unwrap();
        assert!(report.cosine > best.report.cosine * 0.994, "{report:?}");
    }
}

#[test]
fn what_is_not_sent_is_the_residue_and_comes_back_next_time() {
    let step = gaussian(BLOCK + 5_000, 2);
    let first = encode_update(subject(1e9), Codec::DEFAULT, step.clone(), None).unwrap();
    assert_eq!(first.header.residue_before, None);
    let sent = dense(&first.bytes);
    for ((left, sent), step) in first.residue.values().iter().zip(&sent).zip(&step) {
        assert_eq!(left.to_bits(), (step - sent + 0.0).to_bits());
    }
    let residue = first.residue.clone();
    let zero = vec![0.0; step.len()];
    let second = encode_update(subject(1e9), Codec::DEFAULT, zero, Some(residue)).unwrap();
    assert_eq!(second.header.residue_before, Some(first.residue.sha256()));
    assert_eq!(second.header.residue_after, Some(second.residue.sha256()));
    let largest = |values: &[f32]| values.iter().fold(0.0_f32, |max, v| max.max(v.abs()));
    let expected = largest(first.residue.values()) * 0.95;
    assert!((second.report.norm / norm(first.residue.values()) - 0.95).abs() < 1e-6);
    assert!(largest(&dense(&second.bytes)) <= expected * 1.01);
}

fn norm(values: &[f32]) -> f64 {
    values
        .iter()
        .map(|v| f64::from(*v).powi(2))
        .sum::<f64>()
        .sqrt()
}

#[test]
fn a_rejected_update_puts_its_step_back() {
    let step = gaussian(2 * BLOCK + 9, 3);
    let clip = 0.1;
    let encoded = encode_update(subject(clip), Codec::DEFAULT, step.clone(), None).unwrap();
    let factor = encoded.report.norm_clipped / encoded.report.norm;
    assert!(factor < 0.5);
    let update = Update::parse(&encoded.bytes).unwrap();
    encoded.residue.check_after(update.header()).unwrap();
    let left = encoded.residue.sha256();
    let whole = encoded.residue.put_back(&update).unwrap();
    assert_ne!(whole.sha256(), left);
    assert_eq!(
        whole.check_after(update.header()),
        Err(ResidueError::NotAfter {
            expected: left,
            got: whole.sha256()
        })
    );
    let slack = whole
        .values()
        .iter()
        .fold(0.0_f32, |max, v| max.max(v.abs()))
        * 1e-6;
    for (whole, step) in whole.values().iter().zip(&step) {
        assert!((f64::from(*whole) - f64::from(*step) * factor).abs() <= f64::from(slack));
    }
    // What it hashes to is what its bytes hash to.
    let read = Residue::parse(&whole.to_bytes()).unwrap();
    assert_eq!(read, whole);
}

pub(crate) fn threads(count: usize) -> rayon::ThreadPool {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(count);
    pool.build().unwrap()
}

#[test]
fn the_bytes_do_not_depend_on_the_number_of_threads() {
    let step = gaussian(5 * BLOCK + 1, 4);
    let run = |count| {
        let step = step.clone();
        threads(count).install(|| encode_update(subject(0.5), Codec::DEFAULT, step, None).unwrap())
    };
    let (one, five) = (run(1), run(5));
    assert_eq!(one.sha256, five.sha256);
    assert_eq!(one.residue, five.residue);
    assert_eq!(one.report, five.report);
}

#[test]
fn a_step_that_is_no_number_is_named() {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut step = gaussian(BLOCK + 9, 5);
        step[BLOCK + 3] = bad;
        let refused = encode_update(subject(1.0), Codec::DEFAULT, step, None).unwrap_err();
        assert_eq!(refused, EncodeError::NotFinite(BLOCK as u64 + 3));
    }
    for clip in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let refused = encode_update(subject(clip), Codec::DEFAULT, vec![1.0], None).unwrap_err();
        assert!(matches!(refused, EncodeError::Clip(_)));
    }
    let refused = encode_update(subject(1.0), Codec::DEFAULT, Vec::new(), None).unwrap_err();
    assert_eq!(refused, EncodeError::Header(HeaderError::Elements(0)));
}

#[test]
fn an_update_above_the_bound_is_refused() {
    let step = gaussian(BLOCK, 6);
    let encoded = encode_update(subject(1e9), Codec::DEFAULT, step, None).unwrap();
    let norm = encoded.report.norm_decoded;
    let with = |clip: f64| {
        let mut header = encoded.header.clone();
        header.subject.origin = Origin::Node {
            node: PublicKey([4; 32]),
            samples: 1,
            steps: 1,
            clip: clip as f32,
        };
        let (_, table) = Header::parse(&encoded.bytes).unwrap();
        let range = table.range(0);
        let block = &encoded.bytes[range.start as usize..];
        let lengths = [block.len() as u32];
        crate::assemble(&header, &lengths, &[block]).unwrap()
    };
    let verified = |clip: f64| {
        let bytes = with(clip);
        let update = Update::parse(&bytes).unwrap();
        update.verify(&published(update.header(), clip as f32))
    };
    verified(norm).unwrap();
    verified(norm / 1.009).unwrap();
    let refused = verified(norm / 1.011);
    assert!(
        matches!(refused, Err(UpdateError::Norm { .. })),
        "{refused:?}"
    );
    // A sender that names a bound of its own is refused by name.
    let bytes = with(norm * 10.0);
    let update = Update::parse(&bytes).unwrap();
    let refused = update.verify(&published(update.header(), (norm / 10.0) as f32));
    assert_eq!(refused, Err(UpdateError::Differs { field: "clip" }));
}

/// What a round would have published whose updates have this header.
fn published(header: &Header, clip: f32) -> Published {
    let subject = header.subject.clone();
    Published {
        network: subject.network,
        round: subject.round,
        sub_model: subject.sub_model,
        base: subject.base,
        layout: subject.layout,
        mode: subject.mode,
        elements: header.elements,
        codec: header.codec,
        clip,
    }
}

#[test]
fn an_aggregator_reads_the_same_block_of_many_updates_without_having_them_in_memory() {
    let elements = 3 * BLOCK + 17;
    let updates: Vec<Vec<u8>> = (0..5)
        .map(|seed| {
            let step = gaussian(elements, 10 + seed);
            let encoded = encode_update(subject(1.0), Codec::DEFAULT, step, None).unwrap();
            encoded.bytes
        })
        .collect();
    // What stands for files: only the first 12 bytes, then the header, then one block is read.
    let open = |bytes: &Vec<u8>| -> (Header, BlockTable) {
        let length = Header::bytes(&bytes[..12]).unwrap() as usize;
        Header::parse(&bytes[..length]).unwrap()
    };
    let opened: Vec<_> = updates.iter().map(open).collect();
    let mut sums = vec![0.0_f64; BLOCK];
    let mut block = Block::default();
    let mut all = Vec::new();
    for i in 0..opened[0].1.len() {
        sums.fill(0.0);
        for ((header, table), bytes) in opened.iter().zip(&updates) {
            let range = table.range(i);
            let bytes = &bytes[range.start as usize..range.end as usize];
            block.read_at(header, i, bytes).unwrap();
            assert_eq!(block.first(), (i * BLOCK) as u64);
            for (place, value) in block.iter() {
                sums[place] += f64::from(value) / 5.0;
            }
        }
        all.extend_from_slice(&sums[..block.elements()]);
    }
    let mut expected = vec![0.0_f64; elements];
    for bytes in &updates {
        for (sum, value) in expected.iter_mut().zip(dense(bytes)) {
            *sum += f64::from(value) / 5.0;
        }
    }
    assert_eq!(all, expected);
}

#[test]
fn a_residue_goes_only_with_its_own_training() {
    let values = pattern(64 * 3, 1);
    let mut of = subject(1.0);
    of.mode = lora(7);
    let residue = Residue::new(&of, values.clone()).unwrap();
    assert_eq!(residue.check(&of, 192), Ok(()));
    let other = |what| Err(ResidueError::Other(what));
    assert_eq!(residue.check(&of, 200), other("size"));
    let mut next = of.clone();
    next.mode = lora(8);
    assert_eq!(residue.check(&next, 192), other("mode or LoRA epoch"));
    next = of.clone();
    next.layout = Sha256([9; 32]);
    assert_eq!(residue.check(&next, 192), other("tensor layout"));
    next.sub_model = "owm-code".parse().unwrap();
    assert_eq!(residue.check(&next, 192), other("sub-model"));
    next.network = NetworkId(Sha256([9; 32]));
    assert_eq!(residue.check(&next, 192), other("network"));
    // Another round and another base are the same training.
    next = of.clone();
    (next.round, next.base) = (4, Sha256([8; 32]));
    assert_eq!(residue.check(&next, 192), Ok(()));
    let encoded = encode_update(next, Codec::DEFAULT, values, Some(residue)).unwrap();
    assert_eq!(encoded.header.subject.mode, lora(7));
}

#[test]
fn a_residue_s_bytes_have_one_form() {
    let residue = Residue::new(&subject(1.0), vec![1.0, -0.0, -2.5]).unwrap();
    assert_eq!(residue.values()[1].to_bits(), 0, "a zero has no sign");
    let bytes = residue.to_bytes();
    assert_eq!(residue.sha256(), Sha256::of(&bytes));
    assert_eq!(Residue::parse(&bytes).unwrap(), residue);
    let end = bytes.len();
    let with = |at: usize, value: f32| {
        let mut bytes = bytes.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        Residue::parse(&bytes).unwrap_err()
    };
    assert_eq!(with(end - 8, -0.0), ResidueError::Value(1));
    assert_eq!(with(end - 4, f32::NAN), ResidueError::Value(2));
    assert!(Residue::new(&subject(1.0), vec![f32::INFINITY]).is_err());
    for cut in 0..end {
        assert!(Residue::parse(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    let mut reserved = bytes.clone();
    reserved[6] = 1;
    let field = "reserved";
    let expected = HeaderError::Field { field, value: 1 };
    assert_eq!(Residue::parse(&reserved), Err(expected.into()));
    let longer = [&bytes[..], &[0]].concat();
    assert!(matches!(
        Residue::parse(&longer),
        Err(ResidueError::Length {
            expected: 12,
            got: 13
        })
    ));
}
