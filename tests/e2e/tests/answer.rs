//! A question goes in, an answer comes out, and strangers can check its receipt.
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::{fs, path::Path, process::Stdio};

use anyhow::{Context, Result, ensure};
use owm_devnet::{Devnet, Model};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::process::Command;

const QUESTION: &str = "What is the capital of France?";

async fn network(nodes: u16) -> Devnet {
    Devnet::builder()
        .nodes(nodes)
        .model(Model::Tiny)
        .start()
        .await
        .unwrap()
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_else(|| panic!("{pointer} is missing in {value:#}"))
}

#[tokio::test]
async fn a_question_is_answered_recorded_and_signed() {
    let mut net = network(1).await;
    let api = net.api();
    let asked =
        json!({"query": QUESTION, "max_tokens": 12, "temperature": 0, "return_token_ids": true});
    let answer = api.query_with(&asked).await.unwrap();

    // The answer is whole.
    let tokens = answer["token_ids"].as_array().unwrap();
    assert!((1..=12).contains(&tokens.len()), "{answer:#}");
    assert_eq!(answer["ots_verified"], false);
    assert!(answer["latency_ms"].as_u64().is_some(), "{answer:#}");
    let version = text(&answer, "/model_version");
    assert_eq!(version, "owm-v0.1.0");

    // It stays the same for whoever holds its id.
    let id = text(&answer, "/request_id");
    let first = api
        .get(&format!("/v1/requests/{id}"))
        .await
        .unwrap()
        .ok()
        .unwrap();
    assert_eq!(text(&first, "/answer"), text(&answer, "/answer"));
    let again = api.get(&format!("/v1/requests/{id}")).await.unwrap();
    assert_eq!(again.ok().unwrap(), first);

    // The same question with the same seed has the same answer.
    let repeated = api.query_with(&asked).await.unwrap();
    assert_eq!(repeated["token_ids"], answer["token_ids"]);
    assert_ne!(text(&repeated, "/request_id"), id);

    // The SHA-256 shown is that of the file served.
    let sha256 = text(&answer, "/sha256");
    let blob = api.get(&format!("/v1/blobs/{sha256}")).await.unwrap();
    assert!(blob.status.is_success());
    assert_eq!(Sha256::digest(&blob.body)[..], unhex(sha256).unwrap());

    check_receipt(&mut net, &answer).await.unwrap();
    net.stop().await.unwrap();
}

/// By our own program, and by openssl without it.
async fn check_receipt(net: &mut Devnet, answer: &Value) -> Result<()> {
    let id = answer["request_id"].as_str().context("no request id")?;
    let fetched = net.api().get(&format!("/v1/receipts/{id}")).await?;
    let receipt = fetched.ok()?;
    ensure!(
        receipt == answer["receipt"],
        "two receipts: {receipt:#} {:#}",
        answer["receipt"]
    );
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("receipt.json");
    fs::write(&file, &fetched.body)?;
    let file = file.to_string_lossy();

    let node = &net.nodes()[0];
    let text = answer["answer"].as_str().context("no answer")?;
    node.command(&["verify-receipt", &file, "--answer", text])
        .await?;

    // A receipt for another answer is refused, and so is a changed one.
    let other = node
        .command(&["verify-receipt", &file, "--answer", "something else"])
        .await;
    ensure!(
        other.is_err(),
        "a receipt was accepted for an answer that is not its own"
    );
    let forged = fs::read_to_string(&*file)?.replacen("owm-v0.1.0", "owm-v0.1.9", 1);
    let forged_file = folder.path().join("forged.json");
    fs::write(&forged_file, forged)?;
    let refused = node
        .command(&["verify-receipt", &forged_file.to_string_lossy()])
        .await;
    ensure!(refused.is_err(), "a forged receipt was accepted");

    let genesis = net.api().get("/v1/genesis").await?.ok()?;
    check_with_openssl(folder.path(), &receipt, &genesis).await
}

/// Signature of the countersigned receipt and of each node's statement in it, by `openssl pkeyutl`.
async fn check_with_openssl(folder: &Path, receipt: &Value, genesis: &Value) -> Result<()> {
    // The network's id is the SHA-256 of the genesis document's exact bytes.
    let document = genesis["genesis"].as_str().context("no genesis document")?;
    let network = Sha256::digest(document.as_bytes());
    let field = |value: &Value, name: &str| -> Result<String> {
        Ok(value[name]
            .as_str()
            .with_context(|| format!("no {name} in {value:#}"))?
            .to_owned())
    };
    let payload = field(receipt, "receipt")?;
    let (key, signature) = (field(receipt, "key")?, field(receipt, "signature")?);
    openssl(
        folder,
        "owm/receipt/v1",
        &network,
        &payload,
        &key,
        &signature,
    )
    .await?;
    ensure!(
        openssl(
            folder,
            "owm/receipt/v1",
            &network,
            &payload.replacen('1', "2", 1),
            &key,
            &signature
        )
        .await
        .is_err(),
        "openssl accepted a changed receipt"
    );
    let inner: Value = serde_json::from_str(&payload)?;
    let statement = |value: &Value| -> Result<(String, String, String)> {
        Ok((
            field(value, "statement")?,
            field(value, "node")?,
            field(value, "signature")?,
        ))
    };
    let (said, key, signature) = statement(&inner["result"])?;
    openssl(folder, "owm/result/v1", &network, &said, &key, &signature).await?;
    let segments = inner["segments"].as_array().context("no segments")?;
    for segment in segments {
        let (said, key, signature) = statement(segment)?;
        openssl(folder, "owm/segment/v1", &network, &said, &key, &signature).await?;
    }
    Ok(())
}

async fn openssl(
    folder: &Path,
    purpose: &str,
    network: &[u8],
    payload: &str,
    key: &str,
    signature: &str,
) -> Result<()> {
    // SubjectPublicKeyInfo of an Ed25519 key: a fixed head, then the 32 bytes (RFC 8410).
    let head = [
        0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
    ];
    fs::write(folder.join("key.der"), [&head[..], &unhex(key)?].concat())?;
    fs::write(folder.join("sig"), unhex(signature)?)?;
    let preimage = [purpose.as_bytes(), &[0], network, payload.as_bytes()].concat();
    fs::write(folder.join("preimage"), preimage)?;
    let output = Command::new("openssl")
        .args(["pkeyutl", "-verify", "-rawin", "-pubin", "-keyform", "DER"])
        .args(["-inkey", "key.der", "-sigfile", "sig", "-in", "preimage"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .await
        .context("openssl is not installed")?;
    ensure!(
        output.status.success(),
        "openssl refuses {purpose}: {} {}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    ensure!(
        text.len().is_multiple_of(2) && text.is_ascii(),
        "no hex: {text}"
    );
    (0..text.len())
        .step_by(2)
        .map(|at| Ok(u8::from_str_radix(&text[at..at + 2], 16)?))
        .collect()
}

#[tokio::test]
async fn a_streamed_answer_is_the_same_as_a_whole_one() {
    let net = network(1).await;
    let api = net.api();
    let asked = |stream: bool| json!({"query": QUESTION, "max_tokens": 24, "temperature": 0.7, "seed": 7, "stream": stream});
    let whole = api.query_with(&asked(false)).await.unwrap();
    let events = api
        .stream("/v1/query", &asked(true))
        .await
        .unwrap()
        .all()
        .await
        .unwrap();
    let parsed: Vec<Value> = events
        .iter()
        .filter(|event| event.data != "[DONE]")
        .map(|event| serde_json::from_str(&event.data).unwrap())
        .collect();
    let streamed: String = parsed
        .iter()
        .filter_map(|event| event.get("text").and_then(Value::as_str))
        .collect();
    assert_eq!(streamed, text(&whole, "/answer"), "{events:#?}");
    // The last event is the whole answer with its receipt.
    let last = parsed.last().unwrap();
    assert_eq!(text(last, "/answer"), streamed);
    assert!(
        last.get("receipt").is_some_and(Value::is_object),
        "{last:#}"
    );

    // The chat endpoint streams the same way a client of others expects it.
    let chat = json!({
        "model": "owm-geo", "stream": true, "max_tokens": 8, "temperature": 0, "seed": 1,
        "stream_options": {"include_usage": true},
        "messages": [{"role": "user", "content": QUESTION}],
    });
    let events = api
        .stream("/v1/chat/completions", &chat)
        .await
        .unwrap()
        .all()
        .await
        .unwrap();
    assert_eq!(events.last().unwrap().data, "[DONE]");
    let usage: Value = serde_json::from_str(&events[events.len() - 2].data).unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert!(
        (1..=8).contains(&usage["usage"]["completion_tokens"].as_u64().unwrap()),
        "{usage:#}"
    );
    net.stop().await.unwrap();
}

#[tokio::test]
async fn many_questions_at_once_are_spread_over_the_nodes() {
    let net = network(2).await;
    let api = net.api();
    let mut asked = tokio::task::JoinSet::new();
    for number in 0..8 {
        let api = api.clone();
        asked.spawn(async move {
            api.query_with(&json!({"query": format!("Question {number}?"), "max_tokens": 16}))
                .await
        });
    }
    let mut nodes = std::collections::BTreeSet::new();
    while let Some(answer) = asked.join_next().await {
        let answer = answer.unwrap().unwrap();
        let receipt: Value = serde_json::from_str(text(&answer, "/receipt/receipt")).unwrap();
        nodes.insert(text(&receipt, "/result/node").to_owned());
    }
    assert_eq!(nodes.len(), 2, "{nodes:?}");
    let stats = api.get("/v1/network/stats").await.unwrap().ok().unwrap();
    assert!(stats.is_object(), "{stats:#}");
    net.stop().await.unwrap();
}
