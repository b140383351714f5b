//! Joining without the coordinator: whichever of the invite's and the configuration's peers answers first.

use std::sync::Arc;

use owm_p2p::{
    Unavailable,
    join::{Join, JoinError, Joined, join},
};
use owm_proto::{NodeKey, invite::Invite};
use owm_service::{clock::SystemClock, report::Chain};
use serde_json::{Value, json};

use crate::{
    config::NodeConfig,
    home::Home,
    network::{Network, NetworkBook},
    status::Origin,
    swarm::{Settings, SwarmClock, addresses, keep_checkpoint, resolver},
};

/// What came of it.
pub(super) enum Met {
    /// A peer had the documents; they are on the disk now.
    Yes {
        network: String,
        joined: Box<Joined>,
    },
    /// None had, each with its layer; empty: none is known, or something else is wrong.
    No {
        why: String,
        failures: Vec<Unavailable>,
    },
}

/// Asks all of them at once.
pub(super) async fn try_peers(
    config: &NodeConfig,
    home: &Home,
    key: &NodeKey,
    invite: &Invite,
) -> Met {
    let failed = |why: String| Met::No {
        why,
        failures: Vec::new(),
    };
    let settings = match Settings::parse(&config.p2p) {
        Ok(settings) => settings,
        Err(wrong) => {
            let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
            return failed(wrong.join("; "));
        }
    };
    if !config.p2p.enabled {
        return failed("[p2p] enabled = false".to_owned());
    }
    let mut peers = addresses(&invite.peers);
    peers.extend(settings.peers);
    let policy = settings.swarm.policy;
    let clock = Arc::new(SwarmClock(SystemClock::shared()));
    let wanted = Join::new(invite.genesis, peers, policy, clock).with_resolver(resolver(policy));
    let joined = match join(wanted, key).await {
        Ok(joined) => joined,
        Err(JoinError::Unreachable(failures)) => {
            return Met::No {
                why: format!("none of {} peers could be joined through", failures.len()),
                failures,
            };
        }
        Err(error) => return failed(Chain(&error).to_string()),
    };
    match keep(home, &joined) {
        Ok(network) => Met::Yes {
            network,
            joined: Box::new(joined),
        },
        Err(error) => failed(Chain(error.as_ref()).to_string()),
    }
}

/// The next start finds it; says the network's name.
fn keep(home: &Home, joined: &Joined) -> Result<String, Box<dyn std::error::Error>> {
    let network = Network::of_peer(&joined.documents)?;
    let book = NetworkBook::new(home.network());
    let known = book.learn(network, Origin::Peer, super::now())?;
    if let Some(newest) = &joined.newest {
        keep_checkpoint(&home.newest_checkpoint(), newest)?;
    }
    Ok(known.network.trust.genesis().name.clone())
}

pub(super) fn lines(met: &Met) -> Vec<String> {
    match met {
        Met::Yes { network, joined } => {
            let newest = joined.newest.as_ref().map_or_else(
                || "no model version known there".to_owned(),
                |newest| format!("newest version {}", newest.checkpoint.version),
            );
            vec![format!(
                "peer:          network \"{network}\" verified, {newest}; from {}",
                joined.address
            )]
        }
        Met::No { why, failures } => {
            let mut lines = vec![format!("peers:         not now: {why}")];
            lines.extend(
                failures
                    .iter()
                    .map(|failure| format!("               {failure}")),
            );
            lines
        }
    }
}

pub(super) fn value(met: &Met) -> Value {
    match met {
        Met::Yes { network, joined } => json!({
            "reached": true,
            "network": network,
            "from": joined.from.to_string(),
            "address": joined.address,
            "newest": joined.newest.as_ref().map(|newest| &newest.checkpoint.version),
            "failures": joined.failures,
        }),
        Met::No { why, failures } => {
            json!({ "reached": false, "error": why, "failures": failures })
        }
    }
}
