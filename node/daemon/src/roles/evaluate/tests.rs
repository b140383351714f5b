//! A measurement with an engine and a text that are made up: what is reported, and when nothing is.

mod parts;

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
};

use owm_proto::{
    NodeKey, SignerRule, TaskId,
    evaluation::{EvaluationAsk, ReferenceSteps},
    genesis::NetworkId,
    manifest::ManifestFile,
    wire::coordinator::HandBackReason,
};
use owm_service::{clock::SystemClock, metrics::Registry};

use super::*;
use crate::{
    activity::Activity,
    engine::{
        Answer, EncodeError, EngineDescription, GenerateJob, LoadError, OnToken, Question, TrainJob,
    },
    metrics::Metrics,
    tasklog::{LeaseKey, TaskLog},
};

/// Measures what it is told to.
#[derive(Debug)]
struct Scales {
    tokens: u64,
}

impl InferenceEngine for Scales {
    fn description(&self) -> EngineDescription {
        EngineDescription {
            backend: "scales/f64".into(),
            device: String::new(),
            device_reason: String::new(),
            context_length: 64,
            parameters: 1,
        }
    }

    fn encode(&self, _: &Question) -> Result<Vec<u32>, EncodeError> {
        Err(EncodeError::Refused("it only measures".into()))
    }

    fn generate(&self, _: &GenerateJob, _: &mut OnToken<'_>) -> Result<Answer, AnswerError> {
        Err(AnswerError::Failed("it only measures".into()))
    }

    fn measure(
        &self,
        job: &MeasureJob,
        on_measured: &mut crate::engine::OnMeasured<'_>,
    ) -> Result<Option<Measurement>, AnswerError> {
        for done in [0, self.tokens / 2] {
            let so_far = MeasuredSoFar {
                done,
                of: self.tokens,
                loss: 2.0,
            };
            if on_measured(so_far).is_break() {
                return Ok(None);
            }
        }
        let bytes = job
            .documents
            .iter()
            .map(|text| text.len() as u64)
            .sum::<u64>();
        Ok(Some(Measurement {
            documents: job.documents.len() as u32,
            bytes,
            tokens: self.tokens,
            tokens_sha256: Sha256([7; 32]),
            loss: 2.0,
            bits_per_byte: 2.0 * self.tokens as f64 / std::f64::consts::LN_2 / bytes as f64,
        }))
    }
}

/// Remembers what was wanted of it.
#[derive(Debug)]
struct Shelf {
    asked: Mutex<Option<(Side, u64)>>,
    bounds: Mutex<(u32, u64)>,
    documents: usize,
}

impl Default for Shelf {
    fn default() -> Self {
        Self {
            asked: Mutex::default(),
            bounds: Mutex::default(),
            documents: 1,
        }
    }
}

impl Texts for Shelf {
    fn why_none(&self) -> Option<String> {
        None
    }

    fn documents(
        &self,
        wanted: &Wanted<'_>,
        _: &CancellationToken,
        hears: &mut dyn FnMut(&str),
    ) -> Result<Vec<String>, TextError> {
        hears("reading");
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        *asked = Some((wanted.side, wanted.seed));
        let mut bounds = self.bounds.lock().unwrap_or_else(PoisonError::into_inner);
        *bounds = (wanted.documents_max, wanted.bytes_max);
        Ok(vec!["canary sings".into(); self.documents])
    }
}

/// Loads nothing.
#[derive(Debug)]
struct NoLoader;

impl EngineLoader for NoLoader {
    fn load(
        &self,
        _: &Path,
        _: &std::collections::BTreeMap<String, [u8; 32]>,
    ) -> Result<Arc<dyn InferenceEngine>, LoadError> {
        Err(LoadError::Unusable("it is not asked to".into()))
    }

    fn training_bytes(&self, _: &Path, _: &TrainJob) -> Result<u64, LoadError> {
        Ok(1 << 50)
    }
}

const OWN_TEXT: OwnText = OwnText {
    per_day: 1,
    any_weights: false,
};

fn node() -> Arc<NodeKey> {
    Arc::new(NodeKey::from_seed(&[1; 32]))
}

fn network() -> NetworkId {
    NetworkId(Sha256([9; 32]))
}

fn job(text: TextSource, tokens: u64) -> EvaluateJob {
    let weights = ManifestFile {
        name: "model.safetensors".into(),
        size: 1,
        sha256: Sha256([1; 32]),
        piece_len: None,
        ladder_sha256: None,
    };
    EvaluateJob {
        key: LeaseKey {
            task: TaskId::from_random([3; 16]),
            epoch: 2,
        },
        version: "owm-v0.1.0".parse().unwrap(),
        sub_model: "owm-geo".parse().unwrap(),
        input_sha256: Sha256([4; 32]),
        ask: EvaluationAsk {
            files: vec![weights],
            text,
            documents_max: 5,
            bytes_max: 100,
            tokens_min: 4,
            tokens_max: 100,
            window: 8,
            seed: 11,
            reference: None,
        },
        former: Vec::new(),
        served: Some(Arc::new(Scales { tokens })),
    }
}

fn context() -> JobContext {
    JobContext {
        node: node(),
        network: network(),
        clock: SystemClock::shared(),
        log: TaskLog::in_memory().unwrap(),
        activity: Activity::new(Metrics::new(&Registry::new())),
        events: tokio::sync::mpsc::channel(4).0,
    }
}

fn measure(
    job: &EvaluateJob,
    context: &JobContext,
    texts: Arc<dyn Texts>,
    stop: &CancellationToken,
) -> Outcome {
    let tools = Tools {
        loader: Arc::new(NoLoader),
        texts,
        own_text: OWN_TEXT,
        ram: None,
        updates: Updates::new(std::path::PathBuf::new()),
        residues: crate::residue::ResidueStore::new(std::path::PathBuf::new()),
    };
    measured(job, context, &tools, None, stop)
}

fn report_of(result: &TaskResult) -> (TaskResultStatement, EvaluationReport) {
    let envelope = owm_proto::Envelope::from_wire(result.result.clone()).unwrap();
    let key = node().public();
    let said = TaskResultStatement::open(&envelope, &network(), SignerRule::Exactly(&key)).unwrap();
    let report = &result.output.as_ref().unwrap().report;
    assert_eq!(said.output_sha256, Sha256::of(report));
    (said, EvaluationReport::from_bytes(report).unwrap())
}

fn geo() -> TextSource {
    TextSource::Corpus {
        id: "owm-geo".into(),
        shards: vec!["europe".into()],
    }
}

#[test]
fn what_is_found_is_signed_and_logged() {
    let (job, context, texts) = (job(geo(), 10), context(), Arc::new(Shelf::default()));
    context
        .activity
        .begun(job.key, "evaluate", "v", std::time::Duration::ZERO);
    let done = measure(&job, &context, texts.clone(), &CancellationToken::new());
    let (result, tokens) = done.unwrap().unwrap();
    let (said, report) = report_of(&result);
    assert_eq!((tokens, said.prompt_tokens, said.seed), (10, 10, 11));
    assert_eq!((said.backend.as_str(), said.epoch), ("scales/f64", 2));
    assert_eq!(report.candidate, [Sha256([1; 32])]);
    assert_eq!(
        (report.text, report.tokens_sha256),
        (geo(), Sha256([7; 32]))
    );
    assert!(
        matches!(report.finding, Finding::HeldOut { loss, .. } if loss.0.to_bits() == 2.0_f64.to_bits())
    );
    assert_eq!(*texts.asked.lock().unwrap(), Some((Side::HeldOut, 11)));
    assert_eq!(
        context.log.unacked().unwrap(),
        [job.key],
        "logged before it is sent"
    );
    let shown = context
        .activity
        .snapshot(std::time::Duration::ZERO)
        .running
        .remove(0);
    assert_eq!(shown.progress.map(|p| (p.done, p.of)), Some((5, 10)));
}

#[test]
fn of_a_private_text_only_round_figures_are_signed() {
    let mut job = job(TextSource::Local, 5_003);
    job.ask.documents_max = 63;
    (job.ask.bytes_max, job.ask.tokens_max) = (9_000, 9_000);
    let (context, texts) = (context(), Arc::new(Shelf::default()));
    let few = measure(&job, &context, texts.clone(), &CancellationToken::new());
    let refusal = few.unwrap_err();
    assert!(
        refusal.message.contains("32 held-out"),
        "{}",
        refusal.message
    );
    assert!(context.log.unacked().unwrap().is_empty());

    let many = Arc::new(Shelf {
        documents: 45,
        ..Shelf::default()
    });
    let done = measure(&job, &context, many.clone(), &CancellationToken::new());
    let (result, _) = done.unwrap().unwrap();
    let (said, report) = report_of(&result);
    assert_eq!((report.documents, report.tokens), (32, 4_096));
    assert_eq!(said.prompt_tokens, 4_096);
    assert_ne!(report.tokens_sha256, Sha256([7; 32]), "not the plain hash");
    assert_eq!(said.tokens_sha256, report.tokens_sha256);
    let (_, order) = many.asked.lock().unwrap().unwrap();
    assert_ne!(order, job.ask.seed, "the node orders its documents itself");
}

#[test]
fn what_is_broken_off_or_too_short_gives_no_report() {
    let context = context();
    let stopped = CancellationToken::new();
    stopped.cancel();
    let texts = || Arc::new(Shelf::default());
    let done = measure(&job(geo(), 10), &context, texts(), &stopped);
    assert!(done.unwrap().is_none());
    let short = measure(&job(geo(), 3), &context, texts(), &CancellationToken::new());
    let refusal = short.unwrap_err();
    assert_eq!(refusal.reason, HandBackReason::CannotDo);
    assert!(refusal.message.contains("3 tokens"), "{}", refusal.message);
    assert!(context.log.unacked().unwrap().is_empty());
}

#[test]
fn a_candidate_without_room_is_refused_with_the_figures() {
    let mut job = job(geo(), 10);
    job.served = None;
    job.ask.files[0].size = u64::MAX / 4;
    let tools = Tools {
        loader: Arc::new(NoLoader),
        texts: Arc::new(Shelf::default()),
        own_text: OWN_TEXT,
        ram: Some(1 << 40),
        updates: Updates::new(std::path::PathBuf::new()),
        residues: crate::residue::ResidueStore::new(std::path::PathBuf::new()),
    };
    let folder = tempfile::tempdir().unwrap();
    let laid_out = LaidOut {
        folder: folder.path().join("links"),
        expected: std::collections::BTreeMap::new(),
    };
    let done = measured(
        &job,
        &context(),
        &tools,
        Some(&laid_out),
        &CancellationToken::new(),
    );
    let refusal = done.unwrap_err();
    assert_eq!(refusal.reason, HandBackReason::CannotDo);
    assert!(
        refusal.message.contains("bytes of memory"),
        "{}",
        refusal.message
    );
}

#[test]
fn a_training_without_room_is_refused_before_anything_is_loaded() {
    let mut job = job(geo(), 10);
    let steps = ReferenceSteps {
        steps: 1,
        batch: 1,
        learning_rate: 1e-3,
        clip_norm: 1.0,
        keep_ppm: 100_000,
        value_bits: 2,
        round: 0,
        takes_part: false,
        lora: None,
    };
    job.ask.reference = Some(steps);
    let folder = tempfile::tempdir().unwrap();
    let laid_out = LaidOut {
        folder: folder.path().join("links"),
        expected: std::collections::BTreeMap::new(),
    };
    let tools = Tools {
        loader: Arc::new(NoLoader),
        texts: Arc::new(Shelf::default()),
        own_text: OWN_TEXT,
        ram: Some(1 << 40),
        updates: Updates::new(folder.path().join("updates")),
        residues: crate::residue::ResidueStore::new(folder.path().join("residues")),
    };
    let stop = CancellationToken::new();
    let done = reference::trained(&job, steps, &context(), &tools, &laid_out, &stop);
    let refusal = done.unwrap_err();
    assert_eq!(refusal.reason, HandBackReason::CannotDo);
    let told = &refusal.message;
    assert!(told.contains("this training may need"), "{told}");
}

#[test]
fn what_is_wrong_with_a_candidate_is_told_without_its_place_here() {
    let folder = tempfile::tempdir().unwrap();
    let laid_out = LaidOut {
        folder: folder.path().join("canary-links"),
        expected: std::collections::BTreeMap::new(),
    };
    let unusable = |reason: String| told(&LoadError::Unusable(reason), &laid_out);
    let inside = unusable(format!("cannot read {}/a", laid_out.folder.display()));
    assert!(inside.contains("cannot read its folder/a"), "{inside}");
    let elsewhere = unusable("cannot read /home/canary/a".into());
    for said in [inside, elsewhere] {
        assert!(!said.contains("canary"), "{said}");
    }
}
