//! Starting and stopping the swarm. Called by `serve` before the database is there: peers meet and serve each
//! other without it, and a port that is taken stops the start at once.

use std::{
    convert::Infallible,
    net::{Ipv6Addr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use owm_p2p::{Clock, Multiaddr, P2pError, Start, SwarmConfig, multiaddr::Protocol};
use owm_proto::{UnixMillis, genesis::GenesisError};
use owm_service::{clock::SharedClock, lifecycle::Lifecycle};
use rand::Rng as _;

use super::{documents, fold, settings, ways};
use crate::app::App;

/// Why this coordinator is no peer.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The documents do not fit together.
    #[error("the network's documents cannot be served to peers: {0}")]
    Documents(#[from] GenesisError),
    /// The swarm itself.
    #[error(transparent)]
    Swarm(#[from] P2pError),
}

/// The machine's clock as the swarm takes it.
#[derive(Debug)]
struct PeerClock(SharedClock);

impl Clock for PeerClock {
    fn wall(&self) -> UnixMillis {
        UnixMillis(self.0.now_ms())
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }
}

/// Where this machine can listen: most without IPv6 have the default settings, so that is no fault.
fn listen(configured: &[Multiaddr]) -> Vec<Multiaddr> {
    let ip6 = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    let every_ip6 =
        |a: &Multiaddr| matches!(a.iter().next(), Some(Protocol::Ip6(ip)) if ip.is_unspecified());
    let mut all = configured.to_vec();
    all.retain(|address| ip6 || !every_ip6(address));
    all
}

/// Starts the swarm, if the configuration wants it, and what takes its news. All of it ends with `lifecycle`.
pub fn start(app: &App, lifecycle: &Lifecycle) -> Result<(), StartError> {
    if !app.config.p2p.enabled {
        tracing::info!("this coordinator takes no part in the swarm: [p2p] enabled = false");
        return Ok(());
    }
    let web_seed = &app.config.invite.web_seed;
    let documents = documents(&app.authority, &app.swarm, web_seed, app.wall())?;
    let (handle, news, running) = owm_p2p::start(Start {
        config: SwarmConfig {
            ways: ways::ways(&app.config, app.wall()),
            listen: listen(&app.config.p2p.listen),
            ..settings::swarm_config(&app.config)
        },
        key: &app.authority.instance,
        network: app.network(),
        documents: Some(documents),
        // The database knows it; it is announced as soon as it answers.
        newest: None,
        clock: Arc::new(PeerClock(app.wall_clock())),
        seed: app.seed.rng("swarm").random(),
    })?;
    app.swarm.started(handle.clone());
    let remembering = ways::remember(handle.clone(), Arc::clone(&app.config), lifecycle.soft());
    let (stopped, running) = (lifecycle.soft(), Box::pin(running));
    let stop = handle.clone();
    lifecycle.spawn("swarm", async move {
        let ending = async {
            // Asks the swarm for the peers to be remembered once more, so it goes first.
            remembering.await;
            stopped.cancelled().await;
            stop.stop();
        };
        tokio::join!(ending, running);
        Ok::<(), Infallible>(())
    });
    let listening = fold::listen(app.clone(), news, lifecycle.soft());
    lifecycle.spawn("swarm.news", listening);
    lifecycle.spawn("swarm.fold", fold::run(app.clone(), lifecycle.soft()));
    tracing::info!(peer = %handle.peer(), "this coordinator is a peer of the swarm");
    Ok(())
}
