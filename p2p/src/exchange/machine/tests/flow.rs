//! Who is asked for how much, when, and what happens to those who don't deliver.

use super::{super::*, shell::*};

#[test]
fn one_honest_source_gives_the_whole_file() {
    for size in [0, 1, PIECE - 1, PIECE, PIECE + 1, 9 * PIECE + 77] {
        let mut shell = Shell::new(Tuning::default());
        let file = shell.want(size, 0);
        shell.offer(source(1), file);
        shell.deliver(&[(source(1), 100_000)], &[], Duration::from_mins(1));
        assert!(shell.is_complete(file), "{size}");
        assert_eq!(shell.fetched, size, "each byte once");
        assert_eq!(shell.machine.outstanding(), 0);
        assert_eq!(shell.machine.wake_at(), None);
    }
}

#[test]
fn what_is_there_is_not_fetched_again() {
    let mut shell = Shell::new(Tuning::default());
    let bytes = content(8 * PIECE + 5, 0);
    let ladder = ladder(&bytes);
    let mut have = PieceSet::none(9);
    for piece in [0, 3, 8] {
        have.add(piece);
    }
    let file = shell.want_rest(bytes, ladder, have);
    shell.offer(source(1), file);
    shell.deliver(&[(source(1), 100_000)], &[], Duration::from_mins(1));
    assert!(shell.is_complete(file));
    assert_eq!(shell.fetched, 6 * PIECE);
}

#[test]
fn a_file_of_two_manifests_is_fetched_once_and_ends_with_the_last_who_wants_it() {
    let mut shell = Shell::new(Tuning::default());
    let file = shell.want(4 * PIECE, 0);
    shell.want(4 * PIECE, 0);
    shell.offer(source(1), file);
    shell.tell(Event::Stop { file });
    assert!(shell.asked_of(source(1)) > 0, "one still wants it");
    shell.deliver(&[(source(1), 100_000)], &[], Duration::from_mins(1));
    assert_eq!(shell.fetched, 4 * PIECE);
    let complete = |shell: &Shell| {
        shell
            .seen
            .iter()
            .filter(|e| **e == Effect::Complete { file })
            .count()
    };
    assert_eq!(complete(&shell), 1);
    shell.want(4 * PIECE, 0);
    assert_eq!(complete(&shell), 2, "a third one hears of it at once");
    shell.tell(Event::Stop { file });
    shell.tell(Event::Stop { file });
    assert_eq!(shell.machine.progress(&file), None);
}

#[test]
fn several_files_share_their_sources_the_first_one_first() {
    let mut shell = Shell::new(Tuning::default());
    let (first, second) = (shell.want(6 * PIECE, 0), shell.want(6 * PIECE, 9));
    for file in [second, first] {
        shell.offer(source(1), file);
    }
    shell.offer(source(2), first);
    shell.deliver(
        &[(source(1), 50_000), (source(2), 50_000)],
        &[],
        Duration::from_mins(1),
    );
    let at = |file| {
        shell
            .seen
            .iter()
            .position(|e| *e == Effect::Complete { file })
    };
    assert!(at(first).unwrap() < at(second).unwrap());
    assert_eq!(shell.fetched, 12 * PIECE);
}

#[test]
fn stopping_a_file_cancels_what_was_asked_of_it() {
    let mut shell = Shell::new(Tuning::default());
    let file = shell.want(6 * PIECE, 0);
    shell.offer(source(1), file);
    let id = shell.next_of(source(1)).unwrap();
    shell.give(id, 1_000, false);
    shell.tell(Event::Stop { file });
    assert!(shell.sent.is_empty());
    assert_eq!(shell.machine.outstanding(), 0);
    assert_eq!(shell.machine.accept(shell.now, id, 10), Accept::Gone);
}

#[test]
fn the_window_follows_bandwidth_times_round_trip() {
    let mut shell = Shell::new(Tuning::default());
    let file = shell.want(256 * PIECE, 0);
    let far = Duration::from_millis(200);
    shell.tell(Event::Offered {
        source: source(1),
        file,
        pieces: None,
        rtt: Some(far),
    });
    assert_eq!(
        shell.asked_of(source(1)),
        512 << 10,
        "before anything is known"
    );
    shell.pass(far);
    // 100 kB each 10 ms is 10 MB/s; twice what is on the way in 200 ms is 4 MB.
    for _ in 0..100 {
        let id = shell.next_of(source(1)).unwrap();
        shell.give(id, 100_000, false);
        shell.pass(10 * MS);
    }
    let asked = shell.asked_of(source(1));
    assert!((2_000_000..=4_000_000).contains(&asked), "{asked}");
}

#[test]
fn all_together_never_have_more_than_the_limit_and_each_gets_something() {
    let tuning = Tuning {
        outstanding_total_max: 2 << 20,
        ..Tuning::default()
    };
    let mut shell = Shell::new(tuning);
    let file = shell.want(64 * PIECE, 0);
    let sources: Vec<(Source, u64)> = (1..=8).map(|n| (source(n), 30_000)).collect();
    for (source, _) in &sources {
        shell.offer(*source, file);
    }
    shell.deliver(&sources, &[], Duration::from_mins(2));
    assert!(shell.is_complete(file));
    for rate in shell.machine.rates() {
        assert!(rate.bytes >= 2 * PIECE, "{rate:?}");
    }
}

#[test]
fn pieces_that_few_have_come_first() {
    let mut shell = Shell::new(Tuning::default());
    let file = shell.want(16 * PIECE, 0);
    let mut most = PieceSet::all(16);
    for piece in [5, 11] {
        most.remove(piece);
    }
    for n in 2..=4 {
        shell.tell(Event::Offered {
            source: source(n),
            file,
            pieces: Some(most.clone()),
            rtt: None,
        });
    }
    // So that it finds its work itself, not what the others left.
    shell.offer(source(1), file);
    let asked = shell.sent.values().filter(|sent| sent.source == source(1));
    let pieces: BTreeSet<u64> = asked.map(|sent| sent.range.start / PIECE).collect();
    assert!(pieces.contains(&5) && pieces.contains(&11), "{pieces:?}");
}

#[test]
fn a_source_is_asked_only_for_what_it_has_and_hears_of_more() {
    let mut shell = Shell::new(Tuning::default());
    let file = shell.want(4 * PIECE, 0);
    let mut one = PieceSet::none(4);
    one.add(2);
    shell.tell(Event::Offered {
        source: source(1),
        file,
        pieces: Some(one),
        rtt: None,
    });
    shell.deliver(&[(source(1), 100_000)], &[], Duration::from_secs(2));
    assert_eq!(shell.fetched, PIECE);
    for piece in [0, 1, 3] {
        shell.tell(Event::Gained {
            source: source(1),
            file,
            piece,
        });
    }
    shell.deliver(&[(source(1), 100_000)], &[], Duration::from_secs(10));
    assert!(shell.is_complete(file));
}

#[test]
fn who_stands_still_is_not_waited_for() {
    let mut shell = Shell::new(Tuning::default());
    let file = shell.want(4 * PIECE, 0);
    shell.offer(source(1), file);
    let id = shell.next_of(source(1)).unwrap();
    shell.give(id, 1_000, false);
    shell.pass(Duration::from_secs(6));
    assert_eq!(shell.rests(source(1)), [RestReason::Stalled]);
    assert_eq!(shell.machine.accept(shell.now, id, 10), Accept::Gone);
    // The only source there is: it is asked again, for little, and goes on where it stopped.
    shell.deliver(&[(source(1), 50_000)], &[], Duration::from_mins(2));
    assert!(shell.is_complete(file));
    assert_eq!(shell.fetched, 4 * PIECE);
}

#[test]
fn a_laptop_that_slept_blames_nobody() {
    let mut shell = Shell::new(Tuning::default());
    let file = shell.want(4 * PIECE, 0);
    shell.offer(source(1), file);
    shell.now += Duration::from_hours(3);
    shell.tell(Event::Tick);
    assert_eq!(shell.rests(source(1)), []);
    shell.deliver(&[(source(1), 50_000)], &[], Duration::from_mins(2));
    assert!(shell.is_complete(file));
}

#[test]
fn one_byte_a_second_delays_nobody_and_is_sent_away() {
    let mut shell = Shell::new(Tuning::default());
    let file = shell.want(64 * PIECE, 0);
    shell.offer(source(1), file);
    shell.offer(source(2), file);
    let start = shell.now;
    while !shell.is_complete(file) && shell.now < start + Duration::from_mins(1) {
        if let Some(id) = shell.next_of(source(1)) {
            shell.give(id, 1, false);
        }
        shell.deliver(&[(source(2), 10_000)], &[], Duration::from_secs(1));
    }
    assert!(shell.is_complete(file));
    // 16 MiB at 1 MB/s: 16.8 s by the second source alone.
    assert!(
        shell.now.saturating_sub(start) < Duration::from_secs(19),
        "{:?}",
        shell.now.saturating_sub(start)
    );
    assert_eq!(shell.rests(source(1))[..1], [RestReason::Slow]);
    assert_eq!(shell.banned(), []);
}

#[test]
fn a_vanishing_source_s_bytes_are_kept_and_its_rest_is_asked_of_others() {
    let mut shell = Shell::new(Tuning::default());
    let file = shell.want(4 * PIECE, 0);
    shell.offer(source(1), file);
    let id = shell.next_of(source(1)).unwrap();
    shell.give(id, 100_000, false);
    shell.sent.retain(|_, sent| sent.source != source(1));
    shell.tell(Event::Gone { source: source(1) });
    assert_eq!(shell.machine.outstanding(), 0);
    shell.offer(source(2), file);
    shell.deliver(&[(source(2), 100_000)], &[], Duration::from_mins(1));
    assert!(shell.is_complete(file));
    assert_eq!(shell.fetched, 4 * PIECE);
}

#[test]
fn the_last_bytes_are_asked_for_twice_if_that_is_faster() {
    let mut shell = Shell::new(Tuning::default());
    let file = shell.want(32 * PIECE, 0);
    for n in [1, 2] {
        shell.offer(source(n), file);
    }
    shell.deliver(
        &[(source(1), 100_000), (source(2), 20_000)],
        &[],
        Duration::from_mins(1),
    );
    assert!(shell.is_complete(file));
    let wasted = shell.fetched - 32 * PIECE;
    assert!(wasted <= PIECE, "{wasted}");
}

#[test]
fn a_busy_source_is_left_alone_for_as_long_as_it_says() {
    let mut shell = Shell::new(Tuning::default());
    let file = shell.want(4 * PIECE, 0);
    shell.offer(source(1), file);
    let request = shell.next_of(source(1)).unwrap();
    shell.sent.remove(&request);
    let how = Ended::Busy {
        retry_after: Duration::from_secs(7),
    };
    shell.tell(Event::Ended { request, how });
    assert_eq!(shell.rests(source(1)), [RestReason::Busy]);
    shell.pass(Duration::from_millis(6_900));
    assert_eq!(shell.asked_of(source(1)), 0);
    shell.pass(Duration::from_millis(300));
    assert!(shell.asked_of(source(1)) > 0);
    shell.deliver(&[(source(1), 100_000)], &[], Duration::from_mins(1));
    assert!(shell.is_complete(file));
}

#[test]
fn failures_make_longer_and_longer_rests_but_not_for_ever() {
    let mut shell = Shell::new(Tuning::default());
    let file = shell.want(4 * PIECE, 0);
    shell.offer(source(1), file);
    let mut starts = Vec::new();
    for _ in 0..8 {
        while shell.next_of(source(1)).is_none() {
            shell.pass(100 * MS);
        }
        starts.push(shell.now);
        let request = shell.next_of(source(1)).unwrap();
        shell.sent.remove(&request);
        let how = Ended::Failed;
        shell.tell(Event::Ended { request, how });
    }
    let rests: Vec<u64> = starts
        .windows(2)
        .map(|w| w[1].saturating_sub(w[0]).as_secs())
        .collect();
    assert_eq!(rests, [1, 2, 4, 8, 16, 30, 30]);
    shell.deliver(&[(source(1), 100_000)], &[], Duration::from_mins(1));
    assert!(shell.is_complete(file));
}

#[test]
fn who_claims_what_it_lacks_is_left_alone_and_not_banned() {
    let mut shell = Shell::new(Tuning::default());
    let file = shell.want(64 * PIECE, 0);
    shell.offer(source(1), file);
    for _ in 0..3 {
        let request = shell.next_of(source(1)).unwrap();
        shell.sent.remove(&request);
        let how = Ended::Missing;
        shell.tell(Event::Ended { request, how });
    }
    assert_eq!(shell.rests(source(1)), [RestReason::FalseClaims]);
    assert_eq!((shell.asked_of(source(1)), shell.banned()), (0, vec![]));
    shell.offer(source(2), file);
    shell.deliver(&[(source(2), 300_000)], &[], Duration::from_mins(1));
    assert!(shell.is_complete(file));
}

#[test]
fn web_seeds_wait_for_peers_and_help_where_they_do_not_suffice() {
    let web = Source::Web(0);
    let mut shell = Shell::new(Tuning::default());
    let file = shell.want(64 * PIECE, 0);
    shell.offer(web, file);
    shell.offer(source(1), file);
    shell.deliver(
        &[(source(1), 20_000), (web, 90_000)],
        &[],
        Duration::from_secs(4),
    );
    assert_eq!(shell.asked_of(web), 0, "2 MB/s from a peer suffice");
    let from_peer = shell.fetched;
    assert!(from_peer > 7_000_000);
    // The peer goes: after a while the web seed is asked.
    shell.sent.clear();
    shell.tell(Event::Gone { source: source(1) });
    shell.deliver(&[(web, 90_000)], &[], Duration::from_mins(1));
    assert!(shell.is_complete(file));
    assert_eq!(shell.fetched, 64 * PIECE);
}

#[test]
fn a_piece_that_no_peer_has_comes_from_the_web_seed() {
    let web = Source::Web(0);
    let mut shell = Shell::new(Tuning::default());
    let file = shell.want(64 * PIECE, 0);
    let mut most = PieceSet::all(64);
    most.remove(9);
    shell.tell(Event::Offered {
        source: source(1),
        file,
        pieces: Some(most),
        rtt: None,
    });
    shell.offer(web, file);
    shell.deliver(
        &[(source(1), 20_000), (web, 20_000)],
        &[],
        Duration::from_mins(1),
    );
    assert!(shell.is_complete(file));
    let from_web = |e: &&Effect| {
        matches!(
            e,
            Effect::Request {
                source: Source::Web(_),
                ..
            }
        )
    };
    let asked: u64 = shell
        .seen
        .iter()
        .filter(from_web)
        .map(|e| match e {
            Effect::Request { range, .. } => range.end - range.start,
            _ => 0,
        })
        .sum();
    assert_eq!(asked, PIECE, "that piece and no other");
}

#[test]
fn without_sources_more_are_called_for_again_and_again() {
    let mut shell = Shell::new(Tuning::default());
    let file = shell.want(4 * PIECE, 0);
    shell.pass(Duration::from_secs(12));
    let starved = shell
        .seen
        .iter()
        .filter(|e| **e == Effect::Starved { file });
    assert_eq!(starved.count(), 2);
}

#[test]
fn a_piece_that_waits_for_its_check_counts_towards_the_limit() {
    let tuning = Tuning {
        outstanding_total_max: 1 << 20,
        ..Tuning::default()
    };
    let mut machine = Machine::new(tuning, 1);
    let bytes = content(32 * PIECE, 0);
    let file = ladder(&bytes);
    let (sha256, have) = (file.spec().sha256(), PieceSet::none(32));
    let now = Duration::from_secs(1);
    machine.handle(now, Event::Start { file, have });
    let (source, pieces, rtt) = (source(1), None, None);
    let offered = Event::Offered {
        source,
        file: sha256,
        pieces,
        rtt,
    };
    machine.handle(now, offered);
    let mut checks = 0;
    while let Some(effect) = machine.poll_effect() {
        match effect {
            Effect::Request { request, range, .. } => {
                let bytes = (range.end - range.start) as usize;
                assert!(matches!(
                    machine.accept(now, request, bytes),
                    Accept::Write { .. }
                ));
            }
            Effect::Check { .. } => checks += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((checks, machine.outstanding()), (4, 0), "then it waits");
    for piece in 0..32 {
        let (file, found) = (sha256, Found::Right);
        let checked = Event::Checked { file, piece, found };
        machine.handle(now, checked);
    }
    assert_eq!(machine.outstanding(), 1 << 20, "and goes on");
}

#[test]
fn more_sources_than_there_is_room_for_are_not_listened_to() {
    let tuning = Tuning {
        sources_max: 4,
        ..Tuning::default()
    };
    let mut shell = Shell::new(tuning);
    let file = shell.want(4 * PIECE, 0);
    for n in 1..=6 {
        shell.offer(source(n), file);
    }
    assert_eq!(shell.machine.rates().len(), 4);
    shell.tell(Event::Gone { source: source(1) });
    shell.offer(source(5), file);
    assert_eq!(shell.machine.rates().len(), 4, "a place became free");
}
