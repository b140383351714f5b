//! Asks are bounded at the door, figures keep every bit.

use super::*;

fn ask() -> EvaluationAsk {
    let file = |name: &str| ManifestFile {
        name: name.into(),
        size: 5,
        sha256: Sha256::of(name.as_bytes()),
        piece_len: None,
        ladder_sha256: None,
    };
    EvaluationAsk {
        files: vec![file("config.json"), file("model.safetensors")],
        text: TextSource::Corpus {
            id: "owm-code".into(),
            shards: vec!["serde".into()],
        },
        documents_max: 8,
        bytes_max: 1_000,
        tokens_min: 1,
        tokens_max: 500,
        window: 64,
        seed: u64::MAX,
        reference: Some(ReferenceSteps {
            steps: 3,
            batch: 2,
            learning_rate: 1e-3,
            clip_norm: 1.0,
            keep_ppm: 100_000,
            value_bits: 2,
            round: 7,
            takes_part: true,
            lora: Some(LoraPlan {
                rank: 4,
                epoch: 2,
                seed: [3; 32],
            }),
        }),
    }
}

#[test]
fn an_ask_survives_the_wire() {
    let local = EvaluationAsk {
        text: TextSource::Local,
        reference: None,
        ..ask()
    };
    for ask in [ask(), local] {
        let wire = wire::EvaluatePayload::from(&ask);
        assert_eq!(EvaluationAsk::try_from(wire), Ok(ask));
    }
    assert_eq!(ask().weights_sha256(), [Sha256::of(b"model.safetensors")]);
}

#[test]
fn an_ask_out_of_bounds_is_none() {
    type Spoil = fn(&mut wire::EvaluatePayload);
    let spoils: [(&str, Spoil); 12] = [
        ("no file", |a| a.files.clear()),
        ("no weights", |a| a.files.truncate(1)),
        ("a path", |a| a.files[0].name = "../x".into()),
        ("twice", |a| a.files[0].name = "model.safetensors".into()),
        ("no hash", |a| a.files[0].sha256 = "ab".into()),
        ("no document", |a| a.documents_max = 0),
        ("too much text", |a| a.bytes_max = u64::MAX),
        ("more tokens at least than at most", |a| a.tokens_min = 501),
        ("no window", |a| a.window = 0),
        ("a corpus without end", |a| a.corpus = "x".repeat(2_000)),
        ("a rate that is none", |a| {
            a.reference.as_mut().unwrap().learning_rate = f32::NAN;
        }),
        ("a part in no round", |a| {
            a.reference.as_mut().unwrap().round = 0;
        }),
    ];
    for (what, spoil) in spoils {
        let mut wire = wire::EvaluatePayload::from(&ask());
        spoil(&mut wire);
        assert!(EvaluationAsk::try_from(wire).is_err(), "{what}");
    }
}

#[test]
fn former_parts_survive_the_wire_and_are_bounded() {
    let part = |n: u8| FormerPart {
        update: Sha256([n; 32]),
        counted: n.is_multiple_of(2),
    };
    let parts: Vec<_> = (0..64).map(part).collect();
    let mut wire = wire::EvaluatePayload {
        former: parts.iter().map(wire::FormerPart::from).collect(),
        ..wire::EvaluatePayload::from(&ask())
    };
    assert_eq!(FormerPart::told(&wire), Ok(parts));
    assert_eq!(
        EvaluationAsk::try_from(wire.clone()),
        Ok(ask()),
        "no part of the ask"
    );
    wire.former.push((&part(64)).into());
    assert!(FormerPart::told(&wire).is_err(), "too many");
    wire.former.truncate(1);
    wire.former[0].update_sha256.pop();
    assert!(FormerPart::told(&wire).is_err(), "no hash");
}

#[test]
fn a_report_keeps_every_bit_of_its_figures() {
    let report = EvaluationReport {
        candidate: vec![Sha256([1; 32])],
        text: ask().text,
        window: 64,
        documents: 2,
        bytes: 100,
        tokens: 99,
        tokens_sha256: Sha256([2; 32]),
        finding: Finding::HeldOut {
            loss: ExactF64(0.1 + 0.2),
            bits_per_byte: ExactF64(f64::MIN_POSITIVE),
        },
    };
    let bytes = report.to_bytes();
    let text = String::from_utf8(bytes.clone()).unwrap();
    assert!(text.contains("\"loss\":\"3fd3333333333334\""), "{text}");
    assert_eq!(EvaluationReport::from_bytes(&bytes), Some(report));
    for bad in ["3FD3333333333334", "3fd333333333333", "+fd3333333333334"] {
        let spoiled = text.replace("3fd3333333333334", bad);
        assert_eq!(EvaluationReport::from_bytes(spoiled.as_bytes()), None);
    }
    let mut long = bytes;
    long.resize(REPORT_BYTES_MAX + 1, b' ');
    assert_eq!(EvaluationReport::from_bytes(&long), None);
}
