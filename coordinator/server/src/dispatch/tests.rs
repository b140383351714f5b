//! When the dispatcher looks again: no free slot and no task waits for the next poll.

use owm_proto::wire::coordinator::HandBackReason as WireReason;
use sqlx::PgPool;

use super::*;
use crate::{
    app::testing::{Script, app},
    ask::{Question, QuestionPrompt},
};

fn question() -> Question {
    Question {
        api_key: None,
        sub_model: None,
        prompt: QuestionPrompt::Raw("what is it?".into()),
        max_tokens: 16,
        temperature: 0.0,
        top_p: 1.0,
        top_k: 0,
        seed: Some(5),
        stop: vec![],
        stream: false,
    }
}

/// Whether another look is asked for; asks no more afterwards.
fn wakes(handle: &DispatchHandle) -> bool {
    let mut future = std::pin::pin!(handle.0.notify.notified());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    future.as_mut().poll(&mut context).is_ready()
}

#[test]
fn a_slot_that_comes_during_a_look_asks_for_another() {
    let handle = DispatchHandle::default();
    for _ in 0..2 {
        handle.looks(Role::Infer);
        handle.slot_free(Role::Infer);
        assert!(wakes(&handle), "the look under way may have missed it");
        handle.found_none(Role::Infer);
        handle.slot_free(Role::Infer);
        assert!(!wakes(&handle), "nothing is queued");
    }
    handle.wake();
    assert!(wakes(&handle));
    handle.slot_free(Role::Infer);
    assert!(wakes(&handle), "there may be a task again");
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_task_that_all_free_nodes_have_tried_still_waits(pool: PgPool) {
    let app = app(pool.clone()).await;
    let cannot = Script::Refuse(WireReason::CannotDo, "no such model here");
    // A slot more than it needs: it stays free after the refusal.
    let _unable = app.node(1, 2, cannot).await;
    let _asked = app.ask(question()).await.unwrap();
    let tried: &str = "SELECT count(*) FROM tasks WHERE phase = 'queued' AND tried_nodes <> '{}'";
    app.until(|| async {
        let mut tx = app.store.begin("test").await.unwrap();
        task_count_queued(&mut tx, Role::Infer).await.unwrap() == 1
            && sqlx::query_scalar::<_, i64>(tried)
                .fetch_one(&pool)
                .await
                .unwrap()
                == 1
    })
    .await;
    let look = look(&app, Role::Infer).await.unwrap();
    assert_eq!(
        (look.leased, look.left),
        (0, true),
        "the next node's slot must not go unnoticed"
    );
}
