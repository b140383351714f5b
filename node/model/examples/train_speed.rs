//! Measures training: tokens per second, loss and peak memory on a model directory and seeded noise
//! for text. Called by `deploy/bench-train.sh`, which runs another program on the same shapes beside
//! it. Prints one line of JSON.
//!
//! `train_speed DIR [full|low-rank] [STEPS] [ROWS] [SEQUENCE] [ACCUMULATE]`; `train_speed fresh DIR` writes a
//! small model to train.

use std::{ops::ControlFlow, path::PathBuf, sync::Arc, time::Instant};

use anyhow::Context;
use owm_model::{AdamW, Base, Decay, TrainMode, TrainPlan, Trainer};

/// Steps before the clock starts: first allocations, threads waking up.
const WARM_STEPS: u32 = 2;

#[expect(clippy::print_stdout, reason = "the result of an example")]
fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().context("give a model directory")?);
    if dir.as_os_str() == "fresh" {
        let dir = args.next().context("give the folder of the fresh model")?;
        owm_model::write_fresh(dir.as_ref(), 1)?;
        return Ok(());
    }
    let mode = match args.next().as_deref() {
        None | Some("full") => TrainMode::Full,
        Some("low-rank") => TrainMode::LowRank {
            rank: 16,
            seed: [1; 32],
        },
        Some(other) => anyhow::bail!("unknown mode {other}: full or low-rank"),
    };
    let mut number = |default: usize| -> anyhow::Result<usize> {
        Ok(args
            .next()
            .map(|text| text.parse())
            .transpose()?
            .unwrap_or(default))
    };
    let steps = number(6)? as u32;
    let (rows, sequence, accumulate) = (number(1)?, number(256)?, number(2)?);
    let base = Arc::new(Base::load(&dir, None)?);
    let vocabulary = base.config().vocabulary as u64;
    let mut state = 1_u64;
    let tokens: Vec<u32> = (0..200_000)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            ((state >> 33) % vocabulary) as u32
        })
        .collect();
    let plan = TrainPlan {
        mode,
        steps: steps + WARM_STEPS,
        sequence,
        rows: rows * accumulate,
        pass_rows: rows,
        optimizer: AdamW::default(),
        warmup: 0,
        decay: Decay::Constant,
        clip_norm: Some(1.0),
        seed: 1,
    };
    let mut trainer = Trainer::new(base, tokens, plan)?;
    let mut go_on = || ControlFlow::Continue(());
    let mut losses = Vec::new();
    let mut started = Instant::now();
    for step in 0..steps + WARM_STEPS {
        if step == WARM_STEPS {
            started = Instant::now();
        }
        let progress = trainer
            .step(&mut go_on)?
            .context("a step that nobody stops")?;
        losses.push(progress.loss);
    }
    let seconds = started.elapsed().as_secs_f64();
    let tokens = u64::from(steps) as usize * rows * sequence * accumulate;
    println!(
        "{{\"tokens_per_second\": {:.1}, \"seconds\": {seconds:.2}, \"rss_peak_mb\": {}, \"losses\": {losses:?}}}",
        tokens as f64 / seconds,
        peak_mb().unwrap_or(0),
    );
    Ok(())
}

/// Peak resident memory in MB, where the system tells it.
fn peak_mb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024 / 1_000_000)
}
