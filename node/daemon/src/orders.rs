//! What the operator has ordered at run time: a pause (kept in the data folder, so that it outlives a
//! restart) and a drain (which ends with the process). `control` takes orders, `daemon` follows them,
//! `cli` gives them where no node runs.
//! Must stay true: a pause is on the disk before it is acknowledged; one that can't be read still holds.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use owm_proto::UnixMillis;
use owm_service::clock::SharedClock;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::home::{Home, HomeError, read_small, sync_folder, write_atomically};

/// Longest pause with an end, in ms: a year and a day. Longer ones are meant to have none.
pub const PAUSE_MS_MAX: u64 = 366 * 24 * 3_600 * 1_000;
/// Longest time for a drain, in ms: a week is beyond every lease.
pub const DRAIN_MS_MAX: u64 = 7 * 24 * 3_600 * 1_000;
/// A kept pause has some fifty bytes.
const FILE_BYTES_MAX: u64 = 4 << 10;

/// No new work until the operator says so, or until its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Since when.
    pub since_ms: UnixMillis,
    /// Until when; `None`: until `owm-node resume`.
    pub until_ms: Option<UnixMillis>,
}

/// What holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// Paused.
    pub pause: Option<Pause>,
    /// Finish and end, within this time.
    pub drain: Option<Duration>,
}

/// An order that can't be followed.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The pause can't be kept.
    #[error("the order is not taken, as it would not outlive a restart: {0}")]
    Home(#[from] HomeError),
    /// Longer than makes sense.
    #[error(
        "a pause of more than a year is not taken; leave --for out to pause until `owm-node resume`"
    )]
    TooLong,
}

/// Keeps the orders of one data folder; clones are the same book.
#[derive(Clone, Debug)]
pub struct OrderBook {
    file: PathBuf,
    clock: SharedClock,
    orders: watch::Sender<Orders>,
    /// Held while the file is changed.
    writing: Arc<Mutex<()>>,
    /// That the file of a pause which is over stays: said once, not at every look.
    told: Arc<AtomicBool>,
}

impl OrderBook {
    /// Opens the book of a folder: a pause that was kept holds again, unless its end is past.
    pub fn open(home: &Home, clock: SharedClock) -> Self {
        let book = Self {
            file: home.pause(),
            clock,
            orders: watch::Sender::new(Orders::default()),
            writing: Arc::default(),
            told: Arc::default(),
        };
        let pause = book.kept();
        book.orders.send_modify(|orders| orders.pause = pause);
        book.end_pause_if_over();
        book
    }

    fn kept(&self) -> Option<Pause> {
        let bytes = match read_small(&self.file, FILE_BYTES_MAX) {
            Ok(bytes) => bytes?,
            Err(error) => {
                tracing::warn!(%error, "the kept pause cannot be read; paused until owm-node resume");
                Vec::new()
            }
        };
        // Whoever paused a node does not want it to work because a file was damaged.
        Some(serde_json::from_slice(&bytes).unwrap_or(Pause {
            since_ms: self.now(),
            until_ms: None,
        }))
    }

    fn now(&self) -> UnixMillis {
        UnixMillis(self.clock.now_ms())
    }

    /// What holds now, and what will.
    pub fn follow(&self) -> watch::Receiver<Orders> {
        self.orders.subscribe()
    }

    /// Pauses, for `time` or until resumed; replaces an earlier pause.
    pub fn pause(&self, time: Option<Duration>) -> Result<Pause, OrderError> {
        if time.is_some_and(|time| time > Duration::from_millis(PAUSE_MS_MAX)) {
            return Err(OrderError::TooLong);
        }
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.now();
        let since_ms = self.orders.borrow().pause.map_or(now, |p| p.since_ms);
        let pause = Pause {
            since_ms,
            until_ms: time.map(|time| now.after(time)),
        };
        let bytes = serde_json::to_vec(&pause).expect("two numbers are JSON");
        write_atomically(&self.file, &bytes)?;
        self.orders.send_modify(|orders| orders.pause = Some(pause));
        Ok(pause)
    }

    /// Ends a pause, if there is one.
    pub fn resume(&self) -> Result<(), OrderError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.end_pause()
    }

    /// To be called now and then.
    pub fn end_pause_if_over(&self) {
        let is_over = |orders: &Orders| {
            let until = orders.pause.and_then(|pause| pause.until_ms);
            until.is_some_and(|until| until <= self.now())
        };
        if !is_over(&self.orders.borrow()) {
            return;
        }
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        // A new pause may have come in between.
        if is_over(&self.orders.borrow())
            && let Err(error) = self.end_pause()
            && !self.told.swap(true, Relaxed)
        {
            tracing::warn!(%error, "the pause is over, but its file stays");
        }
    }

    fn end_pause(&self) -> Result<(), OrderError> {
        let io = |source| HomeError::Io {
            path: self.file.clone(),
            source,
        };
        match std::fs::remove_file(&self.file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(io(error).into());
            }
            _ => {}
        }
        self.file.parent().map_or(Ok(()), sync_folder).map_err(io)?;
        self.orders.send_modify(|orders| orders.pause = None);
        self.told.store(false, Relaxed);
        Ok(())
    }

    /// Finishes and ends, within at most this time.
    pub fn drain(&self, within: Duration) {
        let within = within.min(Duration::from_millis(DRAIN_MS_MAX));
        self.orders
            .send_modify(|orders| orders.drain = Some(within));
    }
}

#[cfg(test)]
mod tests {
    use owm_service::clock::ManualClock;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn book(folder: &std::path::Path, now_ms: u64) -> (OrderBook, Arc<ManualClock>) {
        let clock = ManualClock::shared(now_ms);
        let home = Home::open(folder).unwrap();
        (OrderBook::open(&home, clock.clone()), clock)
    }

    fn paused(book: &OrderBook) -> Option<Pause> {
        book.follow().borrow().pause
    }

    #[test]
    fn a_pause_outlives_a_restart_until_it_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let (first, _) = book(folder.path(), 1_000);
        assert_eq!(paused(&first), None);
        let said = first.pause(None).unwrap();
        let (second, _) = book(folder.path(), u64::MAX);
        assert_eq!(paused(&second), Some(said));
        second.resume().unwrap();
        second.resume().unwrap();
        let (third, _) = book(folder.path(), 2_000);
        assert_eq!(paused(&third), None);
    }

    #[test]
    fn a_pause_ends_at_its_time_also_while_no_node_runs() {
        let folder = tempfile::tempdir().unwrap();
        let (first, clock) = book(folder.path(), 1_000);
        first.pause(Some(HOUR)).unwrap();
        clock.advance(Duration::from_millis(3_599_999));
        first.end_pause_if_over();
        assert!(paused(&first).is_some());
        let later = 1_000 + HOUR.as_millis() as u64;
        let (second, _) = book(folder.path(), later);
        assert_eq!(paused(&second), None);
        clock.advance(Duration::from_millis(1));
        first.end_pause_if_over();
        assert_eq!(paused(&first), None);
    }

    #[test]
    fn a_second_pause_replaces_the_end_and_keeps_the_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let (book, clock) = book(folder.path(), 1_000);
        book.pause(Some(HOUR)).unwrap();
        clock.advance(HOUR / 2);
        let pause = book.pause(None).unwrap();
        assert_eq!((pause.since_ms, pause.until_ms), (UnixMillis(1_000), None));
    }

    #[test]
    fn a_damaged_pause_holds_and_a_pause_beyond_a_year_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path()).unwrap();
        std::fs::write(home.pause(), b"{").unwrap();
        let (book, _) = book(folder.path(), 1_000);
        assert_eq!(paused(&book).unwrap().until_ms, None);
        let error = book.pause(Some(HOUR * 24 * 400)).unwrap_err();
        assert!(matches!(error, OrderError::TooLong), "{error}");
    }
}
