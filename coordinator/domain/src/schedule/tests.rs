//! Selection: who may, who must not, and that it is replayable.

use std::collections::HashMap;

use owm_proto::{
    EvaluationId, NodeId, NodeKey, NodeStatus, Permille, PublicKey, Role, Sha256, TaskType, Tier,
};
use proptest::prelude::*;

use super::*;

fn node(n: u8) -> NodeId {
    NodeId::from_random([n; 16])
}

fn weights(n: u8) -> Sha256 {
    Sha256([n; 32])
}

fn candidate(n: u8) -> Candidate {
    Candidate {
        node: node(n),
        owner: owner(n),
        status: NodeStatus::Active,
        tier: Tier::T1,
        cpu_only: false,
        reliability: Permille::ONE,
        stake_bonus: Permille::ONE,
        credits: Credits {
            infer: 1,
            evaluate: 1,
            train: 1,
            ingest: 1,
        },
        infer_slots: 1,
        training: false,
        loaded: vec![weights(1)],
    }
}

fn need(task_type: TaskType) -> TaskNeed {
    TaskNeed {
        task_type,
        min_tier: Tier::T1,
        cpu_capable: true,
        models: vec![weights(1)],
        only_holders: false,
        tried: Vec::new(),
        only: None,
        apart: None,
    }
}

fn owner(n: u8) -> PublicKey {
    NodeKey::from_seed(&[n; 32]).public()
}

fn seed(n: u64) -> [u8; 32] {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&n.to_le_bytes());
    seed
}

/// How often each candidate is chosen over 4,000 seeds.
fn shares(task: &TaskNeed, candidates: &[Candidate]) -> Vec<u32> {
    let mut count = vec![0; candidates.len()];
    for n in 0..4_000 {
        count[select(task, candidates, seed(n)).unwrap()] += 1;
    }
    count
}

#[test]
fn nobody_unfit_is_ever_chosen() {
    type Spoil = fn(&mut Candidate);
    let unfit: [(&str, Spoil); 7] = [
        ("pending", |c| c.status = NodeStatus::Pending),
        ("degraded", |c| c.status = NodeStatus::Degraded),
        ("suspended", |c| c.status = NodeStatus::Suspended),
        ("no credit in this role", |c| c.credits.infer = 0),
        ("lower tier", |c| c.tier = Tier::T1),
        ("CPU only", |c| c.cpu_only = true),
        ("tried", |c| c.node = node(99)),
    ];
    let task = TaskNeed {
        min_tier: Tier::T2,
        cpu_capable: false,
        tried: vec![node(99)],
        ..need(TaskType::Inference)
    };
    let good = Candidate {
        tier: Tier::T2,
        ..candidate(1)
    };
    assert_eq!(select(&task, std::slice::from_ref(&good), seed(0)), Some(0));
    for (why, spoil) in unfit {
        let mut bad = good.clone();
        spoil(&mut bad);
        assert_eq!(select(&task, &[bad], seed(0)), None, "{why}");
    }
}

#[test]
fn chances_follow_reliability_tier_and_stake() {
    let candidates = [
        candidate(1),
        Candidate {
            tier: Tier::T3,
            ..candidate(2)
        },
        Candidate {
            stake_bonus: Permille(2_000),
            ..candidate(3)
        },
        Candidate {
            reliability: Permille(500),
            ..candidate(4)
        },
        Candidate {
            credits: Credits {
                infer: 4,
                evaluate: 0,
                train: 0,
                ingest: 0,
            },
            ..candidate(5)
        },
    ];
    let got = shares(&need(TaskType::Inference), &candidates);
    let parts = [1_000, 8_000, 2_000, 500, 4_000];
    let total: u32 = parts.iter().sum();
    for (got, part) in got.iter().zip(parts) {
        let expected = 4_000 * part / total;
        // Six standard deviations of a binomial share, over fixed seeds.
        assert!(got.abs_diff(expected) < 6 * 32, "{got} for {expected}");
    }
}

#[test]
fn a_node_with_reliability_zero_still_gets_work_when_alone() {
    let bad_week = Candidate {
        reliability: Permille(0),
        ..candidate(1)
    };
    assert_eq!(
        select(&need(TaskType::Inference), &[bad_week], seed(3)),
        Some(0)
    );
}

#[test]
fn holders_of_the_weights_go_first() {
    let cold = Candidate {
        loaded: vec![weights(2)],
        tier: Tier::T3,
        ..candidate(1)
    };
    let mut task = need(TaskType::Inference);
    let both = [cold.clone(), candidate(2)];
    assert_eq!(shares(&task, &both), [0, 4_000]);
    assert_eq!(select(&task, std::slice::from_ref(&cold), seed(0)), Some(0));
    task.only_holders = true;
    assert_eq!(select(&task, &[cold], seed(0)), None);
}

#[test]
fn a_batch_respects_credits_and_priorities() {
    let tasks = [
        need(TaskType::Audit),
        need(TaskType::Inference),
        need(TaskType::Evaluate),
        need(TaskType::Inference),
        need(TaskType::DataIngest),
    ];
    let candidates = [Candidate {
        credits: Credits {
            infer: 1,
            evaluate: 1,
            train: 0,
            ingest: 1,
        },
        ..candidate(1)
    }];
    let leased = assign(&tasks, &candidates, seed(1));
    assert_eq!(
        leased,
        [(2, 0), (1, 0), (4, 0)],
        "by priority, the older of two inferences before the audit; each role has its own slots"
    );
}

#[test]
fn a_task_that_fits_nobody_does_not_hold_up_the_rest() {
    let big = TaskNeed {
        min_tier: Tier::T3,
        ..need(TaskType::Inference)
    };
    assert_eq!(
        assign(&[big, need(TaskType::Inference)], &[candidate(1)], seed(1)),
        [(1, 0)]
    );
}

#[test]
fn a_round_never_takes_the_last_inference_slot() {
    let round = need(TaskType::FlRound);
    assert_eq!(
        select(&round, &[candidate(1)], seed(0)),
        None,
        "the only one who answers"
    );
    let two = [candidate(1), candidate(2)];
    let leased = assign(&[round.clone(), round.clone()], &two, seed(0));
    assert_eq!(
        leased.len(),
        1,
        "one of two may train, the other keeps answering"
    );
    let trainer = Candidate {
        infer_slots: 0,
        credits: Credits {
            infer: 0,
            evaluate: 0,
            train: 1,
            ingest: 0,
        },
        ..candidate(3)
    };
    assert_eq!(
        select(&round, std::slice::from_ref(&trainer), seed(0)),
        Some(0),
        "answers nothing anyway"
    );
    let busy = Candidate {
        credits: Credits {
            infer: 0,
            evaluate: 0,
            train: 0,
            ingest: 0,
        },
        ..candidate(4)
    };
    assert_eq!(
        select(&round, &[candidate(1), busy], seed(0)),
        Some(0),
        "a busy slot is a slot"
    );
    let training = Candidate {
        training: true,
        ..candidate(5)
    };
    assert_eq!(
        select(&round, &[candidate(1), training.clone()], seed(0)),
        Some(1),
        "who trains already serves nobody"
    );
    let other = Candidate {
        loaded: vec![weights(1), weights(2)],
        ..candidate(6)
    };
    assert_eq!(
        select(&round, &[other, training], seed(0)),
        Some(1),
        "another sub-model's last slot counts too"
    );
}

#[test]
fn aggregation_is_no_round_and_may_use_any_training_slot() {
    assert_eq!(
        select(&need(TaskType::GradientAgg), &[candidate(1)], seed(0)),
        Some(0)
    );
}

#[test]
fn the_same_inputs_give_the_same_leases() {
    let candidates: Vec<_> = (0..40).map(candidate).collect();
    let tasks = vec![need(TaskType::Inference); 30];
    assert_eq!(
        assign(&tasks, &candidates, seed(7)),
        assign(&tasks, &candidates, seed(7))
    );
    assert_ne!(
        assign(&tasks, &candidates, seed(7)),
        assign(&tasks, &candidates, seed(8))
    );
    // Pinned, so that a change of the draw is noticed: receipts of choices must stay replayable.
    let first: Vec<usize> = assign(&tasks, &candidates, seed(7))
        .iter()
        .take(5)
        .map(|p| p.1)
        .collect();
    assert_eq!(first, PINNED);
}

const PINNED: [usize; 5] = [10, 2, 7, 8, 37];

proptest! {
    #[test]
    fn no_batch_overdraws_credits_or_leases_a_task_twice(
        credits in prop::collection::vec((0..4_u32, 0..3_u32), 0..12),
        kinds in prop::collection::vec(0..TaskType::ALL.len(), 0..40),
        n: u64,
    ) {
        let candidates: Vec<_> = credits.iter().enumerate().map(|(i, &(infer, train))| Candidate {
            credits: Credits { infer, evaluate: infer / 2, train, ingest: 0 },
            infer_slots: infer,
            ..candidate(u8::try_from(i).unwrap())
        }).collect();
        let tasks: Vec<_> = kinds.iter().map(|&kind| need(TaskType::ALL[kind])).collect();
        let leased = assign(&tasks, &candidates, seed(n));
        let mut used: HashMap<(usize, Role), u32> = HashMap::new();
        let mut seen = vec![false; tasks.len()];
        for (task, candidate) in leased {
            prop_assert!(!std::mem::replace(&mut seen[task], true));
            *used.entry((candidate, tasks[task].task_type.role())).or_default() += 1;
        }
        for ((candidate, role), count) in used {
            prop_assert!(count <= candidates[candidate].credits.of(role));
        }
    }
}

/// `cargo test --release -p owm-coordinator-domain -- --ignored --nocapture dispatch` prints the cost.
#[test]
#[ignore = "a measurement"]
fn dispatch_of_500_tasks_over_200_nodes() {
    let candidates: Vec<_> = (0..200_u8)
        .map(|n| Candidate {
            credits: Credits {
                infer: 4,
                evaluate: 0,
                train: 1,
                ingest: 1,
            },
            ..candidate(n)
        })
        .collect();
    let tasks = vec![
        TaskNeed {
            tried: vec![node(3), node(9)],
            ..need(TaskType::Inference)
        };
        500
    ];
    let start = std::time::Instant::now();
    let mut leased = 0;
    for n in 0..20 {
        leased += assign(&tasks, &candidates, seed(n)).len();
    }
    println!(
        "{:?} per batch, {} leases",
        start.elapsed() / 20,
        leased / 20
    );
    assert_eq!(leased, 20 * 500);
}

#[test]
fn evaluations_of_one_candidate_go_to_different_owners() {
    let group = EvaluationId::from_random([1; 16]);
    let task = |owners: Vec<PublicKey>| TaskNeed {
        apart: Some(Apart { group, owners }),
        ..need(TaskType::Evaluate)
    };
    // Two owners with two nodes each, all with room for two tasks.
    let mut nodes: Vec<Candidate> = (1..=4).map(candidate).collect();
    for node in &mut nodes {
        node.credits.evaluate = 2;
    }
    (nodes[1].owner, nodes[3].owner) = (nodes[0].owner, nodes[2].owner);
    for n in 0..200 {
        let given = assign(&vec![task(vec![]); 4], &nodes, seed(n));
        assert_eq!(given.len(), 2, "one for each owner");
        assert_ne!(nodes[given[0].1].owner, nodes[given[1].1].owner);
        let given = assign(&vec![task(vec![nodes[0].owner]); 4], &nodes, seed(n));
        assert_eq!(given.len(), 1, "one owner has one from before");
        assert_eq!(nodes[given[0].1].owner, nodes[2].owner);
    }
    let other = TaskNeed {
        apart: Some(Apart {
            group: EvaluationId::from_random([2; 16]),
            owners: vec![],
        }),
        ..need(TaskType::Evaluate)
    };
    let given = assign(&[task(vec![]), other], &nodes[..1], seed(1));
    assert_eq!(
        given.len(),
        2,
        "another candidate's may be the same owner's"
    );
}

#[test]
fn a_part_goes_to_its_participant_or_to_nobody() {
    let mut task = need(TaskType::FlRound);
    task.only = Some(node(2));
    let mut all = [candidate(1), candidate(2), candidate(3)];
    assert_eq!(select(&task, &all, seed(1)), Some(1));
    all[1].credits.train = 0;
    for n in 0..50 {
        assert_eq!(select(&task, &all, seed(n)), None);
    }
}
