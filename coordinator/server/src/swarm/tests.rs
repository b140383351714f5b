//! The coordinator as a peer: a real Postgres, and real peers in this process on loopback.

mod statements;

use std::{convert::Infallible, time::Duration};

use owm_coordinator_store::{
    gossip::sightings,
    node::{Node, node_lookup, node_set_status},
    session::minutes_count,
};
use owm_p2p::{Handle, News, Start, SwarmConfig};
use owm_proto::{
    NodeId, NodeKey, NodeStatus, Purpose, Sha256,
    wire::{coordinator::HeartbeatBody, gossip::CapabilityBody},
};
use owm_service::{clock::SystemClock, dialer::NetworkPolicy, lifecycle::Lifecycle};
use prost::Message as _;
use sqlx::{Executor as _, PgPool};
use tokio::sync::mpsc;

use super::*;
use crate::app::{
    App,
    testing::{TestApp, app_with},
};

/// A coordinator that is a peer. Dropping it stops both.
struct Site {
    app: TestApp,
    lifecycle: Lifecycle,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.lifecycle.shutdown();
    }
}

fn on_loopback(config: &mut Config) {
    config.p2p.network = NetworkPolicy::LoopbackOnly;
    config.p2p.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
}

async fn site(pool: PgPool) -> Site {
    let app = app_with(pool, on_loopback).await;
    let lifecycle = Lifecycle::new(Duration::from_secs(5));
    start(&app, &lifecycle).unwrap();
    Site { app, lifecycle }
}

/// Another peer of the same network.
struct Peer {
    key: NodeKey,
    handle: Handle,
    news: mpsc::Receiver<News>,
    network: owm_proto::genesis::NetworkId,
}

#[derive(Debug)]
struct Wall;

impl owm_p2p::Clock for Wall {
    fn wall(&self) -> UnixMillis {
        UnixMillis(SystemClock::shared().now_ms())
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.wall().0)
    }
}

impl Site {
    /// A peer that knows only the network's id and where the coordinator is.
    async fn peer(&self, n: u8) -> Peer {
        let app = &self.app;
        app.until(async || !app.swarm.peers().is_empty()).await;
        let key = NodeKey::from_seed(&[n; 32]);
        let (handle, news, running) = owm_p2p::start(Start {
            config: SwarmConfig {
                policy: owm_p2p::NetworkPolicy::LoopbackOnly,
                listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
                ..SwarmConfig::default()
            },
            key: &key,
            network: app.network(),
            documents: None,
            newest: None,
            clock: Arc::new(Wall),
            seed: [n; 32],
        })
        .unwrap();
        let name = format!("peer{n}");
        let running = Box::pin(running);
        self.lifecycle.spawn(&name, async move {
            running.await;
            Ok::<(), Infallible>(())
        });
        let addresses = app.swarm.peers();
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        handle.add_candidates("static", addresses).await.unwrap();
        Peer {
            key,
            handle,
            news,
            network: app.network(),
        }
    }

    async fn node(&self, id: NodeId) -> Node {
        let mut tx = self.app.store.begin("test").await.unwrap();
        node_lookup(&mut tx, id).await.unwrap().unwrap()
    }

    async fn minutes(&self, id: NodeId) -> u64 {
        let mut tx = self.app.store.begin("test").await.unwrap();
        minutes_count(&mut tx, id, UnixMillis(0)).await.unwrap()
    }
}

fn heartbeat(key: &NodeKey, network: &owm_proto::genesis::NetworkId, sequence: u64) -> Envelope {
    let now = owm_p2p::Clock::wall(&Wall).rounded_for_state();
    let body = HeartbeatBody {
        issued_at_ms: now.0,
        expires_at_ms: now.after(Duration::from_mins(5)).0,
        sequence: now.0 + sequence,
        session_id: vec![1; 16],
        running_tasks: 2,
        loaded_sha256: vec![],
    };
    Envelope::sign(key, Purpose::Heartbeat, network, body.encode_to_vec())
}

fn capability(sequence: u64) -> CapabilityBody {
    let now = owm_p2p::Clock::wall(&Wall).rounded_for_state();
    CapabilityBody {
        issued_at_ms: now.0,
        expires_at_ms: now.after(Duration::from_mins(30)).0,
        sequence: now.0 + sequence,
        session_id: vec![1; 16],
        software_version: "0.9.0".into(),
        roles: vec!["infer".into()],
        addresses: vec![
            "/ip4/127.0.0.1/tcp/4321"
                .parse::<Multiaddr>()
                .unwrap()
                .to_vec(),
        ],
        holds: vec![vec![3; 32], vec![4; 32]],
        checkpoint_sequence: 1,
        ..CapabilityBody::default()
    }
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_peer_s_heartbeat_and_announcement_reach_the_database_and_change_no_status(pool: PgPool) {
    let site = site(pool).await;
    let (node, _) = site.app.register(21).await;
    let mut tx = site.app.store.begin("test").await.unwrap();
    let degraded = NodeStatus::Degraded;
    node_set_status(&mut tx, node.node_id, degraded, "test", site.app.now())
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let peer = site.peer(21).await;
    peer.announce(heartbeat(&peer.key, &peer.network, 1)).await;
    let says = capability(1).encode_to_vec();
    peer.announce(Envelope::sign(
        &peer.key,
        Purpose::Capability,
        &peer.network,
        says,
    ))
    .await;
    let app = &site.app;
    app.until(async || site.node(node.node_id).await.last_heartbeat.is_some())
        .await;
    let announced = async || {
        let mut tx = app.store.begin("test").await.unwrap();
        let mut seen = sightings(&mut tx, &[node.node_id]).await.unwrap();
        seen.remove(&node.node_id).unwrap().announced
    };
    app.until(async || announced().await.is_some()).await;
    let (says, _) = announced().await.unwrap();
    assert_eq!((says.software_version.as_str(), says.holds), ("0.9.0", 2));
    assert_eq!(says.addresses, ["/ip4/127.0.0.1/tcp/4321"]);
    let after = site.node(node.node_id).await;
    assert_eq!(
        (after.status, after.status_reason.as_str()),
        (degraded, "test")
    );
    assert_eq!(site.minutes(node.node_id).await, 1);
    assert_eq!(app.metrics.swarm.heartbeats_of("fresh"), 1);
}

/// What the reconciler does.
async fn announce(app: &App) -> bool {
    let model = app.current_model().await.unwrap().unwrap();
    checkpoint::announce(app, &model).await.unwrap()
}

impl Peer {
    async fn announce(&self, envelope: Envelope) {
        self.handle.announce(envelope).await.unwrap();
    }
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_newcomer_learns_documents_and_the_signed_checkpoint_from_the_coordinator(pool: PgPool) {
    let site = site(pool.clone()).await;
    let app = &site.app;
    assert!(announce(app).await);
    let mut peer = site.peer(22).await;
    let (mut documents, mut newest) = (None, None);
    while documents.is_none() || newest.is_none() {
        let news = tokio::time::timeout(Duration::from_mins(1), peer.news.recv());
        match news.await.expect("news in time").expect("the swarm runs") {
            News::Documents(found) => documents = Some(found),
            News::Checkpoint(found) => newest = Some(found),
            News::Heartbeat { .. } | News::Capability { .. } => {}
        }
    }
    let numbers = documents.unwrap().parameters(app.wall());
    assert_eq!(numbers, parameters(&app.config, numbers.issued_at_ms));
    let newest = newest.unwrap();
    assert_eq!(newest.checkpoint.version.as_str(), "owm-v0.0.1");
    let model = app.current_model().await.unwrap().unwrap();
    assert_eq!(newest.manifest, model.manifest);
    let bytes = model.envelope.unverified_payload();
    assert_eq!(newest.checkpoint.manifest_sha256, Sha256::of(bytes));
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_version_published_without_a_checkpoint_gets_one_if_the_release_key_is_here(
    pool: PgPool,
) {
    let app = app_with(pool.clone(), on_loopback).await;
    // As a release without checkpoints left it.
    let undone =
        "ALTER TABLE checkpoints DISABLE TRIGGER checkpoints_append_only; DELETE FROM checkpoints;
        ALTER TABLE checkpoints ENABLE TRIGGER checkpoints_append_only";
    pool.execute(undone).await.unwrap();
    let count = async || -> i64 {
        let count = sqlx::query_scalar("SELECT count(*) FROM checkpoints");
        count.fetch_one(&pool).await.unwrap()
    };
    let key = app.authority.dir.join("release.pem");
    let hidden = app.authority.dir.join("elsewhere.pem");
    std::fs::rename(&key, &hidden).unwrap();
    assert!(announce(&app).await, "nothing more can be done");
    assert_eq!(count().await, 0, "without the key there is none");
    std::fs::rename(&hidden, &key).unwrap();
    assert!(announce(&app).await);
    assert!(announce(&app).await);
    assert_eq!(count().await, 1);
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn after_a_restore_what_peers_refuse_is_final_and_a_higher_sequence_is_taken(pool: PgPool) {
    let site = site(pool).await;
    let app = &site.app;
    // What this coordinator has published and its restored database does not know.
    let key = app.authority.release_key().unwrap();
    let lost = owm_proto::manifest::Manifest {
        sequence: 5,
        ..app.current_model().await.unwrap().unwrap().manifest.clone()
    };
    let manifest_envelope =
        Envelope::sign(&key, Purpose::Manifest, &app.network(), lost.to_bytes());
    let (checkpoint, envelope) = checkpoint::sign(&key, &app.network(), &lost, &manifest_envelope);
    let lost = owm_p2p::news::NewestCheckpoint {
        checkpoint,
        envelope,
        manifest: lost,
        manifest_envelope,
    };
    let handle = app.swarm.handle().unwrap();
    handle.announce_checkpoint(lost).await.unwrap();
    let sequence = || {
        let view = handle.view().borrow().clone();
        view.checkpoint.as_ref().map(|known| known.sequence)
    };
    app.until(async || sequence() == Some(5)).await;
    assert!(announce(app).await, "trying again changes nothing");
    let release = |sequence| crate::publish::Release {
        source: "tiny".into(),
        version: "owm-v0.0.2".parse().unwrap(),
        sub_models: vec!["owm-geo".parse().unwrap()],
        default_sub_model: "owm-geo".parse().unwrap(),
        sequence: Some(sequence),
    };
    let publish = async |release| {
        let (store, blobs, authority) = (&app.store, &app.blobs, &app.authority);
        crate::publish::publish(store, blobs, authority, &release, app.now(), &mut |_| {}).await
    };
    let taken = publish(release(1)).await.unwrap_err().to_string();
    assert!(taken.contains("2 is the lowest"), "{taken}");
    publish(release(6)).await.unwrap();
    app.until(async || announce(app).await && sequence() == Some(6))
        .await;
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_taken_port_stops_the_start_with_what_to_do(pool: PgPool) {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}", taken.local_addr().unwrap().port());
    let app = app_with(pool, |config| {
        on_loopback(config);
        config.p2p.listen = vec![address.parse().unwrap()];
    })
    .await;
    let lifecycle = Lifecycle::new(Duration::from_secs(5));
    let refused = start(&app, &lifecycle).unwrap_err().to_string();
    for word in [address.as_str(), "taken", "[p2p] listen"] {
        assert!(refused.contains(word), "{word}: {refused}");
    }
    lifecycle.shutdown();
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_minute_counts_once_by_stream_and_gossip_and_at_two_coordinators(pool: PgPool) {
    let one = app_with(pool.clone(), on_loopback).await;
    let (node, key) = one.register(23).await;
    let stranger = NodeKey::from_seed(&[99; 32]);
    let heard = |key: &NodeKey, sequence| News::Heartbeat {
        node: key.public(),
        body: HeartbeatBody {
            sequence,
            ..HeartbeatBody::default()
        },
    };
    let _ = fold::take(
        &one,
        [heard(&key, 7), heard(&key, 7), heard(&stranger, 1)].into_iter(),
    );
    fold::write(&one).await.unwrap();
    // What a second coordinator on the same database would write.
    let _ = fold::take(&one, [heard(&key, 7)].into_iter());
    fold::write(&one).await.unwrap();
    let of = |outcome| one.metrics.swarm.heartbeats_of(outcome);
    assert_eq!((of("fresh"), of("known"), of("stranger")), (1, 2, 1));
    let mut tx = one.store.begin("test").await.unwrap();
    let minutes = minutes_count(&mut tx, node.node_id, UnixMillis(0))
        .await
        .unwrap();
    assert_eq!(minutes, 1);
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn what_is_heard_while_the_database_is_away_is_written_when_it_is_back(pool: PgPool) {
    let app = app_with(pool.clone(), on_loopback).await;
    let (node, key) = app.register(24).await;
    pool.execute("ALTER TABLE node_minutes RENAME TO gone")
        .await
        .unwrap();
    let body = HeartbeatBody {
        sequence: 5,
        ..HeartbeatBody::default()
    };
    let node_key = key.public();
    let _ = fold::take(
        &app,
        [News::Heartbeat {
            node: node_key,
            body,
        }]
        .into_iter(),
    );
    fold::write(&app).await.unwrap_err();
    pool.execute("ALTER TABLE gone RENAME TO node_minutes")
        .await
        .unwrap();
    fold::write(&app).await.unwrap();
    let mut tx = app.store.begin("test").await.unwrap();
    assert_eq!(
        minutes_count(&mut tx, node.node_id, UnixMillis(0))
            .await
            .unwrap(),
        1
    );
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn words_that_postgres_does_not_take_are_cleaned_at_the_door(pool: PgPool) {
    let app = app_with(pool, on_loopback).await;
    let (node, key) = app.register(25).await;
    let body = CapabilityBody {
        software_version: "1\0\u{1b}[31m".repeat(100),
        roles: vec!["in\0fer".into(); 100],
        addresses: vec![vec![0xff; 9], vec![]],
        ..capability(9)
    };
    let news = News::Capability {
        node: key.public(),
        body: Box::new(body),
    };
    let _ = fold::take(&app, [news].into_iter());
    fold::write(&app).await.unwrap();
    let mut tx = app.store.begin("test").await.unwrap();
    let mut seen = sightings(&mut tx, &[node.node_id]).await.unwrap();
    let (says, _) = seen.remove(&node.node_id).unwrap().announced.unwrap();
    assert!(says.software_version.starts_with("1[31m") && says.software_version.len() == 64);
    assert_eq!((says.roles.len(), says.roles[0].as_str()), (8, "infer"));
    assert!(says.addresses.iter().all(|a| !a.contains('\0')), "{says:?}");
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn peers_of_an_earlier_run_are_found_again_without_being_named(pool: PgPool) {
    let first = site(pool.clone()).await;
    let peer = first.peer(26).await;
    let app = &first.app;
    let listening = async || !peer.handle.view().borrow().listening.is_empty();
    app.until(listening).await;
    // The coordinator dials it once, because it is told to.
    let address = peer.handle.view().borrow().listening[0].clone();
    let address = address.with_p2p(peer.handle.peer()).unwrap();
    let own = app.swarm.handle().unwrap();
    own.add_candidates("static", vec![address]).await.unwrap();
    let known = async || {
        let book = own.remembered().await.unwrap();
        let book = String::from_utf8(book).unwrap();
        book.contains(&peer.handle.peer().to_string())
    };
    app.until(known).await;
    let named = peer.handle.peer();
    first.lifecycle.shutdown();
    let saved = app.authority.dir.join("swarm-peers.json");
    app.until(async || saved.exists()).await;
    // The next run, in the same folder.
    let again = ways::ways(&app.config, app.wall()).remembered.unwrap();
    assert!(again.get(&named).is_some(), "{again:?}");
}
