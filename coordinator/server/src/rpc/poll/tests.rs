//! Polls: a session over several calls, work in an answer, and no waiting behind a listener.

use owm_proto::Sha256;
use sqlx::PgPool;

use super::*;
use crate::{
    app::testing::{TestApp, app},
    ask::{Question, QuestionPrompt},
};

fn hello(app: &TestApp) -> wire::WorkUp {
    let hello = wire::Hello {
        session_id: vec![1; 16],
        started_at_ms: app.now().0,
        software_version: "test".into(),
        running: vec![],
    };
    say(wire::work_up::Message::Hello(hello))
}

fn say(message: wire::work_up::Message) -> wire::WorkUp {
    wire::WorkUp {
        message: Some(message),
    }
}

async fn poll(
    service: &NodeService,
    key: PublicKey,
    messages: Vec<wire::WorkUp>,
    wait_ms: u32,
) -> Vec<wire::work_down::Message> {
    poll_hearing(service, key, messages, wait_ms, None).await.1
}

/// A poll that names the last answer it heard; this one's number and what it says.
async fn poll_hearing(
    service: &NodeService,
    key: PublicKey,
    messages: Vec<wire::WorkUp>,
    wait_ms: u32,
    heard: Option<u64>,
) -> (u64, Vec<wire::work_down::Message>) {
    let request = wire::PollWorkRequest {
        messages,
        wait_ms,
        heard,
    };
    let answer = service.work_poll(key, request).await.unwrap();
    let said = answer.messages.into_iter().filter_map(|m| m.message);
    (answer.number, said.collect())
}

/// A session of `key` with one slot, and a question in it.
async fn asked(app: &TestApp, service: &NodeService, key: PublicKey) -> crate::ask::Asked {
    let model = app.current_model().await.unwrap().unwrap();
    let weights = model
        .manifest
        .weights_sha256(&model.manifest.default_sub_model);
    let offer = wire::work_up::Message::Offer(wire::Offer {
        role: "infer".into(),
        credits: 1,
        sha256: weights.iter().map(Sha256::to_string).collect(),
    });
    poll(service, key, vec![hello(app), say(offer)], 0).await;
    let question = Question {
        api_key: None,
        sub_model: None,
        prompt: QuestionPrompt::Raw("hello".into()),
        max_tokens: 4,
        temperature: 0.0,
        top_p: 1.0,
        top_k: 0,
        seed: None,
        stop: vec![],
        stream: false,
    };
    app.ask(question).await.unwrap()
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_poll_that_speaks_does_not_wait_behind_one_that_listens(pool: PgPool) {
    use wire::work_down::Message::{Pong, Welcome};
    let app = app(pool).await;
    let (_, key) = app.register(1).await;
    let service = NodeService::new(app.app.clone());
    let first = poll(&service, key.public(), vec![hello(&app)], 0).await;
    assert!(matches!(first.as_slice(), [Welcome(_)]), "{first:?}");
    let listening = poll(&service, key.public(), vec![hello(&app)], 30_000);
    let speaking = async {
        let ping = say(wire::work_up::Message::Ping(7));
        poll(&service, key.public(), vec![hello(&app), ping], 30_000).await
    };
    tokio::select! {
        biased;
        heard = listening => panic!("nothing was said, but heard {heard:?}"),
        answer = speaking => assert!(matches!(answer.as_slice(), [Pong(7)]), "{answer:?}"),
    }
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_poll_is_answered_with_a_lease(pool: PgPool) {
    let app = app(pool).await;
    let (_, key) = app.register(1).await;
    let service = NodeService::new(app.app.clone());
    let _asked = asked(&app, &service, key.public()).await;
    let heard = poll(&service, key.public(), vec![hello(&app)], 10_000).await;
    assert!(
        matches!(heard.as_slice(), [wire::work_down::Message::Lease(_)]),
        "{heard:?}"
    );
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn an_answer_that_was_lost_on_the_way_is_given_again(pool: PgPool) {
    use wire::work_down::Message::Lease;
    let app = app(pool).await;
    let (_, key) = app.register(1).await;
    let (service, key) = (NodeService::new(app.app.clone()), key.public());
    let listen = async |heard| {
        let wait_ms = if heard == 0 { 10_000 } else { 1 };
        poll_hearing(&service, key, vec![hello(&app)], wait_ms, Some(heard)).await
    };
    let _asked = asked(&app, &service, key).await;
    let (first, lost) = listen(0).await;
    assert!(matches!(lost.as_slice(), [Lease(_)]), "{lost:?}");
    let (second, again) = listen(0).await;
    assert_eq!(again, lost, "what nobody heard");
    assert!(second > first);
    let (_, nothing) = listen(second).await;
    assert_eq!(nothing, [], "what was heard is not repeated");
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_lost_answer_whose_lease_has_ended_is_not_given_again(pool: PgPool) {
    use wire::work_down::Message::{Cancel, Lease};
    let app = app(pool).await;
    let (_, key) = app.register(1).await;
    let (service, key) = (NodeService::new(app.app.clone()), key.public());
    let asked = asked(&app, &service, key).await;
    let lost = poll_hearing(&service, key, vec![hello(&app)], 10_000, Some(0)).await;
    assert!(matches!(lost.1.as_slice(), [Lease(_)]), "{lost:?}");
    app.abandon(asked.request_id).await.unwrap();
    let (_, heard) = poll_hearing(&service, key, vec![hello(&app)], 10_000, Some(0)).await;
    assert!(matches!(heard.as_slice(), [Cancel(_)]), "{heard:?}");
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_node_that_confirms_nothing_is_told_once(pool: PgPool) {
    let app = app(pool).await;
    let (_, key) = app.register(1).await;
    let (service, key) = (NodeService::new(app.app.clone()), key.public());
    let _asked = asked(&app, &service, key).await;
    let heard = poll(&service, key, vec![hello(&app)], 10_000).await;
    assert_eq!(heard.len(), 1);
    assert_eq!(poll(&service, key, vec![hello(&app)], 1).await, []);
}
