//! Backups made while everything runs, restored elsewhere, and refused when they are not what they seem.
//! Here: what all of these tests need.
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

mod coordinator;
mod node;
mod refusals;
mod revoked;

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use owm_devnet::{
    Devnet, Model, api, paths,
    postgres::Install,
    process::{self, POLL, Process},
};
use serde_json::{Value, json};

/// A loaded machine takes its time.
const LIMIT: Duration = Duration::from_mins(2);

async fn network(nodes: u16) -> Devnet {
    Devnet::builder()
        .nodes(nodes)
        .model(Model::Tiny)
        .start()
        .await
        .unwrap()
}

async fn run_coordinator(args: &[&str]) -> anyhow::Result<String> {
    let program = paths::program("owm-coordinator")?;
    process::output("owm-coordinator", &program, args).await
}

async fn run_node(args: &[&str]) -> anyhow::Result<String> {
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

/// A service manager's ear (`NOTIFY_SOCKET`).
struct Ear(UnixDatagram, PathBuf);

impl Ear {
    fn new(folder: &Path) -> Self {
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self(socket, path)
    }

    /// All that has been said since.
    fn heard(&self) -> String {
        let mut said = String::new();
        let mut buffer = [0; 1024];
        while let Ok(length) = self.0.recv(&mut buffer) {
            said.push_str(&String::from_utf8_lossy(&buffer[..length]));
            said.push('\n');
        }
        said
    }
}

async fn wait_ready(process: &mut Process, health_url: &str) {
    process
        .wait_until("readiness", LIMIT, || api::is_ready(health_url))
        .await
        .unwrap();
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
