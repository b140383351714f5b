//! A node among peers: real swarms on loopback, with a coordinator that is away, comes back, or was never there.

use std::{collections::BTreeSet, net::SocketAddr, path::Path, time::Duration};

use owm_node::{
    control::{self, StatusAnswer},
    home::Home,
    session::Phase,
    status::Origin,
};
use owm_p2p::error::FailedLayer;
use owm_proto::{Envelope, NodeKey, wire::coordinator::HeartbeatBody};
use owm_service::config::HumanDuration;
use prost::Message as _;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};

use super::{Fake, LOOK_EVERY, Node, PATIENCE, config, fake::BlobFault, peer::Peer, ready, start};

/// An address at which nobody listens.
async fn nobody() -> SocketAddr {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    free.local_addr().unwrap()
}

/// Lets whoever connects to `at` through to `to`.
async fn forward(at: SocketAddr, to: String) -> tokio::task::JoinHandle<()> {
    forward_from(TcpListener::bind(at).await.unwrap(), to)
}

/// Lets whoever has connected, and will, through to `to`.
fn forward_from(listener: TcpListener, to: String) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            let to: SocketAddr = to.parse().unwrap();
            tokio::spawn(async move {
                let mut there = connect(to).await;
                drop(copy_bidirectional(&mut from, &mut there).await);
            });
        }
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test's proxy, loopback only; what is tested goes through the dialer"
)]
async fn connect(to: SocketAddr) -> TcpStream {
    TcpStream::connect(to).await.unwrap()
}

/// Waits until `owm-node status` would say so.
async fn says(folder: &Path, mut is_it: impl FnMut(&StatusAnswer) -> bool) -> StatusAnswer {
    let socket = folder.join("control.sock");
    let mut last = String::new();
    let asking = async {
        loop {
            if let Ok(answer) = control::ask(&socket).await {
                if is_it(&answer) {
                    return answer;
                }
                last = format!("{answer:#?}");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let asked = tokio::time::timeout(PATIENCE, asking).await;
    asked.unwrap_or_else(|_| panic!("the status does not say so: {last}"))
}

async fn stop(node: Node) {
    node.lifecycle.shutdown();
    node.ended().await.unwrap();
}

/// A network whose coordinator cannot be reached, and a peer that knows it.
async fn without_coordinator() -> (Fake, Peer) {
    let mut fake = Fake::start().await;
    let peer = Peer::start(&fake, Some(fake.newest()));
    fake.invite.addresses = vec![nobody().await.to_string()];
    fake.invite.peers = vec![peer.address().await.to_string()];
    (fake, peer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_never_saw_its_coordinator_joins_through_a_peer_and_fetches_the_newest_model() {
    let (fake, mut peer) = without_coordinator().await;
    let folder = tempfile::tempdir().unwrap();
    let node = start(&fake, folder.path(), config());
    let key = node.key.public();
    let said = says(folder.path(), |said| {
        let swarm = said.swarm.as_ref().unwrap();
        said.status.model.is_some() && swarm.newest.is_some()
    })
    .await;
    assert_eq!(said.status.network, "fake");
    assert_eq!(said.status.origins.network, Some(Origin::Peer));
    assert_eq!(said.status.phase, Phase::Unregistered);
    let swarm = said.swarm.unwrap();
    assert_eq!(swarm.newest.unwrap().version, "owm-v0.1.0");
    let beat = peer.heartbeat(&key).await;
    assert!(beat.expires_at_ms > beat.issued_at_ms);
    let said = peer.capability(&key, |said| said.holds.len() == 3).await;
    assert_eq!(said.roles, ["infer"]);
    assert_eq!(said.checkpoint_sequence, 1);
    assert!(said.membership.is_none(), "a stranger so far");
    stop(node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_registers_and_works_when_its_coordinator_comes_back() {
    let (mut fake, _peer) = without_coordinator().await;
    let away: SocketAddr = fake.invite.addresses[0].parse().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let node = start(&fake, folder.path(), config());
    says(folder.path(), |said| said.status.model.is_some()).await;
    let forwarding = forward(away, fake.address.clone()).await;
    let stream = ready(&mut fake).await;
    // Linked first, then told by the stream what it is.
    let is_told =
        |said: &StatusAnswer| said.status.linked && said.status.origins.node_status.is_some();
    let said = says(folder.path(), is_told).await;
    assert_eq!(said.status.origins.tier, Some(Origin::Registration));
    assert_eq!(said.status.origins.node_status, Some(Origin::Stream));
    drop(stream);
    stop(node).await;
    forwarding.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_never_says_two_things_under_one_sequence() {
    let mut fake = Fake::start().await;
    let mut peer = Peer::start(&fake, None);
    fake.invite.peers = vec![peer.address().await.to_string()];
    let folder = tempfile::tempdir().unwrap();
    let node = start(&fake, folder.path(), config());
    let key = node.key.public();
    let mut sequences = BTreeSet::new();
    for _ in 0..3 {
        // Every link begins with a heartbeat, every second brings one by gossip.
        let mut stream = fake.stream().await;
        stream.hello().await;
        let envelope = Envelope::try_from(stream.heartbeat().await).unwrap();
        let said = HeartbeatBody::decode(envelope.unverified_payload()).unwrap();
        assert!(sequences.insert(said.sequence), "{}", said.sequence);
        let said = peer.heartbeat(&key).await;
        assert!(sequences.insert(said.sequence), "{}", said.sequence);
    }
    stop(node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_membership_outlives_the_process_and_is_told_while_the_coordinator_is_away() {
    let mut fake = Fake::start().await;
    fake.grant(Duration::from_hours(7 * 24));
    let mut peer = Peer::start(&fake, None);
    fake.invite.peers = vec![peer.address().await.to_string()];
    let folder = tempfile::tempdir().unwrap();
    let node = start(&fake, folder.path(), config());
    let key = node.key.public();
    drop(ready(&mut fake).await);
    let told = peer
        .capability(&key, |said| said.membership.is_some())
        .await;
    stop(node).await;
    fake.invite.addresses = vec![nobody().await.to_string()];
    let node = start(&fake, folder.path(), config());
    let again = peer
        .capability(&key, |said| said.session_id != told.session_id)
        .await;
    assert_eq!(again.membership, told.membership);
    assert!(again.sequence > told.sequence);
    let said = says(folder.path(), |said| said.status.member_until_ms.is_some()).await;
    assert_eq!(said.status.origins.membership, Some(Origin::Disk));
    assert_eq!(said.status.origins.network, Some(Origin::Disk));
    assert_eq!(said.status.tier.as_deref(), Some("t1"));
    stop(node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_remembered_peers_are_forgotten_and_written_anew() {
    let (mut fake, mut peer) = without_coordinator().await;
    let folder = tempfile::tempdir().unwrap();
    let remembered = folder.path().join("peers.json");
    std::fs::write(&remembered, b"{\"format\":1,\"peers\":{\"ab").unwrap();
    let node = start(&fake, folder.path(), config());
    let key = node.key.public();
    peer.announce(&fake).await;
    says(folder.path(), |said| {
        let swarm = said.swarm.as_ref().unwrap();
        swarm
            .nodes
            .iter()
            .any(|node| node.key == Peer::key().to_string() && node.connected)
    })
    .await;
    stop(node).await;
    let text = std::fs::read_to_string(&remembered).unwrap();
    assert!(text.contains(&peer.handle.peer().to_string()), "{text}");
    // With nothing but what it remembers, it finds its way back in.
    fake.invite.peers = vec![];
    let node = start(&fake, folder.path(), config());
    says(folder.path(), |said| {
        let sources = &said.swarm.as_ref().unwrap().sources;
        let remembered = sources.iter().find(|source| source.name == "remembered");
        remembered.is_some_and(|remembered| remembered.reached == 1)
    })
    .await;
    peer.capability(&key, |_| true).await;
    stop(node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_in_that_fails_is_told_with_its_layer_and_the_others_are_used() {
    let (mut fake, _peer) = without_coordinator().await;
    let port = nobody().await.port();
    let stranger = owm_proto::NodeKey::from_seed(&[89; 32]).public();
    let stranger = owm_p2p::peer::identity::peer_id(&stranger).unwrap();
    fake.invite
        .peers
        .push(format!("/ip4/127.0.0.1/tcp/{port}/p2p/{stranger}"));
    let folder = tempfile::tempdir().unwrap();
    let node = start(&fake, folder.path(), config());
    let said = says(folder.path(), |said| {
        let swarm = said.swarm.as_ref().unwrap();
        let invite = swarm.sources.iter().find(|source| source.name == "invite");
        invite.is_some_and(|invite| invite.reached == 1 && !invite.failures.is_empty())
    })
    .await;
    let swarm = said.swarm.unwrap();
    let invite = swarm
        .sources
        .iter()
        .find(|source| source.name == "invite")
        .unwrap();
    assert_eq!(invite.given, 2);
    let failure = &invite.failures[0];
    assert_eq!(failure.layer, FailedLayer::Transport, "{failure}");
    stop(node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_told_and_the_node_goes_on() {
    let mut fake = Fake::start().await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut config = config();
    config.p2p.listen.push(format!("/ip4/127.0.0.1/tcp/{port}"));
    let folder = tempfile::tempdir().unwrap();
    let node = start(&fake, folder.path(), config);
    drop(ready(&mut fake).await);
    let said = says(folder.path(), |said| {
        said.swarm
            .as_ref()
            .is_some_and(|swarm| !swarm.listening.is_empty())
    })
    .await;
    let swarm = said.swarm.unwrap();
    assert_eq!(swarm.problems.len(), 1);
    let problem = &swarm.problems[0];
    assert!(
        problem.contains(&port.to_string()) && problem.contains("[p2p] listen"),
        "{problem}"
    );
    stop(node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_coordinator_is_not_spoken_to_even_if_it_knows_nothing_of_it() {
    let mut fake = Fake::start().await;
    let peer = Peer::serving(&fake, fake.revoked(), None);
    fake.invite.peers = vec![peer.address().await.to_string()];
    let folder = tempfile::tempdir().unwrap();
    let held = fake.hold_network().await;
    let node = start(&fake, folder.path(), config());
    let is_told = |said: &StatusAnswer| {
        let says =
            |text: &Option<String>| text.as_ref().is_some_and(|t| t.contains("not delegated"));
        let status = &said.status;
        // Both who would speak to it have had their turn: work, and the model.
        !status.linked && says(&status.link_error) && says(&status.model_state)
    };
    says(folder.path(), is_told).await;
    assert_eq!(fake.calls(), 0);
    // Nor after it has said that its key holds.
    drop(held);
    says(folder.path(), is_told).await;
    assert_eq!(fake.calls(), 0);
    assert!(!node.task.is_finished(), "it lives on");
    stop(node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_only_peers_know_is_loaded_although_the_coordinator_hints_at_the_last_one() {
    let mut fake = Fake::start().await;
    let peer = Peer::start(&fake, Some(fake.newest()));
    fake.invite.peers = vec![peer.address().await.to_string()];
    let folder = tempfile::tempdir().unwrap();
    let node = start(&fake, folder.path(), config());
    // Its welcome hints at the version that is loaded.
    let stream = ready(&mut fake).await;
    let has = |version: &'static str| {
        move |said: &StatusAnswer| {
            let model = said.status.model.as_ref();
            said.status.linked && model.is_some_and(|model| model.version == version)
        }
    };
    says(folder.path(), has("owm-v0.1.0")).await;
    peer.handle.announce_checkpoint(fake.next()).await.unwrap();
    says(folder.path(), has("owm-v0.2.0")).await;
    drop(stream);
    stop(node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_behind_what_a_node_has_had_is_told_of_once_and_followed_never() {
    let mut fake = Fake::start().await;
    let peer = Peer::start(&fake, Some(fake.next()));
    fake.invite.peers = vec![peer.address().await.to_string()];
    let folder = tempfile::tempdir().unwrap();
    let node = start(&fake, folder.path(), config());
    let has_next = |said: &StatusAnswer| {
        let model = said.status.model.as_ref();
        model.is_some_and(|model| model.version == "owm-v0.2.0")
    };
    let stream = ready(&mut fake).await;
    says(folder.path(), has_next).await;
    stop(node).await;
    drop(stream);
    // Again, and nobody of the swarm is there to say that there is a newer one.
    let mut alone = config();
    alone.p2p.enabled = false;
    let node = start(&fake, folder.path(), alone);
    let stream = ready(&mut fake).await;
    let said = says(folder.path(), |said| {
        let state = said.status.model_state.as_deref();
        state.is_some_and(|state| state.contains("older"))
    })
    .await;
    assert!(has_next(&said) && !said.status.model_failed, "{said:#?}");
    stop(node).await;
    drop(stream);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_seed_that_nobody_answers_at_gives_way_to_the_other() {
    let (mut fake, _peer) = without_coordinator().await;
    fake.invite.web_seed = Some(format!("http://{}", nobody().await));
    let folder = tempfile::tempdir().unwrap();
    let node = start(&fake, folder.path(), config());
    says(folder.path(), |said| said.status.model.is_some()).await;
    stop(node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_appears_later_takes_over_from_a_web_seed_that_gives_nothing() {
    let mut fake = Fake::start().await;
    let (has, lacks) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let node = start(&fake, has.path(), config());
    drop(ready(&mut fake).await);
    stop(node).await;
    // From now on the web seed takes questions and never answers, and nobody is so impatient as to give it up.
    fake.spoil_files([BlobFault::Stall; 1_000]);
    let asked = fake.files_asked();
    let mut patient = config();
    patient.model.stall = HumanDuration::from_secs(24 * 60 * 60);
    let home = Home::open(lacks.path()).unwrap();
    NodeKey::load_or_create(&home.key(), &[66; 32]).unwrap();
    let newcomer = start(&fake, lacks.path(), patient);
    let said = says(lacks.path(), |said| {
        let swarm = said.swarm.as_ref();
        swarm.is_some_and(|swarm| !swarm.listening.is_empty()) && fake.files_asked() > asked
    })
    .await;
    let swarm = said.swarm.unwrap();
    let mut knows = config();
    knows.p2p.peers = vec![format!("{}/p2p/{}", swarm.listening[0], swarm.peer_id)];
    let node = start(&fake, has.path(), knows);
    says(lacks.path(), |said| said.status.model.is_some()).await;
    stop(newcomer).await;
    stop(node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_whose_documents_do_not_hold_ends_only_a_node_without_peers() {
    let mut fake = Fake::start().await;
    fake.delegate(false);
    let alone = tempfile::tempdir().unwrap();
    let error = start(&fake, alone.path(), config()).ended().await;
    let error = format!("{:?}", error.unwrap_err());
    assert!(error.contains("not delegated"), "{error}");
    // The peer answers after the coordinator has.
    let peer = Peer::start(&fake, None);
    let address = peer.address().await;
    let port = |address: &owm_p2p::Multiaddr| match address.iter().nth(1) {
        Some(owm_p2p::multiaddr::Protocol::Tcp(port)) => port,
        other => panic!("no TCP port: {other:?}"),
    };
    let gate = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = gate.local_addr().unwrap().port();
    fake.invite.peers = vec![format!(
        "/ip4/127.0.0.1/tcp/{at}/p2p/{}",
        peer.handle.peer()
    )];
    let folder = tempfile::tempdir().unwrap();
    let node = start(&fake, folder.path(), config());
    says(folder.path(), |said| {
        let why = said.status.link_error.as_deref().unwrap_or_default();
        said.status.network.is_empty() && why.contains("not delegated")
    })
    .await;
    let forwarding = forward_from(gate, format!("127.0.0.1:{}", port(&address)));
    says(folder.path(), |said| said.status.network == "fake").await;
    drop(ready(&mut fake).await);
    stop(node).await;
    forwarding.abort();
}
