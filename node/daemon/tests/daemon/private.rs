//! An operator's own text stays on his machine: words of it are looked for in every byte that the node sends to the
//! coordinator, as it was before encryption.

use owm_node::text::OwnTexts;
use owm_proto::evaluation::{EvaluationAsk, EvaluationReport, TextSource};

use super::{fake::candidate, tap::written, *};

/// In every document.
const WORD: &str = "kanarienvogel-privat-90d2";
/// In a file's name.
const NAME: &str = "gelbschnabel-ordner-4e11";

/// A tenth is held out, and nothing is told of fewer than 32.
const DOCUMENTS: usize = 600;

fn ask(text: TextSource) -> EvaluationAsk {
    EvaluationAsk {
        files: candidate(),
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

/// A node with a private folder that measures.
async fn measuring(fake: &mut Fake, folder: &Path) -> (Node, Stream) {
    let private = folder.join(NAME);
    std::fs::create_dir(&private).unwrap();
    for n in 0..DOCUMENTS {
        let text = format!("{WORD} says the {n}th time: {WORD}\n").repeat(3);
        std::fs::write(private.join(format!("{NAME}-{n}.txt")), text).unwrap();
    }
    let texts = OwnTexts {
        folder: Some(private),
        cache: None,
        fetch: false,
    };
    let mut config = config();
    config.roles.evaluate = 1;
    let clock = SystemClock::shared();
    let node = start_with(fake, &folder.join("data"), config, clock, Arc::new(texts));
    let mut stream = fake.stream().await;
    stream.hello().await;
    stream.welcome().await;
    // The model is loaded by then.
    assert_eq!(stream.offer_of("infer").await, 1);
    (node, stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_private_text_is_in_what_a_node_sends() {
    let (mut fake, folder) = (Fake::start().await, tempfile::tempdir().unwrap());
    let (node, mut stream) = measuring(&mut fake, folder.path()).await;
    let task = stream.evaluation(&node.key, &ask(TextSource::Local)).await;
    let (_, result) = stream.until_result().await;
    let report = result.output.unwrap().report;
    let read = EvaluationReport::from_bytes(&report).unwrap();
    assert!(
        read.documents >= 32 && read.bytes >= 4_096,
        "it was read: {read:?}"
    );
    stream.ack(task, 1, Verdict::Accepted, 10_000).await;
    stream.offer_of("evaluate").await;
    // What it can't do, it says why, and that quotes nothing either.
    let unknown = TextSource::Corpus {
        id: "owm-sci".into(),
        shards: vec![],
    };
    stream.evaluation(&node.key, &ask(unknown)).await;
    let back = stream.hand_back_of_work().await;
    assert!(back.message.contains("owm-sci"), "{}", back.message);
    node.lifecycle.shutdown();
    node.ended().await.unwrap();

    let heard = fake.heard();
    let hears_reports = heard.windows(report.len()).any(|part| part == report);
    assert!(hears_reports, "the tap hears what is sent");
    for word in [WORD, NAME] {
        assert_eq!(written(&heard, word), None, "{word}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_search_finds_a_word_that_is_sent() {
    let (mut fake, folder) = (Fake::start().await, tempfile::tempdir().unwrap());
    let (node, mut stream) = measuring(&mut fake, folder.path()).await;
    // A corpus whose name is the word: the node's refusal says it.
    let leak = TextSource::Corpus {
        id: WORD.into(),
        shards: vec![],
    };
    stream.evaluation(&node.key, &ask(leak)).await;
    stream.hand_back_of_work().await;
    node.lifecycle.shutdown();
    node.ended().await.unwrap();
    assert_eq!(written(&fake.heard(), WORD), Some("as it is"));
}
