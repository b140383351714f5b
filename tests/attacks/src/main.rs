//! `owm-attacks`: what one round's aggregation makes of liars. Synthetic steps, packed and read by the real codec, decided
//! and averaged by the real strategies; `make bench-attacks` runs it, and it writes docs/robustness.md. A crate of its own,
//! so that it builds in seconds.
//!
//! Nothing here depends on a clock: the same arguments write the same file.
#![expect(clippy::print_stdout, reason = "it says how far it is")]

mod attack;
mod cell;
mod report;
mod synthetic;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use rayon::prelude::*;

use attack::Attack;
use cell::{Cell, Outcome, Setting};

/// What is attacked, and how often.
#[derive(Debug, clap::Parser)]
#[command(about = "Attacks on one round of aggregation; writes a report in Markdown")]
struct Args {
    /// Seeds of each cell.
    #[arg(long, default_value_t = 20)]
    seeds: u64,
    /// Elements of a step.
    #[arg(long, default_value_t = 40_960)]
    elements: usize,
    /// Sizes of a round.
    #[arg(long, value_delimiter = ',', default_values_t = [3, 5, 8, 20, 50])]
    sizes: Vec<usize>,
    /// The size at which breakdown points are looked for; 0: not at all.
    #[arg(long, default_value_t = 20)]
    breakdown: usize,
    /// Where the report goes; the default is standard output.
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut cells = Vec::new();
    for other in [false, true] {
        for n in &args.sizes {
            let setting = Setting {
                n: *n,
                attackers: attackers(*n),
                other,
                elements: args.elements,
            };
            cells.extend(run(setting, args.seeds)?);
            println!(
                "n = {n}, {}: done",
                if other { "two distributions" } else { "IID" }
            );
        }
    }
    let mut shares = Vec::new();
    for attackers in 1..=args.breakdown * 3 / 5 {
        let setting = Setting {
            n: args.breakdown,
            attackers,
            other: false,
            elements: args.elements,
        };
        shares.extend(run(setting, args.seeds.min(10))?);
    }
    let text = report::write(&args, &cells, &shares);
    let Some(path) = args.out else {
        println!("{text}");
        return Ok(());
    };
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// 30 %, at least one.
fn attackers(n: usize) -> usize {
    (n * 3 / 10).max(1)
}

/// Every attack and strategy in one setting.
fn run(setting: Setting, seeds: u64) -> Result<Vec<Cell>> {
    let per_seed: Vec<Vec<(Attack, Vec<Outcome>)>> = (0..seeds)
        .into_par_iter()
        .map(|seed| cell::one(setting, seed))
        .collect::<Result<_>>()?;
    Ok(cell::collect(setting, &per_seed))
}
