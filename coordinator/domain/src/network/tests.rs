//! One case per reason, and the edges of each limit.

use super::*;

fn served(id: &str, is_default: bool, holders: u64) -> Served {
    Served {
        sub_model: id.parse().unwrap(),
        is_default,
        holders,
    }
}

/// Three nodes, all there, both sub-models held, nobody waits.
fn well() -> NetworkView {
    NetworkView {
        models: vec![served("owm-code", false, 3), served("owm-geo", true, 3)],
        nodes_expected: 3,
        nodes_connected: 3,
        ..NetworkView::default()
    }
}

fn with(change: impl FnOnce(&mut NetworkView)) -> Verdict {
    let mut view = well();
    change(&mut view);
    verdict(&view)
}

#[test]
fn a_whole_network_is_good_and_says_why() {
    let said = verdict(&well());
    assert_eq!(said.level, Level::Good);
    assert_eq!(said.reasons, [Reason::Answering { connected: 3 }]);
}

#[test]
fn without_a_model_or_a_node_it_is_down() {
    let empty = verdict(&NetworkView::default());
    assert_eq!(empty.level, Level::Down);
    assert_eq!(empty.reasons, [Reason::NoModel, Reason::NoNodes]);
    let gone = with(|view| {
        view.nodes_connected = 0;
        view.silent_since = Some(UnixMillis(7));
        view.models.iter_mut().for_each(|m| m.holders = 0);
    });
    let since = Some(UnixMillis(7));
    assert_eq!(gone.level, Level::Down);
    assert_eq!(
        gone.reasons,
        [Reason::NoneConnected { expected: 3, since }],
        "that nobody holds the model follows and is not said again"
    );
}

#[test]
fn a_silent_node_degrades_a_small_network_and_is_only_mentioned_in_a_large_one() {
    let silent = |connected, expected| {
        with(|view| (view.nodes_connected, view.nodes_expected) = (connected, expected))
    };
    assert_eq!(silent(2, 3).level, Level::Degraded);
    assert_eq!(silent(9, 10).level, Level::Degraded);
    let large = silent(10, 11);
    assert_eq!(large.level, Level::Good);
    assert_eq!(large.reasons.len(), 2, "{:?}", large.reasons);
    assert_eq!(large.reasons[0], Reason::Answering { connected: 10 });
    assert_eq!(silent(900, 1_000).level, Level::Degraded);
    assert_eq!(silent(901, 1_000).level, Level::Good);
}

#[test]
fn a_model_nobody_holds_is_down_if_it_is_the_default_and_else_degraded() {
    let other = with(|view| view.models[0].holders = 0);
    assert_eq!(other.level, Level::Degraded);
    let default = with(|view| view.models[1].holders = 0);
    assert_eq!(default.level, Level::Down);
    let sub_models = vec!["owm-geo".parse().unwrap()];
    assert_eq!(
        default.reasons,
        [Reason::Unheld {
            sub_models,
            default: true
        }]
    );
}

#[test]
fn a_long_wait_degrades_and_a_short_one_does_not() {
    let wait =
        |secs| with(|view| (view.queued, view.longest_wait) = (2, Duration::from_secs(secs))).level;
    assert_eq!(wait(29), Level::Good);
    assert_eq!(wait(30), Level::Degraded);
    let nobody = with(|view| view.longest_wait = Duration::from_hours(1));
    assert_eq!(nobody.level, Level::Good, "nobody waits");
}

#[test]
fn failures_count_from_three_and_a_fifth_on() {
    let failing = |failed, answered| {
        with(|view| (view.recent_failed, view.recent_answered) = (failed, answered)).level
    };
    assert_eq!(failing(2, 0), Level::Good);
    assert_eq!(failing(3, 13), Level::Good);
    assert_eq!(failing(3, 12), Level::Degraded);
    assert_eq!(failing(20, 0), Level::Degraded);
}

#[test]
fn the_worst_reason_decides_and_comes_first() {
    let said = with(|view| {
        view.nodes_connected = 2;
        view.models[1].holders = 0;
        (view.queued, view.longest_wait) = (1, WAIT_FELT);
    });
    let levels: Vec<Level> = said.reasons.iter().map(Reason::level).collect();
    assert_eq!(said.level, Level::Down);
    assert_eq!(levels, [Level::Down, Level::Degraded, Level::Degraded]);
    let away = Verdict::database_away(UnixMillis(1));
    assert_eq!(away.level, Level::Down);
}
