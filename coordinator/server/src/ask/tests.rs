//! A question's whole way through the coordinator, with scripted nodes on a real database.

use owm_coordinator_store::{
    ledger::ledger_total_owed,
    node::{node_lookup, node_set_status},
    stats::stats_network,
};
use owm_proto::{Msat, NodeStatus, wire::coordinator as node_wire};
use owm_service::reconcile::Reconciler as _;
use sqlx::PgPool;

use super::*;
use crate::app::testing::{Script, TestApp, app, app_with, token};
use crate::tasks::outbox::Told;

fn question(stream: bool) -> Question {
    Question {
        api_key: None,
        sub_model: None,
        prompt: QuestionPrompt::Raw("canary-7431 what is it?".into()),
        max_tokens: 16,
        temperature: 0.0,
        top_p: 1.0,
        top_k: 0,
        seed: Some(5),
        stop: vec![],
        stream,
    }
}

/// Text and tokens of all chunks, and the end.
async fn finish(asked: &mut Asked) -> (String, Vec<u32>, AnswerEvent) {
    let (mut all_text, mut all_tokens) = (String::new(), vec![]);
    loop {
        let next = tokio::time::timeout(Duration::from_mins(2), asked.events.recv()).await;
        match next
            .expect("an end comes")
            .expect("an end comes before the channel closes")
        {
            AnswerEvent::Chunk { text, tokens } => {
                all_text.push_str(&text);
                all_tokens.extend(tokens);
            }
            end => return (all_text, all_tokens, end),
        }
    }
}

fn done(end: AnswerEvent) -> Answer {
    match end {
        AnswerEvent::Done(answer) => *answer,
        other => panic!("not answered: {other:?}"),
    }
}

async fn owed(app: &TestApp) -> Msat {
    let mut tx = app.store.begin("test").await.unwrap();
    ledger_total_owed(&mut tx).await.unwrap()
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_question_is_answered_with_a_receipt_and_booked(pool: PgPool) {
    let app = app(pool).await;
    let mut node = app
        .node(1, 1, Script::Words(vec!["It", " is", " Paris"]))
        .await;
    let mut asked = app.ask(question(false)).await.unwrap();
    let (text, _, end) = finish(&mut asked).await;
    let answer = done(end);
    assert_eq!((text.as_str(), answer.answer.as_str()), ("", "It is Paris"));
    assert_eq!(answer.token_ids, [token(0), token(1), token(2)]);
    let verified = answer
        .receipt
        .verify(&app.authority.statements().trust)
        .unwrap();
    assert_eq!(verified.receipt.files[0].sha256, answer.sha256);
    assert_eq!(verified.receipt.segments[0].node, node.key.public());
    // 10 sats × t1 × inference × quality 1 × uptime bonus (new node: full minutes so far) × stake 1.
    let reward = owed(&app).await;
    assert!((Msat(10_000)..=Msat(15_000)).contains(&reward), "{reward}");
    let ack = node.told.recv().await.unwrap();
    let node_wire::work_down::Message::ResultAck(ack) = ack else {
        panic!("{ack:?}")
    };
    assert_eq!(
        (ack.verdict(), ack.reward_msat),
        (node_wire::Verdict::Accepted, reward.0)
    );
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_stored_answer_is_the_same_for_every_reader_and_deleted_when_due(pool: PgPool) {
    let app = app(pool).await;
    let _node = app.node(1, 1, Script::Words(vec!["yes"])).await;
    let mut asked = app.ask(question(false)).await.unwrap();
    let answer = done(finish(&mut asked).await.2);
    let read = || async {
        app.request_show(asked.request_id, None)
            .await
            .unwrap()
            .unwrap()
            .state
    };
    for _ in 0..2 {
        let RequestState::Answered { answer: bytes, .. } = read().await else {
            panic!()
        };
        assert_eq!(serde_json::from_slice::<Answer>(&bytes).unwrap(), answer);
    }
    let mut tx = app.store.begin("test").await.unwrap();
    let later = app.now().after(Duration::from_secs(601));
    assert_eq!(
        owm_coordinator_store::request::request_purge(&mut tx, later, 10)
            .await
            .unwrap(),
        1
    );
    tx.commit().await.unwrap();
    assert!(matches!(read().await, RequestState::Deleted));
    let other = RequestId::from_random([9; 16]);
    assert!(app.request_show(other, None).await.unwrap().is_none());
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_streamed_answer_comes_in_chunks_and_whole(pool: PgPool) {
    let app = app(pool).await;
    let _node = app
        .node(1, 1, Script::Words(vec!["a", "b", "c", "d"]))
        .await;
    let mut asked = app.ask(question(true)).await.unwrap();
    let (text, tokens, end) = finish(&mut asked).await;
    let answer = done(end);
    assert_eq!((text.as_str(), &tokens), ("abcd", &answer.token_ids));
    answer
        .receipt
        .verify(&app.authority.statements().trust)
        .unwrap();
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_successor_continues_from_the_delivered_prefix(pool: PgPool) {
    let app = app(pool).await;
    let words = vec!["one ", "two ", "three ", "four"];
    let first = app.node(1, 1, Script::Stall(words.clone(), 2)).await;
    let mut asked = app.ask(question(true)).await.unwrap();
    for _ in 0..2 {
        assert!(matches!(
            asked.events.recv().await,
            Some(AnswerEvent::Chunk { .. })
        ));
    }
    let second = app.node(2, 1, Script::Words(words)).await;
    crate::tasks::gone::leases_lose(&app, first.id, "test: its session is gone")
        .await
        .unwrap();
    let (text, tokens, end) = finish(&mut asked).await;
    let answer = done(end);
    assert_eq!(
        (text.as_str(), tokens.len()),
        ("three four", 2),
        "nothing is sent twice"
    );
    assert_eq!(answer.answer, "one two three four");
    let verified = answer
        .receipt
        .verify(&app.authority.statements().trust)
        .unwrap();
    let shares: Vec<_> = verified
        .receipt
        .segments
        .iter()
        .map(|s| (s.node, s.from, s.to))
        .collect();
    assert_eq!(
        shares,
        [(first.key.public(), 0, 2), (second.key.public(), 2, 4)]
    );
    let mut tx = app.store.begin("test").await.unwrap();
    let lost = node_lookup(&mut tx, first.id).await.unwrap().unwrap();
    assert_eq!(
        (lost.tasks_total, lost.tasks_succeeded, lost.earned),
        (1, 0, Msat::ZERO)
    );
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_task_that_nobody_can_do_fails_once_with_its_reason(pool: PgPool) {
    let app = app(pool).await;
    let refuse = Script::Refuse(
        node_wire::HandBackReason::InputRefused,
        "the prompt has 9999 tokens",
    );
    let _node = app.node(1, 1, refuse).await;
    let mut asked = app.ask(question(false)).await.unwrap();
    let (_, _, end) = finish(&mut asked).await;
    let AnswerEvent::Failed(failure) = end else {
        panic!("{end:?}")
    };
    assert_eq!(failure.code, "input_refused");
    assert!(failure.message.contains("9999"), "{failure:?}");
    assert_eq!(owed(&app).await, Msat::ZERO);
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn three_failures_on_three_nodes_are_the_end(pool: PgPool) {
    let app = app(pool).await;
    let fail = || Script::Refuse(node_wire::HandBackReason::Failed, "out of memory");
    let _nodes = [
        app.node(1, 1, fail()).await,
        app.node(2, 1, fail()).await,
        app.node(3, 1, fail()).await,
    ];
    let mut asked = app.ask(question(false)).await.unwrap();
    let (_, _, end) = finish(&mut asked).await;
    assert!(matches!(end, AnswerEvent::Failed(f) if f.code == "attempts_exhausted"));
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn an_asker_that_leaves_frees_the_node(pool: PgPool) {
    let app = app(pool).await;
    let mut node = app.node(1, 1, Script::Silence).await;
    let asked = app.ask(question(false)).await.unwrap();
    let leased = || async {
        let mut tx = app.store.begin("test").await.unwrap();
        stats_network(&mut tx).await.unwrap().tasks_running == 1
    };
    app.until(leased).await;
    app.abandon(asked.request_id).await.unwrap();
    let told = node.told.recv().await.unwrap();
    let node_wire::work_down::Message::Cancel(cancel) = told else {
        panic!("{told:?}")
    };
    assert_eq!(cancel.epoch, 1, "the node knows its work by task and epoch");
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn without_nodes_and_with_a_full_queue_a_question_is_turned_away(pool: PgPool) {
    let app = app(pool).await;
    assert!(matches!(
        app.ask(question(false)).await,
        Err(AskError::NoNodes { .. })
    ));
    let _node = app.node(1, 1, Script::Silence).await;
    let mut waiting = vec![];
    let turned_away = loop {
        match app.ask(question(false)).await {
            Ok(asked) => waiting.push(asked),
            Err(error) => break error,
        }
        assert!(waiting.len() < 50, "the queue is bounded");
    };
    assert!(
        matches!(turned_away, AskError::Busy { .. }),
        "{turned_away}"
    );
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_lease_that_runs_out_moves_on(pool: PgPool) {
    // Long enough for the other node on a slow machine: one that loses a lease is not asked again.
    let lease = owm_service::config::HumanDuration::from_secs(5);
    let app = app_with(pool, |config| config.scheduler.lease = lease).await;
    let _silent = app.node(1, 1, Script::Silence).await;
    let mut asked = app.ask(question(false)).await.unwrap();
    let leased = || async {
        let mut tx = app.store.begin("test").await.unwrap();
        stats_network(&mut tx).await.unwrap().tasks_running == 1
    };
    app.until(leased).await;
    let _other = app.node(2, 1, Script::Words(vec!["here"])).await;
    let due = crate::tasks::due::Due(app.app.clone());
    let reviewing = async {
        loop {
            due.run().await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (_, _, end) = tokio::select! {
        end = finish(&mut asked) => end,
        () = reviewing => unreachable!("it goes on for ever"),
    };
    assert_eq!(done(end).answer, "here");
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn no_column_holds_the_users_text(pool: PgPool) {
    let app = app(pool.clone()).await;
    let _node = app.node(1, 1, Script::Words(vec!["canary-9182"])).await;
    for stream in [false, true] {
        let mut asked = app.ask(question(stream)).await.unwrap();
        done(finish(&mut asked).await.2);
    }
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public' AND table_type = 'BASE TABLE'",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert!(tables.len() > 15);
    for table in tables {
        let sql = format!("SELECT string_agg(t::text, ' ') FROM \"{table}\" t");
        let all: Option<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .fetch_one(&pool)
            .await
            .unwrap();
        let all = all.unwrap_or_default();
        for canary in ["canary-7431", "canary-9182"] {
            let hex = data_encoding::HEXLOWER.encode(canary.as_bytes());
            assert!(
                !all.contains(canary) && !all.contains(&hex),
                "{canary} in {table}"
            );
        }
    }
}

#[test]
fn limits_are_told_with_the_parameter() {
    let check = |change: fn(&mut Question)| {
        let mut question = question(false);
        change(&mut question);
        match question.check() {
            Err(AskError::Invalid { param, .. }) => param,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(check(|q| q.max_tokens = 0), "max_tokens");
    assert_eq!(
        check(|q| q.max_tokens = limits::OUTPUT_TOKENS_MAX + 1),
        "max_tokens"
    );
    assert_eq!(check(|q| q.temperature = f32::NAN), "temperature");
    assert_eq!(check(|q| q.top_p = 0.0), "top_p");
    assert_eq!(check(|q| q.stop = vec![String::new()]), "stop");
    assert_eq!(check(|q| q.stop = vec!["x".into(); 5]), "stop");
    assert_eq!(
        check(|q| q.prompt = QuestionPrompt::Raw(String::new())),
        "query"
    );
    let long =
        |q: &mut Question| q.prompt = QuestionPrompt::Raw("x".repeat(limits::PROMPT_BYTES_MAX + 1));
    assert_eq!(check(long), "query");
    assert_eq!(
        check(|q| q.prompt = QuestionPrompt::Chat(vec![])),
        "messages"
    );
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_task_that_the_free_node_has_failed_does_not_hold_up_the_next(pool: PgPool) {
    let app = app(pool).await;
    let fail = Script::Refuse(node_wire::HandBackReason::Failed, "out of memory");
    let failing = app.node(1, 1, fail).await;
    let _first = app.ask(question(false)).await.unwrap();
    let tried = || async {
        let mut tx = app.store.begin("test").await.unwrap();
        node_lookup(&mut tx, failing.id)
            .await
            .unwrap()
            .unwrap()
            .tasks_total
            == 1
    };
    app.until(tried).await;
    for _ in 0..20 {
        // Each would be tried by the same node once; none may be starved by those before it.
        drop(app.ask(question(false)).await);
    }
    let all_tried = || async {
        let mut tx = app.store.begin("test").await.unwrap();
        let node = node_lookup(&mut tx, failing.id).await.unwrap().unwrap();
        node.tasks_total == stats_network(&mut tx).await.unwrap().tasks_queued
    };
    app.until(all_tried).await;
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_gap_in_the_journal_costs_chunks_but_never_the_answer(pool: PgPool) {
    let app = app(pool.clone()).await;
    let words = vec!["one ", "two ", "three ", "four"];
    let first = app.node(1, 1, Script::Stall(words.clone(), 3)).await;
    let mut asked = app.ask(question(true)).await.unwrap();
    for _ in 0..3 {
        assert!(matches!(
            asked.events.recv().await,
            Some(AnswerEvent::Chunk { .. })
        ));
    }
    // As if the writing of the second chunk had failed: the user has it from memory, the journal not.
    sqlx::query("DELETE FROM task_chunks WHERE from_token = 1")
        .execute(&pool)
        .await
        .unwrap();
    let _second = app.node(2, 1, Script::Words(words)).await;
    crate::tasks::gone::leases_lose(&app, first.id, "test: its session is gone")
        .await
        .unwrap();
    let answer = done(finish(&mut asked).await.2);
    assert_eq!(answer.answer, "one two three four");
    answer
        .receipt
        .verify(&app.authority.statements().trust)
        .unwrap();
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_suspended_node_is_told_and_loses_its_work_at_once(pool: PgPool) {
    let app = app(pool).await;
    let mut node = app.node(1, 1, Script::Silence).await;
    let mut asked = app.ask(question(false)).await.unwrap();
    let leased = || async {
        let mut tx = app.store.begin("test").await.unwrap();
        stats_network(&mut tx).await.unwrap().tasks_running == 1
    };
    app.until(leased).await;
    let mut tx = app.store.begin("test").await.unwrap();
    let (id, now) = (node.id, app.now());
    node_set_status(&mut tx, id, NodeStatus::Suspended, "spam", now)
        .await
        .unwrap();
    Told::NodeStatus { node: id }
        .add(&mut tx, now)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let _other = app.node(2, 1, Script::Words(vec!["here"])).await;
    crate::tasks::outbox::Outbox(app.app.clone())
        .run()
        .await
        .unwrap();
    let told = node.told.recv().await.unwrap();
    assert!(
        matches!(&told, node_wire::work_down::Message::NodeStatus(status) if status == "suspended"),
        "{told:?}"
    );
    assert_eq!(done(finish(&mut asked).await.2).answer, "here");
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_session_that_another_coordinator_has_taken_over_ends_here(pool: PgPool) {
    let app = app(pool.clone()).await;
    let gone = crate::tasks::gone::Gone::new(app.app.clone());
    let mut fenced = app.node(1, 1, Script::Silence).await;
    let mut moved = app.node(2, 1, Script::Silence).await;
    gone.run().await.unwrap();
    assert_eq!(app.sessions.connected_nodes().len(), 2, "both are ours");
    let other = owm_proto::NodeKey::from_seed(&[99; 32])
        .public()
        .to_string();
    sqlx::query("UPDATE nodes SET session_instance = $1")
        .bind(&other)
        .execute(&pool)
        .await
        .unwrap();
    sqlx::query("UPDATE nodes SET session_id = $1 WHERE node_id = $2")
        .bind(vec![77_u8; 16])
        .bind(fenced.id.0)
        .execute(&pool)
        .await
        .unwrap();
    gone.run().await.unwrap();
    assert!(app.sessions.connected_nodes().is_empty());
    let told = fenced.told.recv().await;
    assert!(
        matches!(told, Some(node_wire::work_down::Message::Fenced(_))),
        "{told:?}"
    );
    assert!(
        moved.told.recv().await.is_none(),
        "the same process goes on elsewhere"
    );
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_question_that_was_never_queued_is_not_cancelled_either(pool: PgPool) {
    let app = app(pool.clone()).await;
    let _node = app.node(1, 1, Script::Silence).await;
    app.current_model().await.unwrap();
    pool.close().await;
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let before = tasks();
    let refused = app.ask(question(false)).await;
    assert!(matches!(refused, Err(AskError::Store(_))), "{refused:?}");
    assert_eq!(tasks(), before, "nobody asks a database that is away again");
    assert!(app.answers.followed().is_empty());
}
