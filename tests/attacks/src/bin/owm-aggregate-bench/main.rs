//! `owm-aggregate-bench`: a round of a whole model's size through the real path: SHA-256, structure, both passes, gates,
//! delta. `make bench-aggregate` runs it; it prints a table and one line of JSON. The spool is made by a process of its own,
//! so that this one's peak memory is the path's.
#![expect(clippy::print_stdout, reason = "it prints a report")]

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;
use owm_aggregate::{
    Base, FileSpool, Policy, Spool, Statistics, StrategyName, Submission, Work, accumulate,
    gates::{
        Field, NormHistory,
        structure::{self, Given},
    },
    release,
};
use owm_proto::{Permille, PublicKey, Sha256, UnixMillis, genesis::NetworkId};
use owm_update::{
    BLOCK, Block, Codec, Header, Keep, Layout, Mode, Origin, Published, Subject, pack,
};
use rayon::prelude::*;

/// What numpy does with as many values.
const NUMPY: &str = include_str!("numpy_add.py");

/// How large the round is.
#[derive(Debug, clap::Parser)]
#[command(about = "A round of a whole model's size through the real aggregation")]
struct Args {
    /// Parameters of the model; the default is SmolLM2-135M's.
    #[arg(long, default_value_t = 134_515_008)]
    elements: usize,
    /// Updates of the round.
    #[arg(long, default_value_t = 16)]
    updates: usize,
    /// Share of the values that is kept, in parts per million.
    #[arg(long, default_value_t = 100_000)]
    keep_ppm: u32,
    /// Where the spool is; the default is a folder that is deleted afterwards.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// The Python that has numpy.
    #[arg(long, default_value = "/usr/bin/python3")]
    python: String,
    /// Only makes the spool in `folder`.
    #[arg(long, hide = true)]
    make: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let (true, Some(folder)) = (args.make, &args.folder) {
        return make(&args, folder);
    }
    let temporary = std::env::temp_dir().join(format!("owm-aggregate-{}", std::process::id()));
    let folder = args.folder.clone().unwrap_or(temporary);
    std::fs::create_dir_all(&folder)?;
    let made = Command::new(std::env::current_exe()?)
        .args(["--make", "--folder"])
        .arg(&folder)
        .args(["--elements", &args.elements.to_string()])
        .args(["--updates", &args.updates.to_string()])
        .args(["--keep-ppm", &args.keep_ppm.to_string()])
        .status()?;
    ensure!(
        made.success(),
        "the spool cannot be made in {}",
        folder.display()
    );
    let done = run(&args, &folder);
    std::fs::remove_dir_all(&folder)?;
    done
}

fn codec(args: &Args) -> Result<Codec> {
    let keep = Keep::from_ppm(args.keep_ppm).context("keep is 1 to 1,000,000")?;
    Ok(Codec {
        keep,
        ..Codec::DEFAULT
    })
}

fn key(i: usize) -> PublicKey {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&(i as u64 + 1).to_be_bytes());
    PublicKey(key)
}

fn subject(layout: &Layout, origin: Origin) -> Result<Subject> {
    Ok(Subject {
        network: NetworkId(Sha256([1; 32])),
        round: 1,
        sub_model: "owm-code".parse()?,
        base: Sha256([2; 32]),
        layout: layout.id(),
        mode: Mode::Full,
        origin,
    })
}

/// The header of a file of one f16 vector.
fn parent_header(elements: usize) -> Vec<u8> {
    let json = format!(
        r#"{{"w":{{"dtype":"F16","shape":[{elements}],"data_offsets":[0,{}]}}}}"#,
        elements * 2
    );
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend(json.as_bytes());
    header
}

/// One step is packed; each update has its blocks, turned by another number of places, so that no two are alike.
fn make(args: &Args, folder: &Path) -> Result<()> {
    let header = parent_header(args.elements);
    let layout = Layout::parse(&header)?;
    let mut parent = File::create(folder.join("parent"))?;
    parent.write_all(&header)?;
    parent.set_len(layout.data().end)?;
    let mut step = vec![0.0_f32; args.elements];
    step.par_chunks_mut(BLOCK)
        .enumerate()
        .for_each(|(block, values)| {
            for (i, value) in values.iter_mut().enumerate() {
                *value = noise((block * BLOCK + i) as u64);
            }
        });
    let codec = codec(args)?;
    let packed: Vec<Vec<u8>> = pack(codec, &mut step)
        .into_iter()
        .map(|(bytes, _)| bytes)
        .collect();
    drop(step);
    let whole = args.elements / BLOCK;
    for update in 0..args.updates {
        let turned = |block: usize| {
            let from = if block < whole {
                (block + update * 7) % whole
            } else {
                block
            };
            &packed[from][..]
        };
        let parts: Vec<&[u8]> = (0..packed.len()).map(turned).collect();
        let lengths: Vec<u32> = parts.iter().map(|part| part.len() as u32).collect();
        let header = Header {
            subject: subject(
                &layout,
                Origin::Node {
                    node: key(update),
                    samples: 100,
                    steps: 30,
                    clip: 1e9,
                },
            )?,
            codec,
            elements: args.elements as u64,
            residue_before: None,
            residue_after: None,
        };
        let bytes = owm_update::assemble(&header, &lengths, &parts)?;
        std::fs::write(folder.join(format!("{update}.owmu")), bytes)?;
    }
    Ok(())
}

/// The cube of a sum of uniforms: heavy tails, without a logarithm.
fn noise(i: u64) -> f32 {
    let mut x = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^= x >> 31;
    let sum: u64 = (0..4).map(|part| x >> (16 * part) & 0xffff).sum();
    let one = sum as f32 / 65_536.0 - 2.0;
    // Never nothing: two of a block's blocks must not share their zeros.
    one * one * one * 1e-3
}

fn run(args: &Args, folder: &Path) -> Result<()> {
    let paths: Vec<PathBuf> = (0..args.updates)
        .map(|i| folder.join(format!("{i}.owmu")))
        .collect();
    let layout = Layout::parse(&parent_header(args.elements))?;
    let codec = codec(args)?;
    let published = Published {
        network: NetworkId(Sha256([1; 32])),
        round: 1,
        sub_model: "owm-code".parse()?,
        base: Sha256([2; 32]),
        layout: layout.id(),
        mode: Mode::Full,
        elements: args.elements as u64,
        codec,
        clip: 1e9,
    };
    let (arrival, ()) = timed(|| {
        for (i, path) in paths.iter().enumerate() {
            let bytes = std::fs::read(path)?;
            let given = Given {
                node: key(i),
                committed: Sha256::of(&bytes),
                steps: 30,
                samples_max: 100,
            };
            structure::check(&bytes, &published, &given)?;
        }
        Ok(())
    })?;
    let spool = FileSpool::open(&paths)?;
    let (measure, statistics) = timed(|| Ok(Statistics::measure(&spool)?))?;
    let submissions: Vec<Submission> = (0..args.updates).map(submission).collect();
    // Turned blocks have nothing in common: the gates are run for their time, the mean is that of clip_mean.
    let policy = Policy::default();
    let field = Field {
        submissions: &submissions,
        statistics: &statistics,
        policy: &policy,
        history: NormHistory::default(),
        reference: None,
    };
    let (gates, _) = timed(|| Ok(owm_aggregate::gates::run(&field)))?;
    let decision = StrategyName::ClipMean.strategy().decide(&field)?;
    let parent = File::open(folder.join("parent"))?;
    let base = Base {
        layout: &layout,
        parent: &parent,
    };
    let work = Work {
        subject: subject(
            &layout,
            Origin::Aggregate {
                updates: args.updates as u32,
            },
        )?,
        codec,
    };
    let (second, released) = timed(|| Ok(release(&spool, &decision, work, None, &base)?))?;
    let peak = peak_bytes()?;
    let add = accumulation(&spool)?;
    report(
        args,
        &[arrival, measure, gates, second],
        add,
        released.delta.len(),
        peak,
    )
}

fn submission(i: usize) -> Submission {
    Submission {
        node: key(i),
        owner: Submission::alone(key(i)),
        committed_at: UnixMillis(i as u64),
        samples: 100,
        tier: Permille::ONE,
        stake_bonus: Permille::ONE,
        audited: false,
    }
}

fn timed<T>(one: impl FnOnce() -> Result<T>) -> Result<(Duration, T)> {
    let start = Instant::now();
    let done = one()?;
    Ok((start.elapsed(), done))
}

/// What adding decoded updates takes, per update, on all threads: decoding is not counted.
fn accumulation(spool: &FileSpool) -> Result<Duration> {
    let blocks = spool.opened(0).header.blocks();
    let nanos = AtomicU64::new(0);
    (0..blocks).into_par_iter().try_for_each_init(
        || (Vec::new(), Vec::new(), vec![0.0_f64; BLOCK]),
        |(bytes, held, sums): &mut (Vec<u8>, Vec<Block>, Vec<f64>), block| {
            held.resize_with(spool.len(), Block::default);
            for (update, into) in held.iter_mut().enumerate() {
                spool.read(update, block, bytes, into)?;
            }
            sums.fill(0.0);
            let start = Instant::now();
            for block in held.iter() {
                accumulate(block, 0.01, sums);
            }
            let took = u64::try_from(start.elapsed().as_nanos())?;
            nanos.fetch_add(took, Ordering::Relaxed);
            std::hint::black_box(&sums);
            anyhow::Ok(())
        },
    )?;
    let all = nanos.into_inner() / spool.len() as u64 / rayon::current_num_threads() as u64;
    Ok(Duration::from_nanos(all))
}

/// The most memory that this process has had.
fn peak_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line
        .and_then(|line| line.split_whitespace().nth(1))
        .context("there is no VmHWM")?;
    Ok(kib.parse::<u64>()? * 1_024)
}

/// Milliseconds of `acc[idx] += v` for one update; `None` if there is no numpy.
fn numpy(args: &Args) -> Option<f64> {
    let values = args.elements as u64 * u64::from(args.keep_ppm) / 1_000_000;
    let said = Command::new(&args.python)
        .args(["-c", NUMPY, &args.elements.to_string(), &values.to_string()])
        .output()
        .ok()
        .filter(|said| said.status.success())?;
    String::from_utf8_lossy(&said.stdout).trim().parse().ok()
}

fn report(
    args: &Args,
    parts: &[Duration; 4],
    add: Duration,
    delta: usize,
    peak: u64,
) -> Result<()> {
    let n = args.updates as f64;
    let numpy = numpy(args);
    println!(
        "## Aggregation: {} updates of {} parameters, {} ppm kept, {} threads\n",
        args.updates,
        args.elements,
        args.keep_ppm,
        rayon::current_num_threads()
    );
    println!("| what | per update, ms |\n|---|---|");
    let names = [
        "arrival: SHA-256, decode, structure",
        "first pass: decode, norms, every pair",
        "gates",
        "second pass: decode, mean, residue, pack",
    ];
    for (name, took) in names.iter().zip(parts) {
        println!("| {name} | {:.1} |", took.as_secs_f64() * 1e3 / n);
    }
    let add = add.as_secs_f64() * 1e3;
    println!("| of it: adding decoded values | {add:.1} |");
    if let Some(numpy) = numpy {
        println!(
            "| numpy `acc[idx] += v` | {numpy:.1} ({:.1} times ours) |",
            numpy / add
        );
    }
    let whole: f64 = parts.iter().map(Duration::as_secs_f64).sum();
    let model = args.elements as u64 * 4;
    let models = peak as f64 / model as f64;
    println!(
        "\nWhole path {:.1} updates/s; delta {:.1} MB; peak memory {:.2} models in f32.",
        n / whole,
        delta as f64 / 1e6,
        models
    );
    println!(
        "{{\"bench\":\"aggregate\",\"elements\":{},\"updates\":{},\"keep_ppm\":{},\"add_ms\":{add:.2},\
         \"numpy_ms\":{},\"updates_per_s\":{:.2},\"peak_models\":{models:.3}}}",
        args.elements,
        args.updates,
        args.keep_ppm,
        numpy.map_or_else(|| "null".to_owned(), |ms| format!("{ms:.2}")),
        n / whole
    );
    ensure!(
        models <= 2.0,
        "peak memory is {models:.2} models in f32, at most 2 are allowed"
    );
    Ok(())
}
