//! Backups made while everything runs, restored elsewhere, and refused when they are not what they seem.
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use owm_devnet::{
    Devnet, Model, api, paths,
    postgres::Install,
    process::{self, POLL, Process, Spawn},
};
use serde_json::{Value, json};

/// A loaded machine takes its time.
const LIMIT: Duration = Duration::from_mins(2);

/// What a node's data folder may hold beyond what a backup holds.
const NOT_KEPT: [&str; 5] = [
    "lock",
    "control.sock",
    "tasks.sqlite-wal",
    "tasks.sqlite-shm",
    "last-backup.json",
];

async fn network(nodes: u16) -> Devnet {
    Devnet::builder()
        .nodes(nodes)
        .model(Model::Tiny)
        .start()
        .await
        .unwrap()
}

async fn coordinator(args: &[&str]) -> anyhow::Result<String> {
    let program = paths::program("owm-coordinator")?;
    process::output("owm-coordinator", &program, args).await
}

async fn node(args: &[&str]) -> anyhow::Result<String> {
    let program = paths::program("owm-node")?;
    process::output("owm-node", &program, args).await
}

/// What a command complains of.
async fn refused(done: impl Future<Output = anyhow::Result<String>>) -> String {
    match done.await {
        Ok(said) => panic!("was not refused: {said}"),
        Err(error) => format!("{error:#}"),
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn parsed(printed: &str) -> Value {
    serde_json::from_str(printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
}

/// Runs SQL in the devnet's cluster; one value a line.
fn sql(url: &str, statement: &str) -> String {
    let output = Command::new(Install::find().unwrap().program("psql"))
        .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"])
        .args(["-d", url, "-c", statement])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A new, empty database beside the devnet's; the file with its URL.
fn new_database(net: &mut Devnet, name: &str, folder: &Path) -> (String, PathBuf) {
    let url = net.postgres().url().to_owned();
    sql(&url, &format!("create database {name}"));
    let url = format!("{}/{name}", url.rsplit_once('/').unwrap().0);
    let file = folder.join(format!("{name}.url"));
    fs::write(&file, &url).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    (url, file)
}

/// Asks until somebody answers: nodes come back by themselves.
async fn ask_until_answered(api: &api::Api, question: &str) -> Value {
    let start = Instant::now();
    loop {
        match api
            .query_with(&json!({"query": question, "max_tokens": 8}))
            .await
        {
            Ok(answer) => return answer,
            Err(error) if start.elapsed() > LIMIT => panic!("{error:#}"),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

async fn wait_ready(process: &mut Process, health_url: &str) {
    process
        .wait_until("readiness", LIMIT, || api::is_ready(health_url))
        .await
        .unwrap();
}

async fn fetched(api: &api::Api, path: &str) -> Vec<u8> {
    let answer = api.get(path).await.unwrap();
    assert!(answer.status.is_success(), "{path}: {}", answer.status);
    answer.body.to_vec()
}

/// What the ledger in this database says is owed; every event in it sums to zero.
fn owed(url: &str) -> u64 {
    let unbalanced = "select count(*) from (select event_id from ledger_entries group by event_id \
                      having sum(amount_msat) <> 0) as wrong";
    assert_eq!(sql(url, unbalanced), "0");
    let sum = "select -sum(amount_msat) from ledger_entries where account = 'owed_to_node'";
    sql(url, sum).parse().unwrap()
}

/// The names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Everything about one answered question that must never change.
async fn record(api: &api::Api, answer: &Value) -> [Vec<u8>; 2] {
    let id = answer["request_id"].as_str().unwrap();
    [
        fetched(api, &format!("/v1/requests/{id}")).await,
        fetched(api, &format!("/v1/receipts/{id}")).await,
    ]
}

#[tokio::test]
async fn a_coordinator_restored_elsewhere_is_the_same_coordinator() {
    let mut net = network(1).await;
    let folder = tempfile::tempdir().unwrap();
    let api = net.api();
    let mut before = Vec::new();
    for question in ["One?", "Two?", "Three?"] {
        let answer = api.query(question).await.unwrap();
        let kept = record(&api, &answer).await;
        before.push((answer, kept));
    }
    let genesis = fetched(&api, "/v1/genesis").await;
    let old_url = net.postgres().url().to_owned();
    let owed_before = owed(&old_url);
    assert!(owed_before > 0);

    // While it serves.
    let backup = folder.path().join("owm.tar");
    let args = ["backup", "--json", "--to", text(&backup)];
    let (made, busy) = tokio::join!(
        net.coordinator_ref().command(&args),
        api.query("And one that is under way?")
    );
    let made = parsed(&made.unwrap());
    busy.unwrap();
    let owed_after = owed(&old_url);
    check_made(&made, &backup, net.coordinator_ref().dir());
    backs_up_without_blobs_and_not_without_pg_dump(net.coordinator_ref().config(), folder.path());
    let lost = api.query("What comes after the backup?").await.unwrap();

    // Elsewhere: another folder, another database; the old one is gone, the nodes are not told.
    let health_url = net.coordinator_ref().health_url();
    net.coordinator().stop().await.unwrap();
    let (url, url_file) = new_database(&mut net, "restored", folder.path());
    let new = folder.path().join("new");
    let restore = [
        "restore",
        "--json",
        "--from",
        text(&backup),
        "--dir",
        text(&new),
        "--database-url-file",
        text(&url_file),
    ];
    refuses_what_is_in_the_way(&restore, &new, &url).await;
    let said = parsed(&coordinator(&restore).await.unwrap());
    assert_eq!(said["restored"], true);
    let config = new.join("coordinator.toml");
    coordinator(&["config", "check", "--config", text(&config)])
        .await
        .unwrap();
    let invite = coordinator(&["invite", "--config", text(&config)])
        .await
        .unwrap();
    assert_eq!(invite.lines().next().unwrap().trim(), net.invite());

    let program = paths::program("owm-coordinator").unwrap();
    let mut process = Spawn::new(
        "the restored coordinator",
        program,
        net.logs().join("restored.log"),
    )
    .args(["serve", "--config", text(&config)])
    .start()
    .unwrap();
    wait_ready(&mut process, &health_url).await;
    assert_eq!(fetched(&api, "/v1/genesis").await, genesis);
    for (answer, kept) in &before {
        assert_eq!(record(&api, answer).await, *kept);
    }
    verify_receipt(&net, &before[0].1[1], folder.path()).await;
    let gone = format!("/v1/requests/{}", lost["request_id"].as_str().unwrap());
    assert_eq!(api.get(&gone).await.unwrap().status, 404);
    // The ledger is the backup's: the question under way is in it or not, nothing else.
    let owed_now = owed(&url);
    assert!(
        (owed_before..=owed_after).contains(&owed_now),
        "{owed_before} {owed_now} {owed_after}"
    );
    let stats = api.get("/v1/network/stats").await.unwrap().ok().unwrap();
    assert_eq!(stats["owed_msat"], owed_now);
    // The old node comes back by itself and answers.
    ask_until_answered(&api, "After the restore?").await;
    assert!(owed(&url) > owed_now);
    process.stop(LIMIT).await.unwrap();

    // A second restore finds the database in use.
    let again = folder.path().join("again");
    let second: Vec<&str> = restore
        .iter()
        .map(|arg| {
            if *arg == text(&new) {
                text(&again)
            } else {
                arg
            }
        })
        .collect();
    let error = refused(coordinator(&second)).await;
    assert!(error.contains("the database is not empty"), "{error}");
    assert!(!again.exists());
    net.stop().await.unwrap();
}

/// The file, what is said of it, and what `doctor` will find.
fn check_made(made: &Value, backup: &Path, dir: &Path) {
    assert_eq!(made["contains_keys"], true);
    assert_eq!(made["damaged_blobs"], json!([]));
    let mode = fs::metadata(backup).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let last: Value = parsed(&fs::read_to_string(dir.join("last-backup.json")).unwrap());
    assert_eq!(last["sha256"], made["sha256"]);
    assert_eq!(last["path"], made["path"]);
    let members: Vec<&str> = made["manifest"]["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|member| member["name"].as_str().unwrap())
        .collect();
    for name in [
        "coordinator.toml",
        "genesis.json",
        "instance.pem",
        "data.key",
        "release.pem",
        "offline/root.pem",
        "delegations/instance.bin",
        "delegations/release.bin",
        "database.dump",
    ] {
        assert!(members.contains(&name), "{name} is not in {members:?}");
    }
    assert!(
        members.iter().any(|name| name.starts_with("blobs/")),
        "{members:?}"
    );
    // No password of the old database is carried along.
    assert!(
        !members.iter().any(|name| name.contains("database.url")),
        "{members:?}"
    );
}

/// What is left out on request, and what is said where Postgres's programs are missing.
fn backs_up_without_blobs_and_not_without_pg_dump(config: &Path, folder: &Path) {
    let run = |to: &Path, bin: Option<&Path>| {
        let mut command = Command::new(paths::program("owm-coordinator").unwrap());
        command.args(["backup", "--without-blobs", "--json", "--to", text(to)]);
        command.args(["--config", text(config)]);
        if let Some(bin) = bin {
            command.env("OWM_PG_BIN", bin);
        }
        command.output().unwrap()
    };
    let small = folder.join("small.tar");
    let made = parsed(&String::from_utf8(run(&small, None).stdout).unwrap());
    assert_eq!(made["manifest"]["facts"]["blobs"], "false");
    assert!(!made["manifest"]["members"].to_string().contains("blobs/"));

    let none = folder.join("none.tar");
    let failed = run(&none, Some(folder));
    let said = String::from_utf8(failed.stderr).unwrap();
    assert_eq!(failed.status.code(), Some(1));
    assert!(
        said.contains("install the Debian package postgresql-client-"),
        "{said}"
    );
    assert!(!none.exists());
}

/// Nothing is written, neither to the folder nor to the database.
async fn refuses_what_is_in_the_way(restore: &[&str], new: &Path, url: &str) {
    fs::create_dir(new).unwrap();
    fs::write(new.join("precious"), "x").unwrap();
    let error = refused(coordinator(restore)).await;
    assert!(error.contains("is not empty"), "{error}");
    assert_eq!(names(new), ["precious"]);
    fs::remove_dir_all(new).unwrap();

    sql(url, "create table precious (id integer)");
    let error = refused(coordinator(restore)).await;
    assert!(
        error.contains("the database is not empty (1 tables"),
        "{error}"
    );
    assert!(!new.exists());
    sql(url, "drop table precious");

    // Not without saying where the database is: the URL is no part of a backup.
    let error = refused(coordinator(&restore[..6])).await;
    assert!(error.contains("--database-url-file"), "{error}");

    // One byte of the dump.
    let from = Path::new(restore[3]);
    let mut bytes = fs::read(from).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let broken = from.with_extension("broken");
    fs::write(&broken, bytes).unwrap();
    let mut args = restore.to_vec();
    args[3] = text(&broken);
    let error = refused(coordinator(&args)).await;
    assert!(error.contains("is damaged"), "{error}");
    assert!(!new.exists());
    let tables = sql(
        url,
        "select count(*) from information_schema.tables where table_schema = 'public'",
    );
    assert_eq!(tables, "0");
    let beside = names(from.parent().unwrap());
    assert!(
        beside.iter().all(|name| !name.starts_with('.')),
        "{beside:?}"
    );
}

async fn verify_receipt(net: &Devnet, receipt: &[u8], folder: &Path) {
    let file = folder.join("receipt.json");
    fs::write(&file, receipt).unwrap();
    net.nodes_ref()[0]
        .command(&["verify-receipt", text(&file)])
        .await
        .unwrap();
}

#[tokio::test]
async fn a_node_restored_on_an_empty_folder_is_the_same_node_with_its_unacknowledged_work() {
    let mut net = network(1).await;
    let folder = tempfile::tempdir().unwrap();
    let api = net.api();
    api.query("Something to have earned").await.unwrap();

    // The coordinator dies in the middle of an answer; the node finishes it and keeps it.
    let asked = json!({"query": "A long story", "max_tokens": 300, "seed": 5, "stream": true});
    let mut events = api.stream("/v1/query", &asked).await.unwrap();
    let start = parsed(&events.next().await.unwrap().unwrap().data);
    let id = start["request_id"].as_str().unwrap().to_owned();
    // Something of it has been shown: the lease is live and the node at work.
    events.next().await.unwrap().unwrap();
    net.coordinator().kill().await.unwrap();
    drop(events);
    wait_for_unacknowledged(&net).await;

    let before = net.nodes_ref()[0].status().await.unwrap();
    let backup = folder.path().join("node.tar");
    let args = ["backup", "--json", "--to", text(&backup)];
    let made = parsed(&net.nodes_ref()[0].command(&args).await.unwrap());
    assert_eq!(made["manifest"]["key"], before["status"]["node_key"]);
    check_nothing_is_forgotten(&made, &net.nodes_ref()[0].dir().join("data"));
    let health_url = net.nodes_ref()[0].health_url();
    net.nodes()[0].kill().await.unwrap();

    let new = folder.path().join("new");
    node(&["restore", "--from", text(&backup), "--dir", text(&new)])
        .await
        .unwrap();
    assert_eq!(names(folder.path()), ["new", "node.tar"]);
    let config = new.join("owm.toml");
    node(&["config", "check", "--config", text(&config)])
        .await
        .unwrap();
    let program = paths::program("owm-node").unwrap();
    let mut process = Spawn::new(
        "the restored node",
        program,
        net.logs().join("restored.log"),
    )
    .args(["start", "--config", text(&config)])
    .start()
    .unwrap();
    net.coordinator().start().await.unwrap();
    wait_ready(&mut process, &health_url).await;

    let status = parsed(
        &node(&["status", "--json", "--config", text(&config)])
            .await
            .unwrap(),
    );
    assert_eq!(status["status"]["node_key"], before["status"]["node_key"]);
    assert_eq!(status["status"]["node_id"], before["status"]["node_id"]);
    // What it had finished is handed in and answered, once.
    let answer = wait_for_answer(&api, &id).await;
    assert!(!answer["answer"].as_str().unwrap().is_empty());
    let nodes = api.get("/v1/network/nodes").await.unwrap().ok().unwrap();
    let known = nodes["nodes"].as_array().or(nodes.as_array()).unwrap();
    assert_eq!(known.len(), 1, "{nodes:#}");
    // It keeps what it has earned, and earns more.
    let owed_msat = async || {
        let printed = node(&["earnings", "--json", "--config", text(&config)])
            .await
            .unwrap();
        parsed(&printed)["owed_msat"].as_u64().unwrap()
    };
    let earned = before["earnings"]["owed_msat"].as_u64().unwrap();
    assert!(earned > 0 && owed_msat().await > earned);
    ask_until_answered(&api, "And now?").await;
    process.stop(LIMIT).await.unwrap();
    assert_eq!(owed_msat().await, owed(net.postgres().url()));
    net.stop().await.unwrap();
}

async fn wait_for_unacknowledged(net: &Devnet) {
    let start = Instant::now();
    loop {
        let status = net.nodes_ref()[0].status().await.unwrap();
        if status["status"]["unacknowledged"] == 1 {
            return;
        }
        assert!(start.elapsed() < LIMIT, "{status:#}");
        tokio::time::sleep(POLL).await;
    }
}

async fn wait_for_answer(api: &api::Api, id: &str) -> Value {
    let start = Instant::now();
    loop {
        let found = api
            .get(&format!("/v1/requests/{id}"))
            .await
            .unwrap()
            .json()
            .unwrap();
        if found["answer"].is_string() {
            return found;
        }
        assert!(start.elapsed() < LIMIT, "{found:#}");
        tokio::time::sleep(POLL).await;
    }
}

/// Whoever gives the node another file decides whether a backup holds it (`owm-node`'s `backup.rs`).
fn check_nothing_is_forgotten(made: &Value, data: &Path) {
    let kept: BTreeSet<String> = made["manifest"]["members"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|member| member["name"].as_str()?.strip_prefix("data/"))
        .map(str::to_owned)
        .collect();
    assert!(
        kept.contains("tasks.sqlite") && kept.contains("node.pem"),
        "{kept:?}"
    );
    let mut forgotten = Vec::new();
    let mut folders = vec![data.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path
                .strip_prefix(data)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            let fetched_again = name.starts_with("models/") && name != "models/newest.pb";
            if path.is_dir() {
                folders.push(path);
            } else if !fetched_again && !kept.contains(&name) && !NOT_KEPT.contains(&name.as_str())
            {
                forgotten.push(name);
            }
        }
    }
    assert!(
        forgotten.is_empty(),
        "neither kept nor named as not kept: {forgotten:?}"
    );
}

/// A node's folder and its backup, made without any network: a coordinator that does not run invites.
async fn lonely_backup(folder: &Path) -> PathBuf {
    let (net, home) = (folder.join("net"), folder.join("node"));
    let init = [
        "init",
        "--dir",
        text(&net),
        "--name",
        "t",
        "--chain",
        "regtest",
    ];
    coordinator(&init).await.unwrap();
    let config = net.join("coordinator.toml");
    let invite = coordinator(&["invite", "--config", text(&config)])
        .await
        .unwrap();
    let invite = invite.lines().next().unwrap().trim();
    node(&["init", "--join", invite, "--dir", text(&home)])
        .await
        .unwrap();
    let backup = folder.join("node.tar");
    let config = home.join("owm.toml");
    node(&["backup", "--to", text(&backup), "--config", text(&config)])
        .await
        .unwrap();
    backup
}

#[tokio::test]
async fn damaged_truncated_foreign_and_newer_backups_are_refused_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let backup = lonely_backup(folder.path()).await;
    let target = folder.path().join("target");
    let bad = folder.path().join("bad.tar");
    let bytes = fs::read(&backup).unwrap();
    let restore = async || {
        refused(node(&[
            "restore",
            "--from",
            text(&bad),
            "--dir",
            text(&target),
        ]))
        .await
    };
    let before = names(folder.path());

    let mut damaged = bytes.clone();
    let at = damaged
        .windows(27)
        .position(|w| w == b"-----BEGIN PRIVATE KEY-----")
        .unwrap();
    damaged[at + 40] ^= 1;
    fs::write(&bad, &damaged).unwrap();
    assert!(
        restore()
            .await
            .contains("is damaged: data/node.pem has another SHA-256")
    );
    fs::write(&bad, &bytes[..bytes.len() / 2]).unwrap();
    assert!(restore().await.contains("is cut off"));
    fs::write(&bad, b"no backup at all".repeat(100)).unwrap();
    assert!(restore().await.contains("is no OWM backup"));
    fs::write(&bad, newer(&bytes)).unwrap();
    let error = restore().await;
    assert!(
        error.contains("in format 2") && error.contains("or newer"),
        "{error}"
    );
    fs::remove_file(&bad).unwrap();
    assert_eq!(names(folder.path()), before);

    // The other program's.
    let args = ["restore", "--check", "--from", text(&backup)];
    let other = refused(coordinator(&args)).await;
    assert!(other.contains("is a backup of owm-node"));
    assert_eq!(names(folder.path()), before);

    // And a folder with something in it.
    fs::create_dir(&target).unwrap();
    fs::write(target.join("owm.toml"), "precious").unwrap();
    let args = ["restore", "--from", text(&backup), "--dir", text(&target)];
    assert!(refused(node(&args)).await.contains("is not empty"));
    assert_eq!(fs::read(target.join("owm.toml")).unwrap(), b"precious");
    // A backup overwrites nothing either.
    let config = folder.path().join("node/owm.toml");
    let again = ["backup", "--to", text(&backup), "--config", text(&config)];
    assert!(refused(node(&again)).await.contains("is there already"));
    assert_eq!(fs::read(&backup).unwrap(), bytes);
}

/// The same backup with another format number in its manifest, its tar header put right.
fn newer(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let format = b"\"format\": 1";
    let at = bytes
        .windows(format.len())
        .position(|w| w == format)
        .unwrap();
    bytes[at + format.len() - 1] = b'2';
    bytes
}
