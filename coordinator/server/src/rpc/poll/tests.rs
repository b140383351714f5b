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
    let request = wire::PollWorkRequest { messages, wait_ms };
    let answer = service.work_poll(key, request).await.unwrap();
    answer
        .messages
        .into_iter()
        .filter_map(|m| m.message)
        .collect()
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
    let model = app.current_model().await.unwrap().unwrap();
    let weights = model
        .manifest
        .weights_sha256(&model.manifest.default_sub_model);
    let offer = wire::work_up::Message::Offer(wire::Offer {
        role: "infer".into(),
        credits: 1,
        sha256: weights.iter().map(Sha256::to_string).collect(),
    });
    poll(&service, key.public(), vec![hello(&app), say(offer)], 0).await;
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
    let _asked = app.ask(question).await.unwrap();
    let heard = poll(&service, key.public(), vec![hello(&app)], 10_000).await;
    assert!(
        matches!(heard.as_slice(), [wire::work_down::Message::Lease(_)]),
        "{heard:?}"
    );
}
