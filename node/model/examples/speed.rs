//! Measures a model directory: prompt and decode speed and resident memory. Run by hand:
//! `cargo run -p owm-model --example speed -- DIR [PROMPT_TOKENS] [ANSWER_TOKENS] [cpu|gpu|auto]`.

use std::{io::Write, ops::ControlFlow, path::Path, time::Instant};

use anyhow::{Context, bail};
use owm_model::{DeviceChoice, Engine, GenerateJob, LoadOptions, Prompt, Sampling};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().context("give a Hugging Face directory")?;
    let prompt_tokens: usize = arguments.next().map_or(Ok(256), |text| text.parse())?;
    let answer_tokens: u32 = arguments.next().map_or(Ok(128), |text| text.parse())?;
    let device = match arguments.next().as_deref() {
        None | Some("cpu") => DeviceChoice::Cpu,
        Some("gpu") => DeviceChoice::Gpu,
        Some("auto") => DeviceChoice::Auto,
        Some(other) => bail!("unknown device {other}"),
    };
    let started = Instant::now();
    let options = LoadOptions {
        device,
        expected_sha256: None,
    };
    let engine = Engine::load(Path::new(&dir), &options)?;
    let mut lines = vec![format!("{:?}", engine.description())];
    lines.push(format!("load {:.2} s", started.elapsed().as_secs_f64()));

    let text = engine.encode_prompt(&Prompt::Raw("The capital of France is".to_owned()))?;
    let prompt: Vec<u32> = text.iter().copied().cycle().take(prompt_tokens).collect();
    // The first round warms caches and, on a GPU, compiles the kernels.
    for round in 0..3 {
        let job = GenerateJob {
            prompt: prompt.clone(),
            forced_prefix: Vec::new(),
            max_tokens: answer_tokens,
            sampling: Sampling::GREEDY,
            stop: Vec::new(),
        };
        let mut prompt_cpu = None;
        let cpu_before = cpu_seconds();
        let done = engine.generate(&job, &mut |_| {
            prompt_cpu.get_or_insert_with(cpu_seconds);
            ControlFlow::Continue(())
        })?;
        let prompt_cpu = prompt_cpu.context("no token was generated")?;
        // The first token comes out of the prompt's pass.
        let steps = done.tokens.len().saturating_sub(1) as f64;
        lines.push(format!(
            "round {round}: prompt {:.1} tok/s ({:.1} per CPU second), decode {:.1} tok/s ({:.1} per CPU second), {}",
            prompt_tokens as f64 / done.prompt_time.as_secs_f64(),
            prompt_tokens as f64 / (prompt_cpu - cpu_before),
            steps / done.generate_time.as_secs_f64(),
            steps / (cpu_seconds() - prompt_cpu),
            memory(),
        ));
    }
    writeln!(std::io::stdout(), "{}", lines.join("\n"))?;
    Ok(())
}

/// Resident and peak memory as Linux tells it; empty elsewhere.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let wanted = status
        .lines()
        .filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM"));
    wanted
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join(", ")
}

/// CPU seconds of all threads as Linux tells them (ticks of 10 ms); 0 elsewhere. On a machine
/// that others use too, this is the steadier figure.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields 14 and 15, counted after the command's closing bracket (field 2).
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    let ticks: u64 = fields
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    ticks as f64 / 100.0
}
