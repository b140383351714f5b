//! What a network bears: a database that goes away, garbage and floods on its ports. Honest requests
//! are answered all the same, each once.
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]
#![expect(clippy::print_stdout, reason = "the counts are the result")]

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use owm_devnet::{Devnet, Model, api::Api, process::POLL};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

/// How long the database is away.
const OUTAGE: Duration = Duration::from_secs(10);
/// For what comes by itself sooner or later, on a slow machine under load.
const LIMIT: Duration = Duration::from_mins(2);
/// Askers at the same time: about what two nodes answer.
const ASKERS: usize = 6;
/// Bytes of nonsense for each port.
const GARBAGE_BYTES: usize = 4 << 20;

async fn network(nodes: u16) -> Devnet {
    Devnet::builder()
        .nodes(nodes)
        .model(Model::Tiny)
        .coordinator_setting("api", "questions_burst", 10_000)
        .coordinator_setting("api", "questions_per_second", 1_000)
        .start()
        .await
        .unwrap()
}

/// Waits until `condition` holds.
async fn until(what: &str, limit: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < limit, "waited too long for {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// Askers that go on until they are told to stop, and what they were given.
struct Load {
    stop: Arc<AtomicBool>,
    /// Ids of requests that were handed out.
    ids: Arc<Mutex<BTreeSet<String>>>,
    askers: JoinSet<()>,
}

impl Load {
    fn start(api: &Api) -> Self {
        let load = Self {
            stop: Arc::default(),
            ids: Arc::default(),
            askers: JoinSet::new(),
        };
        let mut askers = JoinSet::new();
        for asker in 0..ASKERS {
            let (api, stop, ids) = (api.clone(), load.stop.clone(), load.ids.clone());
            askers.spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    ask(&api, asker, &ids).await;
                }
            });
        }
        Self { askers, ..load }
    }

    fn handed_out(&self) -> usize {
        self.ids.lock().unwrap().len()
    }

    /// Lets every asker finish what he has begun; the ids.
    async fn finish(mut self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(asker) = self.askers.join_next().await {
            asker.unwrap();
        }
        let ids = self.ids.lock().unwrap();
        ids.clone()
    }
}

/// One streamed question; its id is handed out before there is an answer.
async fn ask(api: &Api, asker: usize, ids: &Mutex<BTreeSet<String>>) {
    let body = json!({"query": format!("asker {asker}"), "max_tokens": 24, "stream": true});
    let Ok(mut events) = api.stream("/v1/query", &body).await else {
        // Turned away: nothing was promised.
        tokio::time::sleep(POLL).await;
        return;
    };
    while let Ok(Some(event)) = events.next().await {
        let said: Value = serde_json::from_str(&event.data).unwrap_or_default();
        if said["type"] == "start" {
            let id = said["request_id"].as_str().unwrap().to_owned();
            ids.lock().unwrap().insert(id);
        }
    }
}

/// Every id has one answer, the same each time, and each answer was booked once.
async fn check_answers(net: &mut Devnet, ids: &BTreeSet<String>) {
    let api = net.api();
    for id in ids {
        let path = format!("/v1/requests/{id}");
        let mut last = None;
        until("an answer", Duration::from_mins(2), async || {
            last = api.get(&path).await.ok();
            last.as_ref().is_some_and(|answer| answer.status != 202)
        })
        .await;
        let first = last.unwrap();
        assert_eq!(
            first.status,
            200,
            "{}",
            String::from_utf8_lossy(&first.body)
        );
        assert!(first.json().unwrap()["answer"].is_string());
        assert_eq!(api.get(&path).await.unwrap().body, first.body);
    }
    let twice = "SELECT count(*) FROM (SELECT task_id FROM task_attempts WHERE outcome = 'accepted'
        GROUP BY task_id HAVING count(*) > 1) AS doubled";
    let unbooked = "SELECT count(*) FROM tasks t WHERE t.phase = 'done' AND
        (SELECT count(*) FROM ledger_events e WHERE e.task_id = t.task_id AND e.kind = 'reward') <> 1";
    for sql in [twice, unbooked] {
        assert_eq!(net.postgres().query(sql).await.unwrap(), "0", "{sql}");
    }
    let done = "SELECT count(*) FROM tasks WHERE phase = 'done'";
    let done: usize = net.postgres().query(done).await.unwrap().parse().unwrap();
    assert!(done >= ids.len(), "{done} of {}", ids.len());
    println!(
        "{} requests were handed out: all answered, 0 lost, 0 doubled",
        ids.len()
    );
}

/// While the database is away: new questions get a 503 that says when to come back, and the readiness
/// says why.
async fn check_away(net: &mut Devnet) {
    let health = Api::new(net.coordinator().health_url());
    let api = net.api();
    until("a readiness that says why", LIMIT, async || {
        let Ok(said) = health.get("/readyz").await else {
            return false;
        };
        let reason = said.json().unwrap()["checks"]["database"]["reason"].clone();
        said.status == 503 && reason.as_str().is_some_and(|r| r.contains("database"))
    })
    .await;
    let asked = api.post("/v1/query", &json!({"query": "now?"})).await;
    let asked = asked.unwrap();
    let said = String::from_utf8_lossy(&asked.body).into_owned();
    assert_eq!(asked.status, 503, "{said}");
    assert!(asked.headers.contains_key("retry-after"), "{said}");
    assert!(said.contains("database"), "{said}");
    assert_eq!(health.get("/livez").await.unwrap().status, 200);
}

async fn recovered(net: &mut Devnet) {
    let health = net.coordinator().health_url();
    let ready = async || owm_devnet::api::is_ready(&health).await;
    until("readiness", LIMIT, ready).await;
    let api = net.api();
    let answered = async || api.query("And now?").await.is_ok();
    until("an answer after it", LIMIT, answered).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_that_stands_still_for_ten_seconds_costs_no_answer() {
    let mut net = network(2).await;
    let load = Load::start(&net.api());
    until("some load", Duration::from_mins(3), async || {
        load.handed_out() >= 2 * ASKERS
    })
    .await;
    let begun = Instant::now();
    net.postgres().freeze().unwrap();
    check_away(&mut net).await;
    tokio::time::sleep(OUTAGE.saturating_sub(begun.elapsed())).await;
    net.postgres().thaw().unwrap();
    recovered(&mut net).await;
    let ids = load.finish().await;
    check_answers(&mut net, &ids).await;
    net.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_that_is_stopped_for_ten_seconds_costs_no_answer() {
    let mut net = network(2).await;
    let load = Load::start(&net.api());
    until("some load", Duration::from_mins(3), async || {
        load.handed_out() >= 2 * ASKERS
    })
    .await;
    let begun = Instant::now();
    net.postgres().stop_server().await.unwrap();
    check_away(&mut net).await;
    tokio::time::sleep(OUTAGE.saturating_sub(begun.elapsed())).await;
    net.postgres().start_again().await.unwrap();
    recovered(&mut net).await;
    let ids = load.finish().await;
    check_answers(&mut net, &ids).await;
    net.stop().await.unwrap();
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test is a stranger on the raw port"
)]
async fn connect(address: &str) -> std::io::Result<TcpStream> {
    TcpStream::connect(address).await
}

/// `http://127.0.0.1:9090` without its scheme.
fn address(url: &str) -> String {
    url.trim_start_matches("http://").to_owned()
}

/// Nonsense that is the same in each run (xorshift).
fn nonsense(seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut word = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..GARBAGE_BYTES / 8).flat_map(|_| word()).collect()
}

/// Writes until all is written or the other side has had enough; a new connection each time it ends.
async fn pour(address: String, garbage: Arc<Vec<u8>>) -> usize {
    let (mut poured, mut connections) = (0, 0);
    while poured < garbage.len() && connections < 200 {
        connections += 1;
        let Ok(mut tcp) = connect(&address).await else {
            tokio::time::sleep(POLL).await;
            continue;
        };
        while poured < garbage.len() {
            let end = garbage.len().min(poured + (64 << 10));
            let wrote =
                tokio::time::timeout(Duration::from_secs(5), tcp.write(&garbage[poured..end]));
            match wrote.await {
                Ok(Ok(n)) if n > 0 => poured += n,
                _ => break,
            }
        }
    }
    poured
}

/// Asks so many questions, a few at a time; all have to be answered.
async fn honest(api: &Api, questions: usize) {
    let mut asked = JoinSet::new();
    for number in 0..questions {
        let api = api.clone();
        asked.spawn(async move {
            let body = json!({"query": format!("honest {number}"), "max_tokens": 8});
            api.query_with(&body).await
        });
        if asked.len() >= ASKERS {
            asked.join_next().await.unwrap().unwrap().unwrap();
        }
    }
    while let Some(answer) = asked.join_next().await {
        answer.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn four_mebibytes_of_garbage_on_each_port_hurt_nobody() {
    let mut net = network(1).await;
    let coordinator = net.coordinator();
    let ports = [
        coordinator.rpc_address(),
        address(&coordinator.api_url()),
        address(&coordinator.health_url()),
        address(&net.nodes()[0].health_url()),
    ];
    let control = net.nodes()[0].dir().join("data").join("control.sock");
    let mut pouring = JoinSet::new();
    for (seed, port) in ports.into_iter().enumerate() {
        let garbage = nonsense(seed as u64 + 7);
        // As it is, and as what follows an honest beginning.
        let mut begun = b"POST /v1/query HTTP/1.1\r\nHost: localhost\r\n".to_vec();
        begun.extend_from_slice(&garbage[begun.len()..]);
        pouring.spawn(pour(port.clone(), Arc::new(garbage)));
        pouring.spawn(pour(port, Arc::new(begun)));
    }
    honest(&net.api(), 12).await;
    let mut poured = 0;
    while let Some(bytes) = pouring.join_next().await {
        poured += bytes.unwrap();
    }
    println!("{poured} bytes of garbage went in");
    assert!(poured > GARBAGE_BYTES, "only {poured} bytes went in");
    let mut unix = tokio::net::UnixStream::connect(&control).await.unwrap();
    drop(unix.write_all(&nonsense(3)).await);
    drop(unix);
    net.coordinator()
        .process()
        .unwrap()
        .check_running()
        .unwrap();
    net.nodes()[0].process().unwrap().check_running().unwrap();
    assert!(net.nodes()[0].status().await.unwrap().is_object());
    honest(&net.api(), 2).await;
    net.stop().await.unwrap();
}

/// Connections that send a head a byte at a time, until the test ends.
async fn dribble(address: String) {
    let Ok(mut tcp) = connect(&address).await else {
        return;
    };
    let head = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Slow: ";
    for byte in head.iter().chain(std::iter::repeat_n(&b'x', 600)) {
        if tcp.write_all(&[*byte]).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A connection that begins a handshake and never goes on, until the server has had enough.
async fn half_open(address: String, number: usize) {
    let Ok(mut tcp) = connect(&address).await else {
        return;
    };
    // Every other one sends the head of a record.
    if number.is_multiple_of(2) && tcp.write_all(&[22, 3, 1, 2, 0]).await.is_err() {
        return;
    }
    drop(tokio::time::timeout(Duration::from_mins(1), tcp.read(&mut [0; 1])).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_heads_and_half_open_handshakes_lock_nobody_out() {
    let mut net = network(1).await;
    let (api, rpc) = (
        address(&net.coordinator().api_url()),
        net.coordinator().rpc_address(),
    );
    let mut flood = JoinSet::new();
    for _ in 0..200 {
        flood.spawn(dribble(api.clone()));
    }
    for number in 0..600 {
        flood.spawn(half_open(rpc.clone(), number));
    }
    let health = Api::new(net.coordinator().health_url());
    let shows = async |line: &str| {
        let text = health.get("/metrics").await.unwrap().body;
        String::from_utf8_lossy(&text).contains(line)
    };
    until("the flood", LIMIT, async || {
        shows("owm_service_connections_refused_total{listener=\"rpc_handshake\"").await
    })
    .await;
    honest(&net.api(), 20).await;
    // A stranger joins in the midst of it.
    net.add_node().await.unwrap();
    honest(&net.api(), 4).await;
    // The slow ones are thrown out by time, whether or not they go on.
    until(
        "slow heads to be given up",
        Duration::from_mins(1),
        async || {
            shows("owm_service_connections_refused_total{listener=\"api\",reason=\"time_out\"}")
                .await
        },
    )
    .await;
    flood.shutdown().await;
    net.stop().await.unwrap();
}
