//! A folder made by `init`: whole without a coordinator, kept by a second `init`, refused to another network.

use owm_proto::{PublicKey, genesis::NetworkId};

use super::*;

fn invite(network: &[u8]) -> Invite {
    Invite {
        genesis: NetworkId(owm_proto::Sha256::of(network)),
        instance_key: PublicKey([7; 32]),
        // A reserved port that nobody serves.
        addresses: vec!["127.0.0.1:1".into()],
        onion: None,
        peers: vec![],
        web_seed: None,
    }
}

fn init(folder: &Path, network: &[u8], owner_key: Option<PathBuf>) -> Result<(), RunError> {
    let join = invite(network).to_string();
    let arguments = InitArgs {
        join,
        dir: Some(folder.to_owned()),
        owner_key,
    };
    run(&arguments, Output { json: true })
}

#[test]
fn a_coordinator_that_is_down_does_not_keep_a_node_from_being_made() {
    let folder = tempfile::tempdir().unwrap();
    init(folder.path(), b"a", None).unwrap();
    let key = NodeKey::load(&folder.path().join("data/node.pem")).unwrap();
    let text = std::fs::read_to_string(folder.path().join("owm.toml")).unwrap();
    assert!(text.contains(&invite(b"a").to_string()));
    init(folder.path(), b"a", None).unwrap();
    let again = NodeKey::load(&folder.path().join("data/node.pem")).unwrap();
    assert_eq!(
        key.public(),
        again.public(),
        "an identity is never overwritten"
    );
    let error = init(folder.path(), b"another", None).unwrap_err();
    assert!(
        error.source.to_string().contains("is not for this network"),
        "{}",
        error.source
    );
}

#[test]
fn an_owner_is_bound_by_both_keys() {
    let folder = tempfile::tempdir().unwrap();
    let owner = NodeKey::from_seed(&[3; 32]);
    let owner_key = folder.path().join("owner.pem");
    owner.create(&owner_key).unwrap();
    init(folder.path(), b"a", Some(owner_key)).unwrap();
    let node = NodeKey::load(&folder.path().join("data/node.pem")).unwrap();
    let bytes = std::fs::read(folder.path().join("data/owner-binding.pb")).unwrap();
    let body = RegisterNodeBody::decode(bytes.as_slice()).unwrap();
    let binding: Vec<_> = body
        .owner_binding
        .into_iter()
        .map(|wire| wire.try_into().unwrap())
        .collect();
    let found = OwnerBinding::owner_of(&node.public(), &binding, &invite(b"a").genesis);
    assert_eq!(found, Ok(owner.public()));
}

#[test]
fn a_damaged_invite_is_a_usage_error() {
    let arguments = InitArgs {
        join: "owm1abc".into(),
        dir: None,
        owner_key: None,
    };
    let error = run(&arguments, Output { json: true }).unwrap_err();
    assert_eq!(error.code, owm_service::Exit::Usage);
}
