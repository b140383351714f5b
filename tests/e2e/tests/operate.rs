//! What an operator sees of a running network: metrics, the dashboard, logs and their levels.
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Result, ensure};
use owm_devnet::{Devnet, Model, api::Api, paths, process::Spawn};
use serde_json::{Value, json};

/// Must never be seen outside the answer's asker.
const CANARY: &str = "canary-7f3a-do-not-log-me";
/// Far above anything a test takes; reached only when something is broken.
const PATIENCE: Duration = Duration::from_mins(3);

async fn network() -> Devnet {
    Devnet::builder()
        .nodes(1)
        .model(Model::Tiny)
        .start()
        .await
        .unwrap()
}

/// A question with the canary in it, whole and streamed; gives the request's id.
async fn ask(api: &Api) -> Result<String> {
    let body = json!({"query": CANARY, "max_tokens": 8, "temperature": 0});
    let answer = api.query_with(&body).await?;
    let streamed = json!({"query": CANARY, "max_tokens": 8, "stream": true});
    api.stream("/v1/query", &streamed).await?.all().await?;
    Ok(answer["request_id"].as_str().unwrap().to_owned())
}

async fn scrape(health_url: &str) -> Result<String> {
    let answer = Api::new(health_url).get("/metrics").await?;
    let kind = answer.headers["content-type"].to_str()?;
    ensure!(kind.starts_with("application/openmetrics-text"), "{kind}");
    Ok(String::from_utf8(answer.body.to_vec())?)
}

/// Asks again and again until `has` holds of the answer.
async fn until<T, F: Future<Output = Result<T>>>(
    mut ask: impl FnMut() -> F,
    has: impl Fn(&T) -> bool,
) -> T {
    let asking = async {
        loop {
            if let Ok(answer) = ask().await
                && has(&answer)
            {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking)
        .await
        .expect("it never came to hold")
}

/// One metric family as the text describes it.
#[derive(Debug, Default)]
struct Family {
    help: Option<String>,
    kind: Option<String>,
    unit: Option<String>,
    samples: Vec<(String, String, f64)>,
}

/// Reads OpenMetrics as strictly as a scraper: metadata before samples, families in one piece, no series
/// twice, `# EOF` last.
fn parse(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    let body = text.strip_suffix("# EOF\n").expect("the end is marked");
    for line in body.lines() {
        if let Some(said) = line.strip_prefix("# ") {
            let mut words = said.splitn(3, ' ');
            let (what, name) = (words.next().unwrap(), words.next().unwrap());
            if name != current {
                assert!(!families.contains_key(name), "{name} comes in pieces");
                name.clone_into(&mut current);
            }
            let family = families.entry(current.clone()).or_default();
            assert!(family.samples.is_empty(), "metadata after samples: {line}");
            let value = words.next().unwrap_or_default().to_owned();
            let slot = match what {
                "HELP" => &mut family.help,
                "TYPE" => &mut family.kind,
                "UNIT" => &mut family.unit,
                _ => panic!("unknown metadata: {line}"),
            };
            assert!(slot.replace(value).is_none(), "said twice: {line}");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let family = families.get_mut(&current).unwrap();
        let suffix = name.strip_prefix(current.as_str()).unwrap();
        let suffixes: &[&str] = match family.kind.as_deref().unwrap() {
            "counter" => &["_total"],
            "gauge" => &[""],
            "histogram" => &["_bucket", "_sum", "_count"],
            other => panic!("{current} is a {other}"),
        };
        assert!(suffixes.contains(&suffix), "{line}");
        let labels = labels.strip_suffix('}').unwrap().to_owned();
        assert!(
            !family
                .samples
                .iter()
                .any(|(n, l, _)| *n == name && *l == labels),
            "twice: {line}"
        );
        let value = value.parse().unwrap();
        family.samples.push((name.to_owned(), labels, value));
    }
    families
}

/// What must hold of every family.
fn check(families: &BTreeMap<String, Family>, secrets: &[&str]) {
    for (name, family) in families {
        let help = family.help.as_deref().unwrap_or_default();
        assert!(help.len() > 10, "{name} has no help");
        assert!(family.kind.is_some(), "{name} has no type");
        for unit in ["seconds", "bytes", "msat", "ratio"] {
            let said = family.unit.as_deref() == Some(unit);
            assert_eq!(
                name.ends_with(&format!("_{unit}")),
                said,
                "{name}: unit {unit}"
            );
        }
        for wrong in [
            "_ms", "_millis", "_minutes", "_kb", "_mb", "_percent", "_total",
        ] {
            assert!(!name.ends_with(wrong), "{name} is no base unit");
        }
        let spelled = [
            ("seconds", "econds"),
            ("bytes", "ytes"),
            ("msat", "illisatoshi"),
        ];
        for (unit, word) in spelled {
            if family.unit.as_deref() == Some(unit) {
                assert!(
                    help.contains(word),
                    "{name}: its help does not say {unit}: {help}"
                );
            }
        }
        // Every label's values are few, short words of ours.
        assert!(
            family.samples.len() <= 60,
            "{name} has {}",
            family.samples.len()
        );
        for (_, labels, _) in &family.samples {
            for value in labels.split('"').skip(1).step_by(2) {
                assert!(value.len() <= 24, "{name}: {value}");
                for secret in secrets {
                    assert!(!value.contains(secret), "{name}: {value}");
                }
            }
        }
    }
}

/// A series' value; panics if there is none.
fn value(families: &BTreeMap<String, Family>, series: &str) -> f64 {
    let value = find(families, series);
    value.unwrap_or_else(|| panic!("there is no {series}"))
}

fn find(families: &BTreeMap<String, Family>, series: &str) -> Option<f64> {
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let labels = labels.strip_suffix('}').unwrap();
    let samples = families.values().flat_map(|family| &family.samples);
    let mut found = samples.filter(|(n, l, _)| n == name && l == labels);
    found.next().map(|(_, _, value)| *value)
}

#[tokio::test]
async fn metrics_and_dashboard_tell_what_happened_and_nothing_private() {
    let mut net = network().await;
    let request = ask(&net.api()).await.unwrap();
    let (coordinator, node) = (net.coordinator().health_url(), net.nodes()[0].health_url());

    let shown = |text: &String| {
        let families = parse(text);
        let at_least = |series, least| find(&families, series).is_some_and(|v| v >= least);
        value(
            &families,
            "owm_coordinator_results_total{verdict=\"accepted\"}",
        ) >= 2.0
            // Read every two seconds: the node has been seen by now.
            && at_least("owm_coordinator_sessions", 1.0)
            && at_least("owm_coordinator_nodes{status=\"active\"}", 1.0)
    };
    let text = until(|| scrape(&coordinator), shown).await;
    let families = parse(&text);
    let secrets = [CANARY, request.as_str()];
    check(&families, &secrets);
    for (series, least) in [
        ("owm_coordinator_questions_total", 2.0),
        (
            "owm_coordinator_questions_ended_total{outcome=\"answered\"}",
            2.0,
        ),
        ("owm_coordinator_answer_seconds_count", 2.0),
        ("owm_coordinator_dispatch_wait_seconds_count", 2.0),
        ("owm_coordinator_leases_total", 2.0),
        ("owm_coordinator_sessions", 1.0),
        ("owm_coordinator_nodes{status=\"active\"}", 1.0),
        ("owm_coordinator_db_transactions_total", 2.0),
        ("owm_coordinator_booked_msat_total", 1.0),
        (
            "owm_coordinator_api_requests_total{route=\"/v1/query\",status=\"200\"}",
            2.0,
        ),
    ] {
        assert!(value(&families, series) >= least, "{series} in {text}");
    }

    let booked = |text: &String| {
        let families = parse(text);
        let at_least = |series, least| find(&families, series).is_some_and(|v| v >= least);
        // The disk is looked at every two seconds.
        at_least("owm_node_tasks_total{outcome=\"accepted\"}", 2.0)
            && at_least("owm_node_shelf_bytes", 1_000.0)
    };
    let text = until(|| scrape(&node), booked).await;
    let families = parse(&text);
    let key = net.nodes()[0].status().await.unwrap()["status"]["node_key"].clone();
    check(&families, &[CANARY, &request, key.as_str().unwrap()]);
    for (series, least) in [
        ("owm_node_tokens_total{kind=\"prompt\"}", 2.0),
        ("owm_node_tokens_total{kind=\"output\"}", 2.0),
        ("owm_node_linked", 1.0),
        ("owm_node_accepting", 1.0),
        ("owm_node_download_bytes_total", 1_000.0),
        ("owm_node_shelf_bytes", 1_000.0),
        ("owm_node_resident_memory_bytes", 1_000_000.0),
        (
            "owm_service_build_info{program=\"owm-node\",version=\"0.1.0\"}",
            1.0,
        ),
    ] {
        assert!(value(&families, series) >= least, "{series} in {text}");
    }
    top_shows_it(&mut net, &request).await;
    net.stop().await.unwrap();
}

/// `owm-node top` without a terminal, as text and as JSON.
async fn top_shows_it(net: &mut Devnet, request: &str) {
    let node = &net.nodes()[0];
    let printed = node.command(&["top", "--json"]).await.unwrap();
    let facts: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(facts["status"]["phase"], "active");
    assert_eq!(facts["finished"].as_array().unwrap().len(), 2, "{facts:#}");
    assert_eq!(facts["finished"][0]["verdict"], "accepted");
    assert!(facts["activity"]["totals"]["output_tokens"].as_u64() >= Some(2));
    assert!(facts["activity"]["rates"]["output_per_s"].as_f64() > Some(0.0));
    assert!(
        facts["earnings"]["owed_msat"].as_u64() > Some(0),
        "{facts:#}"
    );
    // Told within the coordinator's next look at its nodes.
    let standing = || async { Ok(node.status().await?["status"]["standing"].clone()) };
    let standing = until(standing, |standing: &Value| standing.is_object()).await;
    assert_eq!(standing["effective_tier"], "t1");
    assert_eq!(
        standing["reliability_permille"]
            .as_u64()
            .map(|n| n <= 1_000),
        Some(true)
    );
    let text = node.command(&["top"]).await.unwrap();
    for word in [
        "TINY STAND-IN",
        "accepted",
        "sha256",
        "owed",
        "slots 0 used",
    ] {
        assert!(text.contains(word), "{word} is missing in\n{text}");
    }
    for secret in [CANARY, request] {
        assert!(!printed.contains(secret) && !text.contains(secret));
    }
    net.nodes()[0].stop().await.unwrap();
    let gone = net.nodes()[0].command(&["top"]).await.unwrap_err();
    assert!(format!("{gone:#}").contains("owm-node start"), "{gone:#}");
}

fn debug_lines(log: &Path) -> usize {
    let text = fs::read_to_string(log).unwrap();
    text.lines().filter(|line| line.contains(" DEBUG ")).count()
}

#[tokio::test]
async fn log_levels_change_while_it_runs_and_no_level_shows_a_question() {
    let mut net = network().await;
    let logs = net.logs();
    let (ours, node_log) = (logs.join("coordinator.log"), logs.join("node1.log"));
    assert_eq!((debug_lines(&ours), debug_lines(&node_log)), (0, 0));

    // Raised as far as it goes, on both sides.
    let set = ["log-level", "trace", "--for", "10m", "--json"];
    for said in [
        net.coordinator().command(&set).await.unwrap(),
        net.nodes()[0].command(&set).await.unwrap(),
    ] {
        let state: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(state["filter"], "trace", "{state}");
        assert!(state["reverts_in_secs"].as_u64() > Some(500), "{state}");
    }
    let request = ask(&net.api()).await.unwrap();
    until(
        || async { Ok((debug_lines(&ours), debug_lines(&node_log))) },
        |(ours, nodes)| *ours > 0 && *nodes > 0,
    )
    .await;

    // A malformed filter is refused, named, and changes nothing.
    let slip = net.nodes()[0]
        .command(&["log-level", "info,owm_node=debgu"])
        .await;
    let error = format!("{:#}", slip.unwrap_err());
    assert!(error.contains("`debgu` is no level"), "{error}");
    let shown = net.nodes()[0].command(&["log-level"]).await.unwrap();
    assert!(shown.contains("log filter: trace"), "{shown}");

    // Back, and quiet again: the line that says so is the last word.
    net.coordinator()
        .command(&["log-level", "--reset"])
        .await
        .unwrap();
    net.nodes()[0]
        .command(&["log-level", "debug", "--for", "1s"])
        .await
        .unwrap();
    let node = &net.nodes()[0];
    let reverted = || async { node.command(&["log-level"]).await };
    until(reverted, |said: &String| said.trim() == "log filter: info").await;
    let before = (debug_lines(&ours), debug_lines(&node_log));
    ask(&net.api()).await.unwrap();
    assert_eq!((debug_lines(&ours), debug_lines(&node_log)), before);

    // Not even at trace does anybody's text, or the capability to read it, get into a log.
    for log in [&ours, &node_log] {
        let text = fs::read_to_string(log).unwrap();
        assert!(text.contains("TRACE"), "{} was raised", log.display());
        for secret in [CANARY, request.as_str()] {
            let line = text.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "{}", log.display());
        }
    }
    under_a_service_manager_logs_are_json(&mut net).await;
    net.stop().await.unwrap();
}

async fn under_a_service_manager_logs_are_json(net: &mut Devnet) {
    let node = &mut net.nodes()[0];
    node.stop().await.unwrap();
    let (config, log) = (node.config().to_owned(), node.dir().join("json.log"));
    let program = paths::program("owm-node").unwrap();
    let mut process = Spawn::new("journalled node", &program, &log)
        .args(["start".as_ref(), "--config".as_ref(), config.as_os_str()])
        .env("INVOCATION_ID", "0123456789abcdef0123456789abcdef")
        .env("JOURNAL_STREAM", "8:12345")
        .start()
        .unwrap();
    let url = node.health_url();
    process
        .wait_until("readiness", PATIENCE, || owm_devnet::api::is_ready(&url))
        .await
        .unwrap();
    process.stop(Duration::from_secs(20)).await.unwrap();
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.lines().count() > 3, "{text}");
    for line in text.lines() {
        let said: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        for field in ["timestamp", "level", "target", "message"] {
            // Libraries now and then log fields alone.
            let theirs = field == "message" && !said["target"].to_string().contains("owm");
            assert!(
                said[field].is_string() || theirs,
                "{field} is missing: {line}"
            );
        }
    }
}
