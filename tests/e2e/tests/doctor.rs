//! `doctor` of node and coordinator as real processes on a real network: healthy, then one thing broken at
//! a time, the finding with its fix line seen, the fix followed, healthy again.
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use owm_devnet::{Devnet, Model, paths, ports::Port, postgres::Install, process::Spawn};
use owm_proto::{NodeKey, Sha256, genesis::NetworkId, invite::Invite};
use serde_json::Value;
use tokio::process::Command;

/// Until what was put right shows; a node reconnects after at most a minute.
const HEAL_LIMIT: Duration = Duration::from_mins(2);
/// What a healthy network on a busy machine without a time service may be warned of.
const HARMLESS: [&str; 4] = ["backup", "disk.fsync", "clock.service", "memory"];

type Env<'a> = &'a [(&'a str, &'a str)];

/// What a doctor said.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    report: Value,
}

impl Said {
    fn verdict(&self) -> &str {
        self.report["verdict"].as_str().unwrap()
    }

    /// (area, level, what, fix)
    fn findings(&self) -> Vec<(&str, &str, &str, &str)> {
        let all = self.report["findings"].as_array().unwrap();
        all.iter()
            .map(|f| {
                let word = |field: &str| f[field].as_str().unwrap_or_default();
                (word("area"), word("level"), word("what"), word("fix"))
            })
            .collect()
    }

    /// The worst finding of an area: what it says and its fix line.
    fn problem(&self, area: &str) -> (&str, &str) {
        let found = self.findings();
        let found = found.iter().find(|f| f.0 == area && f.1 == "problem");
        let found = found.unwrap_or_else(|| panic!("no problem in {area}: {self:#?}"));
        assert!(!found.3.is_empty(), "a problem without a fix: {found:?}");
        assert_eq!(
            (self.verdict(), self.code),
            ("broken", Some(1)),
            "{self:#?}"
        );
        (found.2, found.3)
    }

    fn warning(&self, area: &str) -> (&str, &str) {
        let found = self.findings();
        let found = found.iter().find(|f| f.0 == area && f.1 == "warning");
        let found = found.unwrap_or_else(|| panic!("no warning in {area}: {self:#?}"));
        (found.2, found.3)
    }

    fn is_ok(&self, area: &str) -> bool {
        let found = self.findings();
        let mut found = found.iter().filter(|f| f.0 == area).peekable();
        found.peek().is_some() && found.all(|f| f.1 == "ok")
    }

    /// Nothing is wrong but what a test network may lack.
    fn is_healthy(&self) -> bool {
        let fine = |f: &(&str, &str, &str, &str)| f.1 == "ok" || HARMLESS.contains(&f.0);
        self.verdict() != "broken" && self.code == Some(0) && self.findings().iter().all(fine)
    }

    #[track_caller]
    fn expect_healthy(&self) {
        assert!(self.is_healthy(), "{self:#?}");
    }
}

async fn run(program: &str, args: &[&str], env: Env<'_>) -> Output {
    let mut command = Command::new(paths::program(program).unwrap());
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    command.envs(env.iter().copied());
    command.output().await.unwrap()
}

async fn doctor(program: &str, config: &Path, env: Env<'_>) -> Said {
    let config = config.to_str().unwrap();
    let output = run(program, &["doctor", "--json", "--config", config], env).await;
    let report = serde_json::from_slice(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Said {
        code: output.status.code(),
        report: report.unwrap_or_else(|error| panic!("{error}: {said}")),
    }
}

async fn node_doctor(config: &Path, env: Env<'_>) -> Said {
    doctor("owm-node", config, env).await
}

async fn coordinator_doctor(config: &Path, env: Env<'_>) -> Said {
    doctor("owm-coordinator", config, env).await
}

/// Asks until it is healthy.
async fn heals(program: &str, config: &Path) {
    let start = Instant::now();
    loop {
        let said = doctor(program, config, &[]).await;
        if said.is_healthy() {
            return;
        }
        assert!(start.elapsed() < HEAL_LIMIT, "{said:#?}");
        tokio::time::sleep(owm_devnet::process::POLL).await;
    }
}

/// Pastes a fix line (a command) into a shell.
async fn follow(fix: &str) {
    let status = Command::new("sh").args(["-c", fix]).status().await;
    assert!(status.unwrap().success(), "{fix}");
}

/// A network that is kept like a real one (with fsync), in a folder that Postgres's account can reach.
async fn network(folder: &Path) -> Devnet {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o711)).unwrap();
    let start = Devnet::builder().nodes(1).model(Model::Tiny);
    start.data_dir(folder.join("net")).start().await.unwrap()
}

fn flip_a_byte(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// The largest file of a folder: the weights.
fn largest(folder: &Path) -> PathBuf {
    let entries = fs::read_dir(folder).unwrap().flatten();
    let path = entries.max_by_key(|entry| entry.metadata().unwrap().len());
    path.unwrap().path()
}

/// Everything under a folder with its bytes' hash: doctor changes nothing.
fn picture(folder: &Path) -> BTreeMap<PathBuf, Sha256> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            all.extend(picture(&path));
        } else {
            let bytes = fs::read(&path).unwrap_or_default();
            all.insert(path, Sha256::of(&bytes));
        }
    }
    all
}

#[tokio::test]
async fn a_node_that_is_misconfigured_is_told_what_to_do_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut net = network(folder.path()).await;
    let invite: Invite = net.invite().parse().unwrap();
    let config = net.nodes()[0].config().to_owned();
    let data = net.nodes()[0].dir().join("data");
    heals("owm-node", &config).await;

    // Others can read the key.
    let key = data.join("node.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let said = node_doctor(&config, &[]).await;
    let (what, fix) = said.problem("key");
    assert!(
        what.contains("0644") && fix.starts_with("chmod 600"),
        "{said:#?}"
    );
    follow(fix).await;
    node_doctor(&config, &[]).await.expect_healthy();

    // A wrong clock: this process only.
    let said = node_doctor(&config, &[("OWM_CLOCK_OFFSET_MS", "3600000")]).await;
    let (what, fix) = said.problem("clock");
    assert!(what.contains("ahead of the coordinator's"), "{what}");
    assert!(fix.contains("timedatectl"), "{fix}");
    let said = node_doctor(&config, &[("OWM_CLOCK_OFFSET_MS", "-90000")]).await;
    assert!(said.warning("clock").0.contains("behind"));

    // A variable that overrides nothing.
    let said = node_doctor(&config, &[("OWM_CAPS__RAN", "5GB")]).await;
    let (_, fix) = said.problem("config");
    assert_eq!(fix, "set OWM_CAPS__RAM instead, and: unset OWM_CAPS__RAN");

    wrong_invites(&config, &invite).await;

    // The coordinator is down; the node's own error says the same.
    net.coordinator().stop().await.unwrap();
    let said = node_doctor(&config, &[]).await;
    let (what, fix) = said.problem("address.tcp");
    assert!(what.contains("refused"), "{what}");
    assert!(fix.contains("owm-coordinator doctor"), "{fix}");
    assert!(said.is_ok("address.name") && !said.findings().iter().any(|f| f.0 == "address.tls"));
    net.coordinator().start().await.unwrap();
    heals("owm-node", &config).await;

    wrong_while_stopped(&mut net, &config, &data).await;
    net.stop().await.unwrap();
}

/// Wrong port, wrong key, another network, a damaged string.
async fn wrong_invites(config: &Path, invite: &Invite) {
    let with =
        async |invite: &str| node_doctor(config, &[("OWM_COORDINATOR__INVITE", invite)]).await;
    let closed = Port::take(None).unwrap();
    let port = Invite {
        addresses: vec![closed.address()],
        ..invite.clone()
    };
    let said = with(&port.to_string()).await;
    let (what, fix) = said.problem("address.tcp");
    assert!(
        what.contains(&closed.address()) && fix.contains("new invite"),
        "{said:#?}"
    );
    let key = Invite {
        instance_key: NodeKey::from_seed(&[9; 32]).public(),
        ..invite.clone()
    };
    let said = with(&key.to_string()).await;
    assert!(
        said.problem("address.tls")
            .1
            .contains("owm-coordinator invite")
    );
    assert!(said.is_ok("address.tcp"));
    let other = Invite {
        genesis: NetworkId(Sha256::of(b"another network")),
        ..invite.clone()
    };
    let said = with(&other.to_string()).await;
    assert!(said.problem("genesis").0.contains("belongs to network"));
    assert!(said.problem("network").1.contains("invite"));
    let text = invite.to_string();
    let said = with(&text[..text.len() - 4]).await;
    assert!(said.problem("invite").0.contains("damaged"));
    let unresolvable = Invite {
        addresses: vec!["no-such-host.invalid:9000".into()],
        ..invite.clone()
    };
    assert!(
        with(&unresolvable.to_string())
            .await
            .problem("address.name")
            .1
            .contains("DNS")
    );
}

async fn wrong_while_stopped(net: &mut Devnet, config: &Path, data: &Path) {
    let node = &mut net.nodes()[0];
    node.stop().await.unwrap();
    let before = picture(data);
    let said = node_doctor(config, &[]).await;
    assert!(said.is_ok("process"), "{said:#?}");
    assert_eq!(picture(data), before, "doctor changed something");

    // A typing error in the file: told by the start too, which points here.
    let good = fs::read_to_string(config).unwrap();
    fs::write(config, with_a_typing_error(&good)).unwrap();
    let said = node_doctor(config, &[]).await;
    let (what, fix) = said.problem("config");
    assert!(what.contains("did you mean `ram`?"), "{what}");
    assert!(fix.ends_with("write `ram` for `rm`"), "{fix}");
    assert!(
        said.is_ok("key") && said.is_ok("address.version"),
        "the rest is looked at"
    );
    let refused = run(
        "owm-node",
        &["start", "--config", config.to_str().unwrap()],
        &[],
    )
    .await;
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2));
    let hint = format!("owm-node doctor --config {}", config.display());
    assert!(
        error.contains("did you mean `ram`?") && error.contains(&hint),
        "{error}"
    );
    fs::write(config, good).unwrap();

    // A task log that SQLite can't read: set aside, as the fix line says.
    let log = data.join("tasks.sqlite");
    let mut bytes = fs::read(&log).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0x5a);
    fs::write(&log, bytes).unwrap();
    let said = node_doctor(config, &[]).await;
    let (what, fix) = said.problem("tasklog");
    assert!(what.contains("damaged"), "{what}");
    let (_, aside) = fix.split_once("empty one: ").unwrap();
    follow(aside.split_once(", then").unwrap().0).await;
    let said = node_doctor(config, &[]).await;
    assert!(said.is_ok("tasklog") && said.code == Some(0), "{said:#?}");

    // Weights that have changed; the fix line's first half is a command, the second starts the node.
    flip_a_byte(&largest(&data.join("models/blobs")));
    let said = node_doctor(config, &[]).await;
    let (what, fix) = said.problem("weights");
    assert!(what.contains("SHA-256"), "{what}");
    let (remove, start) = fix.split_once(", then: ").unwrap();
    assert!(start.starts_with("owm-node start"), "{fix}");
    follow(remove).await;
    let said = node_doctor(config, &[]).await;
    assert!(said.warning("weights").0.contains("not here yet"));
    net.nodes()[0].start().await.unwrap();
    heals("owm-node", config).await;

    another_with_the_same_key(net, config, data).await;
}

/// `rm` for `ram`, whether or not the file has the section.
fn with_a_typing_error(config: &str) -> String {
    let wrong = "[caps]\nrm = \"5GB\"\n";
    if config.contains("[caps]\n") {
        config.replacen("[caps]\n", wrong, 1)
    } else {
        format!("{config}\n{wrong}")
    }
}

/// The newer process fences the older, which says so afterwards.
async fn another_with_the_same_key(net: &mut Devnet, config: &Path, data: &Path) {
    let copy = tempfile::tempdir().unwrap();
    let other = copy.path().join("owm.toml");
    fs::create_dir(copy.path().join("data")).unwrap();
    fs::copy(config, &other).unwrap();
    fs::copy(data.join("node.pem"), copy.path().join("data/node.pem")).unwrap();
    let program = paths::program("owm-node").unwrap();
    let mut twin = Spawn::new("the twin", program, copy.path().join("log"))
        .args(["start".as_ref(), "--config".as_ref(), other.as_os_str()])
        .env("OWM_HEALTH__LISTEN", "off")
        .start()
        .unwrap();
    let node = net.nodes()[0].process().unwrap();
    let death = tokio::time::timeout(HEAL_LIMIT, node.died()).await.unwrap();
    assert!(
        death.to_string().contains("ended with code 78"),
        "{death:#}"
    );
    net.nodes()[0].stop().await.unwrap();
    let said = node_doctor(config, &[]).await;
    let (what, fix) = said.problem("process");
    assert!(what.starts_with("fenced"), "{what}");
    assert!(fix.starts_with("stop the other one"), "{fix}");
    assert!(
        said.warning("identity.elsewhere")
            .0
            .contains("another machine")
    );
    twin.stop(Duration::from_secs(20)).await.unwrap();
    net.nodes()[0].start().await.unwrap();
    heals("owm-node", config).await;
}

#[tokio::test]
#[ignore = "mounts a small disk: `make test` runs it where it may"]
async fn mounts_a_node_without_room_is_told_how_much_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let small = folder.path().join("small");
    fs::create_dir(&small).unwrap();
    let small_text = small.to_str().unwrap();
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=128k", "tmpfs", small_text])
        .output();
    assert!(mount.await.unwrap().status.success(), "may not mount");
    let net = network(folder.path()).await;
    let dir = small.join("node");
    let join = [
        "init",
        "--join",
        net.invite(),
        "--dir",
        dir.to_str().unwrap(),
    ];
    assert!(run("owm-node", &join, &[]).await.status.success());
    let config = dir.join("owm.toml");
    let env = [("OWM_HEALTH__LISTEN", "off")];
    let said = node_doctor(&config, &env).await;
    let (what, fix) = said.problem("disk");
    assert!(
        what.contains("needed for the model") && fix.starts_with("free "),
        "{said:#?}"
    );
    // "move the data folder to a larger disk": this one becomes larger.
    follow(&format!("mount -o remount,size=2g {small_text}")).await;
    let said = node_doctor(&config, &env).await;
    assert!(said.is_ok("disk"), "{said:#?}");
    follow(&format!("umount {small_text}")).await;
    net.stop().await.unwrap();
}

#[tokio::test]
async fn a_newcomer_with_nothing_right_is_told_everything_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("owm.toml");
    let said = node_doctor(&config, &[]).await;
    assert!(said.problem("config").1.starts_with("owm-node init --join"));
    assert!(said.problem("key").1.contains("owm-node init --join"));
    fs::write(&config, "[health]\nlisten = = 3\n").unwrap();
    let said = node_doctor(&config, &[]).await;
    assert!(said.problem("config").1.starts_with("correct line 2 of"));
    fs::write(&config, "[health]\nlisten = \"off\"\n").unwrap();
    let said = node_doctor(&config, &[]).await;
    assert!(said.problem("invite").1.contains("owm-coordinator invite"));
    let names = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(names, 1, "doctor made something");
    let config = folder.path().join("coordinator.toml");
    let said = coordinator_doctor(&config, &[]).await;
    assert!(said.problem("config").1.starts_with("owm-coordinator init"));
    // As text, and with a command line that is none.
    let config = config.to_str().unwrap();
    let text = run("owm-coordinator", &["doctor", "--config", config], &[]).await;
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("\n✗ problem  config") && text.contains(" fix: owm-coordinator init"));
    assert!(
        text.contains("\nbroken: ") && !text.contains('\x1b'),
        "{text}"
    );
    let usage = run("owm-node", &["doctor", "--fast"], &[]).await;
    assert_eq!(usage.status.code(), Some(2));
}

#[tokio::test]
async fn a_coordinator_that_is_misconfigured_is_told_what_to_do_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut net = network(folder.path()).await;
    net.api().query("Something to be stored").await.unwrap();
    let (config, dir) = (
        net.coordinator().config().to_owned(),
        net.coordinator().dir().to_owned(),
    );
    let said = coordinator_doctor(&config, &[]).await;
    said.expect_healthy();
    assert!(said.is_ok("key.data") && said.is_ok("network"), "{said:#?}");

    // A published file that has changed: copied back from a node.
    let blob = largest(&dir.join("blobs"));
    flip_a_byte(&blob);
    let said = coordinator_doctor(&config, &[]).await;
    let (what, fix) = said.problem("blobs");
    assert!(
        what.contains("SHA-256") && fix.contains(blob.to_str().unwrap()),
        "{said:#?}"
    );
    let there = net.nodes()[0].dir().join("data/models/blobs");
    fs::copy(there.join(blob.file_name().unwrap()), &blob).unwrap();
    coordinator_doctor(&config, &[]).await.expect_healthy();

    // Another network's data key.
    let data_key = dir.join("data.key");
    let right = fs::read(&data_key).unwrap();
    fs::write(&data_key, [7; 32]).unwrap();
    let said = coordinator_doctor(&config, &[]).await;
    assert!(
        said.problem("key.data")
            .0
            .contains("does not open what is stored")
    );
    fs::write(&data_key, right).unwrap();
    fs::set_permissions(&data_key, fs::Permissions::from_mode(0o644)).unwrap();
    follow(coordinator_doctor(&config, &[]).await.problem("key.data").1).await;
    coordinator_doctor(&config, &[]).await.expect_healthy();

    // Open to the world; a delegation that has run out; a typing error.
    let said = coordinator_doctor(&config, &[("OWM_API__LISTEN", "0.0.0.0:1")]).await;
    assert!(said.problem("api.open").1.contains("open = false"));
    let in_a_year = (400u64 * 24 * 60 * 60 * 1_000).to_string();
    let said = coordinator_doctor(&config, &[("OWM_CLOCK_OFFSET_MS", &in_a_year)]).await;
    assert!(said.problem("delegation.instance").0.contains("expired"));
    let soon = (350u64 * 24 * 60 * 60 * 1_000).to_string();
    let said = coordinator_doctor(&config, &[("OWM_CLOCK_OFFSET_MS", &soon)]).await;
    assert!(said.warning("delegation.instance").0.contains("more days"));
    let said = coordinator_doctor(&config, &[("OWM_RPC__LISTN", "x")]).await;
    assert!(said.problem("config").1.contains("OWM_RPC__LISTEN"));

    // It hangs: its ports are its own, and doctor does not wait for it.
    let pid = net.coordinator().process().unwrap().pid();
    follow(&format!("kill -STOP {pid}")).await;
    let said = coordinator_doctor(&config, &[]).await;
    let (what, fix) = said.problem("process");
    assert!(what.contains("does not answer") && fix.contains(&format!("kill {pid}")));
    assert!(
        said.is_ok("port.rpc") && said.is_ok("database"),
        "{said:#?}"
    );
    follow(&format!("kill -CONT {pid}")).await;
    heals("owm-coordinator", &config).await;

    database(&mut net, &config, folder.path()).await;
    taken_port(&mut net, &config).await;
    net.stop().await.unwrap();
}

/// Postgres down, a database that is not there, one without our tables.
async fn database(net: &mut Devnet, config: &Path, folder: &Path) {
    let url_file = folder.join("url");
    let write = |url: &str| {
        fs::write(&url_file, url).unwrap();
        fs::set_permissions(&url_file, fs::Permissions::from_mode(0o600)).unwrap();
    };
    let env = [("OWM_DATABASE__URL_FILE", url_file.to_str().unwrap())];
    let url = net.postgres().url().to_owned();
    let closed = Port::take(None).unwrap();
    let (server, _) = url.rsplit_once('/').unwrap();
    let (host, _) = server.rsplit_once(':').unwrap();
    write(&format!("{host}:{}/owm", closed.number()));
    let said = coordinator_doctor(config, &env).await;
    let (what, fix) = said.problem("database");
    assert!(what.contains(&closed.number().to_string()), "{what}");
    assert!(fix.starts_with("start Postgres"), "{fix}");

    write(&format!("{server}/fresh"));
    let said = coordinator_doctor(config, &env).await;
    let (what, fix) = said.problem("database");
    assert!(
        what.contains("no such database") && fix.starts_with("createdb"),
        "{said:#?}"
    );
    let psql = Install::find().unwrap().program("psql");
    let create = ["-X", "-q", "-d", &url, "-c", "CREATE DATABASE fresh"];
    let created = Command::new(psql).args(create).status().await;
    assert!(created.unwrap().success());
    let said = coordinator_doctor(config, &env).await;
    let (what, fix) = said.problem("database.migrations");
    assert!(
        what.contains("missing") && fix.starts_with("owm-coordinator migrate"),
        "{said:#?}"
    );
    let migrate = ["migrate", "--config", config.to_str().unwrap()];
    assert!(
        run("owm-coordinator", &migrate, &env)
            .await
            .status
            .success()
    );
    let said = coordinator_doctor(config, &env).await;
    assert!(said.is_ok("database.migrations"), "{said:#?}");
}

/// While it is down, somebody else takes its port; the start's own error points to doctor.
async fn taken_port(net: &mut Devnet, config: &Path) {
    let address = net.coordinator().rpc_address();
    net.coordinator().stop().await.unwrap();
    let said = coordinator_doctor(config, &[]).await;
    assert!(said.is_ok("port.rpc") && said.is_ok("process"), "{said:#?}");
    let listener = std::net::TcpListener::bind(&address).unwrap();
    let said = coordinator_doctor(config, &[]).await;
    let (what, fix) = said.problem("port.rpc");
    let pid = std::process::id().to_string();
    assert!(what.contains(&address) && fix.contains(&pid), "{said:#?}");
    let serve = ["serve", "--config", config.to_str().unwrap()];
    let refused = run("owm-coordinator", &serve, &[]).await;
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{error}");
    assert!(error.contains("owm-coordinator doctor --config"), "{error}");
    drop(listener);
    net.coordinator().start().await.unwrap();
    heals("owm-coordinator", config).await;
}
