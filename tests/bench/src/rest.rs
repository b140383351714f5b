//! Requests that need no model, beside a named peer: the smallest axum server, in this process, asked
//! by the same client over the same loopback.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use axum::{Router, routing::get};
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Mutex, task::JoinSet, time::Instant};

use crate::{
    http::Client,
    load::{Fleet, LoadArgs, question},
    network::Network,
    node::Plan,
    process::Cpu,
    report::{self, Latencies},
};

/// Askers at once.
const ASKERS: usize = 32;

/// Prints requests per second of each path.
pub(crate) async fn run(network: &mut Network, args: &LoadArgs) -> Result<()> {
    let plan = Plan {
        slots: args.slots,
        again: true,
    };
    let _fleet = Fleet::start(&network.world, 4, plan).await?;
    let world = network.world.clone();
    let pids = network.pids()?;
    let client = Arc::new(Client::new(
        world.dialer.clone(),
        &world.api,
        Some(&world.api_key),
    ));
    let (status, body) = client
        .send(Method::POST, "/v1/query", question(false))
        .await?;
    ensure!(status.is_success(), "{status}: {body:?}");
    let answer: Value = serde_json::from_slice(&body)?;
    let id = answer["request_id"].as_str().context("no request id")?;
    let show = format!("/v1/requests/{id}");
    let peer = TcpListener::bind("127.0.0.1:0").await?;
    let address = peer.local_addr()?.to_string();
    let hello = Router::new().route("/", get(|| async { "hello" }));
    let _peer = tokio::spawn(async move { axum::serve(peer, hello).await });
    let bare = Arc::new(Client::new(world.dialer.clone(), &address, None));
    println!("## The API without a model: {ASKERS} kept connections\n");
    println!(
        "| request | requests/s | p50 / p99 ms | CPU ms per request: coordinator | Postgres | load generator |"
    );
    println!("|---|---|---|---|---|---|");
    let get = |path: &str| (Method::GET, path.to_owned(), Bytes::new());
    let refused = Bytes::from_static(b"{\"query\": \"\", \"max_tokens\": 1}");
    let rows = [
        (
            "peer: axum, GET / (its CPU is the load generator's)",
            &bare,
            get("/"),
        ),
        ("GET /v1/models", &client, get("/v1/models")),
        ("GET /v1/network/stats", &client, get("/v1/network/stats")),
        ("GET /v1/requests/{id}", &client, get(&show)),
        (
            "POST /v1/query, refused (400)",
            &client,
            (Method::POST, "/v1/query".into(), refused),
        ),
    ];
    for (what, client, (method, path, body)) in rows {
        let before = Cpu::now(pids);
        let (all, wall) = hammer(
            client,
            method,
            path,
            body,
            Duration::from_secs(args.seconds.min(5)),
        )
        .await?;
        let cpu = Cpu::now(pids).since(before);
        let n = all.len().max(1) as f64;
        let ms = |seconds: f64| seconds * 1_000.0 / n;
        println!(
            "| {what} | {:.0} | {} | {:.3} | {:.3} | {:.3} |",
            n / wall,
            all.cell(),
            ms(cpu.coordinator),
            ms(cpu.postgres),
            ms(cpu.bench)
        );
        report::line(
            &json!({"scenario": what, "requests_per_second": n / wall, "latency": all.json(),
            "cpu_ms_per_request": {"coordinator": ms(cpu.coordinator), "postgres": ms(cpu.postgres), "bench": ms(cpu.bench)}}),
        );
    }
    println!();
    Ok(())
}

async fn hammer(
    client: &Arc<Client>,
    method: Method,
    path: String,
    body: Bytes,
    during: Duration,
) -> Result<(Latencies, f64)> {
    let all = Arc::new(Mutex::new(Latencies::default()));
    let begun = Instant::now();
    let mut asking = JoinSet::new();
    for _ in 0..ASKERS {
        let (client, all) = (client.clone(), all.clone());
        let (method, path, body) = (method.clone(), path.clone(), body.clone());
        asking.spawn(async move {
            while begun.elapsed() < during {
                let start = Instant::now();
                let (status, _) = client.send(method.clone(), &path, body.clone()).await?;
                ensure!(status.as_u16() < 429, "{path}: {status}");
                all.lock().await.push(start.elapsed().as_micros() as u64);
            }
            Ok(())
        });
    }
    while let Some(ended) = asking.join_next().await {
        ended??;
    }
    let all = std::mem::take(&mut *all.lock().await);
    Ok((all, begun.elapsed().as_secs_f64()))
}
