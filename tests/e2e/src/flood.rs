//! A liar of the swarm: libp2p's own gossip with none of our rules, which shouts nonsense at a node until it is
//! cut off, and comes again under another name. Bounded, for loopback only; `tests/swarm.rs` lets it loose.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libp2p::{
    Multiaddr, PeerId, SwarmBuilder,
    futures::StreamExt as _,
    gossipsub::{self, IdentTopic, MessageAuthenticity, MessageId, ValidationMode},
    identity::Keypair,
    multiaddr::Protocol,
    noise,
    swarm::SwarmEvent,
    tcp, yamux,
};
use owm_p2p::{
    gossip::{Topic, Topics},
    peer,
};
use owm_proto::{NodeKey, Sha256, genesis::NetworkId};

/// Bytes of one message: as a heartbeat with its envelope and more.
const MESSAGE_BYTES: usize = 1024;
/// Nothing happens for so long once all is said: nobody minds.
const SILENCE: Duration = Duration::from_secs(2);
/// For a connection, a subscription, a full queue or a verdict, on a slow machine.
const PATIENCE: Duration = Duration::from_mins(3);

/// What a liar got through with.
#[derive(Debug, Default, Clone, Copy)]
pub struct Told {
    /// Messages handed to the connection.
    pub messages: usize,
    /// Whether the other side hung up.
    pub cut_off: bool,
}

/// Shouts up to `messages` different pieces of nonsense at the node at `target` (a loopback address) on the
/// heartbeat topic, under the name that `seed` gives.
pub async fn shout(
    seed: [u8; 32],
    target: Multiaddr,
    network: NetworkId,
    messages: usize,
) -> Result<Told> {
    let loopback = |part: Protocol<'_>| matches!(part, Protocol::Ip4(ip) if ip.is_loopback());
    ensure!(
        target.iter().next().is_some_and(loopback),
        "not a loopback address: {target}"
    );
    let key = peer::keypair(&NodeKey::from_seed(&seed));
    let mut swarm = SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(
            tcp::Config::default(),
            noise::Config::new,
            yamux::Config::default,
        )?
        .with_behaviour(|_: &Keypair| gossip())?
        .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE * 2))
        .build();
    let topics = Topics { network, shards: 1 };
    let topic = IdentTopic::new(topics.name(Topic::Heartbeat(0)).to_string());
    swarm.behaviour_mut().subscribe(&topic)?;
    let to = target.iter().find_map(|part| match part {
        Protocol::P2p(peer) => Some(peer),
        _ => None,
    });
    let to: PeerId = to.context("the target has no name")?;
    swarm.dial(target)?;
    let (mut told, mut listens) = (Told::default(), false);
    // What is handed over is only queued: it is sent while events are waited for.
    loop {
        while listens && told.messages < messages {
            let mut nonsense = vec![0x5a; MESSAGE_BYTES];
            nonsense[..32].copy_from_slice(&seed);
            nonsense[32..40].copy_from_slice(&(told.messages as u64).to_le_bytes());
            match swarm.behaviour_mut().publish(topic.clone(), nonsense) {
                Ok(_) => told.messages += 1,
                // Its queue is full, or it does not listen any more.
                Err(_) => break,
            }
        }
        let all_said = told.messages >= messages;
        let patience = if all_said { SILENCE } else { PATIENCE };
        match tokio::time::timeout(patience, swarm.next()).await {
            Ok(Some(SwarmEvent::Behaviour(gossipsub::Event::Subscribed { .. }))) => listens = true,
            Ok(Some(SwarmEvent::ConnectionClosed { peer_id, .. })) if peer_id == to => {
                told.cut_off = true;
                break;
            }
            // It is not let in any more.
            Ok(Some(SwarmEvent::OutgoingConnectionError { .. }) | None) | Err(_) => break,
            Ok(Some(_)) => {}
        }
    }
    Ok(told)
}

fn gossip() -> gossipsub::Behaviour {
    let config = gossipsub::ConfigBuilder::default()
        .validation_mode(ValidationMode::Anonymous)
        .message_id_fn(|message| MessageId::new(Sha256::of(&message.data).as_bytes()))
        .flood_publish(true)
        .build()
        .expect("numbers that fit each other");
    gossipsub::Behaviour::new(MessageAuthenticity::Anonymous, config)
        .expect("a mode and a configuration that fit each other")
}
