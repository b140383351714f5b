//! A whole local run on a fresh tiny model: real files, real training.

use super::{
    defaults::{Wishes, plan},
    *,
};

/// Two kinds of lines over and over: easy to learn.
fn text() -> Split {
    let lines = |word: &str| format!("The capital of {word} is a city in {word}.\n").repeat(60);
    let document = |name: &str, word: &str| Document::new(name, &lines(word));
    Split {
        train: vec![document("a", "France"), document("b", "Norway")],
        held_out: vec![document("c", "Peru")],
    }
}

fn order(base: &Path, out: &Path) -> TrainOrder {
    let wishes = Wishes {
        steps: 12,
        rank: 4,
        sequence: Some(64),
        batch: Some(4),
        ..Wishes::default()
    };
    TrainOrder {
        base_dir: base.to_owned(),
        expected: None,
        text: text(),
        held_out_bytes: 2000,
        plan: plan(&wishes, 800_000, 2048),
        time: None,
        out: out.to_owned(),
        prompt: Some("The capital".to_owned()),
    }
}

fn bytes(out: &Path) -> Vec<u8> {
    fs::read(out.join("model.safetensors")).unwrap()
}

#[test]
fn a_local_run_makes_the_text_more_foreseeable_and_a_stopped_one_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (base, out) = (dir.path().join("base"), dir.path().join("out"));
    fs::create_dir(&base).unwrap();
    owm_model::write_fresh(&base, 1).unwrap();
    let stop = AtomicBool::new(false);
    let mut seen = 0;
    let outcome = train(&order(&base, &out), &stop, &mut |event| {
        seen += u32::from(matches!(event, TrainEvent::Step { .. }));
    });
    let TrainOutcome::Done(done) = outcome.unwrap() else {
        panic!("nobody stopped it");
    };
    assert_eq!((seen, done.steps), (12, 12));
    let loss = |measured: &Measured| measured.held_out.as_ref().unwrap().bits_per_byte;
    let after = done.after.as_ref().unwrap();
    assert!(loss(after) < 0.8 * loss(&done.before), "{done:?}");
    assert!(after.sample.is_some());

    // The same run, stopped during its sixth step and taken up again, writes the same bytes.
    let again = dir.path().join("again");
    let stopped = train(&order(&base, &again), &stop, &mut |event| {
        if matches!(event, TrainEvent::Step { progress, .. } if progress.step == 5) {
            stop.store(true, Ordering::Relaxed);
        }
    });
    assert!(
        matches!(
            stopped,
            Ok(TrainOutcome::Stopped {
                step: 5,
                is_measuring: false
            })
        ),
        "{stopped:?}"
    );
    assert!(state_file(&again).is_file() && !again.exists());
    // Stopped while it measures, it still stands where it stood.
    let stopped = train(&order(&base, &again), &stop, &mut |_| {});
    let says_so = matches!(
        stopped,
        Ok(TrainOutcome::Stopped {
            step: 5,
            is_measuring: true
        })
    );
    assert!(says_so && state_file(&again).is_file(), "{stopped:?}");
    // Another plan is refused before anything is measured.
    let mut other = order(&base, &again);
    other.plan.seed = 77;
    let refused = train(&other, &stop, &mut |event| panic!("{event:?}")).unwrap_err();
    assert!(refused.to_string().contains("another run"), "{refused}");
    stop.store(false, Ordering::Relaxed);
    let mut resumed = 0;
    let outcome = train(&order(&base, &again), &stop, &mut |event| {
        if let TrainEvent::Begins { resumed_at, .. } = event {
            resumed = resumed_at;
        }
    });
    assert!(matches!(outcome, Ok(TrainOutcome::Done(_))), "{outcome:?}");
    assert_eq!(resumed, 5);
    assert!(!state_file(&again).exists());
    assert_eq!(bytes(&again), bytes(&out));

    // A result is never written over.
    let refused = train(&order(&base, &out), &stop, &mut |_| {});
    assert!(
        matches!(refused, Err(TrainFailure::OutInUse(_))),
        "{refused:?}"
    );
}

#[test]
fn a_run_without_text_or_with_a_broken_model_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (base, out) = (dir.path().join("base"), dir.path().join("out"));
    fs::create_dir(&base).unwrap();
    let stop = AtomicBool::new(false);
    let error = train(&order(&base, &out), &stop, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("config.json"), "{error}");
    owm_model::write_fresh(&base, 1).unwrap();
    let mut empty = order(&base, &out);
    empty.text.train.clear();
    let error = train(&empty, &stop, &mut |_| {}).unwrap_err();
    assert!(matches!(error, TrainFailure::NoText), "{error}");
}

#[test]
fn a_stop_during_the_last_measuring_leaves_the_result() {
    let dir = tempfile::tempdir().unwrap();
    let (base, out) = (dir.path().join("base"), dir.path().join("out"));
    fs::create_dir(&base).unwrap();
    owm_model::write_fresh(&base, 1).unwrap();
    let mut short = order(&base, &out);
    short.plan.steps = 1;
    let stop = AtomicBool::new(false);
    let mut trained = false;
    let outcome = train(&short, &stop, &mut |event| {
        trained |= matches!(event, TrainEvent::Step { .. });
        if trained && matches!(event, TrainEvent::Measuring(_)) {
            stop.store(true, Ordering::Relaxed);
        }
    });
    let Ok(TrainOutcome::Done(done)) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(done.after.is_none() && out.join("model.safetensors").is_file());
    assert!(!state_file(&out).exists());
}

#[test]
fn what_cannot_end_well_is_refused_before_anything_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let (base, out) = (dir.path().join("base"), dir.path().join("out"));
    fs::create_dir(&base).unwrap();
    owm_model::write_fresh(&base, 1).unwrap();
    let stop = AtomicBool::new(false);
    let refused = |order: &TrainOrder, word: &str| {
        let error = train(order, &stop, &mut |event| panic!("{event:?}")).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    };
    let mut wide = order(&base, &out);
    wide.plan.mode = owm_model::TrainMode::LowRank {
        rank: 400,
        seed: [0; 32],
    };
    refused(&wide, "rank");
    let held = place::take(&out).unwrap();
    refused(&order(&base, &out), "another run is under way");
    drop(held);
    fs::write(place::beside(&out, ".state"), "a shopping list").unwrap();
    refused(&order(&base, &out), "out.state");
}

#[test]
fn the_gauge_goes_by_steps_or_by_time() {
    let progress = Progress {
        step: 10,
        steps: 40,
        loss: 1.0,
        gradient_norm: 1.0,
        learning_rate: 1e-3,
        tokens: 512,
        tokens_per_second: 1.0,
        remaining: Duration::from_secs(1),
    };
    let seconds = Duration::from_secs;
    let is = |time, expected: f64| {
        let found = share(&progress, seconds(30), time);
        assert!((found - expected).abs() < 1e-9, "{found} {expected}");
    };
    is(None, 0.25);
    is(Some(seconds(60)), 0.5);
    is(Some(seconds(1000)), 0.25);
    is(Some(seconds(10)), 1.0);
}

#[test]
fn the_way_there_stands_beside_the_result_with_a_slash_at_its_end_too() {
    let beside = Path::new("models/mine.state");
    assert_eq!(state_file(Path::new("models/mine")), beside);
    assert_eq!(state_file(Path::new("models/mine/")), beside);
}
