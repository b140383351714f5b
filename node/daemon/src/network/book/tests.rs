//! Documents from several mouths.

use owm_proto::{
    NodeKey,
    genesis::{DelegatedRole, Delegation, Genesis, NetworkId, Revocation, network_id},
    statement::Statement as _,
};

use super::*;

const NOW: UnixMillis = UnixMillis(100);

struct World {
    root: NodeKey,
    instance: NodeKey,
    id: NetworkId,
    genesis: Vec<u8>,
}

fn world() -> World {
    let [root, instance] = [1, 2].map(|n| NodeKey::from_seed(&[n; 32]));
    let genesis = Genesis {
        name: "t".into(),
        bitcoin_chain: "regtest".into(),
        root_public_key: root.public(),
        created_at: UnixMillis(0),
    }
    .to_bytes();
    let id = network_id(&genesis);
    World {
        root,
        instance,
        id,
        genesis,
    }
}

impl World {
    fn delegation(&self) -> SignedEnvelope {
        let said = Delegation {
            role: DelegatedRole::Instance,
            key: self.instance.public(),
            issued_at_ms: UnixMillis(0),
            expires_at_ms: UnixMillis(u64::MAX),
        };
        (&said.sign(&self.root, &self.id)).into()
    }

    fn revocation(&self) -> SignedEnvelope {
        let said = Revocation {
            key: self.instance.public(),
            revoked_at_ms: UnixMillis(5),
        };
        (&said.sign(&self.root, &self.id)).into()
    }

    fn bootstrap(&self, issued: u64, shards: u32) -> SignedEnvelope {
        let said = Bootstrap {
            issued_at_ms: UnixMillis(issued),
            shards,
            ..Bootstrap::before_any()
        };
        (&said.sign(&self.instance, &self.id)).into()
    }

    fn network(&self, change: impl FnOnce(&mut GetNetworkResponse)) -> Network {
        let mut documents = GetNetworkResponse {
            genesis: self.genesis.clone(),
            delegations: vec![self.delegation()],
            ..GetNetworkResponse::default()
        };
        change(&mut documents);
        Network::verify(Some(self.id), documents).unwrap()
    }
}

#[test]
fn a_revocation_is_not_forgotten_when_somebody_serves_older_documents() {
    let (world, folder) = (world(), tempfile::tempdir().unwrap());
    let book = NetworkBook::new(folder.path().to_owned());
    let revoked = world.network(|d| d.revocations = vec![world.revocation()]);
    book.learn(revoked, Origin::Peer, NOW).unwrap();
    for from in [Origin::Peer, Origin::Coordinator] {
        let known = book.learn(world.network(|_| {}), from, NOW).unwrap();
        let instances = known
            .network
            .trust
            .keys(DelegatedRole::Instance, UnixMillis(9));
        assert_eq!(instances, []);
    }
    let kept = Network::load(folder.path(), Some(world.id)).unwrap();
    let instances = kept.trust.keys(DelegatedRole::Instance, UnixMillis(9));
    assert_eq!(instances, [], "nor on the disk");
}

#[test]
fn the_younger_bootstrap_holds_and_a_peers_hints_give_way_to_the_coordinators() {
    let (world, folder) = (world(), tempfile::tempdir().unwrap());
    let book = NetworkBook::new(folder.path().to_owned());
    let say = |issued, shards, web_seed: &str, from| {
        let network = world.network(|d| {
            d.bootstrap = Some(world.bootstrap(issued, shards));
            d.web_seed = web_seed.into();
        });
        let known = book.learn(network, from, NOW).unwrap();
        let documents = known.network.to_documents(UnixMillis(100)).unwrap();
        let shards = documents.parameters(UnixMillis(100)).shards;
        (shards, known.network.web_seed.clone())
    };
    assert_eq!(
        say(5, 2, "http://peer", Origin::Peer),
        (2, "http://peer".into())
    );
    assert_eq!(
        say(9, 4, "http://c", Origin::Coordinator),
        (4, "http://c".into())
    );
    assert_eq!(
        say(7, 8, "http://liar", Origin::Peer),
        (4, "http://c".into())
    );
    assert_eq!(say(8, 8, "", Origin::Coordinator), (4, "http://c".into()));
}

#[test]
fn who_follows_hears_only_of_what_is_new() {
    let (world, folder) = (world(), tempfile::tempdir().unwrap());
    let book = NetworkBook::new(folder.path().to_owned());
    let mut following = book.follow();
    book.learn(world.network(|_| {}), Origin::Disk, NOW)
        .unwrap();
    assert!(following.has_changed().unwrap());
    following.mark_unchanged();
    book.learn(world.network(|_| {}), Origin::Peer, NOW)
        .unwrap();
    assert!(!following.has_changed().unwrap());
    let revoked = world.network(|d| d.revocations = vec![world.revocation()]);
    let known = book.learn(revoked, Origin::Peer, NOW).unwrap();
    assert!(following.has_changed().unwrap());
    assert_eq!(known.from, Origin::Peer);
}

#[test]
fn what_another_process_has_put_on_the_disk_is_added_to_and_never_replaced() {
    let (world, folder) = (world(), tempfile::tempdir().unwrap());
    let running = NetworkBook::new(folder.path().to_owned());
    let revoked = world.network(|d| d.revocations = vec![world.revocation()]);
    running.learn(revoked, Origin::Peer, NOW).unwrap();
    for from in [Origin::Coordinator, Origin::Peer] {
        // `init` and `models fetch` beside it know nothing but what they were just told.
        let command = NetworkBook::new(folder.path().to_owned());
        let known = command.learn(world.network(|_| {}), from, NOW).unwrap();
        assert!(known.network.is_revoked(&world.instance.public()));
        let kept = Network::load(folder.path(), Some(world.id)).unwrap();
        assert!(kept.is_revoked(&world.instance.public()), "{from:?}");
    }
}

#[test]
fn a_bootstrap_that_does_not_hold_keeps_no_other_away() {
    let (world, folder) = (world(), tempfile::tempdir().unwrap());
    let book = NetworkBook::new(folder.path().to_owned());
    let learn = |bootstrap| {
        let network = world.network(|d| d.bootstrap = Some(bootstrap));
        let known = book.learn(network, Origin::Peer, NOW).unwrap();
        let documents = known.network.to_documents(NOW).unwrap();
        documents.parameters(NOW).shards
    };
    let mut forged = world.bootstrap(90, 8);
    forged.signature[0] ^= 1;
    assert_eq!(learn(forged), 1, "nobody has signed it");
    let future = NOW.after(CLOCK_SKEW_MAX).0 + 1;
    assert_eq!(learn(world.bootstrap(future, 16)), 1, "from the future");
    assert_eq!(learn(world.bootstrap(5, 2)), 2);
    assert_eq!(learn(world.bootstrap(future, 16)), 2);
}
