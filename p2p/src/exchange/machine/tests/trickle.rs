//! A byte now and then.

use std::time::Duration;

use super::{super::*, shell::*};

const SECOND: Duration = Duration::from_secs(1);

/// Source 1 brings so many bytes a second for so long.
fn bring(shell: &mut Shell, bytes: u64, seconds: u64) {
    for _ in 0..seconds {
        if let Some(id) = shell.next_of(source(1)) {
            shell.give(id, bytes, false);
        }
        shell.pass(SECOND);
    }
}

#[test]
fn a_trickle_is_given_up_although_there_is_nobody_else() {
    let mut shell = Shell::new(Tuning::default());
    let file = shell.want(4 * PIECE, 0);
    shell.offer(source(1), file);
    bring(&mut shell, 1, 25);
    assert_eq!(shell.rests(source(1)), [RestReason::Slow]);
    assert_eq!(
        shell.machine.outstanding(),
        0,
        "its work is free for others"
    );
    // Who comes later finds all of it.
    shell.offer(source(2), file);
    shell.deliver(&[(source(2), 100_000)], &[], 60 * SECOND);
    assert!(shell.is_complete(file));
    assert_eq!(shell.banned(), []);
}

#[test]
fn two_that_trickle_do_not_keep_each_other_in() {
    let mut shell = Shell::new(Tuning::default());
    let file = shell.want(4 * PIECE, 0);
    shell.offer(source(1), file);
    shell.offer(source(2), file);
    for _ in 0..25 {
        for n in [1, 2] {
            if let Some(id) = shell.next_of(source(n)) {
                shell.give(id, 1, false);
            }
        }
        shell.pass(SECOND);
    }
    for n in [1, 2] {
        assert_eq!(shell.rests(source(n)), [RestReason::Slow]);
    }
}

#[test]
fn a_slow_line_is_no_trickle() {
    let mut shell = Shell::new(Tuning::default());
    let file = shell.want(4 * PIECE, 0);
    shell.offer(source(1), file);
    bring(&mut shell, 2 << 10, 600);
    assert_eq!(shell.rests(source(1)), []);
    assert!(shell.is_complete(file));
}
