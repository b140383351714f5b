//! What must not be lost, doubled or believed when nodes or the clock misbehave.

use owm_coordinator_store::{
    ledger::ledger_total_owed, session::SessionKind, stats::stats_network,
};
use owm_proto::{Msat, wire::coordinator as wire};
use owm_service::reconcile::Reconciler as _;
use sqlx::PgPool;

use super::testing::{Script, TestApp, app, app_with, clocked};
use crate::{
    ask::{Answer, AnswerEvent, Asked, Question, QuestionPrompt},
    tasks::{alive, due::Due, gone::Gone},
};

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;

fn question(stream: bool) -> Question {
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
        stream,
    }
}

async fn answer(asked: &mut Asked) -> Answer {
    let limit = std::time::Duration::from_secs(20);
    loop {
        let next = tokio::time::timeout(limit, asked.events.recv()).await;
        match next.expect("an end comes").expect("an end comes") {
            AnswerEvent::Chunk { .. } => {}
            AnswerEvent::Done(answer) => return *answer,
            AnswerEvent::Failed(failure) => panic!("not answered: {failure:?}"),
        }
    }
}

async fn owed(app: &TestApp) -> Msat {
    let mut tx = app.store.begin("test").await.unwrap();
    ledger_total_owed(&mut tx).await.unwrap()
}

async fn running(app: &TestApp) -> u64 {
    let mut tx = app.store.begin("test").await.unwrap();
    stats_network(&mut tx).await.unwrap().tasks_running
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_node_that_refuses_an_input_whose_answer_has_begun_is_not_believed(pool: PgPool) {
    let app = app(pool).await;
    let words = vec!["one ", "two ", "three"];
    let first = app.node(1, 1, Script::Stall(words.clone(), 1)).await;
    let mut asked = app.ask(question(true)).await.unwrap();
    assert!(matches!(
        asked.events.recv().await,
        Some(AnswerEvent::Chunk { .. })
    ));
    let refuse = Script::Refuse(wire::HandBackReason::InputRefused, "too long");
    let _liar = app.node(2, 1, refuse).await;
    crate::tasks::gone::leases_lose(&app, first.id, "test: its session is gone")
        .await
        .unwrap();
    app.until(|| async { running(&app).await == 0 }).await;
    let _honest = app.node(3, 1, Script::Words(words)).await;
    assert_eq!(answer(&mut asked).await.answer, "one two three");
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_task_that_one_node_cannot_do_is_done_by_another(pool: PgPool) {
    let app = app(pool).await;
    let cannot = Script::Refuse(wire::HandBackReason::CannotDo, "no such model here");
    let _unable = app.node(1, 1, cannot).await;
    let mut asked = app.ask(question(false)).await.unwrap();
    let _able = app.node(2, 1, Script::Words(vec!["done"])).await;
    assert_eq!(answer(&mut asked).await.answer, "done");
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_task_that_no_node_can_do_ends_with_a_clear_error(pool: PgPool) {
    let patience = owm_service::config::HumanDuration::from_millis(300);
    let app = app_with(pool, |config| config.scheduler.deadline = patience).await;
    let cannot = || Script::Refuse(wire::HandBackReason::CannotDo, "no such model here");
    let _nodes = [
        app.node(1, 1, cannot()).await,
        app.node(2, 1, cannot()).await,
    ];
    let mut asked = app.ask(question(false)).await.unwrap();
    let due = Due(app.app.clone());
    let end = loop {
        due.run().await.unwrap();
        match asked.events.try_recv() {
            Ok(end) => break end,
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
        }
    };
    let AnswerEvent::Failed(failure) = end else {
        panic!("{end:?}")
    };
    assert_eq!(failure.code, "timeout");
    assert!(failure.message.contains("no node"), "{failure:?}");
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_second_process_with_the_same_key_fences_the_first_for_good(pool: PgPool) {
    use crate::rpc::NodeService;
    let app = app(pool).await;
    let (_, key) = app.register(1).await;
    let service = NodeService::new(app.app.clone());
    let open = async |session: u8, started_at_ms: u64| {
        let hello = wire::Hello {
            session_id: vec![session; 16],
            started_at_ms,
            software_version: "test".into(),
            running: vec![],
        };
        let (down, heard) = tokio::sync::mpsc::channel(8);
        let kind = SessionKind::Stream;
        let opened = service.converse(key.public(), hello, kind, down).await;
        opened.map(|(conversation, _)| (conversation, heard))
    };
    let now = app.now().0;
    let (_first, mut heard) = open(1, now).await.unwrap();
    let (_second, _heard) = open(2, now + 1).await.unwrap();
    let told = heard.recv().await.unwrap().message;
    assert!(
        matches!(told, Some(wire::work_down::Message::Fenced(_))),
        "{told:?}"
    );
    let refused = open(1, now).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Aborted);
    assert!(refused.message().contains("fenced"), "{refused}");
}

/// One pass of everything that judges by time, in the order that is worst.
async fn judge(app: &TestApp, gone: &Gone) {
    Due(app.app.clone()).run().await.unwrap();
    gone.run().await.unwrap();
    alive::mark(app).await.unwrap();
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_clock_that_jumps_loses_nothing_and_pays_nothing_twice(pool: PgPool) {
    let (app, clock) = clocked(pool).await;
    let gone = Gone::new(app.app.clone());
    alive::mark(&app).await.unwrap();
    let mut paid = Msat::ZERO;
    let mut n = 0;
    for jump in [9, -9, -9, 9].map(|minutes| minutes * MINUTE_MS) {
        // A question in the hands of a node that never answers, and one that waits behind it.
        n += 1;
        let silent = app.node(n, 1, Script::Silence).await;
        let mut held = app.ask(question(false)).await.unwrap();
        app.until(|| async { running(&app).await == 1 }).await;
        let mut waiting = app.ask(question(true)).await.unwrap();
        clock.jump(jump);
        for _ in 0..3 {
            judge(&app, &gone).await;
        }
        assert!(app.sessions.is_connected(silent.id), "{jump}: still there");
        assert_eq!(running(&app).await, 1, "{jump}: still its lease");
        assert!(held.events.try_recv().is_err() && waiting.events.try_recv().is_err());
        // Leases still run out when their time is over by any clock that does not jump.
        let second = std::time::Duration::from_secs(1);
        // A tenth more: while the distance is closed, leases last up to 5 % longer.
        for _ in 0..app.config.scheduler.lease.get().as_secs() * 11 / 10 {
            clock.pass(second);
            alive::mark(&app).await.unwrap();
        }
        n += 1;
        let able = app.node(n, 1, Script::Words(vec!["he", "re"])).await;
        Due(app.app.clone()).run().await.unwrap();
        assert_eq!(answer(&mut waiting).await.answer, "here");
        assert_eq!(answer(&mut held).await.answer, "here");
        let before = std::mem::replace(&mut paid, owed(&app).await);
        assert_eq!(
            paid.0 - before.0,
            30_000,
            "{jump}: two answers, 15 sat each"
        );
        for id in [silent.id, able.id] {
            let run = app
                .sessions
                .runs()
                .into_iter()
                .find(|(node, _)| *node == id);
            app.sessions.supersede(id, run.unwrap().1, true);
        }
    }
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn after_a_silence_of_our_own_every_session_has_the_usual_time_to_come_back(pool: PgPool) {
    let (app, clock) = clocked(pool).await;
    let gone = Gone::new(app.app.clone());
    alive::mark(&app).await.unwrap();
    let silent = app.node(1, 1, Script::Silence).await;
    let seat = app.sessions.candidates()[0].seat;
    app.sessions.lose_stream(seat, app.now());
    // The database is away: nobody says that we live, and no node can come back.
    clock.pass(std::time::Duration::from_mins(2));
    gone.run().await.unwrap();
    assert!(app.sessions.is_connected(silent.id), "not judged at once");
    let second = std::time::Duration::from_secs(1);
    for _ in 0..35 {
        clock.pass(second);
        alive::mark(&app).await.unwrap();
    }
    gone.run().await.unwrap();
    assert!(!app.sessions.is_connected(silent.id), "it had its time");
}

/// More than ten minutes are a wrong clock that is put right: it is followed, so a lease may move on before
/// its time or stay beyond it, but nothing is lost and nothing is paid twice.
#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_wrong_clock_that_is_put_right_loses_nothing_and_pays_nothing_twice(pool: PgPool) {
    let (app, clock) = clocked(pool).await;
    let gone = Gone::new(app.app.clone());
    alive::mark(&app).await.unwrap();
    let mut paid = Msat::ZERO;
    let mut n = 0;
    for jump in [HOUR_MS, -HOUR_MS, -HOUR_MS, HOUR_MS] {
        n += 1;
        let silent = app.node(n, 1, Script::Silence).await;
        let mut held = app.ask(question(false)).await.unwrap();
        app.until(|| async { running(&app).await == 1 }).await;
        let mut waiting = app.ask(question(true)).await.unwrap();
        let before = app.now().0.cast_signed();
        clock.jump(jump);
        assert!((app.now().0.cast_signed() - before - jump).abs() < MINUTE_MS);
        for _ in 0..3 {
            judge(&app, &gone).await;
        }
        // Nobody's patience is over: forward, deadlines move as after a silence.
        assert!(held.events.try_recv().is_err() && waiting.events.try_recv().is_err());
        if app.sessions.is_connected(silent.id) {
            let why = "test: its connection breaks";
            crate::tasks::gone::leases_lose(&app, silent.id, why)
                .await
                .unwrap();
            let run = app
                .sessions
                .runs()
                .into_iter()
                .find(|(node, _)| *node == silent.id);
            app.sessions.supersede(silent.id, run.unwrap().1, true);
        }
        n += 1;
        let able = app.node(n, 1, Script::Words(vec!["he", "re"])).await;
        Due(app.app.clone()).run().await.unwrap();
        assert_eq!(answer(&mut waiting).await.answer, "here");
        assert_eq!(answer(&mut held).await.answer, "here");
        let before = std::mem::replace(&mut paid, owed(&app).await);
        assert_eq!(
            paid.0 - before.0,
            30_000,
            "{jump}: two answers, 15 sat each"
        );
        let run = app
            .sessions
            .runs()
            .into_iter()
            .find(|(node, _)| *node == able.id);
        app.sessions.supersede(able.id, run.unwrap().1, true);
    }
}
