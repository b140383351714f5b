//! Reference updates: committed before their bytes, held against what was asked, owed once.

use owm_proto::evaluation::{LoraPlan, ReferenceSteps};
use owm_update::{Codec, LoraEpoch, Mode, Origin, Subject, Targets, encode_update};

use super::*;
use crate::{app::testing::clocked, layout::layout_of, verdict::VerdictError};

pub(super) const STEPS: ReferenceSteps = ReferenceSteps {
    steps: 3,
    batch: 2,
    learning_rate: 1e-3,
    clip_norm: 1.0,
    keep_ppm: 100_000,
    value_bits: 2,
    round: 4,
    takes_part: false,
    lora: None,
};

pub(super) fn reference() -> EvaluationOrder {
    EvaluationOrder {
        reference: Some(STEPS),
        ..order(1)
    }
}

/// A node's update for a lease, changed as `spoil` says.
pub(super) async fn update(
    app: &TestApp,
    node: &Evaluator,
    lease: &wire::Lease,
    spoil: impl FnOnce(&mut Subject),
) -> Vec<u8> {
    let base = lease.model_sha256[0].parse().unwrap();
    let layout = layout_of(&app.blobs, base).await.unwrap();
    let mut subject = Subject {
        network: app.network(),
        round: STEPS.round,
        sub_model: lease.sub_model.parse().unwrap(),
        base,
        layout: layout.id(),
        mode: Mode::Full,
        origin: Origin::Node {
            node: node.key.public(),
            samples: 6,
            steps: STEPS.steps,
            clip: STEPS.clip_norm,
        },
    };
    spoil(&mut subject);
    let elements = layout.elements(&subject.mode).unwrap();
    let step: Vec<f32> = (0..elements).map(|n| (n as f32).sin()).collect();
    encode_update(subject, Codec::DEFAULT, step, None)
        .unwrap()
        .bytes
}

/// The signed result that announces these bytes.
pub(super) fn announce(
    app: &TestApp,
    node: &Evaluator,
    lease: &wire::Lease,
    bytes: &[u8],
) -> wire::TaskResult {
    node.result(app, lease, |report| {
        report.finding = Finding::Update {
            sha256: Sha256::of(bytes),
            size: bytes.len() as u64,
            losses: [ExactF64(3.0), ExactF64(2.0)],
        };
    })
}

/// Hands in as `SubmitUpdate` does.
async fn submit(
    app: &TestApp,
    node: &Evaluator,
    result: &wire::TaskResult,
    bytes: &[u8],
) -> wire::ResultAck {
    let key = node.key.public();
    let announced = app.update_announced(node.id, &key, result).await.unwrap();
    if announced.is_wanted && !app.spool.has(&announced.sha256, announced.size) {
        let mut incoming = app.spool.begin(announced.sha256, announced.size).unwrap();
        for part in bytes.chunks(1_000) {
            incoming.write(part).unwrap();
        }
        incoming.finish().unwrap();
    }
    let judged = app.update_judge(&key, result.clone(), announced).await;
    judged.unwrap()
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn an_update_is_committed_taken_and_owed_once(pool: PgPool) {
    let app = app(pool.clone()).await;
    let mut node = evaluator(&app, 1, 1).await;
    let id = ask(&app, &reference()).await;
    let lease = node.lease().await;
    let bytes = update(&app, &node, &lease, |_| {}).await;
    let result = announce(&app, &node, &lease, &bytes);

    // Without its bytes it is nothing, however it comes.
    let key = node.key.public();
    let bare = app.result_take(node.id, &key, result.clone()).await;
    assert!(matches!(bare, Err(VerdictError::Malformed(_))), "{bare:?}");

    let announced = app.update_announced(node.id, &key, &result).await.unwrap();
    assert!(announced.is_wanted);
    let committed: Option<bool> = sqlx::query_scalar("SELECT on_time FROM task_attempts")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(
        committed,
        Some(true),
        "the commit is there before the bytes"
    );

    let ack = submit(&app, &node, &result, &bytes).await;
    assert_eq!(
        (ack.verdict(), ack.reward_msat),
        (Verdict::Accepted, REWARD),
        "{}",
        ack.reason
    );
    let again = submit(&app, &node, &result, &[]).await;
    assert_eq!(
        (again.verdict(), again.reward_msat),
        (Verdict::Duplicate, REWARD)
    );
    let kept = std::fs::read(app.spool.path(&Sha256::of(&bytes))).unwrap();
    assert_eq!(kept, bytes);
    let report = tasks(&app, id).await[0].report.clone().unwrap();
    assert!(
        matches!(report.said.finding, Finding::Update { size, .. } if size == bytes.len() as u64)
    );
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn an_update_of_something_else_is_refused_with_the_reason(pool: PgPool) {
    type Spoil = fn(&mut Subject);
    let app = app(pool).await;
    let spoils: [(&str, Spoil); 5] = [
        ("layout", |s| s.layout = Sha256([5; 32])),
        ("parent", |s| s.base = Sha256([1; 32])),
        ("round", |s| s.round += 1),
        ("sub-model", |s| s.sub_model = "owm-code".parse().unwrap()),
        ("maker", |s| {
            if let Origin::Node { clip, .. } = &mut s.origin {
                *clip *= 2.0;
            }
        }),
    ];
    for (n, (what, spoil)) in (1..).zip(spoils) {
        let mut node = evaluator(&app, n, 1).await;
        ask_as(&app, &reference(), u64::from(n)).await;
        let lease = node.lease().await;
        let bytes = update(&app, &node, &lease, spoil).await;
        let result = announce(&app, &node, &lease, &bytes);
        let ack = submit(&app, &node, &result, &bytes).await;
        assert_eq!(ack.verdict(), Verdict::Rejected, "{what}");
        assert!(ack.reason.contains(what), "{what}: {}", ack.reason);
    }
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn bytes_that_nobody_committed_to_in_time_are_not_taken(pool: PgPool) {
    let (app, clock) = clocked(pool).await;
    let mut node = evaluator(&app, 1, 1).await;
    ask(&app, &reference()).await;
    let lease = node.lease().await;
    let bytes = update(&app, &node, &lease, |_| {}).await;
    let other = update(&app, &node, &lease, |s| {
        if let Origin::Node { samples, .. } = &mut s.origin {
            *samples = 1;
        }
    })
    .await;
    let key = node.key.public();
    let first = announce(&app, &node, &lease, &bytes);
    let announced = app.update_announced(node.id, &key, &first).await.unwrap();
    assert!(announced.is_wanted);
    let second = announce(&app, &node, &lease, &other);
    let announced = app.update_announced(node.id, &key, &second).await.unwrap();
    assert!(!announced.is_wanted, "the first commit of a lease stands");
    assert!(!app.spool.has(&announced.sha256, announced.size));

    // The first was on time; its bytes may come after the lease.
    clock.pass(Duration::from_mins(11));
    let ack = submit(&app, &node, &first, &bytes).await;
    assert_eq!(ack.verdict(), Verdict::Accepted, "{}", ack.reason);
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn what_is_adapted_is_the_parents_to_say(pool: PgPool) {
    let app = app(pool).await;
    let lora = LoraPlan {
        epoch: 1,
        rank: 2,
        seed: [3; 32],
    };
    let order = EvaluationOrder {
        reference: Some(ReferenceSteps {
            lora: Some(lora),
            ..STEPS
        }),
        ..order(1)
    };
    for (n, is_whole) in [(1, false), (2, true)] {
        let mut node = evaluator(&app, n, 1).await;
        ask_as(&app, &order, u64::from(n)).await;
        let lease = node.lease().await;
        let base = lease.model_sha256[0].parse().unwrap();
        let layout = layout_of(&app.blobs, base).await.unwrap();
        let all = layout.adapted().unwrap();
        let places: Vec<u32> = all.places().collect();
        assert_eq!(places.len() % 7, 0, "seven of each layer");
        let taken = if is_whole { places.len() } else { 1 };
        let targets = Targets::new(all.tensors(), places[..taken].iter().copied());
        let mode = Mode::Lora(LoraEpoch {
            epoch: lora.epoch,
            rank: lora.rank,
            seed: lora.seed,
            targets: targets.unwrap(),
        });
        let bytes = update(&app, &node, &lease, |s| s.mode = mode).await;
        let result = announce(&app, &node, &lease, &bytes);
        let ack = submit(&app, &node, &result, &bytes).await;
        if is_whole {
            assert_eq!(ack.verdict(), Verdict::Accepted, "{}", ack.reason);
        } else {
            assert_eq!(ack.verdict(), Verdict::Rejected);
            assert!(ack.reason.contains("other matrices"), "{}", ack.reason);
        }
    }
}
