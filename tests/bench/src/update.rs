//! `owm-bench update`: how fast a step becomes an update and back, how small it is, and how much of its
//! direction it keeps, beside numpy doing the same work in the same run (`update/numpy_codec.py`).
//!
//! The step is heavy-tailed, as those that the gates were tried on: Student's t with three degrees of freedom,
//! from a counter. The rates count parameters of the model, not values sent.

use std::{
    io::Write as _,
    path::Path,
    process::Command,
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use owm_proto::{PublicKey, Sha256, genesis::NetworkId};
use owm_update::{
    BLOCK, Codec, Encoded, IndexCoding, Keep, Mode, Origin, Residue, Subject, Update, ValueWidth,
    encode_update, pack,
};

/// What numpy does beside us.
const NUMPY: &str = include_str!("update/numpy_codec.py");

/// How large the step is.
#[derive(Debug, clap::Args)]
pub(crate) struct UpdateArgs {
    /// Parameters of the model; the default is SmolLM2-135M's.
    #[arg(long = "update-elements", default_value_t = 134_515_008)]
    elements: usize,
    /// How often each measurement is taken; the fastest counts, for both sides.
    #[arg(long = "update-rounds", default_value_t = 3)]
    rounds: usize,
    /// The Python that has numpy.
    #[arg(long = "update-python", default_value = "/usr/bin/python3")]
    python: String,
}

/// Measures and prints both tables.
pub(crate) fn run(args: &UpdateArgs) -> Result<()> {
    let elements = args.elements;
    println!(
        "## Update codec, {elements} parameters, {} threads\n",
        cores()
    );
    let step = student(elements);
    println!("| keep | values | indices | bytes | beside raw f32 | cosine of one step |");
    println!("|---|---|---|---|---|---|");
    for keep in [Keep::TENTH, Keep::SIXTY_FOURTH] {
        sizes(keep, &step)?;
    }
    println!("\n| keep | what | ours, M parameters/s | numpy | times |");
    println!("|---|---|---|---|---|");
    let folder = tempfile::tempdir().context("cannot make a folder for the step")?;
    let file = folder.path().join("step.f32");
    write_step(&file, &step)?;
    for keep in [Keep::TENTH, Keep::SIXTY_FOURTH] {
        speeds(args, keep, &step, &file)?;
    }
    Ok(())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Student's t with 3 degrees of freedom, times 1e-4.
fn student(elements: usize) -> Vec<f32> {
    let mut step = vec![0.0; elements];
    let parts = Mutex::new(step.chunks_mut(BLOCK).enumerate());
    std::thread::scope(|scope| {
        for _ in 0..cores() {
            scope.spawn(|| {
                loop {
                    let next = parts.lock().expect("no thread panics with it").next();
                    let Some((block, values)) = next else { return };
                    for (i, value) in (block * BLOCK..).zip(values) {
                        *value = t3(i as u64);
                    }
                }
            });
        }
    });
    step
}

fn t3(i: u64) -> f32 {
    let uniform = |j: u64| {
        let mut x = (i * 4 + j + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    };
    // Two normals by Box and Muller; the squares of two more are one exponential.
    let (radius, turn) = (
        (-2.0 * (1.0 - uniform(0)).ln()).sqrt(),
        std::f64::consts::TAU * uniform(1),
    );
    let chi_square = (radius * turn.sin()).powi(2) - 2.0 * (1.0 - uniform(2)).ln();
    (radius * turn.cos() / (chi_square / 3.0).sqrt() * 1e-4) as f32
}

fn subject() -> Result<Subject> {
    Ok(Subject {
        network: NetworkId(Sha256([1; 32])),
        round: 1,
        sub_model: "owm-code".parse()?,
        base: Sha256([2; 32]),
        layout: Sha256([3; 32]),
        mode: Mode::Full,
        origin: Origin::Node {
            node: PublicKey([4; 32]),
            samples: 1,
            steps: 30,
            clip: 1e9,
        },
    })
}

fn sizes(keep: Keep, step: &[f32]) -> Result<()> {
    let rows = [
        (ValueWidth::Exact, IndexCoding::Rice),
        (ValueWidth::Eight, IndexCoding::Rice),
        (ValueWidth::Two, IndexCoding::Packed),
        (ValueWidth::Two, IndexCoding::Rice),
    ];
    for (values, indices) in rows {
        let codec = Codec {
            keep,
            values,
            indices,
        };
        let encoded = encode_update(subject()?, codec, step.to_vec(), None)?;
        println!(
            "| {:.4} % | {} bit | {indices:?} | {} | {:.1}× | {:.4} |",
            f64::from(keep.ppm()) / 1e4,
            values.bits(),
            encoded.bytes.len(),
            (step.len() * 4) as f64 / encoded.bytes.len() as f64,
            encoded.report.cosine,
        );
    }
    Ok(())
}

/// The fastest of some.
fn fastest<T>(rounds: usize, mut once: impl FnMut() -> Result<(Duration, T)>) -> Result<(f64, T)> {
    let mut best = once()?;
    for _ in 1..rounds {
        let next = once()?;
        if next.0 < best.0 {
            best = next;
        }
    }
    Ok((best.0.as_secs_f64(), best.1))
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(Duration, T)> {
    let start = Instant::now();
    let done = work()?;
    Ok((start.elapsed(), done))
}

fn speeds(args: &UpdateArgs, keep: Keep, step: &[f32], file: &Path) -> Result<()> {
    let codec = Codec {
        keep,
        ..Codec::DEFAULT
    };
    let rounds = args.rounds.max(1);
    let (whole, encoded): (f64, Encoded) = fastest(rounds, || {
        let residue = Residue::new(&subject()?, vec![1e-5; step.len()])?;
        let step = step.to_vec();
        timed(|| Ok(encode_update(subject()?, codec, step, Some(residue))?))
    })?;
    drop(encoded);
    let (packing, encoded) = fastest(rounds, || {
        let mut step = step.to_vec();
        timed(|| Ok(pack(codec, &mut step)))
    })?;
    let bytes = encode_update(subject()?, codec, step.to_vec(), None)?.bytes;
    let packed: usize = encoded.iter().map(|(bytes, _)| bytes.len()).sum();
    ensure!(packed < bytes.len(), "a header is some bytes");
    let update = Update::parse(&bytes)?;
    let (verify, _) = fastest(rounds, || timed(|| Ok(update.summary()?)))?;
    let mut dense = vec![0.0; step.len()];
    let (decode, ()) = fastest(rounds, || timed(|| Ok(update.add_to(&mut dense)?)))?;
    drop(dense);
    let numpy = numpy(args, keep, file)?;
    let row = |what: &str, ours: f64, theirs: Option<f64>| {
        let rate = |seconds: f64| format!("{:.0}", step.len() as f64 / seconds / 1e6);
        println!(
            "| {:.4} % | {what} | {} | {} | {} |",
            f64::from(keep.ppm()) / 1e4,
            rate(ours),
            theirs.map_or_else(|| "–".to_owned(), rate),
            theirs.map_or_else(|| "–".to_owned(), |theirs| format!("{:.1}", theirs / ours)),
        );
    };
    row("top-K, quantise, code", packing, numpy.map(|n| n.0));
    row("decode and add", decode, numpy.map(|n| n.1));
    row("check: decode, canonical form, norm", verify, None);
    row(
        "whole update: residue, clip, code, two SHA-256",
        whole,
        None,
    );
    if let Some((encode, decode, bytes)) = numpy {
        println!(
            "{{\"bench\":\"update\",\"keep_ppm\":{},\"elements\":{},\"bytes\":{packed},\"numpy_bytes\":{bytes},\
             \"pack_s\":{packing:.4},\"numpy_encode_s\":{encode:.4},\"numpy_decode_s\":{decode:.4}}}",
            keep.ppm(),
            step.len(),
        );
    }
    Ok(())
}

fn write_step(file: &Path, step: &[f32]) -> Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(file)?);
    for values in step.chunks(BLOCK) {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        file.write_all(&bytes)?;
    }
    Ok(file.flush()?)
}

/// Seconds to encode and to decode, and bytes; `None` without numpy.
fn numpy(args: &UpdateArgs, keep: Keep, file: &Path) -> Result<Option<(f64, f64, u64)>> {
    let output = Command::new(&args.python)
        .args(["-c", NUMPY])
        .arg(file)
        .arg(keep.of(4_096).to_string())
        .arg(args.rounds.max(1).to_string())
        .env_remove("OPENBLAS_CORETYPE")
        .env_remove("OPENBLAS_L2_SIZE")
        .output();
    let output = match output {
        Ok(output) if output.status.success() => output,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            println!("numpy was left out: {}", said.lines().last().unwrap_or("?"));
            return Ok(None);
        }
        Err(error) => {
            println!("numpy was left out: {}: {error}", args.python);
            return Ok(None);
        }
    };
    let text = String::from_utf8(output.stdout)?;
    let mut numbers = text.split_whitespace();
    let mut next = || numbers.next().context("numpy's script says three numbers");
    Ok(Some((next()?.parse()?, next()?.parse()?, next()?.parse()?)))
}
