//! Invites as the coordinator gives them out once it has met other peers.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use owm_devnet::{Devnet, process::POLL};
use owm_proto::invite::Invite;

/// An invite that names peers beside the coordinator.
///
/// # Errors
/// When the coordinator gives none, or none with other peers within `limit`.
pub async fn invite_with_peers(net: &Devnet, limit: Duration) -> Result<String> {
    let coordinator = net.coordinator_ref();
    let address = coordinator.p2p_address();
    let own = address
        .rsplit_once(':')
        .map_or(address.as_str(), |(_, port)| port);
    let start = Instant::now();
    loop {
        let invite = coordinator.invite().await?;
        let parsed: Invite = invite.parse()?;
        if parsed.peers.iter().any(|peer| !peer.contains(own)) {
            return Ok(invite);
        }
        ensure!(
            start.elapsed() < limit,
            "waited too long for an invite with other peers in it"
        );
        tokio::time::sleep(POLL).await;
    }
}
