//! The real weights, through everything: import, manifest, download, load, answer. Run by `make test`
//! where the weights can be had (`OWM_SMOLLM2_GGUF`).

use std::path::PathBuf;

use owm_devnet::{Devnet, Model};
use serde_json::{Value, json};

/// Greedy continuation of "The capital of France is", the same in four engines (docs/benchmarks.md).
const GOLDEN: [u32; 24] = [
    7042, 30, 198, 198, 504, 2988, 314, 42, 216, 34, 32, 33, 40, 29, 32, 33, 29, 34, 34, 216, 33,
    34, 42, 33,
];

#[tokio::test]
#[ignore = "needs OWM_SMOLLM2_GGUF, the real weights; `make test` sets it where they can be had"]
async fn real_weights_give_the_golden_tokens_through_the_api() {
    let weights =
        std::env::var("OWM_SMOLLM2_GGUF").expect("OWM_SMOLLM2_GGUF is set by `make test`");
    let model = Model::Weights(PathBuf::from(weights));
    let net = Devnet::builder()
        .nodes(1)
        .model(model)
        .start()
        .await
        .unwrap();
    let answer = net
        .api()
        .query_with(&json!({
            "query": "The capital of France is", "template": "none", "temperature": 0,
            "max_tokens": GOLDEN.len(), "return_token_ids": true,
        }))
        .await
        .unwrap();
    assert_eq!(answer["token_ids"], json!(GOLDEN), "{answer:#}");

    // Greedy: a sampled answer may be wrong and would say nothing about the code.
    let asked = json!({"query": "What is the capital of France?", "temperature": 0});
    let chat = net.api().query_with(&asked).await.unwrap();
    let text = chat["answer"].as_str().unwrap();
    assert!(text.contains("Paris"), "{text}");
    let note = chat
        .get("model_note")
        .and_then(Value::as_str)
        .unwrap_or_default();
    assert!(!note.contains("tiny"), "the stand-in answered: {note}");
    net.stop().await.unwrap();
}
