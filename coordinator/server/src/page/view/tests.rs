//! The page's HTML for networks made by hand, with a fixed clock. Look at a difference before taking it:
//! `INSTA_UPDATE=always cargo test -p owm-coordinator page::view`.

use std::{sync::Arc, time::Duration};

use owm_coordinator_domain::{
    network::{NetworkView, Served, verdict},
    task::FailureCode,
};
use owm_coordinator_store::{
    glance::{NodeGlance, TaskGlance},
    model::ModelVersion,
    stats::NetworkCounts,
};
use owm_proto::{
    Envelope, Msat, NodeId, NodeKey, NodeStatus, Permille, Purpose, Sha256, TaskId, Tier,
    manifest::{Manifest, SubModel},
};

use super::{
    super::{
        glance::{Holding, NodeNow, Where},
        swarm::SwarmNow,
    },
    *,
};

/// 2026-11-22 14:58:07 UTC.
const NOW: UnixMillis = UnixMillis(1_795_359_487_000);

fn back(secs: u64) -> UnixMillis {
    NOW.before(Duration::from_secs(secs))
}

fn about() -> About {
    About {
        network: "sample".into(),
        network_id: Sha256::of(b"genesis").to_string(),
        chain: "regtest".into(),
        stake_policy: "not required",
        needs_key: true,
        started_at: back(7_500),
    }
}

fn node(n: u8, place: Where) -> NodeNow {
    NodeNow {
        node: NodeGlance {
            node_id: NodeId::from_random([n; 16]),
            public_key: NodeKey::from_seed(&[n; 32]).public(),
            tier: Tier::T2,
            effective_tier: Tier::T2,
            status: NodeStatus::Active,
            status_reason: String::new(),
            cpu_only: false,
            backend: "burn-cuda/f16".into(),
            software_version: "0.1.0".into(),
            uptime: Permille(987),
            reliability: Permille(1_000),
            tasks_total: 1_250,
            tasks_succeeded: 1_249,
            earned: Msat(31_225_500),
            heard_at: NOW,
            elsewhere: false,
        },
        place,
        speed_tenths: Some(417),
    }
}

fn task(n: u8, phase: &str) -> TaskGlance {
    TaskGlance {
        task_id: TaskId::from_random([n; 16]),
        node: Some(NodeKey::from_seed(&[1; 32]).public()),
        sub_model: "owm-geo".into(),
        model_version: Some("owm-v0.1.0".into()),
        phase: phase.into(),
        failure: None,
        attempts: 1,
        prompt_tokens: None,
        output_tokens: None,
        exec_ms: None,
        submitted_at: back(60 * u64::from(n)),
    }
}

fn model() -> ModelVersion {
    let file = |name: &str| owm_proto::manifest::ManifestFile {
        name: name.into(),
        size: 269_060_552,
        sha256: Sha256::of(name.as_bytes()),
        piece_len: None,
        ladder_sha256: None,
    };
    let sub_model = |weights: &str| SubModel {
        architecture: "llama".into(),
        tokenizer: "tokenizer.json".into(),
        files: vec![weights.into(), "tokenizer.json".into()],
    };
    let sub_models = [
        ("owm-code", sub_model("code.safetensors")),
        ("owm-geo", sub_model("geo.safetensors")),
    ];
    let manifest = Manifest {
        sequence: 1,
        version: "owm-v0.1.0".parse().unwrap(),
        round: None,
        created_at: back(86_400 * 2),
        parent: None,
        default_sub_model: "owm-geo".parse().unwrap(),
        sub_models: sub_models
            .map(|(id, sub_model)| (id.parse().unwrap(), sub_model))
            .into(),
        files: ["code.safetensors", "geo.safetensors", "tokenizer.json"]
            .map(file)
            .to_vec(),
        note: "a tiny stand-in with seeded random weights; no quality claimed".into(),
        deltas: Vec::new(),
        release_notes: String::new(),
    };
    let key = NodeKey::from_seed(&[9; 32]).public();
    ModelVersion {
        envelope: Envelope::from_parts(Purpose::Manifest, key, [0; 64], manifest.to_bytes()),
        created_at: manifest.created_at,
        manifest,
        is_current: true,
        btc_block: None,
        withdrawn: false,
    }
}

/// The silent node is heard by gossip all the same, and a stranger is.
fn swarm() -> SwarmNow {
    let key = |n: u8| NodeKey::from_seed(&[n; 32]).public();
    SwarmNow {
        peer: "12D3KooWGjMCwCXwoLKkrHMLTKsqLLfLKXUMzMdSEeWVrQHY1pDA".into(),
        peers: 5,
        heard: [1, 2, 3, 7].map(key).into(),
        strangers: 1,
        within: Duration::from_mins(3),
        checkpoint: Some(("owm-v0.1.0".into(), 1, Sha256::of(b"manifest").to_string())),
    }
}

/// Two nodes are there, one is silent, one has to wait; one sub-model is held by nobody.
fn sample() -> Glance {
    let model = model();
    let holding = |id: &str, holders| Holding {
        sub_models: vec![id.to_owned()],
        weights: model.manifest.weights_sha256(&id.parse().unwrap()),
        holders,
        is_default: id == "owm-geo",
    };
    let holdings = vec![holding("owm-code", 0), holding("owm-geo", 2)];
    let here = |busy| Where::Here {
        since: back(3_600),
        slots: 2,
        busy,
    };
    let mut slow = node(2, here(0));
    slow.node.cpu_only = true;
    slow.node.effective_tier = Tier::T1;
    slow.speed_tenths = None;
    let mut pending = node(4, here(0));
    pending.node.status = NodeStatus::Pending;
    pending.node.status_reason = "no stake channel yet".into();
    let silent = Where::Silent { since: back(960) };
    let mut failed = task(4, "failed");
    failed.failure = Some(FailureCode::Timeout);
    failed.attempts = 3;
    let mut done = task(3, "done");
    (done.prompt_tokens, done.output_tokens) = (Some(1_051), Some(16));
    done.exec_ms = Some(1_450);
    let mut queued = task(1, "queued");
    (queued.node, queued.attempts) = (None, 0);
    let served = |h: &Holding| Served {
        sub_model: h.sub_models[0].parse().unwrap(),
        is_default: h.is_default,
        holders: h.holders,
    };
    let view = NetworkView {
        models: holdings.iter().map(served).collect(),
        nodes_expected: 3,
        nodes_connected: 2,
        silent_since: Some(back(960)),
        queued: 1,
        longest_wait: Duration::from_mins(1),
        ..NetworkView::default()
    };
    Glance {
        taken_at: NOW,
        verdict: verdict(&view),
        counts: NetworkCounts {
            nodes_active: 3,
            nodes_pending: 1,
            tasks_queued: 1,
            tasks_running: 1,
            tasks_done: 12_345,
            tasks_failed: 2,
            output_tokens: 1_234_567,
            ..NetworkCounts::default()
        },
        owed: Msat(62_451_500),
        oldest_queued: Some(back(60)),
        nodes_expected: 3,
        nodes_connected: 2,
        nodes_unlisted: 0,
        nodes_away: 1,
        nodes: vec![node(1, here(1)), slow, node(3, silent), pending],
        model: Some(Arc::new(model)),
        holdings,
        tasks: vec![
            queued,
            task(2, "leased"),
            done,
            failed,
            task(5, "cancelled"),
        ],
        swarm: Some(swarm()),
    }
}

/// Nothing has happened yet.
fn empty() -> Glance {
    Glance {
        verdict: verdict(&NetworkView::default()),
        counts: NetworkCounts::default(),
        owed: Msat(0),
        oldest_queued: None,
        nodes_expected: 0,
        nodes_connected: 0,
        nodes_away: 0,
        nodes: vec![],
        model: None,
        holdings: vec![],
        tasks: vec![],
        swarm: None,
        ..sample()
    }
}

#[test]
fn a_network_with_troubles_is_the_one_that_was_looked_at() {
    insta::assert_snapshot!(live(Some(&sample()), None, &about(), NOW));
}

#[test]
fn an_empty_network_says_what_to_do_next() {
    let html = live(Some(&empty()), None, &about(), NOW);
    for command in [
        "owm-coordinator invite",
        "owm-node init --join",
        "model import",
        "curl -s",
    ] {
        assert!(html.contains(command), "{command}: {html}");
    }
    insta::assert_snapshot!(html);
}

#[test]
fn while_the_database_is_away_the_last_figures_are_shown_with_their_time() {
    let away = Verdict::database_away(back(5));
    let html = live(Some(&sample()), Some(&away), &about(), NOW);
    assert!(
        html.contains("has not answered since 14:58:02 UTC"),
        "{html}"
    );
    assert!(
        html.contains("The figures below are of 14:58:07 UTC"),
        "{html}"
    );
    assert!(html.contains("62,451"), "{html}");
    let nothing = live(None, Some(&away), &about(), NOW);
    assert!(nothing.contains("has not answered since"), "{nothing}");
    assert!(!nothing.contains("<table"), "{nothing}");
}

#[test]
fn what_others_say_of_themselves_is_text() {
    let evil = "<script>alert(1)</script>\" onclick='x'\r\n";
    let mut glance = sample();
    let node = &mut glance.nodes[0].node;
    node.backend = evil.into();
    node.software_version = evil.into();
    node.status_reason = evil.into();
    let version = Arc::make_mut(glance.model.as_mut().unwrap());
    version.manifest.note = evil.into();
    glance.tasks[0].sub_model = evil.into();
    let html = live(
        Some(&glance),
        None,
        &About {
            network: evil.into(),
            ..about()
        },
        NOW,
    );
    assert!(!html.contains("<script"), "{html}");
    assert!(
        !html.contains("' onclick") && !html.contains("\" onclick"),
        "{html}"
    );
    assert_eq!(
        html.matches("&#60;script&#62;").count(),
        html.matches("alert(1)").count()
    );
    assert!(!html.contains('\r'), "an event's line would end there");
}

#[test]
fn a_viewer_pastes_commands_with_the_address_it_came_by() {
    let html = live(Some(&sample()), None, &about(), NOW);
    let mine = for_viewer(&html, "https://owm.example");
    assert!(
        mine.contains("curl -s https://owm.example/v1/query"),
        "{mine}"
    );
    assert!(!mine.contains(BASE));
}
