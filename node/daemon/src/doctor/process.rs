//! The running daemon: whether there is one, how it is, how the last one ended, whether it has to be
//! started again.

use std::{os::unix::fs::MetadataExt as _, path::Path};

use owm_service::doctor::{Finding, ports::Daemon};

use super::Ground;
use crate::{
    control::{self, ControlError, StatusAnswer},
    home::Home,
    last_exit::LastExit,
    orders::Pause,
    session::Phase,
};

/// Milliseconds by which a configuration may be younger than the process that read it.
const MTIME_SLACK_MS: u64 = 2_000;

/// What can be known of the process.
#[derive(Debug)]
pub(super) struct ProcessFacts {
    /// `None`: not asked yet.
    answer: Option<Result<StatusAnswer, ControlError>>,
    /// Who holds the folder's lock: a process id, 0 if it is another container's.
    lock: Option<u32>,
    last: Option<LastExit>,
    /// When the configuration was changed last, Unix milliseconds.
    config_at_ms: Option<u64>,
}

impl ProcessFacts {
    pub(super) fn probe(home: &Home, config: &Path) -> Self {
        let modified = std::fs::metadata(config).and_then(|found| found.modified());
        let since = modified
            .ok()
            .and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        Self {
            answer: None,
            lock: lock_holder(&home.path().join("lock")),
            last: LastExit::load(home),
            config_at_ms: since.map(|since| since.as_millis() as u64),
        }
    }

    pub(super) async fn ask(&mut self, home: &Home) {
        self.answer = Some(control::ask(&home.control()).await);
    }

    pub(super) fn status(&self) -> Option<&crate::status::Status> {
        match &self.answer {
            Some(Ok(answer)) => Some(&answer.status),
            _ => None,
        }
    }

    pub(super) fn swarm(&self) -> Option<&crate::swarm::SwarmPicture> {
        match &self.answer {
            Some(Ok(answer)) => answer.swarm.as_ref(),
            _ => None,
        }
    }

    pub(super) fn daemon(&self) -> Daemon {
        match (self.status(), self.lock) {
            (Some(status), _) => Daemon::Runs(Some(status.pid)),
            (None, Some(pid)) => Daemon::Runs(Some(pid).filter(|pid| *pid > 0)),
            (None, None) => Daemon::Stopped,
        }
    }
}

/// Who holds a `flock` on `path`, from the kernel's table, so that nothing is locked by looking.
fn lock_holder(path: &Path) -> Option<u32> {
    let found = std::fs::metadata(path).ok()?;
    let device = found.dev();
    let id = format!(
        "{:02x}:{:02x}:{}",
        nix::sys::stat::major(device),
        nix::sys::stat::minor(device),
        found.ino()
    );
    parse_locks(&std::fs::read_to_string("/proc/locks").ok()?, &id)
}

/// `1: FLOCK  ADVISORY  WRITE 4711 fd:01:123456 0 EOF`
fn parse_locks(table: &str, id: &str) -> Option<u32> {
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let found = fields.contains(&"FLOCK") && fields.get(5) == Some(&id);
        found.then(|| fields[4].parse().unwrap_or(0))
    })
}

pub(super) fn judge(ground: &Ground) -> Vec<Finding> {
    let facts = &ground.process;
    let Some(status) = facts.status() else {
        return vec![judge_silent(facts, &ground.command("start"))];
    };
    let mut findings = vec![judge_running(status, &ground.command("status"))];
    findings.extend(judge_taking(status, &ground.command("resume")));
    findings.extend(judge_admission(status));
    let key = ground.key.public().map(|key| key.to_string());
    let reasons = restart_reasons(status, facts.config_at_ms, key.as_deref());
    findings.extend(reasons.into_iter().map(|why| {
        let fix = format!(
            "stop the node (kill {}), then: {}",
            status.pid,
            ground.command("start")
        );
        Finding::warning("restart", why, fix)
    }));
    findings
}

const AREA: &str = "process";

fn judge_silent(facts: &ProcessFacts, start: &str) -> Finding {
    if facts.lock == Some(0) {
        return Finding::problem(
            AREA,
            "a process of another container or of the host holds this folder and does not answer on the \
             control socket",
            format!(
                "look at it there (its id is not visible from here), end it there, then: {start}"
            ),
        );
    }
    if let Some(pid) = facts.lock {
        let what = format!(
            "a process (pid {pid}) holds this folder and does not answer on the control socket: it starts, hangs, or is another version"
        );
        let fix = format!("wait a few seconds; if it stays: kill {pid}, then: {start}");
        return Finding::problem(AREA, what, fix);
    }
    match &facts.last {
        Some(last) if last.is_fenced() => Finding::problem(
            AREA,
            "fenced: this node ended (code 78) because another process runs with its key",
            format!(
                "stop the other one, then: {start}; to run two, give one a key of its own: owm-node init --join <invite> --dir <other folder>"
            ),
        ),
        Some(last) if last.running => Finding::warning(
            AREA,
            "not running; the last run ended without a word: killed, out of memory, or the power failed",
            format!(
                "look for the reason (journalctl -k | grep -i oom; [caps] ram limits the model), then: {start}"
            ),
        ),
        Some(last) if last.code != 0 => Finding::warning(
            AREA,
            format!(
                "not running; the last run ended with code {}: {}",
                last.code, last.reason
            ),
            start,
        ),
        _ => Finding::ok(AREA, format!("not running; to start it: {start}")),
    }
}

fn judge_running(status: &crate::status::Status, ask: &str) -> Finding {
    let pid = status.pid;
    match (status.phase, &status.link_error) {
        (Phase::Active, _) if status.linked => Finding::ok(
            AREA,
            format!("runs (pid {pid}), connected to {}", status.coordinator),
        ),
        (Phase::Draining | Phase::Over, _) => {
            let what = format!("is stopping (pid {pid}): it finishes its tasks first");
            Finding::warning(AREA, what, format!("wait until it has ended: {ask}"))
        }
        (_, Some(error)) => Finding::problem(
            AREA,
            format!("runs (pid {pid}), but is not connected: {error}"),
            "put right what the findings about address, clock and invite say; it connects by itself then",
        ),
        _ => Finding::warning(
            AREA,
            format!("runs (pid {pid}), not connected yet"),
            format!("wait a few seconds, then: {ask}"),
        ),
    }
}

/// Whether its operator lets it take work.
fn judge_taking(status: &crate::status::Status, resume: &str) -> Option<Finding> {
    const AREA: &str = "work";
    match status.pause {
        Some(Pause { until_ms: None, .. }) => Some(Finding::warning(
            AREA,
            "paused without an end: it takes no new work",
            format!("when it shall work again: {resume}"),
        )),
        Some(_) => {
            let what =
                format!("paused for some time: takes no new work until then, or until {resume}");
            Some(Finding::ok(AREA, what))
        }
        None if !status.open => {
            let what = "outside its hours ([caps] hours): takes no new work until they begin";
            Some(Finding::ok(AREA, what))
        }
        None => None,
    }
}

/// What the coordinator wants of this node before it gets work.
fn judge_admission(status: &crate::status::Status) -> Option<Finding> {
    const AREA: &str = "admission";
    let standing = status.node_status.as_deref();
    if !status.reasons.is_empty() {
        let what = format!("pending: {}", status.reasons.join("; "));
        let fix = "give the coordinator what it asks for; the node tries again by itself";
        return Some(Finding::problem(AREA, what, fix));
    }
    match standing? {
        "active" => {
            let tier = status.tier.as_deref().unwrap_or("unknown");
            Some(Finding::ok(AREA, format!("active, tier {tier}")))
        }
        "suspended" => Some(Finding::problem(
            AREA,
            "suspended by the coordinator's operator",
            "ask the operator why (owm-coordinator node show <key>)",
        )),
        other => Some(Finding::warning(
            AREA,
            format!("{other}, so it may get no work"),
            "look at the coordinator's reason: GET /v1/nodes/<key>/status",
        )),
    }
}

/// Why the running process is not what a fresh one would be.
fn restart_reasons(
    status: &crate::status::Status,
    config_at_ms: Option<u64>,
    key: Option<&str>,
) -> Vec<String> {
    let mut reasons = Vec::new();
    if config_at_ms.is_some_and(|at| at > status.started_at_ms + MTIME_SLACK_MS) {
        reasons.push("the configuration was changed after the node had started".to_owned());
    }
    if key.is_some_and(|key| key != status.node_key) {
        reasons.push("the running node has another key than node.pem".to_owned());
    }
    if status.software_version != crate::VERSION {
        reasons.push(format!(
            "the running node is version {}, this program {}",
            status.software_version,
            crate::VERSION
        ));
    }
    reasons
}

#[cfg(test)]
mod tests;
