//! `top`'s screens as pictures: what an operator sees at the sizes that must work.

use insta::assert_snapshot;
use owm_proto::Msat;
use owm_service::telemetry::{FilterState, Warning};

use super::*;
use crate::{
    activity::{Rates, RunningTask, Snapshot, Totals},
    engine::EngineDescription,
    machine::Machine,
    session::Phase,
    status::{ModelStatus, StandingStatus, Status},
    tasklog::{Earnings, FinishedTask},
};

const NOW: u64 = 1_770_000_000_000;

fn status() -> Status {
    Status {
        phase: Phase::Active,
        software_version: "0.1.0".into(),
        pid: 4_711,
        started_at_ms: NOW - 7_321_000,
        node_key: "3f9a2b1c".repeat(8),
        network: "devnet".into(),
        network_id: "ab".repeat(32),
        coordinator: "127.0.0.1:9000".into(),
        linked: true,
        linked_since_ms: Some(NOW - 721_000),
        pong_at_ms: Some(NOW - 4_000),
        ping_ms: Some(3),
        clock_offset_ms: Some(-120),
        link_error: None,
        node_id: Some("n".into()),
        tier: Some("t1".into()),
        stake_policy: Some("not required".into()),
        node_status: Some("active".into()),
        standing: Some(StandingStatus {
            effective_tier: "t1".into(),
            reliability_permille: 998,
            uptime_permille: 1_000,
        }),
        reasons: vec![],
        model: Some(ModelStatus {
            version: "owm-v0.0.1".into(),
            sha256: vec!["d2".repeat(32)],
            sub_models: vec!["owm-code".into(), "owm-geo".into()],
            note: "a tiny stand-in with seeded random weights; no quality claimed".into(),
            timestamps: "require = none: timestamps are not checked yet".into(),
            engine: Some(EngineDescription {
                backend: "burn-flex/f32".into(),
                device: "CPU".into(),
                device_reason: "no GPU".into(),
                context_length: 512,
                parameters: 1_250_000,
            }),
        }),
        model_state: None,
        model_failed: false,
        model_damage: None,
        pause: None,
        slots: 2,
        running: 1,
        unacknowledged: 1,
        open: true,
        member_until_ms: None,
        origins: crate::status::Origins::default(),
        hardware: vec![],
    }
}

fn finished(n: u64, verdict: Option<&str>) -> FinishedTask {
    FinishedTask {
        task_id: format!("{n:08x}-0000-4000-8000-000000000000"),
        epoch: 1,
        model_version: "owm-v0.0.1".into(),
        prompt_tokens: verdict.map(|_| 31),
        output_tokens: verdict.map(|_| 64),
        exec_ms: verdict.map(|_| 1_234),
        finished_at_ms: NOW - n * 10_000,
        verdict: verdict.map(Into::into),
        reward_msat: if verdict == Some("accepted") {
            10_000
        } else {
            0
        },
    }
}

fn facts() -> Facts {
    let mut ended = vec![finished(1, None), finished(2, Some("rejected"))];
    ended.extend((3..=20).map(|n| finished(n, Some("accepted"))));
    Facts {
        at_ms: NOW,
        status: status(),
        swarm: Some(crate::swarm::SwarmPicture {
            running: true,
            peers_connected: 7,
            nodes_known: 12,
            ..Default::default()
        }),
        activity: Snapshot {
            running: vec![RunningTask {
                task_id: "0a1b2c3d-0000-4000-8000-000000000000".into(),
                epoch: 1,
                kind: "inference".into(),
                doing: None,
                progress: None,
                model_version: "owm-v0.0.1".into(),
                streaming: true,
                prompt_tokens: Some(31),
                tokens: 17,
                elapsed_ms: 2_345,
                tokens_per_s: 12.34,
            }],
            rates: Rates {
                prompt_per_s: 4.06,
                output_per_s: 11.5,
            },
            totals: Totals {
                prompt_tokens: 12_345,
                output_tokens: 678_901,
                prompt_secs: 1.0,
                generation_secs: 2.0,
            },
        },
        finished: ended,
        earnings: Some(Earnings {
            owed_msat: Msat(1_234_567),
            ..Earnings::default()
        }),
        earned_today_msat: Some(Msat(180_000)),
        machine: Machine {
            rss_bytes: Some(312_000_000),
            cpu_cores_used: Some(1.84),
            cpu_cores: Some(2),
            shelf_bytes: Some(24_600_000),
            disk_free_bytes: Some(51_200_000_000),
        },
        model_bytes: Some(5_000_000),
        log: FilterState {
            filter: "info".into(),
            default: "info".into(),
            reverts_in_secs: None,
        },
        warnings: vec![Warning {
            at_ms: NOW - 5_000,
            level: "warn".into(),
            target: "owm_node::daemon".into(),
            text: "no work link, connecting again error=\"the coordinator closed it\"".into(),
        }],
    }
}

fn picture(width: u16, height: u16, screen: &Screen) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, screen)).unwrap();
    terminal.backend().to_string()
}

fn running(facts: Facts) -> Screen {
    Screen {
        facts: Some(facts),
        away: None,
    }
}

#[test]
fn a_small_terminal_shows_every_figure() {
    assert_snapshot!("small", picture(80, 24, &running(facts())));
}

#[test]
fn a_large_terminal_shows_all_finished_tasks() {
    assert_snapshot!("large", picture(140, 40, &running(facts())));
}

#[test]
fn a_node_that_is_away_is_said_to_be() {
    let away = Some("owm-node is not running here; start it: owm-node start".to_owned());
    let never = Screen {
        facts: None,
        away: away.clone(),
    };
    assert_snapshot!("never_seen", picture(80, 24, &never));
    let lost = Screen {
        facts: Some(facts()),
        away,
    };
    let shown = picture(80, 24, &lost);
    assert!(
        shown.contains("owm-node is not running: waiting for it"),
        "{shown}"
    );
}

#[test]
fn a_node_that_has_nothing_yet_draws_at_every_size() {
    let mut bare = facts();
    bare.status.model = None;
    bare.status.linked = false;
    bare.status.link_error = Some("cannot reach 127.0.0.1:9000: refused".into());
    bare.status.phase = Phase::Unregistered;
    bare.status.standing = None;
    bare.status.reasons = vec!["open a channel of 100000 sat".into()];
    bare.activity = Snapshot::default();
    bare.finished.clear();
    bare.warnings.clear();
    bare.earnings = None;
    bare.machine = Machine::default();
    assert_snapshot!("bare", picture(80, 24, &running(bare.clone())));
    for (width, height) in [(1, 1), (79, 24), (80, 23), (20, 5), (300, 100)] {
        let shown = picture(width, height, &running(bare.clone()));
        assert_eq!(shown.lines().count(), usize::from(height));
    }
    let small = picture(60, 10, &running(bare));
    assert!(small.contains("this terminal is 60×10"), "{small}");
}

#[test]
fn printed_text_has_all_tasks_and_no_empty_end() {
    let lines = text(&facts());
    assert!(
        lines.iter().any(|line| line.contains("00000014")),
        "{lines:#?}"
    );
    assert!(
        lines
            .last()
            .is_some_and(|line| line.contains("connecting again")),
        "{lines:#?}"
    );
    assert!(!lines.iter().any(|line| line.contains("q quit")));
}
