//! Training on the tiny model: the loss is the inference's, the gradients are those of finite
//! differences, the bytes are the seed's, a stopped run goes on as if it had not been.

use std::{ops::ControlFlow, path::Path, sync::Arc};

use super::{micro::Setting, *};
use crate::{
    DeviceChoice, Engine, LoadOptions, engine::tests::reference::reference_scores, evaluate,
    tiny::TinyModel, tokens_of,
};

/// Text enough for a few windows.
const TEXT: &str = "The capital of France is Paris. The capital of Spain is Madrid. \
    The capital of Italy is Rome. fn main() { println!(\"hello\"); } \
    The capital of Norway is Oslo. The capital of Peru is Lima.";

fn go_on() -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn plan(mode: TrainMode) -> TrainPlan {
    TrainPlan {
        mode,
        steps: 6,
        sequence: 16,
        rows: 4,
        pass_rows: 2,
        optimizer: AdamW {
            learning_rate: 3e-3,
            ..AdamW::default()
        },
        warmup: 2,
        decay: Decay::Cosine { floor: 0.1 },
        clip_norm: Some(1.0),
        seed: 11,
    }
}

const LOW_RANK: TrainMode = TrainMode::LowRank {
    rank: 4,
    seed: [7; 32],
};

fn base(model: &TinyModel) -> Arc<Base> {
    Arc::new(Base::load(model.path(), None).unwrap())
}

fn tokens(base: &Base) -> Vec<u32> {
    tokens_of(base.config(), base.tokenizer(), &[TEXT]).unwrap()
}

fn trainer(model: &TinyModel, plan: TrainPlan) -> Trainer {
    let base = base(model);
    let tokens = tokens(&base);
    Trainer::new(base, tokens, plan).unwrap()
}

fn run(mut trainer: Trainer) -> Trained {
    let done = trainer.run(&mut go_on, &mut |_, _| go_on()).unwrap();
    assert!(done);
    trainer.finish().unwrap()
}

/// The loss by the plain-loop implementation of the architecture.
fn reference_loss(model: &TinyModel, window: &[u32]) -> f64 {
    let scores = reference_scores(&model.config, &model.weights, &window[..window.len() - 1]);
    let row = |(scores, target): (&Vec<f32>, &u32)| {
        let sum: f64 = scores.iter().map(|score| f64::from(*score).exp()).sum();
        sum.ln() - f64::from(scores[*target as usize])
    };
    scores.iter().zip(&window[1..]).map(row).sum()
}

#[test]
fn the_training_loss_is_the_loss_of_the_plain_implementation() {
    let model = TinyModel::new();
    let base = base(&model);
    let tokens = tokens(&base);
    let (a, b) = (&tokens[..17], &tokens[16..33]);
    let expected = reference_loss(&model, a) + reference_loss(&model, b);
    for mode in [TrainMode::Full, LOW_RANK] {
        let (setting, leaves) = Setting::new(&base, mode, 16);
        let loss = setting.loss(&leaves, &[a, b]).unwrap();
        assert!(
            (loss - expected).abs() < 1e-3 * expected,
            "{loss} {expected}"
        );
        let (tracked, _) = setting.gradient(&leaves, &[a, b], 1.0).unwrap();
        assert!((tracked - loss).abs() < 1e-5 * loss, "{tracked} {loss}");
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    for tied in [true, false] {
        let mut config = crate::tiny::config_json();
        config["tie_word_embeddings"] = tied.into();
        let model = TinyModel::with_config(&config);
        let base = base(&model);
        let tokens = tokens(&base);
        let rows = [&tokens[..17], &tokens[16..33]];
        for mode in [TrainMode::Full, LOW_RANK] {
            let (setting, mut leaves) = Setting::new(&base, mode, 16);
            if mode != TrainMode::Full {
                // Away from 0, where B's gradient would not show a wrong B.
                let mut noise = crate::tiny::noise(5);
                for leaf in &mut leaves {
                    leaf.update(|values| values.iter_mut().for_each(|v| *v = 0.05 * noise()))
                        .unwrap();
                }
            }
            let (_, gradients) = setting.gradient(&leaves, &rows, 1.0).unwrap();
            for (at, gradient) in gradients.iter().enumerate() {
                check_leaf(&setting, &mut leaves, &rows, at, gradient);
            }
        }
    }
}

/// Moves one tensor a little along its own gradient, there and back: the loss changes by the
/// gradient's square. One direction per tensor says more than single values, whose change drowns in
/// f32.
fn check_leaf(
    setting: &Setting,
    leaves: &mut [Leaf],
    rows: &[&[u32]],
    at: usize,
    gradient: &[f32],
) {
    let square: f64 = gradient.iter().map(|g| f64::from(*g).powi(2)).sum();
    let name = leaves[at].name.clone();
    assert!(square > 0.0, "{name}");
    let step = (0.02 / square.sqrt()) as f32;
    let mut loss_at = |factor: f32| {
        let old = leaves[at].values().unwrap();
        let moved = |values: &mut [f32]| {
            values
                .iter_mut()
                .zip(gradient)
                .for_each(|(v, g)| *v += factor * g);
        };
        leaves[at].update(moved).unwrap();
        let loss = setting.loss(leaves, rows).unwrap();
        leaves[at]
            .update(|values| values.copy_from_slice(&old))
            .unwrap();
        loss
    };
    let slope = (loss_at(step) - loss_at(-step)) / (2.0 * f64::from(step));
    let error = (slope - square).abs() / square;
    assert!(error < 0.03, "{name}: {slope} instead of {square}");
}

#[test]
fn the_same_seed_gives_the_same_bytes_however_many_threads_compute() {
    let model = TinyModel::new();
    for mode in [TrainMode::Full, LOW_RANK] {
        let first = run(trainer(&model, plan(mode)));
        let mut alone = trainer(&model, plan(mode));
        alone.lanes = Vec::new();
        let second = run(alone);
        assert_eq!(bits(&first), bits(&second));
        let mut three = trainer(&model, plan(mode));
        three.lanes = super::lanes(2, 5).unwrap();
        assert_eq!(bits(&run(three)), bits(&first));
        let other = TrainPlan {
            seed: 12,
            ..plan(mode)
        };
        assert_ne!(bits(&run(trainer(&model, other))), bits(&first));
    }
}

/// All trained values, to the bit.
fn bits(trained: &Trained) -> Vec<u32> {
    trained.step().iter().map(|value| value.to_bits()).collect()
}

#[test]
fn a_step_that_passes_do_not_divide_has_every_row_once() {
    let model = TinyModel::new();
    for mode in [TrainMode::Full, LOW_RANK] {
        let five = |pass_rows| TrainPlan {
            rows: 5,
            pass_rows,
            clip_norm: None,
            ..plan(mode)
        };
        let mut trainers = [2, 5].map(|pass_rows| trainer(&model, five(pass_rows)));
        let [parts, whole] = trainers
            .each_mut()
            .map(|trainer| trainer.step(&mut go_on).unwrap().unwrap());
        assert_eq!((parts.tokens, whole.tokens), (5 * 16, 5 * 16));
        assert!((parts.loss - whole.loss).abs() < 1e-5 * whole.loss);
        let norms = (parts.gradient_norm, whole.gradient_norm);
        assert!((norms.0 - norms.1).abs() < 1e-4 * norms.1, "{norms:?}");
    }
}

#[test]
fn a_run_that_was_stopped_goes_on_to_the_same_bytes() {
    let model = TinyModel::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    for mode in [TrainMode::Full, LOW_RANK] {
        let unbroken = run(trainer(&model, plan(mode)));
        let mut stopped = trainer(&model, plan(mode));
        let mut passes = 0;
        // Stops in the middle of the third step: what it had begun is not in the state.
        let mut stop = || {
            passes += 1;
            if passes > 5 {
                ControlFlow::Break(())
            } else {
                go_on()
            }
        };
        stopped.lanes = Vec::new();
        assert!(!stopped.run(&mut stop, &mut |_, _| go_on()).unwrap());
        assert_eq!(stopped.step_count(), 2);
        stopped.save(&path).unwrap();
        drop(stopped);
        let mut resumed = trainer(&model, plan(mode));
        resumed.resume(&path).unwrap();
        assert_eq!(resumed.step_count(), 2);
        let resumed = run(resumed);
        assert_eq!(bits(&resumed), bits(&unbroken));
        assert_eq!(resumed.losses, unbroken.losses);
        assert_eq!(resumed.samples, 24);
    }
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn a_state_of_another_run_or_a_damaged_one_is_refused() {
    let model = TinyModel::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let mut saved = trainer(&model, plan(TrainMode::Full));
    saved.step(&mut go_on).unwrap();
    saved.save(&path).unwrap();

    let other = TrainPlan {
        seed: 1,
        ..plan(TrainMode::Full)
    };
    let refused = trainer(&model, other).resume(&path).unwrap_err();
    assert!(
        matches!(
            refused,
            TrainError::OtherRun {
                what: "the plan",
                ..
            }
        ),
        "{refused}"
    );

    let whole = std::fs::read(&path).unwrap();
    let damaged = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let error = trainer(&model, plan(TrainMode::Full))
            .resume(&path)
            .unwrap_err();
        assert!(matches!(error, TrainError::Damaged { .. }), "{error}");
    };
    damaged(&whole[..whole.len() - 40]);
    damaged(&whole[..10]);
    damaged(b"");
    for at in [0, 9, whole.len() / 2, whole.len() - 1] {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        damaged(&flipped);
    }
    damaged(&[&whole[..], &[0]].concat());
}

#[test]
fn the_written_model_is_what_was_trained() {
    let model = TinyModel::new();
    let dir = tempfile::tempdir().unwrap();
    for (mode, name) in [(TrainMode::Full, "full"), (LOW_RANK, "low-rank")] {
        let long = TrainPlan {
            steps: 30,
            ..plan(mode)
        };
        let trained = run(trainer(&model, long));
        let out = dir.path().join(name);
        let written = trained.write_model(model.path(), &out).unwrap();
        assert!(written.changed > written.total / 2, "{written:?}");
        let before = loss_of(model.path());
        let after = loss_of(&out);
        assert!(after < 0.95 * before, "{name}: {before} to {after}");
        // The files say what the trainer's own forward pass says.
        let base = Arc::new(Base::load(&out, None).unwrap());
        let window = &tokens(&base)[..17];
        let (setting, leaves) = Setting::new(&base, TrainMode::Full, 16);
        let of_files = setting.loss(&leaves, &[window]).unwrap();
        let mut end = trainer(&model, plan(mode));
        let mut step = trained.step();
        for leaf in &mut end.leaves {
            let (own, rest) = step.split_at(leaf.len());
            leaf.update(|values| values.iter_mut().zip(own).for_each(|(v, s)| *v += s))
                .unwrap();
            step = rest;
        }
        let of_trainer = end.setting.loss(&end.leaves, &[window]).unwrap();
        assert!(
            (of_files - of_trainer).abs() < 1e-3 * of_files,
            "{of_files} {of_trainer}"
        );
    }
}

#[test]
fn what_a_killed_save_left_is_in_nobodys_way() {
    let model = TinyModel::new();
    let dir = tempfile::tempdir().unwrap();
    let [out, state] = ["run.v1", "run.v1.state"].map(|name| dir.path().join(name));
    // Of a save that was killed, and of another run that is being written.
    std::fs::write(state::unfinished(&state), b"OWMTRAI1 half of it").unwrap();
    let others = state::unfinished(&dir.path().join("run.v2"));
    std::fs::create_dir(&others).unwrap();
    let mut saved = trainer(&model, plan(TrainMode::Full));
    saved.step(&mut go_on).unwrap();
    // As a shell completes the name of a folder.
    run(saved).write_model(model.path(), &out.join("")).unwrap();
    assert!(out.join("model.safetensors").is_file() && others.is_dir());
    trainer(&model, plan(TrainMode::Full)).save(&state).unwrap();
    assert!(state.is_file() && !state::unfinished(&state).exists());
}

fn loss_of(dir: &Path) -> f64 {
    let options = LoadOptions {
        device: DeviceChoice::Cpu,
        expected_sha256: None,
    };
    let engine = Engine::load(dir, &options).unwrap();
    let evaluation = evaluate(&engine, &[TEXT], 64, &mut |_| go_on()).unwrap();
    evaluation.unwrap().loss
}

#[test]
fn the_evaluation_foretells_every_token_once() {
    let model = TinyModel::new();
    let base = base(&model);
    let tokens = tokens(&base);
    let engine = model.engine();
    let found = evaluate(&engine, &[TEXT], 16, &mut |_| go_on())
        .unwrap()
        .unwrap();
    assert_eq!(found.tokens as usize, tokens.len() - 1);
    assert_eq!(found.bytes as usize, TEXT.len());
    let mut expected = 0.0;
    let mut start = 0;
    while start + 1 < tokens.len() {
        let end = (start + 16).min(tokens.len() - 1);
        expected += reference_loss(&model, &tokens[start..=end]);
        start = end;
    }
    assert!((found.loss * found.tokens as f64 - expected).abs() < 1e-3 * expected);
    let bits = expected / std::f64::consts::LN_2 / TEXT.len() as f64;
    assert!((found.bits_per_byte - bits).abs() < 1e-3 * bits);
    let stopped = evaluate(&engine, &[TEXT], 16, &mut |_| ControlFlow::Break(())).unwrap();
    assert!(stopped.is_none());
}

#[test]
fn a_plan_that_cannot_work_is_refused_with_the_reason() {
    let model = TinyModel::new();
    let base = base(&model);
    let good = plan(TrainMode::Full);
    let check = |plan: TrainPlan, word: &str| {
        let error = Trainer::new(base.clone(), tokens(&base), plan).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    };
    check(
        TrainPlan {
            steps: 0,
            ..good.clone()
        },
        "steps",
    );
    check(
        TrainPlan {
            sequence: 4000,
            ..good.clone()
        },
        "context",
    );
    check(
        TrainPlan {
            clip_norm: Some(0.0),
            ..good.clone()
        },
        "clip_norm",
    );
    // The smallest side of an adapted matrix is that of k_proj and v_proj.
    let side = base.config().kv_heads * base.config().head_dim;
    for rank in [0, side + 1] {
        let mode = TrainMode::LowRank {
            rank,
            seed: [0; 32],
        };
        check(
            TrainPlan {
                mode,
                ..good.clone()
            },
            "rank",
        );
    }
}

#[test]
fn the_learning_rate_warms_up_and_falls() {
    let plan = TrainPlan {
        steps: 12,
        warmup: 2,
        ..plan(TrainMode::Full)
    };
    let rates: Vec<f32> = (0..12)
        .map(|step| plan.learning_rate(step) / 3e-3)
        .collect();
    assert!((rates[0] - 0.5).abs() < 1e-6 && (rates[1] - 1.0).abs() < 1e-6);
    assert!(
        rates[2..].windows(2).all(|pair| pair[1] <= pair[0]),
        "{rates:?}"
    );
    assert!((rates[11] - 0.1).abs() < 1e-6, "{rates:?}");
}

mod round;
