//! Fetches inside the daemon, for its control socket: one version at a time, as long as somebody asks how far it is.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use owm_proto::VersionId;
use owm_service::{CancellationToken, report::Chain};
use tokio::sync::watch;

use super::{FetchPicture, Getter, LOOK_EVERY};

/// An asker that has not come back for so long has gone.
const ASKER_GONE: Duration = Duration::from_secs(10);

/// Fetches for `owm-node models fetch` inside the daemon, one version at a time. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Fetching {
    getter: Arc<Getter>,
    current: Arc<Mutex<Option<Current>>>,
}

#[derive(Debug)]
struct Current {
    id: u64,
    version: Option<VersionId>,
    shown: watch::Receiver<FetchPicture>,
    /// Those who wait for it.
    askers: u32,
    /// When one of them was here last.
    seen: Duration,
    stop: CancellationToken,
}

impl Fetching {
    /// Fetches with this.
    pub fn new(getter: Getter) -> Self {
        Self {
            getter: Arc::new(getter),
            current: Arc::default(),
        }
    }

    /// Begins, or joins who fetches the same already; the number is what [`Fetching::so_far`] wants.
    ///
    /// # Errors
    /// In words: another version is being fetched.
    pub fn begin(&self, version: Option<VersionId>) -> Result<u64, String> {
        let now = self.getter.clock.monotonic();
        let mut current = self.lock();
        let running = current
            .as_mut()
            .filter(|c| c.shown.borrow().ended.is_none() && !c.stop.is_cancelled());
        if let Some(running) = running {
            if running.version == version {
                running.askers += 1;
                running.seen = now;
                return Ok(running.id);
            }
            return Err("another `owm-node models fetch` fetches another version just now; wait for it, or end it".into());
        }
        let id = current.as_ref().map_or(1, |c| c.id + 1);
        let (show, shown) = watch::channel(FetchPicture::default());
        let stop = CancellationToken::new();
        *current = Some(Current {
            id,
            version: version.clone(),
            shown,
            askers: 1,
            seen: now,
            stop: stop.clone(),
        });
        drop(current);
        tokio::spawn(self.clone().fetch(id, version, show, stop));
        Ok(id)
    }

    /// How far it is; `None`: that fetch is not the current one.
    pub fn so_far(&self, id: u64) -> Option<FetchPicture> {
        let mut current = self.lock();
        let current = current.as_mut().filter(|c| c.id == id)?;
        current.seen = self.getter.clock.monotonic();
        Some(current.shown.borrow().clone())
    }

    /// One asker leaves; with the last one it ends.
    pub fn end(&self, id: u64) {
        if let Some(current) = self.lock().as_mut().filter(|c| c.id == id) {
            current.askers = current.askers.saturating_sub(1);
            if current.askers == 0 {
                current.stop.cancel();
            }
        }
    }

    async fn fetch(
        self,
        id: u64,
        version: Option<VersionId>,
        show: watch::Sender<FetchPicture>,
        stop: CancellationToken,
    ) {
        let got = async {
            let getting = self.getter.get(version.as_ref(), &show, &stop);
            let mut getting = std::pin::pin!(getting);
            let mut look = tokio::time::interval(LOOK_EVERY);
            loop {
                tokio::select! {
                    got = &mut getting => return got,
                    _ = look.tick() => if self.is_left(id) {
                        stop.cancel();
                    },
                }
            }
        };
        let ended = got.await.map_err(|error| Chain(&error).to_string());
        if let Err(error) = &ended {
            tracing::warn!(%error, "`owm-node models fetch` failed");
        }
        show.send_modify(|picture| picture.ended = Some(ended));
    }

    fn is_left(&self, id: u64) -> bool {
        let now = self.getter.clock.monotonic();
        let current = self.lock();
        current
            .as_ref()
            .is_none_or(|c| c.id != id || now > c.seen + ASKER_GONE)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Current>> {
        // Nothing under this lock can be left half done.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
