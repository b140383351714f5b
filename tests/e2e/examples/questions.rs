//! `make bench`: starts a network with the real weights, asks it the ten questions that were drawn before
//! the first run (`questions/`), and prints what docs/benchmarks.md reports: start-up time, times and
//! speeds of the answers, the share of right ones. Nothing here is asserted; a wrong answer is a result.
#![expect(clippy::print_stdout, reason = "it prints a report")]

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result};
use owm_devnet::{Devnet, Model};
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<()> {
    let weights = std::env::var("OWM_SMOLLM2_GGUF").context(
        "OWM_SMOLLM2_GGUF is not set: the ten questions are for the real weights (`make bench`)",
    )?;
    let drawn = Path::new(env!("CARGO_MANIFEST_DIR")).join("questions/questions.json");
    let drawn: Value = serde_json::from_str(&std::fs::read_to_string(drawn)?)?;
    let questions = drawn["questions"]
        .as_array()
        .context("questions.json has no questions")?;

    let start = Instant::now();
    let model = Model::Weights(PathBuf::from(weights));
    let net = Devnet::builder().nodes(3).model(model).start().await?;
    println!(
        "network of three nodes up after {:.1} s (import included)\n",
        start.elapsed().as_secs_f64()
    );
    println!("| question | answer | right | seconds | tokens/s |\n|---|---|---|---|---|");
    let mut right = 0;
    for question in questions {
        let capital = question["capital"]
            .as_str()
            .context("a question without its capital")?;
        let text = question["question"].as_str().context("no question")?;
        let start = Instant::now();
        let asked = json!({
            "query": text, "max_tokens": 40, "temperature": 0, "return_token_ids": true,
        });
        let answer = net.api().query_with(&asked).await?;
        let seconds = start.elapsed().as_secs_f64();
        let said = answer["answer"]
            .as_str()
            .unwrap_or_default()
            .replace(['\n', '|'], " ");
        let tokens = answer["token_ids"].as_array().map_or(0, Vec::len);
        let hit = said.to_lowercase().contains(&capital.to_lowercase());
        right += usize::from(hit);
        println!(
            "| {text} | {} | {} | {seconds:.2} | {:.1} |",
            said.trim(),
            if hit { "yes" } else { "no" },
            tokens as f64 / seconds
        );
    }
    println!("\n{right} of {} answers name the capital", questions.len());
    net.stop().await
}
