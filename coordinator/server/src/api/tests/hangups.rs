//! Askers who close their connection, on the real listener.

use std::time::Duration;

use owm_coordinator_store::stats::stats_network;
use owm_proto::wire::coordinator as wire;
use owm_service::{CancellationToken, gate::GateMetrics};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::http;

#[expect(
    clippy::disallowed_methods,
    reason = "the test is the raw other side of the listener"
)]
async fn connect(addr: SocketAddr) -> TcpStream {
    TcpStream::connect(addr).await.unwrap()
}

async fn hang_up_on(pool: PgPool, stream: bool) {
    let site = site_within(pool, Limits::default()).await;
    let mut node = site
        .app
        .node(1, 1, Script::Stall(vec!["Pa", "ris"], 1))
        .await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let limits = site.app.config.api.limits();
    let metrics = GateMetrics::default();
    tokio::spawn(http::serve(
        listener,
        site.router.clone(),
        limits,
        metrics,
        stop,
    ));
    let body = json!({ "query": "and then?", "stream": stream }).to_string();
    let head = format!(
        "POST /v1/query HTTP/1.1\r\nHost: localhost:8080\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut asker = connect(addr).await;
    asker.write_all(head.as_bytes()).await.unwrap();
    asker.write_all(body.as_bytes()).await.unwrap();
    let leased = || async {
        let mut tx = site.app.store.begin("test").await.unwrap();
        stats_network(&mut tx).await.unwrap().tasks_running == 1
    };
    site.app.until(leased).await;
    drop(asker);
    let told = tokio::time::timeout(Duration::from_mins(2), node.told.recv()).await;
    let told = told.expect("the node is told").unwrap();
    assert!(
        matches!(told, wire::work_down::Message::Cancel(_)),
        "{told:?}"
    );
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn who_closes_a_connection_cancels_the_lease(pool: PgPool) {
    hang_up_on(pool, false).await;
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn who_closes_a_streaming_connection_cancels_the_lease(pool: PgPool) {
    hang_up_on(pool, true).await;
}
