//! Parts in rounds, with an engine that is made up: what is trained on, what is told, and what goes into the next one.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read as _,
};

use owm_proto::evaluation::FormerPart;
use owm_update::{Block, Update};
use tempfile::TempDir;

use super::*;
use crate::{
    engine::{OnTrained, TrainedStep},
    residue::ResidueStore,
};

/// Elements of the model that is trained; one of them is sent.
const ELEMENTS: u16 = 8;
/// Rows of 16 of 256 tokens: one step is as much as is told of.
const STEPS: ReferenceSteps = ReferenceSteps {
    steps: 4,
    batch: 8,
    learning_rate: 1e-3,
    clip_norm: 100.0,
    keep_ppm: 100_000,
    value_bits: 8,
    round: 1,
    takes_part: true,
    lora: None,
};

/// What a training was asked for.
type Asked = (u64, u64);

/// Its first step goes down from element to element, all later ones are nothing.
#[derive(Debug, Default)]
struct Trains {
    asked: Mutex<Vec<Asked>>,
}

impl EngineLoader for Trains {
    fn load(
        &self,
        _: &Path,
        _: &BTreeMap<String, [u8; 32]>,
    ) -> Result<Arc<dyn InferenceEngine>, LoadError> {
        Err(LoadError::Unusable("it only trains".into()))
    }

    fn train(
        &self,
        _: &Path,
        _: &BTreeMap<String, [u8; 32]>,
        job: &TrainJob,
        _: &mut OnTrained<'_>,
    ) -> Result<Option<TrainedStep>, LoadError> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = asked.is_empty();
        asked.push((job.tokens_max, job.seed));
        let step = (0..ELEMENTS).map(|n| {
            if is_first {
                f32::from(ELEMENTS - n)
            } else {
                0.0
            }
        });
        let json = format!(
            "{{\"w\":{{\"dtype\":\"F32\",\"shape\":[{ELEMENTS}],\"data_offsets\":[0,{}]}}}}",
            4 * ELEMENTS
        );
        let mut header = (json.len() as u64).to_le_bytes().to_vec();
        header.extend(json.bytes());
        Ok(Some(TrainedStep {
            step: step.collect(),
            header,
            tensors: 1,
            adapted: Vec::new(),
            losses: vec![4.000_4, 3.0, 2.0, 1.000_4],
            backend: "trains/f32".into(),
            documents: job.documents.len() as u32,
            bytes: 20_011,
            tokens: 5_003,
            tokens_sha256: Sha256([7; 32]),
        }))
    }
}

/// A node that trains.
struct Trainer {
    folder: TempDir,
    loader: Arc<Trains>,
    texts: Arc<Shelf>,
    context: JobContext,
    epoch: u64,
}

impl Trainer {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            loader: Arc::default(),
            texts: Arc::new(Shelf {
                documents: 45,
                ..Shelf::default()
            }),
            context: context(),
            epoch: 0,
        }
    }

    fn tools(&self) -> Tools {
        Tools {
            loader: self.loader.clone(),
            texts: self.texts.clone(),
            own_text: OWN_TEXT,
            ram: None,
            updates: Updates::new(self.folder.path().join("updates")),
            residues: ResidueStore::new(self.folder.path().join("residues")),
        }
    }

    /// Takes a part: what is reported, and the update's hash with the places that it has values for.
    fn part(
        &mut self,
        text: TextSource,
        steps: ReferenceSteps,
        former: &[FormerPart],
    ) -> (EvaluationReport, Sha256, BTreeSet<u16>) {
        self.epoch += 1;
        let mut job = job(text, 0);
        job.key.epoch = self.epoch;
        job.served = None;
        job.ask.documents_max = 63;
        (job.ask.bytes_max, job.ask.tokens_max) = (30_000, 9_000);
        job.ask.window = 256;
        job.ask.reference = Some(steps);
        job.former = former.to_vec();
        let laid_out = LaidOut {
            folder: self.folder.path().join("links"),
            expected: BTreeMap::new(),
        };
        let (tools, stop) = (self.tools(), CancellationToken::new());
        let done = reference::trained(&job, steps, &self.context, &tools, &laid_out, &stop);
        let (result, _) = done.unwrap().unwrap();
        let report = EvaluationReport::from_bytes(&result.output.unwrap().report).unwrap();
        let mut bytes = Vec::new();
        let (mut file, _) = tools.updates.open(job.key).unwrap().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        (report, Sha256::of(&bytes), places(&bytes))
    }
}

fn places(update: &[u8]) -> BTreeSet<u16> {
    let (update, mut block) = (Update::parse(update).unwrap(), Block::default());
    assert_eq!(update.blocks(), 1);
    update.read(0, &mut block).unwrap();
    block.places().iter().copied().collect()
}

fn losses(report: &EvaluationReport) -> [f64; 2] {
    match report.finding {
        Finding::Update { losses, .. } => losses.map(|loss| loss.0),
        Finding::HeldOut { .. } => panic!("not an update: {report:?}"),
    }
}

fn bits(losses: [f64; 2]) -> [u64; 2] {
    losses.map(f64::to_bits)
}

#[test]
fn on_a_public_text_a_part_is_trained_as_it_is_asked_for() {
    let mut at = Trainer::new();
    let (report, ..) = at.part(geo(), STEPS, &[]);
    assert_eq!(*at.texts.asked.lock().unwrap(), Some((Side::Train, 11)));
    assert_eq!(*at.texts.bounds.lock().unwrap(), (63, 30_000));
    assert_eq!(*at.loader.asked.lock().unwrap(), [(9_000, 11)]);
    let exact = [4.000_4_f32, 1.000_4].map(f64::from);
    assert_eq!(bits(losses(&report)), bits(exact));
    assert_eq!((report.documents, report.tokens), (45, 5_003));
}

#[test]
fn on_a_private_text_who_asks_chooses_neither_rows_nor_bounds_and_hears_round_figures() {
    let mut at = Trainer::new();
    let (report, ..) = at.part(TextSource::Local, STEPS, &[]);
    let (side, order) = at.texts.asked.lock().unwrap().unwrap();
    assert_eq!(side, Side::Train);
    assert_eq!(*at.texts.bounds.lock().unwrap(), (32, 16_384));
    let [(tokens, rows)] = at.loader.asked.lock().unwrap()[..] else {
        panic!("trained once");
    };
    assert_eq!(tokens, 8_192);
    assert!(order != 11 && rows != 11 && order != rows);
    // A step has 2,048 tokens: of fewer than two nothing is told.
    assert_eq!(bits(losses(&report)), bits([3.5, 1.5]));
    assert_eq!((report.documents, report.tokens), (32, 4_096));
    let next = ReferenceSteps { round: 2, ..STEPS };
    at.part(TextSource::Local, next, &[]);
    let (_, later) = at.loader.asked.lock().unwrap()[1];
    assert_ne!(later, rows, "not the same rows in every round");
}

#[test]
fn what_a_refused_part_carried_goes_into_the_next_one_and_once() {
    let former = |update, counted| FormerPart { update, counted };
    // The verdict that the second lease tells of the first part; the place that the second sends, and the third.
    for (verdict, second_sends, third_sends) in
        [(None, 1, 0), (Some(true), 1, 2), (Some(false), 0, 1)]
    {
        let mut at = Trainer::new();
        let (_, first, sent) = at.part(geo(), STEPS, &[]);
        assert_eq!(sent, [0].into());
        // A part that this node does not know of changes nothing.
        let mut told = vec![former(Sha256([8; 32]), false)];
        told.extend(verdict.map(|counted| former(first, counted)));
        let (_, second, sent) = at.part(geo(), ReferenceSteps { round: 2, ..STEPS }, &told);
        assert_eq!(sent, [second_sends].into(), "{verdict:?}");
        // Said again, or otherwise: the first word stands.
        let told = [former(second, true), former(first, false)];
        let (.., sent) = at.part(geo(), ReferenceSteps { round: 3, ..STEPS }, &told);
        assert_eq!(sent, [third_sends].into(), "{verdict:?}");
    }
}
