//! What a swarm announces under each policy, by the protocols of a real connection handler.

use libp2p::{
    PeerId,
    swarm::{
        ConnectionHandler as _, ConnectionId, NetworkBehaviour as _, handler::UpgradeInfoSend as _,
    },
};
use owm_proto::NodeKey;

use super::*;
use crate::{Transport, peer};

/// The protocols that a peer answers on a new connection.
fn protocols(policy: NetworkPolicy) -> Vec<String> {
    let config = SwarmConfig {
        policy,
        // Even if it is asked for.
        mdns: policy == NetworkPolicy::OnionOnly,
        ..SwarmConfig::default()
    };
    let (key, network) = (NodeKey::from_seed(&[1; 32]), NetworkId(Sha256::of(b"n")));
    let relayed = Transport::clearnet(&key).unwrap().relay;
    let key = peer::keypair(&key);
    let mut behaviour = behaviour(&config, &key, &network, relayed).unwrap();
    let address = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
    let id = ConnectionId::new_unchecked(1);
    let handler =
        behaviour.handle_established_inbound_connection(id, PeerId::random(), &address, &address);
    let listens = handler.unwrap().listen_protocol();
    let names = listens.upgrade().protocol_info();
    names
        .map(|name| AsRef::<str>::as_ref(&name).to_owned())
        .collect()
}

#[tokio::test]
async fn an_onion_only_swarm_answers_no_protocol_that_could_tell_an_address() {
    let leaks = ["/ipfs/id/", "autonat", "dcutr", "circuit", "kad"];
    let leaking = |names: &[String]| -> Vec<String> {
        let leaks = |name: &&String| leaks.iter().any(|leak| name.contains(leak));
        names.iter().filter(leaks).cloned().collect()
    };
    let open = protocols(NetworkPolicy::Clearnet);
    assert!(leaking(&open).len() >= 3, "{open:?}");
    let onion = protocols(NetworkPolicy::OnionOnly);
    assert_eq!(leaking(&onion), Vec::<String>::new());
    let mut kinds = ["/meet/1", "/meshsub/", "/ipfs/ping/"].into_iter();
    assert!(
        kinds.all(|kind| onion.iter().any(|name| name.contains(kind))),
        "{onion:?}"
    );
}

#[test]
fn over_onions_nobody_is_first_with_an_own_message_everywhere() {
    let floods_under = [
        NetworkPolicy::Clearnet,
        NetworkPolicy::LoopbackOnly,
        NetworkPolicy::OnionOnly,
    ]
    .map(mesh::floods);
    assert_eq!(floods_under, [true, true, false]);
}
