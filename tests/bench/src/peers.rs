//! What plain Postgres gives on the same machine in the same minute: the fewest statements that queue,
//! lease and finish a task, committed one by one and in batches. The bound that group commit works
//! towards.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use owm_devnet::postgres::{Postgres, PostgresOptions};
use serde_json::json;
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::{sync::Mutex, task::JoinSet, time::Instant};

use crate::report;

/// Connections, as many as a coordinator has.
const CONNECTIONS: u32 = 16;

/// Seconds per measurement.
const DURING: Duration = Duration::from_secs(5);

/// Prints minimal tasks per second.
pub(crate) async fn run() -> Result<()> {
    let folder = tempfile::Builder::new().prefix("owm-bench-").tempdir()?;
    let options = PostgresOptions {
        dir: folder.path().join("postgres"),
        log: folder.path().join("postgres.log"),
        port: None,
        durable: true,
    };
    let postgres = Postgres::start(&options).await?;
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .connect(postgres.url())
        .await?;
    sqlx::query(
        "CREATE TABLE jobs (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, state INT NOT NULL DEFAULT 0,
             payload BYTEA NOT NULL, answer BYTEA)",
    )
    .execute(&pool)
    .await?;
    println!("## Peer: a minimal queue on plain Postgres (fsync on, {CONNECTIONS} connections)\n");
    println!(
        "INSERT, UPDATE to leased, UPDATE to done, each its own commit; no checks, no ledger, no HTTP.\n"
    );
    println!("| batch | tasks/s |\n|---|---|");
    for batch in [1_i64, 50] {
        let rate = measure(&pool, batch).await?;
        println!("| {batch} | {rate:.0} |");
        report::line(
            &json!({"scenario": "plain postgres", "batch": batch, "tasks_per_second": rate}),
        );
    }
    println!();
    pool.close().await;
    postgres.stop().await
}

async fn measure(pool: &PgPool, batch: i64) -> Result<f64> {
    let done = Arc::new(Mutex::new(0_i64));
    let begun = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (pool, done) = (pool.clone(), done.clone());
        workers.spawn(async move {
            while begun.elapsed() < DURING {
                let ids: Vec<i64> = sqlx::query_scalar(
                    "INSERT INTO jobs (payload) SELECT $1 FROM generate_series(1, $2) RETURNING id",
                )
                .bind(&[7_u8; 256][..])
                .bind(batch)
                .fetch_all(&pool)
                .await?;
                for state in [1, 2] {
                    sqlx::query("UPDATE jobs SET state = $2, answer = $3 WHERE id = ANY($1)")
                        .bind(&ids)
                        .bind(state)
                        .bind(&[8_u8; 1024][..])
                        .execute(&pool)
                        .await?;
                }
                *done.lock().await += batch;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended??;
    }
    let done = *done.lock().await;
    Ok(done as f64 / begun.elapsed().as_secs_f64())
}
