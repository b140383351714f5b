//! What the root key has said since the start, as peers tell of it: kept, served and gone by.

use owm_p2p::Documents;
use owm_proto::{
    NodeKey, PublicKey, UnixMillis,
    genesis::{DelegatedRole, Delegation, Revocation, TrustRoot},
};
use owm_service::reconcile::Reconciler as _;

use super::*;
use crate::identity::IdentityError;

impl Peer {
    /// The network's documents with one statement more of the root key.
    fn documents_with(
        &self,
        app: &App,
        delegation: Option<Envelope>,
        revoked: &PublicKey,
    ) -> Documents {
        let statements = app.authority.statements();
        let revocation = Revocation {
            key: *revoked,
            revoked_at_ms: UnixMillis(1),
        };
        let revocation = revocation.sign(&root_key(app), &self.network);
        Documents::verify(
            Some(self.network),
            app.authority.genesis.clone(),
            statements
                .delegations
                .iter()
                .cloned()
                .chain(delegation)
                .collect(),
            vec![revocation],
            Some(app.swarm.bootstrap().clone()),
            String::new(),
            app.wall(),
        )
        .unwrap()
    }
}

fn root_key(app: &App) -> NodeKey {
    NodeKey::load(&app.authority.dir.join("offline/root.pem")).unwrap()
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn what_peers_know_of_the_root_keys_statements_is_kept_served_and_gone_by(pool: PgPool) {
    let site = site(pool).await;
    let app: &TestApp = &site.app;
    assert!(announce(app).await);
    let peer = site.peer(27).await;
    let old = app.authority.release_key().unwrap().public();
    let next = NodeKey::from_seed(&[91; 32]);
    let delegation = Delegation {
        role: DelegatedRole::Release,
        key: next.public(),
        issued_at_ms: app.wall(),
        expires_at_ms: app.wall().after(Duration::from_hours(24)),
    };
    let delegation = delegation.sign(&root_key(app), &peer.network);
    let documents = peer.documents_with(app, Some(delegation), &old);
    peer.handle.set_documents(documents).await.unwrap();
    let keys = |trust: &TrustRoot| trust.keys(DelegatedRole::Release, app.wall());
    app.until(async || keys(&app.authority.statements().trust) == [next.public()])
        .await;
    assert_eq!(app.authority.statements().revocations.len(), 1);
    // It is in the folder, for the next start and for other programs.
    let again = Authority::load(&app.authority.dir, app.wall()).unwrap();
    assert_eq!(keys(&again.statements().trust), [next.public()]);
    assert_eq!(again.statements().delegations.len(), 3);
    // What the revoked key has signed is announced no more; nothing is tried again for it.
    let handle = app.swarm.handle().unwrap();
    app.until(async || handle.view().borrow().checkpoint.is_none())
        .await;
    assert!(announce(app).await);
    assert!(handle.view().borrow().checkpoint.is_none());
    assert!(!site.lifecycle.is_shutting_down());
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_coordinator_whose_own_key_is_revoked_stops_and_does_not_start_again(pool: PgPool) {
    let site = site(pool).await;
    let app: &TestApp = &site.app;
    let peer = site.peer(28).await;
    let documents = peer.documents_with(app, None, &app.authority.instance.public());
    peer.handle.set_documents(documents).await.unwrap();
    site.lifecycle.shutdown_requested().await;
    let refused = Authority::load(&app.authority.dir, app.wall()).unwrap_err();
    assert!(matches!(refused, IdentityError::Revoked(_)), "{refused}");
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_checkpoint_whose_key_is_not_known_yet_is_told_again_with_new_documents(pool: PgPool) {
    let site = site(pool).await;
    let app: &TestApp = &site.app;
    let reconciler = crate::tasks::announce::Announce::new(app.app.clone());
    let handle = app.swarm.handle().unwrap();
    // As a second release key, delegated at another coordinator, has published it into the same database.
    let next = NodeKey::from_seed(&[92; 32]);
    let release = app.authority.dir.join("release.pem");
    std::fs::remove_file(&release).unwrap();
    next.create(&release).unwrap();
    let published = crate::publish::Release {
        source: "tiny".into(),
        version: "owm-v0.0.2".parse().unwrap(),
        sub_models: vec!["owm-geo".parse().unwrap()],
        default_sub_model: "owm-geo".parse().unwrap(),
        sequence: Some(7),
    };
    let (store, blobs, authority) = (&app.store, &app.blobs, &app.authority);
    crate::publish::publish(store, blobs, authority, &published, app.now(), &mut |_| {})
        .await
        .unwrap();
    reconciler.run().await.unwrap();
    let sequence = || {
        handle
            .view()
            .borrow()
            .checkpoint
            .as_ref()
            .map(|c| c.sequence)
    };
    assert_eq!(sequence(), None, "nobody knows its key");
    let peer = site.peer(29).await;
    let delegation = Delegation {
        role: DelegatedRole::Release,
        key: next.public(),
        issued_at_ms: app.wall(),
        expires_at_ms: app.wall().after(Duration::from_hours(24)),
    };
    let delegation = delegation.sign(&root_key(app), &peer.network);
    let nobody = NodeKey::from_seed(&[93; 32]).public();
    let documents = peer.documents_with(app, Some(delegation), &nobody);
    peer.handle.set_documents(documents).await.unwrap();
    app.until(async || {
        reconciler.run().await.unwrap();
        sequence() == Some(7)
    })
    .await;
}
