//! The configuration: keys, values, and what contradicts itself.

use owm_service::{
    config::Examined,
    doctor::{Finding, Level, config, shell},
};

use super::Ground;
use crate::{
    config::Config,
    serve::{self, ServeError},
};

const AREA: &str = "config";

pub(super) fn judge(examined: &Examined<Config>, ground: &Ground) -> Vec<Finding> {
    let file = shell(&ground.path);
    let make =
        "owm-coordinator init --dir <folder> --name <name> (or name the right file: --config)";
    let sample = "owm-coordinator config sample";
    let mut findings = config::judge(examined, &ground.path, make, sample);
    let values = values(&ground.config, &file);
    if !values.is_empty() {
        findings.retain(|finding| finding.level != Level::Ok);
        findings.extend(values);
    }
    findings.push(judge_open(&ground.config, &file));
    findings
}

/// What parses but can't be used, or does not fit together.
fn values(config: &Config, file: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Err(error @ ServeError::Stake) = serve::check(config) {
        let fix = format!("in {file}, [policy] stake = \"not required\"");
        findings.push(Finding::problem(AREA, error.to_string(), fix));
    }
    if let Err(error @ ServeError::Swarm(_)) = serve::check(config) {
        let fix = format!(
            "in {file}, see the comments of `owm-coordinator config sample`, section [p2p]"
        );
        findings.push(Finding::problem(AREA, error.to_string(), fix));
    }
    if !config.health.listen.ip().is_loopback() {
        findings.push(Finding::problem(
            AREA,
            format!("[health] listen = {} is not loopback: health and metrics are for this machine only", config.health.listen),
            format!("in {file}, [health] listen = \"127.0.0.1:{}\"", config.health.listen.port()),
        ));
    }
    if config.invite.addresses.is_empty() {
        findings.push(Finding::problem(
            AREA,
            "[invite] addresses is empty: nobody can join",
            format!(
                "in {file}, [invite] addresses = [\"<name of this machine>:{}\"]",
                config.rpc.listen.port()
            ),
        ));
    }
    let is_local = |text: &String| {
        ["127.", "localhost", "[::1]"]
            .iter()
            .any(|l| text.starts_with(l))
    };
    if !config.rpc.listen.ip().is_loopback() && config.invite.addresses.iter().all(is_local) {
        findings.push(Finding::warning(
            AREA,
            "invites name this machine's loopback address only, though [rpc] listen is reachable from elsewhere",
            format!("in {file}, [invite] addresses = [\"<public name>:{}\"], then hand out new invites", config.rpc.listen.port()),
        ));
    }
    findings
}

/// The API without keys is for a devnet.
fn judge_open(config: &Config, file: &str) -> Finding {
    const AREA: &str = "api.open";
    match (config.api.open, config.api.listen.ip().is_loopback()) {
        (false, _) => Finding::ok(AREA, "the API asks for keys"),
        (true, true) => Finding::ok(AREA, "open to everybody on this machine, as on a devnet"),
        (true, false) => Finding::problem(
            AREA,
            format!("the API is open to everybody on {}", config.api.listen),
            format!(
                "in {file}, [api] open = false, and make keys: owm-coordinator api-key create <name>"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_contradict_each_other_are_told() {
        let mut config = Config::default();
        assert_eq!(values(&config, "c.toml"), vec![]);
        config.health.listen = "0.0.0.0:9090".parse().unwrap();
        config.policy.stake = crate::config::StakeSetting::Required;
        config.rpc.listen = "0.0.0.0:9000".parse().unwrap();
        assert_eq!(values(&config, "c.toml").len(), 3);
        config.invite.addresses = vec!["coordinator.example:9000".into()];
        assert_eq!(values(&config, "c.toml").len(), 2);
        config.invite.addresses.clear();
        assert!(
            values(&config, "c.toml")
                .iter()
                .any(|f| f.what.contains("nobody can join"))
        );
    }

    #[test]
    fn the_api_is_open_on_loopback_only() {
        let mut config = Config::default();
        let level = |config: &Config| judge_open(config, "c.toml").level;
        assert_eq!(level(&config), Level::Ok);
        config.api.open = true;
        assert_eq!(level(&config), Level::Ok);
        config.api.listen = "0.0.0.0:8080".parse().unwrap();
        assert_eq!(level(&config), Level::Problem);
    }
}
