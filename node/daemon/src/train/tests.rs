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
        seen += u32::from(matches!(event, TrainEvent::Step(_)));
    });
    let TrainOutcome::Done(done) = outcome.unwrap() else {
        panic!("nobody stopped it");
    };
    assert_eq!((seen, done.steps), (12, 12));
    let loss = |measured: &Measured| measured.held_out.as_ref().unwrap().bits_per_byte;
    assert!(loss(&done.after) < 0.8 * loss(&done.before), "{done:?}");
    assert!(done.after.sample.is_some());

    // The same run, stopped during its sixth step and taken up again, writes the same bytes.
    let again = dir.path().join("again");
    let stopped = train(&order(&base, &again), &stop, &mut |event| {
        if matches!(event, TrainEvent::Step(progress) if progress.step == 5) {
            stop.store(true, Ordering::Relaxed);
        }
    });
    assert!(
        matches!(stopped, Ok(TrainOutcome::Stopped { step: 5 })),
        "{stopped:?}"
    );
    assert!(state_file(&again).is_file() && !again.exists());
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
fn the_way_there_stands_beside_the_result_with_a_slash_at_its_end_too() {
    let beside = Path::new("models/mine.state");
    assert_eq!(state_file(Path::new("models/mine")), beside);
    assert_eq!(state_file(Path::new("models/mine/")), beside);
}
