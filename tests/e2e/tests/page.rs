//! The public page in a real browser: without scripts it is complete, with them it is live. `make test`
//! runs this where Chromium is installed; the pictures it leaves in cargo's target folder (`tmp/`) are
//! for people to look at.

#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Result;
use owm_devnet::{Devnet, Model};
use owm_e2e::browser::{Browser, Look};
use serde_json::{Value, json};

/// Figures that the coordinator keeps for a while are newer than that.
const FIGURES_WITHIN: Duration = Duration::from_secs(90);
/// A change is shown within a second or two; a busy machine gets more.
const LIMIT: Duration = Duration::from_mins(3);

const HEADLINE: &str = "document.querySelector('#verdict h1').innerText";
const ROWS: &str = "document.querySelectorAll('#nodes tbody tr').length";
const CONNECTED: &str = "document.querySelectorAll('#nodes tbody .state.good').length";
const SILENT: &str = "document.querySelectorAll('#nodes tbody tr.down').length";

fn picture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

async fn network() -> Devnet {
    let builder = Devnet::builder().nodes(3).model(Model::Tiny);
    let net = builder.start().await.unwrap();
    for question in ["Who are you?", "Where is Paris?"] {
        let asked = json!({"query": question, "max_tokens": 16});
        net.api().query_with(&asked).await.unwrap();
    }
    // Figures may be a moment old, here and on the page.
    let start = Instant::now();
    while !shows_what_is_there(&net).await.unwrap() {
        assert!(
            start.elapsed() < FIGURES_WITHIN,
            "the answers are not shown as owed, or not all nodes as connected"
        );
        tokio::time::sleep(owm_devnet::process::POLL).await;
    }
    net
}

/// Whether statistics and page agree on what is owed for both questions, and nothing is missing any more.
async fn shows_what_is_there(net: &Devnet) -> Result<bool> {
    let stats = net.api().get("/v1/network/stats").await?.ok()?;
    let owed = stats["owed_sats"].as_u64().unwrap_or(0);
    let whole = stats["nodes"]["connected"] == 3 && stats["tasks"]["done"].as_u64() >= Some(2);
    let page = net.api().get("/").await?;
    let page = String::from_utf8_lossy(&page.body).into_owned();
    let shown = page.contains(&format!(">{owed}<")) && page.contains("All good");
    Ok(owed > 0 && whole && shown)
}

async fn browser() -> Browser {
    let program = std::env::var("OWM_CHROMIUM").expect("OWM_CHROMIUM is set by `make test`");
    Browser::start(Path::new(&program)).await.unwrap()
}

/// What has to be there with and without scripts.
async fn is_complete(browser: &mut Browser, net: &Devnet) -> Result<()> {
    let whole = format!("{HEADLINE}.includes('All good') && {ROWS} === 3 && {CONNECTED} === 3");
    browser.until(&whole, LIMIT).await?;
    let body = browser.text("document.body.innerText").await?;
    let stats = net.api().get("/v1/network/stats").await?.ok()?;
    let sha256 = stats["model"]["sha256"].as_str().unwrap();
    let owed = stats["owed_sats"].as_u64().unwrap();
    assert!(owed > 0);
    for wanted in [
        sha256,
        "owm-v0.1.0",
        "stand-in",
        &format!("{owed}\u{a0}sats"),
        "Timestamp policy: none",
    ] {
        let found = body.contains(wanted) || body.contains(&wanted.replace('\u{a0}', " "));
        assert!(found, "{wanted}: {body}");
    }
    for secret in ["Who are you", "Where is Paris", "req_"] {
        assert!(!body.contains(secret), "{secret}: {body}");
    }
    let command = format!("curl -s {}/v1/query", net.api().base());
    assert!(body.contains(&command), "{command}: {body}");
    Ok(())
}

/// Nothing is wider than the window, and no table than its place.
async fn fits(browser: &mut Browser, look: Look) -> Result<()> {
    browser.look(look).await?;
    let whole = browser
        .value("document.documentElement.scrollWidth")
        .await?;
    assert_eq!(whole, look.width, "the page has to be scrolled sideways");
    let wide =
        "[...document.querySelectorAll('section')].filter(s => s.scrollWidth > s.clientWidth)";
    let wide = browser.value(&format!("{wide}.map(s => s.id)")).await?;
    assert_eq!(wide, json!([]), "clipped at {} pixels", look.width);
    Ok(())
}

#[tokio::test]
#[ignore = "needs OWM_CHROMIUM, the path of a Chromium; `make test` sets it"]
async fn browser_without_scripts_sees_the_whole_page() {
    let net = network().await;
    let mut browser = browser().await;
    let plain = Look {
        scripts: false,
        ..Look::DESKTOP
    };
    browser.look(plain).await.unwrap();
    browser.open(net.api().base()).await.unwrap();
    is_complete(&mut browser, &net).await.unwrap();
    let link = browser
        .text("document.getElementById('link').innerText")
        .await
        .unwrap();
    assert!(
        link.contains("Without JavaScript this page reloads"),
        "{link}"
    );
    for width in [1280, 1040, 900, 640, 390, 360] {
        fits(&mut browser, Look { width, ..plain }).await.unwrap();
    }
    browser
        .picture(&picture("page-without-scripts.png"))
        .await
        .unwrap();
    assert_eq!(browser.take_complaints(), Vec::<String>::new());
    net.stop().await.unwrap();
}

#[tokio::test]
#[ignore = "needs OWM_CHROMIUM, the path of a Chromium; `make test` sets it"]
async fn browser_sees_a_node_go_and_come_back_without_a_reload() {
    let mut net = network().await;
    let mut browser = browser().await;
    browser.look(Look::DESKTOP).await.unwrap();
    browser.open(net.api().base()).await.unwrap();
    until_link(&mut browser, "Live").await;
    is_complete(&mut browser, &net).await.unwrap();
    browser
        .picture(&picture("page-all-good.png"))
        .await
        .unwrap();
    // A reload would lose the first, a page put in anew the second.
    browser
        .value("window.witness = 'still here'")
        .await
        .unwrap();
    browser
        .value("document.querySelector('#nodes details').open = true")
        .await
        .unwrap();

    net.nodes()[1].kill().await.unwrap();
    let killed = std::time::Instant::now();
    // The title follows the swap of what is below it.
    let degraded =
        format!("{HEADLINE}.includes('Degraded') && {SILENT} === 1 && {CONNECTED} === 2");
    let title = "document.title.startsWith('▲ Degraded')";
    browser
        .until(&format!("{degraded} && {title}"), LIMIT)
        .await
        .unwrap();
    println!(
        "the page showed the kill after {} ms",
        killed.elapsed().as_millis()
    );
    assert_eq!(browser.value(ROWS).await.unwrap(), 3);
    let body = browser.text("document.body.innerText").await.unwrap();
    assert!(body.contains("1 of 3 nodes is silent since"), "{body}");
    browser
        .picture(&picture("page-degraded.png"))
        .await
        .unwrap();
    let phone = Look {
        width: 390,
        height: 844,
        ..Look::DESKTOP
    };
    fits(&mut browser, phone).await.unwrap();
    browser.picture(&picture("page-phone.png")).await.unwrap();
    let dark = Look {
        dark: true,
        ..Look::DESKTOP
    };
    fits(&mut browser, dark).await.unwrap();
    browser.picture(&picture("page-dark.png")).await.unwrap();

    net.nodes()[1].start().await.unwrap();
    browser
        .until(&format!("{HEADLINE}.includes('All good')"), LIMIT)
        .await
        .unwrap();
    assert_eq!(browser.value("window.witness").await.unwrap(), "still here");
    let open = "document.querySelector('#nodes details').open";
    assert_eq!(browser.value(open).await.unwrap(), Value::Bool(true));
    assert_eq!(browser.take_complaints(), Vec::<String>::new());

    // Had the policy been broken, this test would have been told.
    let inline =
        "document.body.append(Object.assign(document.createElement('script'), {text: '1'}))";
    browser.value(inline).await.unwrap();
    let policy = "Content Security Policy";
    browser.until_complaint(policy, LIMIT).await.unwrap();

    net.coordinator().kill().await.unwrap();
    until_link(&mut browser, "Not live since").await;
    net.coordinator().start().await.unwrap();
    until_link(&mut browser, "Live").await;
    assert_eq!(browser.value("window.witness").await.unwrap(), "still here");
    net.stop().await.unwrap();
}

#[tokio::test]
#[ignore = "needs OWM_CHROMIUM, the path of a Chromium; `make test` sets it"]
async fn browser_is_told_that_the_database_is_away_and_keeps_the_last_figures() {
    let mut net = network().await;
    let mut browser = browser().await;
    browser.look(Look::DESKTOP).await.unwrap();
    browser.open(net.api().base()).await.unwrap();
    until_link(&mut browser, "Live").await;
    net.postgres().process().kill().await.unwrap();
    let away = "document.getElementById('verdict').innerText.includes('database has not answered')";
    browser.until(away, LIMIT).await.unwrap();
    assert!(browser.text(HEADLINE).await.unwrap().contains("Down"));
    assert_eq!(browser.value(ROWS).await.unwrap(), 3, "of the last look");
    let page = net.api().get("/").await.unwrap();
    assert_eq!(page.status, 503);
    browser
        .picture(&picture("page-database-away.png"))
        .await
        .unwrap();
}

async fn until_link(browser: &mut Browser, text: &str) {
    let condition = format!("document.getElementById('link').textContent.startsWith('{text}')");
    browser.until(&condition, LIMIT).await.unwrap();
}
