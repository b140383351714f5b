//! Generation: sampling, ends, resumption, batches.

use std::ops::ControlFlow;

use crate::{
    Engine, FinishReason, GenerateError, GenerateJob, Generation, Sampling, StopStrings,
    TextStream,
    tiny::{self, TinyModel},
};

const SAMPLED: Sampling = Sampling {
    temperature: 1.3,
    top_p: 0.95,
    top_k: 60,
    seed: 42,
};

/// Generates and checks what holds for every generation.
fn generate(engine: &Engine, job: &GenerateJob) -> Generation {
    let mut events = Vec::new();
    let mut emitted = String::new();
    let done = engine
        .generate(job, &mut |event| {
            events.push((event.index, event.token));
            emitted.push_str(event.text);
            ControlFlow::Continue(())
        })
        .unwrap();
    let prefix = job.forced_prefix.len();
    assert_eq!(done.tokens[..prefix], job.forced_prefix);
    let expected: Vec<(u32, u32)> = (prefix as u32..)
        .zip(done.tokens[prefix..].iter().copied())
        .collect();
    assert_eq!(events, expected);
    let delivered = emitted_by(engine, &job.forced_prefix, &job.stop);
    assert_eq!(format!("{delivered}{emitted}{}", done.flush), done.text);
    assert!(done.tokens.len() <= job.max_tokens as usize);
    done
}

/// What a predecessor that delivered these tokens had shown.
fn emitted_by(engine: &Engine, tokens: &[u32], stop: &[String]) -> String {
    let mut stream = TextStream::new(engine.tokenizer(), StopStrings::new(stop).unwrap());
    tokens
        .iter()
        .map(|token| stream.push(*token).to_owned())
        .collect()
}

fn job(max_tokens: u32, sampling: Sampling) -> GenerateJob {
    tiny::job(&[104, 101, 108, 108, 111], max_tokens, sampling)
}

#[test]
fn a_generation_cut_anywhere_and_resumed_is_the_same() {
    let engine = TinyModel::new().engine();
    for (sampling, stop) in [
        (Sampling::GREEDY, vec![]),
        (SAMPLED, vec![]),
        (
            Sampling { seed: 7, ..SAMPLED },
            vec!["q".to_owned(), "\u{fffd}\u{fffd}".to_owned()],
        ),
    ] {
        let whole_job = GenerateJob {
            stop,
            ..job(40, sampling)
        };
        let whole = generate(&engine, &whole_job);
        assert!(
            whole.tokens.len() > 5,
            "too short to cut: {:?}",
            whole.tokens
        );
        for cut in 0..=whole.tokens.len() {
            let forced_prefix = whole.tokens[..cut].to_vec();
            let resumed = generate(
                &engine,
                &GenerateJob {
                    forced_prefix,
                    ..whole_job.clone()
                },
            );
            assert_eq!(resumed.tokens, whole.tokens, "cut at {cut}");
            assert_eq!(resumed.text, whole.text, "cut at {cut}");
            assert_eq!(resumed.finish, whole.finish, "cut at {cut}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_answer_and_another_seed_another() {
    let engine = TinyModel::new().engine();
    let first = generate(&engine, &job(30, SAMPLED));
    assert_eq!(first.tokens, generate(&engine, &job(30, SAMPLED)).tokens);
    let other = Sampling {
        seed: 43,
        ..SAMPLED
    };
    assert_ne!(first.tokens, generate(&engine, &job(30, other)).tokens);
    let greedy = generate(&engine, &job(30, Sampling::GREEDY));
    let seeded_greedy = Sampling {
        seed: 9,
        ..Sampling::GREEDY
    };
    assert_eq!(
        greedy.tokens,
        generate(&engine, &job(30, seeded_greedy)).tokens
    );
}

#[test]
fn a_batch_answers_as_single_runs_do() {
    let engine = TinyModel::new().engine();
    // More jobs than rows of one pass, of different lengths and ends; one is refused.
    let mut jobs: Vec<GenerateJob> = (0..11u32)
        .map(|n| {
            let prompt: Vec<u32> = (0..=n * 3).map(|i| (i * 37 + n * 11) % 250).collect();
            tiny::job(&prompt, 5 + n, Sampling::GREEDY)
        })
        .collect();
    jobs[3].sampling = SAMPLED;
    jobs[4].forced_prefix = vec![65, 66];
    jobs[5].stop = vec!["e".to_owned()];
    jobs[6].prompt.clear();
    jobs[7].max_tokens = 0;
    let batch = engine.generate_batch(&jobs);
    assert_eq!(batch.len(), jobs.len());
    for (job, result) in jobs.iter().zip(batch) {
        if job.prompt.is_empty() {
            assert!(matches!(result, Err(GenerateError::EmptyPrompt)));
            continue;
        }
        let (found, alone) = (result.unwrap(), generate(&engine, job));
        assert_eq!(found.tokens, alone.tokens);
        assert_eq!((found.text, found.flush), (alone.text, alone.flush));
        assert_eq!(found.finish, alone.finish);
    }
}

#[test]
fn the_answer_ends_at_max_tokens_and_the_prefix_counts() {
    let engine = TinyModel::new().engine();
    let done = generate(&engine, &job(6, SAMPLED));
    assert_eq!((done.tokens.len(), done.finish), (6, FinishReason::Length));
    assert_eq!(done.prompt_tokens, 5);
    let full = GenerateJob {
        forced_prefix: done.tokens.clone(),
        ..job(6, SAMPLED)
    };
    let resumed = generate(&engine, &full);
    assert_eq!(
        (resumed.tokens, resumed.finish),
        (done.tokens.clone(), FinishReason::Length)
    );
    let over = GenerateJob {
        forced_prefix: done.tokens,
        ..job(5, SAMPLED)
    };
    let refused = engine
        .generate(&over, &mut |_| ControlFlow::Continue(()))
        .unwrap_err();
    assert!(matches!(
        refused,
        GenerateError::PrefixTooLong { prefix: 6, max: 5 }
    ));
}

#[test]
fn the_answer_ends_where_the_context_ends() {
    let engine = TinyModel::new().engine();
    let prompt = vec![65; tiny::CONTEXT - 3];
    let done = generate(&engine, &tiny::job(&prompt, 50, SAMPLED));
    assert_eq!((done.tokens.len(), done.finish), (3, FinishReason::Length));
    let full = tiny::job(&vec![65; tiny::CONTEXT], 50, SAMPLED);
    let refused = engine
        .generate(&full, &mut |_| ControlFlow::Continue(()))
        .unwrap_err();
    assert!(
        matches!(refused, GenerateError::TooLong { .. }),
        "{refused}"
    );
}

#[test]
fn the_end_token_ends_the_answer_and_is_not_part_of_it() {
    // Every token of the greedy answer is made an end token in turn.
    let plain = generate(&TinyModel::new().engine(), &job(8, Sampling::GREEDY));
    let end = plain.tokens[4];
    let at = plain.tokens.iter().position(|token| *token == end).unwrap();
    let mut config = tiny::config_json();
    config["eos_token_id"] = serde_json::json!([tiny::END, end]);
    let engine = TinyModel::with_config(&config).engine();
    let done = generate(&engine, &job(8, Sampling::GREEDY));
    assert_eq!(done.tokens, plain.tokens[..at]);
    assert_eq!(done.finish, FinishReason::Stop);
    let bad = GenerateJob {
        forced_prefix: vec![end],
        ..job(8, Sampling::GREEDY)
    };
    let refused = engine
        .generate(&bad, &mut |_| ControlFlow::Continue(()))
        .unwrap_err();
    assert!(matches!(refused, GenerateError::EndInPrefix { token } if token == end));
}

#[test]
fn a_stop_string_ends_the_answer_in_front_of_it() {
    let engine = TinyModel::new().engine();
    let plain = generate(&engine, &job(40, SAMPLED));
    // A stop string that spans tokens: a piece out of the middle of the answer.
    let chars: Vec<char> = plain.text.chars().collect();
    let stop: String = chars[8..11].iter().collect();
    let before = plain.text.find(&stop).unwrap();
    let done = generate(
        &engine,
        &GenerateJob {
            stop: vec![stop],
            ..job(40, SAMPLED)
        },
    );
    assert_eq!(done.text, plain.text[..before]);
    assert_eq!(done.finish, FinishReason::Stop);
    assert!(done.tokens.len() < plain.tokens.len());
    assert_eq!(done.tokens, plain.tokens[..done.tokens.len()]);
}

#[test]
fn the_callback_can_cancel() {
    let engine = TinyModel::new().engine();
    let mut seen = 0;
    let done = engine
        .generate(&job(40, SAMPLED), &mut |_| {
            seen += 1;
            if seen == 4 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
        .unwrap();
    assert_eq!(
        (done.tokens.len(), done.finish, seen),
        (4, FinishReason::Cancelled, 4)
    );
}

#[test]
fn jobs_outside_the_limits_are_refused() {
    let engine = TinyModel::new().engine();
    let base = job(5, SAMPLED);
    let refuse = |job: GenerateJob| {
        engine
            .generate(&job, &mut |_| ControlFlow::Continue(()))
            .unwrap_err()
    };
    let unknown = refuse(GenerateJob {
        prompt: vec![tiny::VOCABULARY as u32],
        ..base.clone()
    });
    assert!(matches!(unknown, GenerateError::UnknownToken { .. }));
    let unknown = refuse(GenerateJob {
        forced_prefix: vec![9999],
        ..base.clone()
    });
    assert!(matches!(
        unknown,
        GenerateError::UnknownToken { token: 9999, .. }
    ));
    let bad_sampling = [
        Sampling {
            temperature: f32::NAN,
            ..SAMPLED
        },
        Sampling {
            temperature: -0.1,
            ..SAMPLED
        },
        Sampling {
            temperature: f32::INFINITY,
            ..SAMPLED
        },
        Sampling {
            top_p: 0.0,
            ..SAMPLED
        },
        Sampling {
            top_p: 1.5,
            ..SAMPLED
        },
        Sampling {
            top_p: f32::NAN,
            ..SAMPLED
        },
    ];
    for sampling in bad_sampling {
        let refused = refuse(GenerateJob {
            sampling,
            ..base.clone()
        });
        assert!(
            matches!(refused, GenerateError::BadSampling { .. }),
            "{sampling:?}"
        );
    }
    for stop in [
        vec![String::new()],
        vec!["x".repeat(2000)],
        vec!["x".to_owned(); 17],
    ] {
        let refused = refuse(GenerateJob {
            stop,
            ..base.clone()
        });
        assert!(matches!(refused, GenerateError::Stop(_)));
    }
}

#[test]
fn answers_that_run_at_once_do_not_disturb_each_other() {
    let engine = TinyModel::new().engine();
    let expected: Vec<Vec<u32>> = (0..4)
        .map(|seed| generate(&engine, &job(20, Sampling { seed, ..SAMPLED })).tokens)
        .collect();
    let found: Vec<Vec<u32>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|seed| {
                let engine = engine.clone();
                scope
                    .spawn(move || generate(&engine, &job(20, Sampling { seed, ..SAMPLED })).tokens)
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(found, expected);
}
