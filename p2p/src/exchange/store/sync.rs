//! The thread that syncs what has been proved: after 32 MiB or a second, whichever is first. It starts with
//! the first file that grows and ends with the store.
//! Must stay true: at most 64 MiB of proved bytes wait for the disk; who writes more waits with them.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use super::partial::Growing;

/// So much is fetched again at most after a kill, beside what is in flight, in bytes.
const UNSYNCED_BYTES_MAX: u64 = 64 << 20;
/// Half of it: the other half may come in while the first is synced.
const SYNC_BYTES: u64 = UNSYNCED_BYTES_MAX / 2;
/// A slow download loses no more than came within this time.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// Who is waiting to be synced.
#[derive(Debug, Default)]
pub(super) struct Syncer {
    state: Mutex<State>,
    woken: Condvar,
}

#[derive(Debug, Default)]
struct State {
    dirty: Vec<Weak<Growing>>,
    /// Proved, of those.
    bytes: u64,
    /// On their way to the disk.
    syncing: u64,
    runs: bool,
    stop: bool,
}

impl Syncer {
    /// Starts the thread if it does not run.
    pub(super) fn start(self: &Arc<Self>) -> std::io::Result<()> {
        let mut state = self.lock();
        if state.runs {
            return Ok(());
        }
        let own = Arc::clone(self);
        std::thread::Builder::new()
            .name("owm-store-sync".into())
            .spawn(move || own.run())?;
        state.runs = true;
        Ok(())
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        self.lock().stop = true;
        self.woken.notify_all();
    }

    /// `bytes` of a file are proved and not synced.
    pub(super) fn wake(&self, file: &Arc<Growing>, bytes: u64) {
        let mut state = self.lock();
        let before = state.bytes;
        state.bytes += bytes;
        let file = Arc::downgrade(file);
        if !state.dirty.iter().any(|dirty| dirty.ptr_eq(&file)) {
            state.dirty.push(file);
        }
        if before == 0 || state.bytes >= SYNC_BYTES {
            drop(state);
            self.woken.notify_all();
        }
    }

    /// Waits until so little is unsynced that more may be written.
    pub(super) fn wait_for_disk(&self) {
        let is_much =
            |state: &mut State| !state.stop && state.bytes + state.syncing > UNSYNCED_BYTES_MAX;
        drop(self.woken.wait_while(self.lock(), is_much));
    }

    fn run(&self) {
        let mut state = self.lock();
        while !state.stop {
            if state.dirty.is_empty() {
                let woken = self.woken.wait(state);
                state = woken.unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let is_early = |state: &mut State| !state.stop && state.bytes < SYNC_BYTES;
            let waited = self.woken.wait_timeout_while(state, SYNC_EVERY, is_early);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            let dirty = std::mem::take(&mut state.dirty);
            state.syncing = std::mem::take(&mut state.bytes);
            drop(state);
            for file in dirty.iter().filter_map(Weak::upgrade) {
                // A failure is kept in the file; its next writer hears it.
                drop(file.sync());
            }
            state = self.lock();
            state.syncing = 0;
            self.woken.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
