//! The first thing a node does: find out whom it may believe. Goes on with what is on the disk while the
//! coordinator is away.

use owm_proto::wire::coordinator::{RegisterNodeBody, SignedEnvelope};
use owm_service::{RunError, backoff::Backoff, report::Chain};
use prost::Message as _;
use tokio::sync::watch;

use super::{Frame, JoinError, Parts, fetch_network};
use crate::{
    home::{Home, read_small},
    link::Coordinator,
    network::{Network, NetworkError},
    orders::Orders,
    status::Status,
};

/// Two envelopes around some hundred bytes.
const OWNER_BINDING_BYTES_MAX: u64 = 64 << 10;

/// Fetches and verifies the network's documents; `None`: told to stop or to drain meanwhile.
pub(super) async fn join(
    frame: &Frame,
    parts: &Parts,
    coordinator: &Coordinator,
    status: &watch::Sender<Status>,
    mut orders: watch::Receiver<Orders>,
) -> Result<Option<Network>, RunError> {
    let section = &parts.config.coordinator;
    let mut backoff = Backoff::new(section.reconnect_min.get(), section.reconnect_max.get(), 2);
    let mut rng = frame.seed.rng("join");
    loop {
        let error = match fetch_network(coordinator, &parts.invite, &frame.clock).await {
            Ok(network) => {
                network.store(&parts.home.network())?;
                let name = &network.trust.genesis().name;
                tracing::info!(network.name = %name, network.id = %network.trust.id(), "network verified");
                return Ok(Some(network));
            }
            Err(JoinError::Network(error)) => return Err(RunError::failed(error)),
            Err(JoinError::Call(error)) => Chain(&error).to_string(),
        };
        if let Some(network) = from_disk(parts) {
            tracing::warn!(%error, "going on with the network documents on the disk");
            return Ok(Some(network));
        }
        let wait = backoff.next(&mut rng);
        let wait_ms = wait.as_millis() as u64;
        tracing::warn!(%error, wait_ms, "the network cannot be verified yet");
        status.send_modify(|status| status.link_error = Some(error));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = frame.lifecycle.shutdown_requested() => return Ok(None),
            Ok(_) = orders.wait_for(|orders| orders.drain.is_some()) => return Ok(None),
        }
    }
}

fn from_disk(parts: &Parts) -> Option<Network> {
    match Network::load(&parts.home.network(), Some(parts.invite.genesis)) {
        Ok(network) => Some(network),
        Err(NetworkError::Missing { .. }) => None,
        Err(error) => {
            let error = Chain(&error).to_string();
            tracing::warn!(%error, "the network documents on the disk are not used");
            None
        }
    }
}

/// What `init --owner-key` has left.
pub(super) fn owner_binding(home: &Home) -> Result<Vec<SignedEnvelope>, RunError> {
    let Some(bytes) = read_small(&home.owner_binding(), OWNER_BINDING_BYTES_MAX)? else {
        return Ok(Vec::new());
    };
    Ok(RegisterNodeBody::decode(bytes.as_slice())?.owner_binding)
}
