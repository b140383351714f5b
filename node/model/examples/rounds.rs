//! What the codec costs in learning: rounds of federated training in one process, with nodes that hold different
//! text, each update through the real codec, the mean of all added to the parent. Prints held-out bits per byte
//! over the rounds, as a table; called by `deploy/bench-rounds.sh`. No gates, no liars, and the mean goes down to
//! the nodes as it is: only the nodes' updates are coded.
//!
//! `rounds CORPORA [ROUNDS] [STEPS] [SEEDS]`: the folder that corpora are kept in, 12 rounds of 20 steps, three
//! seeds.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use owm_corpus::{Document, HELD_OUT_PER_MILLE, corpus, fetch, load, sample, split};
use owm_model::{
    AdamW, Base, Decay, DeviceChoice, Engine, LoadOptions, TrainMode, TrainPlan, Trainer, evaluate,
    tokens_of, write_fresh,
};
use owm_proto::{NodeKey, Sha256, genesis::NetworkId};
use owm_update::{
    Codec, IndexCoding, Keep, Layout, Mode, Origin, Residue, Subject, Update, ValueWidth,
    encode_update,
};

/// Two learn code, two geography.
const NODES: usize = 4;
/// Text of each node.
const NODE_BYTES: usize = 400_000;
/// Held-out text of each domain.
const HELD_OUT_BYTES: usize = 60_000;
/// Above what such a model's round moves: nothing is clipped.
const CLIP: f32 = 1e6;
const WEIGHTS: &str = "model.safetensors";

/// How a node's step is sent.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    /// `None`: as it is.
    codec: Option<Codec>,
    /// What was not sent comes back.
    feedback: bool,
}

fn ways() -> [Way; 5] {
    let codec = |keep, values| {
        Some(Codec {
            keep,
            values,
            indices: IndexCoding::Rice,
        })
    };
    let way = |name, codec, feedback| Way {
        name,
        codec,
        feedback,
    };
    let (tenth, least) = (Keep::TENTH, Keep::SIXTY_FOURTH);
    [
        way("dense", None, false),
        way(
            "top 10 %, f32 values, no error feedback",
            codec(tenth, ValueWidth::Exact),
            false,
        ),
        way(
            "top 10 %, f32 values, error feedback",
            codec(tenth, ValueWidth::Exact),
            true,
        ),
        way(
            "top 10 %, 2-bit values, error feedback",
            codec(tenth, ValueWidth::Two),
            true,
        ),
        way(
            "top 1.56 %, 2-bit values, error feedback",
            codec(least, ValueWidth::Two),
            true,
        ),
    ]
}

/// Who learns from what, and what all are measured with.
struct Text {
    /// Of each node.
    train: Vec<Vec<Document>>,
    /// By domain.
    held_out: BTreeMap<&'static str, Vec<Document>>,
}

/// Packages or regions are dealt out in turn, so no node has what another has.
fn text(cache: &Path) -> Result<Text> {
    let (mut train, mut held_out) = (Vec::new(), BTreeMap::new());
    for id in ["owm-code", "owm-geo"] {
        let corpus = corpus(id).context("a listed corpus")?;
        fetch(&corpus, cache, &mut |_, _, _| {})?;
        let shards = load(&corpus, cache, &[])?;
        let mut nodes = vec![Vec::new(); NODES / 2];
        let mut rest = Vec::new();
        for (n, documents) in shards.into_values().enumerate() {
            let sides = split(documents, HELD_OUT_PER_MILLE);
            nodes[n % (NODES / 2)].extend(sides.train);
            rest.extend(sides.held_out);
        }
        train.extend(nodes.into_iter().map(|node| sample(node, NODE_BYTES)));
        held_out.insert(id, sample(rest, HELD_OUT_BYTES));
    }
    Ok(Text { train, held_out })
}

/// One run: bits per byte of each domain, before the first round and after each.
struct Run<'a> {
    text: &'a Text,
    way: Way,
    seed: u64,
    steps: u32,
    dir: PathBuf,
    residues: Vec<Option<Residue>>,
}

impl Run<'_> {
    fn plan(&self, round: u64, node: usize) -> TrainPlan {
        TrainPlan {
            mode: TrainMode::Full,
            steps: self.steps,
            sequence: 128,
            rows: 4,
            pass_rows: 2,
            optimizer: AdamW {
                learning_rate: 2e-3,
                ..AdamW::default()
            },
            warmup: 2,
            decay: Decay::Constant,
            clip_norm: Some(1.0),
            seed: (self.seed << 32) | (round << 8) | node as u64,
        }
    }

    /// θ_end − θ_start of one node, in the flat order.
    fn step(&self, base: &Arc<Base>, round: u64, node: usize) -> Result<Vec<f32>> {
        let texts: Vec<&str> = self.text.train[node]
            .iter()
            .map(|d| d.text.as_str())
            .collect();
        let tokens = tokens_of(base.config(), base.tokenizer(), &texts)?;
        let mut trainer = Trainer::new(Arc::clone(base), tokens, self.plan(round, node))?;
        let mut go_on = || ControlFlow::Continue(());
        trainer.run(&mut go_on, &mut |_, _| ControlFlow::Continue(()))?;
        Ok(trainer.finish()?.into_step()?)
    }

    /// What arrives of a step, added to `sum`, and how many bytes it took.
    fn send(
        &mut self,
        subject: Subject,
        node: usize,
        step: Vec<f32>,
        sum: &mut [f32],
    ) -> Result<usize> {
        let Some(codec) = self.way.codec else {
            sum.iter_mut()
                .zip(&step)
                .for_each(|(sum, step)| *sum += step);
            return Ok(step.len() * 4);
        };
        let encoded = encode_update(subject, codec, step, self.residues[node].take())?;
        Update::parse(&encoded.bytes)?.add_to(sum)?;
        if self.way.feedback {
            self.residues[node] = Some(encoded.residue);
        }
        Ok(encoded.bytes.len())
    }

    /// Trains all, adds the mean of what they send; bytes that a node sent.
    fn round(&mut self, round: u64) -> Result<usize> {
        let base = Arc::new(Base::load(&self.dir, None)?);
        let weights = self.dir.join(WEIGHTS);
        let mut file = fs::read(&weights)?;
        let header = u64::from_le_bytes(file[..8].try_into()?) as usize + 8;
        let layout = Layout::parse(&file[..header])?;
        let mut sum = vec![0.0; layout.elements(&Mode::Full)? as usize];
        let mut bytes = 0;
        for node in 0..NODES {
            let step = self.step(&base, round, node)?;
            ensure!(
                step.len() == sum.len(),
                "the step and the file have one order"
            );
            let subject = Subject {
                network: NetworkId(Sha256::of(b"rounds")),
                round,
                sub_model: "owm-code".parse()?,
                base: Sha256::of(&file),
                layout: layout.id(),
                mode: Mode::Full,
                origin: Origin::Node {
                    node: NodeKey::from_seed(&[node as u8; 32]).public(),
                    samples: 1,
                    steps: self.steps,
                    clip: CLIP,
                },
            };
            bytes += self.send(subject, node, step, &mut sum)?;
        }
        for (value, sum) in file[header..].as_chunks_mut::<4>().0.iter_mut().zip(&sum) {
            *value = (f32::from_le_bytes(*value) + sum / NODES as f32).to_le_bytes();
        }
        fs::write(&weights, file)?;
        Ok(bytes / NODES)
    }

    fn measure(&self) -> Result<Vec<f64>> {
        let options = LoadOptions {
            device: DeviceChoice::Cpu,
            expected_sha256: None,
        };
        let engine = Engine::load(&self.dir, &options)?;
        let mut all = Vec::new();
        for documents in self.text.held_out.values() {
            let texts: Vec<&str> = documents.iter().map(|d| d.text.as_str()).collect();
            let found = evaluate(&engine, &texts, 128, &mut |_| ControlFlow::Continue(()))?;
            all.push(found.context("nobody stopped it")?.bits_per_byte);
        }
        Ok(all)
    }
}

/// Mean, and how far the seeds are apart.
fn told(values: &[f64]) -> String {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{mean:.3} [{least:.3}-{most:.3}]")
}

/// Rounds that are told of.
fn shown(rounds: u64) -> Vec<u64> {
    let mut shown: Vec<u64> = [1, 2, 4, 8].into_iter().filter(|n| *n < rounds).collect();
    shown.push(rounds);
    shown
}

/// What is measured of one way: by round, by domain, by seed; and the bytes of an update.
type Found = (Vec<Vec<Vec<f64>>>, usize);

fn follow(text: &Text, way: Way, (rounds, steps, seeds): (u64, u32, u64)) -> Result<Found> {
    let mut found = vec![vec![Vec::new(); text.held_out.len()]; rounds as usize + 1];
    let mut bytes = 0;
    for seed in 1..=seeds {
        let dir = tempfile::tempdir()?;
        write_fresh(dir.path(), seed)?;
        let mut run = Run {
            text,
            way,
            seed,
            steps,
            dir: dir.path().to_owned(),
            residues: vec![None; NODES],
        };
        for round in 0..=rounds {
            if round > 0 {
                bytes = run.round(round)?;
            }
            let measured = run.measure()?;
            let name = way.name;
            writeln!(
                io::stderr(),
                "{name}, seed {seed}, round {round}: {measured:.3?}"
            )?;
            for (of_domain, value) in found[round as usize].iter_mut().zip(measured) {
                of_domain.push(value);
            }
        }
    }
    Ok((found, bytes))
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let cache = arguments.next().context("give the folder of the corpora")?;
    let mut number = |usual: u64| arguments.next().map_or(Ok(usual), |text| text.parse());
    let (rounds, steps, seeds) = (number(12)?, number(20)?, number(3)?);
    let text = text(Path::new(&cache))?;
    let mut out = io::stdout().lock();
    let heads: Vec<String> = shown(rounds).iter().map(|n| format!("round {n}")).collect();
    let heads = heads.join(" | ");
    writeln!(
        out,
        "| a node's step | text | before | {heads} | bytes of an update |"
    )?;
    let lines = "---|".repeat(shown(rounds).len());
    writeln!(out, "|---|---|---|{lines}---|")?;
    for way in ways() {
        let (found, bytes) = follow(&text, way, (rounds, u32::try_from(steps)?, seeds))?;
        for (at, domain) in text.held_out.keys().enumerate() {
            let rows = std::iter::once(0).chain(shown(rounds));
            let cells: Vec<String> = rows.map(|n| told(&found[n as usize][at])).collect();
            let cells = cells.join(" | ");
            writeln!(out, "| {} | {domain} | {cells} | {bytes} |", way.name)?;
        }
    }
    Ok(())
}
