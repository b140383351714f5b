//! A node's parts in rounds, through a whole daemon: what the coordinator says of an update reaches the residue.

use std::collections::BTreeMap;

use owm_node::{
    engine::{InferenceEngine, LoadError, OnTrained, TrainJob, TrainedStep},
    text::{TextError, Texts, Wanted},
};
use owm_proto::evaluation::{
    EvaluationAsk, EvaluationReport, Finding, FormerPart, ReferenceSteps, TextSource,
};
use owm_service::CancellationToken;
use serde_json::{Value, json};

use super::*;

/// Elements of the model that is trained.
const ELEMENTS: u16 = 8;

/// A text that needs no fetching.
#[derive(Debug)]
struct AText;

impl Texts for AText {
    fn why_none(&self) -> Option<String> {
        None
    }

    fn documents(
        &self,
        _: &Wanted<'_>,
        _: &CancellationToken,
        _: &mut dyn FnMut(&str),
    ) -> Result<Vec<String>, TextError> {
        Ok(vec!["It says nothing of anybody.".into()])
    }
}

/// Answers like the echo; its steps are made up.
#[derive(Debug)]
struct Trains(EchoLoader);

impl EngineLoader for Trains {
    fn load(
        &self,
        folder: &Path,
        expected: &BTreeMap<String, [u8; 32]>,
    ) -> Result<Arc<dyn InferenceEngine>, LoadError> {
        self.0.load(folder, expected)
    }

    fn train(
        &self,
        _: &Path,
        _: &BTreeMap<String, [u8; 32]>,
        job: &TrainJob,
        _: &mut OnTrained<'_>,
    ) -> Result<Option<TrainedStep>, LoadError> {
        let json = format!(
            "{{\"w\":{{\"dtype\":\"F32\",\"shape\":[{ELEMENTS}],\"data_offsets\":[0,{}]}}}}",
            4 * ELEMENTS
        );
        let mut header = (json.len() as u64).to_le_bytes().to_vec();
        header.extend(json.bytes());
        Ok(Some(TrainedStep {
            step: (1..=ELEMENTS).map(f32::from).collect(),
            header,
            tensors: 1,
            adapted: Vec::new(),
            losses: vec![2.0, 1.0],
            backend: "trains/f32".into(),
            documents: job.documents.len() as u32,
            bytes: 27,
            tokens: 27,
            tokens_sha256: tokens_sha256(&[1]),
        }))
    }
}

/// A part in a round, on a public text.
fn ask(fake: &Fake, round: u64) -> EvaluationAsk {
    EvaluationAsk {
        files: fake.candidate(),
        text: TextSource::Corpus {
            id: "owm-test".into(),
            shards: vec![],
        },
        documents_max: 64,
        bytes_max: 20_000,
        tokens_min: 1,
        tokens_max: 20_000,
        window: 16,
        seed: 3,
        reference: Some(ReferenceSteps {
            steps: 2,
            batch: 2,
            learning_rate: 1e-3,
            clip_norm: 100.0,
            keep_ppm: 100_000,
            value_bits: 2,
            round,
            takes_part: true,
            lora: None,
        }),
    }
}

/// The only residue book under a data folder.
fn book(data: &Path) -> Value {
    let entries = std::fs::read_dir(data.join("residues")).unwrap();
    let mut paths = entries.map(|entry| entry.unwrap().path());
    let path = paths.find(|path| path.to_string_lossy().ends_with(".book.json"));
    serde_json::from_slice(&std::fs::read(path.unwrap()).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_a_part_reaches_the_residue() {
    let mut fake = Fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let gate = Arc::new(Gate::default());
    let loader = Trains(EchoLoader {
        gate: Arc::clone(&gate),
    });
    let mut config = config();
    config.roles.train = 1;
    let with: (Arc<dyn EngineLoader>, _) = (Arc::new(loader), gate);
    let clock = SystemClock::shared();
    let node = start_loading(&fake, &data, config, clock, Arc::new(AText), with);
    let mut stream = fake.stream().await;
    stream.hello().await;
    stream.welcome().await;
    assert_eq!(stream.offer_of("train").await, 1);

    let mut took: Vec<Value> = Vec::new();
    let mut former: Vec<FormerPart> = Vec::new();
    for (round, verdict) in [
        (1, Verdict::Rejected),
        (2, Verdict::Accepted),
        (3, Verdict::Late),
        (4, Verdict::Accepted),
    ] {
        fake.acknowledge_submitted(verdict, 0);
        let asked = ask(&fake, round);
        stream.part(&node.key, round, &asked, &former).await;
        let report = fake.submitted().await.output.unwrap().report;
        let report = EvaluationReport::from_bytes(&report).unwrap();
        let Finding::Update { sha256, .. } = report.finding else {
            panic!("not an update: {report:?}");
        };
        assert_eq!(stream.offer_of("train").await, 1);
        took.push(json!(sha256));
        // Open, and come back.
        let (open, returned) = match round {
            // Refused: it comes back, and goes into the second, which nobody has judged yet.
            1 => (json!([]), json!([took[0]])),
            2 => (json!([took[1]]), json!([])),
            // The third lease said that the second did not count: it is in the third, which was late.
            3 => (json!([]), json!([took[2]])),
            _ => (json!([took[3]]), json!([])),
        };
        let start = std::time::Instant::now();
        loop {
            let book = book(&data);
            if (&book["open"], &book["returned"]) == (&open, &returned) {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "round {round}: {book:#}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        former = vec![FormerPart {
            update: sha256,
            counted: false,
        }];
    }
    node.lifecycle.shutdown();
    node.ended().await.unwrap();
}
