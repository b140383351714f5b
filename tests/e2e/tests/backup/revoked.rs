//! A coordinator restored from a backup that is older than the revocation of its key: the first peer tells it, and
//! no restart helps.

use std::{fs, path::Path};

use owm_devnet::{
    Devnet, paths,
    process::{Process, Spawn},
};
use owm_e2e::peers::{MachineClock, Peer};
use owm_p2p::{Clock as _, Documents, NetworkPolicy, SwarmConfig};
use owm_proto::{
    Envelope, NodeKey,
    genesis::{Revocation, network_id},
};

use super::{LIMIT, coordinator::new_database, network, run_coordinator, text};

/// What the root key has signed since the backup was made: the network's documents with the coordinator's own
/// key revoked.
fn since(dir: &Path) -> Documents {
    let now = MachineClock::default().wall();
    let genesis = fs::read(dir.join("genesis.json")).unwrap();
    let network = network_id(&genesis);
    let [root, instance] =
        ["offline/root.pem", "instance.pem"].map(|key| NodeKey::load(&dir.join(key)).unwrap());
    let delegations = ["instance", "release"].map(|role| {
        let stored = fs::read(dir.join("delegations").join(role).with_extension("bin"));
        Envelope::from_stored(&stored.unwrap()).unwrap()
    });
    let revocation = Revocation {
        key: instance.public(),
        revoked_at_ms: now,
    };
    Documents::verify(
        Some(network),
        genesis,
        delegations.to_vec(),
        vec![revocation.sign(&root, &network)],
        None,
        String::new(),
        now,
    )
    .unwrap()
}

fn start(net: &Devnet, config: &Path, peer: &str) -> Process {
    let program = paths::program("owm-coordinator").unwrap();
    Spawn::new(
        "the restored coordinator",
        program,
        net.logs().join("restored.log"),
    )
    .args(["serve", "--config", text(config)])
    .env("OWM_P2P__PEERS", format!("[\"{peer}\"]"))
    .start()
    .unwrap()
}

async fn ends_for_good(process: &mut Process) {
    let death = tokio::time::timeout(LIMIT, process.died()).await.unwrap();
    let said = format!("{death:#}\n{}", process.log_tail());
    assert!(said.contains("ended with code 78"), "{said}");
    assert!(said.contains("has revoked the instance key"), "{said}");
}

#[tokio::test]
async fn a_restored_coordinator_whose_key_was_revoked_meanwhile_ends_and_stays_down() {
    let mut net = network(0).await;
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("owm.tar");
    let args = ["backup", "--json", "--to", text(&backup)];
    net.coordinator_ref().command(&args).await.unwrap();
    let documents = since(net.coordinator_ref().dir());
    net.coordinator().stop().await.unwrap();

    let (_, url_file) = new_database(&mut net, "restored", folder.path());
    let dir = folder.path().join("new");
    let args = ["restore", "--from", text(&backup), "--dir", text(&dir)];
    let database = ["--database-url-file", text(&url_file)];
    run_coordinator(&[&args[..], &database].concat())
        .await
        .unwrap();

    // The network goes on, and knows.
    let listening = SwarmConfig {
        policy: NetworkPolicy::LoopbackOnly,
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        ..SwarmConfig::default()
    };
    let peer = Peer::start(31, listening, documents).unwrap();
    let listens = peer.sees("its address", LIMIT, |view| !view.listening.is_empty());
    let address = listens.await.unwrap().listening[0].to_string();
    let address = peer.at(&address).unwrap().to_string();

    let config = dir.join("coordinator.toml");
    let kept = || fs::read_dir(dir.join("revocations")).map_or(0, Iterator::count);
    assert_eq!(kept(), 0, "the backup is older");
    ends_for_good(&mut start(&net, &config, &address)).await;
    assert_eq!(kept(), 1);
    // Nobody needs to tell it again.
    peer.handle.stop();
    ends_for_good(&mut start(&net, &config, &address)).await;
    net.stop().await.unwrap();
}
