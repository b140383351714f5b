//! When the dispatcher looks again: no free slot and no task waits for the next poll.

use owm_proto::{SessionId, wire::coordinator::HandBackReason as WireReason};
use sqlx::PgPool;
use tokio::sync::mpsc;

use super::*;
use crate::{
    app::testing::{Script, TestApp, app},
    ask::{Question, QuestionPrompt},
    sessions::{Opening, Seat},
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

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_lease_that_cannot_be_handed_back_keeps_no_other_from_being_sent(pool: PgPool) {
    let app = app(pool.clone()).await;
    let _busy = app.node(1, 1, Script::Silence).await;
    for _ in 0..8 {
        app.ask(question()).await.unwrap();
    }
    let forbid = "CREATE FUNCTION refused() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'not now'; END $$;
        CREATE TRIGGER refused BEFORE UPDATE ON task_attempts
        FOR EACH ROW WHEN (NEW.outcome = 'handed_back') EXECUTE FUNCTION refused()";
    sqlx::raw_sql(forbid).execute(&pool).await.unwrap();
    let loaded = app.sessions.candidates()[0].candidate.loaded.clone();
    let (dead, dead_told) = seat(&app, 2).await;
    let (live, mut told) = seat(&app, 3).await;
    drop(dead_told);
    for seat in [dead, live] {
        app.sessions.offer(seat, Role::Infer, 4, loaded.clone());
    }
    assert!(dispatch(&app, Role::Infer).await.is_err());
    let leased: i64 =
        sqlx::query_scalar("SELECT count(*) FROM tasks WHERE phase = 'leased' AND lease_node = $1")
            .bind(live.node.0)
            .fetch_one(&pool)
            .await
            .unwrap();
    let mut sent = 0;
    while told.try_recv().is_ok() {
        sent += 1;
    }
    assert!(leased > 0);
    assert_eq!(sent, leased, "what is leased is sent");
}

/// A registered node's open session, without an offer, and what it is told.
async fn seat(app: &TestApp, n: u8) -> (Seat, mpsc::Receiver<wire::WorkDown>) {
    let (node, _) = app.register(n).await;
    let (down, told) = mpsc::channel(64);
    let opening = Opening {
        node,
        session: SessionId([n; 16]),
        down: Some(down),
        polls: false,
        now: app.now(),
    };
    (app.sessions.open(opening), told)
}
