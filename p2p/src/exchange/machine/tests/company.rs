//! Few sources where few suffice, all where they don't.

use std::collections::BTreeSet;

use super::{super::*, shell::*};

/// Bytes per second above which fewer are tried here.
const FEW_ABOVE: u64 = 500_000;

fn tuning() -> Tuning {
    Tuning {
        few_above: FEW_ABOVE,
        outstanding_min: 128 << 10,
        outstanding_first: 128 << 10,
        ..Tuning::default()
    }
}

/// Wants a file of so many pieces, which sources 1 to 8 have.
fn eight(pieces: u64) -> (Shell, Sha256) {
    let mut shell = Shell::new(tuning());
    let file = shell.want(pieces * PIECE, 0);
    for n in 1..=8 {
        shell.offer(source(n), file);
    }
    (shell, file)
}

fn asked(shell: &Shell) -> BTreeSet<u8> {
    (1..=8).filter(|n| shell.asked_of(source(*n)) > 0).collect()
}

/// The fetcher takes `total` bytes every 10 ms, of whoever was asked in equal parts; nobody brings more than `each`.
fn take(shell: &mut Shell, total: u64, each: u64, time: Duration) {
    let end = shell.now + time;
    while shell.now < end {
        let from = asked(shell);
        let part = (total / (from.len() as u64).max(1)).min(each);
        for n in from {
            let mut left = part;
            while left > 0
                && let Some(id) = shell.next_of(source(n))
            {
                let sent = &shell.sent[&id];
                let bytes = left.min(sent.range.end - sent.range.start - sent.got);
                shell.give(id, bytes, false);
                left -= bytes;
            }
        }
        shell.pass(10 * MS);
    }
}

/// The fetcher is what is slow: after some seconds two of the eight are in use.
fn down_to_two() -> (Shell, Sha256, BTreeSet<u8>) {
    let (mut shell, file) = eight(128);
    assert_eq!(asked(&shell).len(), 8, "all at first");
    take(&mut shell, 20_000, u64::MAX, Duration::from_secs(5));
    let in_use = asked(&shell);
    assert_eq!(in_use.len(), 2, "{in_use:?}");
    (shell, file, in_use)
}

#[test]
fn of_eight_two_are_used_where_more_bring_no_more() {
    let (mut shell, file, _) = down_to_two();
    let before = shell.fetched;
    take(&mut shell, 20_000, u64::MAX, Duration::from_secs(4));
    assert!(shell.fetched - before >= 7_900_000, "as fast as with all");
    while !shell.is_complete(file) {
        take(&mut shell, 20_000, u64::MAX, 100 * MS);
    }
    assert!((1..=8).all(|n| shell.rests(source(n)).is_empty()));
    assert_eq!(shell.fetched, 128 * PIECE, "nothing came twice");
}

#[test]
fn eight_of_which_each_brings_an_eighth_are_all_used() {
    let (mut shell, file) = eight(128);
    let begun = shell.now;
    while !shell.is_complete(file) {
        take(&mut shell, u64::MAX, 2_500, 100 * MS);
    }
    let took = shell.now.saturating_sub(begun).as_secs_f64();
    let at_best = (128 * PIECE) as f64 / 2e6;
    assert!(took <= at_best / 0.9, "{took} s instead of {at_best} s");
}

#[test]
fn below_that_rate_nobody_is_set_aside() {
    let (mut shell, _) = eight(128);
    // 480 kB/s in all.
    take(&mut shell, 4_800, u64::MAX, Duration::from_secs(20));
    assert_eq!(asked(&shell).len(), 8);
}

#[test]
fn all_are_asked_at_once_when_one_in_use_goes_away() {
    let (mut shell, _, in_use) = down_to_two();
    let gone = *in_use.first().unwrap();
    shell.sent.retain(|_, sent| sent.source != source(gone));
    shell.tell(Event::Gone {
        source: source(gone),
    });
    assert_eq!(asked(&shell).len(), 7);
}

#[test]
fn all_are_asked_at_once_when_one_in_use_is_busy() {
    let (mut shell, _, in_use) = down_to_two();
    let request = shell.next_of(source(*in_use.first().unwrap())).unwrap();
    shell.sent.remove(&request);
    let how = Ended::Busy {
        retry_after: Duration::ZERO,
    };
    shell.tell(Event::Ended { request, how });
    assert_eq!(asked(&shell).len(), 7);
}

#[test]
fn all_are_asked_when_those_in_use_get_slower() {
    let (mut shell, _, _) = down_to_two();
    take(&mut shell, u64::MAX, 6_000, Duration::from_secs(1));
    assert_eq!(asked(&shell).len(), 8);
}

#[test]
fn who_lacks_a_piece_is_not_what_a_fetch_is_left_with() {
    let (mut shell, file, in_use) = down_to_two();
    let mut pieces = PieceSet::all(128);
    pieces.remove(127);
    for n in in_use {
        shell.tell(Event::Offered {
            source: source(n),
            file,
            pieces: Some(pieces.clone()),
            rtt: None,
        });
    }
    shell.pass(100 * MS);
    assert_eq!(asked(&shell).len(), 8);
}

#[test]
fn one_more_is_tried_now_and_then_and_kept_if_it_brings_more() {
    let (mut shell, _, _) = down_to_two();
    // Each of the two brings a little less than it did, and others could bring as much.
    let mut most = 0;
    for _ in 0..120 {
        take(&mut shell, u64::MAX, 9_000, 100 * MS);
        most = most.max(asked(&shell).len());
        if most > 2 {
            break;
        }
    }
    assert_eq!(most, 3, "one, and not all");
    take(&mut shell, u64::MAX, 9_000, Duration::from_secs(2));
    assert_eq!(asked(&shell).len(), 3);
}

#[test]
fn who_is_kept_of_equals_is_another_with_each_seed() {
    let kept = |seed| {
        let mut shell = Shell::new(tuning());
        shell.machine = Machine::new(tuning(), seed);
        let file = shell.want(128 * PIECE, 0);
        for n in 1..=8 {
            shell.offer(source(n), file);
        }
        take(&mut shell, 20_000, u64::MAX, Duration::from_secs(5));
        asked(&shell)
    };
    assert_eq!(kept(1), kept(1));
    let all: BTreeSet<_> = (1..=6).map(kept).collect();
    assert!(all.len() >= 4, "{all:?}");
}
