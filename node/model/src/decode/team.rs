//! The threads of a decode step. They start together and meet at barriers within the step, which is
//! far cheaper than starting threads for each of its 150 products. Called by [`super::Decoder`].
//! What must stay true: nobody waits for a thread that has panicked, and one step runs at a time (two would
//! wait for each other's threads).

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// Turns of waiting before a thread lets others run: some 10 µs, longer than one piece takes.
const SPINS: u32 = 1_000;

/// Threads that work on steps, the caller's included.
#[derive(Debug)]
pub(crate) struct Team {
    /// The others; none if the caller is alone.
    pool: Option<rayon::ThreadPool>,
    threads: usize,
    turn: Mutex<()>,
}

/// What the members of one step share.
#[derive(Debug)]
pub(crate) struct Meeting {
    threads: usize,
    arrived: AtomicUsize,
    round: AtomicUsize,
    broken: AtomicBool,
}

/// Tells the others if its thread panics.
struct Watch<'a>(&'a Meeting);

impl Team {
    /// A team of at most `threads`; smaller where the system gives no more threads.
    pub(crate) fn new(threads: usize) -> Self {
        let pool = (threads > 1).then(|| {
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads - 1)
                .thread_name(|index| format!("owm-decode-{}", index + 1))
                .build()
        });
        let pool = pool.and_then(|built| {
            built
                .inspect_err(|error| tracing::warn!(%error, "decoding with one thread"))
                .ok()
        });
        Self {
            threads: pool.as_ref().map_or(1, |_| threads),
            pool,
            turn: Mutex::new(()),
        }
    }

    /// Members, the caller included.
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `work` once on every member.
    pub(crate) fn run(&self, work: impl Fn(&Meeting) + Sync) {
        // A panic in an earlier step leaves nothing behind here.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let meeting = Meeting {
            threads: self.threads,
            arrived: AtomicUsize::new(0),
            round: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
        };
        let member = || {
            let _watch = Watch(&meeting);
            work(&meeting);
        };
        match &self.pool {
            None => member(),
            Some(pool) => pool.in_place_scope(|scope| {
                scope.spawn_broadcast(|_, _| member());
                member();
            }),
        }
    }
}

impl Meeting {
    /// Waits until every member is here. Whatever one wrote before, all read after.
    pub(crate) fn wait(&self) {
        let round = self.round.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.threads {
            self.arrived.store(0, Ordering::Relaxed);
            self.round.store(round + 1, Ordering::Release);
            return;
        }
        let mut spins = 0;
        while self.round.load(Ordering::Acquire) == round {
            assert!(
                !self.broken.load(Ordering::Relaxed),
                "another thread of the decode step has panicked"
            );
            if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.broken.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_before_a_meeting_is_read_after_it() {
        let team = Team::new(3);
        let cells: Vec<AtomicUsize> = (0..100).map(|_| AtomicUsize::new(0)).collect();
        team.run(|meeting| {
            for cell in &cells {
                cell.fetch_add(1, Ordering::Relaxed);
                meeting.wait();
                assert_eq!(cell.load(Ordering::Relaxed), team.threads());
            }
        });
    }

    #[test]
    fn a_panic_of_one_member_ends_the_step_and_the_next_step_works() {
        let team = Team::new(2);
        let first = AtomicBool::new(true);
        let step = std::panic::AssertUnwindSafe(|| {
            team.run(|meeting| {
                assert!(!first.swap(false, Ordering::Relaxed), "on purpose");
                meeting.wait();
            });
        });
        std::panic::catch_unwind(step).expect_err("the panic reaches the caller");
        let reached = AtomicUsize::new(0);
        team.run(|meeting| {
            meeting.wait();
            reached.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(reached.into_inner(), team.threads());
    }
}
