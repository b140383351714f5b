//! The configuration: keys, values, and what only shows when a value is used.

use std::net::SocketAddr;

use owm_proto::SubModelId;
use owm_service::{
    config::Examined,
    doctor::{Finding, config, shell},
};

use super::Ground;
use crate::{caps::Caps, config::NodeConfig, swarm::Settings};

const AREA: &str = "config";
/// Longest path of a Unix socket, in bytes (`sun_path` without its NUL).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// What is wrong with the file, the environment and the values.
pub(super) fn judge(examined: &Examined<NodeConfig>, ground: &Ground) -> Vec<Finding> {
    let file = shell(&ground.path);
    let make = "owm-node init --join <invite> --dir <folder> (or name the right file: --config)";
    let mut findings = config::judge(examined, &ground.path, make, "docs/operations.md");
    let values = values(
        &ground.config,
        ground.home.control().as_os_str().len(),
        &file,
    );
    if !values.is_empty() {
        findings.retain(|finding| finding.level != owm_service::doctor::Level::Ok);
        findings.extend(values);
    }
    findings
}

/// What parses but can't be used.
fn values(config: &NodeConfig, socket_path_bytes: usize, file: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut wrong = |what: String, fix: String| findings.push(Finding::problem(AREA, what, fix));
    if let Err(error) = Caps::parse(&config.caps) {
        wrong(
            format!("[caps] {error}"),
            format!(
                "in {file}, [caps] hours = [\"22:00-06:00\"] and utc_offset = \"+02:00\" show how"
            ),
        );
    }
    let listen = config.health.listen.as_str();
    match listen.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => {}
        Err(_) if listen == "off" => {}
        _ => wrong(
            format!("[health] listen = `{listen}` is no loopback address with a port"),
            format!("in {file}, [health] listen = \"127.0.0.1:9091\", or \"off\""),
        ),
    }
    for id in &config.model.sub_models {
        if let Err(error) = id.parse::<SubModelId>() {
            wrong(
                format!("[model] sub_models: {error}"),
                format!("in {file}, [model] sub_models = [\"owm-geo\"], or [] for all"),
            );
        }
    }
    for error in Settings::parse(&config.p2p).err().unwrap_or_default() {
        let fix = format!("in {file}, {}", error.example());
        wrong(error.to_string(), fix);
    }
    if socket_path_bytes > SOCKET_PATH_BYTES_MAX {
        wrong(
            format!(
                "the control socket's path has {socket_path_bytes} bytes, the system allows {SOCKET_PATH_BYTES_MAX}"
            ),
            format!("move the node to a folder with a shorter path ([node] data in {file})"),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_parse_and_cannot_be_used_are_told() {
        let mut config = NodeConfig::default();
        assert_eq!(values(&config, 50, "f"), vec![]);
        config.health.listen = "off".into();
        assert_eq!(values(&config, 50, "f"), vec![]);
        config.health.listen = "0.0.0.0:9091".into();
        config.caps.hours = vec!["late".into()];
        config.model.sub_models = vec!["Nonsense!".into()];
        config.p2p.peers = vec!["203.0.113.7:4001".into()];
        assert_eq!(values(&config, 200, "f").len(), 5);
    }
}
