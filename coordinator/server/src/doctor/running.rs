//! The running coordinator: whether there is one, whether it is ready, who is connected.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use http::HeaderMap;
use owm_service::{
    dialer::{Dialer, HttpClient, HttpOptions, NetworkPolicy},
    doctor::{
        Finding,
        ports::{Daemon, Listener},
    },
};
use serde_json::Value;

use super::Ground;
use crate::config::Config;

/// Time for an answer from this machine.
const TIME: Duration = Duration::from_secs(5);
/// Answers of ours have some hundred bytes.
const BODY_BYTES_MAX: usize = 256 << 10;
/// As the kernel names the process.
const NAME: &str = "owm-coordinator";

/// What a running coordinator says of itself.
#[derive(Debug, Default)]
pub(super) struct Running {
    /// Whether it is ready, and what each condition lacks; `None`: nobody answers, or not in our words.
    ready: Option<Vec<(String, Option<String>)>>,
    pid: Option<u32>,
    /// The public figures.
    stats: Option<Value>,
}

impl Running {
    pub(super) async fn ask(config: &Config, listeners: &io::Result<Vec<Listener>>) -> Self {
        let health = get(format!("http://{}/readyz", reach(config.health.listen)));
        let api = reach(config.api.listen);
        let stats = get(format!("http://{api}/v1/network/stats"));
        let (health, stats) = tokio::join!(health, stats);
        let ready = health.as_ref().and_then(parse_ready);
        Self {
            stats: stats.filter(|_| ready.is_some()),
            pid: listeners.as_ref().ok().and_then(|all| owner(all, config)),
            ready,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.ready.is_some()
    }

    /// A process of ours that has the health port runs, whether it answers or not.
    pub(super) fn daemon(&self) -> Daemon {
        if self.is_up() || self.pid.is_some() {
            Daemon::Runs(self.pid)
        } else {
            Daemon::Stopped
        }
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.pid
    }

    pub(super) fn nodes(&self) -> Option<u64> {
        self.stats.as_ref()?.pointer("/nodes/connected")?.as_u64()
    }
}

/// Who has the health port, if it is a coordinator.
fn owner(listeners: &[Listener], config: &Config) -> Option<u32> {
    let there = listeners
        .iter()
        .find(|l| l.address == config.health.listen)?;
    let (pid, name) = there.owner.as_ref()?;
    name.starts_with(NAME).then_some(*pid)
}

/// An address that one can connect to: `0.0.0.0` listens everywhere and is nowhere.
fn reach(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

async fn get(url: String) -> Option<Value> {
    let options = HttpOptions {
        connect_timeout: TIME,
        head_timeout: TIME,
    };
    let http = Dialer::new(NetworkPolicy::Clearnet).http_with(options);
    let asking = async {
        let answer = http.get(&url, HeaderMap::new()).await.ok()?;
        HttpClient::read_body(&url, answer, BODY_BYTES_MAX)
            .await
            .ok()
    };
    let body = tokio::time::timeout(TIME, asking).await.ok()??;
    serde_json::from_slice(&body).ok()
}

fn parse_ready(answer: &Value) -> Option<Vec<(String, Option<String>)>> {
    answer.get("ready")?.as_bool()?;
    let checks = answer.get("checks")?.as_object()?;
    let one = |(name, check): (&String, &Value)| {
        let reason = check.get("reason").and_then(Value::as_str);
        (name.clone(), reason.map(str::to_owned))
    };
    // Another daemon's health port (a node's) has other conditions.
    checks
        .contains_key("database")
        .then(|| checks.iter().map(one).collect())
}

pub(super) fn judge(ground: &Ground) -> Vec<Finding> {
    let running = &ground.running;
    let mut findings = vec![judge_process(
        running.ready.as_deref(),
        running.pid,
        &ground.command("serve"),
    )];
    findings.extend(running.stats.as_ref().and_then(judge_network));
    findings
}

fn judge_process(
    ready: Option<&[(String, Option<String>)]>,
    pid: Option<u32>,
    serve: &str,
) -> Finding {
    const AREA: &str = "process";
    let Some(checks) = ready else {
        if let Some(pid) = pid {
            let what = format!(
                "a coordinator (pid {pid}) has the health port and does not answer: it starts, hangs, or belongs to another folder"
            );
            let fix = format!("wait a few seconds; if it stays: kill {pid}, then: {serve}");
            return Finding::problem(AREA, what, fix);
        }
        return Finding::ok(AREA, format!("not running; to start it: {serve}"));
    };
    let pid = pid.map_or(String::new(), |pid| format!(" (pid {pid})"));
    let lacks: Vec<String> = checks
        .iter()
        .filter_map(|(name, reason)| Some(format!("{name}: {}", reason.as_ref()?)))
        .collect();
    if lacks.is_empty() {
        return Finding::ok(AREA, format!("runs{pid} and is ready"));
    }
    Finding::problem(
        AREA,
        format!("runs{pid}, but is not ready: {}", lacks.join("; ")),
        "put right what the findings about the database and ports say; it goes on by itself",
    )
}

/// What the public API says of the network.
fn judge_network(stats: &Value) -> Option<Finding> {
    const AREA: &str = "network";
    let connected = stats.pointer("/nodes/connected")?.as_u64()?;
    let reason = stats.get("verdict_reason")?.as_str()?;
    match stats.get("verdict")?.as_str()? {
        "ready" => Some(Finding::ok(AREA, reason)),
        "empty" => Some(Finding::warning(
            AREA,
            "no model is published: no question can be answered",
            "owm-coordinator model import <weights> --version owm-v0.1.0",
        )),
        _ => Some(Finding::warning(
            AREA,
            format!("{connected} nodes connected: {reason}"),
            "hand out an invite (owm-coordinator invite); a node's own doctor tells why it does not come",
        )),
    }
}

#[cfg(test)]
mod tests {
    use owm_service::doctor::Level;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_coordinator_is_ready_or_says_what_it_lacks() {
        let down = json!({"ready": false, "checks": {
            "database": {"ready": false, "reason": "refused"}, "rpc": {"ready": true}}});
        let checks = parse_ready(&down).unwrap();
        let finding = judge_process(Some(&checks), Some(7), "serve");
        assert_eq!(finding.level, Level::Problem);
        assert!(finding.what.contains("pid 7") && finding.what.contains("database: refused"));
        let up = json!({"ready": true, "checks": {"database": {"ready": true}}});
        let checks = parse_ready(&up).unwrap();
        assert_eq!(judge_process(Some(&checks), None, "serve").level, Level::Ok);
        assert_eq!(judge_process(None, None, "serve").level, Level::Ok);
        let hangs = judge_process(None, Some(7), "serve");
        assert_eq!(hangs.level, Level::Problem);
        assert!(hangs.what.contains("does not answer"));
    }

    #[test]
    fn another_daemons_health_port_is_not_ours() {
        let node = json!({"ready": true, "checks": {"work_link": {"ready": true}}});
        assert_eq!(parse_ready(&node), None);
        assert_eq!(parse_ready(&json!({"ok": 1})), None);
    }

    #[test]
    fn a_network_without_model_or_nodes_is_a_warning() {
        let judge = |verdict: &str| {
            let stats =
                json!({"verdict": verdict, "verdict_reason": "why", "nodes": {"connected": 3}});
            judge_network(&stats).unwrap().level
        };
        assert_eq!(judge("ready"), Level::Ok);
        assert_eq!(judge("empty"), Level::Warning);
        assert_eq!(judge("waiting"), Level::Warning);
        assert_eq!(judge_network(&json!({})), None);
    }

    #[test]
    fn an_address_that_listens_everywhere_is_asked_on_this_machine() {
        let reached = |text: &str| reach(text.parse().unwrap()).to_string();
        assert_eq!(reached("0.0.0.0:8080"), "127.0.0.1:8080");
        assert_eq!(reached("[::]:8080"), "[::1]:8080");
        assert_eq!(reached("10.0.0.1:8080"), "10.0.0.1:8080");
    }
}
