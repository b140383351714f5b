//! An operator's own text stays on his machine: words of it are looked for in every byte that the node sends to the
//! coordinator and to peers, as it was before encryption, and in what it shows on its own machine. With an engine that
//! echoes, and with the real one, which measures the text and trains a reference update beside it.

use owm_node::text::{OwnTexts, TextError, Texts, Wanted};
use owm_proto::evaluation::{
    EvaluationAsk, EvaluationReport, Finding, LoraPlan, ReferenceSteps, TextSource,
};
use owm_service::CancellationToken;

use super::{
    peer::Peer,
    tap::{Tap, has_ids, written},
    *,
};

/// In every document.
const WORD: &str = "kanarienvogel-privat-90d2";
/// In a file's name.
const NAME: &str = "gelbschnabel-ordner-4e11";
/// A tenth is held out, and nothing is told of fewer than 32.
const DOCUMENTS: usize = 600;

fn ask(fake: &Fake, text: TextSource) -> EvaluationAsk {
    EvaluationAsk {
        files: fake.candidate(),
        text,
        documents_max: 64,
        bytes_max: 20_000,
        tokens_min: 1,
        tokens_max: 20_000,
        window: 16,
        seed: 3,
        reference: None,
    }
}

fn public() -> TextSource {
    TextSource::Corpus {
        id: "owm-test".into(),
        shards: vec![],
    }
}

/// The operator's folder, and a public corpus that needs no fetching.
#[derive(Debug)]
struct BothTexts(OwnTexts);

impl Texts for BothTexts {
    fn why_none(&self) -> Option<String> {
        None
    }

    fn documents(
        &self,
        wanted: &Wanted<'_>,
        stop: &CancellationToken,
        hears: &mut dyn FnMut(&str),
    ) -> Result<Vec<String>, TextError> {
        if *wanted.source == public() {
            let text =
                |n| format!("The {n}th public document says nothing of anybody.\n").repeat(9);
            return Ok((0..20).map(text).collect());
        }
        self.0.documents(wanted, stop, hears)
    }
}

/// A node with a private folder that measures, and a peer that listens.
struct Measuring {
    fake: Fake,
    folder: tempfile::TempDir,
    node: Node,
    stream: Stream,
    peer: Peer,
    said_to_peers: Tap,
}

async fn measuring(mut fake: Fake, loader: Option<Arc<dyn EngineLoader>>) -> Measuring {
    let folder = tempfile::tempdir().unwrap();
    let private = folder.path().join(NAME);
    std::fs::create_dir(&private).unwrap();
    for n in 0..DOCUMENTS {
        let text = format!("{WORD} says the {n}th time: {WORD}\n").repeat(3);
        std::fs::write(private.join(format!("{NAME}-{n}.txt")), text).unwrap();
    }
    let texts = BothTexts(OwnTexts {
        folder: Some(private),
        cache: None,
        fetch: false,
    });
    let said_to_peers = Tap::default();
    let peer = Peer::listening(&fake, &said_to_peers);
    let mut config = config();
    config.roles.evaluate = 1;
    config.p2p.peers = vec![peer.address().await.to_string()];
    let clock = SystemClock::shared();
    let (data, texts) = (folder.path().join("data"), Arc::new(texts));
    let node = match loader {
        None => start_with(&fake, &data, config, clock, texts),
        Some(loader) => {
            let with = (loader, Arc::default());
            start_loading(&fake, &data, config, clock, texts, with)
        }
    };
    let mut stream = fake.stream().await;
    stream.hello().await;
    stream.welcome().await;
    // The model is loaded by then.
    assert_eq!(stream.offer_of("infer").await, 1);
    Measuring {
        fake,
        folder,
        node,
        stream,
        peer,
        said_to_peers,
    }
}

impl Measuring {
    /// Has the private text measured; the report's bytes.
    async fn measured(&mut self, epoch: u64) -> Vec<u8> {
        let ask = ask(&self.fake, TextSource::Local);
        let task = self.stream.evaluation(&self.node.key, epoch, &ask).await;
        let (_, result) = self.stream.until_result().await;
        let report = result.output.unwrap().report;
        let read = EvaluationReport::from_bytes(&report).unwrap();
        assert!(
            read.documents >= 32 && read.bytes >= 4_096,
            "it was read: {read:?}"
        );
        self.stream
            .ack(task, epoch, Verdict::Accepted, 10_000)
            .await;
        self.stream.offer_of("evaluate").await;
        report
    }

    /// What it shows on its own machine: to commands, and as metrics.
    async fn shown(&self) -> Vec<u8> {
        let socket = self.folder.path().join("data/control.sock");
        let status = control::ask(&socket).await.unwrap();
        let facts = control::facts(&socket).await.unwrap();
        let mut shown = serde_json::to_vec(&(status, facts)).unwrap();
        shown.extend(self.node.metrics.encode().into_bytes());
        shown
    }

    /// All that it has said to the coordinator, to its peer, and on its own machine; it is stopped.
    async fn said(mut self) -> [(&'static str, Vec<u8>); 3] {
        let key = self.node.key.public();
        // Two, so that it has spoken after the last task too.
        for _ in 0..2 {
            self.peer.heartbeat(&key).await;
        }
        let shown = self.shown().await;
        assert!(
            written(&shown, "owm-v0.1.0").is_some(),
            "it shows its model"
        );
        self.node.lifecycle.shutdown();
        self.node.ended().await.unwrap();
        let to_peers = self.said_to_peers.heard();
        let is_heard = to_peers.windows(32).any(|part| part == key.0);
        assert!(is_heard, "the tap at the peer hears its heartbeats");
        [
            ("to the coordinator", self.fake.heard()),
            ("to a peer", to_peers),
            ("on its own machine", shown),
        ]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_private_text_is_in_what_a_node_sends() {
    let mut at = measuring(Fake::start().await, None).await;
    let report = at.measured(1).await;
    // What it can't do, it says why, and that quotes nothing either.
    let unknown = TextSource::Corpus {
        id: "owm-sci".into(),
        shards: vec![],
    };
    let unknown = ask(&at.fake, unknown);
    at.stream.evaluation(&at.node.key, 2, &unknown).await;
    let back = at.stream.hand_back_of_work().await;
    assert!(!back.message.is_empty());
    let said = at.said().await;
    let hears_reports = said[0].1.windows(report.len()).any(|part| part == report);
    assert!(hears_reports, "the tap hears what is sent");
    for (to, bytes) in said {
        for word in [WORD, NAME] {
            assert_eq!(written(&bytes, word), None, "{word} {to}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_search_finds_a_word_that_is_sent() {
    let mut at = measuring(Fake::start().await, None).await;
    // A corpus whose name is the word: the node's refusal says it.
    let leak = TextSource::Corpus {
        id: WORD.into(),
        shards: vec![],
    };
    let leak = ask(&at.fake, leak);
    at.stream.evaluation(&at.node.key, 1, &leak).await;
    at.stream.hand_back_of_work().await;
    let [(_, to_coordinator), ..] = at.said().await;
    assert_eq!(written(&to_coordinator, WORD), Some("as it is"));
}

#[cfg(feature = "burn")]
mod with_the_real_engine {
    use owm_model::{ModelConfig, Tokenizer, write_fresh};
    use owm_node::{config::Device, engine::burn::BurnLoader};

    use super::{super::fake::Files, *};

    fn fresh() -> Files {
        let folder = tempfile::tempdir().unwrap();
        write_fresh(folder.path(), 7).unwrap();
        let names = ["model.safetensors", "tokenizer.json", "config.json"];
        let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
        names.map(|name| (name, read(name))).into()
    }

    /// The word as this model's token ids.
    fn ids(files: &Files) -> Vec<u32> {
        let file = |of: &str| &files.iter().find(|(name, _)| *name == of).unwrap().1;
        let config = ModelConfig::from_json(file("config.json")).unwrap();
        let tokenizer = Tokenizer::from_json(file("tokenizer.json"), config.vocabulary).unwrap();
        tokenizer.encode(WORD, false).unwrap()
    }

    /// A few steps, of every weight or low-rank.
    fn training(fake: &Fake, lora: Option<LoraPlan>) -> EvaluationAsk {
        let reference = ReferenceSteps {
            takes_part: false,
            steps: 2,
            batch: 2,
            learning_rate: 1e-3,
            clip_norm: 1.0,
            keep_ppm: 100_000,
            value_bits: 2,
            round: 0,
            lora,
        };
        EvaluationAsk {
            window: 32,
            reference: Some(reference),
            ..ask(fake, public())
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_measures_and_trains_and_says_nothing_of_the_text() {
        let files = fresh();
        let ids = ids(&files);
        assert!(ids.len() > 8, "{ids:?}");
        let loader = Arc::new(BurnLoader {
            device: Device::Cpu,
        });
        let mut at = measuring(Fake::serving(files).await, Some(loader)).await;
        at.measured(1).await;
        let low_rank = LoraPlan {
            rank: 4,
            epoch: 1,
            seed: [5; 32],
        };
        let mut sizes = vec![];
        for (epoch, lora) in [(2, None), (3, Some(low_rank))] {
            let ask = training(&at.fake, lora);
            at.stream.evaluation(&at.node.key, epoch, &ask).await;
            let report = at.fake.submitted().await.output.unwrap().report;
            let report = EvaluationReport::from_bytes(&report).unwrap();
            let Finding::Update { size, .. } = report.finding else {
                panic!("not an update: {report:?}");
            };
            sizes.push(size as usize);
            at.stream.offer_of("evaluate").await;
        }
        at.measured(4).await;
        let updates = at.folder.path().join("data/updates");
        assert_eq!(std::fs::read_dir(updates).unwrap().count(), 0, "all booked");
        let said = at.said().await;
        assert!(
            said[0].1.len() > sizes.iter().sum(),
            "the updates were heard"
        );
        for (to, bytes) in said {
            for word in [WORD, NAME] {
                assert_eq!(written(&bytes, word), None, "{word} {to}");
            }
            assert!(!has_ids(&bytes, &ids), "the word's token ids {to}");
        }
    }

    #[test]
    fn the_same_search_finds_token_ids() {
        let ids = ids(&fresh());
        let list = serde_json::to_vec(&ids).unwrap();
        let wide: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        assert!(has_ids(&list, &ids) && has_ids(&wide, &ids));
        assert!(!has_ids(&list[..list.len() - 2], &ids));
    }
}
