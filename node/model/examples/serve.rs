//! Our engine behind the line protocol of `tests/bench-engine/compare.py`: `serve DIR`, then a line
//! `PROMPT_TOKENS ANSWER_TOKENS` on standard input for each measurement, answered by a line of JSON.
//! Greedy. The prompt's time includes the first token's scores, as the other engines' does.

use std::{
    io::{self, BufRead, Write},
    ops::ControlFlow,
    path::Path,
};

use anyhow::Context;
use owm_model::{DeviceChoice, Engine, GenerateJob, LoadOptions, Prompt, Sampling};

fn main() -> anyhow::Result<()> {
    let dir = std::env::args().nth(1);
    let dir = dir.context("give a Hugging Face directory")?;
    let options = LoadOptions {
        device: DeviceChoice::Cpu,
        expected_sha256: None,
    };
    let engine = Engine::load(Path::new(&dir), &options)?;
    let text = engine.encode_prompt(&Prompt::Raw("The capital of France is".to_owned()))?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let (prompt, answer) = line
            .split_once(' ')
            .context("PROMPT_TOKENS ANSWER_TOKENS")?;
        let job = GenerateJob {
            prompt: text.iter().copied().cycle().take(prompt.parse()?).collect(),
            forced_prefix: Vec::new(),
            max_tokens: answer.parse()?,
            sampling: Sampling::GREEDY,
            stop: Vec::new(),
        };
        let made = engine.generate(&job, &mut |_| ControlFlow::Continue(()))?;
        let said = serde_json::json!({
            "backend": engine.description().backend,
            "prompt_s": made.prompt_time.as_secs_f64(),
            "generate_s": made.generate_time.as_secs_f64(),
            "tokens": made.tokens,
        });
        writeln!(io::stdout(), "{said}")?;
    }
    Ok(())
}
