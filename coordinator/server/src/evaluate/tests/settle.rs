//! What reports earn: nothing before they were compared, each once, and nothing for one that does not hold.

use owm_service::reconcile::Reconciler as _;

use super::*;
use crate::{
    app::testing::clocked,
    tasks::{due::Due, outbox::Outbox},
};

/// What each node is owed, by the ledger.
async fn owed(pool: &PgPool, nodes: &[Evaluator]) -> Vec<i64> {
    let mut all = vec![];
    for node in nodes {
        let sum = sqlx::query_scalar(
            "SELECT COALESCE(-sum(amount_msat), 0)::bigint FROM ledger_entries
             WHERE account = 'owed_to_node' AND node_id = $1",
        );
        all.push(sum.bind(node.id.0).fetch_one(pool).await.unwrap());
    }
    all
}

async fn three(app: &TestApp) -> Vec<Evaluator> {
    let mut nodes = vec![];
    for n in 1..=3 {
        nodes.push(evaluator(app, n, 1).await);
    }
    nodes
}

/// What a node is told later that a report has earned.
async fn told(node: &mut Evaluator) -> u64 {
    let waited = async {
        loop {
            let message = node.told.recv().await.unwrap().message;
            if let Some(wire::work_down::Message::ResultAck(ack)) = message {
                return ack.reward_msat;
            }
        }
    };
    tokio::time::timeout(Duration::from_mins(1), waited)
        .await
        .expect("nothing was told")
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn who_made_the_figures_up_earns_nothing_whoever_came_first(pool: PgPool) {
    let app = app(pool.clone()).await;
    let mut nodes = three(&app).await;
    let id = ask(&app, &order(3)).await;
    for (n, node) in nodes.iter_mut().enumerate() {
        let lease = node.lease().await;
        let loss = if n == 0 { 1.0 } else { 2.5 };
        let ack = node
            .report(&app, &lease, |r| r.finding = held_out(loss))
            .await;
        assert_eq!(ack.verdict(), Verdict::Accepted, "{}", ack.reason);
    }
    let reward = REWARD as i64;
    assert_eq!(owed(&pool, &nodes).await, [0, reward, reward]);
    let shown = tasks(&app, id).await;
    let liar = shown
        .iter()
        .find(|task| task.report.as_ref().is_some_and(|r| r.node == nodes[0].id));
    assert_eq!(liar.unwrap().reward.0, 0);
    // Whoever was acknowledged before hears of it, once and again.
    Outbox(app.app.clone()).run().await.unwrap();
    assert_eq!(told(&mut nodes[1]).await, REWARD);
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn what_was_not_settled_with_the_last_report_is_settled_once_by_whoever_comes(pool: PgPool) {
    let app = app(pool.clone()).await;
    let mut nodes = three(&app).await;
    ask(&app, &order(3)).await;
    for node in &mut nodes {
        let lease = node.lease().await;
        node.report(&app, &lease, |_| {}).await;
    }
    // As if the coordinator had died between the last report's commit and the booking: nothing of it is there.
    let mut restored = pool.acquire().await.unwrap();
    for undo in [
        "SET session_replication_role = replica",
        "DELETE FROM ledger_entries",
        "DELETE FROM ledger_events",
        "DELETE FROM outbox",
        "UPDATE tasks SET reward_msat = 0",
        "UPDATE evaluations SET settled_at = NULL",
        "SET session_replication_role = DEFAULT",
    ] {
        sqlx::query(undo).execute(&mut *restored).await.unwrap();
    }
    let (one, other) = tokio::join!(app.evaluations_settle(), app.evaluations_settle());
    assert_eq!(one.unwrap() + other.unwrap(), 1);
    Due(app.app.clone()).run().await.unwrap();
    assert_eq!(booked(&pool).await, 3);
    assert_eq!(owed(&pool, &nodes).await, [REWARD as i64; 3]);
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn the_deadline_settles_with_the_reports_that_are_there(pool: PgPool) {
    let (app, clock) = clocked(pool.clone()).await;
    let mut node = evaluator(&app, 1, 1).await;
    let id = ask(&app, &order(3)).await;
    let lease = node.lease().await;
    node.report(&app, &lease, |_| {}).await;
    Due(app.app.clone()).run().await.unwrap();
    assert_eq!(booked(&pool).await, 0, "two more are awaited");
    // The deadline is in half an hour.
    app.live_through(&clock, Duration::from_mins(31)).await;
    Due(app.app.clone()).run().await.unwrap();
    assert_eq!(owed(&pool, &[node]).await, [REWARD as i64]);
    let mut tx = app.store.begin("test").await.unwrap();
    let shown = evaluation_list(&mut tx, Some(id), 1).await.unwrap();
    assert!(shown[0].settled_at.is_some());
}
