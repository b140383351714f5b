//! A coordinator backed up while it serves, restored into an empty folder and an empty database.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use owm_devnet::{Devnet, api, paths, process::Spawn};
use owm_proto::invite::Invite;
use serde_json::{Value, json};

use super::{
    Ear, LIMIT, ask_until_answered, names, network, owed, parsed, refused, run_coordinator, sql,
    text, wait_ready,
};

/// A new, empty database beside the devnet's; the file with its URL.
pub(super) fn new_database(net: &mut Devnet, name: &str, folder: &Path) -> (String, PathBuf) {
    let url = net.postgres().url().to_owned();
    sql(&url, &format!("create database {name}"));
    let url = format!("{}/{name}", url.rsplit_once('/').unwrap().0);
    let file = folder.join(format!("{name}.url"));
    fs::write(&file, &url).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    (url, file)
}

async fn fetched(api: &api::Api, path: &str) -> Vec<u8> {
    let answer = api.get(path).await.unwrap();
    assert!(answer.status.is_success(), "{path}: {}", answer.status);
    answer.body.to_vec()
}

/// Everything about one answered question that must never change.
async fn record(api: &api::Api, answer: &Value) -> [Vec<u8>; 2] {
    let id = answer["request_id"].as_str().unwrap();
    [
        fetched(api, &format!("/v1/requests/{id}")).await,
        fetched(api, &format!("/v1/receipts/{id}")).await,
    ]
}

/// What must be the same afterwards.
struct Before {
    answers: Vec<(Value, [Vec<u8>; 2])>,
    genesis: Vec<u8>,
}

async fn remember(api: &api::Api) -> Before {
    let mut answers = Vec::new();
    for question in ["One?", "Two?", "Three?"] {
        let answer = api.query(question).await.unwrap();
        let kept = record(api, &answer).await;
        answers.push((answer, kept));
    }
    let genesis = fetched(api, "/v1/genesis").await;
    Before { answers, genesis }
}

/// Where the backup goes.
struct Elsewhere {
    backup: PathBuf,
    dir: PathBuf,
    url: String,
    url_file: PathBuf,
}

impl Elsewhere {
    fn restore<'a>(&'a self, dir: &'a Path) -> Vec<&'a str> {
        let from = ["restore", "--json", "--from", text(&self.backup)];
        let to = [
            "--dir",
            text(dir),
            "--database-url-file",
            text(&self.url_file),
        ];
        [from, to].concat()
    }
}

#[tokio::test]
async fn a_coordinator_restored_elsewhere_is_the_same_coordinator() {
    let mut net = network(1).await;
    let folder = tempfile::tempdir().unwrap();
    let api = net.api();
    let before = remember(&api).await;
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
    busy.unwrap();
    let owed_after = owed(&old_url);
    let dir = net.coordinator_ref().dir().to_owned();
    check_made(&parsed(&made.unwrap()), &backup, &dir);
    backs_up_without_blobs_and_not_without_pg_dump(net.coordinator_ref().config(), folder.path());
    let lost = api.query("What comes after the backup?").await.unwrap();

    // Elsewhere: another folder, another database; the old one is gone, the nodes are not told.
    net.coordinator().stop().await.unwrap();
    let (url, url_file) = new_database(&mut net, "restored", folder.path());
    let dir = folder.path().join("new");
    let there = Elsewhere {
        backup,
        dir,
        url,
        url_file,
    };
    let restore = there.restore(&there.dir);
    refuses_what_is_in_the_way(&restore, &there.dir, &there.url).await;
    let said = parsed(&run_coordinator(&restore).await.unwrap());
    assert_eq!(said["restored"], true);
    // The ledger is the backup's: the question under way is in it or not, nothing else.
    let owed_now = owed(&there.url);
    let range = owed_before..=owed_after;
    assert!(range.contains(&owed_now), "{owed_now} is not in {range:?}");
    serves_as_before(&net, &there, &before, &lost, folder.path()).await;

    // A second restore finds the database in use.
    let again = folder.path().join("again");
    let error = refused(run_coordinator(&there.restore(&again))).await;
    assert!(error.contains("the database is not empty"), "{error}");
    assert!(!again.exists());
    net.stop().await.unwrap();
}

/// Runs the restored coordinator on the old one's ports.
async fn serves_as_before(
    net: &Devnet,
    there: &Elsewhere,
    before: &Before,
    lost: &Value,
    folder: &Path,
) {
    let api = net.api();
    let owed_now = owed(&there.url);
    let config = there.dir.join("coordinator.toml");
    let args = ["invite", "--config", text(&config)];
    let invite = run_coordinator(&args).await.unwrap();
    // The same coordinator; which other peers it names depends on whom it has heard of.
    let parsed = |text: &str| {
        let invite: Invite = text.parse().unwrap();
        Invite {
            peers: Vec::new(),
            ..invite
        }
    };
    assert_eq!(parsed(invite.lines().next().unwrap()), parsed(net.invite()));
    let check = ["config", "check", "--config", text(&config)];
    run_coordinator(&check).await.unwrap();

    let ear = Ear::new(folder);
    let program = paths::program("owm-coordinator").unwrap();
    let log = net.logs().join("restored.log");
    let mut process = Spawn::new("the restored coordinator", program, log)
        .args(["serve", "--config", text(&config)])
        .env("NOTIFY_SOCKET", &ear.1)
        .start()
        .unwrap();
    wait_ready(&mut process, &net.coordinator_ref().health_url()).await;
    assert_eq!(fetched(&api, "/v1/genesis").await, before.genesis);
    for (answer, kept) in &before.answers {
        assert_eq!(record(&api, answer).await, *kept);
    }
    verify_receipt(net, &before.answers[0].1[1], folder).await;
    let gone = format!("/v1/requests/{}", lost["request_id"].as_str().unwrap());
    assert_eq!(api.get(&gone).await.unwrap().status, 404);
    let stats = api.get("/v1/network/stats").await.unwrap().ok().unwrap();
    assert!(stats["owed_msat"].as_u64() >= Some(owed_now), "{stats:#}");
    // The old node comes back by itself and answers.
    ask_until_answered(&api, "After the restore?").await;
    assert!(owed(&there.url) > owed_now);
    process.stop(LIMIT).await.unwrap();
    let heard = ear.heard();
    let (ready, stopping) = (heard.find("READY=1"), heard.find("STOPPING=1"));
    assert!(ready.is_some() && ready < stopping, "{heard}");
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
    let error = refused(run_coordinator(restore)).await;
    assert!(error.contains("is not empty"), "{error}");
    assert_eq!(names(new), ["precious"]);
    fs::remove_dir_all(new).unwrap();

    sql(url, "create table precious (id integer)");
    let error = refused(run_coordinator(restore)).await;
    assert!(
        error.contains("the database is not empty (1 tables"),
        "{error}"
    );
    assert!(!new.exists());
    sql(url, "drop table precious");

    // Not without saying where the database is: the URL is no part of a backup.
    let error = refused(run_coordinator(&restore[..6])).await;
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
    let error = refused(run_coordinator(&args)).await;
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
