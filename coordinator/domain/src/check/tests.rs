//! One honest result; each test spoils one thing and expects that fault.

use owm_proto::{
    Sha256, TaskId,
    limits::OUTPUT_BYTES_MAX,
    statement::{Finish, Segment, TaskResultStatement, tokens_sha256},
};

use super::*;

/// A result of six tokens, the first two forced, four of them delivered.
struct Honest {
    statement: TaskResultStatement,
    segment: Segment,
    text: String,
    tokens: Vec<u32>,
    delivered_tokens: Vec<u32>,
    delivered_text: String,
    share_from: u32,
    max_tokens: u32,
    context_tokens: Option<u32>,
}

const TOKENS: [u32; 6] = [260, 11, 7_042, 28, 5_000, 2];
const TEXT: &str = " Paris, the città.";

fn task_id() -> TaskId {
    TaskId::from_random([5; 16])
}

fn honest() -> Honest {
    let model_sha256 = vec![Sha256([1; 32])];
    Honest {
        statement: TaskResultStatement {
            task_id: task_id(),
            epoch: 2,
            model_sha256: model_sha256.clone(),
            input_sha256: Sha256([2; 32]),
            output_sha256: Sha256::of(TEXT.as_bytes()),
            tokens_sha256: tokens_sha256(&TOKENS),
            prompt_tokens: 5,
            output_tokens: 6,
            finish: Finish::Stop,
            seed: 42,
            backend: "burn-flex/f32".to_owned(),
            exec_ms: 900,
        },
        segment: Segment {
            task_id: task_id(),
            epoch: 2,
            model_sha256,
            from: 2,
            to: 6,
            prefix_sha256: tokens_sha256(&TOKENS[..2]),
            tokens_sha256: tokens_sha256(&TOKENS),
            seed: 42,
        },
        text: TEXT.to_owned(),
        tokens: TOKENS.to_vec(),
        delivered_tokens: TOKENS[..4].to_vec(),
        delivered_text: " Paris, the".to_owned(),
        share_from: 2,
        max_tokens: 16,
        context_tokens: Some(2_048),
    }
}

fn check(honest: &Honest) -> Result<(), Fault> {
    let expected = Expected {
        task_id: task_id(),
        epoch: 2,
        model_sha256: &[Sha256([1; 32])],
        input_sha256: Sha256([2; 32]),
        seed: 42,
        max_tokens: honest.max_tokens,
        context_tokens: honest.context_tokens,
        share_from: honest.share_from,
        delivered_tokens: &honest.delivered_tokens,
        delivered_text: &honest.delivered_text,
    };
    let given = Given {
        statement: &honest.statement,
        text: &honest.text,
        tokens: &honest.tokens,
        segment: &honest.segment,
    };
    check_inference(&expected, &given)
}

fn spoiled(spoil: impl FnOnce(&mut Honest)) -> Fault {
    let mut result = honest();
    spoil(&mut result);
    check(&result).unwrap_err()
}

#[test]
fn an_honest_result_passes() {
    assert_eq!(check(&honest()), Ok(()));
}

#[test]
fn what_was_signed_must_be_what_was_leased() {
    let (result, segment) = ("the result", "the segment");
    assert_eq!(
        spoiled(|r| r.statement.epoch = 1),
        Fault::WrongLease { what: result }
    );
    assert_eq!(
        spoiled(|r| r.statement.task_id = TaskId::from_random([6; 16])),
        Fault::WrongLease { what: result }
    );
    assert_eq!(
        spoiled(|r| r.statement.model_sha256[0] = Sha256([9; 32])),
        Fault::WrongModel { what: result }
    );
    assert_eq!(
        spoiled(|r| r.statement.model_sha256.clear()),
        Fault::WrongModel { what: result }
    );
    assert_eq!(
        spoiled(|r| r.statement.input_sha256 = Sha256([9; 32])),
        Fault::WrongInput
    );
    assert_eq!(
        spoiled(|r| r.statement.seed = 43),
        Fault::WrongSeed { what: result }
    );
    assert_eq!(
        spoiled(|r| r.segment.epoch = 1),
        Fault::WrongLease { what: segment }
    );
    assert_eq!(
        spoiled(|r| r.segment.model_sha256.clear()),
        Fault::WrongModel { what: segment }
    );
    assert_eq!(
        spoiled(|r| r.segment.seed = 43),
        Fault::WrongSeed { what: segment }
    );
}

#[test]
fn what_was_sent_must_be_what_was_signed() {
    assert_eq!(spoiled(|r| r.text.push('!')), Fault::OutputHash);
    assert_eq!(
        spoiled(|r| r.tokens[5] = 3),
        Fault::TokensHash { what: "the result" }
    );
    assert_eq!(
        spoiled(|r| r.statement.output_tokens = 5),
        Fault::TokenCount { given: 6, said: 5 }
    );
    assert_eq!(
        spoiled(|r| r.segment.tokens_sha256 = Sha256([0; 32])),
        Fault::TokensHash {
            what: "the segment"
        }
    );
    assert_eq!(
        spoiled(|r| r.segment.prefix_sha256 = Sha256([0; 32])),
        Fault::TokensHash {
            what: "the segment's prefix"
        }
    );
}

#[test]
fn limits_hold_before_anything_is_hashed() {
    assert_eq!(
        spoiled(|r| r.max_tokens = 5),
        Fault::TooManyTokens { given: 6, max: 5 }
    );
    let given = OUTPUT_BYTES_MAX + 1;
    assert_eq!(
        spoiled(|r| r.text = "x".repeat(given)),
        Fault::TooMuchText {
            given,
            max: OUTPUT_BYTES_MAX
        }
    );
    assert_eq!(spoiled(|r| r.tokens.clear()), Fault::TextWithoutTokens);
    assert_eq!(
        spoiled(|r| r.statement.backend = "x".repeat(2_000)),
        Fault::BackendName
    );
}

#[test]
fn length_is_only_said_at_the_limit_or_with_a_full_context() {
    assert_eq!(
        spoiled(|r| r.statement.finish = Finish::Length),
        Fault::NotAtTheLimit { given: 6, max: 16 }
    );
    for fill in [
        |r: &mut Honest| r.max_tokens = 6,
        |r: &mut Honest| r.context_tokens = Some(11),
        |r: &mut Honest| r.context_tokens = None,
    ] {
        let mut result = honest();
        result.statement.finish = Finish::Length;
        fill(&mut result);
        assert_eq!(check(&result), Ok(()));
    }
}

#[test]
fn a_result_must_begin_with_what_the_user_has_seen() {
    assert_eq!(
        spoiled(|r| r.delivered_tokens[3] = 1),
        Fault::PrefixChanged {
            unit: "token",
            at: 3
        }
    );
    assert_eq!(
        spoiled(|r| r.delivered_tokens = [&TOKENS[..], &[1]].concat()),
        Fault::PrefixChanged {
            unit: "token",
            at: 6
        }
    );
    assert_eq!(
        spoiled(|r| r.delivered_text = " Parma".to_owned()),
        Fault::PrefixChanged {
            unit: "byte",
            at: 4
        }
    );
}

#[test]
fn a_segment_covers_exactly_the_nodes_share() {
    let wrong = |from, to| Fault::WrongShare {
        from,
        to,
        share_from: 2,
        share_to: 6,
    };
    assert_eq!(spoiled(|r| r.segment.from = 0), wrong(0, 6));
    assert_eq!(spoiled(|r| r.segment.to = 5), wrong(2, 5));
    assert_eq!(spoiled(|r| r.segment.to = u32::MAX), wrong(2, u32::MAX));
}

#[test]
fn an_answer_of_no_tokens_is_an_answer_unless_some_were_forced() {
    let mut result = honest();
    (result.tokens, result.text) = (Vec::new(), String::new());
    (result.delivered_tokens, result.delivered_text) = (Vec::new(), String::new());
    result.statement.output_tokens = 0;
    result.statement.output_sha256 = Sha256::of(b"");
    result.statement.tokens_sha256 = tokens_sha256(&[]);
    assert_eq!(
        check(&result),
        Err(Fault::WrongShare {
            from: 2,
            to: 6,
            share_from: 2,
            share_to: 0
        })
    );
    result.share_from = 0;
    (result.segment.from, result.segment.to) = (0, 0);
    result.segment.prefix_sha256 = tokens_sha256(&[]);
    result.segment.tokens_sha256 = tokens_sha256(&[]);
    assert_eq!(check(&result), Ok(()));
}
