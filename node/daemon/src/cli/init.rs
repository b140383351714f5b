//! `owm-node init`: makes the folder, the key and the configuration, and tries the coordinator, then the
//! invite's peers: any one has the network's documents. Nobody there is told, layer by layer, and is no failure.

mod peers;

use std::path::{Path, PathBuf};

use clap::Args;
use owm_proto::{
    NodeKey, UnixMillis,
    invite::Invite,
    statement::{OwnerBinding, Statement as _},
    wire::coordinator::RegisterNodeBody,
};
use owm_service::{
    RunError,
    clock::SystemClock,
    dialer::{Dialer, NetworkPolicy},
    failpoint,
    report::Chain,
    rng::Seed,
    tls::Identity,
};
use prost::Message as _;
use rand::RngCore as _;
use serde_json::json;

use super::{Output, block_on, default_folder};
use crate::{
    config::{NodeConfig, sample_with_invite},
    daemon::{JoinError, fetch_network},
    home::{Home, read_small, write_atomically},
    link::{CallError, Coordinator},
    network::{Network, NetworkBook},
    status::Origin,
};

/// A configuration larger than this is none.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  owm-node init --join owm1…\n  owm-node init --join owm1… --dir ./node-a --owner-key ~/owner.pem"
)]
pub(super) struct InitArgs {
    /// The invite, as `owm-coordinator invite` prints it.
    #[arg(long, value_name = "INVITE")]
    join: String,
    /// The node's folder [default: ~/.owm/node].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The owner's Ed25519 key (PKCS#8 PEM); without it the node owns itself.
    #[arg(long, value_name = "FILE")]
    owner_key: Option<PathBuf>,
}

pub(super) fn run(arguments: &InitArgs, output: Output) -> Result<(), RunError> {
    let invite: Invite = arguments.join.parse().map_err(RunError::usage)?;
    let folder = match &arguments.dir {
        Some(folder) => folder.clone(),
        None => default_folder()?,
    };
    std::fs::create_dir_all(&folder)?;
    let config_path = folder.join("owm.toml");
    let config = make_config(&config_path, &invite)?;
    failpoint::hit(crate::INIT_CONFIG_WRITTEN);
    let home = Home::open(&config.data_folder(&config_path))?;
    // Long-term keys come straight from the operating system.
    let mut seed = [0; 32];
    Seed::from_os().rng("node key").fill_bytes(&mut seed);
    let key = NodeKey::load_or_create(&home.key(), &seed)?;
    failpoint::hit(crate::INIT_KEY_WRITTEN);
    let owner = match &arguments.owner_key {
        Some(path) => bind_owner(&home, &key, path, &invite)?,
        None => key.public(),
    };
    let reached = block_on(try_coordinator(&config, &home, &key, &invite))??;
    let met = match &reached {
        Ok(_) => None,
        Err(_) => Some(block_on(peers::try_peers(&config, &home, &key, &invite))?),
    };
    let mut lines = vec![
        format!("node key:      {}", key.public()),
        format!("owner:         {owner}"),
        format!("network:       {}", invite.genesis),
        format!("configuration: {}", config_path.display()),
        format!("data:          {}", home.path().display()),
    ];
    match &reached {
        Ok(network) => lines.push(format!(
            "coordinator:   reached, network \"{}\" verified",
            network.trust.genesis().name
        )),
        Err(error) => lines.push(format!("coordinator:   not now: {error}")),
    }
    lines.extend(met.iter().flat_map(peers::lines));
    lines.push(format!(
        "next:          owm-node start --config {}",
        config_path.display()
    ));
    let value = json!({
        "node_key": key.public(),
        "owner": owner,
        "network_id": invite.genesis,
        "config": config_path,
        "data": home.path(),
        "coordinator": match &reached {
            Ok(network) => json!({ "reached": true, "network": network.trust.genesis().name }),
            Err(error) => json!({ "reached": false, "error": error }),
        },
        "peer": met.as_ref().map(peers::value),
    });
    output.answer(&value, &lines);
    Ok(())
}

/// Writes the commented sample, or accepts what is there if it is for the same network.
fn make_config(path: &Path, invite: &Invite) -> Result<NodeConfig, RunError> {
    if read_small(path, CONFIG_BYTES_MAX)?.is_none() {
        write_atomically(path, sample_with_invite(&invite.to_string()).as_bytes())?;
    }
    let config: NodeConfig =
        owm_service::config::load(Some(path), "OWM").map_err(RunError::usage)?;
    let there: Result<Invite, _> = config.coordinator.invite.parse();
    match there {
        Ok(there) if there.genesis == invite.genesis => Ok(config),
        _ => Err(RunError::failed(format!(
            "{} is there already and is not for this network; a node belongs to one network: give \
             this one a folder of its own (--dir), or remove that one",
            path.display()
        ))),
    }
}

fn now() -> UnixMillis {
    use owm_service::clock::Clock as _;
    UnixMillis(SystemClock::new().now_ms())
}

fn bind_owner(
    home: &Home,
    node: &NodeKey,
    owner_key: &Path,
    invite: &Invite,
) -> Result<owm_proto::PublicKey, RunError> {
    let owner = NodeKey::load(owner_key)?;
    let said = OwnerBinding {
        owner: owner.public(),
        node: node.public(),
        issued_at_ms: now(),
    };
    let signed = [
        said.sign(&owner, &invite.genesis),
        said.sign(node, &invite.genesis),
    ];
    let owner_binding = signed.iter().map(Into::into).collect();
    let body = RegisterNodeBody {
        owner_binding,
        ..RegisterNodeBody::default()
    };
    write_atomically(&home.owner_binding(), &body.encode_to_vec())?;
    Ok(owner.public())
}

/// `Ok(Err(…))`: it cannot be reached, which is no failure; documents that do not hold are one.
async fn try_coordinator(
    config: &NodeConfig,
    home: &Home,
    key: &NodeKey,
    invite: &Invite,
) -> Result<Result<Network, String>, RunError> {
    let identity = Identity::from_pkcs8_der(&key.to_pkcs8_der())?;
    let dialer = Dialer::new(NetworkPolicy::Clearnet);
    let timeout = config.coordinator.call_timeout.get();
    let coordinator =
        Coordinator::new(&dialer, &identity, invite, timeout).map_err(RunError::usage)?;
    let mut failures = Vec::new();
    for _ in &invite.addresses {
        let target = coordinator.target().to_owned();
        match fetch_network(&coordinator, invite, &SystemClock::shared()).await {
            Ok(network) => {
                let book = NetworkBook::new(home.network());
                let known = book.learn(network, Origin::Coordinator, now())?;
                // What this folder knows already may take the coordinator's key back.
                known.network.check_instance(invite, now())?;
                return Ok(Ok(known.network.clone()));
            }
            Err(JoinError::Network(error)) => return Err(RunError::failed(error)),
            Err(JoinError::Call(error)) => {
                let text = match &error {
                    CallError::Unreachable { layer, message } => {
                        format!("{target} fails at {}: {message}", layer.as_str())
                    }
                    CallError::Refused { .. } => format!("{target}: {}", Chain(&error)),
                };
                failures.push(text);
            }
        }
    }
    Ok(Err(failures.join("; ")))
}

#[cfg(test)]
mod tests;
