//! How much a source is trusted with: little while it is slow or has just stood still, all again once it delivers;
//! and who makes way for whom at the limit.

use super::{super::*, shell::*};

#[test]
fn a_slow_source_that_holds_all_that_may_be_asked_for_makes_way_for_one_that_waits() {
    let tuning = Tuning {
        outstanding_total_max: 64 << 10,
        ..Tuning::default()
    };
    let mut shell = Shell::new(tuning);
    let file = shell.want(4 * PIECE, 0);
    shell.offer(source(1), file);
    shell.offer(source(2), file);
    assert_eq!(shell.asked_of(source(2)), 0, "there is no room");
    let start = shell.now;
    while !shell.is_complete(file) && shell.now < start + Duration::from_mins(1) {
        if let Some(id) = shell.next_of(source(1)) {
            shell.give(id, 1, false);
        }
        shell.deliver(&[(source(2), 20_000)], &[], Duration::from_secs(1));
    }
    assert!(shell.is_complete(file));
    assert_eq!(shell.rests(source(1))[..1], [RestReason::Slow]);
    assert!(shell.now.saturating_sub(start) < Duration::from_secs(15));
}

#[test]
fn who_stood_still_begins_with_little_and_has_its_whole_window_again_once_it_delivers() {
    let mut shell = Shell::new(Tuning::default());
    let file = shell.want(64 * PIECE, 0);
    shell.offer(source(1), file);
    assert_eq!(shell.asked_of(source(1)), 512 << 10);
    shell.pass(Duration::from_millis(5_200));
    assert_eq!(shell.rests(source(1)), [RestReason::Stalled]);
    shell.pass(Duration::from_millis(1_200));
    assert_eq!(shell.asked_of(source(1)), 64 << 10, "once more, for little");
    shell.deliver(&[(source(1), 50_000)], &[], Duration::from_secs(1));
    let asked = shell.asked_of(source(1));
    assert!(asked >= 3 << 18, "{asked}");
}

#[test]
fn a_slow_source_holds_up_no_more_than_it_brings_in_two_seconds() {
    let mut shell = Shell::new(Tuning::default());
    let file = shell.want(64 * PIECE, 0);
    shell.offer(source(1), file);
    // 50 kB/s: what it was asked for before anything was known is worked off first.
    shell.deliver(&[(source(1), 500)], &[], Duration::from_secs(30));
    let asked = shell.asked_of(source(1));
    assert!((1..=128 << 10).contains(&asked), "{asked}");
}

#[test]
fn who_is_busy_again_and_again_is_asked_less_often_but_within_seconds() {
    let mut shell = Shell::new(Tuning::default());
    let file = shell.want(4 * PIECE, 0);
    shell.offer(source(1), file);
    let mut starts = Vec::new();
    for _ in 0..6 {
        while shell.next_of(source(1)).is_none() {
            shell.pass(100 * MS);
        }
        starts.push(shell.now);
        let request = shell.next_of(source(1)).unwrap();
        shell.sent.remove(&request);
        let how = Ended::Busy {
            retry_after: Duration::ZERO,
        };
        shell.tell(Event::Ended { request, how });
    }
    let rests: Vec<u64> = starts
        .windows(2)
        .map(|w| w[1].saturating_sub(w[0]).as_secs())
        .collect();
    assert_eq!(rests, [1, 2, 4, 4, 4]);
}

#[test]
fn who_has_delivered_is_not_held_to_how_busy_it_was() {
    let mut shell = Shell::new(Tuning::default());
    let file = shell.want(64 * PIECE, 0);
    shell.offer(source(1), file);
    let busy = |shell: &mut Shell| {
        let request = shell.next_of(source(1)).unwrap();
        shell.sent.remove(&request);
        let how = Ended::Busy {
            retry_after: Duration::ZERO,
        };
        shell.tell(Event::Ended { request, how });
        let begun = shell.now;
        while shell.next_of(source(1)).is_none() {
            shell.pass(100 * MS);
        }
        shell.now.saturating_sub(begun).as_secs()
    };
    assert_eq!([busy(&mut shell), busy(&mut shell)], [1, 2]);
    let request = shell.next_of(source(1)).unwrap();
    shell.give(request, PIECE, false);
    assert_eq!(busy(&mut shell), 1);
}

#[test]
fn a_web_seed_alone_waits_a_moment_for_peers() {
    let web = Source::Web(0);
    let mut shell = Shell::new(Tuning::default());
    let file = shell.want(4 * PIECE, 0);
    shell.offer(web, file);
    shell.pass(Duration::from_millis(1_800));
    assert_eq!(shell.asked_of(web), 0);
    shell.pass(Duration::from_millis(400));
    assert!(shell.asked_of(web) > 0);
}

/// A machine of this seed wants a file of so many pieces, and source 1 has it.
fn wants(machine: &mut Machine, pieces: u64, salt: u8) -> Sha256 {
    let file = ladder(&content(pieces * PIECE, salt));
    let (sha256, have) = (file.spec().sha256(), PieceSet::none(file.pieces()));
    machine.handle(MS, Event::Start { file, have });
    let offered = Event::Offered {
        source: source(1),
        file: sha256,
        pieces: None,
        rtt: None,
    };
    machine.handle(MS, offered);
    sha256
}

#[test]
fn two_that_fetch_the_same_begin_with_different_pieces() {
    let first = |seed| {
        let mut machine = Machine::new(Tuning::default(), seed);
        wants(&mut machine, 64, 0);
        let effects = std::iter::from_fn(|| machine.poll_effect());
        let asked = effects.filter_map(|effect| match effect {
            Effect::Request { range, .. } => Some(range.start / PIECE),
            _ => None,
        });
        asked.collect::<Vec<_>>()
    };
    assert_eq!(first(1), first(1));
    assert_ne!(first(1), first(2));
}

#[test]
fn pieces_whose_check_nobody_waits_for_any_more_leave_room_for_others() {
    let tuning = Tuning {
        outstanding_total_max: 1 << 20,
        outstanding_first: 1 << 20,
        ..Tuning::default()
    };
    let mut machine = Machine::new(tuning, 1);
    let file = wants(&mut machine, 32, 0);
    while let Some(effect) = machine.poll_effect() {
        if let Effect::Request { request, range, .. } = effect {
            let bytes = (range.end - range.start) as usize;
            machine.accept(MS, request, bytes);
        }
    }
    assert_eq!(machine.outstanding(), 0, "all room is taken by checks");
    machine.handle(MS, Event::Stop { file });
    wants(&mut machine, 32, 5);
    assert_eq!(machine.outstanding(), 1 << 20);
}

/// Seconds until `shell` has all of a file of so many bytes from sources that bring so many in 10 ms, and whether any
/// byte was asked for that somebody else had been asked for.
fn seconds(size: u64, rates: &[u64]) -> (f64, bool) {
    let mut shell = Shell::new(Tuning::default());
    let file = shell.want(size, 0);
    let sources: Vec<(Source, u64)> = (1..).map(source).zip(rates.iter().copied()).collect();
    for (source, _) in &sources {
        shell.offer(*source, file);
    }
    let begun = shell.now;
    shell.deliver(&sources, &[], Duration::from_mins(10));
    assert!(shell.is_complete(file));
    let cancelled = shell
        .seen
        .iter()
        .any(|e| matches!(e, Effect::Cancel { .. }));
    let took = shell.now.saturating_sub(begun).as_secs_f64();
    (took, cancelled || shell.fetched > size)
}

#[test]
fn eight_slow_sources_of_a_small_file_are_all_used_to_its_end() {
    // 200 kB/s each.
    let (size, rates) = (24 * PIECE, [2_000; 8]);
    let (took, is_wasteful) = seconds(size, &rates);
    let at_best = size as f64 / (8.0 * 200_000.0);
    assert!(took <= at_best / 0.95, "{took} s instead of {at_best} s");
    assert!(!is_wasteful);
}

#[test]
fn sources_of_which_one_is_much_faster_are_all_used_to_the_end() {
    // One of 10 MB/s, three of 1 MB/s.
    let (size, rates) = (128 * PIECE, [100_000, 10_000, 10_000, 10_000]);
    let (took, _) = seconds(size, &rates);
    let at_best = size as f64 / 13e6;
    assert!(took <= at_best / 0.9, "{took} s instead of {at_best} s");
}
