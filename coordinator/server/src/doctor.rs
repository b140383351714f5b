//! `owm-coordinator doctor`: everything about this coordinator that can be wrong, with what to do.
//! `cli` calls [`examine`]. Each room below holds judgements (facts in, findings out, pure) and the thin
//! probes that gather the facts.
//! Must stay true: nothing is changed, in the database neither; it works with and without a running
//! coordinator, and with a broken configuration (then the rest is looked at with the defaults).

mod blobs;
mod database;
mod identity;
mod running;
mod settings;
mod spool;
mod swarm;

use std::{path::PathBuf, sync::Arc, time::Duration};

use owm_coordinator_store::Vault;
use owm_proto::genesis::TrustRoot;
use owm_service::{
    clock::SharedClock,
    config::Examined,
    doctor::{
        CHECK_TIME, Check, Finding, backup, clock, disk, files,
        ports::{self, Listener},
        shell, together,
    },
};
use running::Running;

use crate::{
    config::Config,
    identity::{IdentityError, trust, vault},
};

/// Time for the database: some queries, each with a limit of its own.
const DATABASE_TIME: Duration = Duration::from_secs(30);
/// File descriptors besides nodes: database, blobs, users of the API.
const FILES_MIN: u64 = 512;
/// File descriptors for each connected node: its Work stream's connection, and one in passing.
const FILES_PER_NODE: u64 = 2;

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
    config: Config,
    quick: bool,
    now_ms: u64,
    trust: Result<TrustRoot, IdentityError>,
    vault: Result<Vault, IdentityError>,
    listeners: std::io::Result<Vec<Listener>>,
    running: Running,
}

impl Ground {
    /// A command of ours: `owm-coordinator serve --config …`.
    fn command(&self, verb: &str) -> String {
        format!("owm-coordinator {verb} --config {}", shell(&self.path))
    }
}

/// Looks at everything.
pub async fn examine(options: Options, time: SharedClock) -> Vec<Finding> {
    let now_ms = time.now_ms();
    let reading = tokio::task::spawn_blocking(move || gather(options, now_ms));
    let read = tokio::time::timeout(CHECK_TIME, reading).await;
    let Ok(Ok((examined, mut ground))) = read else {
        let what = "the configuration's disk does not answer";
        let fix = "look at `dmesg` and `df`, then run doctor again";
        return vec![Finding::problem("config", what, fix)];
    };
    ground.running = Running::ask(&ground.config, &ground.listeners).await;
    let ground = Arc::new(ground);
    let mut findings = settings::judge(&examined, &ground);
    if examined.parsed {
        findings.extend(identity::judge(&ground));
    }
    findings.extend(running::judge(&ground));
    findings.extend(together(checks(&ground)).await);
    findings
}

/// Everything that small files tell.
fn gather(options: Options, now_ms: u64) -> (Examined<Config>, Ground) {
    let Options {
        config: path,
        quick,
    } = options;
    let mut examined = owm_service::config::examine::<Config>(&path, "OWM");
    examined.config.resolve(&path);
    let dir = &examined.config.identity.dir;
    let ground = Ground {
        quick,
        now_ms,
        trust: trust(dir),
        vault: vault(dir),
        listeners: ports::probe(),
        running: Running::default(),
        config: examined.config.clone(),
        path,
    };
    (examined, ground)
}

fn checks(ground: &Arc<Ground>) -> Vec<Check<'static>> {
    let mut checks = vec![
        Check::new(
            "database",
            DATABASE_TIME,
            database::check(Arc::clone(ground)),
        ),
        Check::new("clock.service", CHECK_TIME, async {
            vec![clock::judge_kept(clock::probe_kept().await)]
        }),
        blobs::check(ground),
    ];
    let on_disk = [
        ("ports", port_check as fn(&Ground) -> Vec<Finding>),
        ("files", files_check),
        ("disk", disk_check),
        ("backup", backup_check),
        ("spool", spool::check),
    ];
    for (area, check) in on_disk {
        let ground = Arc::clone(ground);
        checks.push(Check::blocking(area, CHECK_TIME, move || check(&ground)));
    }
    checks
}

fn port_check(ground: &Ground) -> Vec<Finding> {
    let config = &ground.config;
    let wanted = [
        ("port.rpc", "[rpc] listen", config.rpc.listen),
        ("port.api", "[api] listen", config.api.listen),
        ("port.health", "[health] listen", config.health.listen),
    ];
    let daemon = ground.running.daemon();
    let judge = |(area, key, wanted)| ports::judge(area, key, wanted, &ground.listeners, daemon);
    let mut findings: Vec<Finding> = wanted.into_iter().map(judge).collect();
    findings.extend(swarm::judge(config, &ground.listeners, daemon));
    findings
}

fn files_check(ground: &Ground) -> Vec<Finding> {
    let nodes = ground.running.nodes().unwrap_or(0);
    let needed = nodes
        .saturating_mul(FILES_PER_NODE)
        .saturating_add(FILES_MIN);
    let what = format!("a coordinator with {nodes} nodes");
    vec![files::judge(
        files::probe(ground.running.pid()),
        needed,
        &what,
    )]
}

fn disk_check(ground: &Ground) -> Vec<Finding> {
    let folder = &ground.config.identity.dir;
    if !folder.exists() {
        return Vec::new(); // `identity` has told.
    }
    let fix = "move the coordinator's folder to a larger disk";
    let mut findings = match disk::probe_room(folder) {
        Ok(room) => disk::judge_room("disk", room, 0, "", folder, fix),
        Err(error) => vec![Finding::warning(
            "disk",
            format!("cannot ask how much room there is: {error}"),
            format!("df -h {}", shell(folder)),
        )],
    };
    let measured = disk::probe_fsync(folder);
    findings.push(disk::judge_fsync("disk.fsync", &measured, folder));
    findings
}

fn backup_check(ground: &Ground) -> Vec<Finding> {
    let folder = &ground.config.identity.dir;
    if !folder.exists() {
        return Vec::new(); // `identity` has told.
    }
    let what = "the keys here are the network, and the database holds what is owed";
    let command = ground.command("backup");
    vec![backup::judge(
        &backup::probe(folder),
        ground.now_ms,
        &command,
        what,
    )]
}
