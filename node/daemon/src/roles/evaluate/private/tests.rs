//! What can be told apart from outside, and what cannot.

use owm_proto::{manifest::ManifestFile, wire::coordinator::HandBackReason};

use super::*;

fn node() -> NodeKey {
    NodeKey::from_seed(&[1; 32])
}

fn ask(documents_max: u32, tokens_max: u64) -> EvaluationAsk {
    EvaluationAsk {
        files: Vec::<ManifestFile>::new(),
        text: TextSource::Local,
        documents_max,
        bytes_max: 100_000,
        tokens_min: 1,
        tokens_max,
        window: 8,
        seed: 11,
        reference: None,
    }
}

fn found(documents: u32, tokens: u64, bytes: u64, loss: f64) -> Measurement {
    Measurement {
        documents,
        bytes,
        tokens,
        tokens_sha256: Sha256([7; 32]),
        loss,
        bits_per_byte: loss * tokens as f64 / std::f64::consts::LN_2 / bytes as f64,
    }
}

fn tell(found: Measurement) -> Measurement {
    told(&ask(64, 9_000), &node(), found).unwrap()
}

#[test]
fn texts_that_differ_by_a_document_give_the_same_figures() {
    let whole = tell(found(40, 5_200, 20_801, 2.123_46));
    let less = tell(found(39, 5_131, 20_533, 2.123_27));
    let figures = |told: &Measurement| {
        let bits = (told.loss.to_bits(), told.bits_per_byte.to_bits());
        (told.documents, told.bytes, told.tokens, bits)
    };
    assert_eq!(figures(&whole), figures(&less));
    assert_eq!(
        (whole.documents, whole.bytes, whole.tokens),
        (32, 20_480, 5_120)
    );
    assert_eq!(whole.loss.to_bits(), 2.123_f64.to_bits());
}

#[test]
fn round_figures_are_near_the_true_ones_and_agree_with_each_other() {
    for (tokens, bytes, loss) in [
        (4_096, 4_096, 0.0),
        (7_001, 30_001, 3.456_789),
        (99_999, 412_345, 1.000_499),
    ] {
        let exact = found(50, tokens, bytes, loss);
        let told = tell(exact);
        assert!(told.tokens <= tokens && told.tokens + TOKENS_STEP > tokens);
        assert!(told.bytes >= 1 && told.bytes <= bytes);
        assert!((told.loss - loss).abs() <= 0.000_5);
        let allowed = 0.01 * exact.bits_per_byte + 0.001;
        assert!((told.bits_per_byte - exact.bits_per_byte).abs() <= allowed);
        let bits = told.loss * told.tokens as f64 / std::f64::consts::LN_2;
        let per_byte = bits / told.bytes as f64;
        // The coordinator's own check.
        assert!((per_byte - told.bits_per_byte).abs() <= per_byte * 1e-9);
    }
}

#[test]
fn the_hash_says_only_that_a_text_is_the_same() {
    let told = |node: &NodeKey| shown_hash(node, Sha256([7; 32]));
    assert_ne!(told(&node()), Sha256([7; 32]));
    assert_eq!(told(&node()), told(&node()));
    assert_ne!(told(&node()), told(&NodeKey::from_seed(&[2; 32])));
    assert_eq!(
        tell(found(40, 5_000, 20_000, 2.0)).tokens_sha256,
        told(&node())
    );
}

#[test]
fn too_little_text_is_refused_without_its_figures() {
    for found in [found(31, 9_000, 9_000, 2.0), found(40, 4_095, 9_000, 2.0)] {
        let refusal = told(&ask(64, 9_000), &node(), found).unwrap_err();
        assert_eq!(refusal.reason, HandBackReason::CannotDo);
        assert_eq!(refusal, too_little());
    }
    let mut more = ask(64, 9_000);
    more.tokens_min = 5_125;
    let refusal = told(&more, &node(), found(40, 5_130, 20_000, 2.0)).unwrap_err();
    assert!(refusal.message.contains("5120"), "{}", refusal.message);
    assert!(!refusal.message.contains("5130"), "{}", refusal.message);
}

#[test]
fn who_asks_chooses_no_document() {
    let (one, other) = (ask(63, 9_000), ask(33, 8_200));
    assert_eq!(Bounds::of(&one), Bounds::of(&other));
    assert_eq!(Bounds::of(&one).documents, 32);
    assert_eq!(Bounds::of(&one).tokens, 8_192);
    let mut seeded = ask(63, 9_000);
    seeded.seed = 12;
    assert_eq!(order(&one, &node()), order(&seeded, &node()));
    seeded.text = TextSource::Corpus {
        id: "owm-geo".into(),
        shards: vec![],
    };
    assert_eq!(
        (order(&seeded, &node()), Bounds::of(&seeded).documents),
        (12, 63)
    );
}

fn steps(steps: u32, batch: u32) -> ReferenceSteps {
    ReferenceSteps {
        steps,
        batch,
        learning_rate: 1e-3,
        clip_norm: 1.0,
        keep_ppm: 100_000,
        value_bits: 2,
        round: 1,
        takes_part: true,
        lora: None,
    }
}

#[test]
fn who_asks_chooses_no_row_and_a_round_has_its_own() {
    let (asked, node) = (ask(64, 9_000), node());
    let mut seeded = asked.clone();
    seeded.seed = 12;
    let first = rows(&asked, &node, 1);
    assert_eq!(first, rows(&seeded, &node, 1));
    assert_ne!(first, rows(&asked, &node, 2));
    assert_ne!(first, rows(&asked, &NodeKey::from_seed(&[2; 32]), 1));
    seeded.text = TextSource::Corpus {
        id: "owm-geo".into(),
        shards: vec![],
    };
    assert_eq!(rows(&seeded, &node, 1), 12);
}

#[test]
fn losses_of_a_training_are_told_of_enough_tokens_each() {
    let mut asked = ask(64, 9_000);
    asked.window = 1_024;
    let of = |ask: &EvaluationAsk, batch, found: &[f32]| {
        let told = losses(ask, steps(found.len() as u32, batch), found);
        told.map(f64::to_bits)
    };
    let figures = |first: f64, last: f64| [first.to_bits(), last.to_bits()];
    let found = [4.0, 3.0, 2.0, 1.0];
    assert_eq!(of(&asked, 2, &found), figures(3.5, 1.5));
    assert_eq!(of(&asked, 4, &found), figures(4.0, 1.0));
    assert_eq!(of(&asked, 1, &[4.0, 2.0]), figures(3.0, 3.0));
    asked.text = TextSource::Corpus {
        id: "owm-geo".into(),
        shards: vec![],
    };
    assert_eq!(of(&asked, 1, &found), figures(4.0, 1.0));
}

#[test]
fn a_training_of_few_tokens_is_refused_and_not_counted() {
    let log = TaskLog::in_memory().unwrap();
    let now = UnixMillis(1_800_000_000_000);
    let rules = OwnText {
        per_day: 1,
        any_weights: false,
    };
    let mut asked = ask(32, 4_096);
    asked.window = 32;
    asked.reference = Some(steps(127, 2));
    for _ in 0..2 {
        let refusal = rules.admit(&asked, true, &log, now).unwrap_err();
        assert!(refusal.message.contains("8192"), "{}", refusal.message);
    }
    asked.reference = Some(steps(128, 2));
    assert_eq!(rules.admit(&asked, true, &log, now), Ok(()));
}

#[test]
fn unsigned_weights_small_asks_and_one_too_many_are_refused() {
    let log = TaskLog::in_memory().unwrap();
    let now = UnixMillis(1_800_000_000_000);
    let rules = OwnText {
        per_day: 2,
        any_weights: false,
    };
    let admit = |rules: OwnText, ask: &EvaluationAsk, is_signed| {
        rules.admit(ask, is_signed, &log, now).map_err(|refusal| {
            assert_eq!(refusal.reason, HandBackReason::CannotDo);
            refusal.message
        })
    };
    let enough = ask(32, 4_096);
    for _ in 0..3 {
        let unsigned = admit(rules, &enough, false).unwrap_err();
        assert!(unsigned.contains("released weights"), "{unsigned}");
        for small in [ask(31, 4_096), ask(32, 4_095)] {
            assert!(
                admit(rules, &small, true)
                    .unwrap_err()
                    .contains("4096 tokens")
            );
        }
    }
    assert_eq!(admit(rules, &enough, true), Ok(()));
    let allowed = OwnText {
        any_weights: true,
        ..rules
    };
    assert_eq!(admit(allowed, &enough, false), Ok(()));
    let full = admit(rules, &enough, true).unwrap_err();
    assert!(full.contains("2 times a day"), "{full}");
}
