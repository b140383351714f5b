//! What goes wrong around a node, and what it says and does about it.

use std::{fs::OpenOptions, path::Path};

use owm_node::status::Status;
use owm_proto::{
    Sha256,
    wire::coordinator::{HandBackReason, InferencePayload, Lease},
};
use owm_service::{Exit, clock::ManualClock};

use super::{Fake, PATIENCE, config, fake::BlobFault, ready, start, start_at, until};

/// A folder in which the model has been fetched once.
async fn fetched(fake: &mut Fake) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let node = start(fake, folder.path(), config());
    drop(ready(fake).await);
    node.lifecycle.shutdown();
    node.ended().await.unwrap();
    folder
}

async fn serves_after(damage: impl FnOnce(&Path)) -> String {
    let mut fake = Fake::start().await;
    let folder = fetched(&mut fake).await;
    let blob = folder
        .path()
        .join(format!("models/blobs/{}", Fake::weights()));
    damage(&blob);
    let node = start(&fake, folder.path(), config());
    let _stream = ready(&mut fake).await;
    let mut said = None;
    until(folder.path(), |status| {
        said.clone_from(&status.model_damage);
        status.model.is_some()
    })
    .await;
    assert_eq!(Sha256::of(&std::fs::read(&blob).unwrap()), Fake::weights());
    node.lifecycle.shutdown();
    node.ended().await.unwrap();
    said.expect("the status tells of the damage")
}

#[tokio::test(flavor = "multi_thread")]
async fn corrupt_weights_are_found_at_the_start_fetched_again_and_told() {
    let said = serves_after(|blob| {
        let length = std::fs::read(blob).unwrap().len();
        std::fs::write(blob, vec![0; length]).unwrap();
    })
    .await;
    assert!(said.contains("model.safetensors"), "{said}");
    assert!(said.contains("SHA-256"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_weights_are_found_at_the_start_fetched_again_and_told() {
    let said = serves_after(|blob| {
        let file = OpenOptions::new().write(true).open(blob).unwrap();
        file.set_len(5).unwrap();
    })
    .await;
    assert!(said.contains("(5 bytes, not 25)"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lies_or_breaks_off_is_asked_again_after_a_wait_and_never_believed() {
    let (mut fake, folder) = (Fake::start().await, tempfile::tempdir().unwrap());
    fake.spoil_files([BlobFault::Lie, BlobFault::Lie]);
    let node = start(&fake, folder.path(), config());
    until(folder.path(), |status| {
        let state = status.model_state.clone().unwrap_or_default();
        state.contains("has SHA-256") && state.contains("the manifest says")
    })
    .await;
    ready(&mut fake).await;
    // Three files, two of them asked for twice (or one three times): each failure cost one request.
    assert_eq!(fake.files_asked(), 3 + 2);
    node.lifecycle.shutdown();
    node.ended().await.unwrap();
    let names = std::fs::read_dir(folder.path().join("models/blobs")).unwrap();
    for entry in names {
        let path = entry.unwrap().path();
        let sha256 = Sha256::of(&std::fs::read(&path).unwrap()).to_string();
        assert_eq!(path.file_name().unwrap().to_str(), Some(&*sha256));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_without_a_model_is_told_and_waited_for() {
    let (mut fake, folder) = (Fake::start().await, tempfile::tempdir().unwrap());
    fake.publish(false);
    let node = start(&fake, folder.path(), config());
    until(folder.path(), |status| {
        let state = status.model_state.clone().unwrap_or_default();
        state.contains("no model is published")
    })
    .await;
    fake.publish(true);
    ready(&mut fake).await;
    node.lifecycle.shutdown();
    node.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_this_node_cannot_do_goes_back_with_the_reason() {
    type ChangeQuestion = fn(&mut InferencePayload);
    type ChangeLease = fn(&mut Lease);
    let cases: [(ChangeQuestion, ChangeLease, HandBackReason, &str); 4] = [
        (
            |_| {},
            |lease| lease.model_sha256 = vec![Sha256::of(b"other").to_string()],
            HandBackReason::CannotDo,
            "weights are not loaded here",
        ),
        (
            |_| {},
            |lease| lease.sub_model = "owm-sci".into(),
            HandBackReason::CannotDo,
            "owm-sci is not loaded here",
        ),
        (
            |question| question.max_tokens = u32::MAX,
            |_| {},
            HandBackReason::InputRefused,
            "max_tokens must be",
        ),
        (
            |_| {},
            |lease| lease.input_hash = Sha256::of(b"other").to_string(),
            HandBackReason::CannotDo,
            "not the one the lease names",
        ),
    ];
    let (mut fake, folder) = (Fake::start().await, tempfile::tempdir().unwrap());
    let node = start(&fake, folder.path(), config());
    let mut stream = ready(&mut fake).await;
    node.gate.open();
    for (question, lease, reason, words) in cases {
        stream.odd_lease(&node.key, question, lease).await;
        let back = stream.hand_back().await;
        assert_eq!(back.reason(), reason, "{}", back.message);
        assert!(back.message.contains(words), "{}", back.message);
        assert_eq!(stream.offer().await, 1, "the slot is free again");
    }
    let round: ChangeLease = |lease| lease.task_type = "fl_round".into();
    stream.odd_lease(&node.key, |_| {}, round).await;
    let back = stream.hand_back().await;
    assert_eq!(back.reason(), HandBackReason::CannotDo);
    assert!(
        back.message.contains("no slot for train tasks"),
        "{}",
        back.message
    );
    node.lifecycle.shutdown();
    node.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn outside_its_hours_a_node_takes_its_slots_back_and_hands_leases_back() {
    const HOUR_MS: u64 = 3_600_000;
    let (mut fake, folder) = (Fake::start().await, tempfile::tempdir().unwrap());
    let mut config = config();
    config.caps.hours = vec!["10:00-14:00".into()];
    let clock = ManualClock::shared(12 * HOUR_MS);
    let node = start_at(&fake, folder.path(), config, clock.clone());
    let mut stream = ready(&mut fake).await;
    clock.set_ms(15 * HOUR_MS);
    stream.withdrawn().await;
    stream.lease(&node.key, 1, "hi", false, &[]).await;
    let back = stream.hand_back().await;
    assert_eq!(back.reason(), HandBackReason::CannotDo);
    assert!(back.message.contains("hours"), "{}", back.message);
    clock.set_ms(35 * HOUR_MS);
    assert_eq!(stream.offer().await, 1);
    node.lifecycle.shutdown();
    node.ended().await.unwrap();
}

/// What a node that can't join says of it.
async fn link_error(change: impl FnOnce(&mut Fake)) -> String {
    let (mut fake, folder) = (Fake::start().await, tempfile::tempdir().unwrap());
    change(&mut fake);
    let node = start(&fake, folder.path(), config());
    let mut said = String::new();
    let keep = |status: &Status, said: &mut String| {
        said.clone_from(status.link_error.as_ref()?);
        Some(())
    };
    let socket = folder.path().join("control.sock");
    let asking = async {
        loop {
            let answer = owm_node::control::ask(&socket).await;
            if answer.is_ok_and(|answer| keep(&answer.status, &mut said).is_some()) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap();
    node.lifecycle.shutdown();
    node.ended().await.unwrap();
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_port_is_named_with_its_layer_and_what_to_check() {
    // A port that was free a moment ago.
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let said = link_error(|fake| fake.invite.addresses = vec![address.clone()]).await;
    assert!(said.contains("(tcp)") && said.contains(&address), "{said}");
    assert!(said.contains("check the port"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_program_on_the_port_is_named_with_its_layer_and_what_to_check() {
    let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = other.local_addr().unwrap().to_string();
    let answering = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        while let Ok((mut stream, _)) = other.accept().await {
            drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await);
        }
    });
    let said = link_error(|fake| fake.invite.addresses = vec![address]).await;
    answering.abort();
    assert!(said.contains("(tls)"), "{said}");
    assert!(said.contains("something else answers there"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_with_another_key_is_named_with_its_layer_and_what_to_check() {
    let said = link_error(|fake| {
        fake.invite.instance_key = owm_proto::NodeKey::from_seed(&[42; 32]).public();
    })
    .await;
    assert!(said.contains("(tls)") && said.contains("pinned"), "{said}");
    assert!(said.contains("new invite"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invite_to_another_network_ends_the_node_with_what_to_do() {
    let (mut fake, folder) = (Fake::start().await, tempfile::tempdir().unwrap());
    fake.invite.genesis = owm_proto::genesis::NetworkId(Sha256::of(b"another network"));
    let node = start(&fake, folder.path(), config());
    let error = node.ended().await.unwrap_err();
    assert_eq!(error.code, Exit::Failed);
    let text = error.source.to_string();
    assert!(text.contains(&fake.invite.genesis.to_string()), "{text}");
    assert!(text.contains("ask for an invite to this network"), "{text}");
}
