//! What the delta and the residue are, against the definition (spec §10.6–7).

#![expect(clippy::float_cmp, reason = "to the bit: that is what is promised")]

use owm_proto::Sha256;
use owm_update::{BLOCK, Codec, LoraEpoch, Mode, Origin, Residue, Targets, Update, apply::Merge};

use super::fixture::{self, Steps, decide, memory, parent, submissions};
use crate::{
    AggregateError, Base, MemoryParent, Released, Statistics, StrategyName, Work, mean, release,
};

fn released(steps: &Steps, residue: Option<Residue>) -> (Vec<f64>, Released) {
    let spool = memory(&steps.encoded());
    let statistics = Statistics::measure(&spool).unwrap();
    let decision = decide(StrategyName::OwmRobust, &statistics, &submissions(steps.n)).unwrap();
    let layout = steps.layout();
    let base = Base {
        layout: &layout,
        parent: &MemoryParent(&steps.parent),
    };
    let work = Work {
        subject: steps.subject(Origin::Aggregate {
            updates: steps.n as u32,
        }),
        codec: Codec::DEFAULT,
    };
    let step = mean(&spool, &decision).unwrap();
    (
        step,
        release(&spool, &decision, work, residue, &base).unwrap(),
    )
}

fn child(steps: &Steps, delta: &[u8]) -> Vec<u8> {
    let layout = steps.layout();
    let update = Update::parse(delta).unwrap();
    let mut file = steps.parent.clone();
    let merge = Merge::new(&layout, file.len() as u64, &update).unwrap();
    merge.in_place(&mut file).unwrap();
    file
}

#[test]
fn the_residue_is_what_was_wanted_less_what_the_file_has_moved_by() {
    // 0.01 as f16: steps of 1e-4 are an ulp or so.
    let elements = BLOCK + 9_000;
    let mut steps = Steps::new(6, elements);
    steps.parent = parent(elements, "F16", &0x211f_u16.to_le_bytes());
    let f16 = |bytes: &[u8]| {
        // A normal, positive half.
        let bits = u32::from(u16::from_le_bytes([bytes[0], bytes[1]]));
        f64::from(f32::from_bits(
            ((bits >> 10) + 112) << 23 | (bits & 0x3ff) << 13,
        ))
    };
    let mut residue: Option<Residue> = None;
    let mut wanted = vec![0.0_f64; elements];
    let mut moved = vec![0.0_f64; elements];
    for _ in 0..3 {
        let before = residue.clone();
        let (step, done) = released(&steps, residue.take());
        let next = child(&steps, &done.delta);
        let header = Update::parse(&done.delta).unwrap().header().clone();
        assert_eq!(header.residue_before, before.as_ref().map(Residue::sha256));
        assert_eq!(header.residue_after, Some(done.residue.sha256()));
        let at = steps.layout().data().start as usize;
        for i in 0..elements {
            let old = before.as_ref().map_or(0.0, |residue| residue.values()[i]);
            let target = (f64::from(old) + step[i]) as f32;
            let bytes = at + 2 * i..at + 2 * i + 2;
            let went = f16(&next[bytes.clone()]) - f16(&steps.parent[bytes]);
            let left = (f64::from(target) - went) as f32;
            assert_eq!(done.residue.values()[i], left, "element {i}");
            wanted[i] += step[i];
            moved[i] += went;
        }
        steps.parent = next;
        residue = Some(done.residue);
    }
    // Nothing is lost: what was wanted is what the file has moved by and what is left.
    let residue = residue.unwrap();
    for i in 0..elements {
        let sum = moved[i] + f64::from(residue.values()[i]);
        assert!((wanted[i] - sum).abs() < 1e-9, "element {i}");
    }
    assert!(moved.iter().any(|moved| *moved != 0.0));
}

#[test]
fn in_lora_mode_the_residue_is_what_b_did_not_carry() {
    let (rows, columns, rank) = (300_usize, 200_usize, 4_u16);
    let json = format!(
        r#"{{"w":{{"dtype":"F16","shape":[{rows},{columns}],"data_offsets":[0,{}]}}}}"#,
        rows * columns * 2
    );
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend(json.as_bytes());
    file.extend(0x211f_u16.to_le_bytes().repeat(rows * columns));
    let mut steps = Steps::new(6, rows * usize::from(rank));
    steps.parent = file;
    let mode = Mode::Lora(LoraEpoch {
        epoch: 1,
        rank,
        seed: [9; 32],
        targets: Targets::new(1, [0]).unwrap(),
    });
    let spool = memory(&steps.encoded());
    let statistics = Statistics::measure(&spool).unwrap();
    let decision = decide(StrategyName::OwmRobust, &statistics, &submissions(6)).unwrap();
    let layout = steps.layout();
    let base = Base {
        layout: &layout,
        parent: &MemoryParent(&[]),
    };
    let mut subject = steps.subject(Origin::Aggregate { updates: 6 });
    subject.mode = mode;
    let work = |subject| Work {
        subject,
        codec: Codec::DEFAULT,
    };
    let done = release(&spool, &decision, work(subject.clone()), None, &base).unwrap();
    let sent = fixture::dense(&done.delta);
    let step = mean(&spool, &decision).unwrap();
    for ((left, step), sent) in done.residue.values().iter().zip(step).zip(sent) {
        assert_eq!(*left, step as f32 - sent);
    }
    child(&steps, &done.delta);
    // The next epoch begins without it.
    let Mode::Lora(epoch) = &mut subject.mode else {
        unreachable!()
    };
    epoch.epoch = 2;
    let refused = release(&spool, &decision, work(subject), Some(done.residue), &base).unwrap_err();
    assert!(matches!(refused, AggregateError::Residue(_)), "{refused}");
}

#[test]
fn what_would_not_be_finite_and_what_is_of_another_parent_is_refused() {
    let mut steps = Steps::new(6, 5_000);
    let spool = memory(&steps.encoded());
    let statistics = Statistics::measure(&spool).unwrap();
    let mut decision = decide(StrategyName::OwmRobust, &statistics, &submissions(6)).unwrap();
    let layout = steps.layout();
    let subject = steps.subject(Origin::Aggregate { updates: 6 });
    let work = || Work {
        subject: subject.clone(),
        codec: Codec::DEFAULT,
    };
    steps.parent.truncate(100);
    let parent = MemoryParent(&steps.parent);
    let base = Base {
        layout: &layout,
        parent: &parent,
    };
    let refused = release(&spool, &decision, work(), None, &base).unwrap_err();
    assert!(matches!(refused, AggregateError::Parent(_)), "{refused}");
    decision.verdicts[0].scale = 1e300;
    let refused = release(&spool, &decision, work(), None, &base).unwrap_err();
    assert!(matches!(refused, AggregateError::NotFinite(_)), "{refused}");
    let mut other = work();
    other.subject.layout = Sha256([9; 32]);
    let refused = release(&spool, &decision, other, None, &base).unwrap_err();
    assert!(matches!(refused, AggregateError::Apply(_)), "{refused}");
}
