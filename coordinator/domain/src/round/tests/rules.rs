//! The rules that a round asks: when it closes, who is drawn, what is accepted.

use owm_proto::{Permille, UnixMillis};

use super::{
    super::{
        acceptance::{Loss, Measured, Verdict, decide},
        participants::{Willing, draw},
    },
    DEADLINE, hash, key, second,
};

#[test]
fn a_candidate_may_be_half_a_percent_above_its_parent_and_one_above_the_best_of_ten() {
    let ask = |candidate: u64, recent: &[u64]| {
        decide(&Measured {
            candidate: vec![Loss(candidate)],
            parent: vec![Loss(1_000_000)],
            recent: recent.iter().copied().map(Loss).collect(),
        })
    };
    let parent = Loss(1_000_000);
    let accepted = |candidate| Verdict::Accepted {
        candidate: Loss(candidate),
        parent,
    };
    assert_eq!(ask(1_005_000, &[]), accepted(1_005_000));
    let candidate = Loss(1_005_001);
    assert_eq!(
        ask(1_005_001, &[]),
        Verdict::WorseThanParent { candidate, parent }
    );
    assert_eq!(ask(1_000_000, &[995_000]), accepted(1_000_000));
    let (candidate, best) = (Loss(1_000_000), Loss(990_000));
    assert_eq!(
        ask(1_000_000, &[999_000, 990_000]),
        Verdict::WorseThanBest { candidate, best }
    );
    // The eleventh is forgotten.
    let mut recent = vec![1_000_000; 10];
    recent.push(1);
    assert_eq!(ask(1_000_000, &recent), accepted(1_000_000));
    assert_eq!(
        decide(&Measured {
            candidate: vec![],
            parent: vec![],
            recent: vec![]
        }),
        Verdict::Unmeasured
    );
}

#[test]
fn a_round_waits_three_deviations_after_the_median_once_a_quorum_is_in() {
    let closes = |asked: usize, arrivals: &[u64]| {
        let arrivals: Vec<UnixMillis> = arrivals.iter().map(|s| second(100 + s)).collect();
        DEADLINE.closes_at(second(100), asked, &arrivals).0 / 1_000 - 100
    };
    assert_eq!(closes(10, &[]), 600);
    assert_eq!(closes(10, &[90; 6]), 600, "six of ten are no quorum");
    assert_eq!(
        closes(10, &[100, 110, 120, 130, 140, 150, 160]),
        130 + 3 * 20
    );
    assert_eq!(
        closes(10, &[10, 11, 12, 13, 14, 15, 16]),
        60,
        "not below the least"
    );
    assert_eq!(
        closes(10, &[100, 200, 300, 400, 500, 510, 520]),
        600,
        "not above the most"
    );
    assert_eq!(closes(3, &[10, 11, 12]), 12, "all are in");
    assert_eq!(DEADLINE.quorum_of(1), 1);
    assert_eq!(DEADLINE.quorum_of(8), 6);
}

fn willing(i: u8, owner: u8, reliability: u32) -> Willing {
    Willing {
        node: key(i),
        owner: hash(owner),
        reliability: Permille(reliability),
    }
}

#[test]
fn a_draw_is_the_seed_s_and_no_owner_has_more_than_a_fifth_of_the_places() {
    let mut all: Vec<Willing> = (0..40).map(|i| willing(i, i.max(19), 900)).collect();
    let drawn = draw(&all, 10, [3; 32]);
    assert_eq!(drawn.len(), 10);
    assert!(drawn.is_sorted());
    assert!(drawn.iter().filter(|node| node.0[0] <= 19).count() <= 2);
    all.reverse();
    assert_eq!(draw(&all, 10, [3; 32]), drawn);
    assert_ne!(draw(&all, 10, [4; 32]), drawn);
    // Of one owner only: all may come.
    let one: Vec<Willing> = (0..8).map(|i| willing(i, 1, 500)).collect();
    assert_eq!(draw(&one, 6, [1; 32]).len(), 6);
    assert_eq!(draw(&one, 20, [1; 32]).len(), 8);
    assert_eq!(draw(&[], 20, [1; 32]), []);
}

#[test]
fn who_is_more_reliable_is_drawn_more_often() {
    let pool = [willing(1, 1, 100), willing(2, 2, 900)];
    let seeds = (0..200_u8).map(|i| [i; 32]);
    let second = seeds
        .filter(|seed| draw(&pool, 1, *seed) == [key(2)])
        .count();
    assert!((165..=195).contains(&second), "{second} of 200");
}
