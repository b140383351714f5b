//! OpenAI's parameters: taken, ignored, refused.

use serde_json::json;

use super::*;

fn request(extra: &Value) -> ChatRequest {
    let mut body = json!({ "model": "owm", "messages": [{ "role": "user", "content": "hello" }] });
    body.as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    serde_json::from_value(body).unwrap()
}

fn question(extra: &Value) -> Result<Question, Problem> {
    request(extra).question(None, "owm-geo".parse().unwrap())
}

fn param(problem: &Problem) -> String {
    let error = serde_json::to_value(problem.error_member()).unwrap();
    error["param"].as_str().unwrap().to_owned()
}

#[test]
fn what_changes_no_answer_is_ignored() {
    for extra in [
        json!({ "user": "u-1", "metadata": { "a": "b" }, "store": true, "service_tier": "auto" }),
        json!({ "safety_identifier": "x", "prompt_cache_key": "y", "parallel_tool_calls": true }),
        json!({ "tools": [], "tool_choice": "none", "logprobs": false, "logit_bias": {} }),
        json!({ "presence_penalty": 0, "frequency_penalty": 0.0, "n": 1, "top_logprobs": null }),
        json!({ "response_format": { "type": "text" }, "modalities": ["text"] }),
        json!({ "tools": null, "stop": null, "max_tokens": null, "stream": null, "seed": null }),
    ] {
        assert!(request(&extra).check_supported().is_ok(), "{extra}");
    }
}

#[test]
fn what_would_change_the_answer_is_refused_by_name() {
    for (name, value) in [
        ("tools", json!([{ "type": "function" }])),
        ("tool_choice", json!("auto")),
        ("functions", json!([{ "name": "f" }])),
        ("logprobs", json!(true)),
        ("top_logprobs", json!(3)),
        ("logit_bias", json!({ "50256": -100 })),
        ("presence_penalty", json!(0.5)),
        ("frequency_penalty", json!(-1)),
        ("response_format", json!({ "type": "json_object" })),
        ("modalities", json!(["text", "audio"])),
        ("audio", json!({ "voice": "alloy" })),
        ("reasoning_effort", json!("high")),
        ("n", json!(2)),
        ("n", json!(0)),
    ] {
        let problem = request(&json!({ name: value }))
            .check_supported()
            .unwrap_err();
        assert_eq!(
            (problem.kind(), param(&problem)),
            (Kind::UnsupportedParameter, name.into())
        );
    }
}

#[test]
fn a_mistyped_parameter_is_not_ignored() {
    let body = json!({ "model": "owm", "messages": [], "temprature": 0 });
    assert!(serde_json::from_value::<ChatRequest>(body).is_err());
}

#[test]
fn turns_may_be_texts_or_text_parts_and_developers_are_the_system() {
    let messages = json!([
        { "role": "developer", "content": "be brief" },
        { "role": "user", "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }] },
        { "role": "assistant", "content": "c", "refusal": null, "tool_calls": null, "audio": null },
    ]);
    let question = question(&json!({ "messages": messages })).unwrap();
    let QuestionPrompt::Chat(turns) = question.prompt else {
        panic!("a chat")
    };
    let turns: Vec<_> = turns
        .iter()
        .map(|t| (t.role.as_str(), t.content.as_str()))
        .collect();
    assert_eq!(
        turns,
        [("system", "be brief"), ("user", "ab"), ("assistant", "c")]
    );
}

#[test]
fn a_turn_that_cannot_be_taken_is_named() {
    let image = json!([{ "type": "image_url", "image_url": { "url": "x" } }]);
    for (message, expected) in [
        (
            json!({ "role": "tool", "content": "x" }),
            "messages[1].role",
        ),
        (
            json!({ "role": "user", "content": image }),
            "messages[1].content",
        ),
        (
            json!({ "role": "user", "content": null }),
            "messages[1].content",
        ),
        (
            json!({ "role": "assistant", "content": "", "tool_calls": [{}] }),
            "messages[1].tool_calls",
        ),
    ] {
        let messages = json!([{ "role": "user", "content": "hi" }, message]);
        let problem = question(&json!({ "messages": messages })).unwrap_err();
        assert_eq!(param(&problem), expected);
    }
}

#[test]
fn both_names_of_the_limit_work_and_the_newer_one_wins() {
    let max = |extra: Value| question(&extra).unwrap().max_tokens;
    assert_eq!(max(json!({})), MAX_TOKENS_DEFAULT);
    assert_eq!(max(json!({ "max_tokens": 7 })), 7);
    assert_eq!(
        max(json!({ "max_tokens": 7, "max_completion_tokens": 8 })),
        8
    );
    assert_eq!(
        request(&json!({ "max_completion_tokens": 8 })).limit_name(),
        "max_completion_tokens"
    );
    assert_eq!(
        request(&json!({ "max_tokens": 8 })).limit_name(),
        "max_tokens"
    );
}

#[test]
fn stop_may_be_one_or_several_and_a_seed_may_be_negative() {
    let stop = |value: Value| question(&json!({ "stop": value })).unwrap().stop;
    assert_eq!(stop(json!("x")), ["x"]);
    assert_eq!(stop(json!(["x", "y"])), ["x", "y"]);
    assert_eq!(
        question(&json!({ "seed": -1 })).unwrap().seed,
        Some(u64::MAX)
    );
}
