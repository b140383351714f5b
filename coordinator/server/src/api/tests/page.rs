//! The public page over HTTP.

use std::time::Duration;

use owm_coordinator_store::node::{NodeRegistration, node_register};
use owm_proto::{NodeId, NodeKey, NodeStatus, Permille, Tier};

use super::*;

fn browser() -> Request<Body> {
    with(
        get("/"),
        "accept",
        "text/html,application/xhtml+xml,*/*;q=0.8",
    )
}

/// The values of an attribute, in order.
fn values<'a>(html: &'a str, attribute: &str) -> Vec<&'a str> {
    let start = format!(" {attribute}=\"");
    html.split(start.as_str())
        .skip(1)
        .filter_map(|rest| rest.split_once('"').map(|(value, _)| value))
        .collect()
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn the_page_needs_no_key_and_runs_nothing_but_its_own_files(pool: PgPool) {
    let site = site(pool).await;
    let mut from_elsewhere = browser();
    from_peer(&mut from_elsewhere, "192.0.2.1:5");
    let reply = site.send(from_elsewhere).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(reply.header("cache-control"), "no-store");
    assert_eq!(reply.header("referrer-policy"), "no-referrer");
    assert_eq!(reply.header("x-content-type-options"), "nosniff");
    let policy = reply.header("content-security-policy");
    let parts: Vec<&str> = policy.split("; ").collect();
    let expected = [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "form-action 'none'",
    ];
    assert_eq!(parts, expected);
    let html = reply.text();
    assert!(html.contains("All good"), "{html}");
    assert!(html.contains("1 node is ready to answer"), "{html}");
    // What the policy would refuse must not be there: no inline script, style or handler.
    assert_eq!(
        html.matches("<script").count(),
        html.matches("<script defer src=\"/static/").count()
    );
    for inline in ["<style", " style=", "javascript:", " onload=", " onclick="] {
        assert!(!html.contains(inline), "{inline}");
    }
    // Everything is ours: no address but this machine's.
    let hosts = html.matches("://").count();
    assert_eq!(
        hosts,
        html.matches("http://localhost:8080/").count(),
        "{html}"
    );
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn its_files_are_kept_for_ever_under_their_hashes(pool: PgPool) {
    let site = site(pool).await;
    let html = site.send(browser()).await.text();
    let files: Vec<&str> = [values(&html, "src"), values(&html, "href")]
        .concat()
        .into_iter()
        .filter(|path| path.starts_with("/static/"))
        .collect();
    assert_eq!(files.len(), 5, "three scripts, a style, an icon: {files:?}");
    let integrity = values(&html, "integrity");
    assert_eq!(integrity.len(), 4);
    for path in files {
        let reply = site.send(get(path)).await;
        assert_eq!(reply.status, 200, "{path}");
        assert_eq!(
            reply.header("cache-control"),
            "public, max-age=31536000, immutable"
        );
        let hash = data_encoding::BASE64.encode(owm_proto::Sha256::of(&reply.body).as_bytes());
        let named = integrity.contains(&format!("sha256-{hash}").as_str());
        assert!(named || path.ends_with("icon.svg"), "{path} {hash}");
    }
    for unknown in ["/static/00000000/page.css", "/static/x/../page.css"] {
        assert_eq!(site.send(get(unknown)).await.fault().0, 404, "{unknown}");
    }
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn no_text_no_request_id_and_no_wallet_is_shown(pool: PgPool) {
    let site = site_within(pool, Limits::default()).await;
    let words = vec!["canary-answer-", "Zq9"];
    site.app.node(1, 1, Script::Words(words)).await;
    let asked = json!({ "query": "canary-question-Xv7", "max_tokens": 8 });
    let answer = site.ok(post("/v1/query", &asked)).await;
    assert!(answer["answer"].as_str().unwrap().contains("canary-answer"));
    let html = site.send(browser()).await.text();
    let id = answer["request_id"].as_str().unwrap();
    for secret in ["canary", "Xv7", "Zq9", id, id.trim_start_matches("req_")] {
        assert!(!html.contains(secret), "{secret}: {html}");
    }
    assert!(
        html.contains("answered"),
        "the question itself is shown: {html}"
    );
    assert!(html.contains("id=\"task-"), "{html}");
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn what_a_node_says_of_itself_is_text_on_the_page(pool: PgPool) {
    let site = site_within(pool, Limits::default()).await;
    let evil = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'";
    let key = NodeKey::from_seed(&[7; 32]).public();
    let new = NodeRegistration {
        new_id: NodeId::from_random([7; 16]),
        public_key: key,
        owner: key,
        tier: Tier::T1,
        cpu_only: true,
        status: NodeStatus::Active,
        status_reason: evil.into(),
        capabilities: json!({ "backend": evil, "gpus": [evil], "cpu_cores": 1 }),
        vram_bytes: None,
        ram_bytes: None,
        bandwidth_kbps: None,
        software_version: evil.into(),
        ln_node_uri: evil.into(),
        stake_bonus: Permille::ONE,
        membership_expires_at: None,
    };
    let mut tx = site.app.store.begin("test").await.unwrap();
    node_register(&mut tx, &new, site.app.now()).await.unwrap();
    tx.commit().await.unwrap();
    let html = site.send(browser()).await.text();
    assert!(html.contains(&key.to_string()), "{html}");
    assert!(html.contains("&#60;script&#62;alert(1)"), "{html}");
    assert!(
        !html.contains("<script>") && !html.contains("<img"),
        "{html}"
    );
    // The one element of a page that is made before it is escaped would be the name in a title.
    assert!(!html.contains("onerror=alert(2)>"), "{html}");
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn commands_name_the_host_that_was_asked_if_it_is_one(pool: PgPool) {
    let site = site_within(pool, Limits::default()).await;
    let shown = async |host: &str, proto: &'static str| {
        let mut request = with(browser(), "x-forwarded-proto", proto);
        let host = host.parse().unwrap();
        request.headers_mut().insert(header::HOST, host);
        let html = site.send(request).await.text();
        let (_, rest) = html.split_once("curl -s ").expect("a command to paste");
        rest.split_once("/v1/").unwrap().0.to_owned()
    };
    assert_eq!(shown("owm.example", "https").await, "https://owm.example");
    assert_eq!(shown("[::1]:8080", "http").await, "http://[::1]:8080");
    let configured = &site.app.config.invite.web_seed;
    for hostile in ["a\"onx=", "a;rm -rf ~", "<b>", "a/../b", ""] {
        assert_eq!(shown(hostile, "http").await, *configured, "{hostile}");
    }
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn without_its_database_the_page_says_so_and_shows_what_it_knew(pool: PgPool) {
    let site = site(pool).await;
    site.app.store.close().await;
    let blind = site.send(browser()).await;
    assert_eq!(blind.status, 503);
    assert_eq!(blind.header("retry-after"), "5");
    let html = blind.text();
    assert!(html.contains("database has not answered"), "{html}");
    assert!(html.contains("<h1>") && html.contains("</html>"), "{html}");
    for inside in ["panicked", "sqlx", "PoolClosed", "Error"] {
        assert!(!html.contains(inside), "{inside}: {html}");
    }
}

/// The next event's data; `None` at the end of the stream.
async fn next_event(body: &mut Body, rest: &mut String) -> Option<String> {
    let read = async {
        loop {
            if let Some((event, after)) = rest.split_once("\n\n") {
                let data: Vec<&str> = event
                    .lines()
                    .filter_map(|l| l.strip_prefix("data: "))
                    .collect();
                let data = data.join("\n");
                *rest = after.to_owned();
                if data.is_empty() {
                    continue;
                }
                return Some(data);
            }
            let frame = body.frame().await?.unwrap();
            rest.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
        }
    };
    tokio::time::timeout(Duration::from_mins(2), read)
        .await
        .expect("an event or the end comes")
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn viewers_see_a_node_go_and_are_let_go_at_the_end(pool: PgPool) {
    let Site { app, router } = site(pool).await;
    let response = router.clone().oneshot(get("/events")).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    let (mut body, mut rest) = (response.into_body(), String::new());
    let first = next_event(&mut body, &mut rest).await.unwrap();
    assert!(first.contains("All good"), "{first}");
    app.sessions.remove_gone(|_, _, _| true);
    let gone = loop {
        // The minute may have changed in between.
        let html = next_event(&mut body, &mut rest).await.unwrap();
        if !html.contains("All good") {
            break html;
        }
    };
    assert!(gone.contains("The only node is silent since"), "{gone}");
    assert!(gone.contains("data-title=\"✕ Down"), "{gone}");
    drop(app);
    assert_eq!(next_event(&mut body, &mut rest).await, None);
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn who_finds_no_place_among_the_viewers_is_told_when_to_come_back(pool: PgPool) {
    let site = site_within(pool, Limits::default()).await;
    let all: Vec<_> = std::iter::from_fn(|| site.app.page.viewer(None)).collect();
    let reply = site.send(get("/events")).await;
    assert_eq!(reply.fault(), (503, "overloaded".into()));
    assert_eq!(reply.header("retry-after"), "30");
    drop(all);
    assert_eq!(site.begin(get("/events")).await.status(), 200);
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn one_address_cannot_take_all_places_among_the_viewers(pool: PgPool) {
    let site = site_within(pool, Limits::default()).await;
    let from = |peer: &'static str| {
        let mut request = get("/events");
        from_peer(&mut request, peer);
        request
    };
    let address = Some("192.0.2.1".parse().unwrap());
    let _all: Vec<_> = std::iter::from_fn(|| site.app.page.viewer(address)).collect();
    assert_eq!(site.send(from("192.0.2.1:7")).await.fault().0, 503);
    assert_eq!(site.begin(from("192.0.2.2:7")).await.status(), 200);
}
