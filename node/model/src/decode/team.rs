//! The threads of a decode step. They start together and meet at barriers within the step, which is
//! far cheaper than starting threads for each of its 150 products. Called by [`super::Decoder`].
//! What must stay true: nobody waits for a thread that has panicked, and one step runs at a time (two would
//! wait for each other's threads).

use std::{
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use super::pace::Pace;

/// Turns of waiting before a thread sleeps: some 10 µs, longer than one piece takes. Whoever is
/// waited for longer is not running, and its processor may be the very one that we hold. (To yield
/// it instead would put us behind all other work of the machine, at every meeting.)
const SPINS: u32 = 1_000;

/// Threads that work on steps, the caller's included.
#[derive(Debug)]
pub(crate) struct Team {
    /// The others; none if the caller is alone.
    pool: Option<rayon::ThreadPool>,
    threads: usize,
    turn: Mutex<Pace>,
}

/// What the members of one step share.
#[derive(Debug)]
pub(crate) struct Meeting {
    threads: usize,
    arrived: AtomicUsize,
    round: AtomicUsize,
    broken: AtomicBool,
    sleepers: AtomicUsize,
    bed: Mutex<()>,
    alarm: Condvar,
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
            turn: Mutex::new(Pace::default()),
        }
    }

    /// Members, the caller included.
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Runs a step: `work` once on every member, or on the caller alone while that is faster.
    pub(crate) fn step(&self, work: impl Fn(&Meeting) + Sync) {
        // A panic in an earlier step leaves nothing behind here.
        let mut pace = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let started = Instant::now();
        let is_alone = pace.is_alone();
        self.run(is_alone, work);
        pace.took(started.elapsed());
    }

    /// Runs `work` once on every member.
    pub(crate) fn all(&self, work: impl Fn(&Meeting) + Sync) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.run(false, work);
    }

    fn run(&self, is_alone: bool, work: impl Fn(&Meeting) + Sync) {
        let pool = self.pool.as_ref().filter(|_| !is_alone);
        let meeting = Meeting {
            threads: pool.map_or(1, |_| self.threads),
            arrived: AtomicUsize::new(0),
            round: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            bed: Mutex::new(()),
            alarm: Condvar::new(),
        };
        let member = || {
            let _watch = Watch(&meeting);
            work(&meeting);
        };
        match pool {
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
        let round = self.round.load(Ordering::SeqCst);
        if self.arrived.fetch_add(1, Ordering::SeqCst) + 1 == self.threads {
            self.arrived.store(0, Ordering::SeqCst);
            self.round.store(round + 1, Ordering::SeqCst);
            self.wake();
            return;
        }
        for _ in 0..SPINS {
            if self.is_over(round) {
                return;
            }
            std::hint::spin_loop();
        }
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let mut bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.is_over(round) {
            bed = self.alarm.wait(bed).unwrap_or_else(PoisonError::into_inner);
        }
        drop(bed);
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    fn is_over(&self, round: usize) -> bool {
        assert!(
            !self.broken.load(Ordering::SeqCst),
            "another thread of the decode step has panicked"
        );
        self.round.load(Ordering::SeqCst) != round
    }

    /// Whoever is about to sleep has counted itself before it looked at the round for the last time.
    fn wake(&self) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(self.bed.lock().unwrap_or_else(PoisonError::into_inner));
            self.alarm.notify_all();
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.broken.store(true, Ordering::SeqCst);
            self.0.wake();
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
        team.all(|meeting| {
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
            team.all(|meeting| {
                assert!(!first.swap(false, Ordering::Relaxed), "on purpose");
                meeting.wait();
            });
        });
        std::panic::catch_unwind(step).expect_err("the panic reaches the caller");
        let reached = AtomicUsize::new(0);
        team.step(|meeting| {
            meeting.wait();
            reached.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(reached.into_inner(), team.threads());
    }
}
