//! Users' words stay between them and the node that answers: canaries in every kind of question are
//! looked for in all logs (at debug level), all tables, all public pages, all metrics, in others' answers
//! and in what nodes keep.
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::{fmt::Write as _, fs, path::Path};

use owm_devnet::{Devnet, Model, api::Api};
use serde_json::{Value, json};

/// Acknowledgements come at once; a busy machine gets more.
const ACKNOWLEDGED_WITHIN: std::time::Duration = std::time::Duration::from_mins(3);

/// A word that stands nowhere else; each place it is said in has its own.
fn canary(place: &str) -> String {
    format!("kanarienvogel-{place}-7f3a91")
}

/// The ways a word may be written in a log or a dump.
fn spellings(word: &str) -> Vec<String> {
    let hex = word.bytes().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    });
    let list: Vec<String> = word.bytes().map(|b| b.to_string()).collect();
    vec![word.to_owned(), hex.to_uppercase(), hex, list.join(", ")]
}

/// Which of `words` stand in `text`.
fn found<'a>(text: &str, words: &'a [String]) -> Vec<&'a str> {
    let is_in = |word: &&String| spellings(word).iter().any(|s| text.contains(s.as_str()));
    words.iter().filter(is_in).map(String::as_str).collect()
}

/// All files below `folder`, as text as far as they are.
fn files(folder: &Path) -> Vec<(String, String)> {
    let mut all = vec![];
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            all.extend(files(&path));
        } else if let Ok(bytes) = fs::read(&path) {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            all.push((path.display().to_string(), text));
        }
    }
    all
}

/// All that the nodes keep, once the coordinator has acknowledged every result: until then the task log
/// holds an answer.
async fn nodes_files(net: &mut Devnet) -> Vec<(String, String)> {
    let mut all = vec![];
    for node in net.nodes() {
        let start = std::time::Instant::now();
        while node
            .status()
            .await
            .unwrap()
            .pointer("/status/unacknowledged")
            != Some(&json!(0))
        {
            assert!(start.elapsed() < ACKNOWLEDGED_WITHIN, "{}", node.name());
            tokio::time::sleep(owm_devnet::process::POLL).await;
        }
        let kept = files(&node.dir().join("data"));
        assert!(kept.iter().any(|(path, _)| path.ends_with("tasks.sqlite")));
        all.extend(kept);
    }
    all
}

/// Everything public, as (name, text).
async fn public(net: &mut Devnet) -> Vec<(String, String)> {
    let api = net.api();
    let nodes = api.get("/v1/network/nodes").await.unwrap().json().unwrap();
    let mut pages = vec![];
    let mut paths: Vec<String> = [
        "/",
        "/openapi.json",
        "/v1/models",
        "/v1/model/versions",
        "/v1/genesis",
        "/v1/network/stats",
        "/v1/network/nodes",
    ]
    .map(str::to_owned)
    .into();
    let ids = nodes.pointer("/nodes").and_then(Value::as_array).cloned();
    for node in ids.unwrap_or_default() {
        if let Some(id) = node["node_id"].as_str() {
            paths.push(format!("/v1/nodes/{id}/status"));
        }
    }
    for path in paths {
        let body = api.get(&path).await.unwrap().body;
        pages.push((path, String::from_utf8_lossy(&body).into_owned()));
    }
    let mut metrics = vec![net.coordinator().health_url()];
    metrics.extend(net.nodes().iter().map(owm_devnet::node::Node::health_url));
    for url in metrics {
        for path in ["/metrics", "/readyz"] {
            let body = Api::new(&url).get(path).await.unwrap().body;
            pages.push((
                format!("{url}{path}"),
                String::from_utf8_lossy(&body).into(),
            ));
        }
    }
    pages
}

/// Asks in every way there is; the words that were said, and the answers' texts.
async fn ask_everything(api: &Api) -> (Vec<String>, Vec<String>) {
    let mut words = vec![];
    let mut say = |place: &str| {
        let word = canary(place);
        words.push(word.clone());
        word
    };
    let mut answers = vec![];
    let long = "x ".repeat(20_000);
    let whole = [
        json!({"query": say("user"), "max_tokens": 24}),
        json!({"query": say("raw"), "template": "none", "max_tokens": 24}),
        json!({"query": "stops", "stop": [say("stop")], "max_tokens": 8}),
    ];
    for body in whole {
        let answer = api.query_with(&body).await.unwrap();
        answers.push(answer["answer"].as_str().unwrap().to_owned());
    }
    let chat = |system: String, user: String, stream: bool| {
        let messages = json!([
            {"role": "system", "content": system}, {"role": "user", "content": user},
        ]);
        json!({"model": "owm-geo", "messages": messages, "max_tokens": 24, "stream": stream})
    };
    let body = chat(say("system"), say("turn"), false);
    let answer = api.post("/v1/chat/completions", &body).await.unwrap();
    let text = answer.ok().unwrap()["choices"][0]["message"]["content"].clone();
    answers.push(text.as_str().unwrap().to_owned());
    let body = chat(say("streamed-system"), say("streamed"), true);
    let events = api.stream("/v1/chat/completions", &body).await.unwrap();
    assert_eq!(events.all().await.unwrap().last().unwrap().data, "[DONE]");
    // A question of 40,000 tokens, which the node refuses, and one that is not even taken.
    let refused = json!({"query": format!("{} {long}", say("refused"))});
    let answer = api.post("/v1/query", &refused).await.unwrap();
    let told = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(answer.status.is_client_error(), "{told}");
    assert!(told.contains("context_length_exceeded"), "{told}");
    let longer = json!({"query": format!("{}{}", say("over-long"), long.repeat(8))});
    assert_eq!(api.post("/v1/query", &longer).await.unwrap().status, 400);
    // Bodies of the wrong shape, and words where names belong.
    for body in [
        json!(say("no-object")),
        json!({"query": {"text": say("wrong-type")}}),
        json!({"query": "x", say("unknown-field"): 1}),
        json!({"query": "x", "sub_model": say("sub-model")}),
        json!({"query": "x", "template": say("template")}),
        json!({"model": say("model"), "messages": [{"role": say("role"), "content": "x"}]}),
    ] {
        for path in ["/v1/query", "/v1/chat/completions"] {
            let answer = api.post(path, &body).await.unwrap();
            assert!(answer.status.is_client_error(), "{body}");
        }
    }
    for path in [
        format!("/v1/{}", say("path")),
        format!("/v1/requests/{}", say("request-id")),
        format!("/v1/models?question={}", say("query-string")),
    ] {
        drop(api.get(&path).await.unwrap());
    }
    let keyed = api.clone().with_key(say("api-key"));
    drop(
        keyed
            .post("/v1/query", &json!({"query": "x"}))
            .await
            .unwrap(),
    );
    (words, answers)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_log_table_page_or_stranger_sees_a_users_words() {
    let mut net = Devnet::builder()
        .nodes(2)
        .model(Model::Tiny)
        .coordinator_setting("api", "questions_burst", 10_000)
        .coordinator_setting("api", "questions_per_second", 1_000)
        .log_filter("debug")
        .start()
        .await
        .unwrap();
    // One of the two polls.
    let polling = &mut net.nodes()[1];
    polling.stop().await.unwrap();
    polling.set("coordinator", "transport", "poll").unwrap();
    polling.start().await.unwrap();
    let api = net.api();
    let (mut words, mut answers) = (vec![], vec![]);
    // Twice, with one node at a time, so that both kinds of node have seen everything.
    for away in [0, 1] {
        net.nodes()[away].stop().await.unwrap();
        let (said, answered) = ask_everything(&api).await;
        words = said;
        answers.extend(answered);
        net.nodes()[away].start().await.unwrap();
    }
    let stranger = api.query("What did the others ask?").await.unwrap();
    // Answers are users' words too; what is too short may stand anywhere.
    words.extend(answers.into_iter().filter(|text| text.len() >= 16));
    assert!(words.len() > 20, "{words:?}");

    let logs = files(&net.logs());
    let debug = |name: &str| {
        let is_it =
            |(path, text): &&(String, String)| path.contains(name) && text.contains("DEBUG");
        logs.iter().any(|log| is_it(&log))
    };
    assert!(debug("coordinator") && debug("node1") && debug("node2"));
    for (path, text) in &logs {
        let told = found(text, &words);
        let tells = |line: &&str| told.iter().any(|word| line.contains(word));
        let lines: Vec<&str> = text.lines().filter(tells).take(3).collect();
        assert!(told.is_empty(), "{told:?} in {path}: {lines:#?}");
    }
    let dump = net.postgres().dump().await.unwrap();
    assert!(dump.contains("INSERT INTO public.requests"), "a whole dump");
    assert_eq!(found(&dump, &words), Vec::<&str>::new(), "in a table");
    for (page, text) in public(&mut net).await {
        assert_eq!(found(&text, &words), Vec::<&str>::new(), "on {page}");
    }
    assert_eq!(found(&stranger.to_string(), &words), Vec::<&str>::new());
    for (path, text) in nodes_files(&mut net).await {
        assert_eq!(found(&text, &words), Vec::<&str>::new(), "in {path}");
    }

    // The search finds what is there.
    let word = canary("user");
    fs::write(net.logs().join("planted.log"), format!("asked: {word}")).unwrap();
    let planted = files(&net.logs());
    assert!(
        planted
            .iter()
            .any(|(_, text)| found(text, &words) == [&word])
    );
    let sql = format!("CREATE TABLE planted AS SELECT '{word}'::bytea AS prompt");
    net.postgres().query(&sql).await.unwrap();
    let dump = net.postgres().dump().await.unwrap();
    assert_eq!(found(&dump, &words), [&word]);
    net.stop().await.unwrap();
}
