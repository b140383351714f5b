//! Liars are named, with the piece; nobody else ever is.

use super::{super::*, shell::*};

#[test]
fn a_wrong_piece_from_one_source_names_it() {
    let mut shell = Shell::new(Tuning::default());
    let file = shell.want(8 * PIECE, 0);
    shell.offer(source(1), file);
    shell.deliver(&[(source(1), 300_000)], &[source(1)], 20 * MS);
    let [
        Effect::Ban {
            peer: who,
            file: of,
            piece,
        },
    ] = shell
        .seen
        .iter()
        .filter(|effect| matches!(effect, Effect::Ban { .. }))
        .collect::<Vec<_>>()[..]
    else {
        panic!("{:?}", shell.seen);
    };
    assert_eq!((*who, *of), (peer(1), file));
    assert!(*piece < 8);
    assert_eq!(
        shell.asked_of(source(1)),
        0,
        "nothing is asked of it any more"
    );
    shell.offer(source(1), file);
    assert_eq!(shell.asked_of(source(1)), 0, "nor when it comes back");
    shell.offer(source(2), file);
    shell.deliver(&[(source(2), 300_000)], &[], Duration::from_mins(1));
    assert!(shell.is_complete(file));
    assert_eq!(shell.banned(), [peer(1)]);
}

/// Source 1 gives the first bytes of the one piece, wrong ones if it lies, and leaves; source 2 gives the
/// rest.
fn mixed(is_first_wrong: bool, is_second_wrong: bool) -> (Shell, Sha256) {
    let mut shell = Shell::new(Tuning::default());
    let file = shell.want(PIECE, 0);
    shell.offer(source(1), file);
    let id = shell.next_of(source(1)).unwrap();
    shell.give(id, 100_000, is_first_wrong);
    shell.sent.clear();
    shell.tell(Event::Gone { source: source(1) });
    shell.offer(source(2), file);
    while shell.sent.values().any(|sent| sent.range.start > 0) {
        let id = shell.next_of(source(2)).unwrap();
        shell.give(id, PIECE, is_second_wrong);
    }
    (shell, file)
}

#[test]
fn a_mixed_piece_blames_nobody_before_it_came_right_from_one_source() {
    let (mut shell, file) = mixed(true, false);
    assert_eq!(shell.banned(), [], "one of two, but which?");
    assert!(!shell.is_complete(file));
    let asked = shell.sent.values().map(|sent| sent.range.clone());
    assert_eq!(
        asked.map(|range| range.start).min(),
        Some(0),
        "from the front again"
    );
    shell.deliver(&[(source(2), 300_000)], &[], Duration::from_mins(1));
    assert!(shell.is_complete(file));
    assert_eq!(shell.banned(), [peer(1)], "though it had left");
    let last = shell.seen.last();
    assert!(
        matches!(last, Some(Effect::Complete { .. })),
        "after all is told"
    );
    assert_eq!(shell.fetched, 2 * PIECE);
}

#[test]
fn the_second_of_two_is_named_if_it_was_the_second() {
    let (mut shell, file) = mixed(false, true);
    assert_eq!(shell.banned(), []);
    shell.sent.clear();
    shell.tell(Event::Gone { source: source(2) });
    shell.offer(source(1), file);
    shell.deliver(&[(source(1), 300_000)], &[], Duration::from_mins(1));
    assert!(shell.is_complete(file));
    assert_eq!(shell.banned(), [peer(2)]);
}

#[test]
fn two_liars_on_one_piece_are_both_named() {
    let (mut shell, file) = mixed(true, true);
    shell.sent.clear();
    shell.tell(Event::Gone { source: source(2) });
    shell.offer(source(3), file);
    shell.deliver(&[(source(3), 300_000)], &[], Duration::from_mins(1));
    assert!(shell.is_complete(file));
    let mut banned = shell.banned();
    banned.sort();
    let mut liars = [peer(1), peer(2)];
    liars.sort();
    assert_eq!(banned, liars);
}

#[test]
fn a_piece_under_suspicion_comes_from_one_source_even_if_that_one_leaves() {
    let (mut shell, file) = mixed(true, false);
    let id = shell.next_of(source(2)).unwrap();
    shell.give(id, 100_000, false);
    shell.sent.clear();
    shell.tell(Event::Gone { source: source(2) });
    shell.offer(source(3), file);
    shell.deliver(&[(source(3), 300_000)], &[], Duration::from_mins(1));
    assert!(shell.is_complete(file));
    assert_eq!(shell.banned(), [peer(1)]);
    assert_eq!(
        shell.fetched,
        2 * PIECE + 100_000,
        "begun anew, not mixed again"
    );
}

#[test]
fn a_wrong_piece_that_others_have_written_into_blames_nobody_and_comes_again() {
    let mut shell = Shell::new(Tuning::default());
    let file = shell.want(PIECE, 0);
    shell.is_mixed = true;
    shell.offer(source(1), file);
    let id = shell.next_of(source(1)).unwrap();
    // As if it had been written over.
    shell.give(id, PIECE, true);
    assert!(!shell.is_mixed, "it was looked at");
    assert_eq!(shell.banned(), []);
    shell.deliver(&[(source(1), 300_000)], &[], Duration::from_mins(1));
    assert!(shell.is_complete(file));
    assert_eq!((shell.banned(), shell.fetched), (vec![], 2 * PIECE));
    assert_eq!(shell.machine.outstanding(), 0);
}

#[test]
fn a_mixed_piece_comes_again_from_one_source_however_many_there_are() {
    let mut shell = Shell::new(Tuning::default());
    // So that it is asked for in parts.
    let before = shell.want(16 * PIECE, 9);
    shell.offer(source(1), before);
    shell.deliver(&[(source(1), 2_000)], &[], Duration::from_mins(2));
    let file = shell.want(PIECE, 0);
    shell.is_mixed = true;
    shell.offer(source(1), file);
    while shell.is_mixed {
        let id = shell.next_of(source(1)).unwrap();
        shell.give(id, PIECE, true);
    }
    shell.offer(source(2), file);
    assert!(shell.asked_of(source(1)) > 0);
    assert_eq!(shell.asked_of(source(2)), 0);
    assert_eq!(shell.banned(), []);
}

#[test]
fn who_lies_about_a_piece_that_comes_again_for_being_mixed_is_named() {
    let (mut shell, file) = {
        let mut shell = Shell::new(Tuning::default());
        let file = shell.want(PIECE, 0);
        shell.is_mixed = true;
        (shell, file)
    };
    shell.offer(source(1), file);
    shell.deliver(
        &[(source(1), 300_000)],
        &[source(1)],
        Duration::from_secs(2),
    );
    assert_eq!(shell.banned(), [peer(1)]);
    shell.offer(source(2), file);
    shell.deliver(&[(source(2), 300_000)], &[], Duration::from_mins(1));
    assert!(shell.is_complete(file));
    assert_eq!(shell.banned(), [peer(1)]);
}

#[test]
fn all_but_one_lying_ends_with_the_file_and_all_liars_named() {
    let mut shell = Shell::new(Tuning::default());
    let file = shell.want(40 * PIECE, 0);
    let sources: Vec<(Source, u64)> = (1..=8).map(|n| (source(n), 50_000)).collect();
    let liars: Vec<Source> = (2..=8).map(source).collect();
    for (source, _) in &sources {
        shell.offer(*source, file);
    }
    shell.deliver(&sources, &liars, Duration::from_mins(2));
    assert!(shell.is_complete(file));
    let mut banned = shell.banned();
    banned.sort();
    let mut all: Vec<_> = (2..=8).map(peer).collect();
    all.sort();
    assert_eq!(banned, all);
}

#[test]
fn what_a_liar_gave_of_other_pieces_is_not_waited_for() {
    let mut shell = Shell::new(Tuning::default());
    let file = shell.want(8 * PIECE, 0);
    shell.offer(source(1), file);
    // One whole piece and the beginning of a second.
    let first = shell.next_of(source(1)).unwrap();
    let second = *shell.sent.keys().find(|id| **id != first).unwrap();
    shell.give(second, 50_000, true);
    shell.give(first, PIECE, true);
    assert_eq!(shell.banned(), [peer(1)]);
    shell.offer(source(2), file);
    shell.deliver(&[(source(2), 300_000)], &[], Duration::from_mins(1));
    assert!(shell.is_complete(file));
    assert_eq!(shell.banned(), [peer(1)]);
    assert_eq!(shell.fetched, 9 * PIECE + 50_000);
}

#[test]
fn a_web_seed_with_wrong_bytes_is_never_asked_again() {
    let web = Source::Web(3);
    let mut shell = Shell::new(Tuning::default());
    let file = shell.want(8 * PIECE, 0);
    shell.offer(web, file);
    shell.deliver(&[(web, 300_000)], &[web], Duration::from_secs(5));
    assert_eq!(shell.rests(web), [RestReason::WrongBytes]);
    shell.pass(Duration::from_hours(1));
    assert_eq!(shell.asked_of(web), 0);
    shell.offer(source(1), file);
    shell.deliver(&[(source(1), 300_000)], &[], Duration::from_mins(1));
    assert!(shell.is_complete(file));
}
