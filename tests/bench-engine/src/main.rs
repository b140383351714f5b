//! candle's Llama behind the line protocol of `compare.py`: `owm-bench-engine DIR f32|f16`, then a
//! line `PROMPT_TOKENS ANSWER_TOKENS` on standard input for each measurement, answered by a line of
//! JSON. Greedy, no end token: every engine of the comparison does the same work.

use std::{
    io::{self, BufRead, Write},
    path::Path,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Config, Llama, LlamaConfig};

/// "The capital of France is" in SmolLM2's vocabulary; longer prompts repeat it.
const PROMPT: [u32; 5] = [504, 3575, 282, 4649, 314];

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().context("give a Hugging Face directory")?;
    let dtype = match arguments.next().as_deref() {
        Some("f32") => DType::F32,
        Some("f16") => DType::F16,
        other => bail!("unknown precision {other:?}: f32 or f16"),
    };
    let dir = Path::new(&dir);
    let config: LlamaConfig = serde_json::from_slice(&std::fs::read(dir.join("config.json"))?)?;
    let config = config.into_config(false);
    let bytes = std::fs::read(dir.join("model.safetensors"))?;
    let weights = VarBuilder::from_buffered_safetensors(bytes, dtype, &Device::Cpu)?;
    let model = Llama::load(weights, &config)?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let (prompt, answer) = line
            .split_once(' ')
            .context("PROMPT_TOKENS ANSWER_TOKENS")?;
        let made = run(&model, &config, dtype, prompt.parse()?, answer.parse()?)?;
        writeln!(io::stdout(), "{made}")?;
    }
    Ok(())
}

fn run(
    model: &Llama,
    config: &Config,
    dtype: DType,
    prompt: usize,
    answer: usize,
) -> Result<serde_json::Value> {
    let mut cache = Cache::new(true, dtype, config, &Device::Cpu)?;
    let ids: Vec<u32> = PROMPT.iter().copied().cycle().take(prompt).collect();
    let started = Instant::now();
    let mut scores = model.forward(&row(&ids)?, 0, &mut cache)?;
    let mut tokens = vec![best(&scores)?];
    let prompt_s = started.elapsed().as_secs_f64();
    let started = Instant::now();
    while tokens.len() < answer {
        let position = prompt + tokens.len() - 1;
        scores = model.forward(&row(&tokens[tokens.len() - 1..])?, position, &mut cache)?;
        tokens.push(best(&scores)?);
    }
    let generate_s = started.elapsed().as_secs_f64();
    Ok(serde_json::json!({ "prompt_s": prompt_s, "generate_s": generate_s, "tokens": tokens }))
}

fn row(ids: &[u32]) -> Result<Tensor> {
    Ok(Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?)
}

fn best(scores: &Tensor) -> Result<u32> {
    Ok(scores.flatten_all()?.argmax(0)?.to_scalar()?)
}
