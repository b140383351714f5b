//! The last bytes: asked for twice, taken over, or begun anew with somebody faster; and left alone otherwise.

use super::{super::*, shell::*};

/// Both have brought a file of their own, so that it is known how fast they are: so many bytes every 10 ms.
fn known(shell: &mut Shell, rates: &[(Source, u64)]) {
    let file = shell.want(16 * PIECE, 99);
    for (source, _) in rates {
        shell.offer(*source, file);
    }
    shell.deliver(rates, &[], Duration::from_mins(5));
    assert!(shell.is_complete(file));
    shell.fetched = 0;
}

/// Whether two are asked for the same bytes now.
fn is_doubled(shell: &Shell) -> bool {
    let sent: Vec<&Sent> = shell.sent.values().collect();
    let overlaps = |a: &Sent, b: &Sent| {
        let starts = a.range.start.max(b.range.start);
        a.file == b.file && a.source != b.source && starts < a.range.end.min(b.range.end)
    };
    let mut pairs = sent.iter().enumerate();
    pairs.any(|(at, a)| sent[at + 1..].iter().any(|b| overlaps(a, b)))
}

/// How many are asked for the same byte now, at most.
fn asked_together(shell: &Shell) -> usize {
    let sent: Vec<&Sent> = shell.sent.values().collect();
    let count = |at: &&Sent| {
        let covers = |s: &&&Sent| s.file == at.file && s.range.contains(&at.range.start);
        sent.iter().filter(covers).count()
    };
    sent.iter().map(count).max().unwrap_or(0)
}

/// Eight pieces from these sources; whether any byte was asked for twice, and how many came for nothing.
fn end_of(rates: &[(Source, u64)]) -> (bool, u64) {
    let mut shell = Shell::new(Tuning::default());
    known(&mut shell, rates);
    let file = shell.want(8 * PIECE, 0);
    for (source, _) in rates {
        shell.offer(*source, file);
    }
    let mut was_doubled = false;
    while !shell.is_complete(file) {
        shell.deliver(rates, &[], 10 * MS);
        was_doubled |= is_doubled(&shell);
    }
    assert!(shell.sent.is_empty(), "what is not wanted is cancelled");
    (was_doubled, shell.fetched - 8 * PIECE)
}

#[test]
fn the_last_bytes_of_a_slower_source_are_asked_of_a_faster_one_as_well() {
    // More than one and a half times as fast, and not three times: then all is taken over.
    let (was_doubled, for_nothing) = end_of(&[(source(1), 200), (source(2), 450)]);
    assert!(was_doubled);
    assert!(for_nothing <= PIECE, "{for_nothing}");
}

#[test]
fn nothing_is_asked_for_twice_of_sources_that_are_alike() {
    let (was_doubled, for_nothing) = end_of(&[(source(1), 400), (source(2), 400)]);
    assert_eq!((was_doubled, for_nothing), (false, 0));
}

/// A piece that two gave wrong is fetched anew from source 2, at 200 kB/s; source 3, which brings so many bytes every
/// 10 ms, comes and has nothing to do. Whether it begins the piece anew.
fn begins_anew(bytes: u64) -> bool {
    let mut shell = Shell::new(Tuning::default());
    known(&mut shell, &[(source(2), 2_000), (source(3), bytes)]);
    let file = shell.want(PIECE, 0);
    shell.offer(source(1), file);
    let id = shell.next_of(source(1)).unwrap();
    shell.give(id, 100_000, true);
    shell.sent.clear();
    shell.tell(Event::Gone { source: source(1) });
    shell.offer(source(2), file);
    while shell.sent.values().all(|sent| sent.range.start > 0) {
        let id = shell.next_of(source(2)).unwrap();
        shell.give(id, PIECE, false);
    }
    assert!(shell.asked_of(source(2)) > 0, "all of it again");
    let id = shell.next_of(source(2)).unwrap();
    shell.give(id, 20_000, false);
    shell.offer(source(3), file);
    let has_begun = shell.asked_of(source(3)) > 0;
    let alone = if has_begun { source(3) } else { source(2) };
    let asked = shell.sent.values().map(|sent| sent.source);
    assert!(
        asked.collect::<Vec<_>>().iter().all(|s| *s == alone),
        "one at a time"
    );
    shell.deliver(&[(alone, 20_000)], &[], Duration::from_mins(1));
    assert!(shell.is_complete(file));
    assert_eq!(shell.banned(), [peer(1)]);
    has_begun
}

#[test]
fn a_piece_from_one_source_is_begun_anew_only_with_one_that_is_ten_times_faster() {
    // All of it once more takes 0.26 s at 1 MB/s; what is left at 200 kB/s takes 1.2 s.
    assert!(!begins_anew(10_000));
    assert!(begins_anew(40_000));
}

#[test]
fn all_is_taken_over_from_one_that_is_much_slower() {
    let (was_doubled, _) = end_of(&[(source(1), 200), (source(2), 900)]);
    assert!(!was_doubled);
}

#[test]
fn nothing_is_asked_for_twice_for_a_little_speed() {
    let (was_doubled, for_nothing) = end_of(&[(source(1), 330), (source(2), 400)]);
    assert_eq!((was_doubled, for_nothing), (false, 0));
}

/// The last bytes of source 1 are asked of source 2 as well; source 3 is as fast and has nothing to do.
fn doubled() -> (Shell, Sha256) {
    let mut shell = Shell::new(Tuning::default());
    let rates = [(source(1), 200), (source(2), 450), (source(3), 450)];
    known(&mut shell, &rates);
    let file = shell.want(8 * PIECE, 0);
    for (source, _) in &rates[..2] {
        shell.offer(*source, file);
    }
    while !is_doubled(&shell) {
        shell.deliver(&rates[..2], &[], 10 * MS);
    }
    (shell, file)
}

#[test]
fn nothing_is_asked_for_a_third_time() {
    let (mut shell, file) = doubled();
    shell.offer(source(3), file);
    assert_eq!(asked_together(&shell), 2);
}
