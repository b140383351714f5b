//! Evaluations beside one another: none holds up another, and one that nobody wants any more ends.

use owm_proto::wire::coordinator::{SubmitUpdateRequest, submit_update_request};
use owm_service::reconcile::Reconciler as _;

use super::{
    update::{announce, reference, update},
    *,
};
use crate::{
    app::testing::app_with,
    evaluate::cancel::{CancelError, Cancelled, cancel},
    tasks::{due::Due, outbox::Outbox, spool::Sweep},
};

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn an_evaluation_asked_of_more_owners_than_there_are_holds_up_no_other(pool: PgPool) {
    let app = app(pool).await;
    let mut node = evaluator(&app, 1, 1).await;
    // More tasks than a look claims, and only one owner to do them.
    for n in 0..3 {
        ask_as(&app, &order(NODES_MAX), n).await;
    }
    for _ in 0..3 {
        let lease = node.lease().await;
        node.report(&app, &lease, |_| {}).await;
        node.offer(1).await;
    }
    let last = ask_as(&app, &order(1), 99).await;
    let lease = node.lease().await;
    assert_eq!(
        tasks(&app, last).await[0].task_id.to_string(),
        lease.task_id
    );
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_cancelled_evaluation_ends_and_what_was_reported_is_owed(pool: PgPool) {
    let app = app(pool.clone()).await;
    let mut first = evaluator(&app, 1, 1).await;
    let id = ask(&app, &order(3)).await;
    let lease = first.lease().await;
    first.report(&app, &lease, |_| {}).await;
    let mut second = evaluator(&app, 2, 1).await;
    let lease = second.lease().await;
    let unknown = cancel(&app.store, EvaluationId::from_random([8; 16]), app.now()).await;
    assert!(matches!(unknown, Err(CancelError::Unknown(_))));

    let done = cancel(&app.store, id, app.now()).await.unwrap();
    let expected = Cancelled {
        queued: 1,
        leased: 1,
        reported: 1,
    };
    assert_eq!(done, expected);
    Outbox(app.app.clone()).run().await.unwrap();
    let told = async {
        loop {
            let message = second.told.recv().await.unwrap().message;
            if let Some(wire::work_down::Message::Cancel(told)) = message {
                return told;
            }
        }
    };
    let told = tokio::time::timeout(Duration::from_mins(1), told).await;
    let told = told.expect("the node was not told");
    assert_eq!(told.task_id, lease.task_id);
    let late = second.report(&app, &lease, |_| {}).await;
    assert_ne!(late.verdict(), Verdict::Accepted);

    Due(app.app.clone()).run().await.unwrap();
    assert_eq!(booked(&pool).await, 1);
    let again = cancel(&app.store, id, app.now()).await.unwrap();
    assert_eq!((again.queued, again.leased, again.reported), (0, 0, 1));
    let shown = tasks(&app, id).await;
    let reasons = shown
        .iter()
        .filter(|task| task.trouble.contains("cancelled"));
    assert_eq!(reasons.count(), 2);
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn an_update_leaves_the_spool_when_nothing_open_needs_it(pool: PgPool) {
    let app = app_with(pool, |config| {
        config.rounds.spool_kept = "0s".parse().unwrap();
    });
    let app = app.await;
    let mut node = evaluator(&app, 1, 1).await;
    let two = EvaluationOrder {
        nodes: 2,
        ..reference()
    };
    let id = ask(&app, &two).await;
    let lease = node.lease().await;
    let bytes = update(&app, &node, &lease, |_| {}).await;
    let result = announce(&app, &node, &lease, &bytes);
    let parts = [
        submit_update_request::Part::Result(result),
        submit_update_request::Part::Chunk(bytes.clone()),
    ];
    let parts = parts.map(|part| Ok(SubmitUpdateRequest { part: Some(part) }));
    let service = NodeService::new(app.app.clone());
    let stream = futures::stream::iter(parts);
    let ack = service
        .update_take(node.key.public(), stream)
        .await
        .unwrap();
    assert_eq!(ack.verdict(), Verdict::Accepted, "{}", ack.reason);

    let path = app.spool.path(&Sha256::of(&bytes));
    let sweep = Sweep(app.app.clone());
    // It has just come: it may not have been judged.
    sweep.run().await.unwrap();
    assert!(path.exists());
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    let old = file.metadata().unwrap().modified().unwrap() - Duration::from_hours(2);
    file.set_modified(old).unwrap();
    // Another report of the same evaluation is awaited.
    sweep.run().await.unwrap();
    assert!(path.exists());
    cancel(&app.store, id, app.now()).await.unwrap();
    Due(app.app.clone()).run().await.unwrap();
    sweep.run().await.unwrap();
    assert!(!path.exists());
}
