//! Leases that are taken and leases that are not, each with its reason.

use std::ops::ControlFlow;

use owm_proto::wire::coordinator::{ChatMessage, SealedTask};

use super::*;
use crate::engine::{Answer, AnswerError, EncodeError, EngineDescription, OnToken, Token};

#[derive(Debug)]
struct Mute;

impl InferenceEngine for Mute {
    fn description(&self) -> EngineDescription {
        EngineDescription {
            backend: "mute".into(),
            device: "none".into(),
            device_reason: "a test".into(),
            context_length: 1,
            parameters: 0,
        }
    }

    fn encode(&self, _: &Question) -> Result<Vec<u32>, EncodeError> {
        Ok(vec![])
    }

    fn generate(&self, _: &GenerateJob, on_token: &mut OnToken<'_>) -> Result<Answer, AnswerError> {
        let _: ControlFlow<()> = on_token(Token {
            index: 0,
            token: 0,
            text: "",
        });
        Err(AnswerError::Failed("mute".into()))
    }
}

fn loaded() -> LoadedModel {
    let sub_model = LoadedSubModel {
        files: vec![],
        weights: vec![Sha256::of(b"w")],
        engine: Arc::new(Mute),
    };
    LoadedModel {
        version: "owm-v0.1.0".parse().unwrap(),
        sequence: 1,
        note: String::new(),
        default_sub_model: "owm-geo".parse().unwrap(),
        sub_models: [("owm-geo".parse().unwrap(), sub_model)].into(),
    }
}

fn node() -> NodeKey {
    NodeKey::from_seed(&[1; 32])
}

fn good() -> InferencePayload {
    InferencePayload {
        prompt: "hi".into(),
        max_tokens: 5,
        ..InferencePayload::default()
    }
}

fn lease(payload: InferencePayload, forced_prefix: Vec<u32>) -> Lease {
    let payload = TaskPayload {
        task: Some(Task::Inference(payload)),
    }
    .encode_to_vec();
    let input_hash = Sha256::of(&payload).to_string();
    let sealed = SealedTask {
        payload,
        forced_prefix,
    }
    .encode_to_vec();
    Lease {
        task_id: TaskId::from_random([1; 16]).to_string(),
        epoch: 1,
        task_type: "inference".into(),
        model_version: "owm-v0.1.0".into(),
        sub_model: "owm-geo".into(),
        model_sha256: vec![Sha256::of(b"w").to_string()],
        input_hash,
        sealed_payload: seal::seal(&node().public(), &sealed).unwrap(),
        ..Lease::default()
    }
}

fn check_lease(lease: &Lease) -> Result<InferJob, Refusal> {
    let key = lease_key(&lease.task_id, lease.epoch).unwrap();
    match open(key, lease, &node(), Some(&loaded()))? {
        Job::Infer(job) => Ok(*job),
        Job::Evaluate(_) => panic!("a question became an evaluation"),
    }
}

fn reason_of(lease: &Lease) -> HandBackReason {
    check_lease(lease).unwrap_err().reason
}

#[test]
fn a_good_lease_becomes_a_job() {
    let job = check_lease(&lease(good(), vec![4, 5])).unwrap();
    assert_eq!(job.question, Question::Raw("hi".into()));
    assert_eq!(job.generate.forced_prefix, [4, 5]);
    assert_eq!(job.model_sha256, [Sha256::of(b"w")]);
    let messages = vec![ChatMessage {
        role: "user".into(),
        content: "hi".into(),
    }];
    let chat = InferencePayload {
        prompt: String::new(),
        messages,
        ..good()
    };
    let job = check_lease(&lease(chat, vec![])).unwrap();
    assert_eq!(
        job.question,
        Question::Chat(vec![("user".into(), "hi".into())])
    );
}

#[test]
fn what_another_node_could_do_is_handed_back_as_such() {
    let change = |change: fn(&mut Lease)| {
        let mut lease = lease(good(), vec![]);
        change(&mut lease);
        reason_of(&lease)
    };
    let changes: [fn(&mut Lease); 7] = [
        |l| l.task_type = "evaluate".into(),
        |l| l.task_type = "poetry".into(),
        |l| l.sub_model = "owm-code".into(),
        |l| l.model_sha256 = vec![Sha256::of(b"other").to_string()],
        |l| l.model_sha256.push("no hash".into()),
        |l| l.input_hash = Sha256::of(b"other").to_string(),
        |l| l.sealed_payload[40] ^= 1,
    ];
    for (n, changed) in changes.into_iter().enumerate() {
        assert_eq!(change(changed), HandBackReason::CannotDo, "change {n}");
    }
    let good = lease(good(), vec![]);
    let key = lease_key(&good.task_id, 1).unwrap();
    assert_eq!(
        open(key, &good, &node(), None).unwrap_err().reason,
        HandBackReason::CannotDo
    );
}

#[test]
fn what_no_node_could_do_is_refused_as_input() {
    let refused = |payload| reason_of(&lease(payload, vec![]));
    let both = InferencePayload {
        messages: vec![ChatMessage::default()],
        ..good()
    };
    let stop = |stop: Vec<String>| InferencePayload { stop, ..good() };
    for (name, payload) in [
        (
            "no tokens",
            InferencePayload {
                max_tokens: 0,
                ..good()
            },
        ),
        (
            "too many tokens",
            InferencePayload {
                max_tokens: OUTPUT_TOKENS_MAX + 1,
                ..good()
            },
        ),
        (
            "empty",
            InferencePayload {
                prompt: String::new(),
                ..good()
            },
        ),
        ("both forms", both),
        ("an empty stop", stop(vec![String::new()])),
        ("five stops", stop(vec!["a".into(); 5])),
    ] {
        assert_eq!(refused(payload), HandBackReason::InputRefused, "{name}");
    }
}

#[test]
fn a_prefix_that_does_not_fit_is_not_the_users_fault() {
    assert_eq!(
        reason_of(&lease(good(), vec![1; 6])),
        HandBackReason::Failed
    );
}

#[test]
fn no_reason_quotes_the_question() {
    let secret = InferencePayload {
        prompt: "my secret".into(),
        max_tokens: 0,
        ..good()
    };
    let refusal = check_lease(&lease(secret, vec![])).unwrap_err();
    assert!(!refusal.message.contains("secret"), "{}", refusal.message);
}
