//! `owm-node doctor`: everything about this node that can be wrong, with what to do. `cli` calls
//! [`examine`]. Each room below holds judgements (facts in, findings out, pure) and the thin probes
//! that gather the facts.
//! Must stay true: nothing on the machine is changed, not even a folder made; it works with and without
//! a running daemon, and with a broken configuration (then the rest is looked at with the defaults).

mod address;
mod identity;
mod machine;
mod model;
mod network;
mod process;
mod settings;
mod swarm;
mod tasklog;

use std::{path::PathBuf, sync::Arc, time::Duration};

use address::Reached;
use identity::KeyFacts;
use network::Known;
use owm_proto::{NodeKey, envelope::CLOCK_SKEW_MAX, invite::Invite};
use owm_service::{
    clock::SharedClock,
    config::Examined,
    doctor::{
        CHECK_TIME, Check, Finding, backup, clock, disk, files,
        ports::{self, Daemon},
        shell, together,
    },
    rng::Seed,
    tls::Identity,
};
use process::ProcessFacts;
use rand::RngCore as _;

use crate::{caps::Caps, config::NodeConfig, home::Home, network::Network};

/// Time for the task log: checking 100 MB takes a few seconds.
const TASK_LOG_TIME: Duration = Duration::from_mins(1);
/// File descriptors a node needs: files of the model, one connection, health checks.
const FILES_MIN: u64 = 1_024;

/// What to look at.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration.
    pub config: PathBuf,
    /// Leave out what reads large files.
    pub quick: bool,
}

/// What every check may know.
#[derive(Debug)]
struct Ground {
    /// The configuration's path, as given.
    path: PathBuf,
    config: NodeConfig,
    /// Whether the file could be read; else `config` is made of defaults.
    parsed: bool,
    home: Home,
    quick: bool,
    now_ms: u64,
    key: KeyFacts,
    process: ProcessFacts,
    /// `None`: there is none, or it does not parse.
    invite: Option<Invite>,
    /// The documents on the disk.
    known: Known,
}

impl Ground {
    /// A command of ours for this node: `owm-node start --config …`.
    fn command(&self, verb: &str) -> String {
        format!("owm-node {verb} --config {}", shell(&self.path))
    }

    fn daemon(&self) -> Daemon {
        self.process.daemon()
    }
}

/// Looks at everything.
pub async fn examine(options: Options, time: SharedClock) -> Vec<Finding> {
    let now_ms = time.now_ms();
    let reading = tokio::task::spawn_blocking(move || gather(options, now_ms));
    let read = tokio::time::timeout(CHECK_TIME, reading).await;
    let Ok(Ok((examined, ground))) = read else {
        let what = "the configuration's or the data folder's disk does not answer";
        let fix = "look at `dmesg` and `df`, then run doctor again";
        return vec![Finding::problem("config", what, fix)];
    };
    let mut ground = ground;
    ground.process.ask(&ground.home).await;
    let ground = Arc::new(ground);
    let mut findings = settings::judge(&examined, &ground);
    findings.extend(process::judge(&ground));
    findings.extend(swarm::judge(&ground));
    let reached = reach(&ground, &time).await;
    findings.extend(together(checks(&ground, &reached)).await);
    findings
}

/// Everything that small files tell.
fn gather(options: Options, now_ms: u64) -> (Examined<NodeConfig>, Ground) {
    let Options { config, quick } = options;
    let examined = owm_service::config::examine::<NodeConfig>(&config, "OWM");
    let home = Home::at(&examined.config.data_folder(&config));
    let invite = examined.config.coordinator.invite.parse().ok();
    let known = Known::probe(&home, invite.as_ref());
    let ground = Ground {
        config: examined.config.clone(),
        parsed: examined.parsed,
        key: KeyFacts::probe(&home),
        process: ProcessFacts::probe(&home, &config),
        path: config,
        home,
        quick,
        now_ms,
        invite,
        known,
    };
    (examined, ground)
}

/// All addresses of the invite at the same time; nothing without an invite.
async fn reach(ground: &Ground, time: &SharedClock) -> Vec<Reached> {
    let Some(invite) = &ground.invite else {
        return Vec::new();
    };
    let own = ground.key.key.as_ref().map(NodeKey::to_pkcs8_der);
    // Whoever has no key yet may still learn whether the coordinator can be reached.
    let der = own.unwrap_or_else(|_| {
        let mut seed = [0; 32];
        Seed::from_os().rng("doctor").fill_bytes(&mut seed);
        NodeKey::from_seed(&seed).to_pkcs8_der()
    });
    let Ok(identity) = Identity::from_pkcs8_der(&der) else {
        return Vec::new();
    };
    let each = invite.addresses.iter();
    let each = each.map(|target| address::reach(target, invite, &identity, time));
    futures::future::join_all(each).await
}

fn checks(ground: &Arc<Ground>, reached: &[Reached]) -> Vec<Check<'static>> {
    let live = network::live(ground, reached);
    let web_seed = live.as_ref().map(|network| network.web_seed.clone());
    let compared = reached.iter().find_map(|reached| reached.compared);
    let mut at_once = identity::judge(ground);
    at_once.extend(network::judge(ground, reached));
    at_once.extend(reached.iter().flat_map(|r| address::judge(r, ground)));
    at_once.push(clock::judge_offset(compared, CLOCK_SKEW_MAX));
    let wanted = model::Wanted::find(ground, live.as_ref(), reached);
    let mut checks = vec![
        Check::new("files on the disk", CHECK_TIME, async { at_once }),
        Check::new("clock.service", CHECK_TIME, async {
            vec![clock::judge_kept(clock::probe_kept().await)]
        }),
        Check::new(
            "identity.elsewhere",
            CHECK_TIME,
            identity::elsewhere(Arc::clone(ground), web_seed),
        ),
    ];
    let on_disk = [
        ("port.health", port_check as fn(&Ground) -> Vec<Finding>),
        ("port.swarm", swarm::check_ports),
        ("files", files_check),
        ("backup", backup_check),
        ("disk.fsync", fsync_check),
    ];
    for (area, check) in on_disk {
        let ground = Arc::clone(ground);
        checks.push(Check::blocking(area, CHECK_TIME, move || check(&ground)));
    }
    let log_ground = Arc::clone(ground);
    checks.push(Check::blocking("tasklog", TASK_LOG_TIME, move || {
        vec![tasklog::judge(&tasklog::probe(&log_ground), &log_ground)]
    }));
    let machine_ground = Arc::clone(ground);
    let needs = wanted.memory();
    checks.push(Check::new("gpu", CHECK_TIME, async move {
        machine::check(&machine_ground, needs).await
    }));
    checks.extend(model::checks(ground, wanted));
    checks
}

fn port_check(ground: &Ground) -> Vec<Finding> {
    let listen = ground.config.health.listen.as_str();
    if listen == "off" {
        return vec![Finding::ok("port.health", "off, as configured")];
    }
    let Ok(wanted) = listen.parse() else {
        return Vec::new(); // `settings` has told.
    };
    let key = "[health] listen";
    vec![ports::judge(
        "port.health",
        key,
        wanted,
        &ports::probe(),
        ground.daemon(),
    )]
}

fn files_check(ground: &Ground) -> Vec<Finding> {
    let pid = match ground.daemon() {
        Daemon::Runs(pid) => pid,
        Daemon::Stopped => None,
    };
    vec![files::judge(files::probe(pid), FILES_MIN, "a node")]
}

fn backup_check(ground: &Ground) -> Vec<Finding> {
    if !ground.home.path().exists() {
        return Vec::new(); // `identity` has told.
    }
    let known = backup::probe(ground.home.path());
    let command = ground.command("backup");
    let what = "the key node.pem is the node, and what it is owed hangs on it";
    vec![backup::judge(&known, ground.now_ms, &command, what)]
}

fn fsync_check(ground: &Ground) -> Vec<Finding> {
    let folder = ground.home.path();
    if !folder.exists() {
        return Vec::new(); // `identity` has told.
    }
    vec![disk::judge_fsync(
        "disk.fsync",
        &disk::probe_fsync(folder),
        folder,
    )]
}

/// The caps, where they parse.
fn caps(ground: &Ground) -> Option<Caps> {
    Caps::parse(&ground.config.caps).ok()
}

/// The network's documents to go by: the coordinator's, else those on the disk.
fn documents<'a>(ground: &'a Ground, live: Option<&'a Network>) -> Option<&'a Network> {
    live.or(ground.known.network.as_ref().ok())
}
