//! Sleeping laptops and clocks that are set.

use super::*;

/// The wall clock is `wall` seconds after the start, the monotonic one `monotonic`.
fn apart(wall: u64, monotonic: u64) -> Moment {
    Moment {
        wall: at(wall).wall,
        monotonic: at(monotonic).monotonic,
    }
}

#[test]
fn a_laptop_that_slept_believes_nothing_stale_and_blames_nobody() {
    let mut net = Net::new(1);
    let before: Vec<_> = (1..50).map(|n| net.beat(n, at(10), 5)).collect();
    assert_eq!(net.hear(at(10), &before[0]), Verdict::Accept);
    // Eight hours of sleep; then what had been under way arrives at once, from one peer.
    let (woken, mut blamed) = (apart(8 * 3_600, 11), 0);
    assert!(
        net.nodes(woken).is_empty(),
        "who was heard before the sleep is gone"
    );
    let mut notices = 0;
    for said in before.iter().cycle().take(10_000) {
        let judged = net.judge(woken, Topic::Heartbeat(0), said);
        assert_ne!(judged.verdict, Verdict::Accept);
        blamed += u32::from(judged.action.is_some());
        notices += u32::from(matches!(judged.notice, Some(Notice::ClockJumped { .. })));
    }
    assert_eq!((blamed, notices), (0, 1));
    let fresh = net.beat(1, woken, 6);
    let awake = apart(8 * 3_600 + 20, 31);
    assert_eq!(net.hear(awake, &fresh), Verdict::Accept);
    assert_eq!(net.nodes(awake).len(), 1);
    assert!(net.rules.warnings().any(|w| w.contains("clock jumped")));
}

#[test]
fn after_a_while_a_flood_is_a_flood_again() {
    let mut net = Net::new(1);
    let said = net.beat(1, at(0), 5);
    assert_eq!(net.hear(at(0), &said), Verdict::Accept);
    let jumped = apart(8 * 3_600, 1);
    assert!(matches!(net.rules.tick(jumped), Some(Notice::ClockJumped { by_ms }) if by_ms > 0));
    let later = apart(8 * 3_600 + 40, 41);
    let judged = (0..5_000).map(|_| net.judge(later, Topic::Heartbeat(0), &said));
    let actions: Vec<_> = judged.filter_map(|j| j.action).collect();
    assert!(actions.len() > 1_000 && actions.iter().all(|a| *a == crate::peer::Action::Flood));
}

#[test]
fn a_clock_set_back_makes_nothing_young_again() {
    let mut net = Net::new(1);
    let [old, new] = [at(0), at(600)].map(|then| net.beat(1, then, then.wall.0));
    assert_eq!(net.hear(at(600), &new), Verdict::Accept);
    // Set back by ten minutes: the old message would be in time again.
    let back = apart(10, 601);
    assert_eq!(net.hear(back, &old), ignored(IgnoreReason::Stale));
    // And the node is not held for alive longer than a life, whatever the wall clock says.
    assert_eq!(net.nodes(back).len(), 1);
    assert!(net.nodes(apart(10, 600 + 300)).is_empty());
}

#[test]
fn a_clock_that_is_wrong_is_told_once() {
    let mut net = Net::new(1);
    let mut told = 0;
    for n in 0..200 {
        let said = net.beat(n, at(4_000), 5);
        let judged = net.judge(at(0), Topic::Heartbeat(0), &said);
        assert_eq!(
            (judged.verdict, judged.action),
            (ignored(IgnoreReason::Future), None)
        );
        told += u32::from(matches!(judged.notice, Some(Notice::NothingInTime)));
    }
    assert_eq!(told, 1);
    assert!(net.rules.warnings().any(|w| w.contains("clock")));
}
